"""Classes without an order: a logistic regression for each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from scipy.linalg import helmert
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vmtl.model.likelihoods.base import Family, Likelihood

__all__ = ["Categorical", "CategoricalLikelihood"]


@dataclass(frozen=True)
class Categorical(Family):
    """Classes without an order, with the softmax of w z + b; of two, the logistic function."""

    of_classes: ClassVar[bool] = True
    needs_closed_form: ClassVar[bool] = False

    def __call__(self, num_tasks: int, num_outputs: int, conjugate: bool) -> Likelihood:
        return CategoricalLikelihood(num_outputs, contrasts=conjugate)


def _contrasts(num_classes: int) -> Tensor:
    """Orthonormal contrasts of C classes, ``[C, C - 1]`` float64: columns of a Helmert matrix."""
    return torch.from_numpy(helmert(num_classes).T.copy())


class CategoricalLikelihood(Likelihood):
    """Categorical(logits = w z + b) over the classes.

    Two classes need one row of weights, K = 1, the first class's logit being 0: with two rows, each
    N(0, I), their difference would have twice the prior variance of a logistic regression's. In the
    same way C classes have C - 1 contrasts: in the direction that is left, in which all logits grow
    alike, data say nothing, and all tasks agree.

    :param num_classes: C.
    :param contrasts: whether the weights are those of orthonormal contrasts, K = C - 1, or of the
        classes, K = C (the paper). Two classes have one row either way.
    """

    def __init__(self, num_classes: int, contrasts: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.contrasts = contrasts and num_classes > 2
        self.num_outputs = (
            1 if num_classes == 2 else num_classes - 1 if self.contrasts else num_classes
        )
        if self.contrasts:
            directions = _contrasts(num_classes)
            self.register_buffer("directions", directions, persistent=False)

    def given(self, predictor: Tensor, variance: Tensor | None = None) -> dist.TorchDistribution:
        if self.num_outputs == 1:
            predictor = torch.cat([torch.zeros_like(predictor), predictor], -1)
        elif self.contrasts:
            predictor = predictor @ self._directions.to(predictor.dtype).T
        return dist.Categorical(logits=predictor)

    @property
    def _directions(self) -> Tensor:
        assert isinstance(self.directions, Tensor)
        return self.directions

    def class_weights(self, weights: Tensor) -> Tensor:
        """Weights of the classes, ``[..., C, q]``, from those of contrasts, ``[..., C - 1, q]``."""
        if not self.contrasts:
            return weights
        return self._directions.to(weights.dtype) @ weights

    def first_sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As all others: slopes are within 1."""
        return self.sites(loc, variance, targets)

    def derivatives(self, predictor: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.num_outputs == 1:
            predictor = predictor.squeeze(-1)
            chance = predictor.sigmoid()
            log_p = logsigmoid(torch.where(targets > 0, predictor, -predictor))
            slope, curvature = targets - chance, chance * (1 - chance)
            return log_p, slope.unsqueeze(-1), curvature.unsqueeze(-1)
        directions = self._directions
        log_chances = (predictor @ directions.T).log_softmax(-1)
        chances = log_chances.exp()
        expected = chances @ directions
        index = targets.expand(log_chances.shape[:-1]).unsqueeze(-1)
        curvature = chances @ directions.square() - expected.square()
        return log_chances.gather(-1, index).squeeze(-1), directions[targets] - expected, curvature
