"""Calibration tables against counting by hand, and against the metrics."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, kstest

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.metrics import classification_metrics, regression_metrics
from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inspection.calibration import (
    LEVELS,
    calibration_table,
    expected_calibration_error,
    interval_coverage,
    pit_histogram,
    pit_values,
    reliability,
)
from pyro_vmtl.inspection.scored import ALL_TASKS, binomial_interval

MakePredictions = Callable[..., Predictions]


def classified(probabilities: list[list[float]], targets: list[int]) -> Predictions:
    mean = torch.tensor(probabilities, dtype=torch.float64)
    size = len(targets)
    task = torch.arange(size) % 2
    names = ("even", "odd")
    tasks = TaskSet(names, torch.zeros(size, 1), torch.tensor(targets), task, ("a", "b"))
    nothing = torch.zeros(size)
    return Predictions(tasks, mean, nothing, nothing, nothing, nothing)


def test_reliability_counts_by_bins() -> None:
    predictions = classified(
        [[0.9, 0.1], [0.95, 0.05], [0.35, 0.65], [0.39, 0.61], [0.45, 0.55]], [0, 1, 1, 1, -1]
    )
    table = reliability(predictions, bins=5)
    # [.6, .8): .65 and .61, both right; [.8, 1]: .9 right and .95 wrong; .55 has no label.
    assert table["bin_low"].tolist() == pytest.approx([0.6, 0.8])
    assert table["bin_high"].tolist() == pytest.approx([0.8, 1.0])
    assert table["samples"].tolist() == [2, 2]
    assert table["confidence"].tolist() == pytest.approx([0.63, 0.925])
    assert table["accuracy"].tolist() == [1.0, 0.5]
    error = expected_calibration_error(table)
    assert error == pytest.approx((0.37 + 0.425) / 2)
    assert table["accuracy_high"].iloc[0] == 1
    assert table["accuracy_low"].iloc[0] == pytest.approx(beta.ppf(0.025, 2.5, 0.5))


def test_reliability_of_a_task_is_that_of_its_samples() -> None:
    predictions = classified([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]], [0, 0, 1])
    assert reliability(predictions, 10, "odd")["confidence"].tolist() == pytest.approx([0.7])
    assert reliability(predictions, 10, "even")["samples"].sum() == 2
    with pytest.raises(InputError, match="'both'"):
        reliability(predictions, task="both")


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_the_error_is_the_metric(seed: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(40, classes, generator=generator, dtype=torch.float64)
    probabilities = logits.softmax(-1)
    targets = torch.randint(0, classes, (40,), generator=generator)
    nothing = torch.zeros(40)
    names = tuple(str(number) for number in range(classes))
    tasks = TaskSet(("only",), torch.zeros(40, 1), targets, torch.zeros(40).long(), names)
    predictions = Predictions(tasks, probabilities, nothing, nothing, nothing, nothing)
    metric = classification_metrics(probabilities, targets)["ece"]
    assert expected_calibration_error(reliability(predictions)) == pytest.approx(metric, abs=1e-9)


def test_certain_and_right_is_calibrated() -> None:
    predictions = classified([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [0, 1, 0])
    table = reliability(predictions)
    assert table["samples"].tolist() == [3]
    assert expected_calibration_error(table) == 0


@given(st.integers(1, 50), st.data())
def test_the_interval_of_a_share_holds_it(trials: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, trials))
    low, high = binomial_interval(hits, trials)
    assert 0 <= low <= hits / trials <= high <= 1
    wider_low, wider_high = binomial_interval(hits, trials, 0.99)
    assert wider_low <= low
    assert high <= wider_high


def test_a_share_of_nothing_has_no_interval() -> None:
    low, high = binomial_interval([0, 1], [0, 1])
    assert np.isnan([low[0], high[0]]).all()
    assert high[1] == 1


def regression(targets: list[float], draws: torch.Tensor) -> Predictions:
    y = torch.tensor(targets)
    size = len(targets)
    tasks = TaskSet(("one",), torch.zeros(size, 1), y, torch.zeros(size).long(), None)
    nothing = torch.zeros(size)
    return Predictions(tasks, draws.mean(0), nothing, nothing, nothing, nothing, draws)


def test_coverage_counts_targets_between_the_quantiles() -> None:
    # Draws 1 to 99: the 50% interval is [25, 75], the 90% interval [5, 95].
    draws = torch.arange(1.0, 100.0)[:, None].expand(99, 4)
    predictions = regression([50.0, 80.0, 97.0, 75.0], draws)
    table = interval_coverage(predictions, [0.5, 0.9])
    assert table["coverage"].tolist() == [0.5, 0.75]
    assert table["samples"].tolist() == [4, 4]
    low, high = binomial_interval([2, 3], [4, 4])
    np.testing.assert_allclose(table["coverage_low"], low)
    np.testing.assert_allclose(table["coverage_high"], high)


def test_coverage_is_the_metric(make_predictions: MakePredictions) -> None:
    predictions = make_predictions(2, "regression", outputs=2)
    assert predictions.draws is not None
    for t, name in enumerate(predictions.tasks.names):
        rows = predictions.tasks.indices(t)
        metric = regression_metrics(
            predictions.mean[rows],
            predictions.log_density[rows],
            predictions.draws[:, rows],
            predictions.tasks.y[rows],
        )["coverage_90"]
        assert interval_coverage(predictions, [0.9], name)["coverage"].item() == metric


def test_pit_is_the_rank_among_the_draws() -> None:
    draws = torch.tensor([[0.0], [1.0], [2.0]]).expand(3, 4)
    values = pit_values(regression([-1.0, 0.5, 1.5, 9.0], draws))
    assert ((np.arange(4) / 4 < values) & (values < np.arange(1, 5) / 4)).all()


def test_pit_of_a_tie_is_spread_over_its_steps() -> None:
    draws = torch.tensor([[0.0], [0.0], [1.0]]).expand(3, 500)
    values = pit_values(regression([0.0] * 500, draws))
    assert values.min() >= 0
    assert values.max() < 3 / 4  # below the step of 1
    assert kstest(values / 0.75, "uniform").pvalue > 1e-4


def test_calibrated_draws_give_uniform_pit() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(200, 2000, generator=generator)
    targets = torch.randn(2000, generator=generator).tolist()
    predictions = regression(targets, draws)
    assert kstest(pit_values(predictions), "uniform").pvalue > 1e-4
    table = pit_histogram(predictions, bins=10)
    assert table["samples"].sum() == 2000
    assert table["density"].mean() == pytest.approx(1)
    inside = table["density"].between(table["expected_low"], table["expected_high"])
    assert inside.sum() >= 8
    narrow = pit_histogram(regression(targets, draws / 4), bins=10)
    assert narrow["density"].iloc[[0, -1]].min() > 2  # a bowl


def test_the_table_has_every_task_and_all(make_predictions: MakePredictions) -> None:
    predictions = make_predictions(3)
    table = calibration_table(predictions, draws=50)
    assert list(table.index) == [*predictions.tasks.names, ALL_TASKS]
    assert table["samples"].tolist() == [20, 20, 20, 60]
    metrics = predictions.metrics()
    for name in predictions.tasks.names:
        assert table.loc[name, "ece"] == pytest.approx(metrics[name]["ece"])
        assert table.loc[name, "accuracy"] == pytest.approx(metrics[name]["accuracy"])
    assert (table["ece_low"] < table["ece_high"]).all()


def test_the_table_of_a_regression_has_coverage(make_predictions: MakePredictions) -> None:
    predictions = make_predictions(3, "regression")
    table = calibration_table(predictions, coverage=0.5)
    pooled = interval_coverage(predictions, [*LEVELS, 0.5])
    row = table.loc[ALL_TASKS]
    assert row["coverage"] == pooled["coverage"].iloc[-1]
    error = (pooled["coverage"] - pooled["level"]).abs()[: len(LEVELS)].mean()
    assert row["coverage_error"] == pytest.approx(error)


def test_tasks_without_labels_are_left_out() -> None:
    predictions = classified([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]], [0, -1, 1])
    assert list(calibration_table(predictions, draws=5).index) == ["even", ALL_TASKS]
    with pytest.raises(InputError, match="'odd' has no labelled sample"):
        reliability(predictions, task="odd")


def test_each_kind_of_predictions_has_its_tables(make_predictions: MakePredictions) -> None:
    with pytest.raises(InputError, match="expected a classification"):
        reliability(make_predictions(2, "regression"))
    for table in (interval_coverage, pit_values, pit_histogram):
        with pytest.raises(InputError, match="expected a regression"):
            table(make_predictions(2))


def test_numbers_out_of_range_are_refused(make_predictions: MakePredictions) -> None:
    with pytest.raises(InputError, match="bins is 0"):
        reliability(make_predictions(2), bins=0)
    with pytest.raises(InputError, match="level is 1\\.5"):
        interval_coverage(make_predictions(2, "regression"), [1.5])
    with pytest.raises(InputError, match="level is 1"):
        pit_histogram(make_predictions(2, "regression"), level=1)
