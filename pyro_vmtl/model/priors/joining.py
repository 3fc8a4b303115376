r"""A new task joins the draws of partition and scales that were made without it.

Given a draw s, the weights of a new task have a Gaussian prior for every cluster that it may belong
to, those that there are and one of its own, and its data D_new make their chances:

.. math::
    p(k \mid D, D_{new}, s) \propto p(k \mid \text{partition of } s) \int p(D_{new} \mid w)\,
    p(w \mid k, D, s)\, dw

The draws themselves stay as they are: the new task says nothing of the others' partition and
scales, which costs little where the others are many.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_vmtl.model.likelihoods import Likelihood
from pyro_vmtl.model.priors.conditionals import Moments, bases
from pyro_vmtl.model.priors.gibbs import (
    Evidence,
    Hyperpriors,
    State,
    num_slots,
    spread,
)
from pyro_vmtl.model.priors.moves import LEAST, LOG_NOISE
from pyro_vmtl.model.priors.partitions import canonical, log_new_cluster

__all__ = ["Candidates", "candidates", "log_joining", "with_site", "without"]

_STEPS = 200
_TOLERANCE = 1e-6  # of a site's change in a step, in units of the site
_NODES = (41, 41, 41, 101)  # of log noise: four looks at its density, each on a narrower grid


def log_joining(prior: Hyperpriors, labels: Tensor) -> Tensor:
    """The log chances of every cluster for a task of which nothing is known, ``[S, M + 1]``.

    :param labels: canonical, ``[S, T]``. In a draw with k clusters place k is that of a new one,
        and later places are none.
    """
    sizes = one_hot(labels, num_slots(labels) + 1).sum(1).double()
    if not prior.has_clusters:
        return torch.where(sizes > 0, 0.0, -torch.inf).to(sizes)
    occupied = (sizes > 0).sum(-1)
    weights = torch.where(sizes > 0, (sizes + prior.gamma).log(), -torch.inf)
    new = log_new_cluster(labels.shape[1] + 1, prior.gamma, prior.expected).to(sizes.device)
    return weights.scatter(1, occupied.unsqueeze(-1), new[occupied].unsqueeze(-1)).log_softmax(-1)


def candidates(evidence: Evidence, prior: Hyperpriors, state: State) -> Candidates:
    """What the tasks that are there say of a new one."""
    log_prior = log_joining(prior, state.labels)
    exists = log_prior.isfinite()
    base = bases(evidence, prior, state)
    own = spread(state.deviation, prior.groups)[:, None, None].expand_as(base.loc)
    covariance = base.covariance + own.diag_embed()
    # Log variances of noise are normal across tasks, about a centre that those known tell of.
    mean, sd = LOG_NOISE
    logs = state.noise.log().flatten(1)
    certain = logs.shape[1] / state.noise_spread + 1 / sd**2
    return Candidates(
        state,
        log_prior,
        Moments(base.loc[exists], covariance[exists]),
        (logs.sum(1) / state.noise_spread + mean / sd**2) / certain,
        state.noise_spread + 1 / certain,
    )


@dataclass(frozen=True)
class Candidates:
    """The clusters that a new task may belong to in each of S draws, H of them in all.

    :ivar state: the draws.
    :ivar log_prior: their log chances before the task's data, ``[S, M + 1]``, of which H are finite
        (:func:`log_joining`).
    :ivar weights: the weights of the new task given each of the H, ``[H, K, q]``.
    :ivar log_noise: the mean of its log variances of noise in each draw, before its data, ``[S]``;
        ``noise_spread``: their variance.
    """

    state: State
    log_prior: Tensor
    weights: Moments
    log_noise: Tensor
    noise_spread: Tensor

    @cached_property
    def _exists(self) -> Tensor:
        return self.log_prior.isfinite()

    @cached_property
    def _root(self) -> Tensor:
        return torch.linalg.cholesky(self.weights.covariance)

    def site(
        self, features: Tensor, targets: Tensor, observed: Tensor, likelihood: Likelihood
    ) -> Evidence:
        """The Gaussian site of the new task's data, where those of the others stay as they are.

        It is the likelihood's own (:meth:`Likelihood.sites`) at the mixture of all draws and
        clusters given the site itself, found by damped steps, as those of all tasks are in a fit.

        :param features: phi of the labelled samples, Z draws of them, ``[Z, B, q]`` float64.
        :param targets: of :meth:`Likelihood.standardised`, ``[B]`` or ``[B, K]``.
        :param observed: which outputs count, ``[B, K]`` or ``[B, 1]``.
        """
        draws, count, columns = features.shape
        if draws * count < columns:  # few samples tell of few directions of the weights alone
            basis = torch.linalg.qr(features.flatten(0, 1).mT).Q  # [q, Z B]
            inner = self._along(basis).site(features @ basis, targets, observed, likelihood)
            precision = basis @ inner.precision @ basis.mT
            return replace(inner, precision=precision, shift=inner.shift @ basis.mT)
        wide = features.unsqueeze(1)
        loc = self.weights.loc
        shift = loc.new_zeros(loc.shape[1:])
        precision = shift.diag_embed()
        expanded = targets.expand(draws, *targets.shape)
        for step in range(_STEPS if count else 0):
            mean, covariance = self.moments(precision, shift)
            variance = ((wide @ covariance) * wide).sum(-1).mT.clamp_min(0)  # [Z, B, K]
            sites = likelihood.sites if step else likelihood.first_sites
            g, r = (observed * part for part in sites(features @ mean.mT, variance, expanded))
            seen = torch.einsum("zbk,zbi,zbj->kij", r, features, features) / draws
            moved = (g.mT @ features).mean(0) + (seen @ mean.unsqueeze(-1)).squeeze(-1)
            away = max(
                float(((new - old).abs() / (1 + old.abs())).max())
                for new, old in ((seen, precision), (moved, shift))
            )
            exact = step == 0 or likelihood.sites_are_exact
            rate = 1.0 if exact else min(0.7, 20 / step)
            precision, shift = precision.lerp(seen, rate), shift.lerp(moved, rate)
            if likelihood.sites_are_exact or away < _TOLERANCE:
                break
        squares = None
        if likelihood.has_noise:
            squares = (observed * targets.square().view(count, loc.shape[1])).sum(0, keepdim=True)
        counts = observed.sum(0, keepdim=True).to(loc).expand(1, loc.shape[1])
        return Evidence(precision[None], shift[None], counts, squares)

    def _along(self, basis: Tensor) -> Candidates:
        """Of some directions of the weights alone, the columns of ``basis``, ``[q, p]``."""
        loc, covariance = self.weights
        return replace(self, weights=Moments(loc @ basis, basis.mT @ covariance @ basis))

    def moments(self, precision: Tensor, shift: Tensor) -> Moments:
        """Mean and covariance of the weights under all draws and clusters, given a site.

        :param precision: ``[K, q, q]``; ``shift``: ``[K, q]``; of a noise of 1.
        """
        log_evidence, loc, half = self._given(precision, shift)
        chances = self._chances(log_evidence.sum(-1)).exp()
        share = (chances / len(chances))[self._exists][:, None, None]
        mean = (share * loc).sum(0)
        parts = torch.cat([half, (loc - mean).unsqueeze(-2)], -2)  # [H, K, q + 1, q]
        parts = parts.transpose(0, 1).flatten(1, 2)
        shares = share.squeeze(-1).expand(-1, parts.shape[1] // len(share)).reshape(1, -1, 1)
        return Moments(mean, parts.mT @ (shares * parts))

    def log_chances(self, site: Evidence) -> Tensor:
        """The log chances of every cluster given the task's data, ``[S, M + 1]``.

        :param site: of the new task alone.
        """
        return self._look(site)[0]

    def join(self, site: Evidence, generator: torch.Generator) -> State:
        """The draws with the new task as their last: its cluster, and its noise in a regression.

        Draws that agree share the chances of the clusters out evenly (a Latin hypercube).

        :param site: of the new task alone.
        """
        log_chances, log_noise = self._look(site)
        count = len(log_chances)
        below = log_chances.exp().cumsum(-1)
        uniform = _even(count, generator, below).unsqueeze(-1)
        label = torch.searchsorted(below / below[:, -1:], uniform, right=True)
        noise = self.state.noise[:, :1]
        if log_noise is not None:
            number = self._exists.flatten().cumsum(0).view_as(self._exists) - 1
            grid, log_density = (part[number.gather(1, label).squeeze(1)] for part in log_noise)
            rows = [_even(count, generator, below) for _ in range(grid.shape[1])]
            noise = _quantile(grid, log_density, torch.stack(rows, -1)).exp().unsqueeze(1)
        return replace(
            self.state,
            labels=torch.cat([self.state.labels, label], 1),
            noise=torch.cat([self.state.noise, noise], 1),
        )

    def _look(self, site: Evidence) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Log chances of the clusters, and where noise is inferred its density given each."""
        if site.squares is None:
            log_evidence, _, _ = self._given(site.precision[0], site.shift[0])
            return self._chances(log_evidence.sum(-1)), None
        grid, log_density = self._noise(site)
        # The trapezoidal rule; the ends of the grid have next to nothing.
        log_evidence = log_density.logsumexp(-1) + (grid[..., 1] - grid[..., 0]).log()
        return self._chances(log_evidence.sum(-1)), (grid, log_density)

    def _chances(self, log_evidence: Tensor) -> Tensor:
        """Log chances ``[S, M + 1]`` from the log evidence of the H clusters."""
        logs = self.log_prior.clone()
        logs[self._exists] += log_evidence
        return logs.log_softmax(-1)

    def _given(self, precision: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log of a site's integral, ``[H, K]``, posterior mean, and C with the covariance C' C."""
        loc, root = self.weights.loc, self._root
        inner = root.mT @ precision @ root
        inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
        factor = torch.linalg.cholesky(inner)
        half = torch.linalg.solve_triangular(factor, root.mT, upper=False)
        seen = (precision @ loc.unsqueeze(-1)).squeeze(-1)
        white = half @ (shift - seen).unsqueeze(-1)
        log_evidence = (loc * (shift - 0.5 * seen)).sum(-1) + 0.5 * white.square().sum((-2, -1))
        log_evidence = log_evidence - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_evidence, loc + (half.mT @ white).squeeze(-1), half

    def _noise(self, site: Evidence) -> tuple[Tensor, Tensor]:
        """Log noise and its log density with the weights integrated out, ``[H, K, G]`` each."""
        assert site.squares is not None
        precision, shift = site.precision[0], site.shift[0]
        loc, root, count = self.weights.loc, self._root, site.counts[0]
        seen = (precision @ loc.unsqueeze(-1)).squeeze(-1)
        left = (site.squares[0] - (loc * (2 * shift - seen)).sum(-1)).clamp_min(0)
        sizes, axes = torch.linalg.eigh(root.mT @ precision @ root)
        along = axes.mT @ (root.mT @ (shift - seen).unsqueeze(-1))
        sizes, along = sizes.clamp_min(0), along.squeeze(-1).square()
        of_draw = self._exists.nonzero()[:, 0]
        centre, variance = (
            part[of_draw].unsqueeze(-1) for part in (self.log_noise, self.noise_spread)
        )

        def log_density(log_noise: Tensor) -> Tensor:
            w = (-log_noise).exp().unsqueeze(-1)
            fitted = (w * along / (1 + w * sizes)).sum(-1)
            out = -0.5 * (count * log_noise + w.squeeze(-1) * (left - fitted))
            out = out - 0.5 * (w * sizes).log1p().sum(-1)
            return out - 0.5 * (log_noise - centre).square() / variance

        middle = torch.zeros_like(left).unsqueeze(-1)  # [H, K, 1]
        half = torch.full_like(middle, -LEAST)
        for number in _NODES:
            nodes = torch.linspace(-1, 1, number, dtype=loc.dtype, device=loc.device)
            grid = middle + half * nodes
            density = torch.stack([log_density(x) for x in grid.unbind(-1)], -1)
            share = density.softmax(-1)
            middle = (share * grid).sum(-1, keepdim=True)
            sd = (share * (grid - middle).square()).sum(-1, keepdim=True).sqrt()
            half = 6 * (sd + grid[..., 1:2] - grid[..., :1])
        return grid, density


def with_site(evidence: Evidence, site: Evidence) -> Evidence:
    """The evidence with one task's more."""
    squares = None
    if evidence.squares is not None and site.squares is not None:
        squares = torch.cat([evidence.squares, site.squares])
    return Evidence(
        torch.cat([evidence.precision, site.precision]),
        torch.cat([evidence.shift, site.shift]),
        torch.cat([evidence.counts, site.counts]),
        squares,
    )


def without(evidence: Evidence, state: State, task: int) -> tuple[Evidence, State]:
    """Evidence and draws without one task."""
    kept = torch.arange(len(evidence.counts), device=evidence.counts.device) != task
    squares = None if evidence.squares is None else evidence.squares[kept]
    return (
        Evidence(evidence.precision[kept], evidence.shift[kept], evidence.counts[kept], squares),
        replace(state, labels=canonical(state.labels[:, kept]), noise=state.noise[:, kept]),
    )


def _even(count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Uniform numbers in random order, of which every share of (0, 1) has one."""
    ranks = torch.randperm(count, generator=generator)
    within = torch.rand(count, generator=generator, dtype=torch.float64)
    return ((ranks + within) / count).clamp_max(1 - 1e-9).to(like)


def _quantile(grid: Tensor, log_density: Tensor, uniform: Tensor) -> Tensor:
    """Where the distribution function on a grid reaches a number, ``[..., G]`` to ``[...]``."""
    density = log_density.softmax(-1)
    below = (0.5 * (density[..., 1:] + density[..., :-1])).cumsum(-1)
    below = below / below[..., -1:]
    step = torch.searchsorted(below, uniform.unsqueeze(-1), right=True)
    start = torch.cat([torch.zeros_like(below[..., :1]), below], -1)
    low, high = start.gather(-1, step), start.gather(-1, step + 1)
    x, width = grid.gather(-1, step), grid[..., 1:2] - grid[..., :1]
    share = (uniform.unsqueeze(-1) - low) / (high - low)
    return (x + width * share).squeeze(-1)
