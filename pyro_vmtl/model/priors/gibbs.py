"""Gibbs sampling of what the nested prior leaves open: the partition, its scales and the noise.

It runs on the CPU, as its moves of single entries do: small matrices and many steps, of which a GPU
would make none faster. So the draws of a seed do not depend on where the sites were made.

Given the evidence of every task as a Gaussian site, exp(h w - w Lambda w / 2), everything but the
partition and the scales is Gaussian. Chains run side by side: S is the first dimension throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyro_vmtl.model.priors.moves import (
    DOF,
    LOG_NOISE,
    MOST_SPREAD,
    Array,
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
from pyro_vmtl.model.priors.partitions import canonical, log_new_cluster

__all__ = ["Evidence", "Hyperpriors", "State", "on_device", "starting_state", "sweep", "thinned"]

_SPLITS = 10  # proposals to split or merge in a sweep
_SWAPS = 4  # proposals to exchange two variances


@dataclass(frozen=True)
class Evidence:
    """What each task's data say about its weights, in float64.

    :ivar precision: Lambda, ``[T, K, q, q]``.
    :ivar shift: h, ``[T, K, q]``.
    :ivar squares: where the noise of a regression is inferred with the rest, the sum of squared
        targets, ``[T, K]``; precision and shift are then those of a noise of 1. Else None.
    :ivar counts: the number of samples behind them, ``[T, K]``: of those with the output.
    """

    precision: Tensor
    shift: Tensor
    counts: Tensor
    squares: Tensor | None = None

    def __add__(self, other: Evidence) -> Evidence:
        """What the data of both say."""
        squares = None
        if self.squares is not None and other.squares is not None:
            squares = self.squares + other.squares
        return Evidence(
            self.precision + other.precision,
            self.shift + other.shift,
            self.counts + other.counts,
            squares,
        )


class Moments(NamedTuple):
    """Gaussians with dense covariances: ``loc [..., q]`` and ``covariance [..., q, q]``."""

    loc: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class Hyperpriors:
    """Which parts the prior w_t = m + c_k + e_t has, and how large they are thought to be.

    Every scale is a standard deviation with a half-t prior of four degrees of freedom, whose scale
    is given here; so has the standard deviation of the logarithms of variances that are normal
    about a shared centre: those of deviations by group, and those of the tasks' noise.

    :ivar groups: of the deviation's variances, ``[q]`` int64: entries of a group share one; -1
        where the tasks do not deviate.
    :ivar has_mean: whether there is a global mean m.
    :ivar is_bias: which entries are biases, ``[K, q]`` bool: their mean has the variance
        ``bias_variance``.
    :ivar has_clusters: whether there are clusters.
    """

    groups: Tensor
    is_bias: Tensor
    has_mean: bool = True
    has_clusters: bool = True
    deviation: float = 0.5
    deviation_spread: float = 1.0
    cluster: float = 1.0
    mean: float = 1.0
    bias_variance: float = 4.0
    gamma: float = 1.0
    expected: float = 3.0
    noise_spread: float = 0.3
    fixed_deviation: bool = False
    known: Tensor | None = None


@dataclass
class State:
    """Where S chains stand.

    :ivar labels: the cluster of every task, ``[S, T]``.
    :ivar deviation: V by group, ``[S, G]``.
    :ivar shared: tau^2, ``[S]``; log V is normal about log tau^2 where there are several groups.
    :ivar deviation_spread: the variance of log V, ``[S]``.
    :ivar cluster: B, ``[S]``.
    :ivar mean: the variance of m's slopes, ``[S]``.
    :ivar noise: the variance of a regression's noise, ``[S, T, K]``; 1 where there is none.
    """

    labels: Tensor
    deviation: Tensor
    shared: Tensor
    deviation_spread: Tensor
    cluster: Tensor
    mean: Tensor
    noise: Tensor
    noise_spread: Tensor


Part = TypeVar("Part", Evidence, Hyperpriors, State)


def on_device(part: Part, device: torch.device | str) -> Part:
    """The same part with all its tensors on a device; those that are there are not copied."""
    there: dict[str, Any] = {k: x.to(device) for k, x in vars(part).items() if torch.is_tensor(x)}
    return replace(part, **there)


def thinned(state: State, most: int) -> State:
    """Some of the draws, evenly spaced: ``most``, or up to twice as many."""
    every = max(1, len(state.labels) // most)
    return State(**{name: values[::every] for name, values in vars(state).items()})


def starting_state(evidence: Evidence, prior: Hyperpriors, chains: int) -> State:
    """Half of the chains start from one cluster, half from all tasks apart."""
    num_tasks, rows = evidence.shift.shape[:2]
    new = evidence.shift.new_full
    labels = torch.zeros(chains, num_tasks, dtype=torch.int64, device=evidence.shift.device)
    if prior.known is not None:
        labels = labels + canonical(prior.known)
    elif prior.has_clusters:
        labels[1::2] = torch.arange(num_tasks, device=labels.device)
    groups = int(prior.groups.max()) + 1
    return State(
        labels,
        new((chains, groups), 1.0 if prior.fixed_deviation else 0.3**2),
        new((chains,), prior.deviation**2),
        new((chains,), 0.5),
        new((chains,), 1.0 if prior.has_clusters else 0.0),
        new((chains,), 1.0),
        new((chains, num_tasks, rows), 0.5 if evidence.squares is not None else 1.0),
        new((chains,), 0.1),
    )


def _gamma(shape: Tensor | float, rate: Tensor, generator: torch.Generator) -> Tensor:
    shape = torch.as_tensor(shape, dtype=rate.dtype, device=rate.device).expand_as(rate)
    # torch.distributions.Gamma takes no generator of its own.
    return torch._standard_gamma(shape.contiguous(), generator=generator) / rate  # noqa: SLF001


def _inverse_gamma(shape: Tensor | float, rate: Tensor, generator: torch.Generator) -> Tensor:
    return _gamma(shape, rate, generator).clamp_min(1e-30).reciprocal()


def _half_t_variance(
    variance: Tensor, scale2: float, squares: Tensor, count: float, generator: torch.Generator
) -> Tensor:
    """Draw the variance of ``count`` normals with this sum of squares.

    The standard deviation has a half-t prior, which is a mixture of inverse gammas (Wand, Ormerod,
    Padoan and Frühwirth, Bayesian Analysis 2011).
    """
    auxiliary = _inverse_gamma((DOF + 1) / 2, DOF / variance + 1 / scale2, generator)
    return _inverse_gamma((DOF + count) / 2, DOF / auxiliary + squares / 2, generator)


def _normal(precision: Tensor, shift: Tensor, generator: torch.Generator) -> Tensor:
    """A draw from the Gaussian of these natural parameters, ``[..., q, q]`` and ``[..., q]``."""
    factor = torch.linalg.cholesky(precision)
    mean = torch.cholesky_solve(shift.unsqueeze(-1), factor)
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    return (mean + torch.linalg.solve_triangular(factor.mT, noise, upper=True)).squeeze(-1)


def sweep(
    evidence: Evidence,
    prior: Hyperpriors,
    state: State,
    generator: torch.Generator,
    of_noise: Evidence | None = None,
    moves_labels: bool = True,
) -> Tensor:
    """One sweep over all that is unknown; the state is changed in place. All is on the CPU.

    :param of_noise: by which the noise of a regression is drawn; None, by ``evidence``.
    :param moves_labels: whether partitions move; else they stay as they are in this sweep.
    :return: the mean of the weights given what was drawn, ``[S, T, K, q]``: by it is judged how
        many draws are effective.
    """
    sites = Sites(evidence, prior, state)
    sums = sites.by_cluster(state.labels)
    if prior.has_clusters:
        _draw_cluster_variance(*sums, prior, state, generator)
    mean = _draw_mean(*sums, prior, state, generator)
    if prior.has_clusters and prior.known is None and moves_labels and len(evidence.counts) > 1:
        _move_labels(sites, mean, prior, state, generator)
        sums = sites.by_cluster(state.labels)
        mean = _draw_mean(*sums, prior, state, generator)
    base = mean.unsqueeze(1).expand_as(sites.shift)
    if prior.has_clusters:
        base = base + _draw_centres(*sums, mean, state, generator)
    loc = sites.mean_weights(base)
    if evidence.squares is not None:
        _draw_noise(of_noise or evidence, base, prior, state, generator)
    if not prior.fixed_deviation and state.deviation.shape[1]:
        _draw_deviations(evidence, base, prior, state, generator)
    return loc


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Array:
    return torch.rand(shape, generator=generator, dtype=torch.float64).numpy()


def _move_labels(
    sites: Sites, mean: Tensor, prior: Hyperpriors, state: State, generator: torch.Generator
) -> None:
    """Every task is dealt anew, and splits and merges are proposed; centres are integrated out."""
    chains, num_tasks = state.labels.shape
    seen = (sites.of_base @ mean[:, None, :, :, None]).squeeze(-1)
    # The first half is room for sums.
    precision = sites.of_base.repeat(1, 2, 1, 1, 1).numpy()
    shift = (sites.shift_of_base - seen).repeat(1, 2, 1, 1).numpy()
    labels = state.labels.numpy()
    log_new = log_new_cluster(num_tasks, prior.gamma, prior.expected).numpy()
    uniform = _uniform((chains, 1 + _SPLITS, num_tasks + 1), generator)
    orders = _uniform((chains, 1 + _SPLITS, num_tasks), generator).argsort(-1)
    for chain, variance in enumerate(state.cluster.tolist()):
        own = (labels[chain], precision[chain], shift[chain], variance, prior.gamma, log_new)
        deal_labels(*own, orders[chain, 0], uniform[chain, 0])
        for order, chances in zip(orders[chain, 1:], uniform[chain, 1:], strict=True):
            split_or_merge(*own, order[0], order[1], order, chances)
    state.labels = canonical(torch.from_numpy(labels))


class Sites:
    """The sites of every chain, and what they say of each task's base m + c_k.

    :ivar precision: Lambda over the variance of the noise, ``[S, T, K, q, q]``.
    :ivar shift: ``[S, T, K, q]``.
    :ivar variance: V, ``[S, 1, 1, q]``.
    :ivar of_base: the precision of the base with the task's own deviation integrated out.
    :ivar shift_of_base: its shift.
    """

    def __init__(self, evidence: Evidence, prior: Hyperpriors, state: State) -> None:
        noise = state.noise
        self.precision = evidence.precision / noise[..., None, None]
        self.shift = evidence.shift / noise[..., None]
        self.variance = spread(state.deviation, prior.groups)[:, None, None]
        sd = self.variance.sqrt()
        inner = sd.unsqueeze(-1) * self.precision * sd.unsqueeze(-2)
        inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
        self._factor = torch.linalg.cholesky(inner)
        self._sd = sd
        left = torch.linalg.solve_triangular(
            self._factor, sd.unsqueeze(-1) * self.precision, upper=False
        )
        right = torch.linalg.solve_triangular(
            self._factor, (sd * self.shift).unsqueeze(-1), upper=False
        )
        self.of_base = self.precision - left.mT @ left
        self.shift_of_base = self.shift - (left.mT @ right).squeeze(-1)

    def by_cluster(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What every cluster's tasks say of its base: precision, ``[S, M, K, q, q]``, and shift."""
        slots = num_slots(labels)
        precision = by_cluster(labels, self.of_base, slots)
        return precision, by_cluster(labels, self.shift_of_base, slots)

    def mean_weights(self, base: Tensor) -> Tensor:
        """The mean of w given the base m + c_k, ``[S, T, K, q]``."""
        residual = self.shift - (self.precision @ base.unsqueeze(-1)).squeeze(-1)
        white = torch.linalg.solve_triangular(
            self._factor, (self._sd * residual).unsqueeze(-1), upper=False
        )
        move = torch.linalg.solve_triangular(self._factor.mT, white, upper=True)
        return base + self._sd * move.squeeze(-1)

    def own_covariance(self) -> Tensor:
        """The covariance of w given its base, ``[S, T, K, q, q]``."""
        half = torch.linalg.solve_triangular(
            self._factor, self._sd.diag_embed().expand_as(self._factor), upper=False
        )
        return half.mT @ half

    def given_base(self, loc: Tensor, covariance: Tensor) -> Moments:
        """The moments of w, those of its base being known, ``[S, T, K, q]``."""
        own = self.own_covariance()
        keep = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device) - own @ self.precision
        out = (own @ self.shift.unsqueeze(-1) + keep @ loc.unsqueeze(-1)).squeeze(-1)
        return Moments(out, own + keep @ covariance @ keep.mT)


