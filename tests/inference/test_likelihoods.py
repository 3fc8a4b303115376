"""Every likelihood in worlds that it describes: beats the default, saves, loads, is extended."""

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import pyro_vmtl as pv
from pyro_vmtl.inspection.leave_one_out import leave_one_out
from pyro_vmtl.model import NestedWeights, from_plain, to_plain
from pyro_vmtl.model.likelihoods import Family

TASKS, FEATURES = 8, 3
SEEDS = (0, 1, 2)


class Gamma(pv.Likelihood):
    """A likelihood of a user's own: positive numbers, log link, the shape learned."""

    support = constraints.positive
    expects = "numbers above 0"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("theta", torch.zeros(1, dtype=torch.float64))

    def given(self, predictor: Tensor, variance: Tensor | None = None) -> dist.TorchDistribution:
        shape = self.get_buffer("theta").exp()
        return dist.Gamma(shape, shape * (-predictor.squeeze(-1)).exp())


def drawn(kind: str, eta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    if kind == "poisson":
        return generator.poisson(np.exp(2.5 + eta)).astype(float)
    if kind == "large counts":
        return generator.poisson(np.exp(9 + eta)).astype(float)
    if kind == "negative binomial":
        return generator.poisson(np.exp(2.5 + eta) * generator.gamma(2, 0.5, len(eta))) * 1.0
    if kind == "ordinal":
        return np.digitize(eta + 0.6 * generator.logistic(size=len(eta)), [-1.2, -0.4, 0.4, 1.2])
    if kind == "gamma":
        return generator.gamma(3, np.exp(eta) / 3)
    y = eta + 0.5 * generator.normal(size=len(eta))
    gross = generator.random(len(eta)) < (0.05 if kind == "outliers" else 0)
    return np.where(gross, y + generator.normal(0, 15, len(eta)), y)


def world(
    kind: str, seed: int, samples: int = 15, tested: str | None = None
) -> tuple[pv.TaskSet, pv.TaskSet]:
    """Training and test samples of tasks that are alike; one task has a sample less.

    :param tested: the kind of the test samples, where it is another.
    """
    generator = np.random.default_rng(seed)
    common = generator.normal(0, 0.5, FEATURES)
    parts: tuple[dict[str, tuple[np.ndarray, np.ndarray]], ...] = ({}, {})
    for t in range(TASKS):
        w = common + generator.normal(0, 0.3, FEATURES)
        bias = generator.normal(0, 0.5)
        for part, law, count in zip(
            parts, (kind, tested or kind), (samples - (t == 0), 100), strict=True
        ):
            x = generator.normal(size=(count, FEATURES))
            part[f"task {t}"] = (x, drawn(law, x @ w + bias, generator))
    classes = range(5) if kind == "ordinal" else None
    train, test = (
        pv.TaskSet.from_arrays(part, classes=classes, regression=None if classes else True)
        for part in parts
    )
    return train, test


def settings(likelihood: Family | pv.Likelihood | None) -> pv.Settings:
    pool = pv.Nested(clusters=False, deviation="shared")
    return pv.Settings(likelihood=likelihood, pool=pool)


@cache
def fitted(kind: str, likelihood: Family | None, seed: int) -> pv.FittedVMTL:
    train, _ = world(kind, seed)
    return pv.fit(train, settings=settings(likelihood), seed=seed, log_warnings=False)


def scores(kind: str, likelihood: Family | None, tested: str | None = None) -> dict[str, float]:
    """Averages over seeds."""
    found = [
        fitted(kind, likelihood, seed)
        .predict(world(kind, seed, tested=tested)[1])
        .metrics()["mean"]
        for seed in SEEDS
    ]
    return pd.DataFrame(found).astype(float).mean().to_dict()


@pytest.mark.parametrize(
    ("kind", "right", "wrong", "gain"),
    [
        ("poisson", pv.Poisson(), pv.Gaussian(), 0.3),
        ("negative binomial", pv.NegativeBinomial(), pv.Poisson(), 1.0),
        ("outliers", pv.StudentT(), pv.Gaussian(), 0.5),
        ("ordinal", pv.Ordinal(), pv.Categorical(), 0.03),
    ],
)
def test_the_right_likelihood_has_the_better_density(
    kind: str, right: Family, wrong: Family, gain: float
) -> None:
    ours, other = scores(kind, right), scores(kind, wrong)
    assert ours["nll"] < other["nll"] - gain
    if kind != "ordinal":
        assert 0.86 <= ours["coverage_90"] <= 0.94


def test_outliers_among_training_targets_do_not_move_predictions() -> None:
    ours = scores("outliers", pv.StudentT(), tested="gaussian")
    other = scores("outliers", pv.Gaussian(), tested="gaussian")
    assert ours["rmse"] ** 2 - 0.25 < 0.5 * (other["rmse"] ** 2 - 0.25)  # beyond the noise
    assert ours["nll"] < other["nll"] - 0.3


def test_without_outliers_students_t_is_as_good_as_a_gaussian() -> None:
    train, test = world("gaussian", 0)
    ours, other = (
        pv.fit(train, settings=settings(chosen)).predict(test).log_density.mean()
        for chosen in (pv.StudentT(), pv.Gaussian())
    )
    assert abs(float(ours - other)) < 0.02


@pytest.mark.parametrize(
    ("kind", "likelihood"),
    [
        ("poisson", pv.Poisson()),
        ("negative binomial", pv.NegativeBinomial()),
        ("outliers", pv.StudentT()),
        ("ordinal", pv.Ordinal()),
    ],
)
def test_a_model_opens_as_it_was_saved(tmp_path: Path, kind: str, likelihood: Family) -> None:
    model, (_, test) = fitted(kind, likelihood, 0), world(kind, 0)
    loaded = pv.load(pv.save(model, tmp_path / "model"))
    assert loaded.settings.likelihood == likelihood
    one, other = model.predict(test), loaded.predict(test)
    assert one.log_density.equal(other.log_density)
    assert one.mean.equal(other.mean)


@pytest.mark.parametrize(
    ("kind", "likelihood"), [("poisson", pv.Poisson()), ("ordinal", pv.Ordinal())]
)
def test_what_is_said_of_a_sample_left_out_is_what_is_said_of_new_ones(
    kind: str, likelihood: Family
) -> None:
    train, test = world(kind, 0)
    model = fitted(kind, likelihood, 0)
    left_out = leave_one_out(model.vmtl, train).log_density
    assert np.isfinite(left_out).all()
    assert left_out.mean() == pytest.approx(float(model.predict(test).log_density.mean()), abs=0.3)
    assert left_out.mean() < float(model.predict(train).log_density.mean())


def test_a_task_of_counts_can_join_and_leave() -> None:
    train, test = world("poisson", 0)
    model = fitted("poisson", pv.Poisson(), 0)
    left = model.forget("task 3")
    assert left.names == tuple(name for name in train.names if name != "task 3")
    # As good as before, and about as good as where all were fitted together.
    joined = left.add_task(train.select(["task 3"]))
    there = test.select(list(joined.names))
    nll = joined.predict(there).metrics()["task 3"]["nll"]
    before = model.predict(test).metrics()["task 3"]["nll"]
    assert nll is not None
    assert nll == pytest.approx(before, abs=0.1)


ALONE = pv.Nested(mean=False, clusters=False, deviation="fixed")  # N(0, I): nothing is drawn


@pytest.mark.parametrize(
    ("kind", "likelihood"),
    [
        *(("outliers", pv.StudentT()), ("poisson", pv.Poisson()), ("gamma", Gamma())),
        *(("large counts", pv.Poisson()), ("negative binomial", pv.NegativeBinomial())),
        ("ordinal", pv.Ordinal()),
    ],
)
def test_sites_settle_within_the_steps_of_a_fit(
    kind: str, likelihood: Family | pv.Likelihood
) -> None:
    """In standard deviations of the posterior, with what a likelihood learns by itself."""
    train, _ = world(kind, 0)
    vmtl, batch = pv.build(train, likelihood=likelihood, pool=ALONE), train.dense()
    weights = vmtl.classifier
    assert isinstance(weights, NestedWeights)
    places = []
    for _ in range(2):
        for _ in range(18):
            vmtl.update(batch)
        places.append((weights.loc, weights.covariance.diagonal(dim1=-2, dim2=-1).sqrt()))
    (loc, sd), (settled, settled_sd) = places
    torch.testing.assert_close(loc / settled_sd, settled / settled_sd, atol=0.05, rtol=0)
    torch.testing.assert_close(sd / settled_sd, torch.ones_like(sd), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("kind", "likelihood", "bound"),
    [
        ("poisson", pv.Poisson(), 0.02),
        ("negative binomial", pv.NegativeBinomial(), 0.02),
        ("ordinal", pv.Ordinal(), 0.02),
        ("outliers", pv.StudentT(degrees=3.0), 0.1),
    ],
)
def test_of_a_single_weight_they_give_the_posterior(
    kind: str, likelihood: Family, bound: float
) -> None:
    """Its mean and standard deviation against a sum over a grid."""
    train, _ = world(kind, 1)
    one = dataclasses.replace(train, x=train.x[:, :1])
    chosen = pv.Settings(likelihood=likelihood, pool=ALONE, bias=False, encoder=pv.Identity())
    vmtl, batch = pv.build(one, chosen), one.dense()
    for _ in range(18):
        vmtl.update(batch)
    weights = vmtl.classifier
    assert isinstance(weights, NestedWeights)
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    eta = grid[:, None, None, None] * batch.x.double()
    log_p = (vmtl.likelihood.given(eta).log_prob(batch.y) * batch.mask).sum(-1)
    share = (log_p - 0.5 * grid.square()[:, None]).softmax(0)  # [G, T]
    mean = (share * grid[:, None]).sum(0)
    sd = (share * (grid[:, None] - mean).square()).sum(0).sqrt()
    found = weights.covariance.flatten().sqrt()
    assert float(((weights.loc.flatten() - mean) / sd).abs().max()) < bound
    torch.testing.assert_close(found / sd, torch.ones_like(sd), atol=bound, rtol=0)


class TestOnesOwn:
    def test_trains_saves_and_loads(self, tmp_path: Path) -> None:
        train, test = world("gamma", 0)
        model = pv.fit(train, settings=settings(Gamma()), log_warnings=False)
        plain = pv.fit(train, settings=settings(None), log_warnings=False)
        ours, other = model.predict(test), plain.predict(test)
        assert ours.log_density.mean() > other.log_density.mean() + 0.3
        path = pv.save(model, tmp_path / "model")
        with pytest.raises(
            pv.InputError, match=r"author's own; pass it as load\(path, likelihood="
        ):
            pv.load(path)
        loaded = pv.load(path, likelihood=Gamma())
        assert loaded.predict(test).log_density.equal(ours.log_density)
        left_out = leave_one_out(model.vmtl, train).log_density
        assert left_out.mean() == pytest.approx(float(ours.log_density.mean()), abs=0.3)

    def test_starts_anew_in_every_fit(self) -> None:
        train, _ = world("gamma", 0)
        mine = Gamma()
        pv.fit(train, settings=settings(mine), log_warnings=False)
        assert float(mine.theta) == 0


@pytest.mark.parametrize(
    "pool",
    [
        pv.Standard(),
        pv.Mixture(base=True, spread="scalar"),
        pv.Geometric(base=True, spread="feature"),
        pv.Power(spread="scalar"),
    ],
    ids=lambda pool: type(pool).__name__,
)
@pytest.mark.parametrize(
    ("kind", "likelihood"),
    [
        ("poisson", pv.Poisson()),
        ("negative binomial", pv.NegativeBinomial()),
        ("outliers", pv.StudentT()),
        ("ordinal", pv.Ordinal()),
        ("gaussian", pv.Gaussian()),
    ],
)
def test_every_pool_goes_with_weights_in_closed_form(
    pool: pv.Pool, kind: str, likelihood: Family
) -> None:
    train, test = world(kind, 0)
    chosen = pv.Settings(likelihood=likelihood, pool=pool)
    # Gates that are half open let in too much: they need some time to close.
    budget = pv.TrainingSettings(epochs=1, steps_per_epoch=200 if pool.kind == "gates" else 50)
    found = pv.fit(train, None, chosen, budget, log_warnings=False)
    ours, nested = (
        one.predict(test).metrics()["mean"]["nll"] for one in (found, fitted(kind, likelihood, 0))
    )
    assert ours == pytest.approx(nested, abs=0.1)


class TestRefusals:
    def test_targets_that_are_no_counts(self) -> None:
        x = torch.zeros(3, 1)
        for value in (-1.0, 0.5):
            tasks = pv.TaskSet.from_arrays({"a": (x, [0.0, 2.0, value])}, regression=True)
            with pytest.raises(pv.InputError, match=f"'a' has the target {value:g}, and the likel"):
                pv.fit(tasks, settings=pv.Settings(likelihood=pv.Poisson()))

    def test_test_samples_too(self) -> None:
        _, test = world("poisson", 0)
        wrong = dataclasses.replace(test, y=test.y - 0.5)
        with pytest.raises(pv.InputError, match="expected counts: 0, 1, 2"):
            fitted("poisson", pv.Poisson(), 0).predict(wrong)

    @pytest.mark.parametrize("likelihood", [pv.Poisson(), pv.StudentT(), pv.Gaussian(), Gamma()])
    def test_classes_for_numbers(self, likelihood: Family | pv.Likelihood) -> None:
        train, _ = world("ordinal", 0)
        with pytest.raises(pv.InputError, match=r"and the targets are classes; .* regression="):
            pv.fit(train, settings=pv.Settings(likelihood=likelihood))

    @pytest.mark.parametrize("likelihood", [pv.Ordinal(), pv.Categorical()])
    def test_numbers_for_classes(self, likelihood: Family) -> None:
        train, _ = world("poisson", 0)
        with pytest.raises(pv.InputError, match="of classes, and the targets are numbers"):
            pv.fit(train, settings=pv.Settings(likelihood=likelihood))

    def test_weights_that_are_not_in_closed_form(self) -> None:
        train, _ = world("poisson", 0)
        chosen = pv.Settings(likelihood=pv.Poisson(), classifier="mean_field")
        says = (
            "is Poisson, for weights in closed form, and the classifier is 'mean_field'; expected"
        )
        with pytest.raises(pv.InputError, match=says):
            pv.build(train, chosen)

    def test_what_is_no_likelihood(self) -> None:
        with pytest.raises(
            pv.InputError, match="the likelihood is 'poisson'; expected one such as"
        ):
            pv.Settings(likelihood="poisson")  # type: ignore[arg-type]
        with pytest.raises(pv.InputError, match="degrees are 2; expected a number above 2"):
            pv.StudentT(degrees=2)


def test_settings_are_written_down() -> None:
    for likelihood in (None, pv.Gaussian(), pv.StudentT(degrees=4.0), pv.NegativeBinomial()):
        plain = json.loads(json.dumps(to_plain(pv.Settings(likelihood=likelihood))))
        assert from_plain(plain).likelihood == likelihood
    del plain["likelihood"]  # as written before there was a choice
    assert from_plain(plain).likelihood is None


def test_the_default_is_what_the_targets_are() -> None:
    train, test = world("gaussian", 0)
    one, other = (
        pv.fit(train, settings=settings(chosen)).predict(test) for chosen in (None, pv.Gaussian())
    )
    assert one.log_density.equal(other.log_density)
