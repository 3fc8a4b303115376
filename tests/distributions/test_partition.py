"""Hidden clusters of tasks against brute force: dense Gaussians, and every partition listed."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vmtl.distributions import (
    SPREADS,
    Evidence,
    Gaussians,
    Partitions,
    Relatives,
    evidence_of,
    pooled_prior,
    sample_partitions,
)

Array = npt.NDArray[np.float64]
GRID = torch.tensor(SPREADS, dtype=torch.float64)


def _evidence(num_tasks: int, entries: int, seed: int = 0, strength: float = 2.0) -> Evidence:
    """Of linear-Gaussian data: precisions of all sizes, one of them 0, with shifts to match."""
    generator = torch.Generator().manual_seed(seed)
    precision = strength * torch.rand(num_tasks, entries, generator=generator).double()
    precision[0, 0] = 0
    noise = torch.randn(num_tasks, entries, generator=generator).double()
    weights = torch.randn(num_tasks, entries, generator=generator).double()
    return Evidence(precision * weights + precision.sqrt() * noise, precision)


def _one(labels: list[int], spread: float) -> Partitions:
    return Partitions(torch.tensor([labels]), torch.tensor([spread], dtype=torch.float64))


def _covariance(labels: list[int], spread: float) -> Array:
    """Of the tasks' weights in one entry: 1, and 1 - s^2 between tasks of a cluster."""
    cluster = np.array(labels)
    together = cluster[:, None] == cluster[None]
    covariance: Array = (1 - spread**2) * together + spread**2 * np.eye(len(labels))
    return covariance


def _conditional(
    evidence: Evidence, labels: list[int], spread: float, task: int, entry: int
) -> tuple[float, float]:
    """Mean and variance of one weight of a task given what all others' data said, dense."""
    precision = evidence.precision[:, entry].numpy().copy()
    shift = evidence.shift[:, entry].numpy().copy()
    precision[task] = shift[task] = 0
    covariance = np.linalg.inv(np.linalg.inv(_covariance(labels, spread)) + np.diag(precision))
    return float((covariance @ shift)[task]), float(covariance[task, task])


def _log_marginal(evidence: Evidence, labels: list[int], spread: float) -> float:
    """log of the mean of the evidence under the joint prior, dense, summed over entries."""
    prior = _covariance(labels, spread)
    total = 0.0
    for precision, shift in zip(
        evidence.precision.T.numpy(), evidence.shift.T.numpy(), strict=True
    ):
        within = np.eye(len(labels)) + prior @ np.diag(precision)
        total += 0.5 * shift @ np.linalg.solve(within, prior @ shift)
        total -= 0.5 * np.linalg.slogdet(within)[1]
    return total


def _partitions(num_tasks: int) -> Iterator[list[int]]:
    """Every partition once: clusters are numbered in the order in which they appear."""
    if num_tasks == 0:
        yield []
        return
    for first in _partitions(num_tasks - 1):
        for label in range(max(first, default=-1) + 2):
            yield [*first, label]


def _log_prior(labels: list[int], concentration: float) -> float:
    """Of a Dirichlet process, up to a constant."""
    sizes = np.bincount(labels)
    return float(len(sizes) * math.log(concentration) + sum(math.lgamma(size) for size in sizes))


def _canonical(labels: torch.Tensor) -> list[int]:
    seen: dict[int, int] = {}
    return [seen.setdefault(label, len(seen)) for label in labels.tolist()]


shapes = {
    "num_tasks": st.integers(1, 5),
    "entries": st.integers(1, 3),
    "spread": st.sampled_from(SPREADS),
    "seed": st.integers(0, 999),
}


