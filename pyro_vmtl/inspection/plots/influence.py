"""A picture of who gains from whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from pyro_vmtl.inspection.influence import ALONE, InfluenceKind, influence_matrix
from pyro_vmtl.inspection.plots.labels import name_ticks
from pyro_vmtl.inspection.plots.palette import DIVERGING, GREY, axes_of
from pyro_vmtl.inspection.plots.relatedness import outline_clusters
from pyro_vmtl.inspection.relatedness import Truth, true_clusters

__all__ = ["plot_influence"]

_MOST_ANNOTATED = 12
_MEANING = {
    "alone": "gain by the lender alone, nats",
    "without": "gain by it beside all others, nats",
}


def plot_influence(
    table: pd.DataFrame,
    ax: Axes | None = None,
    kind: InfluenceKind = ALONE,
    truth: Truth | None = None,
    order: Sequence[str] | None = None,
) -> Axes:
    """A heat map: what the task of a row gains by the data of the task of a column.

    Blue gains, red loses, white is 0. A gain that is two standard errors away from 0 or more has a
    dot, or is written in bold where there are at most 12 tasks and gains are written into the
    cells. Tasks that gain from each other stand together.

    :param table: of :func:`pyro_vmtl.influence`.
    :param ax: where to draw; None, on a new figure.
    :param kind: ``alone`` or ``without``.
    :param truth: the true cluster of each task; pairs of one cluster are then outlined.
    :param order: names of the tasks, in place of the order by clustering.
    :raises InputError: if the table has no such kind.
    """
    gains, low, high = (influence_matrix(table, kind, value) for value in ("gain", "low", "high"))
    given = list(gains.index)
    tasks = _order(gains) if order is None else list(order)
    values, sure = (
        part.reindex(index=tasks, columns=tasks).to_numpy()
        for part in (gains, (low > 0) | (high < 0))
    )
    side = float(np.clip(0.5 * len(tasks), 2.6, 9.0))
    ax = axes_of(ax, side + 2.4, side + 1.0)
    most = float(np.nanmax(np.abs(values), initial=1e-6))
    image = ax.imshow(np.ma.masked_invalid(values), cmap=DIVERGING, vmin=-most, vmax=most)
    ax.figure.colorbar(image, ax=ax, label=_MEANING[kind], shrink=0.8)
    name_ticks(ax, "y", tasks)
    name_ticks(ax, "x", tasks)
    ax.tick_params(length=0)
    if len(tasks) <= _MOST_ANNOTATED:
        for (row, column), value in np.ndenumerate(values):
            if np.isnan(value):
                ax.text(column, row, "–", ha="center", va="center", color=GREY)
                continue
            ax.text(
                *(column, row, f"{value:+.2f}".replace("0.", ".", 1)),
                ha="center",
                va="center",
                color="white" if abs(value) > 0.65 * most else "black",
                fontsize=6,
                fontweight="bold" if sure[row, column] else "normal",
            )
    else:
        rows, columns = np.nonzero(sure)
        ax.scatter(columns, rows, s=2, color="black")
    if truth is not None:
        outline_clusters(ax, true_clusters(truth, given).loc[tasks].to_numpy(), "black")
    ax.set_xlabel("lender")
    ax.set_ylabel("borrower")
    return ax


def _order(gains: pd.DataFrame) -> list[str]:
    """Tasks that gain from each other stand together."""
    values = gains.fillna(0.0).to_numpy()
    if len(values) < 3:
        return list(gains.index)
    apart = -(values + values.T)
    apart -= apart.min()
    np.fill_diagonal(apart, 0)
    tree = linkage(squareform(apart, checks=False), "average", optimal_ordering=True)
    return [gains.index[leaf] for leaf in leaves_list(tree)]
