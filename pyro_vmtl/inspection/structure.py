"""The shape of the relatedness: which tasks stand together."""

from __future__ import annotations

import networkx as nx
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from pyro_vmtl.inspection.draws import BASE
from pyro_vmtl.inspection.relatedness import (
    chance_level,
    independence,
    kind_of,
    relatedness_matrix,
    site_rows,
)

__all__ = ["relatedness_graph", "task_distances", "task_linkage", "task_order"]


def task_distances(table: pd.DataFrame, site: str = "weights") -> pd.DataFrame:
    """Distances between tasks by how much they borrow from each other, in [0, 1].

    1 - s / max s, with s the mean of the two directions' ``probability``: 0 for the pair that
    borrows most, 1 for a pair that does not.

    :return: ``[T, T]``, symmetric, the diagonal 0.
    """
    matrix = relatedness_matrix(table, site)
    tasks = list(matrix.index)
    values = matrix[tasks].to_numpy()
    similarity = (values + values.T) / 2
    np.fill_diagonal(similarity, 0)
    largest = similarity.max(initial=0)
    distances = 1 - similarity / (largest if largest > 0 else 1)
    np.fill_diagonal(distances, 0)
    return pd.DataFrame(distances, index=tasks, columns=tasks)


def task_linkage(table: pd.DataFrame, site: str = "weights") -> npt.NDArray[np.float64]:
    """The hierarchical clustering of the tasks (average linkage of :func:`task_distances`).

    :return: ``[T - 1, 4]``, SciPy's linkage matrix, the leaves in an order that puts near
        neighbours side by side.
    """
    distances = squareform(task_distances(table, site).to_numpy(), checks=False)
    result: npt.NDArray[np.float64] = linkage(distances, "average", optimal_ordering=True)
    return result


def task_order(table: pd.DataFrame, site: str = "weights") -> list[str]:
    """The names of the tasks, such that tasks that borrow from each other stand together."""
    tasks = list(relatedness_matrix(table, site).index)
    return [tasks[leaf] for leaf in leaves_list(task_linkage(table, site))]


def relatedness_graph(
    table: pd.DataFrame,
    site: str = "weights",
    strongest: int = 3,
    at_least: float | None = None,
) -> nx.DiGraph:
    """Who lends to whom, as a directed graph: an edge from each lender to the task that borrows.

    Nodes carry ``independence``, edges ``weight``, the lender's ``probability``.

    :param strongest: of the lenders of each task, keep so many.
    :param at_least: keep edges of at least this weight; None, of more than every lender has before
        any data (1 / L, or 1/2 for gates).
    :raises InputError: if the table has no such site.
    """
    rows = site_rows(table, site)
    alone = independence(table, site)
    graph = nx.DiGraph(site=site, kind=kind_of(table, site))
    for task in rows["task"].unique():
        graph.add_node(task, independence=float(alone[task]))
    level = chance_level(table, site)
    lenders = rows[rows["other"] != BASE]
    # A lone lender has all the weight whatever the data say: nothing is above chance then.
    kept = (
        lenders["probability"] > level if at_least is None else (lenders["probability"] >= at_least)
    )
    lenders = lenders[kept].sort_values("probability", ascending=False, kind="stable")
    for task, other, weight in (
        lenders.groupby("task").head(strongest)[["task", "other", "probability"]].to_numpy()
    ):
        graph.add_edge(other, task, weight=float(weight))
    return graph
