"""The sampler against brute force: partitions listed, densities on grids, and its own prior."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import permutations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import torch

from pyro_vmtl.model.priors.gibbs import (
    Evidence,
    Hyperpriors,
    State,
    _draw_noise,
    starting_state,
    sweep,
)
from pyro_vmtl.model.priors.moves import (
    DOF,
    LEAST,
    LOG_NOISE,
    MOST,
    MOST_SPREAD,
    deal_labels,
    draw_centre,
    draw_cluster_variance,
    draw_noise,
    draw_scale,
    draw_spread,
    draw_variances,
    split_or_merge,
    swap_variances,
)
from pyro_vmtl.model.priors.partitions import log_new_cluster

Array = npt.NDArray[np.float64]

GRID = np.linspace(-18, MOST, 1500)  # of log variances: what the sampler allows


def _sites(
    generator: np.random.Generator, *shape: int, samples: int = 4, size: float = 1.0
) -> tuple[Array, Array]:
    """Precisions and shifts of linear-Gaussian data with weights of this size, ``[*, q]``."""
    *lead, q = shape
    x = generator.normal(size=(*lead, samples, q))
    weights = size * generator.normal(size=(*lead, q, 1))
    y = x @ weights + generator.normal(size=(*lead, samples, 1))
    turned = x.swapaxes(-1, -2)
    return turned @ x, (turned @ y)[..., 0]


def _log_evidence(precision: Array, shift: Array, covariance: Array) -> Array:
    """Log of the integral of exp(h w - w Lambda w / 2) over N(0, covariance), dense, batched."""
    inner = np.eye(shift.shape[-1]) + covariance @ precision
    mean = np.linalg.solve(inner, covariance @ shift[..., None])[..., 0]
    return 0.5 * (mean * shift).sum(-1) - 0.5 * np.linalg.slogdet(inner)[1]


def _log_half_t(log_variance: Array, scale2: float) -> Array:
    """Log density of a log variance whose root is half-t."""
    sd = np.exp(0.5 * np.asarray(log_variance))
    out: Array = scipy.stats.t.logpdf(sd, DOF, scale=math.sqrt(scale2)) + np.log(sd)
    return out


def _distance(draws: Array, grid: Array, log_density: Array) -> float:
    """Kolmogorov's, between draws and a density on a grid."""
    weights = np.exp(log_density - log_density.max())
    steps = 0.5 * (weights[1:] + weights[:-1]) * np.diff(grid)
    below = np.concatenate([[0.0], steps.cumsum()]) / steps.sum()
    ordered = np.sort(draws)
    shares = np.interp(ordered, grid, below)
    ranks = np.arange(len(draws) + 1) / len(draws)
    return float(max(np.abs(shares - ranks[1:]).max(), np.abs(shares - ranks[:-1]).max()))


def _partitions(num_tasks: int) -> Iterator[tuple[int, ...]]:
    if num_tasks == 0:
        yield ()
        return
    for first in _partitions(num_tasks - 1):
        for label in range(max(first, default=-1) + 2):
            yield (*first, label)


