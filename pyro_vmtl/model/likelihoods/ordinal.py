"""Classes in an order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vmtl.data import TargetSums
from pyro_vmtl.model.likelihoods.base import Family, Likelihood

__all__ = ["Ordinal", "OrdinalLikelihood"]


@dataclass(frozen=True)
class Ordinal(Family):
    """Classes in the order in which the task set names them: one row of weights for all."""

    of_classes: ClassVar[bool] = True

    def __call__(self, num_tasks: int, num_outputs: int, conjugate: bool) -> Likelihood:
        return OrdinalLikelihood(num_outputs)


class OrdinalLikelihood(Likelihood):
    r"""Cumulative logits with proportional odds (McCullagh 1980).

    .. math::
        p(y = c \mid \eta) = \sigma(a_c - \eta) - \sigma(a_{c-1} - \eta), \qquad
        -\infty = a_{-1} < a_0 < \dots < a_{C-1} = \infty

    The cut points a are shared by the tasks. Their mean stays where the frequencies of the training
    classes have it, since a task's bias moves all of them alike; the logarithms of the distances
    between neighbours are learned, with a normal prior of the variance 2.

    :param num_classes: C.

    :ivar location: the mean of the cut points, ``[1]``.
    :ivar theta: the logarithms of their distances, ``[C - 2]``.
    """

    location: Tensor
    theta: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("location", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("theta", torch.zeros(num_classes - 2, dtype=torch.float64))

    @property
    def cut_points(self) -> Tensor:
        """a, ``[C - 1]``, growing."""
        cuts = torch.cat([torch.zeros_like(self.location), self.theta.exp().cumsum(0)])
        return self.location + cuts - cuts.mean()

    def learn_from(self, targets: Tensor, centre: bool = True) -> None:
        self._cut(torch.bincount(targets, minlength=self.num_classes))

    def learn_from_sums(self, sums: TargetSums, centre: bool = True) -> None:
        self._cut(sums.class_counts)

    def _cut(self, class_counts: Tensor) -> None:
        counts = class_counts.double() + 0.5
        cuts = (counts.cumsum(0) / counts.sum())[:-1].logit()
        self.location.copy_(cuts.mean())
        self.theta.copy_(cuts.diff().log())

    def given(self, predictor: Tensor, variance: Tensor | None = None) -> dist.TorchDistribution:
        """See :class:`Likelihood`.

        log(sigma(a) - sigma(b)) = log sigma(a) + log sigma(-b) + log(1 - exp(b - a)), which does
        not cancel.
        """
        away = self.cut_points - predictor  # [..., T, B, C - 1]
        none = torch.zeros_like(predictor)
        below = torch.cat([logsigmoid(away), none], -1)
        above = torch.cat([none, logsigmoid(-away)], -1)
        between = (-(-self.theta.exp()).expm1()).log().expand_as(away[..., 1:])
        apart = torch.cat([none, between, none], -1)
        return dist.Categorical(logits=below + above + apart)

    def derivatives(self, predictor: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        law = self.given(predictor)
        assert isinstance(law, torch.distributions.Categorical)
        infinity = torch.full_like(self.location, torch.inf)
        ends = torch.cat([-infinity, self.cut_points, infinity])
        low = (ends[targets].unsqueeze(-1) - predictor).sigmoid()
        high = (ends[targets + 1].unsqueeze(-1) - predictor).sigmoid()
        curvature = low * (1 - low) + high * (1 - high)
        return law.log_prob(targets), low + high - 1, curvature

    def first_sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As all others: slopes are within 1."""
        return self.sites(loc, variance, targets)

    def log_prior(self, theta: Tensor) -> Tensor:
        return -0.25 * theta.square().sum()
