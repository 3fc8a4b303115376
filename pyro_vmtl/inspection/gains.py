"""Does sharing help, and whom: each task's density against other ways to learn it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_vmtl.data import TaskSet
from pyro_vmtl.inference import FittedVMTL, fit
from pyro_vmtl.inference.cavities import settled
from pyro_vmtl.inspection.closed_form import check_closed_form
from pyro_vmtl.inspection.leave_one_out import leave_one_out
from pyro_vmtl.inspection.scored import ALL_TASKS
from pyro_vmtl.model import Nested

__all__ = [
    "BASE_RATE",
    "COMPLETE_POOLING",
    "MOST_LENDERS",
    "NO_POOLING",
    "WITHOUT",
    "gains",
    "gains_doubts",
]

BASE_RATE, NO_POOLING, COMPLETE_POOLING = "base rate", "no pooling", "complete pooling"
WITHOUT = "without a task"

MOST_LENDERS = 30
"""Tasks up to which each is taken out of a run's model in turn."""

_RIVALS = {
    # Every task by itself, with scales of the weights that all share; and all tasks as one.
    NO_POOLING: Nested(mean=False, clusters=False),
    COMPLETE_POOLING: Nested(clusters=False, deviation="none"),
}

_Array = npt.NDArray[Any]


def gains(
    fitted: FittedVMTL, train: TaskSet, heldout: TaskSet | None = None, seed: int = 0
) -> pd.DataFrame:
    """How much better each task is predicted than it would be by itself, or as one with all.

    Densities are those of the training samples, each given all others (:func:`leave_one_out`), or
    those of held-out samples. The rivals are fitted here, in closed form and with the
    likelihood that the model has:

    - ``base rate``: the frequencies of the classes, or a Gaussian with the mean and variance of the
      targets, over all tasks; features say nothing;
    - ``no pooling``: every task by itself; scales of weights and noise alone are learned together;
    - ``complete pooling``: one regression for all tasks;
    - ``without a task``: the model with the data of one other task taken out, partition and scales
      as they were drawn; from leave-one-out densities only, and of at most 30 tasks.

    Example::

        table = pv.gains(fitted, splits.train)
        table[table["against"] == "no pooling"]

    :param fitted: a model with the pool Nested and an encoder that takes no gradient.
    :param train: what it was trained on.
    :param heldout: labelled samples of the same tasks, or None for leave-one-out.
    :param seed: of the rivals' fits.
    :return: a row for each task, and for all of them, and each ``against``: ``other``, the task
        that was taken out; ``samples``; ``gain``, the mean difference in log density a sample, in
        nats: above 0 sharing helps; ``se``, its standard error, from the scatter of the paired
        differences, NaN for fewer than two samples.
    :raises InputError: for another model, or other tasks.
    """
    check_closed_form("gains", fitted, train, heldout)

    def densities(of: FittedVMTL) -> _Array:
        if heldout is None:
            return leave_one_out(of.vmtl, train).log_density
        found: _Array = of.predict(heldout, seed=seed).log_density.double().numpy()
        return found

    scored = train if heldout is None else heldout
    task = scored.task.cpu().numpy()
    ours = densities(fitted)
    rivals = {BASE_RATE: _base_rate(train, heldout, fitted.vmtl.likelihood.is_binary)}
    likelihood = fitted.settings.likelihood_of(train.is_classification)
    for against, pool in _RIVALS.items():
        settings = dataclasses.replace(
            fitted.settings, pool=pool, classifier=None, likelihood=likelihood
        )
        rivals[against] = densities(fit(train, settings=settings, seed=seed, log_warnings=False))
    rows = []
    for against, density in rivals.items():
        away = ours - density
        rows.append(_row(ALL_TASKS, against, "", away))
        rows += [_row(name, against, "", away[task == t]) for t, name in enumerate(fitted.names)]
    if heldout is None and 1 < len(fitted.names) <= MOST_LENDERS:
        batch = train.dense().to(fitted.vmtl.device)
        vmtl = settled(fitted.vmtl, batch)
        whole = leave_one_out(vmtl, train).log_density
        for j, other in enumerate(fitted.names):
            away = whole - leave_one_out(settled(vmtl, batch, j), train).log_density
            rows.append(_row(ALL_TASKS, WITHOUT, other, away[task != j]))
            rows += [
                _row(name, WITHOUT, other, away[task == t])
                for t, name in enumerate(fitted.names)
                if t != j
            ]
    return pd.DataFrame(rows)