class TestLabelMoves:
    NUM_TASKS, ROWS, Q, VARIANCE, GAMMA, EXPECTED = 4, 2, 2, 0.7, 0.6, 2.5

    def _posterior(self, precision: Array, shift: Array) -> dict[tuple[int, ...], float]:
        """Of every partition: its chance among components, times the evidence of its clusters."""
        stay = 1 - 1 / self.EXPECTED
        logs = {}
        for labels in _partitions(self.NUM_TASKS):
            k = max(labels) + 1
            sizes = [labels.count(c) for c in range(k)]
            ways = sum(
                stay**components
                * math.perm(components, k)
                * math.exp(
                    math.lgamma(self.GAMMA * components)
                    - math.lgamma(self.GAMMA * components + self.NUM_TASKS)
                )
                for components in range(k, 300)
            )
            logs[labels] = math.log(ways) + sum(math.lgamma(self.GAMMA + n) for n in sizes)
            logs[labels] -= k * math.lgamma(self.GAMMA)
            for c in range(k):
                members = np.array(labels) == c
                logs[labels] += _log_evidence(
                    precision[members].sum(0),
                    shift[members].sum(0),
                    self.VARIANCE * np.eye(self.Q),
                ).sum()
        total = np.logaddexp.reduce(list(logs.values()))
        return {labels: math.exp(log - total) for labels, log in logs.items()}

    @pytest.mark.parametrize("moves", ["deal", "split or merge", "both"])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_leave_the_exact_posterior_as_it_is(self, moves: str, seed: int) -> None:
        generator = np.random.default_rng(seed)
        n = self.NUM_TASKS
        precision, shift = _sites(generator, n, self.ROWS, self.Q, samples=2)
        exact = self._posterior(precision, shift)
        assert max(exact.values()) < 0.8  # or there would be nothing to see
        log_new = log_new_cluster(n, self.GAMMA, self.EXPECTED).numpy()
        labels = np.arange(n)
        room = (np.concatenate([precision] * 2), np.concatenate([shift] * 2))
        own = (labels, *room, self.VARIANCE, self.GAMMA, log_new)
        count = 40_000
        uniform = generator.random((count, 2, n + 1))
        orders = generator.random((count, 2, n)).argsort(-1)
        seen: dict[bytes, int] = {}
        for chances, order in zip(uniform, orders, strict=True):
            if moves != "split or merge":
                deal_labels(*own, order[0], chances[0])
            if moves != "deal":
                split_or_merge(*own, order[1, 0], order[1, 1], order[1], chances[1])
            key = labels.tobytes()
            seen[key] = seen.get(key, 0) + 1
        shares = dict.fromkeys(exact, 0.0)
        for key, times in seen.items():
            found = np.frombuffer(key, labels.dtype).tolist()
            names = list(dict.fromkeys(found))
            shares[tuple(names.index(k) for k in found)] += times / count
        apart = 0.5 * sum(abs(shares[labels] - exact[labels]) for labels in exact)
        assert apart < (0.05 if moves == "split or merge" else 0.025)

    def test_are_fixed_by_their_uniform_numbers(self) -> None:
        runs = []
        for _ in range(2):
            generator = np.random.default_rng(3)
            precision, shift = _sites(generator, 10, 1, 2)
            labels = np.zeros(5, np.int64)
            log_new = log_new_cluster(5, 1.0, 3.0).numpy()
            for _ in range(20):
                order = generator.permutation(5)
                deal_labels(
                    *(labels, precision, shift, 1.0, 1.0, log_new, order), generator.random(6)
                )
            runs.append(labels.tolist())
        assert runs[0] == runs[1]


