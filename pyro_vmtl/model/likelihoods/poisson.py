"""Counts."""

from __future__ import annotations

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vmtl.data import TargetSums
from pyro_vmtl.model.likelihoods.base import Family, Likelihood, OutputwiseLikelihood

__all__ = ["CountLikelihood", "Poisson", "PoissonLikelihood"]

_MOST = 25.0  # of a log mean: more would overflow where counts are drawn


@dataclass(frozen=True)
class Poisson(Family):
    """Counts that vary by chance alone, log mean w z + b."""

    def __call__(self, num_tasks: int, num_outputs: int, conjugate: bool) -> Likelihood:
        return PoissonLikelihood(num_outputs)


class CountLikelihood(OutputwiseLikelihood):
    """Counts with the log mean o + eta.

    :param num_outputs: K.

    :ivar offset: o, ``[K]`` float64: the log of the training targets' mean, so that priors of order
        1 fit counts of any size; 0 without a bias.
    """

    support = constraints.nonnegative_integer
    expects = "counts: 0, 1, 2, ..."
    offset: Tensor

    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__(num_outputs)
        self.register_buffer("offset", torch.zeros(num_outputs, dtype=torch.float64))

    def learn_from(self, targets: Tensor, centre: bool = True) -> None:
        if centre:
            self._centre(targets.double().reshape(-1, self.num_outputs).nanmean(0), len(targets))

    def learn_from_sums(self, sums: TargetSums, centre: bool = True) -> None:
        if centre:
            self._centre(sums.mean, sums.number)

    def _centre(self, means: Tensor, count: int) -> None:
        # Of counts that are all 0, as if one half had been counted.
        self.offset.copy_(means.clamp_min(0.5 / max(1, count)).log())

    def log_mean(self, predictor: Tensor) -> Tensor:
        """o + eta, ``[..., K]``."""
        return (self.offset + predictor).clamp_max(_MOST)


class PoissonLikelihood(CountLikelihood):
    r"""Poisson(exp(o + eta)).

    .. math::
        \log p(y \mid \eta) = y (o + \eta) - e^{o + \eta} - \log y!

    See :class:`CountLikelihood`.
    """

    def distribution(self, predictor: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(self.log_mean(predictor).exp())

    def derivatives(self, predictor: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_mean = self.log_mean(predictor)
        mean = log_mean.exp()
        log_p = targets * log_mean - mean - (targets + 1).lgamma()
        return log_p, targets - mean, mean
