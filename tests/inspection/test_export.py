"""The export to ArviZ: named, complete, true to the model, and the same after a round trip."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch.distributions import Categorical, Normal

from pyro_vmtl.data import TaskSplits
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inspection import latent_draws
from pyro_vmtl.inspection.arviz_adapter import (
    attributes,
    group,
    group_names,
    read_netcdf,
    save_netcdf,
    to_arviz,
)
from pyro_vmtl.inspection.export import leave_one_out, to_inference_data
from pyro_vmtl.inspection.relatedness import relatedness, relatedness_matrix
from pyro_vmtl.model import GaussianLikelihood, PooledWeights

MakeFit = Callable[..., tuple[FittedVMTL, TaskSplits]]

GROUPS = [
    *("posterior", "posterior_predictive", "log_likelihood", "prior", "prior_predictive"),
    *("observed_data", "constant_data"),
]
CASES = [
    ("mixture", "multiclass"),
    ("paper", "binary"),
    ("power", "regression"),
    ("nested", "multiclass"),
    ("geometric", "regression"),
    ("layers", "regression"),
    ("standard", "binary"),
    ("mean_field", "regression"),
]


def values(data: Any, name: str, variable: str) -> xr.DataArray:
    array = group(data, name)[variable]
    return array.isel(chain=0) if "chain" in array.dims else array


@pytest.mark.parametrize(("settings", "kind"), CASES)
@pytest.mark.parametrize("num_tasks", [1, 4])
def test_every_group_is_there_after_a_round_trip(
    make_fit: MakeFit, tmp_path: Path, settings: str, kind: str, num_tasks: int
) -> None:
    fitted, splits = make_fit(settings, num_tasks, kind)
    data = to_inference_data(fitted, splits.train, num_samples=6, thin=2)
    assert sorted(group_names(data)) == sorted(GROUPS)
    path = save_netcdf(data, tmp_path / "data.nc")
    assert [file.name for file in tmp_path.iterdir()] == ["data.nc"]
    read = read_netcdf(path)
    assert attributes(read) == attributes(data)
    for name in GROUPS:
        before, after = group(data, name), group(read, name)
        assert before.attrs == after.attrs
        assert set(before.variables) == set(after.variables)
        for variable in before.variables:
            first, second = before[variable], after[variable]
            assert first.dims == second.dims
            assert first.astype(second.dtype).equals(second) or (first == second).all()


@pytest.mark.parametrize(("settings", "kind"), CASES)
def test_coordinates_carry_the_users_names(make_fit: MakeFit, settings: str, kind: str) -> None:
    fitted, splits = make_fit(settings, 4, kind)
    renamed = replace(fitted, names=("north", "east", "south", "west"))
    tasks = replace(splits.train, names=renamed.names)
    data = to_inference_data(renamed, tasks, num_samples=4)
    posterior = group(data, "posterior")
    assert posterior["task"].values.tolist() == list(renamed.names)
    others = [*renamed.names, "base"]
    assert posterior["other_task"].values.tolist() == others
    if fitted.outputs is not None:
        assert posterior["output"].values.tolist() == list(fitted.outputs)
    elif kind == "binary":  # the first class has the logit 0
        assert posterior["log_odds_of"].values.tolist() == ["1"]
    else:
        assert posterior["class"].values.tolist() == ["0", "1", "2"]
    assert posterior["latent"].values.tolist()[-1] == "bias"
    assert posterior.sizes["latent"] == fitted.vmtl.encoder.latent_dim + 1
    owners = group(data, "observed_data")["sample_task"].values
    assert owners.tolist() == [renamed.names[t] for t in tasks.task.tolist()]


@pytest.mark.parametrize(
    ("settings", "site"),
    [
        ("mixture", "weights"),
        ("power", "weights"),
        ("nested", "weights"),
        ("layers", "weights"),
        ("layers", "representations"),
    ],
)
def test_relatedness_is_that_of_the_table_and_nan_for_itself(
    make_fit: MakeFit, settings: str, site: str
) -> None:
    fitted, splits = make_fit(settings, 4)
    data = to_inference_data(fitted, splits.train, num_samples=20, seed=3)
    table = relatedness(fitted, num_samples=20, seed=3)
    exported = values(data, "posterior", f"relatedness_{site}")
    assert exported.dims == ("draw", "task", "other_task")
    mean = exported.mean("draw").to_pandas()
    assert np.isnan(np.diag(mean)).all()
    expected = relatedness_matrix(table, site, "mean")
    np.testing.assert_allclose(mean[expected.columns], expected)
    if "base" not in expected:
        assert mean["base"].isna().all()
    responsibilities = f"responsibilities_{site}"
    mixes = expected.columns[0] in table["other"].to_list() and (
        table.loc[table["site"] == site, "responsibility"].notna().all()
    )
    assert (responsibilities in group(data, "posterior")) == mixes
    if mixes:
        mean = values(data, "posterior", responsibilities).mean("draw").to_pandas()
        expected = relatedness_matrix(table, site, "responsibility")
        np.testing.assert_allclose(mean[expected.columns], expected)


@pytest.mark.parametrize("settings", ["mixture", "nested", "mean_field"])
def test_distances_are_those_of_the_weights(make_fit: MakeFit, settings: str) -> None:
    fitted, splits = make_fit(settings, 4)
    data = to_inference_data(fitted, splits.train, num_samples=5)
    weights = values(data, "posterior", "weights")
    distances = values(data, "posterior", "task_distances")
    for task in fitted.names:
        for other in fitted.names:
            difference = weights.sel(task=task) - weights.sel(task=other)
            expected = np.sqrt((difference**2).mean(["class", "latent"]))
            found = distances.sel(task=task, other_task=other)
            if task == other:
                assert found.isnull().all()
            else:
                np.testing.assert_allclose(found, expected, rtol=1e-5)
        size = np.sqrt((weights.sel(task=task) ** 2).mean(["class", "latent"]))
        base = distances.sel(task=task, other_task="base")
        np.testing.assert_allclose(base, size, rtol=1e-5)


def test_log_likelihoods_of_a_known_representation_are_those_of_the_weights(
    make_fit: MakeFit,
) -> None:
    fitted, splits = make_fit("mixture", 3)
    tasks = splits.test
    data = to_inference_data(fitted, tasks, num_samples=4)
    weights = torch.from_numpy(values(data, "posterior", "weights").values)
    density = values(data, "log_likelihood", "targets").values
    for row in range(len(tasks)):
        w = weights[:, tasks.task[row]]
        logits = w[..., :-1] @ tasks.x[row] + w[..., -1]
        expected = Categorical(logits=logits).log_prob(tasks.y[row])
        np.testing.assert_allclose(density[:, row], expected, atol=1e-5)


def test_log_likelihoods_average_over_representations(make_fit: MakeFit) -> None:
    fitted, splits = make_fit("geometric", 2, "regression")
    tasks = splits.test
    data = to_inference_data(fitted, tasks, num_samples=2, representation_samples=20_000)
    weights = torch.from_numpy(values(data, "posterior", "weights").values)[:, :, 0]
    density = values(data, "log_likelihood", "targets").values
    with torch.no_grad():
        law = fitted.vmtl.encoder(tasks.dense().x)
        noise = fitted.vmtl.likelihood.noise[:, 0, 0]  # type: ignore[index]
    loc, scale = law.base_dist.loc.flatten(0, 1), law.base_dist.scale.flatten(0, 1)
    w = weights[:, tasks.task]
    # A Gaussian z makes the target Gaussian: w m + b, with variance w^2 v + s^2.
    mean = (w[..., :-1] * loc).sum(-1) + w[..., -1]
    variance = (w[..., :-1] * scale).square().sum(-1) + noise[tasks.task].square()
    expected = Normal(mean, variance.sqrt()).log_prob(tasks.y)
    np.testing.assert_allclose(density, expected, atol=0.05, rtol=0.05)


def test_predictive_draws_agree_with_the_predictions(make_fit: MakeFit) -> None:
    fitted, splits = make_fit("mixture", 3)
    data = to_inference_data(fitted, splits.test, num_samples=2000, sites=())
    drawn = values(data, "posterior_predictive", "targets")
    predicted = fitted.predict(splits.test, num_samples=2000).mean
    for number, name in enumerate(fitted.classes or ()):
        share = (drawn == number).mean("draw").values
        np.testing.assert_allclose(share, predicted[:, number], atol=0.08, err_msg=name)


def test_the_size_of_blocks_changes_nothing_but_the_noise(
    make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, splits = make_fit("mixture", 3)
    arguments = {"num_samples": 7, "thin": 3, "sites": ["weights", "representations"]}
    whole = to_inference_data(fitted, splits.test, **arguments)  # type: ignore[arg-type]
    monkeypatch.setattr(latent_draws, "_BLOCK", 100)
    parts = to_inference_data(fitted, splits.test, **arguments)  # type: ignore[arg-type]
    for data in (whole, parts):
        posterior = group(data, "posterior")
        assert posterior["draw"].values.tolist() == [0, 3, 6]
        assert group(data, "log_likelihood")["draw"].values.tolist() == list(range(7))
        # The identity encoder's representations are the inputs, in every draw and row.
        representations = values(data, "posterior", "representations")
        np.testing.assert_array_equal(representations[1], splits.test.x)
        # Draws that are kept belong to the likelihoods of the same number.
        weights = torch.from_numpy(values(data, "posterior", "weights").values)
        for position, draw in enumerate([0, 3, 6]):
            w = weights[position, splits.test.task]
            logits = (w[..., :-1] * splits.test.x[:, None]).sum(-1) + w[..., -1]
            expected = Categorical(logits=logits).log_prob(splits.test.y)
            density = values(data, "log_likelihood", "targets").sel(draw=draw)
            np.testing.assert_allclose(density, expected, atol=1e-5)
        assert group(data, "prior")["weights"].notnull().all()
        assert set(np.unique(group(data, "prior_predictive")["targets"])) <= {0, 1, 2}


def test_representations_stay_out_unless_small_or_asked_for(
    make_fit: MakeFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, splits = make_fit("mixture", 3)
    small = to_inference_data(fitted, splits.test, num_samples=2)
    assert "representations" in group(small, "posterior")
    monkeypatch.setattr("pyro_vmtl.inspection.export._SMALL_REPRESENTATIONS", 10)
    large = to_inference_data(fitted, splits.test, num_samples=2)
    assert "representations" not in group(large, "posterior")
    assert "weights" in group(large, "posterior")
    asked = to_inference_data(fitted, splits.test, num_samples=2, sites=["representations"])
    assert set(group(asked, "posterior").data_vars) == {"representations"}


def test_samples_without_a_label_are_predicted_but_not_scored(make_fit: MakeFit) -> None:
    fitted, splits = make_fit("mixture", 3)
    y = splits.test.y.clone()
    y[[1, 7]] = -1
    tasks = replace(splits.test, y=y)
    data = to_inference_data(fitted, tasks, num_samples=3)
    kept = [row for row in range(len(y)) if row not in (1, 7)]
    for name in ("observed_data", "log_likelihood"):
        dataset = group(data, name)
        assert dataset["sample"].values.tolist() == kept
        assert np.isfinite(dataset["targets"]).all()
    assert group(data, "posterior_predictive").sizes["sample"] == len(y)
    assert group(data, "observed_data")["targets"].values.tolist() == y[kept].tolist()


def test_a_task_without_samples_is_no_obstacle(make_fit: MakeFit) -> None:
    fitted, splits = make_fit("mixture", 3)
    tasks = splits.test.subset(splits.test.task != 1)
    data = to_inference_data(fitted, tasks, num_samples=3)
    assert set(group(data, "observed_data")["sample_task"].values) == {"task 0", "task 2"}
    assert group(data, "posterior").sizes["task"] == 3


def test_several_outputs_have_names_and_one_joint_density() -> None:
    import pyro

    from pyro_vmtl.data import TaskSet
    from pyro_vmtl.inference.fit import fit
    from pyro_vmtl.inference.training import TrainingSettings
    from pyro_vmtl.model import Identity, Settings, Standard

    pyro.set_rng_seed(0)
    tasks = TaskSet(
        ("a", "b"),
        torch.randn(8, 2),
        torch.randn(8, 2),
        torch.arange(8) % 2,
        None,
        ("width", "height"),
    )
    settings = Settings(encoder=Identity(), pool=Standard())
    fitted = fit(tasks, None, settings, TrainingSettings(epochs=1, steps_per_epoch=1))
    data = to_inference_data(fitted, tasks, num_samples=3)
    drawn = group(data, "posterior_predictive")["targets"]
    assert drawn.dims == ("chain", "draw", "sample", "output")
    assert drawn["output"].values.tolist() == ["width", "height"]
    assert group(data, "log_likelihood")["targets"].dims == ("chain", "draw", "sample")
    np.testing.assert_array_equal(group(data, "observed_data")["targets"], tasks.y)


def test_the_prior_says_where_it_comes_from(make_fit: MakeFit) -> None:
    expected = {
        "standard": ("N(0, s^2 I), its scale s inferred", "encoder's output"),
        "mean_field": ("N(0, I)", "encoder's output"),
        "mixture": ("what the data of the other tasks say", "encoder's output"),
        "nested": ("what the data of the other tasks say", "encoder's output"),
        "paper": ("the other tasks' posteriors", "N(0, I)"),
        "geometric": ("Geometric", "p(Phi)"),
    }
    for settings, (weights, representations) in expected.items():
        fitted, splits = make_fit(settings, 2)
        data = to_inference_data(fitted, splits.test, num_samples=2)
        for name in ("prior", "prior_predictive"):
            attrs = group(data, name).attrs
            assert weights in attrs["prior_of_weights"]
            assert representations in attrs["prior_of_representations"]


@pytest.mark.parametrize(
    # In closed form it is the prior of two contrasts of the three classes, of an inferred scale.
    ("settings", "scale"),
    [("mean_field", 1), ("standard", np.sqrt(2 / 3))],
)
def test_prior_weights_under_no_borrowing_are_standard_normal(
    make_fit: MakeFit, settings: str, scale: float
) -> None:
    fitted, splits = make_fit(settings, 3)
    data = to_inference_data(fitted, splits.test, num_samples=2, prior_samples=2000)
    drawn = values(data, "prior", "weights")
    assert abs(drawn.mean().item()) < 0.03
    unit = getattr(fitted.vmtl.classifier, "unit", torch.ones(drawn.sizes["latent"]))
    found = drawn.std([name for name in drawn.dims if name != "latent"])
    np.testing.assert_allclose(found / unit, scale, atol=0.02)
    none = to_inference_data(fitted, splits.test, num_samples=2, prior_samples=0)
    assert "prior" not in group_names(none)
    assert "prior_predictive" not in group_names(none)


def test_prior_targets_of_a_bayesian_layer_use_its_prior(make_fit: MakeFit) -> None:
    fitted, splits = make_fit("layers", 1, "regression")
    data = to_inference_data(fitted, splits.test, num_samples=2, prior_samples=4000)
    drawn = values(data, "prior_predictive", "targets")
    # y = w z + b + noise, z = Phi x + c, all of N(0, 1): variance d_z (|x|^2 + 1) + 1 + s^2, but
    # that weights in closed form are of standardised targets and have a scale that is inferred.
    likelihood = fitted.vmtl.likelihood
    assert isinstance(likelihood, GaussianLikelihood)
    noise, unit = likelihood.noise.item(), likelihood.target_scale.item()
    weights = fitted.vmtl.classifier
    assert isinstance(weights, PooledWeights)
    of_slopes = float(weights.unit[0]) ** 2
    expected = unit**2 * (3 * of_slopes * (splits.test.x.square().sum(-1) + 1) + 1) + noise**2
    np.testing.assert_allclose(drawn.var("draw"), expected, rtol=0.25)


def test_attributes_tell_how_the_fit_was_made(make_fit: MakeFit) -> None:
    fitted, splits = make_fit("mixture", 3)
    data = to_inference_data(fitted, splits.test, num_samples=2, seed=5, config={"a": [1]})
    attrs = attributes(data)
    assert attrs["seed"] == 5
    assert json.loads(attrs["config"]) == {"a": [1]}
    best = fitted.history["validation_nll"].argmin()
    assert attrs["elbo"] == fitted.history["elbo"].iloc[best]
    assert attrs["torch_version"] == torch.__version__.split("+")[0]
    assert json.loads(attrs["kl_weights"]) == fitted.vmtl.tempering
    plain = attributes(to_inference_data(fitted, splits.test, num_samples=2))
    assert "Mixture" in json.loads(plain["config"])["pool"]


@pytest.mark.parametrize("settings", ["mixture", "power", "standard", "mean_field"])
def test_leave_one_out_is_valid_where_a_sample_speaks_in_its_own_likelihood_alone(
    make_fit: MakeFit, settings: str
) -> None:
    fitted = make_fit(settings, 2)[0]
    vmtl, before = fitted.vmtl, dict(fitted.vmtl.tempering)
    try:
        vmtl.tempering.update(weights=1.0, representations=0.01)
        # Inputs that are their own representations have no KL to temper.
        assert leave_one_out(fitted)["loo_valid"] == 1
        vmtl.tempering.update(weights=0.1)
        note = leave_one_out(fitted)
        # Weights in closed form know Bayes' rule alone.
        assert note["loo_valid"] == vmtl.classifier.is_conjugate
        assert ("weights at 0.1" in note["loo_note"]) != vmtl.classifier.is_conjugate
    finally:
        vmtl.tempering.update(before)


def test_leave_one_out_is_said_to_be_invalid_where_it_is(make_fit: MakeFit) -> None:
    paper = leave_one_out(make_fit("paper", 2)[0])
    for reason in ("tasks lend their posteriors", "encoder", "relatedness"):
        assert reason in paper["loo_note"]
    nested = leave_one_out(make_fit("nested", 2)[0])
    assert nested["loo_valid"] == 0
    assert "scales have seen every sample" in nested["loo_note"]
    assert "encoder layer" in leave_one_out(make_fit("geometric", 2)[0])["loo_note"]
    layers = leave_one_out(make_fit("layers", 2)[0])
    for reason in ("tasks lend their posteriors", "encoder layer"):  # of their layers
        assert reason in layers["loo_note"]
    data = to_inference_data(make_fit("paper", 2)[0], make_fit("paper", 2)[1].test, 2)
    assert group(data, "log_likelihood").attrs["loo_valid"] == 0
    assert attributes(data)["loo_valid"] == 0


def test_the_same_seed_gives_the_same_export(make_fit: MakeFit) -> None:
    fitted, splits = make_fit("layers", 3)
    first, second, other = (
        to_inference_data(fitted, splits.test, num_samples=3, seed=seed) for seed in (1, 1, 2)
    )
    for name in GROUPS:
        assert group(first, name).equals(group(second, name))
    assert not group(first, "posterior").equals(group(other, "posterior"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples is 0"),
        ({"thin": 0}, "thin is 0"),
        ({"prior_samples": -1}, "prior_samples is -1"),
        ({"representation_samples": 0}, "representation_samples is 0"),
        ({"sites": ["w"]}, "no site 'w'"),
    ],
)
def test_wrong_arguments_are_named(
    make_fit: MakeFit, arguments: dict[str, Any], message: str
) -> None:
    fitted, splits = make_fit("mixture", 2)
    with pytest.raises(InputError, match=message):
        to_inference_data(fitted, splits.test, **arguments)


def test_other_tasks_than_the_models_are_refused(make_fit: MakeFit) -> None:
    fitted, splits = make_fit("mixture", 3)
    with pytest.raises(InputError, match="the tasks"):
        to_inference_data(fitted, splits.test.select(["task 0"]), 2)
    with pytest.raises(InputError, match="no samples"):
        to_inference_data(fitted, splits.test.subset(torch.tensor([], dtype=torch.int64)), 2)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")  # of LOO, after no training
def test_arviz_itself_reads_the_export(make_fit: MakeFit) -> None:
    az = pytest.importorskip("arviz")
    fitted, splits = make_fit("mixture", 3)
    data = to_inference_data(fitted, splits.train, num_samples=50)
    summary = az.summary(data, var_names=["relatedness_weights"])
    assert len(summary) == 3 * 4
    assert np.isfinite(
        az.loo(data).elpd if hasattr(az.loo(data), "elpd") else az.loo(data).elpd_loo
    )


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "data.nc"
    path.write_text("precious")
    # An object is nothing that netCDF can hold.
    broken = xr.Dataset({"x": ("y", np.array([object()], dtype=object))})
    with pytest.raises((TypeError, ValueError)):
        save_netcdf(to_arviz({"posterior": broken}, {}), path)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_export_is_named(make_fit: MakeFit, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a file"):
        read_netcdf(tmp_path / "nothing.nc")
    (tmp_path / "text.nc").write_text("no netCDF")
    with pytest.raises(InputError, match=r"text\.nc cannot be read"):
        read_netcdf(tmp_path / "text.nc")
    fitted, splits = make_fit("mixture", 2)
    data = to_inference_data(fitted, splits.test, num_samples=2)
    with pytest.raises(InputError, match="no group 'sample_stats'"):
        group(data, "sample_stats")
