"""Hidden clusters of tasks against brute force: dense Gaussians, and every partition listed."""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vmtl.distributions import (
    FACTORS,
    SCALES,
    SPREADS,
    Evidence,
    Gaussians,
    Partitions,
    Relatives,
    chance_of_relatives,
    evidence_of,
    pooled_prior,
    sample_partitions,
)
from pyro_vmtl.distributions.evidence import blocks_of, of_centre
from pyro_vmtl.distributions.partition import _split_or_merge, _sweep

Array = npt.NDArray[np.float64]


def _evidence(num_tasks: int, entries: int, seed: int = 0, strength: float = 2.0) -> Evidence:
    """Of linear-Gaussian data: precisions of all sizes, one of them 0, with shifts to match."""
    generator = torch.Generator().manual_seed(seed)
    precision = strength * torch.rand(num_tasks, entries, generator=generator).double()
    precision = precision.clamp_min(0.06)  # an entry with less is left out
    precision[0, 0] = 0
    noise = torch.randn(num_tasks, entries, generator=generator).double()
    weights = torch.randn(num_tasks, entries, generator=generator).double()
    return Evidence(precision * weights + precision.sqrt() * noise, precision)


def _one(labels: list[int], spread: float, scale: float = 1.0, factor: float = 1.0) -> Partitions:
    values = (torch.tensor([x], dtype=torch.float64) for x in (spread, scale, factor))
    return Partitions(torch.tensor([labels]), *values)


def _start(labels: torch.Tensor, spread: torch.Tensor) -> Partitions:
    return Partitions.at_start(labels)._replace(spread=spread)


def _covariance(labels: list[int], spread: float) -> Array:
    """Of the tasks' weights in one entry: 1, and 1 - s^2 between tasks of a cluster."""
    cluster = np.array(labels)
    together = cluster[:, None] == cluster[None]
    covariance: Array = (1 - spread**2) * together + spread**2 * np.eye(len(labels))
    return covariance


def _conditional(
    evidence: Evidence,
    labels: list[int],
    spread: float,
    task: int,
    entry: int,
    scale: float = 1.0,
    factor: float = 1.0,
) -> tuple[float, float]:
    """Mean and variance of one weight of a task given what all others' data said, dense."""
    precision = factor * evidence.precision[:, entry].numpy()
    shift = factor * evidence.shift[:, entry].numpy()
    precision[task] = shift[task] = 0
    prior = scale**2 * _covariance(labels, spread)
    covariance = np.linalg.inv(np.linalg.inv(prior) + np.diag(precision))
    return float((covariance @ shift)[task]), float(covariance[task, task])


def _log_marginal(
    evidence: Evidence, labels: list[int], spread: float, scale: float = 1.0, factor: float = 1.0
) -> float:
    """log density of the estimates h / lambda, N(w, 1 / (kappa lambda)), w integrated out, dense.

    Plus what of it does not depend on the parameters; times the priors of tau and kappa.
    """
    prior = scale**2 * _covariance(labels, spread)
    total = -0.5 * math.log2(scale) ** 2 - math.log(factor)
    for precision, shift in zip(
        evidence.precision.T.numpy(), evidence.shift.T.numpy(), strict=True
    ):
        said = np.flatnonzero(precision)
        estimates = shift[said] / precision[said]
        noise = np.diag(1 / (factor * precision[said]))
        covariance = prior[np.ix_(said, said)] + noise
        total -= 0.5 * estimates @ np.linalg.solve(covariance, estimates)
        total -= 0.5 * np.linalg.slogdet(covariance)[1]
    return total


