"""Gains: who is better off with the others, and what is said where nobody is."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import pyro_vmtl as pv
from pyro_vmtl.data import TaskSet, clusters
from pyro_vmtl.errors import InputError
from pyro_vmtl.inspection import gains_doubts
from pyro_vmtl.inspection.gains import _base_rate


@pytest.fixture(scope="module")
def related() -> tuple[pv.FittedVMTL, TaskSet, TaskSet, pd.DataFrame]:
    splits = clusters(num_tasks=8, num_clusters=2, samples=30, seed=3)
    fitted = pv.fit(splits.train, log_warnings=False)
    return fitted, splits.train, splits.test, pv.gains(fitted, splits.train)


def whole(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["task"] == "all tasks"].set_index("against")


def test_related_tasks_gain(
    related: tuple[pv.FittedVMTL, TaskSet, TaskSet, pd.DataFrame],
) -> None:
    fitted, train, test, table = related
    for against in ("base rate", "no pooling", "complete pooling"):
        row = whole(table).loc[against]
        assert row["gain"] > 2 * row["se"]
        assert row["samples"] == len(train)
    assert gains_doubts(table) == []
    heldout = pv.gains(fitted, train, test)
    assert set(heldout["against"]) == {"base rate", "no pooling", "complete pooling"}
    assert (whole(heldout)["gain"] > 2 * whole(heldout)["se"]).all()
    assert set(whole(heldout)["samples"]) == {len(test)}


def test_without_a_task_is_the_influence_of_that_task(
    related: tuple[pv.FittedVMTL, TaskSet, TaskSet, pd.DataFrame],
) -> None:
    fitted, train, _, table = related
    rows = table[(table["against"] == "without a task") & (table["task"] != "all tasks")]
    assert len(rows) == 8 * 7
    found = pv.influence(fitted, train, kinds=["without"]).set_index(["borrower", "lender"])
    gain = found.loc[list(zip(rows["task"], rows["other"], strict=True)), "gain"]
    np.testing.assert_allclose(rows["gain"], gain, atol=1e-9)


@pytest.mark.parametrize("is_classification", [True, False])
def test_the_base_rate_leaves_the_sample_out(is_classification: bool) -> None:
    generator = np.random.default_rng(0)
    y = generator.choice([0, 1, 2], 12) if is_classification else 100 + generator.normal(size=12)
    tasks = TaskSet.from_arrays({"a": (np.zeros((12, 1)), y)})
    found = _base_rate(tasks, None, is_binary=False)
    for row in range(12):
        others = np.delete(tasks.y.numpy().astype(float), row)
        if is_classification:
            expected = np.log(((others == y[row]).sum() + 0.5) / (len(others) + 1.5))
        else:
            law = stats.norm(others.mean(), others.std())
            expected = law.logpdf(float(tasks.y[row]))
        assert found[row] == pytest.approx(expected, rel=1e-4)


def test_what_gains_nothing_is_said() -> None:
    generator = np.random.default_rng(1)
    pairs = {
        name: (generator.normal(size=(20, 3)), generator.choice(["no", "yes"], 20))
        for name in "abc"
    }
    tasks = TaskSet.from_arrays(pairs)
    (said, *_) = gains_doubts(pv.gains(pv.fit(tasks, log_warnings=False), tasks))
    assert "no better than the base rate" in said


def test_doubts_name_rivals_and_tasks() -> None:
    rows = [
        ("all tasks", "base rate", 0.2, 0.01),
        ("all tasks", "no pooling", -0.1, 0.02),
        ("all tasks", "complete pooling", -0.3, 0.1),
        ("north", "no pooling", -0.2, 0.05),
        ("south", "no pooling", 0.0, 0.05),
    ]
    table = pd.DataFrame(rows, columns=["task", "against", "gain", "se"])
    complete, alone, tasks = gains_doubts(table)
    assert "Complete pooling predicts better (-0.300 ± 0.100" in complete
    assert "recipe=complete_pooling" in complete
    assert "No pooling predicts better (-0.100 ± 0.020" in alone
    assert "By themselves 1 of 2 tasks would be predicted better" in tasks
    assert "north (-0.200 ± 0.050)" in tasks


def test_what_they_need(related: tuple[pv.FittedVMTL, TaskSet, TaskSet, pd.DataFrame]) -> None:
    fitted, train, _, _ = related
    with pytest.raises(InputError, match="the training set has the tasks"):
        pv.gains(fitted, train.select(list(train.names[:2])))
    other = replace(fitted, settings=pv.Settings(encoder=pv.MLP()))
    with pytest.raises(InputError, match="expected a model with the pool Nested"):
        pv.gains(other, train)


def test_rivals_have_the_likelihood_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it was left open and stayed the usual one, rivals do not choose another."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 2))
    parts = {name: (x[k::2], x[k::2, 0]) for k, name in enumerate(("one", "two"))}
    tasks = TaskSet.from_arrays(parts)
    fitted = pv.fit(tasks, log_warnings=False)
    assert fitted.settings.likelihood is None
    seen = []

    def spy(train: TaskSet, settings: pv.Settings, **further: object) -> pv.FittedVMTL:
        seen.append(settings.likelihood)
        return fitted

    monkeypatch.setattr(sys.modules[pv.gains.__module__], "fit", spy)
    pv.gains(fitted, tasks)
    assert seen == [pv.Gaussian(), pv.Gaussian()]
