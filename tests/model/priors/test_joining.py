"""A task that joins, against one dense Gaussian of all weights and against sums over partitions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_vmtl.model.likelihoods import CategoricalLikelihood, GaussianLikelihood
from pyro_vmtl.model.priors.conditionals import posterior, product
from pyro_vmtl.model.priors.gibbs import Evidence, Hyperpriors, State
from pyro_vmtl.model.priors.joining import candidates, log_joining, with_site, without
from pyro_vmtl.model.priors.moves import LOG_NOISE
from pyro_vmtl.model.priors.partitions import canonical

Array = npt.NDArray[np.float64]

World = tuple[Evidence, Hyperpriors, State, Evidence]


def _world(
    seed: int,
    draws: int = 2,
    infers_noise: bool = False,
    clusters: bool = True,
    samples: int = 4,
    rows: int = 2,
) -> World:
    """Four tasks with their draws, and the site of a fifth."""
    generator = np.random.default_rng(seed)
    tasks, q = 4, 3

    def scales(*shape: int, size: float = 1.0) -> Tensor:
        return torch.from_numpy(size * np.exp(generator.normal(0, 0.7, shape)))

    x = generator.normal(size=(tasks + 1, samples, q))
    y = x @ generator.normal(size=(tasks + 1, q, rows)) + generator.normal(
        size=(tasks + 1, samples, rows)
    )
    precision = torch.from_numpy(x.swapaxes(1, 2) @ x)[:, None].repeat(1, rows, 1, 1)
    shift = torch.from_numpy((x.swapaxes(1, 2) @ y).swapaxes(1, 2).copy())
    squares = torch.from_numpy((y**2).sum(1)) if infers_noise else None
    evidence = Evidence(
        precision, shift, torch.full((tasks + 1,), float(samples)).double(), squares
    )
    labels = canonical(torch.from_numpy(generator.integers(0, 3, (draws, tasks))))
    is_bias = torch.zeros(rows, q, dtype=torch.bool)
    is_bias[:, -1] = True
    noise = scales(draws, tasks, rows)
    state = State(
        labels if clusters else 0 * labels,
        scales(draws, q, size=0.2),
        scales(draws),
        scales(draws),
        scales(draws) * clusters,
        scales(draws),
        noise if infers_noise else torch.ones_like(noise),
        scales(draws, size=0.2),
    )
    prior = Hyperpriors(torch.arange(q), is_bias, has_clusters=clusters, gamma=0.7, expected=2.5)
    return _part(evidence, slice(tasks)), prior, state, _part(evidence, slice(tasks, None))


def _part(evidence: Evidence, tasks: slice) -> Evidence:
    precision, shift, counts = evidence.precision, evidence.shift, evidence.counts
    squares = None if evidence.squares is None else evidence.squares[tasks]
    return Evidence(precision[tasks], shift[tasks], counts[tasks], squares)


def _repeated(state: State, times: int) -> State:
    """So many copies of a single draw."""
    return State(**{n: v.expand(times, *v.shape[1:]) for n, v in vars(state).items()})


def _with_label(state: State, draw: int, label: int, noise: Tensor | None = None) -> State:
    """One of the draws, with one task more in this cluster."""
    one = State(**{name: value[draw : draw + 1] for name, value in vars(state).items()})
    more = torch.ones_like(one.noise[:, :1]) if noise is None else noise.expand(1, 1, -1)
    labels = torch.cat([one.labels, torch.tensor([[label]])], 1)
    return replace(one, labels=labels, noise=torch.cat([one.noise, more], 1))


def _log_evidence(evidence: Evidence, prior: Hyperpriors, state: State) -> Array:
    """Log of the integral of all tasks' sites over all weights, of one draw, ``[K]``, dense."""
    tasks, rows, q = evidence.shift.shape
    labels, noise = state.labels[0].numpy(), state.noise[0].numpy()
    out = []
    for k in range(rows):
        of_mean = np.where(prior.is_bias[k].numpy(), 4.0, float(state.mean[0]))
        covariance = np.kron(np.ones((tasks, tasks)), np.diag(of_mean))
        covariance += np.kron(np.equal.outer(labels, labels), float(state.cluster[0]) * np.eye(q))
        covariance += np.kron(np.eye(tasks), np.diag(state.deviation[0].numpy()))
        sites = np.zeros((tasks, q, tasks, q))
        for t in range(tasks):
            sites[t, :, t] = evidence.precision[t, k].numpy() / noise[t, k]
        inner = np.eye(tasks * q) + covariance @ sites.reshape(tasks * q, -1)
        h = (evidence.shift[:, k].numpy() / noise[:, k, None]).ravel()
        out.append(0.5 * h @ np.linalg.solve(inner, covariance @ h))
        out[-1] -= 0.5 * np.linalg.slogdet(inner)[1]
    return np.array(out)


