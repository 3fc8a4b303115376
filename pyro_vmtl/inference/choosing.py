"""Which likelihood targets have where that was left open: the one under which left-out rows are
likeliest.
"""

from __future__ import annotations

import math

import torch
from scipy.stats import t as student_t
from torch import Tensor

from pyro_vmtl.data import TaskSet
from pyro_vmtl.inference.cavities import (
    cavities,
    left_out_densities,
    over_outputs,
    standardised,
)
from pyro_vmtl.model import (
    VMTL,
    Family,
    GaussianLikelihood,
    NegativeBinomial,
    Ordinal,
    StudentT,
)

__all__ = ["alternative", "are_binary", "left_out_score", "mean_difference"]

_HEAVY = 4.0  # degrees of freedom: with fewer, the fourth moment is infinite
_FEWEST = 30  # rows of which tails can be seen


def mean_difference(one: Tensor, other: Tensor) -> tuple[float, float]:
    """The mean of paired differences of scores, ``[n]`` each, and its standard error."""
    away = one - other
    return float(away.mean()), float(away.std()) / math.sqrt(len(away))


def alternative(vmtl: VMTL, tasks: TaskSet) -> tuple[Family, str] | None:
    """What the targets may have in place of the default likelihood, and why.

    Whole numbers of at least 0 may be counts, and classes of a table that are whole numbers may be
    in an order; numbers may have outliers.

    :param vmtl: with the default likelihood, fitted to these samples.
    """
    if tasks.y.is_meta:
        return None
    if tasks.classes is None:
        known = tasks.y[~tasks.y.isnan()]
        whole = bool(((known >= 0) & (known == known.round())).all())
        if whole and len(known.unique()) > 2:
            return NegativeBinomial(), "the targets are whole numbers of at least 0"
        if tasks.num_outputs == 1 and _has_heavy_tails(vmtl, tasks):
            return StudentT(), "some targets are far from where the other rows have them"
        return None
    ordered = tasks.columns is not None and len(tasks.classes) > 2
    if ordered and all(name.lstrip("-").isdecimal() for name in tasks.classes):
        numbers = [int(name) for name in tasks.classes]
        if numbers == sorted(numbers):
            return Ordinal(), "the classes are whole numbers, in their order"
    return None


def are_binary(tasks: TaskSet) -> bool:
    """Whether there are several outputs, and all of them are 0 or 1."""
    if tasks.classes is not None or tasks.num_outputs == 1 or tasks.y.is_meta:
        return False
    return bool(((tasks.y == 0) | (tasks.y == 1) | tasks.y.isnan()).all())


@torch.no_grad()
def _has_heavy_tails(vmtl: VMTL, tasks: TaskSet) -> bool:
    """Whether a Student-t distribution fits the residuals of left-out rows far better.

    A distribution for all tasks, without regard to how well their means are known: a look that
    costs little before a second fit is made.
    """
    likelihood, batch = vmtl.likelihood, tasks.dense().to(vmtl.device)
    if not isinstance(likelihood, GaussianLikelihood):
        return False
    loc = torch.stack([cavity.loc for cavity in cavities(vmtl, batch)]).mean(0)
    residuals = (standardised(vmtl, batch) - loc)[batch.mask][:, 0].cpu().numpy()
    if len(residuals) < _FEWEST or not residuals.std() > 0:
        return False
    degrees, _, scale = student_t.fit(residuals, floc=0)
    if degrees > _HEAVY:
        return False
    unit = likelihood.target_scale.log().cpu()
    log_density = torch.from_numpy(student_t.logpdf(residuals, degrees, 0, scale)) - unit
    gain, se = mean_difference(log_density, left_out_score(vmtl, tasks, counts=False))
    return gain > 2 * se


@torch.no_grad()
def left_out_score(vmtl: VMTL, tasks: TaskSet, counts: bool) -> Tensor:
    """How likely every training sample is, given all others.

    Draws are weighed by one over the density of the sample, the weights truncated (Ionides 2008).

    :param vmtl: a model with the pool Nested, fitted to these samples.
    :param counts: whether the targets are whole numbers: a Gaussian's probability is then that of
        the interval of the width 1 around them.
    :return: log p(y_n | all others) of the n labelled samples, ``[n]`` float64.
    """
    batch = tasks.dense().to(vmtl.device)
    likelihood = vmtl.likelihood
    if counts and isinstance(likelihood, GaussianLikelihood):
        targets, half = standardised(vmtl, batch), 0.5 / likelihood.target_scale
        log_p = torch.stack(
            [
                over_outputs(
                    _log_between(
                        (targets - half - c.loc) / (c.variance + c.noise).sqrt(),
                        (targets + half - c.loc) / (c.variance + c.noise).sqrt(),
                    ),
                    batch.observed,
                )
                for c in cavities(vmtl, batch)
            ]
        )
    else:
        log_p = left_out_densities(vmtl, batch)
    log_p = log_p[:, batch.mask]  # [S, n]
    log_weights = (-log_p).log_softmax(0)
    log_weights = log_weights.clamp_max(-0.5 * math.log(len(log_p)))
    return ((log_weights + log_p).logsumexp(0) - log_weights.logsumexp(0)).cpu()


def _log_between(low: Tensor, high: Tensor) -> Tensor:
    """log of the standard normal probability of an interval, without cancellation in the tails."""
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    top = torch.special.log_ndtr(high)
    return top + torch.log1p(-(torch.special.log_ndtr(low) - top).exp().clamp_max(1 - 1e-12))
