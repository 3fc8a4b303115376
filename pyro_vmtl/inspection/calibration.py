"""Do the stated probabilities come true? Per task and pooled, for classes and for real targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binom

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.metrics import calibration_range
from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inspection.scored import (
    binomial_interval,
    by_task,
    classified,
    labelled_rows,
    regressed,
)

__all__ = [
    "LEVELS",
    "calibration_table",
    "expected_calibration_error",
    "interval_coverage",
    "pit_histogram",
    "pit_values",
    "reliability",
]

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Levels of predictive intervals that are looked at by default."""


def reliability(
    predictions: Predictions, bins: int = 15, task: str | None = None, level: float = 0.95
) -> pd.DataFrame:
    """The reliability diagram of a classification, as a table.

    The samples are binned by the probability of their most probable class, in ``bins`` equal
    widths; only bins with samples have a row.

    :param task: of this task only; None, of all tasks pooled.
    :param level: of the intervals of the accuracy (Jeffreys).
    :return: ``bin_low, bin_high, samples, confidence`` (mean probability), ``accuracy,
        accuracy_low, accuracy_high``.
    :raises InputError: for a regression, or numbers out of range.
    """
    confidence, correct = classified(predictions, labelled_rows(predictions, task))
    return _binned(confidence, correct, bins, level)


def _binned(
    confidence: npt.NDArray[np.float64],
    correct: npt.NDArray[np.bool_],
    bins: int,
    level: float = 0.95,
) -> pd.DataFrame:
    if bins < 1:
        raise InputError(f"bins is {bins}; expected at least 1.")
    # Bins are closed below, as those of the metric `ece`.
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    samples = np.bincount(place, minlength=bins)
    hits = np.bincount(place, correct, minlength=bins)
    total = np.bincount(place, confidence, minlength=bins)
    kept = samples > 0
    low, high = binomial_interval(hits[kept], samples[kept], level)
    return pd.DataFrame(
        {
            "bin_low": edges[:-1][kept],
            "bin_high": edges[1:][kept],
            "samples": samples[kept],
            "confidence": total[kept] / samples[kept],
            "accuracy": hits[kept] / samples[kept],
            "accuracy_low": low,
            "accuracy_high": high,
        }
    )


def expected_calibration_error(table: pd.DataFrame) -> float:
    """The mean distance of accuracy from confidence over the bins, weighted by their samples.

    :param table: of :func:`reliability`.
    """
    share = table["samples"] / table["samples"].sum()
    return float((share * (table["accuracy"] - table["confidence"]).abs()).sum())


