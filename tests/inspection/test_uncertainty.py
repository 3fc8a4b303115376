"""Uncertainty tables against counting by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inspection.scored import ALL_TASKS
from pyro_vmtl.inspection.uncertainty import (
    extreme_samples,
    predictive_bands,
    risk_coverage,
    uncertainty_table,
)

MakePredictions = Callable[..., Predictions]


def ranked(uncertainty: list[float], correct: list[bool]) -> Predictions:
    """Two classes; the first is always predicted, and came where it says so."""
    size = len(uncertainty)
    tasks = TaskSet(
        ("one", "two"),
        torch.arange(float(size))[:, None],
        torch.tensor([0 if right else 1 for right in correct]),
        torch.arange(size) % 2,
        ("yes", "no"),
    )
    mean = torch.tensor([[0.9, 0.1]]).expand(size, 2)
    total = torch.tensor(uncertainty)
    return Predictions(tasks, mean, mean[:, 0], total, 0.75 * total, 0.25 * total)


def test_risk_is_the_error_rate_of_the_surest() -> None:
    table = risk_coverage(ranked([0.3, 0.1, 0.4, 0.2], [False, True, False, True]))
    assert table["coverage"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert table["risk"].tolist() == pytest.approx([0, 0, 1 / 3, 0.5])
    assert table["threshold"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    area = (0 + 0 + 1 / 3 + 0.5) / 4
    assert table.attrs["area"] == table.attrs["best_area"] == pytest.approx(area)


def test_equals_are_accepted_together() -> None:
    table = risk_coverage(ranked([0.2, 0.2, 0.1, 0.2], [False, True, True, True]))
    assert table["coverage"].tolist() == [0.25, 1.0]
    assert table["risk"].tolist() == pytest.approx([0, 0.25])
    # Among the three equals each is as likely wrong as the next: 1/3.
    expected = np.array([0, 1 / 3, 2 / 3, 1]) / np.arange(1, 5)
    assert table.attrs["area"] == pytest.approx(expected.mean())


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_accepting_all_has_the_whole_error(samples: list[tuple[float, bool]]) -> None:
    uncertainty, correct = zip(*samples, strict=True)
    table = risk_coverage(ranked(list(uncertainty), list(correct)))
    assert table["coverage"].iloc[-1] == 1
    assert table["risk"].iloc[-1] == pytest.approx(1 - np.mean(correct))
    assert table["coverage"].is_monotonic_increasing
    assert table["threshold"].is_monotonic_increasing
    assert table.attrs["best_area"] <= table.attrs["area"] + 1e-9


def test_the_risk_of_a_regression_is_its_squared_error(
    make_predictions: MakePredictions,
) -> None:
    predictions = make_predictions(2, "regression")
    table = risk_coverage(predictions, by="epistemic", task="task 1")
    rows = predictions.tasks.indices("task 1")
    squared = (predictions.mean[rows] - predictions.tasks.y[rows]).square()
    assert table["risk"].iloc[-1] == pytest.approx(squared.mean().item())
    surest = predictions.epistemic[rows].argmin()
    assert table["risk"].iloc[0] == pytest.approx(squared[surest].item())


def test_uncertainty_adds_up_per_task_and_pooled(make_predictions: MakePredictions) -> None:
    for kind in ("classification", "regression"):
        predictions = make_predictions(3, kind)
        table = uncertainty_table(predictions)
        assert list(table.index) == [*predictions.tasks.names, ALL_TASKS]
        np.testing.assert_allclose(table["aleatoric"] + table["epistemic"], table["total"])
        np.testing.assert_allclose(table["epistemic_share"], table["epistemic"] / table["total"])
        pooled = table.loc[list(predictions.tasks.names), "total"].mean()  # tasks of one size
        assert table.loc[ALL_TASKS, "total"] == pytest.approx(pooled)
    metrics = make_predictions(3).metrics()
    errors = uncertainty_table(make_predictions(3))["error_rate"]
    assert errors["task 2"] == pytest.approx(1 - (metrics["task 2"]["accuracy"] or 0))


def test_no_uncertainty_has_no_epistemic_share() -> None:
    table = uncertainty_table(ranked([0.0, 0.0], [True, True]))
    assert table["epistemic_share"].isna().all()


def test_extremes_are_named_as_their_user_knows_them() -> None:
    predictions = ranked([0.3, 0.1, 0.4, 0.2], [False, True, False, True])
    table = extreme_samples(predictions, number=2)
    assert table["which"].tolist() == ["most certain"] * 2 + ["least certain"] * 2
    assert table["sample"].tolist() == [1, 3, 2, 0]
    assert table["task"].tolist() == ["two", "two", "one", "one"]
    assert table["target"].tolist() == ["yes", "yes", "no", "no"]
    assert table["prediction"].tolist() == ["yes"] * 4
    assert table["uncertainty"].tolist() == pytest.approx([0.1, 0.2, 0.4, 0.3])
    assert extreme_samples(predictions, task="one")["sample"].tolist() == [0, 2, 2, 0]


def test_a_sample_without_a_label_has_an_uncertainty_and_no_target() -> None:
    predictions = ranked([0.3, 0.1], [True, True])
    tasks = replace(predictions.tasks, y=torch.tensor([-1, 0]))
    table = extreme_samples(replace(predictions, tasks=tasks), number=1)
    assert table["target"].tolist() == ["yes", None]


def test_bands_are_quantiles_in_order_of_the_mean(make_predictions: MakePredictions) -> None:
    predictions = make_predictions(2, "regression", outputs=2)
    assert predictions.draws is not None
    table = predictive_bands(predictions, "task 0", levels=(0.5, 0.9), output="y1")
    assert table["mean"].is_monotonic_increasing
    assert (table["task"] == "task 0").all()
    assert (table["low_90"] <= table["low_50"]).all()
    assert (table["high_50"] <= table["high_90"]).all()
    row = table.iloc[3]
    draws = predictions.draws[:, int(row["sample"]), 1].double().numpy()
    assert row["low_90"] == pytest.approx(np.quantile(draws, 0.05, method="weibull"))
    assert row["target"] == pytest.approx(predictions.tasks.y[int(row["sample"]), 1].item())


def test_a_sample_without_a_label_has_bands(make_predictions: MakePredictions) -> None:
    predictions = make_predictions(2, "regression")
    y = predictions.tasks.y.clone()
    y[3] = torch.nan
    blind = replace(predictions, tasks=replace(predictions.tasks, y=y))
    ours, theirs = (predictive_bands(one).set_index("sample") for one in (blind, predictions))
    assert np.isnan(ours.loc[3, "target"])
    pd.testing.assert_frame_equal(ours.drop(columns="target"), theirs.drop(columns="target"))


def test_wrong_arguments_are_named(make_predictions: MakePredictions) -> None:
    with pytest.raises(InputError, match="'unknown'"):
        risk_coverage(make_predictions(2), by="unknown")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="number is 0"):
        extreme_samples(make_predictions(2), number=0)
    with pytest.raises(InputError, match="'task 9'"):
        extreme_samples(make_predictions(2), task="task 9")
    with pytest.raises(InputError, match="expected a regression"):
        predictive_bands(make_predictions(2))
    with pytest.raises(InputError, match="no output 'z'"):
        predictive_bands(make_predictions(2, "regression"), output="z")
