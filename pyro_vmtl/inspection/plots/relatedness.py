"""Pictures of the relatedness table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from pyro_vmtl.inspection.plots.palette import COLOURS, GREY, SEQUENTIAL, axes_of
from pyro_vmtl.inspection.relatedness import (
    Truth,
    Value,
    is_gated,
    relatedness_matrix,
    true_clusters,
)
from pyro_vmtl.inspection.structure import task_order

__all__ = ["plot_relatedness"]

_MOST_ANNOTATED = 12
_MOST_LABELLED = 40
_LONGEST_LABEL = 24

_MEANING = {
    "mean": "mean weight",
    "sd": "standard deviation of the weight",
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
    of up to 12 tasks.

    :param table: of :func:`pyro_vmtl.inspection.relatedness`.
    :param ax: where to draw; None, on a new figure.
    :param value: the column of the table to show.
    :param truth: the true cluster of each task; pairs of one cluster are then outlined.
    :param order: names of the tasks, in place of the order by clustering.
    :raises InputError: if the table has no such site or value.
    """
    matrix = relatedness_matrix(table, site, value)
    tasks = task_order(table, site) if order is None else list(order)
    others = tasks + [name for name in matrix.columns if name not in tasks]
    matrix = matrix.reindex(index=tasks, columns=others)
    side = float(np.clip(0.45 * len(tasks), 3.2, 9.0))
    ax = axes_of(ax, side + 2.2, side + 0.8)
    values = np.ma.masked_invalid(matrix.to_numpy())
    gated = is_gated(table, site)
    # Gates and chances share the scale 0 to 1 only where single entries come near 1.
    top = 1.0 if gated else max(float(values.max() if values.count() else 0), 1e-3)
    image = ax.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=top, aspect="equal")
    ax.set_facecolor("white")
    meaning = (
        "probability that the gate is open"
        if gated and value == "probability"
        else (_MEANING[value].replace("weight", "gate") if gated else _MEANING[value])
    )
    ax.figure.colorbar(image, ax=ax, label=meaning, shrink=0.8)
    _label(ax, tasks, others)
    if len(others) > len(tasks):
        ax.axvline(len(tasks) - 0.5, color="white", linewidth=3)
    if len(tasks) <= _MOST_ANNOTATED:
        _annotate(ax, values, top)
    if truth is not None:
        _outline(
            ax,
            true_clusters(truth, list(relatedness_matrix(table, site).index)).loc[tasks].tolist(),
        )
    ax.set_xlabel("borrows from")
    ax.set_ylabel("task")
    return ax


def shortened(name: str) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…"


def _label(ax: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    size = float(np.clip(220 / max(len(columns), 1), 5, 10))
    step = -(-len(rows) // _MOST_LABELLED)
    for axis, names in ((ax.yaxis, rows), (ax.xaxis, columns)):
        shown = [i for i, name in enumerate(names) if i % step == 0 or name not in rows]
        axis.set_ticks(shown, [shortened(names[i]) for i in shown], fontsize=size)
    wide = max(map(len, columns)) > 3
    ax.tick_params(axis="x", rotation=90 if wide else 0)
    ax.tick_params(length=0)


def _annotate(ax: Axes, values: np.ma.MaskedArray, top: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.ma.is_masked(values[row, column]):
            ax.text(column, row, "–", ha="center", va="center", color=GREY)
            continue
        text = f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"
        colour = "white" if value < 0.6 * top else "black"
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def _outline(ax: Axes, clusters: Sequence[object]) -> None:
    for row, own in enumerate(clusters):
        for column, other in enumerate(clusters):
            if own == other and row != column:
                ax.add_patch(
                    Rectangle(
                        (column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=COLOURS[1], lw=1.5
                    )
                )
