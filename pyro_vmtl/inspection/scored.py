"""Predictions and the targets that came, as plain arrays of one task or of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.predict import Predictions

__all__ = [
    "ALL_TASKS",
    "Scored",
    "binomial_interval",
    "by_task",
    "classified",
    "labelled_rows",
    "regressed",
    "rows_of",
    "task_names",
]

ALL_TASKS = "all tasks"
"""What the pooled row of a table is called."""

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Scored:
    """The labelled samples of one task, or of all of them pooled.

    :ivar name: of the task, or :data:`ALL_TASKS`.
    :ivar rows: their rows in the task set, ``[n]``.
    """

    name: str
    rows: npt.NDArray[np.int64]


def rows_of(predictions: Predictions, task: str | None = None) -> npt.NDArray[np.int64]:
    """The rows of the samples of one task, or of all, labelled or not.

    :raises InputError: if there is no such task, or it has no sample; for several outputs that are
        0 or 1, which are looked at one by one.
    """
    if predictions.is_binary:
        raise InputError(
            "these are predictions of outputs that are 0 or 1; expected predictions.by_output()"
        )
    tasks = predictions.tasks
    if task is None:
        return np.arange(len(tasks))
    if task not in tasks.names:
        raise InputError(f"there is no task {task!r}; expected one of {list(tasks.names)}.")
    rows: npt.NDArray[np.int64] = np.flatnonzero(
        tasks.task.cpu().numpy() == tasks.names.index(task)
    )
    if not len(rows):
        raise InputError(f"task {task!r} has no sample; expected some to look at.")
    return rows


def labelled_rows(predictions: Predictions, task: str | None = None) -> npt.NDArray[np.int64]:
    """The rows of the labelled samples of one task, or of all.

    :raises InputError: if there is no such task, or it has no labelled sample.
    """
    rows = rows_of(predictions, task)
    rows = rows[predictions.tasks.labelled.cpu().numpy()[rows]]
    if not len(rows):
        whose = "the task set" if task is None else f"task {task!r}"
        raise InputError(f"{whose} has no labelled sample; expected some to look at.")
    return rows


def by_task(predictions: Predictions) -> list[Scored]:
    """Every task that has a labelled sample, in order, then all of them pooled."""
    tasks = predictions.tasks
    sizes = tasks.sizes.cpu().numpy()
    parts = [
        Scored(name, labelled_rows(predictions, name))
        for name, size in zip(tasks.names, sizes, strict=True)
        if size > 0
    ]
    return [*parts, Scored(ALL_TASKS, labelled_rows(predictions))]


def task_names(predictions: Predictions, rows: npt.NDArray[np.int64]) -> _Array:
    """The name of the task of every row."""
    names = np.array(predictions.tasks.names, dtype=object)
    chosen: _Array = names[predictions.tasks.task.cpu().numpy()[rows]]
    return chosen


def classified(
    predictions: Predictions, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The probability of the most probable class, and whether it came, ``[n]`` each.

    :raises InputError: if the predictions are of a regression.
    """
    if not predictions.tasks.is_classification:
        raise InputError("these are predictions of a regression; expected a classification.")
    probabilities = predictions.mean.double().cpu().numpy()[rows]
    correct = probabilities.argmax(-1) == predictions.tasks.y.cpu().numpy()[rows]
    return probabilities.max(-1).clip(0, 1), correct


def regressed(
    predictions: Predictions, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Targets and means ``[n, K]`` and draws ``[S, n, K]``; NaN for outputs that are not known.

    :raises InputError: if the predictions are of a classification, or hold no draws.
    """
    if predictions.tasks.is_classification:
        raise InputError("these are predictions of a classification; expected a regression.")
    if predictions.draws is None:
        raise InputError("the predictions hold no draws of the targets; expected some.")
    targets = predictions.tasks.y.double().cpu().numpy()[rows]
    means = predictions.mean.double().cpu().numpy()[rows]
    draws = predictions.draws.double().cpu().numpy()[:, rows]
    count = len(rows)
    return (
        targets.reshape(count, -1),
        means.reshape(count, -1),
        draws.reshape(len(draws), count, -1),
    )


def binomial_interval(
    hits: npt.ArrayLike, trials: npt.ArrayLike, level: float = 0.95
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Jeffreys' interval for a share: equal tails of Beta(hits + 1/2, misses + 1/2).

    It reaches 0 where nothing hit and 1 where all did; NaN without a trial.

    :raises InputError: if the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level}; expected a share between 0 and 1.")
    hits = np.asarray(hits, dtype=float)
    trials = np.asarray(trials, dtype=float)
    tail = (1 - level) / 2
    low = beta.ppf(tail, hits + 0.5, trials - hits + 0.5)
    high = beta.ppf(1 - tail, hits + 0.5, trials - hits + 0.5)
    low = np.where(hits == 0, 0.0, low)
    high = np.where(hits == trials, 1.0, high)
    tried = trials > 0
    return np.where(tried, low, np.nan), np.where(tried, high, np.nan)
