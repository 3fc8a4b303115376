r"""Which tasks to train together, as a programme: groups that gain the most.

With S_ik the gain of task i by task k, a group G of tasks is worth

.. math::
    v(G) = \frac{1}{|G|} \sum_{i, k \in G,\, i \ne k} S_{ik},

and groups are chosen that cover all tasks and are worth the most in sum (Wang, Pan and Yu,
arXiv 2402.15328, after its published programme). Every possible group is a binary variable, so that
the programme is linear and is solved exactly as long as groups can be listed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from pyro_vmtl.errors import InputError
from pyro_vmtl.inspection.group_search import Group, Programme, impossible, searched
from pyro_vmtl.inspection.influence import influence_matrix

__all__ = ["MOST_EXACT", "Cost", "group_tasks"]

MOST_EXACT = 12
"""Tasks up to which all groups are listed: 4095 of them."""

Cost = Mapping[str, float] | Callable[[tuple[str, ...]], float]

_Array = npt.NDArray[np.float64]


def group_tasks(
    gains: pd.DataFrame | npt.ArrayLike,
    groups: int | None = None,
    max_size: int | None = None,
    cost: Cost | None = None,
    budget: float | None = None,
    overlap: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """The groups of tasks that gain the most in sum, every task in one of them.

    Up to 12 tasks, and where the gains are those of sets, the answer is the best there is (an
    integer programme, :func:`scipy.optimize.milp`). Beyond that it is the best that a heuristic
    finds: groups are merged while they gain by it, from several starts, and tasks then move and
    change places; ``attrs["exact"]`` says which it was.

    Example::

        table = pv.influence(fitted, splits.train, kinds=["alone"])
        pv.group_tasks(table, groups=3)

    :param gains: of pairs, the table of :func:`pyro_vmtl.influence` (its kind ``alone``), or a
        square matrix, rows gaining by columns; or of sets, a table of
        :func:`pyro_vmtl.set_gains`, whose sets are then the only groups.
    :param groups: how many; None, as many as is best. A single task is a group with a gain of 0,
        so that none with a gain below 0 is chosen where the number is free.
    :param max_size: tasks in a group, at most.
    :param cost: of a group: a function of the tuple of its tasks' names, or the cost of every task,
        to be added up.
    :param budget: what all groups may cost together.
    :param overlap: whether a task may be in several groups, up to 12 tasks. Gains are summed over
        groups, so that it then counts in each of them.
    :param seed: of the starts of the heuristic.
    :return: a row for each group, the most worth first: ``tasks``, a tuple of names; ``gain``, in
        nats a sample, added up over its tasks; ``cost``, where there is one. ``attrs`` has
        ``gain``, the sum, and ``exact``.
    :raises InputError: for gains that are neither, or where no groups keep to what is asked.
    """
    if isinstance(gains, pd.DataFrame) and "tasks" in gains:
        values = {frozenset(row.tasks): float(row.gain) for row in gains.itertuples()}
        names = tuple(dict.fromkeys(name for one in gains["tasks"] for name in one))
        place = {name: number for number, name in enumerate(names)}
        listed = {tuple(sorted(place[name] for name in one)): g for one, g in values.items()}
        if not np.isfinite(list(listed.values())).all():
            raise InputError("a gain of a set is not finite; expected numbers")
        programme = _programme(names, listed.__getitem__, groups, max_size, cost, budget, overlap)
        return _chosen(programme, _exact(programme, list(listed)), exact=True)
    names, matrix = _square(gains)

    def worth(group: Group) -> float:
        return float(matrix[np.ix_(group, group)].sum()) / len(group)

    programme = _programme(names, worth, groups, max_size, cost, budget, overlap)
    if len(names) <= MOST_EXACT:
        every = [
            group
            for size in range(1, programme.max_size + 1)
            for group in combinations(range(len(names)), size)
        ]
        return _chosen(programme, _exact(programme, every), exact=True)
    if overlap:
        raise InputError(
            f"there are {len(names)} tasks and overlap is True; expected at most {MOST_EXACT}, or "
            "overlap=False"
        )
    return _chosen(programme, searched(programme, matrix, seed), exact=False)


def _programme(
    names: tuple[str, ...],
    worth: Callable[[Group], float],
    groups: int | None,
    max_size: int | None,
    cost: Cost | None,
    budget: float | None,
    overlap: bool,
) -> Programme:
    count = len(names)
    most = 2**count - 1 if overlap else count
    if groups is not None and not 1 <= groups <= most:
        raise InputError(f"groups is {groups} for {count} tasks; expected 1 to {most}, or None")
    if max_size is not None and max_size < 1:
        raise InputError(f"max_size is {max_size}; expected at least 1")
    if (budget is None) != (cost is None):
        given, other = ("cost", "budget") if budget is None else ("budget", "cost")
        raise InputError(f"{given} is given, and {other} is not; expected both or neither")

    def price(group: Group) -> float:
        if cost is None:
            return 0.0
        tasks = tuple(names[t] for t in group)
        if callable(cost):
            return float(cost(tasks))
        return sum(float(cost[name]) for name in tasks)

    if cost is not None and not callable(cost):
        missing = [name for name in names if name not in cost]
        if missing:
            raise InputError(f"the task {missing[0]!r} has no cost; expected one for every task")
    size = count if max_size is None else min(max_size, count)
    limit = np.inf if budget is None else float(budget)
    return Programme(names, worth, price, groups, size, limit, overlap)


def _square(gains: pd.DataFrame | npt.ArrayLike) -> tuple[tuple[str, ...], _Array]:
    """Names and pair gains ``[T, T]``, 0 of a task on itself."""
    if isinstance(gains, pd.DataFrame) and {"borrower", "lender", "kind"} <= set(gains):
        gains = influence_matrix(gains)
    frame = gains if isinstance(gains, pd.DataFrame) else pd.DataFrame(np.asarray(gains))
    names = tuple(str(name) for name in frame.index)
    if frame.shape[0] != frame.shape[1] or names != tuple(str(name) for name in frame.columns):
        raise InputError(
            f"the gains have shape {list(frame.shape)}; expected a square matrix whose rows and "
            "columns are the same tasks, or a table of pv.influence or pv.set_gains"
        )
    if not len(names):
        raise InputError("the gains have no task; expected one or more")
    matrix = frame.to_numpy(dtype=float, copy=True)
    np.fill_diagonal(matrix, 0.0)
    if not np.isfinite(matrix).all():
        raise InputError("a gain between two tasks is not finite; expected numbers")
    return names, matrix


def _exact(programme: Programme, listed: Sequence[Group]) -> list[Group]:
    """The best of the groups that are listed."""
    kept = [group for group in listed if len(group) <= programme.max_size]
    worths = np.array([programme.worth(group) for group in kept])
    count = len(programme.names)
    rows = np.concatenate([np.array(group) for group in kept]) if kept else np.array([], dtype=int)
    columns = np.repeat(np.arange(len(kept)), [len(group) for group in kept])
    holds = csr_array((np.ones(len(rows)), (rows, columns)), shape=(count, len(kept)))
    limits = [LinearConstraint(holds, 1, np.inf if programme.overlap else 1)]
    if programme.groups is not None:
        limits.append(LinearConstraint(np.ones((1, len(kept))), programme.groups, programme.groups))
    if np.isfinite(programme.budget):
        prices = np.array([[programme.price(group) for group in kept]])
        limits.append(LinearConstraint(prices, -np.inf, programme.budget))
    found = None
    if kept:
        options = {"mip_rel_gap": 0.0}
        whole = np.ones(len(kept))
        found = milp(
            -worths, constraints=limits, integrality=whole, bounds=Bounds(0, 1), options=options
        )
    if found is None or found.x is None:
        raise impossible(programme)
    chosen = [kept[number] for number in np.flatnonzero(found.x > 0.5)]
    # Of equal sums: a group that is worth nothing is no group, where the number is free.
    if programme.groups is None and programme.overlap:
        chosen = _needed(programme, chosen)
    return chosen


def _needed(programme: Programme, chosen: list[Group]) -> list[Group]:
    """Without groups that are worth nothing and whose tasks are all in others."""
    for group in sorted(chosen, key=len):
        others = [one for one in chosen if one != group]
        covered = set().union(*others) if others else set()
        if programme.worth(group) <= 0 and set(group) <= covered:
            chosen = others
    return chosen


def _chosen(programme: Programme, found: list[Group], exact: bool) -> pd.DataFrame:
    found = sorted(found, key=lambda group: (-programme.worth(group), group))
    table = pd.DataFrame(
        {
            "tasks": [tuple(programme.names[t] for t in group) for group in found],
            "gain": [programme.worth(group) for group in found],
        }
    )
    if np.isfinite(programme.budget):
        table["cost"] = [programme.price(group) for group in found]
    table.attrs = {"gain": float(table["gain"].sum()), "exact": exact}
    return table