def _log_chance(labels: list[int], prior: Hyperpriors) -> float:
    """Of a partition, by its definition: components, their weights, a label a task."""
    sizes = [labels.count(k) for k in set(labels)]
    stay, gamma = 1 - 1 / prior.expected, prior.gamma
    log_sizes = sum(math.lgamma(gamma + n) - math.lgamma(gamma) for n in sizes)
    terms = [
        (1 - stay)
        * stay ** (components - 1)
        * math.perm(components, len(sizes))
        * math.exp(math.lgamma(gamma * components) - math.lgamma(gamma * components + len(labels)))
        for components in range(len(sizes), 300)
    ]
    return math.log(sum(terms)) + log_sizes


def _population(state: State, draw: int) -> tuple[float, float]:
    """Mean and variance of another task's log noise, the centre of the tasks' integrated out."""
    logs, spread = state.noise[draw].log().flatten().numpy(), float(state.noise_spread[draw])
    mean, sd = LOG_NOISE
    covariance = spread * np.eye(len(logs) + 1) + sd**2  # of all logs, those of the new one last
    gain = np.linalg.solve(covariance[:-1, :-1], covariance[:-1, -1])
    return float(mean + gain @ (logs - mean)), float(
        covariance[-1, -1] - gain @ covariance[:-1, -1]
    )


class TestChances:
    @settings(max_examples=25)
    @given(seed=st.integers(0, 10**6))
    def test_before_data_are_those_of_the_larger_partitions(self, seed: int) -> None:
        _, prior, state, _ = _world(seed)
        found = log_joining(prior, state.labels)
        for labels, row in zip(state.labels.tolist(), found, strict=True):
            clusters = max(labels) + 1
            logs = np.array([_log_chance([*labels, k], prior) for k in range(clusters + 1)])
            expected = np.exp(logs - np.logaddexp.reduce(logs))
            np.testing.assert_allclose(row[: clusters + 1].exp(), expected, rtol=1e-8)
            assert (row[clusters + 1 :] == -math.inf).all()

    @settings(max_examples=25)
    @given(seed=st.integers(0, 10**6))
    def test_given_data_are_those_of_the_joint_density_of_all_tasks(self, seed: int) -> None:
        evidence, prior, state, site = _world(seed)
        found = candidates(evidence, prior, state).log_chances(site).exp()
        for s, labels in enumerate(state.labels.tolist()):
            logs = np.array(
                [
                    _log_chance([*labels, k], prior)
                    + _log_evidence(
                        with_site(evidence, site), prior, _with_label(state, s, k)
                    ).sum()
                    for k in range(max(labels) + 2)
                ]
            )
            expected = np.exp(logs - np.logaddexp.reduce(logs))
            np.testing.assert_allclose(found[s, : len(logs)], expected, atol=1e-8)
            assert found[s, len(logs) :].eq(0).all()

    @pytest.mark.parametrize("samples", [1, 4, 12])
    def test_and_noise_are_those_of_the_joint_density_on_a_grid(self, samples: int) -> None:
        evidence, prior, state, site = _world(samples, 1, infers_noise=True, samples=samples)
        assert site.squares is not None
        labels = state.labels[0].tolist()
        centre, variance = _population(state, 0)
        grid = np.linspace(-8, 8, 161) * math.sqrt(variance) + centre
        logs, densities = [], []
        for k in range(max(labels) + 2):
            each = []
            for log_noise in grid:
                noise = torch.full((site.shift.shape[1],), math.exp(log_noise)).double()
                placed = _with_label(state, 0, k, noise)
                log_density = _log_evidence(with_site(evidence, site), prior, placed)
                log_density -= 0.5 * samples * log_noise
                log_density -= 0.5 * site.squares[0].numpy() / math.exp(log_noise)
                # The other tasks' evidence is in every row; it is taken out to have a density.
                log_density -= _log_evidence(evidence, prior, state)
                each.append(log_density - 0.5 * (log_noise - centre) ** 2 / variance)
            densities.append(np.array(each))  # [G, K]
            logs.append(
                _log_chance([*labels, k], prior) + np.logaddexp.reduce(densities[-1], 0).sum()
            )
        expected = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
        there = candidates(evidence, prior, state)
        found = there.log_chances(site).exp()[0]
        np.testing.assert_allclose(found[: len(logs)], expected, atol=1e-4)
        # Of many equal draws the clusters and the noise have the shares that they should.
        many = 1000
        there = candidates(evidence, prior, _repeated(state, many))
        out = there.join(site, torch.Generator().manual_seed(0))
        shares = np.bincount(out.labels[:, -1], minlength=len(logs)) / many
        np.testing.assert_allclose(shares, expected, atol=2e-3)
        shapes = [
            np.exp(each - each.max(0)) / np.exp(each - each.max(0)).sum(0) for each in densities
        ]
        below = sum(p * shape for p, shape in zip(expected, shapes, strict=True)).cumsum(0)
        for k in range(below.shape[1]):
            drawn = np.sort(out.noise[:, -1, k].log().numpy())
            ranks = (np.arange(many) + 0.5) / many
            assert np.abs(np.interp(drawn, grid, below[:, k]) - ranks).max() < 0.06

    def test_without_clusters_there_is_one_place(self) -> None:
        evidence, prior, state, site = _world(0, clusters=False)
        joining = candidates(evidence, prior, state)
        assert joining.log_chances(site).exp()[:, 0].eq(1).all()
        out = joining.join(site, torch.Generator().manual_seed(0))
        assert out.labels.eq(0).all()


