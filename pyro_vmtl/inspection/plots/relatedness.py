"""Pictures of the relatedness table: who borrows from whom, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from pyro_vmtl.inspection.plots.labels import legend_above, name_ticks, note
from pyro_vmtl.inspection.plots.palette import COLOURS, GREY, SEQUENTIAL, axes_of, style_of
from pyro_vmtl.inspection.relatedness import (
    Truth,
    Value,
    chance_level,
    kind_of,
    rank_correlations,
    relatedness_auc,
    relatedness_matrix,
    relatedness_roc,
    relatedness_stability,
    site_rows,
    true_clusters,
)
from pyro_vmtl.inspection.structure import task_order
from pyro_vmtl.model import Kind

__all__ = [
    "outline_clusters",
    "plot_intervals",
    "plot_relatedness",
    "plot_relatedness_roc",
    "plot_responsibilities",
    "plot_stability",
]

_MOST_ANNOTATED = 12

_MEANING = {
    "mean": "mean relatedness",
    "sd": "standard deviation of the relatedness",
    "hdi_low": "lower end of the interval",
    "hdi_high": "upper end of the interval",
    "probability": "probability that the lender is picked",
    "responsibility": "responsibility of the lender",
}


def plot_relatedness(
    table: pd.DataFrame,
    ax: Axes | None = None,
    site: str = "weights",
    value: Value = "probability",
    truth: Truth | None = None,
    order: Sequence[str] | None = None,
) -> Axes:
    """A heat map: how much the task of a row borrows from the task of a column.

    Rows and columns are ordered so that tasks that borrow from each other stand together; a task's
    own entry is blank, and ``base`` stands apart on the right. Numbers are written into the cells
    of up to 12 tasks. Equal weights, or gates as open as shut, have the colour in the middle of the
    bar or a darker one.

    :param table: of :func:`pyro_vmtl.inspection.relatedness`.
    :param ax: where to draw; None, on a new figure.
    :param value: the column of the table to show.
    :param truth: the true cluster of each task; pairs of one cluster are then outlined.
    :param order: names of the tasks, in place of the order by clustering.
    :raises InputError: if the table has no such site or value.
    """
    matrix = relatedness_matrix(table, site, value)
    given = list(matrix.index)
    tasks = task_order(table, site) if order is None else list(order)
    others = tasks + [name for name in matrix.columns if name not in given]
    matrix = matrix.reindex(index=tasks, columns=others)
    side = float(np.clip(0.45 * len(tasks), 2.6, 9.0))
    ax = axes_of(ax, side * len(others) / len(tasks) + 2.4, side + 1.0)
    values = matrix.to_numpy()
    if np.isnan(values).all():
        return note(ax, f"There is no {value} to show: this prior is not a mixture.")
    low, high = _colour_range(table, site, value)
    image = ax.imshow(np.ma.masked_invalid(values), cmap=SEQUENTIAL, vmin=low, vmax=high)
    ax.figure.colorbar(image, ax=ax, label=_meaning(value, kind_of(table, site)), shrink=0.8)
    name_ticks(ax, "y", tasks)
    name_ticks(ax, "x", others, always=range(len(tasks), len(others)))
    ax.tick_params(length=0)
    if len(others) > len(tasks):
        ax.axvline(len(tasks) - 0.5, color="white", linewidth=3)
    if len(tasks) <= _MOST_ANNOTATED:
        _annotate(ax, values, (low + high) / 2)
    if truth is not None:
        outline_clusters(ax, true_clusters(truth, given).loc[tasks].to_numpy())
    ax.set_xlabel("borrows from")
    ax.set_ylabel("task")
    return ax


def _colour_range(table: pd.DataFrame, site: str, value: Value) -> tuple[float, float]:
    """Such that what is the case before any data has the colour in the middle."""
    values = site_rows(table, site)[value]
    if kind_of(table, site) != "weights" and value != "sd":
        away = max(0.25, float((values - 0.5).abs().max()))
        return 0.5 - away, 0.5 + away
    return 0.0, max(float(values.max()), 2 * chance_level(table, site))


def _meaning(value: Value, kind: Kind) -> str:
    if kind != "weights" and value == "probability":
        return "chance that the two are related"
    return _MEANING[value]


def _annotate(ax: Axes, values: npt.NDArray[np.float64], middle: float) -> None:
    size = 8 if len(values) <= 8 else 7
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            ax.text(column, row, "–", ha="center", va="center", color=GREY)
            continue
        text = f"{value:.2f}".removeprefix("0")
        if value >= 0.995:  # only what is 1 is written as 1
            text = ">.99" if value < 1 else f"{value:.0f}"
        colour = "white" if value < middle else "black"
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def outline_clusters(ax: Axes, clusters: npt.NDArray[np.object_], colour: str = COLOURS[1]) -> None:
    """A line between every pair of neighbouring cells of which one is of one cluster only."""
    related = np.pad(clusters[:, None] == clusters[None, :], 1, constant_values=False)
    # A cluster of a single task has no pair to outline.
    alone = (related.sum(1) == 1)[:, None] & related
    related &= ~alone
    lines = []
    for row, column in np.argwhere(related[1:] != related[:-1]):
        lines.append([(column - 1.5, row - 0.5), (column - 0.5, row - 0.5)])
    for row, column in np.argwhere(related[:, 1:] != related[:, :-1]):
        lines.append([(column - 0.5, row - 1.5), (column - 0.5, row - 0.5)])
    ax.add_collection(LineCollection(lines, colors=colour, linewidths=2), autolim=False)


def _pairs(table: pd.DataFrame, site: str, task: str | None) -> pd.DataFrame:
    rows = site_rows(table, site, task)
    label = rows["other"] if task is not None else rows["task"] + " ← " + rows["other"]
    return rows.assign(pair=label)


def _rows_axes(ax: Axes | None, count: int) -> Axes:
    return axes_of(ax, 6.0, float(np.clip(0.24 * count + 1.2, 2.4, 12.0)))


def _finish_rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_ylim(len(names) - 0.5, -0.5)  # the first row on top
    name_ticks(ax, "y", names)
    ax.grid(axis="x", alpha=0.3)


def plot_intervals(
    table: pd.DataFrame,
    ax: Axes | None = None,
    site: str = "weights",
    task: str | None = None,
    most: int = 30,
) -> Axes:
    """Every pair's posterior interval of relatedness, the largest mean first.

    The dotted line is the relatedness before any data: equal weights, or gates as open as shut.
    Where model and guide share their logits, the axis says that the interval is noise of the
    relaxation.

    :param task: only what this task borrows; None, all pairs (``task ← lender``).
    :param most: rows at most.
    :raises InputError: if the table has no such site or task.
    """
    rows = _pairs(table, site, task).sort_values("mean", ascending=False, kind="stable").head(most)
    ax = _rows_axes(ax, len(rows))
    places = np.arange(len(rows))
    ax.hlines(places, rows["hdi_low"], rows["hdi_high"], color=COLOURS[0], lw=2)
    ax.plot(rows["mean"], places, "o", color=COLOURS[0], ms=4, label="mean and interval")
    ax.plot(rows["probability"], places, "|", color=COLOURS[1], ms=9, mew=2, label="probability")
    ax.axvline(chance_level(table, site), color=GREY, linestyle=":", label="before any data")
    noise = " (noise of the relaxation)" if (rows["draws_of"] == "relaxation").any() else ""
    ax.set_xlabel("relatedness" + noise)
    ax.set_xlim(-0.02, 1.02)
    legend_above(ax)
    _finish_rows(ax, list(rows["pair"]))
    return ax


def plot_responsibilities(
    table: pd.DataFrame,
    ax: Axes | None = None,
    site: str = "weights",
    task: str | None = None,
    most: int = 30,
) -> Axes:
    """The relatedness (alpha) beside the responsibilities: where the prior really came from.

    The pairs in which the larger of the two is largest come first.

    :param task: only what this task borrows; None, all pairs (``task ← lender``).
    :param most: rows at most.
    :raises InputError: if the table has no such site or task.
    """
    rows = _pairs(table, site, task)
    if rows["responsibility"].isna().all():
        return note(axes_of(ax), "This prior is not a mixture: it has no responsibilities.")
    larger = rows[["probability", "responsibility"]].max(axis=1)
    rows = rows.loc[larger.sort_values(ascending=False, kind="stable").index].head(most)
    ax = _rows_axes(ax, len(rows))
    places = np.arange(len(rows))
    ax.hlines(places, rows["probability"], rows["responsibility"], color=GREY, lw=1)
    ax.plot(rows["probability"], places, "o", color=COLOURS[0], ms=5, label="probability (alpha)")
    ax.plot(rows["responsibility"], places, "D", color=COLOURS[1], ms=5, label="responsibility")
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel("share of the prior")
    legend_above(ax)
    _finish_rows(ax, list(rows["pair"]))
    return ax


def plot_relatedness_roc(
    table: pd.DataFrame, truth: Truth, ax: Axes | None = None, site: str = "weights"
) -> Axes:
    """The ROC curve of relatedness against the true clusters, over pairs of tasks.

    :param truth: the true cluster of each task, in the table's order of tasks or by name.
    :raises InputError: if the truth does not name a cluster for every task.
    """
    ax = axes_of(ax, 4.2, 4.0)
    curve = relatedness_roc(table, truth, site)
    if curve.empty:
        return note(ax, "A ROC curve needs pairs of related and of unrelated tasks.")
    area = relatedness_auc(table, truth, site)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    ax.plot(
        curve["false_positive"],
        curve["true_positive"],
        label=f"{site}: AUC {area:.2f}",
        **style_of(0),
    )
    ax.set_xlabel("share of unrelated pairs above the threshold")
    ax.set_ylabel("share of related pairs above it")
    ax.set_aspect("equal")
    ax.legend(fontsize=8, loc="lower right")
    return ax


def plot_stability(
    tables: Mapping[int, pd.DataFrame],
    ax: Axes | None = None,
    site: str = "weights",
    most: int = 30,
) -> Axes:
    """The relatedness of each pair in fits that differ in their seed: a dot per fit.

    The pairs with the largest mean come first; the title gives the mean rank correlation between
    two fits, over all pairs.

    :param tables: relatedness tables of the same tasks, by seed.
    :param most: rows at most.
    :raises InputError: if there are fewer than two tables, or their pairs differ.
    """
    stable = relatedness_stability(tables, site)
    rows = stable.sort_values("mean", ascending=False, kind="stable").head(most)
    ax = _rows_axes(ax, len(rows))
    places = np.arange(len(rows))
    ax.hlines(places, rows["low"], rows["high"], color=GREY, lw=1)
    for number, seed in enumerate(tables):
        colour = style_of(number)["color"]
        ax.plot(rows[f"seed {seed}"], places, "o", ms=4, color=colour, alpha=0.8)
    agreement = rank_correlations(tables, site)
    off = agreement.to_numpy()[np.triu_indices(len(agreement), 1)]
    if np.isfinite(off).any():
        text = f"{len(tables)} seeds, mean rank correlation {np.nanmean(off):.2f}"
        ax.set_title(text, fontsize=9)
    ax.set_xlabel("probability, one dot per seed")
    _finish_rows(ax, list(rows["task"] + " ← " + rows["other"]))
    return ax
