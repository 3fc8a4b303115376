"""Outputs that are 0 or 1, several at once: what one sample has of several yes-or-no answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyro_vmtl.model.likelihoods.base import Family, Likelihood, OutputwiseLikelihood

__all__ = ["Bernoulli", "BernoulliLikelihood"]


@dataclass(frozen=True)
class Bernoulli(Family):
    """Outputs that are 0 or 1, each with a logistic regression of its own, log odds w z + b."""

    needs_closed_form: ClassVar[bool] = False

    def __call__(self, num_tasks: int, num_outputs: int, conjugate: bool) -> Likelihood:
        return BernoulliLikelihood(num_outputs)


class BernoulliLikelihood(OutputwiseLikelihood):
    r"""Bernoulli(sigma(eta)) for every output by itself.

    .. math::
        \log p(y \mid \eta) = \log \sigma((2 y - 1)\, \eta)

    What the outputs of a sample have in common they have through its inputs. Tasks are related by
    the weights of all outputs together.

    :param num_outputs: K; 1 for scalar targets, which then have no event dimension.
    """

    is_binary = True
    support = constraints.boolean
    expects = "0 or 1"

    def distribution(self, predictor: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=predictor)

    def derivatives(self, predictor: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chance = predictor.sigmoid()
        log_p = logsigmoid(torch.where(targets > 0, predictor, -predictor))
        return log_p, targets - chance, chance * (1 - chance)

    def first_sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As all others: slopes are within 1."""
        return self.sites(loc, variance, targets)