class TestWeights:
    @settings(max_examples=25)
    @given(seed=st.integers(0, 10**6), infers_noise=st.booleans(), clusters=st.booleans())
    def test_given_a_cluster_are_those_of_the_state_with_the_task_in_it(
        self, seed: int, infers_noise: bool, clusters: bool
    ) -> None:
        evidence, prior, state, site = _world(seed, 2, infers_noise, clusters)
        joining = candidates(evidence, prior, state)
        noise = torch.full((site.shift.shape[1],), 0.4).double() if infers_noise else None
        by = 1.0 if noise is None else noise.unsqueeze(-1)
        places = joining.log_prior.isfinite().nonzero().tolist()
        precision = site.precision[0] / (by if noise is None else noise[:, None, None])
        found = product(joining.weights, precision, site.shift[0] / by)
        for h, (s, k) in enumerate(places):
            placed = _with_label(state, s, k, noise)
            loc, covariance = posterior(with_site(evidence, site), prior, placed)
            torch.testing.assert_close(found.loc[h], loc[0, -1], atol=1e-8, rtol=1e-8)
            torch.testing.assert_close(found.covariance[h], covariance[0, -1], atol=1e-8, rtol=1e-8)

    @settings(max_examples=25)
    @given(seed=st.integers(0, 10**6))
    def test_on_average_are_the_mixture_of_those_by_cluster(self, seed: int) -> None:
        evidence, prior, state, site = _world(seed)
        joining = candidates(evidence, prior, state)
        each = product(joining.weights, site.precision[0], site.shift[0])
        chances = joining.log_chances(site).exp()
        share = chances[joining.log_prior.isfinite()][:, None, None] / len(chances)
        mean = (share * each.loc).sum(0)
        second = each.covariance + each.loc.unsqueeze(-1) * each.loc.unsqueeze(-2)
        covariance = (share.unsqueeze(-1) * second).sum(0)
        covariance -= mean.unsqueeze(-1) * mean.unsqueeze(-2)
        found = joining.moments(site.precision[0], site.shift[0])
        torch.testing.assert_close(found.loc, mean, atol=1e-8, rtol=1e-8)
        torch.testing.assert_close(found.covariance, covariance, atol=1e-8, rtol=1e-8)

    def test_of_a_task_without_rows_are_those_of_another_draw_from_the_population(self) -> None:
        """Of many equal draws: a cluster from the prior, its noise about the others'."""
        evidence, prior, state, _ = _world(3, 1, infers_noise=True)
        nothing = Evidence(*(torch.zeros_like(v[:1]) for v in vars(evidence).values()))
        centre, variance = _population(state, 0)
        expected = log_joining(prior, state.labels)[0].exp()
        many = 2000
        there = candidates(evidence, prior, _repeated(state, many))
        out = there.join(nothing, torch.Generator().manual_seed(0))
        shares = out.labels[:, -1].bincount(minlength=len(expected)) / many
        torch.testing.assert_close(shares.double(), expected, atol=1e-3, rtol=0)
        logs = out.noise[:, -1].log()
        assert logs.mean() == pytest.approx(centre, abs=0.01 * math.sqrt(variance))
        assert logs.var() == pytest.approx(variance, rel=0.02)