def spread(by_group: Tensor, groups: Tensor) -> Tensor:
    """Values by group, ``[..., G]``, at the entries, ``[..., q]``; 0 where the group is -1."""
    padded = torch.nn.functional.pad(by_group, (0, 1))
    return padded[..., groups]


def mean_variance(prior: Hyperpriors, state: State) -> Tensor:
    """A, ``[S, K, q]``."""
    bias = torch.full_like(state.mean, prior.bias_variance)
    out = torch.where(prior.is_bias, bias[:, None, None], state.mean[:, None, None])
    return out if prior.has_mean else torch.zeros_like(out)


def num_slots(labels: Tensor) -> int:
    """Room for the clusters of all chains; as many as tasks where there is nothing to see."""
    return labels.shape[-1] if labels.is_meta else int(labels.max()) + 1


def by_cluster(labels: Tensor, values: Tensor, slots: int) -> Tensor:
    """Sums over the tasks of each cluster, ``[S, slots, ...]``, of ``[S, T, ...]``."""
    one_hot = torch.nn.functional.one_hot(labels, slots).to(values.dtype)  # [S, T, M]
    return (one_hot.mT @ values.flatten(2)).view(len(labels), slots, *values.shape[2:])


def integrate(precision: Tensor, shift: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """What a site of u = v + N(0, variance I) says of v: precision and shift.

    :param precision: ``[..., q, q]``.
    :param shift: ``[..., q]``.
    :param variance: ``[...]``, 0 allowed.
    """
    variance = variance.unsqueeze(-1)
    inner = variance.unsqueeze(-1) * precision
    inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
    factor = torch.linalg.cholesky(inner)
    left = torch.linalg.solve_triangular(factor, precision, upper=False)
    right = torch.linalg.solve_triangular(factor, shift.unsqueeze(-1), upper=False)
    seen = precision - variance.unsqueeze(-1) * (left.mT @ left)
    return seen, shift - variance * (left.mT @ right).squeeze(-1)


def _draw_mean(
    precision: Tensor,
    shift: Tensor,
    prior: Hyperpriors,
    state: State,
    generator: torch.Generator,
) -> Tensor:
    """m, ``[S, K, q]``, with clusters and weights integrated out; A before it, with m as well.

    :param precision: of the clusters' sums; ``shift``: likewise (:meth:`Sites.by_cluster`).
    """
    if not prior.has_mean:
        return torch.zeros_like(shift[:, 0])
    seen, moved = integrate(precision, shift, state.cluster[:, None, None])
    total, moved = seen.sum(1), moved.sum(1)
    slopes = ~prior.is_bias
    if bool(slopes.any()):
        # A site for every row; where rows are single entries, of the slopes alone.
        rows = slopes.any(-1)
        chosen = slopes[rows][0].numpy()
        given = total[:, rows].numpy(), moved[:, rows].numpy()
        variance = mean_variance(prior, state)[:, rows][:, 0].numpy()
        uniform = _uniform((len(moved), 32), generator)
        for chain, level in enumerate(state.mean.tolist()):
            state.mean[chain] *= draw_scale(
                given[0][chain],
                given[1][chain],
                variance[chain],
                chosen,
                level,
                prior.mean**2,
                uniform[chain],
            )
    total = total + mean_variance(prior, state).reciprocal().diag_embed()
    return _normal(total, moved, generator)


def _draw_cluster_variance(
    precision: Tensor,
    shift: Tensor,
    prior: Hyperpriors,
    state: State,
    generator: torch.Generator,
) -> None:
    """B, with centres and mean integrated out: with one cluster data say nothing of it."""
    sums = precision.numpy(), shift.numpy()
    of_mean = mean_variance(prior, state).numpy()
    uniform = _uniform((len(state.labels), 32), generator)
    for chain, level in enumerate(state.cluster.tolist()):
        state.cluster[chain] = draw_cluster_variance(
            sums[0][chain],
            sums[1][chain],
            level,
            of_mean[chain],
            prior.cluster**2,
            uniform[chain],
        )


def _draw_centres(
    precision: Tensor, shift: Tensor, mean: Tensor, state: State, generator: torch.Generator
) -> Tensor:
    """c of each task's cluster, ``[S, T, K, q]``."""
    shift = shift - (precision @ mean[:, None, :, :, None]).squeeze(-1)
    of_centre = state.cluster.reciprocal()[:, None, None, None].expand_as(shift)
    precision = precision + of_centre.diag_embed()
    centres = _normal(precision, shift, generator)
    index = state.labels[:, :, None, None].expand(-1, -1, *centres.shape[2:])
    return centres.gather(1, index)


def _draw_deviations(
    evidence: Evidence,
    base: Tensor,
    prior: Hyperpriors,
    state: State,
    generator: torch.Generator,
) -> None:
    """V, its centre and spread, with the weights integrated out given the bases m + c_k."""
    sites = evidence.precision / state.noise[..., None, None]
    residual = evidence.shift / state.noise[..., None] - (sites @ base.unsqueeze(-1)).squeeze(-1)
    precision = sites.flatten(1, 2).numpy()
    shift = residual.flatten(1, 2).numpy()
    groups = prior.groups.numpy()
    varies, num_groups = groups >= 0, state.deviation.shape[1]
    scale2, spread2 = prior.deviation**2, prior.deviation_spread**2
    uniforms = _uniform((len(state.labels), len(groups) + 3, 32), generator)
    swaps = _uniform((len(state.labels), _SWAPS, 3), generator)
    for chain in range(len(state.labels)):
        by_group = state.deviation[chain].numpy()
        variance = np.where(varies, by_group[groups], 0.0)
        own, uniform = (precision[chain], shift[chain]), uniforms[chain]
        if num_groups == 1:
            by_group = by_group * draw_scale(
                *own, variance, varies, float(by_group[0]), scale2, uniform[-1]
            )
        else:
            level, spread = float(state.shared[chain]), float(state.deviation_spread[chain])
            centre = math.log(level)
            entries = np.flatnonzero(varies)
            swap_variances(variance, entries, *own, swaps[chain])
            draw_variances(variance, entries, *own, centre, spread, uniform)
            spread = draw_spread(*own, variance, varies, centre, spread, spread2, uniform[-3])
            factor = draw_scale(*own, variance, varies, level, scale2, uniform[-2])
            by_group = np.empty(num_groups)
            by_group[groups[entries]] = factor * variance[entries]
            state.shared[chain] = math.exp(
                draw_centre(
                    np.log(by_group), centre + math.log(factor), spread, scale2, uniform[-1]
                )
            )
            state.deviation_spread[chain] = spread
        state.deviation[chain] = torch.from_numpy(by_group)
    if num_groups > 1:
        away = (state.deviation.log() - state.shared.log()[:, None]).square().sum(1)
        state.deviation_spread = _half_t_variance(
            state.deviation_spread, spread2, away, num_groups, generator
        ).clamp(1e-6, math.exp(MOST_SPREAD))


def _draw_noise(
    evidence: Evidence, base: Tensor, prior: Hyperpriors, state: State, generator: torch.Generator
) -> None:
    """The noise of every task, and how it varies: log variances are normal across tasks."""
    assert evidence.squares is not None
    chains, num_tasks, rows = state.noise.shape
    explained = (evidence.precision @ base.unsqueeze(-1)).squeeze(-1)
    shift = (evidence.shift - explained).flatten(1, 2).numpy()
    squares = evidence.squares - (base * (2 * evidence.shift - explained)).sum(-1)
    left = squares.clamp_min(1e-12).flatten(1).numpy()
    precision = evidence.precision.flatten(0, 1).numpy()
    counts = evidence.counts.flatten().numpy()
    variance = spread(state.deviation, prior.groups).numpy()
    logs = state.noise.log()
    # Centre and spread given the log variances, then with them standardised.
    count = num_tasks * rows
    # log noise ~ N(centre, spread), centre ~ N(mean, sd^2): the centre first, then the spread.
    mean, sd = LOG_NOISE
    certain = count / state.noise_spread + 1 / sd**2
    centre = (logs.sum((1, 2)) / state.noise_spread + mean / sd**2) / certain
    noise = torch.randn(centre.shape, generator=generator, dtype=centre.dtype)
    centre = centre + noise * certain.rsqrt()
    away = (logs - centre[:, None, None]).square().sum((1, 2))
    state.noise_spread = _half_t_variance(
        state.noise_spread, prior.noise_spread**2, away, count, generator
    ).clamp(1e-4, 9.0)
    drawn: Array = logs.flatten(1).numpy().copy()
    uniform = _uniform((chains, count + 1, 32), generator)
    spreads = state.noise_spread.tolist()
    for chain, (middle, between) in enumerate(zip(centre.tolist(), spreads, strict=True)):
        _, spreads[chain] = draw_noise(
            drawn[chain],
            precision,
            shift[chain],
            left[chain],
            counts,
            variance[chain],
            middle,
            between,
            prior.noise_spread**2,
            uniform[chain],
        )
    state.noise = torch.from_numpy(drawn).to(logs.device).exp().view(state.noise.shape)
    state.noise_spread = centre.new_tensor(spreads).clamp(1e-4, 9.0)
