"""Pictures of the shape of the relatedness: a graph of lenders, and a tree of the tasks."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from scipy.cluster.hierarchy import dendrogram

from pyro_vmtl.inspection.plots.labels import name_ticks, note, shortened
from pyro_vmtl.inspection.plots.palette import COLOURS, GREY, SEQUENTIAL, axes_of
from pyro_vmtl.inspection.relatedness import Truth, relatedness_matrix, true_clusters
from pyro_vmtl.inspection.structure import relatedness_graph, task_linkage, task_order

__all__ = ["plot_dendrogram", "plot_relatedness_graph"]

_MOST_UPRIGHT = 14


def plot_relatedness_graph(
    table: pd.DataFrame,
    ax: Axes | None = None,
    site: str = "weights",
    strongest: int = 3,
    at_least: float | None = None,
    truth: Truth | None = None,
) -> Axes:
    """Who lends to whom: arrows from lenders to borrowers, wider for more.

    The tasks stand on a circle, next to those that they borrow from. A node is brighter the more
    independent its task is (grey where the prior has no ``base`` to decline to). Only the strongest
    lenders of each task are drawn.

    :param table: of :func:`pyro_vmtl.inspection.relatedness`.
    :param strongest: lenders of each task to draw.
    :param at_least: draw arrows of at least this probability; None, of more than before any data.
    :param truth: the true cluster of each task, drawn as the colour of the node's rim.
    :raises InputError: if the table has no such site.
    """
    graph = relatedness_graph(table, site, strongest, at_least)
    order = task_order(table, site)
    count = len(order)
    side = float(np.clip(3.4 + 0.08 * count, 3.8, 8.5))
    ax = axes_of(ax, side + 1.2, side)
    angles = np.pi / 2 - 2 * np.pi * np.arange(count) / count
    places = {
        task: (np.cos(angle), np.sin(angle)) for task, angle in zip(order, angles, strict=True)
    }
    size = float(np.clip(5000 / count, 60, 700))
    _draw_tasks(ax, graph, places, size, truth)
    if graph.number_of_edges():
        _draw_loans(ax, graph, places, size)
    else:
        ax.set_title("No task borrows more from one lender than from another.", fontsize=9)
    font = float(np.clip(60 / np.sqrt(count), 6, 10))
    away = np.sqrt(size) / 2 + 4  # points from the middle of a node to the start of its name
    for task, angle in zip(order, angles, strict=True):
        text = shortened(task, 16)
        _write_outwards(ax, text, places[task], angle, away, font, turned=count > _MOST_UPRIGHT)
    ax.set_xlim(-1.45, 1.45)
    ax.set_ylim(-1.45, 1.45)
    ax.set_aspect("equal")
    ax.set_axis_off()
    return ax


def _draw_tasks(
    ax: Axes,
    graph: nx.DiGraph,
    places: dict[str, tuple[float, float]],
    size: float,
    truth: Truth | None,
) -> None:
    tasks = list(graph)
    independence = np.array([graph.nodes[task]["independence"] for task in tasks])
    palette = ScalarMappable(Normalize(0, 1), SEQUENTIAL)
    colours = [GREY if np.isnan(value) else palette.to_rgba(value) for value in independence]
    rims: str | list[str] = "white"
    if truth is not None:
        rims = list(_cluster_colours(truth, tasks))
    nx.draw_networkx_nodes(
        graph,
        places,
        nodelist=tasks,
        ax=ax,
        node_color=colours,
        node_size=size,
        edgecolors=rims,
        linewidths=max(1.0, np.sqrt(size) / 8),
    )
    if not np.isnan(independence).all():
        ax.figure.colorbar(palette, ax=ax, label="independence", shrink=0.7)


def _draw_loans(
    ax: Axes, graph: nx.DiGraph, places: dict[str, tuple[float, float]], size: float
) -> None:
    edges = list(graph.edges.data("weight"))
    weights = np.array([weight for *_, weight in edges])
    widest = 4.0 if len(graph) <= 20 else 2.0
    nx.draw_networkx_edges(
        graph,
        places,
        edgelist=[(lender, borrower) for lender, borrower, _ in edges],
        ax=ax,
        width=list(0.2 + (widest - 0.2) * weights / weights.max()),
        edge_color=GREY,
        alpha=0.7,
        node_size=size,
        arrowsize=float(np.clip(45 / np.sqrt(len(graph)), 6, 14)),
        connectionstyle="arc3,rad=0.15",
    )


def _write_outwards(
    ax: Axes,
    text: str,
    place: tuple[float, float],
    angle: float,
    away: float,
    font: float,
    turned: bool,
) -> None:
    """A name outside the circle: upright, or running away from its middle where names are many."""
    x, y = np.cos(angle), np.sin(angle)
    left = x < -1e-9
    rotation = float(np.degrees(angle)) + (180 if left else 0) if turned else 0.0
    side = "right" if left else "left"
    vertical = "center"
    if not turned and abs(x) < 0.3:
        side, vertical = "center", "bottom" if y > 0 else "top"
    ax.annotate(
        text,
        place,
        xytext=(away * x, away * y),
        textcoords="offset points",
        rotation=rotation,
        rotation_mode="anchor",
        ha=side,
        va=vertical,
        fontsize=font,
    )


def _cluster_colours(truth: Truth, tasks: list[str]) -> pd.Series:
    clusters = true_clusters(truth, tasks)
    numbers = pd.factorize(clusters)[0]
    return pd.Series([COLOURS[number % len(COLOURS)] for number in numbers], index=tasks)


def plot_dendrogram(
    table: pd.DataFrame,
    ax: Axes | None = None,
    site: str = "weights",
    truth: Truth | None = None,
) -> Axes:
    """The tree of the tasks: the sooner two join, the more they borrow from each other.

    :param table: of :func:`pyro_vmtl.inspection.relatedness`.
    :param truth: the true cluster of each task, drawn as the colour of its name.
    :raises InputError: if the table has no such site.
    """
    tasks = list(relatedness_matrix(table, site).index)
    ax = axes_of(ax, 5.5, float(np.clip(0.2 * len(tasks) + 1.2, 2.4, 12.0)))
    if len(tasks) < 2:
        return note(ax, "A tree needs two tasks at least.")
    tree = dendrogram(task_linkage(table, site), no_plot=True)
    branches = [
        list(zip(height, place, strict=True))
        for height, place in zip(tree["dcoord"], tree["icoord"], strict=True)
    ]
    ax.add_collection(LineCollection(branches, colors=COLOURS[0], linewidths=1.5))
    names = [tasks[leaf] for leaf in tree["leaves"]]
    places = 5 + 10 * np.arange(len(names))  # where SciPy puts the leaves
    name_ticks(ax, "y", names, list(places))
    ax.yaxis.tick_right()
    if truth is not None:
        colours = _cluster_colours(truth, tasks)
        shown = {shortened(name): name for name in names}
        for label in ax.get_yticklabels():
            label.set_color(colours[shown[label.get_text()]])
    ax.set_xlim(1.05, 0)
    ax.set_ylim(places[-1] + 5, 0)  # the first leaf on top, as in the heat map
    ax.set_xlabel("1 − mean probability of the two directions / the largest")
    for side in ("left", "top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax
