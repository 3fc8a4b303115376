"""Pictures of the shape of the relatedness: a graph of lenders, and a tree of the tasks."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from scipy.cluster.hierarchy import dendrogram

from pyro_vmtl.inspection.plots.labels import name_ticks, note, shortened
from pyro_vmtl.inspection.plots.palette import COLOURS, GREY, SEQUENTIAL, axes_of
from pyro_vmtl.inspection.relatedness import Truth, is_gated, relatedness_matrix, true_clusters
from pyro_vmtl.inspection.structure import relatedness_graph, task_linkage

__all__ = ["plot_dendrogram", "plot_relatedness_graph"]


def plot_relatedness_graph(
    table: pd.DataFrame,
    ax: Axes | None = None,
    site: str = "weights",
    strongest: int = 3,
    at_least: float | None = None,
    truth: Truth | None = None,
    seed: int = 0,
) -> Axes:
    """Who lends to whom: arrows from lenders to borrowers, wider for more.

    A node is darker the less independent its task is (grey where the prior has no ``base`` to
    decline to). Only the strongest lenders of each task are drawn.

    :param table: of :func:`pyro_vmtl.inspection.relatedness`.
    :param strongest: lenders of each task to draw.
    :param at_least: draw arrows of at least this probability; None, of more than before any data.
    :param truth: the true cluster of each task, drawn as the colour of the node's rim.
    :param seed: of the layout.
    :raises InputError: if the table has no such site.
    """
    graph = relatedness_graph(table, site, strongest, at_least)
    tasks = list(graph)
    side = float(np.clip(3.5 + 0.09 * len(tasks), 4.0, 9.0))
    ax = axes_of(ax, side + 1.2, side)
    places = _layout(graph, seed)
    independence = np.array([graph.nodes[task]["independence"] for task in tasks])
    shown = Normalize(0, 1)
    palette = ScalarMappable(shown, SEQUENTIAL)
    colours = [GREY if np.isnan(v) else palette.to_rgba(v) for v in independence]
    size = float(np.clip(9000 / len(tasks), 130, 900))
    rims: Any = "white"
    if truth is not None:
        clusters = true_clusters(truth, tasks)
        numbers = pd.factorize(clusters)[0]
        rims = [COLOURS[number % len(COLOURS)] for number in numbers]
    nx.draw_networkx_nodes(
        graph, places, ax=ax, node_color=colours, node_size=size, edgecolors=rims, linewidths=2.5
    )
    weights = np.array([weight for _, _, weight in graph.edges.data("weight")])
    if len(weights):
        nx.draw_networkx_edges(
            graph,
            places,
            ax=ax,
            width=list(0.4 + 3.6 * weights / weights.max()),
            edge_color=GREY,
            alpha=0.7,
            node_size=size,
            arrowsize=float(np.clip(80 / np.sqrt(len(tasks)), 7, 14)),
            connectionstyle="arc3,rad=0.12",
        )
    else:
        ax.set_title("No task borrows more from one lender than from another.", fontsize=9)
    font = float(np.clip(70 / np.sqrt(len(tasks)), 6, 10))
    for task, (x, y) in places.items():
        ax.annotate(
            shortened(task, 14),
            (x, y),
            xytext=(0, np.sqrt(size) / 2 + 1),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=font,
        )
    if not np.isnan(independence).all():
        ax.figure.colorbar(palette, ax=ax, label="independence", shrink=0.7)
    ax.margins(0.12)
    ax.set_axis_off()
    return ax


def _layout(graph: nx.DiGraph, seed: int) -> dict[Any, tuple[float, float]]:
    """Places that put tasks side by side that lend to each other."""
    together = nx.Graph()
    together.add_nodes_from(graph)
    for lender, borrower, weight in graph.edges.data("weight"):
        before = together.get_edge_data(lender, borrower, {"weight": 0.0})["weight"]
        together.add_edge(lender, borrower, weight=before + weight)
    # Weights of one scale, however many lenders share the 1.
    largest = max((w for *_, w in together.edges.data("weight")), default=1.0)
    for *_, data in together.edges.data():
        data["weight"] /= largest
    spacing = 2.2 / np.sqrt(max(len(together), 1))
    places: dict[Any, tuple[float, float]] = nx.spring_layout(
        together, seed=seed, k=spacing, iterations=200
    )
    return places


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
    tree = dendrogram(
        task_linkage(table, site),
        ax=ax,
        orientation="left",
        no_labels=True,
        color_threshold=0,
        above_threshold_color=COLOURS[0],
    )
    names = [tasks[leaf] for leaf in tree["leaves"]]
    places = 5 + 10 * np.arange(len(names))  # where SciPy puts the leaves
    name_ticks(ax, "y", names, list(places))
    ax.yaxis.tick_right()
    if truth is not None:
        clusters = true_clusters(truth, tasks)
        numbers = pd.Series(pd.factorize(clusters)[0], index=tasks)
        shown = {shortened(name): name for name in names}
        for label in ax.get_yticklabels():
            name = shown[label.get_text()]
            label.set_color(COLOURS[numbers[name] % len(COLOURS)])
    ax.set_xlim(1.05, 0)
    what = "gate" if is_gated(table, site) else "probability"
    ax.set_xlabel(f"1 − mean {what} of the two directions / the largest")
    for side in ("left", "top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax
