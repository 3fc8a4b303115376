"""Groups of tasks, against every grouping listed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyro_vmtl as pv
from pyro_vmtl.errors import InputError

Groups = list[tuple[int, ...]]


def partitions(tasks: list[int]) -> Iterator[Groups]:
    if not tasks:
        yield []
        return
    first, rest = tasks[0], tasks[1:]
    for size in range(len(rest) + 1):
        for others in combinations(rest, size):
            left = [t for t in rest if t not in others]
            for further in partitions(left):
                yield [(first, *others), *further]


def worth(matrix: np.ndarray, group: tuple[int, ...]) -> float:
    total = sum(matrix[i, k] for i in group for k in group if i != k)
    return float(total / len(group))


def price(group: tuple[str, ...]) -> float:
    return 2 + 0.3 * len(group) ** 2


def as_sets(table: pd.DataFrame) -> set[frozenset[str]]:
    return {frozenset(tasks) for tasks in table["tasks"]}


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 7),
    seed=st.integers(0, 10**6),
    number=st.none() | st.integers(1, 4),
    max_size=st.none() | st.integers(1, 4),
    budget=st.none() | st.floats(3, 25),
)
def test_no_grouping_is_worth_more(
    count: int, seed: int, number: int | None, max_size: int | None, budget: float | None
) -> None:
    number = None if number is None else min(number, count)
    matrix = np.random.default_rng(seed).normal(size=(count, count))

    def fits(groups: Groups) -> bool:
        costs = sum(price(tuple(map(str, group))) for group in groups)
        return (
            (number is None or len(groups) == number)
            and (max_size is None or max(map(len, groups)) <= max_size)
            and (budget is None or costs <= budget)
        )

    possible = [groups for groups in partitions(list(range(count))) if fits(groups)]
    arguments = {"groups": number, "max_size": max_size, "budget": budget}
    cost = None if budget is None else price
    if not possible:
        with pytest.raises(InputError, match="were not put into"):
            pv.group_tasks(matrix, cost=cost, **arguments)  # type: ignore[arg-type]
        return
    table = pv.group_tasks(matrix, cost=cost, **arguments)  # type: ignore[arg-type]
    best = max(sum(worth(matrix, group) for group in groups) for groups in possible)
    assert table.attrs["exact"]
    assert table.attrs["gain"] == pytest.approx(best, abs=1e-6)
    found = [tuple(sorted(map(int, tasks))) for tasks in table["tasks"]]
    assert fits(found)
    assert sorted(sum(found, ())) == list(range(count))
    assert table["gain"].tolist() == pytest.approx([worth(matrix, group) for group in found])
    if number is None and budget is None:
        assert (table["gain"] >= -1e-9).all()


@settings(max_examples=15, deadline=None)
@given(count=st.integers(2, 4), seed=st.integers(0, 10**6), number=st.none() | st.integers(1, 3))
def test_groups_that_overlap_are_the_best_cover(count: int, seed: int, number: int | None) -> None:
    matrix = np.random.default_rng(seed).normal(size=(count, count))
    every = [g for size in range(1, count + 1) for g in combinations(range(count), size)]
    covers = [
        chosen
        for size in (range(1, len(every) + 1) if number is None else [number])
        for chosen in combinations(every, size)
        if len(set().union(*chosen)) == count
    ]
    best = max(sum(worth(matrix, group) for group in chosen) for chosen in covers)
    table = pv.group_tasks(matrix, groups=number, overlap=True)
    assert table.attrs["gain"] == pytest.approx(best, abs=1e-6)
    assert set().union(*table["tasks"]) == set(map(str, range(count)))


@pytest.mark.parametrize("count", [9, 12, 30])
def test_planted_groups_are_found(count: int) -> None:
    """Exactly up to 12 tasks, by agglomeration and moves beyond."""
    generator = np.random.default_rng(count)
    truth = generator.permutation(np.arange(count) % 3)
    matrix = np.where(truth[:, None] == truth, 0.1, -0.1)
    matrix = matrix + 0.02 * generator.normal(size=matrix.shape)
    names = [f"task {t}" for t in range(count)]
    frame = pd.DataFrame(matrix, names, names)
    planted = {frozenset(np.array(names)[truth == k]) for k in range(3)}
    for number in (3, None):
        table = pv.group_tasks(frame, groups=number)
        assert table.attrs["exact"] == (count <= 12)
        assert as_sets(table) == planted


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.none() | st.integers(4, 6))
def test_many_tasks_keep_to_sizes_and_budgets(seed: int, number: int | None) -> None:
    matrix = np.random.default_rng(seed).normal(size=(16, 16))
    table = pv.group_tasks(matrix, groups=number, max_size=5, cost=price, budget=40.0)
    assert sorted(sum(table["tasks"], ()), key=int) == [str(t) for t in range(16)]
    assert max(map(len, table["tasks"])) <= 5
    assert table["cost"].sum() <= 40 + 1e-9
    assert table["cost"].tolist() == pytest.approx([price(tasks) for tasks in table["tasks"]])
    if number is not None:
        assert len(table) == number
    free = pv.group_tasks(matrix)
    assert (free["gain"] >= -1e-9).all()


def test_a_larger_budget_is_worth_no_less() -> None:
    matrix = np.random.default_rng(0).normal(size=(7, 7)) + 0.3

    def dear(group: tuple[str, ...]) -> float:
        return float(len(group) ** 2)

    tables = [pv.group_tasks(matrix, cost=dear, budget=b) for b in (7.0, 9.0, 11.0, 49.0)]
    worths = [table.attrs["gain"] for table in tables]
    assert worths == sorted(worths)
    assert worths[0] < worths[-1]


def test_costs_of_tasks_are_added_up() -> None:
    matrix = np.ones((3, 3))
    table = pv.group_tasks(matrix, cost={"0": 1, "1": 2, "2": 3}, budget=6.0)
    assert table["cost"].tolist() == [6.0]
    with pytest.raises(InputError, match="were not put into"):
        pv.group_tasks(matrix, cost={"0": 1, "1": 2, "2": 3}, budget=5.0)


def test_gains_of_sets_are_taken_as_they_are() -> None:
    sets = [(("a",), 0.0), (("b",), 0.0), (("c",), 0.0), (("a", "c"), 0.4), (("a", "b", "c"), 0.3)]
    table = pv.group_tasks(pd.DataFrame(sets, columns=["tasks", "gain"]))
    assert as_sets(table) == {frozenset("ac"), frozenset("b")}
    whole = pv.group_tasks(pd.DataFrame(sets, columns=["tasks", "gain"]), groups=1)
    assert as_sets(whole) == {frozenset("abc")}


def test_what_it_needs() -> None:
    matrix = np.zeros((3, 3))
    with pytest.raises(InputError, match="expected a square matrix"):
        pv.group_tasks(np.zeros((2, 3)))
    with pytest.raises(InputError, match="groups is 4 for 3 tasks"):
        pv.group_tasks(matrix, groups=4)
    with pytest.raises(InputError, match="max_size is 0"):
        pv.group_tasks(matrix, max_size=0)
    with pytest.raises(InputError, match="budget is given, and cost is not"):
        pv.group_tasks(matrix, budget=1.0)
    with pytest.raises(InputError, match="the task '2' has no cost"):
        pv.group_tasks(matrix, cost={"0": 1, "1": 1}, budget=1.0)
    with pytest.raises(InputError, match="not finite"):
        pv.group_tasks(np.full((2, 2), np.nan))
    with pytest.raises(InputError, match="overlap is True"):
        pv.group_tasks(np.zeros((13, 13)), overlap=True)
