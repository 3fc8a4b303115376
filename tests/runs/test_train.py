import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.inspection import attributes, group_names, read_netcdf
from pyro_vmtl.model import MeanFieldWeights, Pool
from pyro_vmtl.runs import config_folder, write_report

Train = Callable[..., Path]
POOLS = sorted(path.stem for path in (config_folder() / "pool").glob("*.yaml"))


@pytest.mark.parametrize("data", ["digit_domains", "rotated_digits"])
def test_a_run_fills_its_folder(train: Train, data: str) -> None:
    run = train(f"data={data}", report=True)
    metrics = json.loads((run / "metrics.json").read_text())
    splits = getattr(pv, data)()
    assert set(metrics["test"]) == {*splits.test.names, "mean"}
    assert "harmonic_mean" not in metrics["test"]["mean"]  # no class is missing
    key = "accuracy" if data == "digit_domains" else "nmse"
    values = [metrics["test"][name][key] for name in splits.test.names]
    assert metrics["test"]["mean"][key] == pytest.approx(sum(values) / len(values))
    assert metrics["validation"]["mean"]["nll"] is not None
    assert metrics["versions"]["torch"]
    assert metrics["calibrated"] is None
    assert not (run / "predictions_scaled.parquet").exists()

    history = pd.read_csv(run / "metrics.csv")
    assert list(history["epoch"]) == [0, 1]
    kls = history[["kl_weights", "kl_representations", "kl_relatedness"]].sum(axis=1)
    difference = history["elbo"] - (history["expected_log_likelihood"] - kls)
    assert difference.abs().max() == pytest.approx(0, abs=1e-6 * history["elbo"].abs().max())
    assert {"temperature", "validation_nll", "seconds"} <= set(history)

    relatedness = pd.read_csv(run / "relatedness.csv")
    assert relatedness["probability"].between(0, 1).all()
    assert set(relatedness["task"]) == set(relatedness["other"]) == set(splits.train.names)

    predictions = pd.read_parquet(run / "predictions.parquet")
    assert len(predictions) == len(splits.test)
    parts = predictions["aleatoric"] + predictions["epistemic"]
    assert (predictions["total"] - parts).abs().max() < 1e-4
    assert {"posterior", "observed_data"} <= set(
        group_names(read_netcdf(run / "inference_data.nc"))
    )
    for name in ("training", "relatedness_weights"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 1000
    assert not list(run.rglob(".*")), "drafts were left behind"

    loaded = pv.load(run)
    again = loaded.predict(splits.test, num_samples=20, seed=0).metrics()
    assert again["mean"] == pytest.approx(metrics["test"]["mean"], rel=1e-4)


def test_a_run_says_how_relatedness_formed_and_how_it_was_configured(
    train: Train, clusters: tuple[str, ...]
) -> None:
    choices = (*clusters, "pool=power", "trainer.epochs=3", "trainer.patience=null", "seed=3")
    run = train(*choices, report=True)
    over_time = pd.read_csv(run / "relatedness_over_time.csv")
    assert list(over_time) == ["epoch", "site", "task", "other", "probability"]
    assert over_time["epoch"].unique().tolist() == [0, 1, 2]
    kept = pd.read_csv(run / "metrics.csv")["validation_nll"].idxmin()
    at_kept = over_time[over_time["epoch"] == kept].set_index(["task", "other"])["probability"]
    table = pd.read_csv(run / "relatedness.csv").set_index(["task", "other"])["probability"]
    pd.testing.assert_series_equal(at_kept, table, rtol=1e-5)
    assert (run / "figures" / "relatedness_over_time_weights.png").stat().st_size > 1000
    config = json.loads(attributes(read_netcdf(run / "inference_data.nc"))["config"])
    assert config["seed"] == 3
    assert config["data"]["dimensions"] == 3
    assert config["pool"]["_target_"] == "pyro_vmtl.Power"


def test_a_long_run_is_watched_about_twenty_times(train: Train, clusters: tuple[str, ...]) -> None:
    few = ("trainer.steps_per_epoch=1", "trainer.validation_samples=1", "trainer.patience=null")
    run = train(*clusters, "trainer.epochs=21", *few, "pool=mixture")
    epochs = pd.read_csv(run / "relatedness_over_time.csv")["epoch"].unique()
    assert epochs.tolist() == list(range(0, 21, 2))


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_scaling_reports_both_scores(
    train: Train, clusters: tuple[str, ...], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (*clusters, f"data.kind={kind}", "data.samples=40", "pool=standard")
    budget = ("trainer.steps_per_epoch=30", "trainer.learning_rate.value=0.1")
    run = train(*data, *budget, "temperature_scaling=true")
    metrics = json.loads((run / "metrics.json").read_text())
    entry = metrics["calibrated"]
    assert entry["before"] == {"test": metrics["test"], "validation": metrics["validation"]}
    (temperature,) = {row["temperature"] for row in entry["temperatures"].values()}
    assert temperature > 0
    assert temperature != 1
    # Weighted by samples, of which each task has as many, validation is better for it.
    before, after = (entry[when]["validation"]["mean"]["nll"] for when in ("before", "after"))
    assert after < before
    frames = [pd.read_parquet(run / f"predictions{end}.parquet") for end in ("", "_scaled")]
    assert frames[0]["prediction"].equals(frames[1]["prediction"])
    scored = -frames[1].groupby("task")["log_density"].mean().mean()
    assert scored == pytest.approx(entry["after"]["test"]["mean"]["nll"], rel=1e-5)
    if kind == "regression":
        ratio = frames[1]["total"] / frames[0]["total"]
        assert ratio.to_numpy() == pytest.approx(temperature, rel=1e-4)
    assert "VMTL, scaled" in capsys.readouterr().out


def test_a_warning_is_shown_once(
    train: Train, clusters: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    # Weights that hardly moved, under a pool of weights: relatedness stands where it started.
    run = train(*clusters, "pool=mixture", "baselines=true")
    warnings = json.loads((run / "metrics.json").read_text())["warnings"]
    assert warnings
    shown = capfd.readouterr()
    words = " ".join((shown.out + shown.err).split())
    for sentence in warnings:
        assert words.count(sentence[:40]) == 1
    assert words.count("Warning:") == len(warnings)
    assert shown.err == ""


def test_weights_over_lenders_sum_to_one(train: Train, clusters: tuple[str, ...]) -> None:
    run = train(*clusters, "recipe=recursive", "pool.base=true")
    relatedness = pd.read_csv(run / "relatedness.csv")
    sums = relatedness.groupby(["site", "task"])[["mean", "probability", "responsibility"]].sum()
    assert len(sums) == 4
    assert sums.to_numpy() == pytest.approx(1, abs=1e-4)
    assert "base" in set(relatedness["other"])


def test_the_written_config_repeats_the_run(train: Train, clusters: tuple[str, ...]) -> None:
    first = train(*clusters, "seed=3")
    arguments = (f"--config-dir={first}", "--config-name=config")
    second = train(*arguments, name="again", small=False)
    assert (first / "predictions.parquet").read_bytes() == (
        second / "predictions.parquet"
    ).read_bytes()
    configs = [OmegaConf.load(run / "config.yaml") for run in (first, second)]
    assert configs[0] == configs[1]


def test_a_resumed_run_ends_where_the_whole_run_ends(
    train: Train, clusters: tuple[str, ...]
) -> None:
    # A schedule that ends with the run would make the two runs differ by right.
    fixed = ("trainer.temperature.end=1.0", *clusters)
    whole = train(*fixed, "trainer.epochs=4", name="whole")
    half = train(*fixed, "trainer.epochs=2", name="half")
    checkpoint = f"ckpt_path={half / 'checkpoints' / 'last.ckpt'}"
    rest = train(*fixed, "trainer.epochs=4", checkpoint, name="rest")
    histories = [pd.read_csv(run / "metrics.csv").drop(columns="seconds") for run in (whole, rest)]
    pd.testing.assert_frame_equal(*histories)
    looks = [pd.read_csv(run / "relatedness_over_time.csv") for run in (whole, rest)]
    pd.testing.assert_frame_equal(*looks)
    # Where no epoch is left to train, the history is that of the checkpoint.
    done = train(*fixed, "trainer.epochs=2", checkpoint, name="done")
    histories = [pd.read_csv(run / "metrics.csv") for run in (half, done)]
    pd.testing.assert_frame_equal(*histories)
    # The epoch kept is the best of all, also where it came before the checkpoint.
    models = [(run / "model" / "model.safetensors").read_bytes() for run in (whole, rest)]
    assert models[0] == models[1]


def test_baselines_stand_beside_the_result(
    train: Train, clusters: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(*clusters, "baselines=true")
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["baselines"]) == ["single-task"]  # without an encoder they are one
    assert "single-task" in capsys.readouterr().out


def test_a_sweep_makes_a_folder_a_job(
    monkeypatch: pytest.MonkeyPatch, train: Train, clusters: tuple[str, ...], tmp_path: Path
) -> None:
    train("--multirun", "seed=0,1", *clusters)
    runs = sorted((tmp_path / "runs" / "sweeps").glob("*/*/metrics.json"))
    assert [run.parent.name for run in runs] == ["0", "1"]


def test_the_recipe_is_named_and_so_it_is_by_the_repetition(
    train: Train, clusters: tuple[str, ...]
) -> None:
    first = train(*clusters, "recipe=stl")
    arguments = (f"--config-dir={first}", "--config-name=config")
    second = train(*arguments, name="again", small=False)
    for run in (first, second):
        assert "recipe: stl\n" in (run / "config.yaml").read_text()
        assert "<li>recipe stl</li>" in write_report(run).read_text()


def test_help_explains(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        train("--help", small=False)
    assert not exit_.value.code
    text = capsys.readouterr().out
    for word in ("digit_domains", "recipe=", "--multirun", "run folder", "num_samples"):
        assert word in text


@pytest.mark.parametrize(
    "overrides",
    [
        ("pool=power", "pool.spread=scalar"),
        ("pool=geometric", "pool.base=true"),
        ("pool=linear",),
        ("pool=standard",),
        *(("model.classifier=conjugate", f"pool={pool}") for pool in POOLS),
        ("model.classifier=conjugate", "model=mlp", "model.encoder.latent_dim=3", "pool=mixture"),
        ("trainer.estimator=sampled",),
        (
            "model=bayesian_linear",
            "model.encoder.per_task=true",
            "pool@representation_pool=mixture",
        ),
        ("data.kind=regression", "model=mlp"),
        ("data.kind=multiclass", "model=deterministic", "trainer.per_class=2"),
        ("data.num_tasks=1", "data.num_clusters=1", "data.samples=40"),
        ("data.num_tasks=2", "data.num_clusters=1"),
    ],
)
def test_every_choice_trains(
    train: Train, clusters: tuple[str, ...], overrides: tuple[str, ...]
) -> None:
    run = train(*clusters, *overrides)
    nll = json.loads((run / "metrics.json").read_text())["test"]["mean"]["nll"]
    assert 0 < nll < 10


class StudentT(Pool):
    """A pool of a user's own, to which no Gaussian has a KL in closed form."""

    def prior(
        self, weights: Tensor, lenders: Gaussians, spread: Tensor | None, event_dim: int
    ) -> dist.TorchDistribution:
        loc = torch.einsum("...c,cki->...ki", weights.to(lenders.loc.dtype), lenders.loc)
        return dist.StudentT(4.0, loc, 1.0).to_event(event_dim)


def _import_as(monkeypatch: pytest.MonkeyPatch, name: str, part: type) -> None:
    """Make a class look as if it had been imported from a module of the user's."""
    module = ModuleType(name)
    monkeypatch.setattr(part, "__module__", name)
    monkeypatch.setattr(module, part.__name__, part, raising=False)
    monkeypatch.setitem(sys.modules, name, module)


def test_a_pool_of_ones_own_trains_by_command_and_loads(
    train: Train, clusters: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    _import_as(monkeypatch, "pools_of_a_user", StudentT)
    run = train(*clusters, "+pool={_target_: pools_of_a_user.StudentT}", report=True)
    assert (run / "report.html").is_file()
    table = pd.read_csv(run / "relatedness.csv")
    assert (table["kind"] == "weights").all()
    assert (table["before_data"] == 1 / 3).all()
    assert isinstance(pv.load(run / "model").settings.pool, StudentT)
    monkeypatch.setattr(StudentT, "__module__", "elsewhere")  # as if it had not been imported
    with pytest.raises(pv.InputError, match="its module is imported first, or load"):
        pv.load(run / "model")
    assert isinstance(pv.load(run / "model", pool=StudentT()).settings.pool, StudentT)


class Wide(pv.Posterior):
    """Mean-field weights that start wide."""

    def __call__(
        self, num_tasks: int, num_outputs: int, latent_dim: int, bias: bool
    ) -> pv.WeightsPosterior:
        return MeanFieldWeights(num_tasks, num_outputs, latent_dim, bias, initial_scale=0.5)


def test_a_posterior_of_ones_own_trains_by_command_and_loads(
    train: Train, clusters: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    _import_as(monkeypatch, "posteriors_of_a_user", Wide)
    run = train(*clusters, "model.classifier={_target_: posteriors_of_a_user.Wide}", report=True)
    assert "classifier posteriors_of_a_user.Wide" in (run / "report.html").read_text()
    assert isinstance(pv.load(run / "model").settings.classifier, Wide)


def test_a_folder_of_images_is_a_data_set(train: Train, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for task, light in (("day", 150), ("night", 20)):
        for name, channel in (("blue", 2), ("red", 0)):
            folder = tmp_path / "images" / task / name
            folder.mkdir(parents=True)
            for number in range(8):
                pixels = generator.integers(0, 20, (6, 6, 3))
                pixels[..., channel] += light
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    choices = ("data.root=images", "data.features=null", "data.image_size=6")
    run = train("data=folder", *choices, "trainer.epochs=6", "trainer.steps_per_epoch=20")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["samples"] == {"train": 16, "validation": 8, "test": 8}
    assert set(metrics["test"]) == {"day", "night", "mean"}
    assert metrics["test"]["mean"]["accuracy"] > 0.7
    assert (run / "splits" / "day").is_dir()
