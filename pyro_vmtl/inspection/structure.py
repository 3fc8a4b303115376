"""The shape of the relatedness: which tasks stand together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from pyro_vmtl.inspection.relatedness import relatedness_matrix

__all__ = ["task_distances", "task_linkage", "task_order"]


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
