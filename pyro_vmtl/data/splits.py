"""Splitting a task set into training, validation and test parts."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from pyro_vmtl.data.arguments import check_whole
from pyro_vmtl.data.task_set import TaskSet
from pyro_vmtl.errors import InputError

__all__ = ["TaskSplits", "draw_missing_classes", "shift_categories", "split_rows", "split_tasks"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_TRAIN, _VALIDATION, _TEST = range(3)


class TaskSplits(NamedTuple):
    """Three parts of the same tasks that share no sample."""

    train: TaskSet
    validation: TaskSet
    test: TaskSet


def split_tasks(
    tasks: TaskSet,
    validation: float | int = 0.2,
    test: float | int = 0.2,
    seed: int = 0,
) -> TaskSplits:
    """Deal the samples of every task out to training, validation and test at random, in strata.

    The strata are the classes of a task or, for regression, the quantiles of its targets (vector
    targets are ordered by the mean of their standardised outputs). Within a task the labelled
    samples are laid out in this order, at random within a stratum, and every so-manieth is taken
    (systematic sampling): each class gets its share of each part up to rounding, and every sample
    has the same chance.

    Training comes first: a task with labelled samples keeps at least one of them for training,
    however much was asked for, and a class that is labelled in some task keeps at least one
    training sample in some task. Samples without a label go to training. Samples that share a
    source (``tasks.sources``) go to the same part, with or without a label, so that their numbers
    are then met only roughly.

    :param validation: a float is a fraction of the labelled samples of every task, in [0, 1); an
        integer is a number of labelled samples per task.
    :param test: likewise. Two fractions must sum to less than 1.
    :param seed: the same seed gives the same split.
    :raises InputError: for fractions or numbers out of range.
    """
    parts = split_rows(tasks, validation, test, seed)
    return TaskSplits(*(tasks.subset(torch.from_numpy(rows)) for rows in parts))


def split_rows(
    tasks: TaskSet, validation: float | int, test: float | int, seed: int
) -> tuple[_Array, _Array, _Array]:
    """The samples of :func:`split_tasks`' three parts by their positions."""
    _check_part("validation", validation)
    _check_part("test", test)
    if isinstance(validation, float) and isinstance(test, float) and validation + test >= 1:
        raise InputError(
            f"validation={validation} and test={test} leave nothing to train on; "
            "expected fractions that sum to less than 1."
        )
    check_whole("seed", seed, 0)
    generator = np.random.default_rng(seed)
    labelled = tasks.labelled.cpu().numpy()
    task = tasks.task.cpu().numpy()
    source = _sources(tasks)
    part: _Array = np.full(len(tasks), _TRAIN)

    drawn = _one_per_source(source, labelled, generator)
    ranks = _stratum_order(tasks, generator)
    for number in range(tasks.num_tasks):
        rows = drawn[task[drawn] == number]
        rows = rows[np.argsort(ranks[rows], kind="stable")]
        num_test, num_validation = _part_sizes(len(rows), test, validation)
        taken = _systematic(len(rows), num_test, generator)
        part[rows[taken]] = _TEST
        rows = np.delete(rows, taken)
        part[rows[_systematic(len(rows), num_validation, generator)]] = _VALIDATION
    part = _follow(part, drawn, source)

    # A class whose few samples all left for the other parts, or a task whose samples left with
    # their sources, gets one back. This only ever adds to training.
    strata = [labelled & (task == number) for number in range(tasks.num_tasks)]
    if tasks.is_classification:
        y = tasks.y.cpu().numpy()
        strata += [y == label for label in range(tasks.num_classes)]
    for stratum in strata:
        if stratum.any() and not (stratum & (part == _TRAIN)).any():
            candidates = np.flatnonzero(stratum & (part == _VALIDATION))
            if not len(candidates):
                candidates = np.flatnonzero(stratum)
            part[source == source[generator.choice(candidates)]] = _TRAIN

    train, held_out, tested = (
        np.flatnonzero(part == which) for which in (_TRAIN, _VALIDATION, _TEST)
    )
    return train, held_out, tested


def shift_categories(splits: TaskSplits, category_shift: float, seed: int = 0) -> TaskSplits:
    """Take a share of every task's classes out of its training and validation parts.

    The setting of Shen, Xiao, Zhen, Snoek and Worring (Association Graph Learning for Multi-Task
    Classification with Category Shifts, NeurIPS 2022): every task is tested on all classes, and
    must learn some of them from other tasks. ``predictions.metrics(splits.train)`` tells the
    classes that a task has trained on and those that it has not apart.

    :param splits: of a classification; their test part stays as it is.
    :param category_shift: see :func:`draw_missing_classes`.
    :param seed: of the drawing.
    :returns: the three parts, as plain :class:`TaskSplits`.
    :raises InputError: for a regression, and as :func:`draw_missing_classes`.
    """
    if not splits.train.is_classification:
        raise InputError("the targets are numbers; expected classes, some of which tasks can lack.")
    counts = splits.train.class_counts.cpu().numpy()
    missing = torch.from_numpy(draw_missing_classes(counts, category_shift, seed))

    def without(tasks: TaskSet) -> TaskSet:
        lost = missing.to(tasks.y.device)[tasks.task, tasks.y]  # -1, unlabelled, stays
        return tasks.subset(~(lost & tasks.labelled))

    return TaskSplits(without(splits.train), without(splits.validation), splits.test)