def _log_marginal_of_few_samples(
    evidence: Evidence,
    moments: torch.Tensor,
    labels: list[int],
    spread: float,
    scale: float = 1.0,
    factor: float = 1.0,
) -> float:
    """The same where tasks measured combinations of the weights of each output, dense."""
    size, num_tasks = moments.shape[-1], len(labels)
    prior = scale**2 * _covariance(labels, spread)
    total = -0.5 * math.log2(scale) ** 2 - math.log(factor)
    means = (evidence.shift / (1 + evidence.precision)).view(num_tasks, -1, size).numpy()
    roots = evidence.precision.sqrt().view(num_tasks, -1, size).numpy()
    for output in range(means.shape[1]):
        directions: list[Array] = []
        noises, estimates, tasks = [], [], []
        for task in range(num_tasks):
            each: Array = roots[task, output] / np.sqrt(np.diag(moments[task].numpy()))
            values, vectors = np.linalg.eigh(np.outer(each, each) * moments[task].numpy())
            for value, vector in zip(values, vectors.T, strict=True):
                if value >= 0.05:
                    directions.append(vector)
                    noises.append(1 / (factor * value))
                    estimates.append((1 + value) / value * vector @ means[task, output])
                    tasks.append(task)
        along, measured = np.array(directions), np.array(estimates)
        covariance: Array = prior[np.ix_(tasks, tasks)] * (along @ along.T) + np.diag(noises)
        total -= 0.5 * float(measured @ np.linalg.solve(covariance, measured))
        total -= 0.5 * float(np.linalg.slogdet(covariance)[1])
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
    """Of a Dirichlet process whose concentration may be any of four, up to a constant."""
    sizes = np.bincount(labels)
    of_each = [
        len(sizes) * math.log(alpha) + math.lgamma(alpha) - math.lgamma(alpha + len(labels))
        for alpha in (concentration * multiple for multiple in (0.25, 1, 4, 16))
    ]
    return float(np.logaddexp.reduce(of_each) + sum(math.lgamma(size) for size in sizes))


def _exact(
    evidence: Evidence,
    partitions: list[list[int]],
    concentration: float,
    moments: torch.Tensor | None = None,
) -> Array:
    """The posterior, ``[partition, s, tau, kappa]``, by adding up all there is."""

    def log_marginal(labels: list[int], *parameters: float) -> float:
        if moments is None:
            return _log_marginal(evidence, labels, *parameters)
        return _log_marginal_of_few_samples(evidence, moments, labels, *parameters)

    log_joint = np.array(
        [
            _log_prior(labels, concentration) + log_marginal(labels, *parameters)
            for labels in partitions
            for parameters in product(SPREADS, SCALES, FACTORS)
        ]
    ).reshape(len(partitions), len(SPREADS), len(SCALES), len(FACTORS))
    posterior: Array = np.exp(log_joint - np.logaddexp.reduce(log_joint, axis=None))
    return posterior


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