class TestScaleMoves:
    """Each draws one scale as often as its density, by independent code on a grid, says."""

    COUNT, BOUND = 6000, 0.03

    @pytest.mark.parametrize("samples", [0, 1, 6])
    def test_one_factor_for_some_variances(self, samples: int) -> None:
        generator = np.random.default_rng(samples)
        precision, shift = _sites(generator, 5, 3, samples=samples, size=0.6)
        chosen, other = np.array([True, False, True]), 0.4
        variance, level, scale2 = np.array([0.2, other, 0.6]), 0.2, 0.3
        draws = []
        for uniform in generator.random((self.COUNT, 32)):
            factor = draw_scale(precision, shift, variance, chosen, level, scale2, uniform)
            variance[chosen] *= factor
            level *= factor
            draws.append(math.log(level))
        values = np.exp(GRID)
        diagonal = np.stack([values, np.full_like(values, other), 3 * values], -1)
        covariance = (diagonal[:, None] * np.eye(3))[:, None]
        log_density = _log_evidence(precision, shift, covariance).sum(-1)
        log_density += _log_half_t(GRID, scale2)
        assert _distance(np.array(draws), GRID, log_density) < self.BOUND

    def test_single_variances_in_turn(self) -> None:
        generator = np.random.default_rng(0)
        precision, shift = _sites(generator, 6, 3, size=0.7)
        variance, entries, centre, spread = np.array([0.2, 0.4, 0.6]), np.array([0, 2]), -1.0, 1.5
        draws = np.empty((2 * self.COUNT, 2))
        for row, uniform in zip(draws, generator.random((len(draws), 3, 32)), strict=True):
            draw_variances(variance, entries, precision, shift, centre, spread, uniform)
            row[:] = np.log(variance[entries])
        assert variance[1] == 0.4
        grid = GRID[::14]
        one, two = np.meshgrid(np.exp(grid), np.exp(grid), indexing="ij")
        diagonal = np.stack([one, np.full_like(one, 0.4), two], -1)
        log_density = sum(
            _log_evidence(p, h, diagonal[..., None] * np.eye(3))
            for p, h in zip(precision, shift, strict=True)
        )
        prior = -0.5 * (grid - centre) ** 2 / spread
        log_density = log_density + prior[:, None] + prior
        for entry in range(2):
            marginal = np.logaddexp.reduce(log_density, 1 - entry)
            assert _distance(draws[:, entry], grid, marginal) < self.BOUND

    def test_exchanges_find_every_order_as_often_as_data_say(self) -> None:
        """Five variances, of which four may be exchanged: 24 orders."""
        generator = np.random.default_rng(1)
        precision, shift = _sites(generator, 3, 5, samples=2, size=0.5)
        values, entries = (0.02, 0.2, 0.5, 1.5), np.array([0, 1, 3, 4])
        variance = np.array([0.02, 0.2, 0.7, 0.5, 1.5])
        found: Counter[tuple[float, ...]] = Counter()
        draws = 12 * self.COUNT
        for uniform in generator.random((draws, 2, 3)):
            swap_variances(variance, entries, precision, shift, uniform)
            found[tuple(variance[entries].tolist())] += 1
        assert variance[2] == 0.7
        orders = list(permutations(values))
        diagonal = np.insert(np.array(orders), 2, 0.7, axis=1)
        log_density = _log_evidence(precision, shift, (diagonal[..., None] * np.eye(5))[:, None])
        weights = np.exp(log_density.sum(-1))
        expected = weights / weights.sum()
        shares = np.array([found[order] for order in orders]) / draws
        assert expected.max() > 3 * expected.min()
        np.testing.assert_allclose(shares, expected, atol=0.01)

    @pytest.mark.parametrize(("slots", "has_mean"), [(3, True), (1, True), (4, False)])
    def test_the_variance_of_clusters(self, slots: int, has_mean: bool) -> None:
        generator = np.random.default_rng(slots)
        precision, shift = _sites(generator, slots, 2, 2)
        if slots > 1:
            precision[1] = shift[1] = 0  # an empty slot
        of_mean, scale2 = np.array([[1.5, 4.0], [0.3, 4.0]]) * has_mean, 0.8
        level, draws = 1.0, []
        for uniform in generator.random((self.COUNT, 32)):
            level = draw_cluster_variance(precision, shift, level, of_mean, scale2, uniform)
            draws.append(math.log(level))
        log_density = _log_half_t(GRID, scale2)
        size = 2 * slots
        for row in range(2):
            sites = np.zeros((slots, 2, slots, 2))
            for k in range(slots):
                sites[k, :, k] = precision[k, row]
            shared = np.kron(np.ones((slots, slots)), np.diag(of_mean[row]))
            covariance = shared + np.exp(GRID)[:, None, None] * np.eye(size)
            log_density += _log_evidence(
                sites.reshape(size, size), shift[:, row].ravel(), covariance
            )
        assert _distance(np.array(draws), GRID, log_density) < self.BOUND

    def test_the_centre_of_log_variances(self) -> None:
        generator = np.random.default_rng(0)
        logs, spread, scale2 = np.log([0.3, 0.02, 0.9]), 2.0, 0.25
        centre, draws = 0.0, []
        for uniform in generator.random((self.COUNT, 32)):
            centre = draw_centre(logs, centre, spread, scale2, uniform)
            draws.append(centre)
        log_density = _log_half_t(GRID, scale2)
        log_density -= 0.5 * ((GRID[:, None] - logs) ** 2).sum(1) / spread
        assert _distance(np.array(draws), GRID, log_density) < self.BOUND

    def test_the_spread_of_log_variances(self) -> None:
        """Their standardised ones are kept."""
        generator = np.random.default_rng(3)
        precision, shift = _sites(generator, 5, 3, size=0.6)
        chosen, other, centre, scale2 = np.array([True, False, True]), 0.4, -1.5, 1.0
        standardised = np.array([1.2, -0.7])
        spread, draws = 0.8, []
        variance = np.array([0.0, other, 0.0])
        variance[chosen] = np.exp(centre + math.sqrt(spread) * standardised)
        for uniform in generator.random((self.COUNT, 32)):
            spread = draw_spread(
                precision, shift, variance, chosen, centre, spread, scale2, uniform
            )
            draws.append(math.log(spread))
        np.testing.assert_allclose(
            (np.log(variance[chosen]) - centre) / math.sqrt(spread), standardised, rtol=1e-6
        )
        grid = np.linspace(LEAST, MOST_SPREAD, 1500)
        logs = np.insert(
            centre + np.exp(0.5 * grid)[:, None] * standardised, 1, math.log(other), axis=1
        )
        covariance = (np.exp(logs)[:, None] * np.eye(3))[:, None]
        log_density = _log_evidence(precision, shift, covariance).sum(-1)
        log_density += _log_half_t(grid, scale2)
        log_density[(logs > MOST).any(1) | (logs < LEAST).any(1)] = -np.inf
        assert _distance(np.array(draws), grid, log_density) < self.BOUND