def draw_missing_classes(counts: _Array, category_shift: float, seed: int) -> _Array:
    """Draw the classes that each task is to lack.

    Of n classes with training samples a task loses ``category_shift`` n, rounded down, and each
    class stays in at least one of the tasks that have it. The draw depends on which classes the
    tasks have, and not on how many samples of them.

    :param counts: ``[T, C]`` training samples of every class in every task.
    :param category_shift: the share of a task's classes, in [0, 1).
    :param seed: the same seed draws the same classes.
    :returns: ``[T, C]`` bool, what is lost.
    :raises InputError: for a share outside [0, 1), or one that leaves a class in no task.
    """
    is_number = isinstance(category_shift, Real) and not isinstance(category_shift, bool)
    if not is_number or not 0 <= category_shift < 1:
        raise InputError(
            f"category_shift is {category_shift!r}; expected a share of a task's classes in [0, 1)."
        )
    check_whole("seed", seed, 0)
    present = counts > 0
    num_tasks, sizes = len(present), present.sum(1)
    # A product such as 0.29 x 100 comes out a little below the whole number that is meant.
    kept = sizes - np.floor(category_shift * sizes + 1e-9).astype(np.int64)
    order = np.random.default_rng((seed, 2)).random(present.shape)
    order[~present] = np.inf
    # Each class takes one of the places that its tasks have for classes; then the rest is filled.
    task_of_place = np.repeat(np.arange(num_tasks), kept)
    classes = np.flatnonzero(present.any(0))
    try:
        chosen, places = linear_sum_assignment(order[task_of_place][:, classes].T)
    except ValueError:  # there is no assignment
        chosen = places = np.empty(0, dtype=np.int64)
    if len(chosen) < len(classes):
        most = math.floor(100 - 100 / num_tasks) / 100
        raise InputError(
            f"category_shift is {category_shift}, which leaves the {num_tasks} tasks no place for "
            f"each of the {len(classes)} classes; expected a smaller share: where every task has "
            f"every class, {most} or less."
        )
    order[task_of_place[places], classes] = -1
    lost: _Array = present & (order.argsort(1).argsort(1) >= kept[:, None])
    return lost


def _check_part(name: str, part: object) -> None:
    if isinstance(part, (int, np.integer)) and not isinstance(part, bool):
        if part >= 0:
            return
    elif isinstance(part, float) and 0 <= part < 1:
        return
    raise InputError(
        f"{name} is {part!r}; expected a fraction in [0, 1), or a number of samples per task."
    )


def _sources(tasks: TaskSet) -> _Array:
    if tasks.sources is None:
        return np.arange(len(tasks))
    return np.unique(tasks.sources.cpu().numpy(), return_inverse=True)[1]


def _one_per_source(source: _Array, labelled: _Array, generator: np.random.Generator) -> _Array:
    """A random labelled sample for every source that has one; the others follow it."""
    rows = generator.permutation(np.flatnonzero(labelled))
    return np.sort(rows[np.unique(source[rows], return_index=True)[1]])


def _follow(part: _Array, drawn: _Array, source: _Array) -> _Array:
    part_of_source: _Array = np.full(source.max(initial=-1) + 1, _TRAIN)
    part_of_source[source[drawn]] = part[drawn]
    followed: _Array = part_of_source[source]
    return followed


def _stratum_order(tasks: TaskSet, generator: np.random.Generator) -> _Array:
    """A rank per sample: sorted by it, a task's samples lie class by class or by target."""
    y = tasks.y.cpu().numpy()
    tie_break = generator.random(len(y))
    if tasks.is_classification:
        # The classes lie in an order of chance for each task: samples that are every so many
        # places apart would else come from the same classes in every task.
        places = generator.permuted(
            np.tile(np.arange(tasks.num_classes), (tasks.num_tasks, 1)), axis=1
        )
        level: _Array = places[tasks.task.cpu().numpy(), y]  # -1, unlabelled, is never looked at
    else:
        outputs = y.reshape(len(y), tasks.num_outputs).astype(np.float64)
        known = outputs[tasks.labelled.cpu().numpy()]
        spread = known.std(axis=0) if len(known) else np.ones(tasks.num_outputs)
        # What the outputs are centred at does not change the order.
        level = (outputs / np.where(spread > 0, spread, 1)).mean(axis=1)
    rank = np.empty(len(y), dtype=np.int64)
    rank[np.lexsort((tie_break, level))] = np.arange(len(y))
    return rank


def _part_sizes(num_samples: int, test: float | int, validation: float | int) -> tuple[int, int]:
    numbers = [
        int(part * num_samples + 0.5) if isinstance(part, float) else min(part, num_samples)
        for part in (test, validation)
    ]
    while sum(numbers) > max(num_samples - 1, 0):
        # One sample stays for training; the larger part gives way, validation before test.
        numbers[0 if numbers[0] > numbers[1] else 1] -= 1
    return numbers[0], numbers[1]


def _systematic(num_samples: int, number: int, generator: np.random.Generator) -> _Array:
    """``number`` of ``num_samples`` places, evenly spaced from a random start."""
    if number == 0:
        return np.empty(0, dtype=np.int64)
    places = (generator.random() + np.arange(number)) * num_samples / number
    taken: _Array = np.minimum(places.astype(np.int64), num_samples - 1)
    return taken