class TestPooledPrior:
    @given(**shapes, data=st.data())
    @settings(max_examples=60)
    def test_is_the_dense_conditional(
        self, num_tasks: int, entries: int, spread: float, seed: int, data: st.DataObject
    ) -> None:
        labels = data.draw(st.sampled_from(list(_partitions(num_tasks))))
        tau, kappa = data.draw(st.sampled_from(SCALES)), data.draw(st.sampled_from(FACTORS))
        evidence = _evidence(num_tasks, entries, seed)
        loc, scale = pooled_prior(evidence, _one(labels, spread, tau, kappa))
        assert loc.shape == scale.shape == (num_tasks, entries)
        for task in range(num_tasks):
            for entry in range(entries):
                mean, variance = _conditional(evidence, labels, spread, task, entry, tau, kappa)
                assert loc[task, entry].item() == pytest.approx(mean, rel=1e-6, abs=1e-9)
                assert scale[task, entry].item() ** 2 == pytest.approx(variance, rel=1e-6)

    @given(**shapes)
    def test_of_a_task_alone_or_with_nothing_shared_has_the_scale_of_the_weights(
        self, num_tasks: int, entries: int, spread: float, seed: int
    ) -> None:
        evidence = _evidence(num_tasks, entries, seed)
        alone, together = list(range(num_tasks)), [0] * num_tasks
        for partitions in (_one(alone, spread, 0.5, 4.0), _one(together, 1.0, 0.5, 4.0)):
            loc, scale = pooled_prior(evidence, partitions)
            assert loc.abs().max() == 0
            torch.testing.assert_close(scale, torch.full_like(scale, 0.5))

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
        partitions = _start(labels, torch.tensor([spread, 0.3], dtype=torch.float64))
        pooled = pooled_prior(evidence, partitions)
        order = torch.tensor(data.draw(st.permutations(range(num_tasks))))
        moved = pooled_prior(
            Evidence(*(x[order] for x in evidence)), partitions._replace(labels=labels[:, order])
        )
        renamed = pooled_prior(evidence, partitions._replace(labels=order[labels]))
        for before, after, same in zip(pooled, moved, renamed, strict=True):
            torch.testing.assert_close(after, before[order])
            torch.testing.assert_close(same, before)

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
    def test_in_pieces_is_that_of_the_whole(
        self, size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evidence = _evidence(3, 7)
        partitions = Partitions.at_start(torch.tensor([[0, 0, 1], [0, 1, 1]]))
        whole = pooled_prior(evidence, partitions)
        monkeypatch.setattr("pyro_vmtl.distributions.partition._PIECE", 2 * 3 * size)
        for ours, expected in zip(pooled_prior(evidence, partitions), whole, strict=True):
            torch.testing.assert_close(ours, expected)

    def test_over_several_partitions_has_the_moments_of_their_mixture(self) -> None:
        evidence = _evidence(3, 2)
        parts = [_one([0, 0, 1], 0.2), _one([0, 1, 1], 0.6), _one([0, 1, 2], 0.2)]
        each = [pooled_prior(evidence, part) for part in parts]
        loc, scale = pooled_prior(
            evidence,
            Partitions(*(torch.cat(values) for values in zip(*parts, strict=True))),
        )
        means = torch.stack([part.loc for part in each])
        squares = torch.stack([part.scale.square() + part.loc.square() for part in each])
        torch.testing.assert_close(loc, means.mean(0))
        torch.testing.assert_close(scale.square(), squares.mean(0) - means.mean(0).square())


class TestGibbsSampling:
    @pytest.mark.parametrize(
        ("num_tasks", "concentration", "strength", "samples"),
        [(2, 1.0, 2.0, None), (3, 0.5, 8.0, None), (2, 1.0, 4.0, 2), (3, 0.5, 8.0, 2)],
    )
    def test_visits_partitions_and_parameters_as_often_as_they_are_probable(
        self, num_tasks: int, concentration: float, strength: float, samples: int | None
    ) -> None:
        entries, moments = 3, None
        if samples is not None:  # so many measured weights of two outputs, three each
            entries, generator = 6, torch.Generator().manual_seed(5)
            features = torch.randn(num_tasks, samples, 3, generator=generator).double()
            moments = features.mT @ features
        evidence = _evidence(num_tasks, entries, seed=1, strength=strength)
        partitions = list(_partitions(num_tasks))
        exact = _exact(evidence, partitions, concentration, moments)

        chains, keep = 400, 60
        start = Partitions.at_start(torch.arange(num_tasks).repeat(chains, 1))
        generator = torch.Generator().manual_seed(0)
        draws, end = sample_partitions(
            evidence, start, 160, keep, concentration, generator, moments=moments
        )
        assert draws.labels.shape == (chains * keep, num_tasks)
        assert draws.labels[-chains:].equal(end.labels)
        index = {tuple(labels): i for i, labels in enumerate(partitions)}
        rows = np.array([index[tuple(_canonical(labels))] for labels in draws.labels])
        places = [
            np.searchsorted(grid, values.numpy() * (1 - 1e-9))
            for grid, values in zip((SPREADS, SCALES, FACTORS), draws[1:], strict=True)
        ]
        chain = np.arange(chains * keep) % chains
        # Chains are independent, so their scatter is the error of the frequencies.
        for axis, values in enumerate((rows, *places)):
            truth = exact.sum(tuple(other for other in range(4) if other != axis))
            visits = np.zeros((chains, len(truth)))
            np.add.at(visits, (chain, values), 1 / keep)
            error = visits.std(0) / math.sqrt(chains)
            assert (np.abs(visits.mean(0) - truth) < 5 * error + 3e-3).all()
            assert truth.max() < 0.95  # the case is not decided beforehand
        joint = np.zeros((chains, len(partitions), len(SPREADS)))
        np.add.at(joint, (chain, rows, places[0]), 1 / keep)
        error = joint.std(0) / math.sqrt(chains)
        assert (np.abs(joint.mean(0) - exact.sum((2, 3))) < 5 * error + 3e-3).all()

    @pytest.mark.parametrize("step", [_sweep, _split_or_merge])
    @pytest.mark.parametrize(("num_tasks", "strength"), [(4, 4.0), (5, 0.0)])
    def test_either_step_on_partitions_alone_leaves_their_law_as_it_is(
        self, step: Any, num_tasks: int, strength: float
    ) -> None:
        """From draws of the posterior to draws of the posterior, and from anywhere towards it."""
        concentration, spread = 1.5, 0.45
        evidence = _evidence(num_tasks, 3, seed=2, strength=strength)
        if strength == 0:  # the prior itself
            evidence = Evidence(*(torch.zeros_like(x) for x in evidence))
        partitions = list(_partitions(num_tasks))
        log_joint = np.array(
            [
                len(set(labels)) * math.log(concentration)
                + sum(math.lgamma(size) for size in np.bincount(labels))
                + _log_marginal(evidence, labels, spread)
                for labels in partitions
            ]
        )
        exact = np.exp(log_joint - np.logaddexp.reduce(log_joint))
        assert exact.max() < 0.9  # the case is not decided beforehand
        chains, generator = 20000, torch.Generator().manual_seed(0)
        places = torch.multinomial(torch.from_numpy(exact), chains, True, generator=generator)
        index = {tuple(labels): i for i, labels in enumerate(partitions)}
        values = (torch.full((chains,), x).double() for x in (spread, 1.0, 1.0))
        blocks = blocks_of(evidence, None)
        shift, precision, _ = of_centre(blocks.shift, blocks.precision, *values)
        shift, precision = blocks.to_common(shift, precision)
        alpha = torch.full((chains,), concentration).double()
        for start, steps in ((torch.tensor(partitions)[places], 2), (None, 30)):
            labels = torch.zeros(chains, num_tasks).long() if start is None else start
            for _ in range(steps):
                labels = step(labels, shift, precision, alpha, generator)
            rows = [index[tuple(_canonical(row))] for row in labels]
            share = np.bincount(rows, minlength=len(partitions)) / chains
            error = np.sqrt(exact * (1 - exact) / chains)
            assert (np.abs(share - exact) < 5 * error + 1e-3).all()

    def test_one_sweep_can_part_any_number_of_tasks(self) -> None:
        num_tasks, chains = 20, 4
        precision = torch.full((chains, num_tasks, 30), 1e4).double()
        generator = torch.Generator().manual_seed(0)
        shift = 1e4 * torch.randn(num_tasks, 30, generator=generator).double()
        labels = torch.zeros(chains, num_tasks).long()
        labels = _sweep(
            labels,
            shift.expand(chains, -1, -1).unsqueeze(-1),
            precision[..., None, None],
            torch.ones(chains).double(),
            generator,
        )
        assert all(len(row.unique()) == num_tasks for row in labels)

    def test_of_a_known_partition_draws_its_parameters_alone(self) -> None:
        evidence, labels = _evidence(4, 3, strength=20.0), [0, 1, 1, 0]
        exact = _exact(evidence, [labels], 1.0)[0]
        start = Partitions.at_start(torch.tensor([labels]).repeat(2000, 1))
        draws, _ = sample_partitions(
            evidence, start, 150, generator=torch.Generator().manual_seed(0), known=True
        )
        assert (draws.labels == torch.tensor(labels)).all()
        for axis, (grid, values) in enumerate(
            zip((SPREADS, SCALES, FACTORS), draws[1:], strict=True)
        ):
            truth = exact.sum(tuple(other for other in range(3) if other != axis))
            share = np.array([(values - x).abs().lt(1e-9).double().mean().item() for x in grid])
            error = np.sqrt(truth * (1 - truth) / 2000)
            assert (np.abs(share - truth) < 5 * error + 1e-3).all()

    def test_weights_far_smaller_than_their_prior_do_not_look_alike(self) -> None:
        """On top of an encoder weights may scatter by 0.4 with posteriors of 0.6, all of them."""
        truth = torch.tensor([0, 0, 0, 0, 1, 1])
        generator = torch.Generator().manual_seed(3)
        centres = 0.4 * torch.randn(2, 300, generator=generator).double()
        estimates = centres[truth] + 0.15 * torch.randn(6, 300, generator=generator).double()
        precision = torch.full((6, 300), 2.0).double()
        start = Partitions.at_start(torch.arange(6).repeat(8, 1))
        draws, _ = sample_partitions(
            Evidence(precision * estimates, precision), start, 200, 50, generator=generator
        )
        expected = (truth[:, None] == truth).double()
        assert draws.together().mean(0).sub(expected).abs().max() < 0.05
        assert 0.25 < draws.scale.mean() < 0.6
        assert draws.factor.min() > 4

    @given(concentration=st.floats(0.1, 10))
    def test_two_tasks_share_a_cluster_as_often_as_the_prior_says(
        self, concentration: float
    ) -> None:
        each = [_log_prior(labels, concentration) for labels in ([0, 0], [0, 1])]
        expected = math.exp(each[0] - np.logaddexp.reduce(each))
        assert chance_of_relatives(concentration) == pytest.approx(expected)

    def test_strangers_do_not_pass_for_noise(self) -> None:
        generator = torch.Generator().manual_seed(3)
        precision = torch.full((6, 100), 4.0).double()
        estimates = torch.randn(6, 100, generator=generator).double() * 1.25**0.5
        start = Partitions.at_start(torch.zeros(8, 6, dtype=torch.int64))
        draws, _ = sample_partitions(
            Evidence(precision * estimates, precision), start, 200, 50, generator=generator
        )
        correlation = draws.together() * (1 - draws.spread.square())[:, None, None]
        assert correlation.mean(0).fill_diagonal_(0).max() < 0.1

    def test_finds_clusters_that_the_evidence_shows(self) -> None:
        truth = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
        generator = torch.Generator().manual_seed(3)
        centres = torch.randn(3, 20, generator=generator).double()
        precision = torch.full((8, 20), 50.0).double()
        evidence = Evidence(precision * centres[truth], precision)
        start = Partitions.at_start(torch.arange(8).repeat(8, 1))
        draws, _ = sample_partitions(evidence, start, 60, 5, generator=generator)
        expected = (truth[:, None] == truth).double()
        assert draws.together().mean(0).sub(expected).abs().max() < 0.05
        assert draws.spread.max() < 0.5

    def test_goes_on_from_values_that_are_not_tried_any_more(self) -> None:
        """As chains of an earlier version may stand there: from the nearest that is."""
        evidence, labels = _evidence(4, 3), torch.tensor([[0, 1, 1, 0]])
        runs = []
        for value in (1.0, 0.75):
            start = _start(labels, torch.tensor([value], dtype=torch.float64))
            generator = torch.Generator().manual_seed(0)
            runs.append(sample_partitions(evidence, start, 5, 5, generator=generator)[0])
        for one, two in zip(*runs, strict=True):
            assert one.equal(two)
        assert set(runs[0].spread.tolist()) <= set(SPREADS)

    @given(seed=st.integers(0, 99), keep=st.integers(1, 3))
    def test_repeats_with_its_generator_and_leaves_its_start_alone(
        self, seed: int, keep: int
    ) -> None:
        evidence = _evidence(5, 2)
        start = _start(
            torch.tensor([[0, 4, 4, 2, 0]] * 3), torch.tensor([0.75, 0.3, 0.6], dtype=torch.float64)
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
    PARTITIONS = Partitions.at_start(
        torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 2, 3], [0, 0, 1, 1]])
    )

    def _law(self) -> Relatives:
        return Relatives(self.PARTITIONS.labels)

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
        others = torch.tensor([[i for i in range(4) if i != t] for t in range(4)])
        rows = self.PARTITIONS.together().gather(-1, others.expand(4, -1, -1))
        partitions = {tuple(row.flatten().tolist()) for row in rows}
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
