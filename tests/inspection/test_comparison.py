"""Ranking fits: paired errors by hand, and leave-one-out densities against quadrature."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vmtl.data import TaskSplits, clusters
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import Constant, Decay, FittedVMTL, TrainingSettings, fit
from pyro_vmtl.inspection.arviz_adapter import pareto_smoothed
from pyro_vmtl.inspection.comparison import PARETO_THRESHOLD, compare
from pyro_vmtl.model import (
    MLP,
    Identity,
    Mixture,
    Nested,
    Pool,
    PooledWeights,
    Power,
    Settings,
    Standard,
)

TRAINING = TrainingSettings(
    epochs=8,
    steps_per_epoch=50,
    learning_rate=Decay(0.05, 0.005),
    kl_weights=Constant(1.0),
    kl_representations=Constant(1.0),
    patience=None,
)
COLUMNS = (
    *("rank", "fit", "task", "samples", "log_density", "per_sample"),
    *("difference", "se", "within_noise"),
)
LOO_COLUMNS = ("loo", "loo_samples", "pareto_k", "pareto_k_samples", "loo_unavailable")


BRIEF = dataclasses.replace(TRAINING, epochs=2, steps_per_epoch=20)


def _fit(
    splits: TaskSplits,
    pool: Pool,
    training: TrainingSettings = TRAINING,
    **choices: object,
) -> FittedVMTL:
    options = {"bias": False, "encoder": Identity()} | choices
    settings = Settings(pool=pool, **options)  # type: ignore[arg-type]
    return fit(splits.train, None, settings, training, accelerator="cpu")


@pytest.fixture(scope="module")
def splits() -> TaskSplits:
    return clusters(4, 2, samples=15, dimensions=2, test_samples=60, seed=3)


@pytest.fixture(scope="module")
def fits(splits: TaskSplits) -> dict[str, FittedVMTL]:
    choices = {
        "standard": {"pool": Standard()},
        "nested": {"pool": Nested()},
        "mean_field": {"pool": Standard(), "classifier": "mean_field"},
    }
    return {name: _fit(splits, **chosen) for name, chosen in choices.items()}  # type: ignore[arg-type]


class TestRanking:
    def test_is_by_held_out_density_with_paired_errors(
        self, splits: TaskSplits, fits: dict[str, FittedVMTL]
    ) -> None:
        table = compare(fits, splits.test, num_samples=300, seed=1)
        assert tuple(table) == COLUMNS
        assert len(table) == 3 * 5
        density = {
            name: fitted.predict(splits.test, 300, seed=1).log_density.double().numpy()
            for name, fitted in fits.items()
        }
        order = sorted(density, key=lambda name: -density[name].sum())
        best = order[0]
        whole = table[table["task"] == "all tasks"]
        assert list(whole["fit"]) == order
        assert list(whole["rank"]) == [1, 2, 3]
        task = splits.test.task.numpy()
        for _, row in table.iterrows():
            chosen = (
                np.full(len(task), True)
                if row["task"] == "all tasks"
                else task == splits.test.names.index(row["task"])
            )
            own = density[row["fit"]][chosen]
            assert row["samples"] == len(own)
            assert row["log_density"] == pytest.approx(own.sum())
            assert row["per_sample"] == pytest.approx(own.mean())
            paired = own - density[best][chosen]
            assert row["difference"] == pytest.approx(paired.sum())
            error = np.sqrt(len(own) * paired.var(ddof=1))
            assert row["se"] == pytest.approx(error)
            assert row["within_noise"] == (abs(paired.sum()) <= 2 * error)

    def test_leaves_samples_without_a_label_out(
        self, splits: TaskSplits, fits: dict[str, FittedVMTL]
    ) -> None:
        unlabelled = splits.test.y.clone()
        unlabelled[::3] = -1
        hidden = dataclasses.replace(splits.test, y=unlabelled)
        kept = splits.test.subset(torch.arange(len(splits.test))[unlabelled >= 0])
        ours, theirs = (compare(fits, part, num_samples=100) for part in (hidden, kept))
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-5)

    def test_of_one_and_the_same_fit_finds_no_difference(
        self, splits: TaskSplits, fits: dict[str, FittedVMTL]
    ) -> None:
        table = compare({"one": fits["standard"], "two": fits["standard"]}, splits.test)
        assert (table["difference"] == 0).all()
        assert table["within_noise"].all()
        assert list(table[table["task"] == "all tasks"]["fit"]) == ["one", "two"]

    def test_a_prior_that_ruins_the_predictions_is_beyond_noise(
        self, splits: TaskSplits, fits: dict[str, FittedVMTL]
    ) -> None:
        ruined = _fit(splits, Standard())
        ruined.vmtl.get_buffer("classifier.loc").mul_(-1)
        table = compare({"ruined": ruined, **fits}, splits.test, num_samples=200)
        last = table[(table["task"] == "all tasks") & (table["rank"] == 4)].iloc[0]
        assert last["fit"] == "ruined"
        assert not last["within_noise"]

    def test_what_cannot_be_ranked_is_a_sentence(
        self, splits: TaskSplits, fits: dict[str, FittedVMTL]
    ) -> None:
        with pytest.raises(InputError, match="fits is empty"):
            compare({}, splits.test)
        with pytest.raises(InputError, match="fits is a list; expected a dictionary"):
            compare(list(fits.values()), splits.test)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="num_samples is 0"):
            compare(fits, splits.test, num_samples=0)
        bare = dataclasses.replace(splits.test, y=torch.full_like(splits.test.y, -1))
        with pytest.raises(InputError, match="no labelled sample"):
            compare(fits, bare)
        other = clusters(3, 1, samples=5, dimensions=2, test_samples=5)
        with pytest.raises(InputError, match="the model was trained on"):
            compare(fits, other.test)
        with pytest.raises(InputError, match="training set has the tasks"):
            compare(fits, splits.test, other.train)


def _exact(splits: TaskSplits, task: int, scale: float) -> float:
    """Leave-one-out density of a logistic regression under N(0, scale^2), two weights on a grid."""
    line = np.linspace(-7 * scale, 7 * scale, 281)
    weights = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    rows = splits.train.indices(task)
    x, y = splits.train.x[rows].double().numpy(), splits.train.y[rows].numpy()
    likelihood = -np.logaddexp(0, -(2 * y - 1) * (weights @ x.T))
    joint = likelihood.sum(1) - 0.5 * np.square(weights / scale).sum(1)
    total = 0.0
    for n in range(len(y)):
        without = joint - likelihood[:, n]
        total += np.logaddexp.reduce(joint) - np.logaddexp.reduce(without)
    return total


class TestLeaveOneOut:
    @pytest.mark.parametrize("classifier", ["conjugate", "mean_field"])
    def test_is_that_of_the_exact_posterior_and_not_of_q(
        self, splits: TaskSplits, classifier: str
    ) -> None:
        fitted = _fit(splits, Standard(), classifier=classifier)
        table = compare({"standard": fitted}, splits.test, splits.train, 4000, seed=2)
        assert tuple(table) == COLUMNS + LOO_COLUMNS
        available = 0
        weights = fitted.vmtl.classifier
        scale = float(weights.unit[0]) if isinstance(weights, PooledWeights) else 1.0
        for t, name in enumerate(splits.train.names):
            row = table[table["task"] == name].iloc[0]
            assert row["loo_samples"] == 15
            if row["loo_unavailable"]:
                assert np.isnan(row["loo"])
                assert max(row["pareto_k"], row["pareto_k_samples"]) > PARETO_THRESHOLD
                continue
            available += 1
            if classifier == "mean_field":
                assert row["pareto_k"] <= PARETO_THRESHOLD
            assert row["loo"] == pytest.approx(_exact(splits, t, scale), abs=0.15)
        assert available >= (2 if classifier == "mean_field" else 4)

    def test_of_all_tasks_is_their_sum_or_not_available(
        self, splits: TaskSplits, fits: dict[str, FittedVMTL]
    ) -> None:
        table = compare(fits, splits.test, splits.train, 1000)
        for _, rows in table.groupby("fit"):
            whole, each = rows.iloc[0], rows.iloc[1:]
            assert whole["loo_samples"] == each["loo_samples"].sum() == 60
            # Of weights that every sample leaves by linear algebra there is no k but those.
            assert each["pareto_k"].isna().all() == (whole["fit"] != "mean_field")
            for k in ("pareto_k", "pareto_k_samples"):
                np.testing.assert_equal(whole[k], each[k].max())
            missing = each["loo"].isna()
            assert list(missing) == list(each["loo_unavailable"] != "")
            if missing.any():
                assert np.isnan(whole["loo"])
                assert each["loo_unavailable"][missing].iloc[0] in whole["loo_unavailable"]
            else:
                assert whole["loo"] == pytest.approx(each["loo"].sum())

    def test_is_not_available_where_the_prior_holds_the_tasks_own_data(
        self, splits: TaskSplits
    ) -> None:
        lent = _fit(splits, Mixture(), BRIEF, classifier="mean_field")
        table = compare({"lent": lent}, splits.test, splits.train, 200)
        assert table["loo"].isna().all()
        assert table["loo_unavailable"].str.contains("the prior contains the task's data").all()

    def test_says_when_the_posterior_is_too_narrow(
        self, splits: TaskSplits, fits: dict[str, FittedVMTL]
    ) -> None:
        narrow = _fit(splits, Standard(), BRIEF, classifier="mean_field")
        with torch.no_grad():
            narrow.vmtl.get_parameter("classifier.raw_scale").fill_(-4.0)
        narrow.vmtl.tempering["weights"] = 0.03
        table = compare({"narrow": narrow}, splits.test, splits.train, 1000)
        assert table["loo"].isna().all()
        reasons = table["loo_unavailable"].iloc[1:]
        assert reasons.str.contains("Pareto k of the posterior is").all()
        assert reasons.str.contains("KL weight of 0.03").all()

    @pytest.mark.parametrize(
        ("pool", "choices"),
        [
            (Mixture(base=True), {}),
            (Power(spread="scalar"), {}),
            (Standard(), {"encoder": MLP(2, hidden=()), "classifier": "mean_field"}),
        ],
        ids=["mixture", "power", "standard"],
    )
    def test_takes_relatedness_and_random_representations(
        self, pool: Pool, choices: dict[str, object]
    ) -> None:
        small = clusters(3, 1, samples=8, dimensions=3, test_samples=10)
        fitted = _fit(small, pool, BRIEF, **choices)
        table = compare({"one": fitted}, small.test, small.train, 100)
        assert len(table) == 4
        assert np.isfinite(table["pareto_k"]).all()
        assert (table["loo"].notna() == (table["loo_unavailable"] == "")).all()

    def test_is_not_available_where_an_encoder_has_seen_every_sample(self) -> None:
        small = clusters(3, 1, samples=8, dimensions=3, test_samples=10)
        for pool in (Mixture(), Nested()):
            fitted = _fit(small, pool, BRIEF, encoder=MLP(2, hidden=()))
            table = compare({"one": fitted}, small.test, small.train, 100)
            assert table["loo"].isna().all()
            assert table["loo_unavailable"].str.contains("the encoder was trained").all()

    def test_of_a_task_without_a_training_label_is_not_available(
        self, splits: TaskSplits, fits: dict[str, FittedVMTL]
    ) -> None:
        y = splits.train.y.clone()
        y[splits.train.task == 1] = -1
        train = dataclasses.replace(splits.train, y=y)
        table = compare({"one": fits["standard"]}, splits.test, train, 300)
        row = table[table["task"] == splits.train.names[1]].iloc[0]
        assert row["loo_unavailable"] == "no labelled training sample"
        assert row["loo_samples"] == 0


class TestParetoSmoothing:
    def test_weights_sum_to_one_and_follow_the_ratios(self) -> None:
        ratios = np.random.default_rng(0).normal(size=(3, 400))
        log_weights, k = pareto_smoothed(ratios)
        assert log_weights.shape == ratios.shape
        assert k.shape == (3,)
        np.testing.assert_allclose(np.exp(log_weights).sum(-1), 1)
        for ratio, weight in zip(ratios, log_weights, strict=True):
            # Smoothing moves the tail and not the order.
            np.testing.assert_array_equal(ratio.argsort()[::-1][80:], weight.argsort()[::-1][80:])
            assert weight[ratio.argmax()] == weight.max()

    def test_k_is_that_of_the_tail(self) -> None:
        """Weights 1 / u^k of a uniform u have a Pareto tail of shape k."""
        uniform = np.random.default_rng(1).uniform(size=20_000)
        shapes = np.array([0.2, 0.5, 0.9])
        _, k = pareto_smoothed(-shapes[:, None] * np.log(uniform))
        np.testing.assert_allclose(k, shapes, atol=0.15)

    def test_a_constant_shift_changes_nothing(self) -> None:
        ratios = np.random.default_rng(2).normal(size=(2, 300))
        for one, other in zip(pareto_smoothed(ratios), pareto_smoothed(ratios + 500), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)

    def test_equal_ratios_weigh_the_same(self) -> None:
        log_weights, k = pareto_smoothed(np.full((1, 50), 3.0))
        np.testing.assert_allclose(log_weights, -np.log(50))
        assert k[0] == -np.inf
