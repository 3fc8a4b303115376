"""Clusters and graphs read off a relatedness table."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy.cluster.hierarchy import fcluster, is_valid_linkage

from pyro_vmtl.inspection.relatedness import related_pairs
from pyro_vmtl.inspection.structure import (
    relatedness_graph,
    task_distances,
    task_linkage,
    task_order,
)

MakeTable = Callable[..., pd.DataFrame]


@pytest.mark.parametrize("gates", [True, False])
def test_distances_fall_as_relatedness_grows(make_table: MakeTable, gates: bool) -> None:
    table = make_table(6, gates=gates)
    distances = task_distances(table)
    assert (np.diag(distances) == 0).all()
    np.testing.assert_array_equal(distances, distances.T)
    pairs = related_pairs(table, [0] * 6)
    found = [distances.loc[row.task, row.other] for row in pairs.itertuples()]
    assert min(found) == 0
    np.testing.assert_allclose(found, 1 - pairs["score"] / pairs["score"].max())


@pytest.mark.parametrize("num_tasks", [2, 6, 60])
def test_tasks_of_a_cluster_stand_together(make_table: MakeTable, num_tasks: int) -> None:
    table = make_table(num_tasks)
    order = task_order(table)
    assert sorted(order) == sorted(table["task"].unique())
    # The made-up tasks borrow from those whose number is as even as theirs.
    parity = [int(name.split()[1]) % 2 for name in order]
    assert sum(a != b for a, b in pairwise(parity)) == 1


def test_the_tree_separates_the_clusters(make_table: MakeTable) -> None:
    linkage = task_linkage(make_table(8))
    assert is_valid_linkage(linkage)
    assert linkage.shape == (7, 4)
    found = fcluster(linkage, 2, "maxclust")
    assert len(set(found[::2])) == len(set(found[1::2])) == 1
    assert found[0] != found[1]


def test_edges_run_from_lender_to_borrower(make_table: MakeTable) -> None:
    table = make_table(4)
    borrowed = (table["task"] == "task 0") & (table["other"] == "task 2")
    table.loc[borrowed, "probability"] = 0.9
    graph = relatedness_graph(table, strongest=4, at_least=0.9)
    assert list(graph.edges.data("weight")) == [("task 2", "task 0", 0.9)]
    assert set(graph) == {"task 0", "task 1", "task 2", "task 3"}
    base = table[(table["task"] == "task 1") & (table["other"] == "base")]
    assert graph.nodes["task 1"]["independence"] == base["probability"].item()


def test_by_default_edges_are_stronger_than_before_any_data(make_table: MakeTable) -> None:
    graph = relatedness_graph(make_table(6), strongest=5)
    assert all(weight > 1 / 6 for *_, weight in graph.edges.data("weight"))
    for lender, borrower in graph.edges:
        assert int(lender.split()[1]) % 2 == int(borrower.split()[1]) % 2
    fewer = relatedness_graph(make_table(6), strongest=1)
    assert all(degree == 1 for _, degree in fewer.in_degree())


def test_equal_weights_leave_no_edge(make_table: MakeTable) -> None:
    table = make_table(5)
    table["probability"] = 1 / 5
    assert relatedness_graph(table).number_of_edges() == 0
