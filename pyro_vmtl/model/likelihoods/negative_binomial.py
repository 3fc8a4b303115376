"""Counts that vary by more than chance."""

from __future__ import annotations

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vmtl.model.likelihoods.base import Family, Likelihood
from pyro_vmtl.model.likelihoods.poisson import CountLikelihood

__all__ = ["NegativeBinomial", "NegativeBinomialLikelihood"]

_FIRST_SIZE = 5.0


@dataclass(frozen=True)
class NegativeBinomial(Family):
    """Counts that vary by more than chance, log mean w z + b: variances grow with mean squares."""

    def __call__(self, num_tasks: int, num_outputs: int, conjugate: bool) -> Likelihood:
        return NegativeBinomialLikelihood(num_outputs)


class NegativeBinomialLikelihood(CountLikelihood):
    r"""Counts with the mean mu = exp(o + eta) and the variance mu + mu^2 / r.

    .. math::
        \log p(y \mid \eta) = c + y \log q + r \log (1 - q), \qquad q = \mu / (\mu + r)

    It is a Poisson distribution whose mean has gamma noise of the relative variance 1 / r. r is
    shared by the tasks, and learned; 1 / sqrt(r) has a half-normal prior of the scale 1.

    See :class:`CountLikelihood`.

    :ivar theta: log r, ``[K]``.
    """

    theta: Tensor

    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__(num_outputs)
        start = torch.full((num_outputs,), _FIRST_SIZE, dtype=torch.float64)
        self.register_buffer("theta", start.log())

    @property
    def size(self) -> Tensor:
        """r, ``[K]``."""
        return self.theta.exp()

    def distribution(self, predictor: Tensor) -> dist.TorchDistribution:
        return dist.NegativeBinomial(self.size, logits=self.log_mean(predictor) - self.theta)

    def derivatives(self, predictor: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = (self.log_mean(predictor) - self.theta).sigmoid()
        both = targets + self.size
        return self.log_density(predictor, targets), targets - both * q, both * q * (1 - q)

    def log_prior(self, theta: Tensor) -> Tensor:
        return (-0.5 * (-theta).exp() - 0.5 * theta).sum()