class TestNoise:
    """Noise of two tasks: log variances normal about a centre that is flat a priori."""

    COUNTS, SCALE2 = np.array([3.0, 12.0]), 0.3**2
    VARIANCE = np.array([0.5, 0.0])

    def _data(self) -> tuple[Array, Array, Array]:
        """Precision, shift and sum of squares of data whose base is 0."""
        generator = np.random.default_rng(4)
        parts = []
        for count in self.COUNTS:
            x = generator.normal(size=(int(count), 2))
            y = 0.7 * generator.normal(size=int(count)) + x[:, 0] * 0.5
            parts.append((x.T @ x, x.T @ y, y @ y))
        precision, shift, squares = (np.stack(part) for part in zip(*parts, strict=True))
        return precision, shift, squares

    def _marginals(self) -> Iterator[tuple[Array, Array]]:
        """Grid and log density of each task's log noise, and of the log spread."""
        precision, shift, squares = self._data()
        grid, spreads = np.linspace(-5, 4, 181), np.linspace(-9.2, 2.19, 120)
        likelihoods = []
        for n in range(2):
            weight = np.exp(-grid)
            each = -0.5 * (self.COUNTS[n] * grid + weight * squares[n])
            each += _log_evidence(
                weight[:, None, None] * precision[n],
                weight[:, None] * shift[n],
                np.diag(self.VARIANCE),
            )
            likelihoods.append(each)
        joint = likelihoods[0][:, None, None] + likelihoods[1][:, None]
        apart = grid[:, None, None] - grid[:, None]
        # With the centre integrated out the difference of two is N(0, 2 spread), and their mean
        # has the variance spread / 2 + sd^2.
        joint = joint - 0.25 * apart**2 / np.exp(spreads) - 0.5 * spreads
        middle = 0.5 * (grid[:, None, None] + grid[:, None]) - LOG_NOISE[0]
        wide = 0.5 * np.exp(spreads) + LOG_NOISE[1] ** 2
        joint = joint - 0.5 * middle**2 / wide - 0.5 * np.log(wide)
        joint = joint + _log_half_t(spreads, self.SCALE2)
        yield grid, np.logaddexp.reduce(joint, (1, 2))
        yield grid, np.logaddexp.reduce(joint, (0, 2))
        yield spreads, np.logaddexp.reduce(joint, (0, 1))

    def test_is_drawn_as_often_as_its_density_says(self) -> None:
        generator = np.random.default_rng(0)
        precision, shift, squares = self._data()
        logs, centre, between = np.zeros(2), 0.0, 0.1
        draws = np.empty((40_000, 3))
        for row, uniform in zip(draws, generator.random((len(draws), 3, 32)), strict=True):
            centre, between = draw_noise(
                *(logs, precision, shift, squares, self.COUNTS, self.VARIANCE, centre, between),
                self.SCALE2,
                uniform,
            )
            row[:] = *logs, math.log(between)
        for draw, (grid, log_density) in zip(draws.T, self._marginals(), strict=True):
            assert _distance(draw, grid, log_density) < 0.06

    def test_is_so_in_a_sweep(self) -> None:
        """Where centre and spread are first drawn given the logs."""
        precision, shift, squares = (torch.from_numpy(part) for part in self._data())
        evidence = Evidence(
            precision[:, None], shift[:, None], torch.from_numpy(self.COUNTS), squares[:, None]
        )
        prior = Hyperpriors(
            torch.tensor([0, -1]), torch.zeros(1, 2, dtype=torch.bool), noise_spread=0.3
        )
        chains = 100
        state = starting_state(evidence, prior, chains)
        state.deviation.fill_(0.5)
        base = torch.zeros(chains, 2, 1, 2, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        draws = []
        for step in range(140):
            _draw_noise(evidence, base, prior, state, generator)
            if step >= 20:
                logs = state.noise[..., 0].log()
                draws.append(torch.cat([logs, state.noise_spread.log()[:, None]], 1).numpy())
        for draw, (grid, log_density) in zip(
            np.concatenate(draws).T, self._marginals(), strict=True
        ):
            assert _distance(draw, grid, log_density) < 0.03


class _Prior:
    """Draws of everything from the prior, and data: what a sweep must leave as it is."""

    TASKS, ROWS, Q, SAMPLES = 5, 1, 3, 4

    def __init__(self, prior: Hyperpriors, seed: int) -> None:
        self.prior = prior
        self.generator = np.random.default_rng(seed)

    def _variance(self, scale2: float, most: float = MOST) -> float:
        while True:
            sd = abs(math.sqrt(scale2) * self.generator.standard_t(DOF))
            if LEAST < 2 * math.log(sd) < most:  # as the sampler allows
                return float(sd**2)

    def _deviations(self, groups: int) -> tuple[float, float, Array]:
        """tau^2, the spread of log variances, and these variances."""
        if groups == 1:
            return 0.1, 0.1, np.array([self._variance(self.prior.deviation**2)])
        while True:
            shared = self._variance(self.prior.deviation**2)
            spread = self._variance(self.prior.deviation_spread**2, MOST_SPREAD)
            logs = self.generator.normal(math.log(shared), math.sqrt(spread), groups)
            if logs.min() > LEAST and logs.max() < MOST:
                return shared, spread, np.exp(logs)

    def _labels(self) -> list[int]:
        prior, labels = self.prior, [0] * self.TASKS
        if not prior.has_clusters:
            return labels
        if prior.known is not None:
            return [int(k) for k in prior.known]
        components = self.generator.geometric(1 / prior.expected)
        weights = self.generator.dirichlet([prior.gamma] * components)
        found = self.generator.choice(components, self.TASKS, p=weights).tolist()
        names = list(dict.fromkeys(found))
        return [names.index(k) for k in found]

    def draw(self, chains: int) -> tuple[Evidence, State]:
        """One world, and its truth as the state of every chain."""
        prior = self.prior
        shape = (self.TASKS, self.ROWS, self.Q)
        normal = self.generator.normal
        labels = self._labels()
        cluster = self._variance(prior.cluster**2) if prior.has_clusters else 0.0
        of_slopes = self._variance(prior.mean**2)
        groups = prior.groups.numpy()
        count = int(groups.max()) + 1
        shared, spread, deviation = self._deviations(count)
        own = np.array([deviation[g] if g >= 0 else 0.0 for g in groups])
        of_mean = np.where(prior.is_bias.numpy(), prior.bias_variance, of_slopes) * prior.has_mean
        centres = math.sqrt(cluster) * normal(size=shape)[labels]
        weights = np.sqrt(of_mean) * normal(size=shape[1:]) + centres
        weights = weights + np.sqrt(own) * normal(size=shape)
        x = normal(size=(self.TASKS, self.SAMPLES, self.Q))
        y = x @ weights.swapaxes(1, 2) + normal(size=(self.TASKS, self.SAMPLES, self.ROWS))
        precision = np.repeat((x.swapaxes(1, 2) @ x)[:, None], self.ROWS, 1)
        evidence = Evidence(
            torch.from_numpy(precision),
            torch.from_numpy(y.swapaxes(1, 2) @ x),
            torch.full((self.TASKS,), float(self.SAMPLES), dtype=torch.float64),
        )

        def repeated(values: object) -> torch.Tensor:
            tensor = torch.tensor(values)
            tensor = tensor.double() if tensor.is_floating_point() else tensor
            return tensor.repeat(chains, *[1] * tensor.dim())

        state = State(
            repeated(labels),
            repeated(deviation.tolist()) if count else torch.zeros(chains, 0).double(),
            repeated(shared),
            repeated(spread),
            repeated(cluster),
            repeated(of_slopes),
            torch.ones(chains, self.TASKS, self.ROWS, dtype=torch.float64),
            repeated(0.1),
        )
        return evidence, state


def _statistics(evidence: Evidence, state: State) -> Array:
    """Of every chain, and of scales with data: ``[S, 13]`` or fewer."""
    labels = state.labels
    scales = [state.cluster, state.mean, state.shared, state.deviation_spread, *state.deviation.T]
    logs = torch.stack(scales, -1).clamp_min(1e-30).log().clamp(-10, 4)
    same = (labels.unsqueeze(-1) == labels.unsqueeze(-2)).double()
    found = torch.stack([same[:, 0, 1], same[:, 2, 4], labels.max(-1).values.double()], -1)
    size = evidence.shift.square().mean().log()
    close = (evidence.shift[0] - evidence.shift[1]).square().mean().log()
    with_data = torch.stack([logs[:, 0] * size, logs[:, 1] * size, same[:, 0, 1] * close], -1)
    return torch.cat([logs, logs[:, :2].square(), found, with_data], -1).numpy()


@pytest.mark.parametrize("kind", ["features", "shared, known", "mean, intercept", "no mean"])
def test_sweeps_from_the_truth_end_in_the_prior(kind: str) -> None:
    """Scales and partition from the prior, data, and then sweeps: all has the same law as before.

    The truth and the last draw are one as likely as the other (Geweke, 2004, one data set at a
    time), so that what they differ by has the mean 0, for any statistic and any number of sweeps.
    """
    q = _Prior.Q
    is_bias = torch.zeros(_Prior.ROWS, q, dtype=torch.bool)
    is_bias[:, -1] = True
    every = torch.arange(q)
    settings = {
        "features": {},
        "shared, known": {"known": torch.tensor([0, 0, 1, 2, 1])},
        "mean, intercept": {"has_clusters": False},
        "no mean": {"has_mean": False, "gamma": 0.5},
    }[kind]
    groups = {"features": every, "no mean": every, "shared, known": 0 * every}
    prior = Hyperpriors(
        groups.get(kind, torch.where(every == q - 1, 0, -1)),
        is_bias,
        **settings,  # type: ignore[arg-type]
    )
    worlds, generator = _Prior(prior, seed=1), torch.Generator().manual_seed(1)
    differences = []
    for _ in range(300):
        evidence, state = worlds.draw(chains=3)
        before = _statistics(evidence, state)
        for _ in range(5):
            sweep(evidence, prior, state, generator)
        differences.append((_statistics(evidence, state) - before).mean(0))
    found = np.array(differences)
    moved = found.std(0) > 0  # what is known, or not there, does not move
    assert moved.sum() >= 4
    found = found[:, moved]
    score = found.mean(0) / found.std(0) * math.sqrt(len(found))
    assert np.abs(score).max() < 3.7, score
