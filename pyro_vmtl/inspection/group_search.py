"""Groups of more tasks than can be listed: merged while they gain, and then mended task by task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyro_vmtl.errors import InputError

__all__ = ["Group", "Programme", "impossible", "searched"]

_STARTS = 20
_SLACK = 1e-9

_Array = npt.NDArray[np.float64]
Group = tuple[int, ...]
"""The positions of its tasks, in their order."""


@dataclass(frozen=True)
class Programme:
    """What groups have to keep to.

    :ivar names: of the tasks.
    :ivar worth: of a group; ``price``: likewise.
    :ivar groups: how many; None, as many as is best.
    :ivar max_size: tasks in a group, at most; ``budget``: of all prices.
    :ivar overlap: whether a task may be in several groups.
    """

    names: tuple[str, ...]
    worth: Callable[[Group], float]
    price: Callable[[Group], float]
    groups: int | None
    max_size: int
    budget: float
    overlap: bool


def impossible(programme: Programme) -> InputError:
    """The error where no groups keep to what is asked."""
    number = "any number of" if programme.groups is None else str(programme.groups)
    within = f" within a budget of {programme.budget:g}" if np.isfinite(programme.budget) else ""
    return InputError(
        f"{len(programme.names)} tasks were not put into {number} groups of at most "
        f"{programme.max_size}{within}; expected more groups, larger ones, or a larger budget"
    )


def searched(programme: Programme, matrix: _Array, seed: int) -> list[Group]:
    """The best of several starts: agglomeration, and moves and exchanges of single tasks."""
    generator = np.random.default_rng(seed)
    both = matrix + matrix.T
    scale = float(both.std()) / 2
    found = []
    for start in range(_STARTS):
        # The first start merges by the gains as they are, all others by gains with some noise.
        noise = generator.standard_normal(matrix.shape)
        noisy = both + (start > 0) * scale * np.triu(noise, 1)
        found.append(_improved(programme, both, _merged(programme, np.triu(noisy, 1))))
    fitting = [labels for labels in found if _fits(programme, labels)]
    if not fitting:
        raise impossible(programme)
    best = max(fitting, key=lambda labels: sum(map(programme.worth, _members(labels))))
    return _members(best)


def _members(labels: npt.NDArray[np.int64]) -> list[Group]:
    return [tuple(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)]


def _fits(programme: Programme, labels: npt.NDArray[np.int64]) -> bool:
    groups = _members(labels)
    return (
        max(map(len, groups)) <= programme.max_size
        and sum(map(programme.price, groups)) <= programme.budget + _SLACK
        and programme.groups in (None, len(groups))
    )


def _merged(programme: Programme, upper: _Array) -> npt.NDArray[np.int64]:
    """Groups merged two at a time, by what is gained, from all tasks apart; the label of each task.

    :param upper: what two tasks gain by each other, both ways, above the diagonal.
    """
    between = upper + upper.T
    labels = np.arange(len(upper))
    inside, sizes = np.zeros(len(upper)), np.ones(len(upper))
    while len(sizes) > 1:
        size = sizes[:, None] + sizes
        gained = (inside[:, None] + inside + between) / size
        gained -= (inside / sizes)[:, None] + inside / sizes
        allowed = np.triu(size <= programme.max_size, 1)
        groups = _members(labels)
        over = sum(map(programme.price, groups)) > programme.budget + _SLACK
        if over:  # what saves the most comes first
            price = programme.price
            for i, j in np.argwhere(allowed):
                together = tuple(sorted(groups[i] + groups[j]))
                gained[i, j] = price(groups[i]) + price(groups[j]) - price(together)
        gained[~allowed] = -np.inf
        i, j = np.unravel_index(gained.argmax(), gained.shape)
        least = 1 if programme.groups is None else programme.groups
        if not allowed.any() or len(sizes) <= least:
            break
        if programme.groups is None and gained[i, j] <= _SLACK:
            break
        inside[i] += inside[j] + between[i, j]
        sizes[i] += sizes[j]
        between[i] += between[j]
        between[:, i] += between[:, j]
        between[i, i] = 0.0
        inside, sizes = np.delete(inside, j), np.delete(sizes, j)
        between = np.delete(np.delete(between, j, 0), j, 1)
        labels[labels == j] = i
        labels[labels > j] -= 1
    return labels


def _improved(
    programme: Programme, both: _Array, labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Single tasks move to other groups and change places while all together gain by it.

    :param both: what two tasks gain by each other, both ways, ``[T, T]``.
    """
    count = len(labels)
    slots = count if programme.groups is None else int(labels.max()) + 1
    tasks = np.arange(count)
    while True:
        member = np.eye(slots)[labels]  # [T, G]
        sizes, to = member.sum(0), both @ member  # what a task gains and gives in each group
        inside = (member * to).sum(0) / 2
        worth = inside / np.maximum(sizes, 1)
        home = labels
        left = (inside[home] - to[tasks, home]) / np.maximum(sizes[home] - 1, 1) - worth[home]
        moves = left[:, None] + (inside + to) / (sizes + 1) - worth
        allowed = (sizes + 1 <= programme.max_size) & (member == 0)
        if programme.groups is not None:  # none is emptied
            allowed &= (sizes[home] > 1)[:, None]
        moves = np.where(allowed, moves, -np.inf)
        own = to[tasks, home][:, None]
        # What the group of t gains by u in the place of t, [t, u].
        swap = (to[:, home].T - both - own) / sizes[home][:, None]
        swaps = swap + swap.T
        swaps[home[:, None] == home] = -np.inf
        steps = np.concatenate([moves, swaps], axis=1)
        for at in np.argsort(-steps, axis=None):
            task, target = np.unravel_index(at, steps.shape)
            if steps[task, target] <= _SLACK:
                return labels
            trial = labels.copy()
            if target < slots:
                trial[task] = target
            else:
                trial[task], trial[target - slots] = labels[target - slots], labels[task]
            if not np.isfinite(programme.budget) or _cheaper(programme, trial, labels):
                labels = trial
                break


def _cheaper(
    programme: Programme, trial: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> bool:
    """Whether groups keep to the budget, or come nearer to it."""
    new, old = (sum(map(programme.price, _members(one))) for one in (trial, labels))
    return new <= programme.budget + _SLACK or new < old
