"""The prior of partitions against every partition listed."""

import math
from collections.abc import Iterator
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_vmtl.model.priors.partitions import (
    canonical,
    chance_together,
    log_new_cluster,
    nearest_to_all,
    together,
)

GAMMA = st.floats(0.2, 5)
EXPECTED = st.floats(1.2, 8)
LABELS = st.integers(1, 7).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(0, 6), min_size=n, max_size=n), min_size=1, max_size=3
    ).map(torch.tensor)
)


def _partitions(num_tasks: int) -> Iterator[list[int]]:
    """Every partition once: clusters are numbered in the order in which they appear."""
    if num_tasks == 0:
        yield []
        return
    for first in _partitions(num_tasks - 1):
        for label in range(max(first, default=-1) + 2):
            yield [*first, label]


def _chance(labels: list[int], gamma: float, expected: float) -> float:
    """Of a partition: the number of components drawn, then their weights, then a label a task.

    Given K components all ways to name the clusters count, K (K - 1) ... (K - k + 1) of them, each
    with the probability of a Dirichlet-multinomial.
    """
    sizes = [labels.count(k) for k in set(labels)]
    total = 0.0
    stay = 1 - 1 / expected
    for components in range(len(sizes), 400):
        prior = (1 - stay) * stay ** (components - 1)
        log_p = math.lgamma(gamma * components) - math.lgamma(gamma * components + len(labels))
        log_p += sum(math.lgamma(gamma + n) - math.lgamma(gamma) for n in sizes)
        total += prior * math.perm(components, len(sizes)) * math.exp(log_p)
    return total


def _by_urn(labels: list[int], gamma: float, expected: float) -> float:
    """The same, one task after the other, each with the weights for as many as there are then."""
    total = 1.0
    for n, label in enumerate(labels):
        before = labels[:n]
        new = float(log_new_cluster(n + 1, gamma, expected)[len(set(before))].exp())
        joins = {k: before.count(k) + gamma for k in set(before)}
        total *= joins.get(label, new) / (new + sum(joins.values()))
    return total


class TestLogNewCluster:
    @settings(max_examples=15)
    @given(num_tasks=st.integers(1, 6), gamma=GAMMA, expected=EXPECTED)
    def test_gives_every_partition_its_chance(
        self, num_tasks: int, gamma: float, expected: float
    ) -> None:
        log_new = log_new_cluster(num_tasks, gamma, expected)
        assert log_new.shape == (num_tasks + 1,)
        chances, weights = [], []
        for labels in _partitions(num_tasks):
            sizes = [labels.count(k) for k in set(labels)]
            # V_T(k) up to V_T(1), and what an occupied cluster gains by each task that joins.
            log_weight = float(log_new[1 : len(sizes)].sum())
            log_weight += sum(math.lgamma(gamma + n) - math.lgamma(gamma + 1) for n in sizes)
            chances.append(_chance(labels, gamma, expected))
            weights.append(math.exp(log_weight))
        assert sum(chances) == pytest.approx(1, abs=1e-9)
        shares = [weight / sum(weights) for weight in weights]
        assert shares == pytest.approx(chances, abs=1e-9)

    @settings(max_examples=15)
    @given(labels=st.sampled_from(list(_partitions(5))), gamma=GAMMA, expected=EXPECTED)
    def test_makes_an_urn_that_no_order_of_tasks_changes(
        self, labels: list[int], gamma: float, expected: float
    ) -> None:
        chance = _chance(labels, gamma, expected)
        for order in list(permutations(range(5)))[::17]:
            dealt = [labels[t] for t in order]
            assert _by_urn(dealt, gamma, expected) == pytest.approx(chance, rel=1e-8)

    def test_a_larger_expected_number_opens_more_clusters(self) -> None:
        few, many = (log_new_cluster(6, 1.0, expected)[1:-1] for expected in (2.0, 5.0))
        assert (few < many).all()

    @pytest.mark.parametrize("num_tasks", [1, 2, 300])
    def test_is_finite_while_there_is_somebody_left(self, num_tasks: int) -> None:
        assert log_new_cluster(num_tasks, 1.0, 3.0)[:-1].isfinite().all()


class TestChanceTogether:
    @settings(max_examples=30)
    @given(num_tasks=st.integers(2, 5), gamma=GAMMA, expected=EXPECTED)
    def test_is_that_of_all_partitions_with_the_two_in_one_cluster(
        self, num_tasks: int, gamma: float, expected: float
    ) -> None:
        total = sum(
            _chance(labels, gamma, expected)
            for labels in _partitions(num_tasks)
            if labels[0] == labels[-1]
        )
        assert chance_together(num_tasks, gamma, expected) == pytest.approx(total, abs=1e-9)


class TestCanonical:
    @given(labels=LABELS)
    def test_numbers_clusters_in_the_order_of_their_first_tasks(self, labels: Tensor) -> None:
        out = canonical(labels)
        assert out.dtype == torch.int64
        for row, given_row in zip(out.tolist(), labels.tolist(), strict=True):
            names = list(dict.fromkeys(given_row))
            assert row == [names.index(label) for label in given_row]

    @given(labels=LABELS, seed=st.integers(0, 99))
    def test_is_one_for_all_names_of_a_partition(self, labels: Tensor, seed: int) -> None:
        names = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
        assert canonical(names[labels]).equal(canonical(labels))
        assert canonical(canonical(labels)).equal(canonical(labels))
        assert together(canonical(labels)).equal(together(labels))


class TestTogether:
    @given(labels=LABELS)
    def test_is_an_equivalence(self, labels: Tensor) -> None:
        same = together(labels)
        assert same.shape == (*labels.shape, labels.shape[-1])
        assert same.diagonal(dim1=-2, dim2=-1).all()
        assert same.equal(same.mT)
        steps = same.double() @ same.double() > 0
        assert steps.equal(same)


class TestNearestToAll:
    def test_is_the_partition_that_most_draws_have(self) -> None:
        draws = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 2, 1], [0, 1, 0, 1]])
        assert nearest_to_all(draws).tolist() == [0, 1, 0, 1]

    def test_stands_between_draws_that_all_differ(self) -> None:
        # Two pairs, the first two and the two after them, are together in three draws of four.
        draws = [[0, 0, 0, 1, 2], [0, 0, 1, 1, 1], [0, 1, 1, 1, 2], [0, 0, 1, 1, 2]]
        assert nearest_to_all(torch.tensor(draws)).tolist() == draws[3]
