r"""What a model says of each training sample with the sample itself taken out, draw by draw.

Where weights are in closed form, every sample has entered them as a factor exp(h eta - r eta^2 / 2)
of its linear predictor eta. Given a draw of partition and scales, taking it out is a subtraction.
Factors are those of all samples together, in a regression exactly so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vmtl.data import Batch
from pyro_vmtl.model import VMTL, NestedWeights, evaluating, with_bias

__all__ = ["Cavity", "cavities", "left_out_densities", "over_outputs", "standardised"]


class Cavity(NamedTuple):
    """N(loc, variance) of every sample's eta without the sample, given one draw.

    :ivar loc: ``[T, B, K]`` float64; ``variance``: likewise.
    :ivar noise: the variance of the noise, ``[T, 1, K]``.
    :ivar site: shift and precision of the factors that were taken out, ``[T, B, K]`` each.
    """

    loc: Tensor
    variance: Tensor
    noise: Tensor
    site: tuple[Tensor, Tensor]


def standardised(vmtl: VMTL, batch: Batch) -> Tensor:
    """The targets as the likelihood takes them, ``[T, B]`` or ``[T, B, K]``."""
    return vmtl.likelihood.standardised(vmtl.likelihood.filled(batch))


@torch.no_grad()
def cavities(vmtl: VMTL, batch: Batch, without: int | None = None) -> Iterator[Cavity]:
    """A cavity for each of the S draws that the model keeps.

    :param vmtl: a model with the pool Nested, fitted to these samples.
    :param batch: all of them.
    :param without: the position of a task whose data are taken out as well; partition and scales
        stay as they were drawn.
    """
    weights = vmtl.classifier
    assert isinstance(weights, NestedWeights)
    with evaluating(vmtl):
        z = vmtl.encoder(batch.x).mean
    features = with_bias(z.double(), weights.event_shape[-1])
    loc, variance = weights.predictor(features, weights.loc[None], weights.covariance[None])
    g, r = vmtl.likelihood.sites(loc[0], variance[0], standardised(vmtl, batch))
    shift = g + r * loc[0]
    moments = weights.by_draw(without)
    for mean, covariance, noise in zip(*moments, weights.draws.noise, strict=True):
        loc, variance = weights.predictor(features, mean[None], covariance[None])
        loc, variance, noise = loc[0], variance[0].clamp_min(1e-12), noise.unsqueeze(1)
        site = (shift / noise, r / noise)
        left = (1 / variance - site[1]).clamp_min(1e-6 / variance)
        yield Cavity((loc / variance - site[0]) / left, 1 / left, noise, site)


def over_outputs(log_density: Tensor, batch: Batch) -> Tensor:
    """The sum over the outputs that are known, ``[T, B]``.

    :param log_density: ``[T, B, K]``, or ``[T, B, 1]`` of all outputs together.
    """
    return torch.where(batch.observed, log_density, 0.0).sum(-1)


def left_out_densities(vmtl: VMTL, batch: Batch, without: int | None = None) -> Tensor:
    """log p(y_n | all others) given each draw, ``[S, T, B]``; see :func:`cavities`."""
    targets = standardised(vmtl, batch)
    return torch.stack(
        [
            over_outputs(
                vmtl.likelihood.log_predictive(c.loc, c.variance, targets, c.noise, c.site), batch
            )
            for c in cavities(vmtl, batch, without)
        ]
    )
