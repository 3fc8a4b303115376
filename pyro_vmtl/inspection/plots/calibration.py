"""Pictures of calibration: reliability diagrams, coverage, and PIT histograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inspection.calibration import (
    LEVELS,
    calibration_table,
    expected_calibration_error,
    interval_coverage,
    pit_histogram,
    reliability,
)
from pyro_vmtl.inspection.plots.labels import legend_above, name_ticks
from pyro_vmtl.inspection.plots.palette import COLOURS, GREY, axes_of
from pyro_vmtl.inspection.scored import ALL_TASKS

__all__ = ["plot_calibration", "plot_coverage", "plot_pit", "plot_reliability"]


def _title(ax: Axes, task: str | None, text: str) -> None:
    ax.set_title(f"{ALL_TASKS if task is None else task}: {text}", fontsize=10)


def plot_reliability(
    predictions: Predictions,
    ax: Axes | None = None,
    bins: int = 15,
    task: str | None = None,
) -> Axes:
    """Stated against observed shares: on the diagonal where they agree.

    Classification: the accuracy of the samples in each bin of their confidence, with its 95%
    interval and, below, the share of samples in the bin; the title gives the ECE. Regression: the
    coverage of central predictive intervals (:func:`plot_coverage`).

    :param predictions: of labelled samples.
    :param ax: where to draw; None, on a new figure.
    :param bins: of the confidence.
    :param task: of this task only; None, of all tasks pooled.
    """
    if not predictions.tasks.is_classification:
        return plot_coverage(predictions, ax, task=task)
    table = reliability(predictions, bins, task)
    ax = axes_of(ax, 4.4, 4.2)
    width = 1 / bins
    share = table["samples"] / table["samples"].sum()
    ax.bar(
        table["bin_low"],
        share,
        width,
        align="edge",
        color=GREY,
        alpha=0.3,
        label="share of samples",
    )
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    around = np.stack(
        [
            table["accuracy"] - table["accuracy_low"],
            table["accuracy_high"] - table["accuracy"],
        ]
    )
    ax.errorbar(
        table["confidence"],
        table["accuracy"],
        around,
        fmt="o",
        ms=4,
        capsize=2,
        color=COLOURS[0],
        label="accuracy, 95% interval",
    )
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("confidence")
    ax.set_ylabel("accuracy")
    _title(ax, task, f"ECE {expected_calibration_error(table):.3f}")
    ax.legend(fontsize=8, loc="upper left")
    return ax


def plot_coverage(
    predictions: Predictions,
    ax: Axes | None = None,
    levels: Sequence[float] = LEVELS,
    task: str | None = None,
) -> Axes:
    """How often targets lie in their central predictive intervals, against the stated share.

    Below the diagonal intervals are too narrow. The band is the 95% interval of the coverage.

    :param predictions: of a regression.
    :param levels: the stated shares.
    :param task: of this task only; None, of all tasks pooled.
    :raises InputError: for a classification.
    """
    table = interval_coverage(predictions, levels, task)
    ax = axes_of(ax, 4.4, 4.2)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    ax.fill_between(
        table["level"],
        table["coverage_low"],
        table["coverage_high"],
        color=COLOURS[0],
        alpha=0.25,
        lw=0,
        label="95% interval",
    )
    ax.plot(table["level"], table["coverage"], "o-", ms=4, color=COLOURS[0], label="coverage")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("stated share of the interval")
    ax.set_ylabel("share of targets inside")
    _title(ax, task, f"{table['samples'].iloc[0]} targets")
    ax.legend(fontsize=8, loc="upper left")
    return ax


def plot_pit(
    predictions: Predictions,
    ax: Axes | None = None,
    bins: int = 10,
    task: str | None = None,
) -> Axes:
    """The histogram of the probability integral transform: flat where calibrated.

    A hump says that intervals are too wide, a bowl that they are too narrow, a slope that
    predictions are off to one side. The band holds 95% of the bars of calibrated predictions.

    :param predictions: of a regression.
    :param task: of this task only; None, of all tasks pooled.
    :raises InputError: for a classification.
    """
    table = pit_histogram(predictions, bins, task)
    ax = axes_of(ax, 4.4, 3.4)
    ax.bar(
        table["bin_low"],
        table["density"],
        1 / bins,
        align="edge",
        color=COLOURS[5],
        edgecolor="white",
    )
    ax.axhspan(
        table["expected_low"].iloc[0],
        table["expected_high"].iloc[0],
        color=GREY,
        alpha=0.3,
        lw=0,
        label="95% of calibrated bars",
    )
    ax.axhline(1, color=GREY, linestyle=":")
    ax.set_xlim(0, 1)
    ax.set_xlabel("probability integral transform")
    ax.set_ylabel("density")
    _title(ax, task, f"{table['samples'].sum()} targets")
    ax.legend(fontsize=8, loc="lower center")
    return ax


def plot_calibration(
    predictions: Predictions, ax: Axes | None = None, coverage: float = 0.9
) -> Axes:
    """A row per task, and the pooled samples: is its calibration within what chance allows?

    Classification: the ECE of each task (dot) and the range in which perfectly calibrated
    predictions would score (bar). Regression: the coverage of intervals of one stated share (dotted
    line), with its 95% interval.

    :param coverage: the stated share of the intervals of a regression.
    """
    table = calibration_table(predictions, coverage=coverage)
    ax = axes_of(ax, 5.5, float(np.clip(0.2 * len(table) + 1.3, 2.6, 12.5)))
    places = np.arange(len(table))
    if predictions.tasks.is_classification:
        _rows(ax, table, places, "ece", "range if calibrated", "ECE", GREY)
        ax.set_xlim(left=0)
        ax.set_xlabel("expected calibration error")
    else:
        _rows(ax, table, places, "coverage", "95% interval", "coverage", COLOURS[5])
        ax.axvline(coverage, color="black", linestyle=":", lw=1)
        ax.set_xlim(right=1.01)
        ax.set_xlabel(f"share of targets in their {100 * coverage:g}% interval")
    ax.axhline(len(table) - 1.5, color=GREY, lw=0.5)  # the pooled samples stand apart
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.grid(axis="x", alpha=0.3)
    legend_above(ax)
    name_ticks(ax, "y", [str(name) for name in table.index], always=[len(table) - 1])
    return ax


def _rows(
    ax: Axes,
    table: pd.DataFrame,
    places: np.ndarray[tuple[int], np.dtype[np.int64]],
    value: str,
    bar: str,
    dot: str,
    colour: str,
) -> None:
    low, high = table[f"{value}_low"], table[f"{value}_high"]
    ax.hlines(places, low, high, color=colour, lw=4, alpha=0.5, label=bar)
    ax.plot(table[value], places, "o", ms=5, color=COLOURS[0], label=dot)