class TestSite:
    @pytest.mark.parametrize("label", [0, 1])
    def test_of_one_label_leaves_the_exact_moments(self, label: int) -> None:
        """One draw, one Gaussian prior: the moments of eta by quadrature."""
        evidence, prior, state, _ = _world(5, 1, clusters=False, rows=1)
        joining = candidates(evidence, prior, state)
        phi = torch.tensor([0.7, -1.2, 1.0]).double()
        site = joining.site(
            phi.view(1, 1, 3), torch.tensor([label]), torch.ones(1, 1), CategoricalLikelihood(2)
        )
        loc, covariance = joining.weights
        mean = float(loc[0, 0] @ phi)
        sd = math.sqrt(float(phi @ covariance[0, 0] @ phi))
        eta = mean + sd * np.linspace(-9, 9, 4001)
        density = np.exp(-0.5 * ((eta - mean) / sd) ** 2) / (1 + np.exp(-eta * (2 * label - 1)))
        density /= density.sum()
        expected = (density * eta).sum()
        spread = (density * (eta - expected) ** 2).sum()
        found = joining.moments(site.precision[0], site.shift[0])
        assert float(found.loc[0] @ phi) == pytest.approx(expected, abs=1e-5)
        assert float(phi @ found.covariance[0] @ phi) == pytest.approx(spread, rel=1e-5)

    @pytest.mark.parametrize("samples", [2, 9])
    @pytest.mark.parametrize("classes", [2, 3])
    def test_is_where_another_step_leaves_it(self, samples: int, classes: int) -> None:
        likelihood = CategoricalLikelihood(classes, contrasts=True)
        evidence, prior, state, _ = _world(0, 3, rows=classes - 1)
        joining = candidates(evidence, prior, state)
        generator = torch.Generator().manual_seed(0)
        phi = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
        targets = torch.randint(classes, (samples,), generator=generator)
        site = joining.site(phi[None], targets, torch.ones(samples, 1), likelihood)
        loc, covariance = joining.moments(site.precision[0], site.shift[0])
        variance = torch.einsum("bi,kij,bj->bk", phi, covariance, phi)
        g, r = likelihood.sites((phi @ loc.mT)[None], variance[None], targets[None])
        precision = torch.einsum("bk,bi,bj->kij", r[0], phi, phi)
        shift = g[0].mT @ phi + (precision @ loc.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(site.precision[0], precision, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(site.shift[0], shift, atol=1e-5, rtol=1e-5)
        assert site.counts.tolist() == [[samples] * (classes - 1)]

    @pytest.mark.parametrize("samples", [0, 2, 9])
    def test_of_a_regression_is_that_of_its_rows(self, samples: int) -> None:
        evidence, prior, state, _ = _world(0, infers_noise=True)
        phi, y = torch.randn(samples, 3).double(), torch.randn(samples, 2).double()
        likelihood = GaussianLikelihood(4, 2, learned=False)
        site = candidates(evidence, prior, state).site(
            phi[None], y, torch.ones(samples, 1), likelihood
        )
        torch.testing.assert_close(site.precision[0, 1], phi.mT @ phi)
        torch.testing.assert_close(site.shift[0], y.mT @ phi)
        assert site.squares is not None
        torch.testing.assert_close(site.squares[0], y.square().sum(0))


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), infers_noise=st.booleans())
def test_a_task_that_left_leaves_nothing(seed: int, infers_noise: bool) -> None:
    evidence, prior, state, site = _world(seed, 2, infers_noise)
    joined = candidates(evidence, prior, state).join(site, torch.Generator().manual_seed(seed))
    assert joined.labels.equal(canonical(joined.labels))
    before, after = (evidence, state), without(with_site(evidence, site), joined, 4)
    for one, other in zip(before, after, strict=True):
        for name, value in vars(one).items():
            assert value is getattr(other, name) or value.equal(getattr(other, name)), name
