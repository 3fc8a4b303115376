"""A temperature is the best of all on validation data, and its error says how well it is known."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pyro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pyro_vmtl as pv
from pyro_vmtl.data import TaskSet, TaskSplits, clusters
from pyro_vmtl.inference import Constant, FittedVMTL, TrainingSettings, fit
from pyro_vmtl.inference.temperature_scaling import LARGEST_ERROR, ScaledVMTL
from pyro_vmtl.model import Identity, Settings, Standard

TRAINING = TrainingSettings(
    epochs=4, steps_per_epoch=30, learning_rate=Constant(0.05), kl_weights=Constant(0.1)
)


def scaled_by(fitted: FittedVMTL, temperature: tuple[float, ...]) -> ScaledVMTL:
    return ScaledVMTL.of(
        fitted,
        temperature=temperature,
        standard_error=(0.1,) * 3,
        samples=(9,) * 3,
        own=(False,) * 3,
    )


KINDS = ["binary", "multiclass", "regression"]


@cache
def _fitted(kind: str) -> tuple[FittedVMTL, TaskSplits]:
    splits = clusters(
        3,
        1,
        samples=30,
        dimensions=4,
        kind=kind,  # type: ignore[arg-type]
        test_samples=60,
    )
    pyro.set_rng_seed(0)
    return fit(splits.train, None, Settings(Identity(), Standard()), TRAINING), splits


def _certain(num_tasks: int, logits: torch.Tensor) -> FittedVMTL:
    """A model that gives every sample of task t the log odds ``logits[t]``, without any doubt."""
    x, y = torch.zeros(4, 1), torch.tensor([0, 1, 0, 1])
    tasks = TaskSet.from_arrays({f"task {t}": (x.numpy(), y.numpy()) for t in range(num_tasks)})
    settings = Settings(Identity(), Standard(), classifier="mean_field")
    fitted = fit(tasks, None, settings, dataclasses.replace(TRAINING, epochs=1))
    classifier = fitted.vmtl.classifier
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if "loc" in name:
                parameter.zero_()
                parameter[..., -1] = logits.reshape(-1, *[1] * (parameter.dim() - 2))
            else:
                parameter.fill_(-20.0)  # softplus: a scale of nothing
    return fitted


def _outcomes(fitted: FittedVMTL, right: list[tuple[int, int]]) -> TaskSet:
    """For every task so many samples, of which so many are of the second class."""
    return TaskSet.from_arrays(
        {
            name: (np.zeros((count, 1), np.float32), (np.arange(count) < ones).astype(int))
            for name, (ones, count) in zip(fitted.names, right, strict=True)
        },
        classes=fitted.classes,
    )


def test_of_one_stated_probability_it_is_known() -> None:
    # Log odds of 2 everywhere, and 70% of 100 samples of the second class: the log odds that fit
    # are log(7/3), so T = 2 / log(7/3). The curvature in log T is N p (1 - p) (log odds)^2.
    fitted = _certain(2, torch.tensor([2.0, 2.0]))
    scaled = pv.scale_temperature(fitted, _outcomes(fitted, [(35, 50), (35, 50)]))
    odds = math.log(7 / 3)
    assert scaled.temperature == pytest.approx((2 / odds,) * 2, rel=1e-3)
    error = 1 / math.sqrt(100 * 0.7 * 0.3 * odds**2)
    assert scaled.standard_error == pytest.approx((error,) * 2, rel=5e-3)
    assert scaled.samples == (100, 100)
    assert scaled.own == (False, False)
    predictions = scaled.predict(_outcomes(fitted, [(1, 2), (1, 2)]))
    assert predictions.mean[:, 1].tolist() == pytest.approx([0.7] * 4, rel=1e-3)
    assert predictions.log_density[0].item() == pytest.approx(math.log(0.7), rel=1e-3)


def test_tasks_have_their_own_where_their_samples_tell() -> None:
    fitted = _certain(3, torch.tensor([2.0, 2.0, 2.0]))
    validation = _outcomes(fitted, [(160, 200), (120, 200), (2, 3)])
    scaled = pv.scale_temperature(fitted, validation, per_task=True)
    first, second, shared = (2 / math.log(odds) for odds in (4, 1.5, 282 / 121))
    # The second's odds are close to even, which says little of T: its error is above the limit.
    errors = [1 / math.sqrt(200 * p * (1 - p)) / math.log(p / (1 - p)) for p in (0.8, 0.6)]
    assert errors[0] < LARGEST_ERROR < errors[1]
    assert scaled.own == (True, False, False)
    assert scaled.temperature == pytest.approx((first, shared, shared), rel=1e-3)
    assert second != pytest.approx(shared, rel=1e-3)
    assert scaled.samples == (200, 403, 403)


@pytest.mark.parametrize(("right", "why"), [((9, 9), "no error"), ((3, 9), "no better")])
def test_where_none_is_best_predictions_stay_and_a_warning_says_so(
    right: tuple[int, int], why: str
) -> None:
    fitted = _certain(2, torch.tensor([1.0, 1.0]))
    validation = _outcomes(fitted, [right, right])
    scaled = pv.scale_temperature(fitted, validation)
    assert scaled.temperature == (1.0, 1.0)
    assert all(math.isnan(error) for error in scaled.standard_error)
    (warning,) = scaled.scaling_warnings
    assert why in warning
    torch.testing.assert_close(scaled.predict(validation).mean, fitted.predict(validation).mean)


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_temperature_predicts_validation_samples_better(kind: str) -> None:
    fitted, splits = _fitted(kind)
    scaled = pv.scale_temperature(fitted, splits.test)

    def density(factor: float) -> float:
        temperature = tuple(factor * value for value in scaled.temperature)
        other = dataclasses.replace(scaled, temperature=temperature)
        return float(other.predict(splits.test).log_density.double().sum())

    best = density(1.0)
    for factor in (0.5, 0.8, 0.95, 1.05, 1.25, 2.0):
        assert density(factor) < best
    assert best >= float(fitted.predict(splits.test).log_density.double().sum())
    # Two standard errors away the log likelihood is two nats lower, where it is quadratic.
    away = math.exp(2 * scaled.standard_error[0])
    assert best - (density(away) + density(1 / away)) / 2 == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_a_temperature_of_one_changes_nothing(kind: str) -> None:
    fitted, splits = _fitted(kind)
    scaled = scaled_by(fitted, (1.0,) * 3)
    ours, theirs = scaled.predict(splits.test), fitted.predict(splits.test)
    for field in ("mean", "log_density", "total", "aleatoric", "epistemic", "draws"):
        mine, other = getattr(ours, field), getattr(theirs, field)
        if other is not None:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@given(st.floats(0.2, 5.0), st.sampled_from(KINDS))
def test_what_is_predicted_stays_and_only_confidence_moves(temperature: float, kind: str) -> None:
    fitted, splits = _fitted(kind)
    scaled = scaled_by(fitted, (temperature,) * 3)
    ours, theirs = scaled.predict(splits.test, 20), fitted.predict(splits.test, 20)
    torch.testing.assert_close(ours.aleatoric + ours.epistemic, ours.total)
    assert bool((ours.epistemic >= 0).all())
    if kind == "regression":
        assert torch.equal(ours.mean, theirs.mean)
        torch.testing.assert_close(ours.total, temperature * theirs.total)
        assert ours.draws is not None
        assert theirs.draws is not None
        # The density is that of the draws: both spread by the root of T.
        torch.testing.assert_close(
            (ours.draws - ours.mean).std(0),
            math.sqrt(temperature) * (theirs.draws - theirs.mean).std(0),
        )
        return
    assert torch.equal(ours.mean.argmax(-1), theirs.mean.argmax(-1))
    torch.testing.assert_close(ours.mean.sum(-1), ours.mean.new_ones(len(splits.test)))
    less = ours.mean.amax(-1) - theirs.mean.amax(-1)
    assert bool((less <= 1e-6).all() if temperature >= 1 else (less >= -1e-6).all())


def test_of_a_gaussian_it_is_the_mean_squared_distance_in_standard_deviations() -> None:
    fitted, splits = _fitted("regression")
    classifier = fitted.vmtl.classifier
    saved = {name: value.clone() for name, value in classifier.state_dict().items()}
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if "loc" not in name:
                parameter.fill_(-20.0)  # no doubt about the weights: the predictive is Gaussian
    try:
        predictions = fitted.predict(splits.test)
        scaled = pv.scale_temperature(fitted, splits.test, per_task=True)
    finally:
        classifier.load_state_dict(saved)
    square = (splits.test.y - predictions.mean).square() / predictions.total
    for t, temperature in enumerate(scaled.temperature):
        of_task = square[splits.test.task == t]
        assert temperature == pytest.approx(float(of_task.mean()), rel=2e-3)
        assert scaled.standard_error[t] == pytest.approx(math.sqrt(2 / len(of_task)), rel=0.02)


def test_the_density_of_real_targets_integrates_to_one() -> None:
    fitted, splits = _fitted("regression")
    scaled = scaled_by(fitted, (2.5, 0.4, 1.0))
    grid = torch.linspace(-40, 40, 4001)
    first = [int(splits.test.indices(t)[0]) for t in range(3)]
    rows = torch.tensor(first).repeat_interleave(len(grid))
    asked = dataclasses.replace(splits.test.subset(rows), y=grid.repeat(3))
    density = scaled.predict(asked, 50).log_density.double().exp().reshape(3, -1)
    assert torch.trapezoid(density, grid.double()).tolist() == pytest.approx([1, 1, 1], abs=1e-3)


def test_several_outputs_share_a_temperature() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 3)).astype(np.float32)
    y = (x @ generator.normal(size=(3, 2)) + generator.normal(size=(60, 2))).astype(np.float32)
    tasks = TaskSet.from_arrays({"a": (x[:30], y[:30]), "b": (x[30:], y[30:])})
    fitted = fit(tasks, None, Settings(Identity(), Standard()), TRAINING)
    scaled = pv.scale_temperature(fitted, tasks)
    before, after = fitted.predict(tasks), scaled.predict(tasks)
    assert after.log_density.sum() >= before.log_density.sum()
    torch.testing.assert_close(after.total, scaled.temperature[0] * before.total)


def test_samples_without_a_label_are_predicted_and_have_no_say() -> None:
    fitted, splits = _fitted("multiclass")
    some = torch.arange(len(splits.test)) % 3 == 0
    blanked = dataclasses.replace(splits.test, y=splits.test.y.masked_fill(some, -1))
    only = splits.test.subset((~some).nonzero().squeeze(-1))
    ours, theirs = pv.scale_temperature(fitted, blanked), pv.scale_temperature(fitted, only)
    assert ours.temperature == pytest.approx(theirs.temperature, rel=1e-3)
    predictions = ours.predict(blanked)
    assert torch.equal(predictions.log_density.isnan(), some)
    assert not predictions.mean.isnan().any()
    with pytest.raises(pv.InputError, match="no labelled sample"):
        pv.scale_temperature(fitted, blanked.subset(some.nonzero().squeeze(-1)))


def test_the_table_names_the_tasks_and_bounds_the_temperature() -> None:
    fitted, splits = _fitted("binary")
    scaled = pv.scale_temperature(fitted, splits.test)
    table = scaled.frame()
    assert tuple(table["task"]) == fitted.names
    ratio = np.log(table["high"] / table["temperature"])
    np.testing.assert_allclose(ratio, 1.96 * table["standard_error"], rtol=1e-3)
    np.testing.assert_allclose(table["low"] * table["high"], table["temperature"] ** 2)