class TestEvidence:
    @given(num_tasks=st.integers(1, 4), entries=st.integers(1, 4), seed=st.integers(0, 999))
    def test_times_the_standard_normal_is_the_posterior(
        self, num_tasks: int, entries: int, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (num_tasks, entries, 2)
        loc = torch.randn(shape, generator=generator)
        scale = 0.05 + 0.9 * torch.rand(shape, generator=generator)
        shift, precision = evidence_of(Gaussians(loc, scale))
        assert shift.shape == precision.shape == (num_tasks, 2 * entries)
        assert shift.dtype == precision.dtype == torch.float64
        # N(0, 1) exp(h w - lambda w^2 / 2) has precision 1 + lambda and mean h / (1 + lambda).
        variance = 1 / (1 + precision)
        torch.testing.assert_close((shift * variance).float(), loc.flatten(1))
        torch.testing.assert_close(variance.sqrt().float(), scale.flatten(1))

    def test_is_never_negative(self) -> None:
        shift, precision = evidence_of(Gaussians(torch.tensor([[3.0]]), torch.tensor([[1.2]])))
        assert shift.item() == precision.item() == 0

    @given(share=st.floats(0.01, 1))
    def test_of_a_tempered_posterior_is_what_the_data_said_once(self, share: float) -> None:
        said = Evidence(torch.tensor([[3.0, -1.0]]).double(), torch.tensor([[2.0, 40.0]]).double())
        # With a KL weight the optimum is N(0, 1) times the likelihood to the power 1 / weight.
        variance = 1 / (1 + said.precision / share)
        tempered = Gaussians(variance * said.shift / share, variance.sqrt())
        shift, precision = evidence_of(tempered, share)
        torch.testing.assert_close(shift, said.shift)
        torch.testing.assert_close(precision, said.precision)


class TestPooledPrior:
    @given(**shapes, data=st.data())
    @settings(max_examples=60)
    def test_is_the_dense_conditional(
        self, num_tasks: int, entries: int, spread: float, seed: int, data: st.DataObject
    ) -> None:
        labels = data.draw(st.sampled_from(list(_partitions(num_tasks))))
        evidence = _evidence(num_tasks, entries, seed)
        loc, scale = pooled_prior(evidence, _one(labels, spread))
        assert loc.shape == scale.shape == (num_tasks, entries)
        for task in range(num_tasks):
            for entry in range(entries):
                mean, variance = _conditional(evidence, labels, spread, task, entry)
                assert loc[task, entry].item() == pytest.approx(mean, rel=1e-6, abs=1e-9)
                assert scale[task, entry].item() ** 2 == pytest.approx(variance, rel=1e-6)

    @given(**shapes)
    def test_of_a_task_alone_or_with_nothing_shared_is_the_standard_normal(
        self, num_tasks: int, entries: int, spread: float, seed: int
    ) -> None:
        evidence = _evidence(num_tasks, entries, seed)
        alone, together = list(range(num_tasks)), [0] * num_tasks
        for partitions in (_one(alone, spread), _one(together, 1.0)):
            loc, scale = pooled_prior(evidence, partitions)
            assert loc.abs().max() == 0
            torch.testing.assert_close(scale, torch.ones_like(scale))

    def test_never_contains_the_borrowers_own_evidence(self) -> None:
        evidence = _evidence(4, 3)
        partitions = _one([0, 0, 1, 0], 0.3)
        before = pooled_prior(evidence, partitions)
        evidence.shift[1] += 5
        evidence.precision[1] += 2
        after = pooled_prior(evidence, partitions)
        for old, new in zip(before, after, strict=True):
            assert old[1].equal(new[1])  # the borrower itself
            assert old[2].equal(new[2])  # of another cluster
            assert not old[0].equal(new[0])

    @given(**shapes, data=st.data())
    def test_follows_the_tasks_and_not_the_names_of_clusters(
        self, num_tasks: int, entries: int, spread: float, seed: int, data: st.DataObject
    ) -> None:
        evidence = _evidence(num_tasks, entries, seed)
        labels = torch.tensor(
            data.draw(
                st.lists(
                    st.lists(st.integers(0, num_tasks - 1), min_size=num_tasks, max_size=num_tasks),
                    min_size=2,
                    max_size=2,
                )
            )
        )
        partitions = Partitions(labels, torch.tensor([spread, 0.3], dtype=torch.float64))
        pooled = pooled_prior(evidence, partitions)
        order = torch.tensor(data.draw(st.permutations(range(num_tasks))))
        moved = pooled_prior(
            Evidence(*(x[order] for x in evidence)), Partitions(labels[:, order], partitions.spread)
        )
        renamed = pooled_prior(evidence, Partitions(order[labels], partitions.spread))
        for before, after, same in zip(pooled, moved, renamed, strict=True):
            torch.testing.assert_close(after, before[order])
            torch.testing.assert_close(same, before)

    def test_over_several_partitions_has_the_moments_of_their_mixture(self) -> None:
        evidence = _evidence(3, 2)
        parts = [_one([0, 0, 1], 0.2), _one([0, 1, 1], 0.6), _one([0, 1, 2], 0.2)]
        each = [pooled_prior(evidence, part) for part in parts]
        loc, scale = pooled_prior(
            evidence,
            Partitions(torch.cat([p.labels for p in parts]), torch.cat([p.spread for p in parts])),
        )
        means = torch.stack([part.loc for part in each])
        squares = torch.stack([part.scale.square() + part.loc.square() for part in each])
        torch.testing.assert_close(loc, means.mean(0))
        torch.testing.assert_close(scale.square(), squares.mean(0) - means.mean(0).square())


class TestGibbsSampling:
    @pytest.mark.parametrize(
        ("num_tasks", "concentration", "strength"), [(2, 1.0, 2.0), (3, 0.5, 8.0), (4, 2.0, 3.0)]
    )
    def test_visits_partitions_and_spreads_as_often_as_they_are_probable(
        self, num_tasks: int, concentration: float, strength: float
    ) -> None:
        evidence = _evidence(num_tasks, 3, seed=1, strength=strength)
        partitions = list(_partitions(num_tasks))
        log_joint = np.array(
            [
                [
                    _log_prior(labels, concentration) + _log_marginal(evidence, labels, s)
                    for s in SPREADS
                ]
                for labels in partitions
            ]
        )
        exact = np.exp(log_joint - np.logaddexp.reduce(log_joint, axis=None))

        chains, keep = 1500, 20
        start = Partitions(
            torch.arange(num_tasks).repeat(chains, 1), torch.ones(chains, dtype=torch.float64)
        )
        generator = torch.Generator().manual_seed(0)
        draws, end = sample_partitions(evidence, start, 40, keep, concentration, generator)
        assert draws.labels.shape == (chains * keep, num_tasks)
        assert draws.labels[-chains:].equal(end.labels)
        index = {tuple(labels): i for i, labels in enumerate(partitions)}
        rows = [index[tuple(_canonical(labels))] for labels in draws.labels]
        columns = torch.searchsorted(GRID, draws.spread - 1e-9)
        visits = np.zeros((chains, *exact.shape))
        chain = np.arange(chains * keep) % chains
        np.add.at(visits, (chain, np.array(rows), columns.numpy()), 1 / keep)
        # Chains are independent, so their scatter is the error of the frequencies.
        for share, truth in (
            (visits, exact),
            (visits.sum(-1), exact.sum(-1)),
            (visits.sum(1), exact.sum(0)),
        ):
            error = share.std(0) / math.sqrt(chains)
            assert (np.abs(share.mean(0) - truth) < 5 * error + 2e-3).all()
        assert exact.sum(-1).max() < 0.95  # the case is not decided beforehand

    def test_of_a_known_partition_draws_the_spread_alone(self) -> None:
        evidence, labels = _evidence(4, 3, strength=20.0), [0, 1, 1, 0]
        log_joint = np.array([_log_marginal(evidence, labels, s) for s in SPREADS])
        exact = np.exp(log_joint - np.logaddexp.reduce(log_joint))
        start = Partitions(
            torch.tensor([labels]).repeat(4000, 1), torch.full((4000,), 0.3, dtype=torch.float64)
        )
        draws, _ = sample_partitions(
            evidence, start, 1, generator=torch.Generator().manual_seed(0), known=True
        )
        assert (draws.labels == torch.tensor(labels)).all()
        share = np.array(
            [(draws.spread - s).abs().lt(1e-9).double().mean().item() for s in SPREADS]
        )
        error = np.sqrt(exact * (1 - exact) / 4000)
        assert (np.abs(share - exact) < 5 * error + 1e-3).all()

    def test_finds_clusters_that_the_evidence_shows(self) -> None:
        truth = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
        generator = torch.Generator().manual_seed(3)
        centres = torch.randn(3, 20, generator=generator).double()
        precision = torch.full((8, 20), 50.0).double()
        evidence = Evidence(precision * centres[truth], precision)
        start = Partitions(torch.arange(8).repeat(8, 1), torch.ones(8).double())
        draws, _ = sample_partitions(evidence, start, 30, 5, generator=generator)
        expected = (truth[:, None] == truth).double()
        assert draws.together().mean(0).sub(expected).abs().max() < 0.05
        assert draws.spread.max() < 0.5

    @given(seed=st.integers(0, 99), keep=st.integers(1, 3))
    def test_repeats_with_its_generator_and_leaves_its_start_alone(
        self, seed: int, keep: int
    ) -> None:
        evidence = _evidence(5, 2)
        start = Partitions(
            torch.tensor([[0, 4, 4, 2, 0]] * 3), torch.tensor([1.0, 0.3, 0.6], dtype=torch.float64)
        )
        kept = [x.clone() for x in start]
        (one, end), (two, _) = (
            sample_partitions(
                evidence, start, 3, keep, generator=torch.Generator().manual_seed(seed)
            )
            for _ in range(2)
        )
        assert one.labels.equal(two.labels)
        assert one.spread.equal(two.spread)
        assert len(one.labels) == len(one.spread) == 3 * keep
        assert end.labels.shape == start.labels.shape
        for before, after in zip(kept, start, strict=True):
            assert before.equal(after)


class TestRelatives:
    PARTITIONS = Partitions(
        torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 2, 3], [0, 0, 1, 1]]),
        torch.ones(4).double(),
    )

    def _law(self) -> Relatives:
        """Rows without the task itself, as a model lays them out: ``[S, T, 1, T - 1]``."""
        others = torch.tensor([[i for i in range(4) if i != t] for t in range(4)])
        rows = self.PARTITIONS.together().gather(-1, others.expand(4, -1, -1))
        return Relatives(rows.unsqueeze(-2))

    def test_together_says_who_shares_a_cluster(self) -> None:
        together = self.PARTITIONS.together()
        assert together[1].equal(
            torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]).double()
        )
        assert together.equal(together.mT)

    @given(
        lead=st.lists(st.integers(1, 3), max_size=2), sample=st.lists(st.integers(1, 3), max_size=2)
    )
    def test_has_the_shapes_that_pyro_expects(self, lead: list[int], sample: list[int]) -> None:
        law = self._law()
        assert law.batch_shape == (4, 1)
        assert law.event_shape == (3,)
        expanded = law.expand(torch.Size([*lead, 4, 1]))
        assert isinstance(expanded, Relatives)
        assert expanded.batch_shape == (*lead, 4, 1)
        assert expanded.mean.shape == (*lead, 4, 1, 3)
        draw = expanded.rsample(torch.Size(sample))
        assert draw.shape == (*sample, *lead, 4, 1, 3)
        assert expanded.support.check(draw).all()
        assert expanded.log_prob(draw).shape == (*sample, *lead, 4, 1)

    def test_a_draw_is_one_partition_for_all_tasks(self) -> None:
        law = self._law()
        partitions = {tuple(rows.flatten().tolist()) for rows in law.rows}
        draws = law.expand(torch.Size([50, 4, 1])).rsample(torch.Size([4]))
        seen = {tuple(draw.flatten().tolist()) for draw in draws.reshape(200, -1)}
        assert seen == partitions

    def test_draws_come_as_often_as_their_partitions(self) -> None:
        law = self._law()
        draws = law.sample(torch.Size([8000]))
        torch.testing.assert_close(draws.mean(0), law.mean, rtol=0, atol=0.03)
        assert law.mean[0, 0].equal(torch.tensor([0.75, 0.25, 0.0]).double())
        assert law.probs.equal(law.mean)

    def test_density_is_the_share_of_draws_with_a_row(self) -> None:
        law = self._law()
        value = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 1], [1, 1, 1]]).double().unsqueeze(1)
        expected = torch.tensor([0.5, 0.5, 0.5, 0.0]).double().log().unsqueeze(1)
        assert law.log_prob(value).equal(expected)
        # Over all rows that there are the shares sum to 1.
        rows = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)
        total = law.log_prob(rows[:, None, None].expand(-1, 4, 1, -1)).exp().sum(0)
        torch.testing.assert_close(total, torch.ones_like(total))
