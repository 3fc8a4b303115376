"""What a draw of partition and scales says of the weights, everything else integrated out.

With m ~ N(0, A), c_k ~ N(0, B I), e_t ~ N(0, V) and a Gaussian site a task, weights are Gaussian
given the partition and the scales: the posterior of a task's weights, and its cavity, what the
other tasks' sites alone say of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vmtl.model.priors.gibbs import (
    Evidence,
    Hyperpriors,
    Moments,
    Sites,
    State,
    by_cluster,
    integrate,
    mean_variance,
    num_slots,
)

__all__ = [
    "Moments",
    "across",
    "averaged",
    "bases",
    "cavity",
    "drawn_bases",
    "log_evidence",
    "posterior",
    "product",
]


def posterior(evidence: Evidence, prior: Hyperpriors, state: State) -> Moments:
    """p(w_t | D, draw), ``[S, T, K, q]``."""
    sites = Sites(evidence, prior, state)
    base = _bases(sites, prior, state, num_slots(state.labels))
    index = state.labels[:, :, None, None].expand(-1, -1, *base.loc.shape[2:])
    loc = base.loc.gather(1, index)
    covariance = base.covariance.gather(
        1, index.unsqueeze(-1).expand(*index.shape, index.shape[-1])
    )
    return sites.given_base(loc, covariance)


def across(evidence: Evidence, prior: Hyperpriors, state: State, task: int, other: int) -> Tensor:
    """Cov(w_task, w_other | D, draw) of two tasks, ``[S, K, q, q]``."""
    sites = Sites(evidence, prior, state)
    slots = num_slots(state.labels)
    precision = by_cluster(state.labels, sites.of_base, slots)
    shift = by_cluster(state.labels, sites.shift_of_base, slots)
    seen, moved = integrate(precision, shift, state.cluster[:, None, None])
    mean = _global_mean(prior, state, seen.sum(1), moved.sum(1)).covariance
    given_m, keep = _given_mean(precision, state.cluster)
    chain = torch.arange(len(state.labels), device=mean.device)
    one, two = state.labels[:, task], state.labels[:, other]
    base = keep[chain, one] @ mean @ keep[chain, two].mT
    base = base + (one == two).to(base)[:, None, None, None] * given_m[chain, one]
    own = sites.own_covariance()
    eye = torch.eye(own.shape[-1], dtype=own.dtype, device=own.device)
    of_base = eye - own @ sites.precision
    out = of_base[:, task] @ base @ of_base[:, other].mT
    return out + own[:, task] if task == other else out


def cavity(evidence: Evidence, prior: Hyperpriors, state: State) -> Moments:
    """p(w_t | D of the other tasks, draw), ``[S, T, K, q]``."""
    sites = Sites(evidence, prior, state)
    slots = num_slots(state.labels)
    precision = by_cluster(state.labels, sites.of_base, slots)
    shift = by_cluster(state.labels, sites.shift_of_base, slots)
    variance = state.cluster[:, None, None]
    seen, moved = integrate(precision, shift, variance)
    index = state.labels[:, :, None, None].expand(-1, -1, *shift.shape[2:])
    wide = index.unsqueeze(-1).expand(*index.shape, index.shape[-1])
    left = precision.gather(1, wide) - sites.of_base
    left_shift = shift.gather(1, index) - sites.shift_of_base
    own_seen, own_moved = integrate(left, left_shift, variance)
    mean = _global_mean(
        prior,
        state,
        seen.sum(1, keepdim=True) - seen.gather(1, wide) + own_seen,
        moved.sum(1, keepdim=True) - moved.gather(1, index) + own_moved,
    )
    base = _base(left, left_shift, mean.loc, mean.covariance, state.cluster)
    return Moments(base.loc, base.covariance + sites.variance.expand_as(base.loc).diag_embed())


def bases(evidence: Evidence, prior: Hyperpriors, state: State) -> Moments:
    """p(m + c_k | D, draw), ``[S, M + 1, K, q]``, of M slots for clusters and one more.

    Slots that no task of a draw is in, the last one at least, have that of a new cluster.
    """
    slots = num_slots(state.labels) + 1
    return _bases(Sites(evidence, prior, state), prior, state, slots)


def drawn_bases(
    evidence: Evidence, prior: Hyperpriors, state: State, generator: torch.Generator
) -> Tensor:
    """A draw of every task's base m + c_k, all tasks together, for each draw, ``[S, T, K, q]``."""
    sites = Sites(evidence, prior, state)
    slots = num_slots(state.labels)
    precision = by_cluster(state.labels, sites.of_base, slots)
    shift = by_cluster(state.labels, sites.shift_of_base, slots)
    seen, moved = integrate(precision, shift, state.cluster[:, None, None])
    mean = _drawn(_global_mean(prior, state, seen.sum(1), moved.sum(1)), generator)[:, None]
    known = torch.zeros_like(precision[:, :1])  # the covariance of a mean that has been drawn
    base = _drawn(_base(precision, shift, mean, known, state.cluster), generator)
    index = state.labels[:, :, None, None].expand(-1, -1, *base.shape[2:])
    return base.gather(1, index)


