"""Means, what is best, and paired differences, against hand and SciPy."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from pyro_vmtl.runs.benchmark.statistics import (
    COLUMNS,
    differences,
    distance_from_best,
    paired_interval,
    summary,
)

NUMBERS = st.floats(-100, 100, allow_nan=False, width=32)


def _results(values: dict[str, list[float | None]], metric: str = "nll") -> pd.DataFrame:
    """One data set, size and task; a list over seeds for each method."""
    rows = [
        ("data", 3, method, seed, "mean", metric, value)
        for method, column in values.items()
        for seed, value in enumerate(column)
        if value is not None
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=8), st.floats(0.5, 0.99))
def test_the_interval_is_that_of_the_paired_t_test(
    pairs: list[tuple[float, float]], level: float
) -> None:
    first, second = np.array(pairs, dtype=np.float64).T
    if np.ptp(first - second) < 1e-3:
        return  # SciPy warns of what is all but constant
    expected = ttest_rel(first, second).confidence_interval(level)
    assert paired_interval(first - second, level) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_seeds_have_no_interval(values: list[float]) -> None:
    assert np.isnan(paired_interval(values, 0.95)).all()


def test_a_table_worked_by_hand() -> None:
    # b - a is 0.3, 0.2, 0.4: mean 0.3, sd 0.1, t(2; 0.975) = 4.302653, so +- 0.2484.
    # c - a is 0.1, -0.1, 0.3: mean 0.1, sd 0.2, so +- 0.4968, and 0 lies inside.
    results = _results({"a": [1.0, 2.0, 3.0], "b": [1.3, 2.2, 3.4], "c": [1.1, 1.9, 3.3]})
    table = summary(results, ["c", "b", "a"], [0, 1, 2], 0.95).set_index("method")
    assert list(table.index) == ["c", "b", "a"]
    assert table.loc["a", "mean"] == pytest.approx(2.0)
    assert table.loc["a", "sd"] == pytest.approx(1.0)
    assert list(table["best"]) == [False, False, True]
    assert list(table["tied"]) == [True, False, False]
    paired = differences(results, ["c", "b", "a"], "a", 0.95).set_index("method")
    assert list(paired.index) == ["c", "b"]
    assert paired.loc["b", "mean"] == pytest.approx(0.3)
    assert paired.loc["b", "sd"] == pytest.approx(0.1)
    assert paired.loc["b", "low"] == pytest.approx(0.3 - 0.248414, abs=1e-5)
    assert paired.loc["b", "high"] == pytest.approx(0.3 + 0.248414, abs=1e-5)
    assert paired.loc["c", "low"] == pytest.approx(0.1 - 0.496828, abs=1e-5)


@pytest.mark.parametrize(
    ("metric", "best"),
    [("accuracy", "high"), ("nll", "low"), ("nmse", "low"), ("ece", "low"), ("coverage_90", "mid")],
)
def test_each_metric_has_its_own_direction(metric: str, best: str) -> None:
    results = _results({"high": [0.99, 0.98], "mid": [0.9, 0.91], "low": [0.5, 0.51]}, metric)
    table = summary(results, ["high", "mid", "low"], [0, 1], 0.95)
    assert list(table.loc[table["best"], "method"]) == [best]
    distances = {
        name: distance_from_best(metric, value)
        for name, value in (("high", 0.99), ("mid", 0.9), ("low", 0.5))
    }
    assert min(distances, key=lambda name: distances[name]) == best


def test_one_seed_supports_no_claim() -> None:
    table = summary(_results({"a": [1.0], "b": [2.0]}), ["a", "b"], [0], 0.95)
    assert not table["best"].any()
    assert not table["tied"].any()
    assert table["sd"].isna().all()


def test_a_method_that_lacks_a_seed_is_neither_best_nor_tied() -> None:
    results = _results({"a": [1.0, None, 1.0], "b": [2.0, 2.1, 2.2], "c": [3.0, 3.1, 3.2]})
    table = summary(results, ["a", "b", "c"], [0, 1, 2], 0.95).set_index("method")
    assert table.loc["a", "seeds"] == 2
    assert list(table["best"]) == [False, True, False]
    assert not table.loc["a", "tied"]


def test_equal_methods_are_best_together() -> None:
    table = summary(_results({"a": [0.5, 0.6], "b": [0.5, 0.6]}), ["a", "b"], [0, 1], 0.95)
    assert table["best"].all()


def test_differences_are_over_the_seeds_that_both_have() -> None:
    results = _results({"a": [1.0, 2.0, None, 4.0], "b": [None, 2.5, 9.0, 4.7]})
    (row,) = differences(results, ["a", "b"], "a", 0.95).to_dict("records")
    assert row["seeds"] == 2
    assert row["mean"] == pytest.approx(0.6)
    (alone,) = differences(
        _results({"a": [1.0, None], "b": [3.0, 4.0]}), ["a", "b"], "a", 0.95
    ).to_dict("records")
    assert alone["mean"] == pytest.approx(2.0)
    assert np.isnan(alone["low"])


def test_groups_do_not_mix() -> None:
    rows = []
    for data, size, task, metric, shift in [
        ("x", 1, "mean", "nll", 0.0),
        ("x", 3, "mean", "nll", 10.0),
        ("y", 1, "mean", "nll", 20.0),
        ("x", 1, "task", "nll", 30.0),
        ("x", 1, "mean", "ece", 40.0),
    ]:
        for seed in (0, 1):
            rows += [(data, size, m, seed, task, metric, shift + seed) for m in ("a", "b")]
    table = summary(pd.DataFrame(rows, columns=COLUMNS), ["a", "b"], [0, 1], 0.95)
    assert sorted(table.loc[table["method"] == "a", "mean"]) == [0.5, 10.5, 20.5, 30.5, 40.5]


@settings(max_examples=30)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=6))
def test_the_order_of_seeds_and_a_common_shift_change_no_difference(
    pairs: list[tuple[float, float]],
) -> None:
    first, second = zip(*pairs, strict=True)
    plain = differences(_results({"a": list(first), "b": list(second)}), ["a", "b"], "a", 0.9)
    shifted = _results(
        {"a": [v + s for s, v in enumerate(first)], "b": [v + s for s, v in enumerate(second)]}
    ).sample(frac=1, random_state=0)
    moved = differences(shifted, ["a", "b"], "a", 0.9)
    swapped = differences(_results({"a": list(first), "b": list(second)}), ["a", "b"], "b", 0.9)
    columns = ["mean", "low", "high"]
    assert moved[columns].to_numpy() == pytest.approx(plain[columns].to_numpy(), abs=1e-6)
    assert -swapped[["mean", "high", "low"]].to_numpy() == pytest.approx(
        plain[columns].to_numpy(), abs=1e-9
    )
