"""Outputs that are 0 or 1 and hear each other, in rounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_vmtl.data import Batch
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.likelihoods.base import (
    Family,
    Likelihood,
    OutputwiseLikelihood,
    Site,
    quadrature,
)

__all__ = ["FeedbackBernoulli", "FeedbackBernoulliLikelihood"]

_SCALE = 2.0  # of a map's entries, a priori


@dataclass(frozen=True)
class FeedbackBernoulli(Family):
    """Several outputs that are 0 or 1, whose log odds hear the other outputs of the same row.

    :ivar rounds: how often outputs are made, 2 or more; in the first nobody hears anybody.
    :ivar convergence: by how much maps are held back whose last round still moves outputs, our
        reading of the convergence loss of Xi et al. (2024); 0, not at all.
    :raises InputError: for other values.
    """

    rounds: int = 3
    convergence: float = 0.5

    def __post_init__(self) -> None:
        rounds, convergence = self.rounds, self.convergence
        if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 2:
            raise InputError(
                f"the likelihood's rounds are {rounds!r}; expected a whole number of at least 2"
            )
        is_number = isinstance(convergence, Real) and not isinstance(convergence, bool)
        if not is_number or not 0 <= convergence < math.inf:
            raise InputError(
                f"the likelihood's convergence is {convergence!r}; expected a number of at least 0"
            )

    def __call__(self, num_tasks: int, num_outputs: int, conjugate: bool) -> Likelihood:
        if num_outputs < 2:
            raise InputError(
                "the likelihood is FeedbackBernoulli, whose outputs hear each other, and a row has "
                "one output; expected several, or the likelihood Bernoulli or Categorical"
            )
        return FeedbackBernoulliLikelihood(num_outputs, self.rounds, self.convergence)


class FeedbackBernoulliLikelihood(OutputwiseLikelihood):
    r"""Bernoulli(sigma(o^(R))) for every output, after R rounds in which outputs hear each other.

    .. math::
        o^{(1)} = \eta, \qquad o^{(r)} = \eta + M \tanh(o^{(r-1)} / 2), \qquad
        M_{jk} = g_{jk} A_{jk}, \quad M_{jj} = 0

    tanh(o / 2) is 2 sigma(o) - 1, what an output says of itself, centred. A_jk has the prior
    N(0, 4), and g_jk is the chance of a gate of which open and shut were alike: by the
    Savage-Dickey ratio of the prior and the posterior density of A_jk at 0, the posterior being
    Laplace's approximation. M is shared by the tasks.

    A is where

    .. math::
        \sum_n E_q[\log p(y_n \mid \eta_n, A) - c\, |o_n^{(R)} - o_n^{(R-1)}|^2] + \log p(A)

    is largest. The term with c is our reading of the convergence loss of Xi, Gao, Xu, Guo and Jin
    (2024, arXiv 2404.00885), whose formula is not public; the feedback between outputs is theirs.
    It moves maps alone and is no part of a density.

    Given all of eta outputs are independent, but each depends on all of eta. The factor of eta_k is
    that of expectation propagation for exp E[log p(y | eta)], the expectation being over the eta of
    the other outputs; without maps it is the factor of :class:`BernoulliLikelihood`. Where output k
    of a row is not known, the row says nothing of the weights of k, and k is heard all the same.

    :param num_outputs: K, 2 or more.
    :param rounds: R.
    :param convergence: c.

    :ivar theta: A without its diagonal, row by row, ``[K (K - 1)]``.
    :ivar gates: g likewise.
    """

    is_binary = True
    factorises = False
    support = constraints.boolean
    expects = "0 or 1"
    theta: Tensor
    gates: Tensor

    def __init__(self, num_outputs: int, rounds: int = 3, convergence: float = 0.5) -> None:
        super().__init__(num_outputs)
        self.rounds = rounds
        self.convergence = convergence
        pairs = num_outputs * (num_outputs - 1)
        self.register_buffer("theta", torch.zeros(pairs, dtype=torch.float64))
        self.register_buffer("gates", torch.full((pairs,), 0.5, dtype=torch.float64))

    @property
    def maps(self) -> Tensor:
        """M, ``[K, K]``: row j hears column k."""
        return self.square(self.gates * self.theta)

    def square(self, pairs: Tensor) -> Tensor:
        """Values of pairs, ``[K (K - 1)]``, as ``[K, K]`` with 0 on the diagonal."""
        apart = ~torch.eye(self.num_outputs, dtype=torch.bool, device=pairs.device)
        return pairs.new_zeros(apart.shape).masked_scatter(apart, pairs)

    def outputs(self, predictor: Tensor, maps: Tensor | None = None) -> list[Tensor]:
        """o of every round, ``[..., K]`` each.

        :param predictor: eta, ``[..., K]``.
        :param maps: M; that of the likelihood, where None.
        """
        maps = self.maps if maps is None else maps
        out = [predictor]
        while len(out) < self.rounds:
            out.append(predictor + (out[-1] / 2).tanh() @ maps.to(predictor.dtype).mT)
        return out

    def distribution(self, predictor: Tensor) -> dist.TorchDistribution:
        return _OfKnown(logits=self.outputs(predictor)[-1], validate_args=False)

    def filled(self, batch: Batch) -> Tensor:
        """The targets, NaN where there is none, ``[T, B, K]``."""
        return torch.where(batch.observed, batch.y, torch.nan)

    def log_density(self, predictor: Tensor, targets: Tensor) -> Tensor:
        """log p(y | eta) of the outputs that are known together, ``[..., T, B]``."""
        return _log_chances(self.outputs(predictor)[-1], targets).sum(-1)

    def sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return _EachByItself(self, loc, variance).sites(loc, variance, targets)

    def first_sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As all others: slopes are bounded."""
        return self.sites(loc, variance, targets)

    def log_predictive(
        self, loc: Tensor, variance: Tensor, targets: Tensor, noise: Tensor, site: Site
    ) -> Tensor:
        """Of each output given those before it, ``[T, B, K]``: their sum is that of all known."""
        nodes, log_shares = (
            part.to(loc.device)[:, None, None] for part in quadrature(loc.shape[-1])
        )
        log_p = _log_chances(self.outputs(loc + variance.sqrt() * nodes)[-1], targets)
        together = (log_p.cumsum(-1) + log_shares.unsqueeze(-1)).logsumexp(0)
        return together.diff(dim=-1, prepend=torch.zeros_like(together[..., :1]))

    # Parameters

    def log_prior(self, theta: Tensor) -> Tensor:
        return -0.5 * (theta / _SCALE).square().sum()

    @torch.no_grad()
    def update(
        self, loc: Tensor, variance: Tensor, targets: Tensor, weight: Tensor, rate: float = 1.0
    ) -> None:
        """See :class:`Likelihood`; gates go with the maps."""
        super().update(loc, variance, targets, weight, rate)
        found = self.slopes(loc, variance, targets, weight)
        assert found is not None
        self._open(found[1])

    @torch.no_grad()
    def move(self, slope: Tensor, hessian: Tensor, rate: float = 1.0) -> None:
        super().move(slope, hessian, rate)
        self._open(hessian)

    def _open(self, hessian: Tensor) -> None:
        """Set the gates, by the curvature of the expected log-likelihood, ``[P, P]``."""
        sizes, axes = torch.linalg.eigh(-hessian)
        variance = (axes.square() / (sizes.clamp_min(0) + _SCALE**-2)).sum(-1)
        ratio = variance.log() / 2 - math.log(_SCALE) + self.theta.square() / (2 * variance)
        self.gates = ratio.sigmoid()

    def _expectation(
        self, loc: Tensor, variance: Tensor, targets: Tensor, weight: Tensor
    ) -> Callable[[Tensor], Tensor]:
        nodes, log_shares = (part.to(loc.device) for part in quadrature(loc.shape[-1]))
        share = log_shares[:, None, None, None].exp()  # [Q, 1, 1, 1]
        eta = loc + variance.sqrt() * nodes[:, None, None]

        def objective(theta: Tensor) -> Tensor:
            self.theta = theta
            *_, before, last = self.outputs(eta, self.square(theta))
            moved = weight.amax(-1, keepdim=True) * (last - before).square()
            return (share * (weight * _log_chances(last, targets) - self.convergence * moved)).sum()

        return objective


