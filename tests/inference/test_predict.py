"""Predictions are averages over the posterior, the same however they are asked for."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import Predictions, predict
from pyro_vmtl.model import (
    MLP,
    VMTL,
    Architecture,
    BayesianLinear,
    GaussianLikelihood,
    Identity,
    Mixture,
    Power,
    Settings,
    Standard,
    assemble,
)

INPUTS, CLASSES = 4, 3
KINDS = ["classification", "regression", "vectors"]
DETERMINISTIC: list[Architecture] = [Identity(), MLP(5, hidden=(8,), stochastic=False)]
STOCHASTIC: list[Architecture] = [MLP(5, hidden=(8,), dropout=0.5), BayesianLinear(5)]


def _tasks(kind: str, sizes: tuple[int, ...] = (7, 2, 4)) -> TaskSet:
    """Tasks of unequal size, their rows mixed, one sample in five without a label."""
    total = sum(sizes)
    labelled = torch.arange(total) % 5 != 3
    y = {
        "classification": torch.randint(CLASSES, (total,)),
        "regression": torch.randn(total),
        "vectors": torch.randn(total, 2),
    }[kind]
    missing: Any = -1 if kind == "classification" else torch.nan
    y[~labelled] = missing
    task = torch.repeat_interleave(torch.tensor(sizes))[torch.randperm(total)]
    return TaskSet(
        names=tuple(f"task {t}" for t in range(len(sizes))),
        x=torch.randn(total, INPUTS),
        y=y,
        task=task,
        classes=("red", "green", "blue") if kind == "classification" else None,
    )


def _make(tasks: TaskSet, encoder: Architecture, **choices: Any) -> VMTL:
    # Conjugate weights need no draws: tests/model/priors/test_nested.py has them.
    own = {"classifier": "mean_field", "initial_scale": 0.5, "initial_jitter": 1.0}
    settings = Settings(encoder, **{**own, **choices})
    return assemble(
        settings, tasks.num_tasks, tasks.num_outputs, tasks.input_shape, tasks.is_classification
    )


def _fields(predictions: Predictions) -> dict[str, Tensor]:
    names = ("mean", "log_density", "total", "aleatoric", "epistemic")
    return {name: getattr(predictions, name) for name in names}


def _assert_equal(one: Predictions, other: Predictions, rows: Any = slice(None)) -> None:
    for name, value in _fields(one).items():
        other_value = _fields(other)[name]
        torch.testing.assert_close(value[rows], other_value, equal_nan=True, rtol=1e-4, atol=1e-5)


every_kind = pytest.mark.parametrize("kind", KINDS)
any_encoder = pytest.mark.parametrize("encoder", DETERMINISTIC + STOCHASTIC, ids=str)
deterministic = pytest.mark.parametrize("encoder", DETERMINISTIC, ids=str)


class TestInvariance:
    @every_kind
    @deterministic
    @pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
    def test_batches_change_nothing(
        self, kind: str, encoder: Architecture, batch_size: int
    ) -> None:
        tasks = _tasks(kind)
        vmtl = _make(tasks, encoder, pool=Mixture(base=True))
        whole = predict(vmtl, tasks, num_samples=20)
        _assert_equal(whole, predict(vmtl, tasks, num_samples=20, batch_size=batch_size))

    @every_kind
    @deterministic
    def test_the_order_of_the_samples_changes_nothing(
        self, kind: str, encoder: Architecture
    ) -> None:
        tasks = _tasks(kind)
        vmtl = _make(tasks, encoder, pool=Power())
        order = torch.randperm(len(tasks))
        whole = predict(vmtl, tasks, num_samples=20)
        _assert_equal(whole, predict(vmtl, tasks.subset(order), num_samples=20), order)
        few = torch.tensor([3, 0, 5])
        _assert_equal(whole, predict(vmtl, tasks.subset(few), num_samples=20), few)

    @every_kind
    @any_encoder
    def test_a_seed_repeats_and_leaves_the_callers_noise_alone(
        self, kind: str, encoder: Architecture
    ) -> None:
        tasks = _tasks(kind)
        vmtl = _make(tasks, encoder).train()
        state = torch.get_rng_state()
        one = predict(vmtl, tasks, num_samples=5, batch_size=3, seed=7)
        assert torch.get_rng_state().equal(state)
        assert all(module.training for module in vmtl.modules())
        torch.randn(3)
        two = predict(vmtl, tasks, num_samples=5, batch_size=3, seed=7)
        _assert_equal(one, two)
        if one.draws is not None and two.draws is not None:
            assert one.draws.equal(two.draws)
        other = predict(vmtl, tasks, num_samples=5, batch_size=3, seed=8)
        assert not one.mean.equal(other.mean)

    @every_kind
    @any_encoder
    def test_targets_are_not_looked_at(self, kind: str, encoder: Architecture) -> None:
        tasks = _tasks(kind)
        vmtl = _make(tasks, encoder)
        nothing: Any = torch.full_like(tasks.y, -1 if kind == "classification" else torch.nan)
        blind = predict(vmtl, replace(tasks, y=nothing), num_samples=5)
        seeing = predict(vmtl, tasks, num_samples=5)
        for name in ("mean", "total", "aleatoric", "epistemic"):
            assert _fields(blind)[name].equal(_fields(seeing)[name])


class TestUncertainty:
    @every_kind
    @any_encoder
    def test_is_aleatoric_plus_epistemic(self, kind: str, encoder: Architecture) -> None:
        tasks = _tasks(kind)
        predictions = predict(_make(tasks, encoder), tasks, num_samples=50)
        torch.testing.assert_close(predictions.total, predictions.aleatoric + predictions.epistemic)
        assert (predictions.aleatoric > 0).all()
        assert (predictions.epistemic > 0).all()
        assert predictions.total.shape == (predictions.mean.shape if kind == "vectors" else (13,))

    def test_of_classes_is_entropy(self) -> None:
        tasks = _tasks("classification")
        predictions = predict(_make(tasks, Identity()), tasks, num_samples=50)
        torch.testing.assert_close(predictions.mean.sum(-1), torch.ones(len(tasks)))
        entropy = -(predictions.mean * predictions.mean.log()).sum(-1)
        torch.testing.assert_close(predictions.total, entropy)
        at_target = predictions.mean.gather(1, tasks.y.clamp_min(0).unsqueeze(1)).squeeze(1)
        labelled = tasks.labelled
        torch.testing.assert_close(predictions.log_density[labelled], at_target.log()[labelled])

    def test_of_a_linear_regression_is_known(self) -> None:
        tasks = _tasks("regression", (3, 3))
        vmtl = _make(tasks, Identity(), pool=Standard(), initial_noise=0.3)
        loc, scale = (x.detach().squeeze(1)[tasks.task] for x in vmtl.classifier.gaussians())
        with_bias = torch.cat([tasks.x, torch.ones(len(tasks), 1)], -1)
        mean = (loc * with_bias).sum(-1)
        variance = (scale * with_bias).square().sum(-1)
        likelihood = vmtl.likelihood
        assert isinstance(likelihood, GaussianLikelihood)
        noise = float(likelihood.noise.detach()[0])
        predictions = predict(vmtl, tasks, num_samples=20_000)
        torch.testing.assert_close(predictions.aleatoric, torch.full((len(tasks),), noise**2))
        torch.testing.assert_close(predictions.epistemic, variance, rtol=0.06, atol=0)
        error = 5 * (variance / 20_000).sqrt()
        assert ((predictions.mean - mean).abs() < error).all()
        draws = predictions.draws
        assert draws is not None
        assert draws.shape == (20_000, len(tasks))
        torch.testing.assert_close(draws.var(0), predictions.total, rtol=0.06, atol=0)
        targets = mean + 0.5 * draws.std(0)  # near enough for an average to be a good estimate
        near = predict(vmtl, replace(tasks, y=targets), num_samples=20_000)
        marginal = torch.distributions.Normal(mean, (variance + noise**2).sqrt())
        torch.testing.assert_close(near.log_density, marginal.log_prob(targets), rtol=0, atol=0.05)

    def test_classes_are_averaged_after_the_softmax_and_not_before(self) -> None:
        # Two classes, one input, no bias: P(1 | x) is the mean of a sigmoid under a Gaussian.
        tasks = TaskSet(
            names=("a",),
            x=torch.tensor([[2.0], [-1.0]]),
            y=torch.tensor([0, 1]),
            task=torch.zeros(2, dtype=torch.int64),
            classes=("0", "1"),
        )
        settings = Settings(Identity(), classifier="mean_field", bias=False, initial_scale=3.0)
        vmtl = assemble(settings, 1, 2, (1,), True)
        classifier: Any = vmtl.classifier
        with torch.no_grad():
            classifier.loc.fill_(2.0)
        grid = torch.linspace(-40, 40, 8001)
        weight = torch.distributions.Normal(2.0, 3.0).log_prob(grid).exp()
        expected = torch.trapezoid(weight * (tasks.x * grid).sigmoid(), grid)
        predictions = predict(vmtl, tasks, num_samples=20_000)
        torch.testing.assert_close(predictions.mean[:, 1], expected, rtol=0, atol=0.015)
        assert abs(expected[0] - torch.tensor(4.0).sigmoid()) > 0.1

    def test_an_impossible_target_has_a_finite_density(self) -> None:
        tasks = _tasks("classification")
        vmtl = _make(tasks, Identity())
        classifier: Any = vmtl.classifier
        with torch.no_grad():
            classifier.loc.mul_(1000)
        predictions = predict(vmtl, tasks, num_samples=10)
        assert predictions.log_density[tasks.labelled].isfinite().all()
        assert predictions.log_density[tasks.labelled].min() < -200
        for name in ("mean", "total", "aleatoric", "epistemic"):
            assert _fields(predictions)[name].isfinite().all()


class TestIntervals:
    def test_hold_their_share_of_the_draws(self) -> None:
        tasks = _tasks("regression")
        predictions = predict(_make(tasks, Identity()), tasks, num_samples=1000)
        assert predictions.draws is not None
        for coverage in (0.5, 0.9):
            low, high = predictions.interval(coverage)
            inside = (predictions.draws > low) & (predictions.draws < high)
            assert inside.float().mean(0).sub(coverage).abs().max() < 0.01
        table = predictions.frame()
        np.testing.assert_allclose(table["low"], predictions.interval()[0])
        np.testing.assert_allclose(table["sd"], predictions.total.sqrt())

    def test_what_they_cannot_be(self) -> None:
        for kind, coverage, said in (
            ("classification", 0.9, "classes, or 0 or 1, which have no intervals"),
            ("regression", 1.0, "coverage is 1.0; expected a number between 0 and 1"),
        ):
            tasks = _tasks(kind)
            predictions = predict(_make(tasks, Identity()), tasks, num_samples=5)
            with pytest.raises(InputError, match=said):
                predictions.interval(coverage)


class TestWhatIsMissing:
    @every_kind
    def test_a_sample_without_a_label_is_predicted_and_not_scored(self, kind: str) -> None:
        tasks = _tasks(kind)
        predictions = predict(_make(tasks, Identity()), tasks, num_samples=5)
        assert predictions.log_density.isnan().equal(~tasks.labelled)
        assert predictions.mean.isfinite().all()
        table = predictions.frame()
        assert len(table) == len(tasks)
        assert table["task"].tolist() == [tasks.names[t] for t in tasks.task]
        target = table[next(column for column in table if column.startswith("target"))]
        assert target.isna().tolist() == (~tasks.labelled).tolist()

    def test_an_empty_task_does_not_matter(self) -> None:
        tasks = _tasks("regression", (8, 6, 7))
        vmtl = _make(tasks, Identity())
        rows = (tasks.task != 1).nonzero().squeeze(1)
        whole = predict(vmtl, tasks, num_samples=5)
        for batch_size in (None, 1):
            part = predict(vmtl, tasks.subset(rows), num_samples=5, batch_size=batch_size)
            _assert_equal(whole, part, rows)
        assert set(part.metrics()) <= {"task 0", "task 2", "mean"}

    def test_no_labels_no_metrics(self) -> None:
        tasks = _tasks("classification")
        vmtl = _make(tasks, Identity())
        blind = predict(vmtl, replace(tasks, y=torch.full_like(tasks.y, -1)), num_samples=5)
        with pytest.raises(InputError, match="no labelled sample"):
            blind.metrics()

    def test_classes_that_a_task_was_not_trained_on_are_scored_apart(self) -> None:
        tasks = _tasks("classification", (30, 30, 30))
        predictions = predict(_make(tasks, Identity()), tasks, num_samples=5)
        plain = predictions.metrics()
        assert predictions.metrics(tasks) == plain  # nothing is missing
        training = tasks.subset((tasks.task != 1) | (tasks.y != 2))
        scores = predictions.metrics(training)
        rows = (tasks.task == 1) & (tasks.y == 2)
        right = predictions.mean[rows].argmax(-1) == 2
        assert scores["task 1"]["accuracy_missing"] == pytest.approx(float(right.double().mean()))
        assert scores["task 0"]["harmonic_mean"] is None
        assert scores["mean"]["harmonic_mean"] == scores["task 1"]["harmonic_mean"]
        for task, values in plain.items():
            assert values.items() <= scores[task].items()
        with pytest.raises(InputError, match="the training data have the classes"):
            predictions.metrics(replace(training, classes=("a", "b", "c")))


class TestErrors:
    def test_another_number_of_tasks(self) -> None:
        vmtl = _make(_tasks("regression"), Identity())
        with pytest.raises(InputError, match="2 tasks; the model was built for 3"):
            predict(vmtl, _tasks("regression", (3, 2)))

    def test_another_number_of_outputs(self) -> None:
        vmtl = _make(_tasks("classification"), Identity())
        with pytest.raises(InputError, match="built for 3"):
            predict(vmtl, _tasks("regression"))

    @pytest.mark.parametrize("encoder", [*DETERMINISTIC, *STOCHASTIC, MLP(5, per_task=True)])
    def test_another_shape_of_samples(self, encoder: Architecture) -> None:
        tasks = _tasks("regression")
        vmtl = _make(tasks, encoder)
        predict(vmtl, tasks, num_samples=2)
        for shape in ((INPUTS + 1,), (INPUTS, 1), (2, INPUTS // 2)):
            other = replace(tasks, x=torch.randn(len(tasks), *shape))
            with pytest.raises(InputError, match=r"shape \[.*\]; the model's encoder .* \[4\]$"):
                predict(vmtl, other)

    def test_no_samples(self) -> None:
        tasks = _tasks("regression")
        with pytest.raises(InputError, match="no samples"):
            predict(_make(tasks, Identity()), tasks.subset(torch.tensor([], dtype=torch.int64)))

    @pytest.mark.parametrize("choice", [{"num_samples": 0}, {"batch_size": 0}])
    def test_sizes_below_one(self, choice: dict[str, int]) -> None:
        tasks = _tasks("regression")
        with pytest.raises(InputError, match=f"{next(iter(choice))} is 0"):
            predict(_make(tasks, Identity()), tasks, **choice)