def interval_coverage(
    predictions: Predictions,
    levels: Sequence[float] = LEVELS,
    task: str | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """How often the targets of a regression lie in their central predictive intervals.

    The ends of an interval are quantiles of the predictive draws (Weibull's, so that an interval of
    S draws holds one more draw with the stated probability).

    :param levels: the stated shares.
    :param task: of this task only; None, of all tasks pooled.
    :param level: of the intervals of the coverage (Jeffreys; outputs count as samples).
    :return: ``level, coverage, coverage_low, coverage_high, samples``.
    :raises InputError: for a classification, or levels out of range.
    """
    wrong = [value for value in levels if not 0 < value < 1]
    if wrong:
        raise InputError(f"an interval's level is {wrong[0]}; expected a share between 0 and 1.")
    targets, _, draws = regressed(predictions, labelled_rows(predictions, task))
    stated = np.asarray(levels, dtype=float)
    lower = np.quantile(draws, (1 - stated) / 2, axis=0, method="weibull")
    upper = np.quantile(draws, (1 + stated) / 2, axis=0, method="weibull")
    inside = ((lower <= targets) & (targets <= upper))[:, ~np.isnan(targets)]
    low, high = binomial_interval(inside.sum(-1), inside.shape[1], level)
    return pd.DataFrame(
        {
            "level": stated,
            "coverage": inside.mean(-1),
            "coverage_low": low,
            "coverage_high": high,
            "samples": inside.shape[1],
        }
    )


def pit_values(
    predictions: Predictions, task: str | None = None, seed: int = 0
) -> npt.NDArray[np.float64]:
    """The probability integral transform of every target of a regression, in (0, 1).

    The rank of the target among its S predictive draws, spread uniformly within its step
    (randomised): uniform over samples if the predictions are calibrated.

    :param task: of this task only; None, of all tasks pooled.
    :param seed: of the randomisation.
    :return: ``[n]``, one for each output that is known.
    :raises InputError: for a classification.
    """
    targets, _, draws = regressed(predictions, labelled_rows(predictions, task))
    generator = np.random.default_rng(seed)
    below = (draws < targets).sum(0)
    equal = (draws == targets).sum(0)
    # Ties share their steps, of which the target itself is one.
    place = below + generator.random(targets.shape) * (equal + 1)
    values: npt.NDArray[np.float64] = place / (len(draws) + 1)
    return values[~np.isnan(targets)]


def pit_histogram(
    predictions: Predictions,
    bins: int = 10,
    task: str | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """The histogram of :func:`pit_values`, and what uniform values would give.

    A hump says that intervals are too wide, a bowl that they are too narrow, a slope that the
    predictions are off to one side.

    :return: ``bin_low, bin_high, samples, density`` (1 where calibrated) and ``expected_low``,
        ``expected_high``: the central ``level`` of the density of as many uniform values.
    :raises InputError: for a classification, or numbers out of range.
    """
    if bins < 1:
        raise InputError(f"bins is {bins}; expected at least 1.")
    if not 0 < level < 1:
        raise InputError(f"level is {level}; expected a share between 0 and 1.")
    values = pit_values(predictions, task, seed)
    samples, edges = np.histogram(values, bins, (0, 1))
    tails = binom.ppf([(1 - level) / 2, (1 + level) / 2], len(values), 1 / bins)
    return pd.DataFrame(
        {
            "bin_low": edges[:-1],
            "bin_high": edges[1:],
            "samples": samples,
            "density": samples * bins / len(values),
            "expected_low": tails[0] * bins / len(values),
            "expected_high": tails[1] * bins / len(values),
        }
    )


def calibration_table(
    predictions: Predictions,
    bins: int = 15,
    coverage: float = 0.9,
    level: float = 0.95,
    draws: int = 300,
    seed: int = 0,
) -> pd.DataFrame:
    """A row per task, then the pooled samples: how far stated and observed shares are apart.

    Classification: ``samples, accuracy, confidence, ece`` and the range ``ece_low, ece_high`` in
    which perfectly calibrated predictions with these probabilities would score
    (:func:`pyro_vmtl.inference.calibration_range`). Regression: ``samples, coverage`` of the
    central intervals of one stated share, with its interval ``coverage_low, coverage_high``, and
    ``coverage_error``, the mean distance of coverage from the stated share over :data:`LEVELS`.

    :param bins: of ECE.
    :param coverage: the stated share of the intervals of a regression.
    :param level: of the ranges and intervals.
    :param draws: simulated sets of outcomes per task, for the range of ECE.
    :param seed: of them.
    """
    rows = []
    for part in by_task(predictions):
        task = None if part.name not in predictions.tasks.names else part.name
        if predictions.tasks.is_classification:
            confidence, correct = classified(predictions, part.rows)
            low, high = calibration_range(predictions.mean[part.rows], bins, draws, seed, level)
            rows.append(
                {
                    "task": part.name,
                    "samples": len(part.rows),
                    "accuracy": correct.mean(),
                    "confidence": confidence.mean(),
                    "ece": expected_calibration_error(_binned(confidence, correct, bins)),
                    "ece_low": low,
                    "ece_high": high,
                }
            )
        else:
            table = interval_coverage(predictions, (*LEVELS, coverage), task, level)
            stated = table.iloc[-1]
            error = (table["coverage"] - table["level"]).abs().iloc[:-1].mean()
            rows.append(
                {
                    "task": part.name,
                    "samples": len(part.rows),
                    "coverage": stated["coverage"],
                    "coverage_low": stated["coverage_low"],
                    "coverage_high": stated["coverage_high"],
                    "coverage_error": error,
                }
            )
    return pd.DataFrame(rows).set_index("task")
