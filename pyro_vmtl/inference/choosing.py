"""Which likelihood targets have where that was left open: the one under which left-out rows are
likeliest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vmtl.data import TaskSet
from pyro_vmtl.inference.cavities import cavities, left_out_densities, standardised
from pyro_vmtl.model import VMTL, Family, GaussianLikelihood, NegativeBinomial, Ordinal

__all__ = ["LeftOutScore", "alternative", "left_out_score"]


class LeftOutScore(NamedTuple):
    """Of n labelled samples.

    :ivar log_density: log p(y_n | all others), ``[n]`` float64; of whole numbers log probabilities.
    """

    log_density: Tensor

    def above(self, other: LeftOutScore) -> tuple[float, float]:
        """The mean difference to another score, and its standard error."""
        away = self.log_density - other.log_density
        return float(away.mean()), float(away.std()) / math.sqrt(len(away))


def alternative(tasks: TaskSet) -> tuple[Family, str] | None:
    """What the targets may have in place of the default likelihood, and why.

    Whole numbers of at least 0 may be counts; classes of a table that are whole numbers may be in
    an order.
    """
    if tasks.y.is_meta:
        return None
    if tasks.classes is None:
        known = tasks.y[tasks.labelled]
        whole = bool(((known >= 0) & (known == known.round())).all()) and len(known.unique()) > 2
        return (
            (NegativeBinomial(), "the targets are whole numbers of at least 0") if whole else None
        )
    ordered = tasks.columns is not None and len(tasks.classes) > 2
    if ordered and all(name.lstrip("-").isdecimal() for name in tasks.classes):
        numbers = [int(name) for name in tasks.classes]
        if numbers == sorted(numbers):
            return Ordinal(), "the classes are whole numbers, in their order"
    return None


@torch.no_grad()
def left_out_score(vmtl: VMTL, tasks: TaskSet, counts: bool) -> LeftOutScore:
    """How likely every training sample is, given all others.

    Draws are weighed by one over the density of the sample, the weights truncated (Ionides 2008).

    :param vmtl: a model with the pool Nested, fitted to these samples.
    :param counts: whether the targets are whole numbers: a Gaussian's probability is then that of
        the interval of the width 1 around them.
    """
    batch = tasks.dense().to(vmtl.device)
    likelihood = vmtl.likelihood
    if counts and isinstance(likelihood, GaussianLikelihood):
        targets, half = standardised(vmtl, batch), 0.5 / likelihood.target_scale
        log_p = torch.stack(
            [
                _log_between(
                    (targets - half - c.loc) / (c.variance + c.noise).sqrt(),
                    (targets + half - c.loc) / (c.variance + c.noise).sqrt(),
                ).sum(-1)
                for c in cavities(vmtl, batch)
            ]
        )
    else:
        log_p = left_out_densities(vmtl, batch)
    log_p = log_p[:, batch.mask]  # [S, n]
    log_weights = (-log_p).log_softmax(0)
    log_weights = log_weights.clamp_max(-0.5 * math.log(len(log_p)))
    return LeftOutScore(((log_weights + log_p).logsumexp(0) - log_weights.logsumexp(0)).cpu())


def _log_between(low: Tensor, high: Tensor) -> Tensor:
    """log of the standard normal probability of an interval, without cancellation in the tails."""
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    top = torch.special.log_ndtr(high)
    return top + torch.log1p(-(torch.special.log_ndtr(low) - top).exp().clamp_max(1 - 1e-12))