def _base_rate(train: TaskSet, heldout: TaskSet | None, is_binary: bool) -> _Array:
    """Log densities of targets by those of training alone, each left out where they are its own.

    :param is_binary: whether outputs are 0 or 1, each with a frequency.
    """
    scored = train if heldout is None else heldout
    own = 1 if heldout is None else 0
    density = np.full(scored.known.shape, np.nan)
    outputs = zip(*(_outputs(part) for part in (scored, train)), strict=True)
    for k, ((y, known), (values, seen)) in enumerate(outputs):
        past = values[seen]
        if train.is_classification or is_binary:
            found = _frequencies(y[known], past, train.num_classes or 2, own)
        else:
            found = _normal(y[known], past, own)
        density[known, k] = found
    summed: _Array = np.nansum(density, -1)
    summed[np.isnan(density).all(-1)] = np.nan
    return summed


def _outputs(tasks: TaskSet) -> list[tuple[_Array, _Array]]:
    """Of each output its values, ``[N]``, and where they are known."""
    y = tasks.y.cpu().numpy().reshape(tasks.known.shape).astype(np.float64)
    return list(zip(y.T, tasks.known.cpu().numpy().T, strict=True))


def _frequencies(y: _Array, past: _Array, num_classes: int, own: int) -> _Array:
    y, past = y.astype(np.int64), past.astype(np.int64)
    counts = np.bincount(past, minlength=num_classes)
    # A half more of each: a class that one sample has is possible without it.
    found: _Array = np.log((counts[y] - own + 0.5) / (len(past) - own + 0.5 * num_classes))
    return found


def _normal(y: _Array, past: _Array, own: int) -> _Array:
    centre, count = past.mean(0), len(past) - own
    sums, squares = (past - centre).sum(0), ((past - centre) ** 2).sum(0)
    away = y - centre
    mean = (sums - own * away) / max(count, 1)
    variance = (squares - own * away**2) / max(count, 1) - mean**2
    variance = np.maximum(variance, 1e-12 * squares / max(len(past), 1) + 1e-300)
    found: _Array = -0.5 * ((away - mean) ** 2 / variance + np.log(2 * np.pi * variance))
    return found


def gains_doubts(table: pd.DataFrame) -> list[str]:
    """Sentences on what sharing, or the model itself, does not gain.

    :param table: of :func:`gains`.
    """
    rows = (table["task"] == ALL_TASKS) & (table["against"] != WITHOUT)
    whole = table[rows].set_index("against")
    said = []
    base = whole.loc[BASE_RATE]
    if base["gain"] < base["se"]:
        said.append(
            f"The model predicts no better than the base rate ({_written(base)} nats a sample): "
            "the features say little of the target. Look at the columns that were taken, or for "
            "more samples."
        )
    remedies = {COMPLETE_POOLING: "recipe=complete_pooling", NO_POOLING: "pool.clusters=false"}
    for against, remedy in remedies.items():
        row = whole.loc[against]
        if row["gain"] < -2 * row["se"]:
            said.append(
                f"{against.capitalize()} predicts better ({_written(row)} nats a sample): compare "
                f"with {remedy}."
            )
    alone = table[(table["against"] == NO_POOLING) & (table["task"] != ALL_TASKS)]
    worse = alone[alone["gain"] < -2 * alone["se"]]
    if len(worse):
        names = ", ".join(f"{row['task']} ({_written(row)})" for _, row in worse.head(5).iterrows())
        more = f" and {len(worse) - 5} more" if len(worse) > 5 else ""
        said.append(
            f"By themselves {len(worse)} of {len(alone)} tasks would be predicted better, in nats "
            f"a sample: {names}{more}. Of tasks where nothing differs one in forty would."
        )
    return said


def _written(row: pd.Series) -> str:
    return f"{row['gain']:+.3f} ± {row['se']:.3f}"


def _row(task: str, against: str, other: str, difference: _Array) -> dict[str, Any]:
    known = difference[~np.isnan(difference)]
    count = len(known)
    return {
        "task": task,
        "against": against,
        "other": other,
        "samples": count,
        "gain": float(known.mean()) if count else np.nan,
        "se": float(known.std(ddof=1) / np.sqrt(count)) if count > 1 else np.nan,
    }
