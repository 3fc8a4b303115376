"""How sure the predictions are, what of it more data could mend, and whether it can be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inspection.scored import (
    by_task,
    classified,
    labelled_rows,
    regressed,
    rows_of,
    task_names,
)

__all__ = [
    "KINDS",
    "Kind",
    "extreme_samples",
    "predictive_bands",
    "risk_coverage",
    "sample_uncertainty",
    "uncertainty_table",
]

Kind: TypeAlias = Literal["total", "aleatoric", "epistemic"]
KINDS: tuple[Kind, ...] = ("total", "aleatoric", "epistemic")


def sample_uncertainty(predictions: Predictions, by: Kind = "total") -> npt.NDArray[np.float64]:
    """One uncertainty of every sample, ``[N]``: nats, or the mean variance over outputs.

    :raises InputError: for a kind that there is not.
    """
    if by not in KINDS:
        raise InputError(f"the kind of uncertainty is {by!r}; expected one of {list(KINDS)}.")
    values = getattr(predictions, by).double().cpu().numpy()
    averaged: npt.NDArray[np.float64] = values.reshape(len(values), -1).mean(-1)
    return averaged


def _errors(predictions: Predictions, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """1 where the predicted class did not come, or the mean squared error over outputs."""
    if predictions.tasks.is_classification:
        _, correct = classified(predictions, rows)
        return (~correct).astype(float)
    targets = predictions.tasks.y.double().cpu().numpy()[rows].reshape(len(rows), -1)
    means = predictions.mean.double().cpu().numpy()[rows].reshape(len(rows), -1)
    squared: npt.NDArray[np.float64] = np.nanmean(np.square(targets - means), -1)
    return squared


def uncertainty_table(predictions: Predictions) -> pd.DataFrame:
    """The mean uncertainty of a row per task, then of the pooled samples, and the mean error.

    :return: ``samples, total, aleatoric, epistemic, epistemic_share`` (of the total) and
        ``error_rate``, or for a regression ``mse``. In nats, or the target's unit squared.
    """
    tasks = predictions.tasks
    error = "error_rate" if tasks.is_classification else "mse"
    values = {kind: sample_uncertainty(predictions, kind) for kind in KINDS}
    rows = []
    for part in by_task(predictions):
        row: dict[str, object] = {"task": part.name, "samples": len(part.rows)}
        row |= {kind: values[kind][part.rows].mean() for kind in KINDS}
        row[error] = _errors(predictions, part.rows).mean()
        rows.append(row)
    table = pd.DataFrame(rows).set_index("task")
    share = table["epistemic"] / table["total"].where(table["total"] > 0)
    table.insert(4, "epistemic_share", share)
    return table


def risk_coverage(
    predictions: Predictions, by: Kind = "total", task: str | None = None
) -> pd.DataFrame:
    """Selective prediction: the error on the share of samples that the model is surest of.

    The samples come in order of their uncertainty; those with the same uncertainty are accepted
    together.

    :param by: the uncertainty to accept by.
    :param task: of this task only; None, of all tasks pooled.
    :return: ``coverage`` (the share of samples accepted), ``risk`` (their error rate, or mean
        squared error), ``threshold`` (the largest uncertainty accepted). ``attrs["area"]`` is the
        mean risk over acceptances of 1, 2, ... samples, ``attrs["best_area"]`` that of the best
        order there is.
    :raises InputError: if nothing is labelled.
    """
    rows = labelled_rows(predictions, task)
    values = sample_uncertainty(predictions, by)[rows]
    order = np.argsort(values, kind="stable")
    values, errors = values[order], _errors(predictions, rows)[order]
    count = np.arange(1, len(values) + 1)
    last = np.append(values[1:] != values[:-1], True)  # the last of those that are equal
    table = pd.DataFrame(
        {
            "coverage": count[last] / len(values),
            "risk": (errors.cumsum() / count)[last],
            "threshold": values[last],
        }
    )
    # Among equals any order is as good as another: each takes the mean of theirs.
    group = np.concatenate([[0], last.cumsum()[:-1]])
    fair = (np.bincount(group, errors) / np.bincount(group))[group]
    table.attrs["area"] = float((fair.cumsum() / count).mean())
    table.attrs["best_area"] = float((np.sort(errors).cumsum() / count).mean())
    return table


def extreme_samples(
    predictions: Predictions,
    number: int = 8,
    by: Kind = "total",
    task: str | None = None,
) -> pd.DataFrame:
    """The samples that the model is surest of, and those that it is least sure of.

    Samples without a label count as well: they have an uncertainty.

    :param number: of each.
    :param by: the uncertainty to choose by.
    :param task: of this task only; None, of all tasks.
    :return: ``which`` (``most certain``, ``least certain``), ``sample`` (its row in the task set),
        ``task, target, prediction, uncertainty``; the most extreme first. Of several outputs,
        target and prediction are tuples.
    :raises InputError: for numbers out of range, or a task that there is not.
    """
    if number < 1:
        raise InputError(f"number is {number}; expected at least 1.")
    rows = rows_of(predictions, task)
    values = sample_uncertainty(predictions, by)
    order = rows[np.argsort(values[rows], kind="stable")]
    number = min(number, len(order))
    chosen = np.concatenate([order[:number], order[::-1][:number]])
    targets, predicted = _shown(predictions, chosen)
    return pd.DataFrame(
        {
            "which": ["most certain"] * number + ["least certain"] * number,
            "sample": chosen,
            "task": task_names(predictions, chosen),
            # As objects: a missing target stays None beside text.
            "target": pd.Series(targets, dtype=object),
            "prediction": pd.Series(predicted, dtype=object),
            "uncertainty": values[chosen],
        }
    )


def _shown(
    predictions: Predictions, rows: npt.NDArray[np.int64]
) -> tuple[Sequence[object], Sequence[object]]:
    """Targets and predictions as their user knows them: None where there is no label."""
    tasks = predictions.tasks
    y, mean = tasks.y.cpu()[rows], predictions.mean.cpu()[rows]
    if tasks.classes is not None:
        names = (*tasks.classes, None)  # -1, a missing label, picks the None
        return [names[c] for c in y.tolist()], [names[c] for c in mean.argmax(-1).tolist()]
    if y.dim() == 1:
        return y.tolist(), mean.tolist()
    return [tuple(row) for row in y.tolist()], [tuple(row) for row in mean.tolist()]


def predictive_bands(
    predictions: Predictions,
    task: str | None = None,
    levels: Sequence[float] = (0.5, 0.9),
    output: str | None = None,
) -> pd.DataFrame:
    """Central predictive intervals of the samples of a regression, by their predicted mean.

    :param task: of this task only; None, of all tasks.
    :param levels: the stated shares.
    :param output: which of several outputs; None, the first.
    :return: a row per sample, the smallest mean first: ``sample`` (its row in the task set),
        ``task, target`` (NaN without a label), ``mean``, and for every level ``low_50, high_50``,
        ...
    :raises InputError: for a classification, an output that there is not, or levels out of range.
    """
    wrong = [value for value in levels if not 0 < value < 1]
    if wrong:
        raise InputError(f"an interval's level is {wrong[0]}; expected a share between 0 and 1.")
    rows = rows_of(predictions, task)
    targets, means, draws = regressed(predictions, rows)
    outputs = predictions.tasks.outputs or ()
    if output is not None and output not in outputs:
        raise InputError(f"there is no output {output!r}; expected one of {list(outputs)}.")
    number = 0 if output is None else outputs.index(output)
    table = pd.DataFrame(
        {
            "sample": rows,
            "task": task_names(predictions, rows),
            "target": targets[:, number],
            "mean": means[:, number],
        }
    )
    for level in levels:
        ends = np.quantile(
            draws[..., number], [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull"
        )
        table[f"low_{100 * level:g}"], table[f"high_{100 * level:g}"] = ends
    return table.sort_values("mean", kind="stable", ignore_index=True)