def _drawn(moments: Moments, generator: torch.Generator) -> Tensor:
    """A draw from each Gaussian; covariances may be singular."""
    values, vectors = torch.linalg.eigh(moments.covariance)
    noise = torch.randn(moments.loc.shape, generator=generator, dtype=moments.loc.dtype)
    scaled = values.clamp_min(0).sqrt() * noise.to(moments.loc.device)
    return moments.loc + (vectors @ scaled.unsqueeze(-1)).squeeze(-1)


def log_evidence(evidence: Evidence, prior: Hyperpriors, state: State) -> Tensor:
    """The log of what the sites integrate to over the weights given each draw, ``[S]``.

    Deviations are integrated out first, then the centres of clusters, then the global mean.
    """
    sites = Sites(evidence, prior, state)
    slots = num_slots(state.labels)
    precision = by_cluster(state.labels, sites.of_base, slots)
    shift = by_cluster(state.labels, sites.shift_of_base, slots)
    of_centre = state.cluster[:, None, None, None].expand_as(shift)
    seen, moved = integrate(precision, shift, state.cluster[:, None, None])
    stages = (
        (sites.precision, sites.shift, sites.variance.expand_as(sites.shift)),
        (precision, shift, of_centre),
        (seen.sum(1), moved.sum(1), mean_variance(prior, state)),
    )
    return torch.stack([_log_integral(*stage).flatten(1).sum(1) for stage in stages]).sum(0)


def _log_integral(precision: Tensor, shift: Tensor, variance: Tensor) -> Tensor:
    """log E exp(h u - u Lambda u / 2) for u ~ N(0, diag(variance)), ``[..., q]`` to ``[...]``."""
    sd = variance.sqrt()
    inner = sd.unsqueeze(-1) * precision * sd.unsqueeze(-2)
    inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
    factor = torch.linalg.cholesky(inner)
    white = torch.linalg.solve_triangular(factor, (sd * shift).unsqueeze(-1), upper=False)
    size = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * white.square().sum((-2, -1)) - size


def averaged(moments: Moments) -> Moments:
    """Mean and covariance of a mixture in equal shares, ``[S, ...]`` to ``[...]``."""
    loc = moments.loc.mean(0)
    away = moments.loc - loc
    between = torch.einsum("s...i,s...j->...ij", away, away) / len(away)
    return Moments(loc, moments.covariance.mean(0) + between)


def product(prior: Moments, precision: Tensor, shift: Tensor) -> Moments:
    """A Gaussian times a site exp(h w - w Lambda w / 2), normalised."""
    root = torch.linalg.cholesky(prior.covariance)
    inner = root.mT @ precision @ root
    inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), root.mT, upper=False)
    covariance = half.mT @ half
    residual = shift - (precision @ prior.loc.unsqueeze(-1)).squeeze(-1)
    return Moments(prior.loc + (covariance @ residual.unsqueeze(-1)).squeeze(-1), covariance)


def _global_mean(prior: Hyperpriors, state: State, precision: Tensor, shift: Tensor) -> Moments:
    """m given what clusters say of it, ``[S, ..., K, q]``; zero where there is none."""
    sd = mean_variance(prior, state).sqrt()  # [S, K, q]
    sd = sd.view(len(sd), *(1,) * (shift.dim() - 3), *sd.shape[1:])
    inner = sd.unsqueeze(-1) * precision * sd.unsqueeze(-2)
    inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
    half = torch.linalg.solve_triangular(
        torch.linalg.cholesky(inner), sd.diag_embed().expand_as(inner), upper=False
    )
    covariance = half.mT @ half
    return Moments((covariance @ shift.unsqueeze(-1)).squeeze(-1), covariance)


def _bases(sites: Sites, prior: Hyperpriors, state: State, slots: int) -> Moments:
    """m + c_k given all sites, ``[S, slots, K, q]``."""
    precision = by_cluster(state.labels, sites.of_base, slots)
    shift = by_cluster(state.labels, sites.shift_of_base, slots)
    seen, moved = integrate(precision, shift, state.cluster[:, None, None])
    mean = _global_mean(prior, state, seen.sum(1), moved.sum(1))
    return _base(precision, shift, mean.loc[:, None], mean.covariance[:, None], state.cluster)


def _base(
    precision: Tensor, shift: Tensor, loc: Tensor, covariance: Tensor, variance: Tensor
) -> Moments:
    """m + c_k given m's moments and what the tasks of the cluster say, ``[S, ..., K, q]``."""
    given_m, keep = _given_mean(precision, variance)
    out = (given_m @ shift.unsqueeze(-1) + keep @ loc.unsqueeze(-1)).squeeze(-1)
    return Moments(out, given_m + keep @ covariance @ keep.mT)


def _given_mean(precision: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance of m + c_k given m, and m's share in its mean, ``[S, ..., K, q, q]``."""
    variance = variance.view(len(variance), *(1,) * (precision.dim() - 1))
    inner = variance * precision
    inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
    eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    given_m = variance * torch.cholesky_solve(eye.expand_as(inner), torch.linalg.cholesky(inner))
    return given_m, eye - given_m @ precision