class _OfKnown(dist.Bernoulli):
    """Of which a target that is NaN says nothing, and has no slope."""

    def log_prob(self, value: Tensor) -> Tensor:
        return _log_chances(self.logits, value)


class _EachByItself(OutputwiseLikelihood):
    """E[log p(y | eta)] as a function of each eta_k, the others being N(loc, variance)."""

    def __init__(self, of: FeedbackBernoulliLikelihood, loc: Tensor, variance: Tensor) -> None:
        super().__init__(of.num_outputs)
        self.of, self.around, self.away = of, loc, variance.clamp_min(0).sqrt()

    def log_density(self, predictor: Tensor, targets: Tensor) -> Tensor:
        """``[Q, T, B, K]``, by the cubature rule that is exact for cubic functions."""
        eye = torch.eye(self.num_outputs, dtype=predictor.dtype, device=predictor.device)
        maps = self.of.maps
        out = []
        for own in eye:
            axes = eye[own == 0]
            nodes = math.sqrt(len(axes)) * torch.cat([axes, -axes])
            eta = self.around + self.away * nodes[:, None, None, None]
            eta = torch.where(own > 0, predictor, eta)
            out.append(_log_chances(self.of.outputs(eta, maps)[-1], targets).sum(-1).mean(0))
        return torch.stack(out, -1)


def _log_chances(logits: Tensor, targets: Tensor) -> Tensor:
    """log p of each output, 0 where it is not known (NaN), ``[..., K]``."""
    logits, targets = torch.broadcast_tensors(logits, targets)
    log_p = -binary_cross_entropy_with_logits(logits, targets.nan_to_num(0.0), reduction="none")
    return torch.where(targets.isnan(), 0.0, log_p)
