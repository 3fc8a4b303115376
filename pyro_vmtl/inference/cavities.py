r"""What a model says of each training sample with the sample itself taken out, draw by draw.

Where weights are in closed form, every sample has entered them as a factor exp(h eta - r eta^2 / 2)
of its linear predictor eta. Given a draw of partition and scales, taking it out is a subtraction.
Factors are those of all samples together, in a regression exactly so.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vmtl.data import Batch
from pyro_vmtl.model import VMTL, evaluating, with_bias
from pyro_vmtl.model.closed_form import conjugate_weights, nested_weights
from pyro_vmtl.model.priors.conditionals import Moments, averaged, posterior
from pyro_vmtl.model.priors.gibbs import thinned

__all__ = [
    "Cavity",
    "Factors",
    "cavities",
    "factors",
    "held_out_densities",
    "left_out",
    "left_out_densities",
    "over_outputs",
    "settled",
    "standardised",
]


_DRAWS = 40  # of partition and scales, by which factors settle
_STEPS = 10
_AT_REST = 3e-3  # relative change of a shift: then densities move by less than 1e-4 nats


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


class Factors(NamedTuple):
    """What every sample says of its eta, as a factor exp(h eta - r eta^2 / 2).

    :ivar features: phi, ``[T, B, q]`` float64.
    :ivar targets: of :func:`standardised`.
    :ivar shift: h of a noise of 1, ``[T, B, K]``; ``precision``: r, likewise.
    """

    features: Tensor
    targets: Tensor
    shift: Tensor
    precision: Tensor


@torch.no_grad()
def factors(vmtl: VMTL, batch: Batch, moments: Moments | None = None) -> Factors:
    """The factors of all samples, where all of them together say N(loc, covariance).

    :param vmtl: a model whose weights are in closed form.
    :param moments: of the weights, ``[T, K, q]``; those of the model, where None.
    """
    weights = conjugate_weights(vmtl)
    if moments is None:
        moments = Moments(weights.loc, weights.covariance)
    with evaluating(vmtl):
        z = vmtl.encoder(batch.x).mean
    features, targets = with_bias(z.double(), weights.event_shape[-1]), standardised(vmtl, batch)
    loc, variance = weights.predictor(features, moments.loc[None], moments.covariance[None])
    g, r = vmtl.likelihood.sites(loc[0], variance[0], targets)
    known = batch.observed  # what is not known says nothing
    return Factors(features, targets, known * (g + r * loc[0]), known * r)


def left_out(loc: Tensor, variance: Tensor, shift: Tensor, precision: Tensor) -> Moments:
    """N(loc, variance) of etas without a factor of each."""
    left = (1 / variance - precision).clamp_min(1e-6 / variance)
    return Moments((loc / variance - shift) / left, 1 / left)


@torch.no_grad()
def cavities(vmtl: VMTL, batch: Batch) -> Iterator[Cavity]:
    """A cavity for each of the S draws that the model keeps.

    :param vmtl: a model whose weights are in closed form, fitted to these samples.
    :param batch: all of them.
    """
    weights = conjugate_weights(vmtl)
    features, _, shift, precision = factors(vmtl, batch)
    moments = weights.by_draw()
    for mean, covariance, noise in zip(*moments, weights.noise_by_draw(), strict=True):
        loc, variance = weights.predictor(features, mean[None], covariance[None])
        noise = noise.unsqueeze(1)
        site = (shift / noise, precision / noise)
        left = left_out(loc[0], variance[0].clamp_min(1e-12), *site)
        yield Cavity(left.loc, left.covariance, noise, site)


def over_outputs(log_density: Tensor, observed: Tensor) -> Tensor:
    """The sum over the outputs that are known, ``[..., B]``.

    :param log_density: ``[..., B, K]``, or ``[..., B, 1]`` of all outputs together.
    :param observed: which are known, likewise; see :attr:`pyro_vmtl.data.Batch.observed`.
    """
    return torch.where(observed, log_density, 0.0).sum(-1)


def left_out_densities(vmtl: VMTL, batch: Batch) -> Tensor:
    """log p(y_n | all others) given each draw, ``[S, T, B]``; see :func:`cavities`."""
    targets = standardised(vmtl, batch)
    return torch.stack(
        [
            over_outputs(
                vmtl.likelihood.log_predictive(c.loc, c.variance, targets, c.noise, c.site),
                batch.observed,
            )
            for c in cavities(vmtl, batch)
        ]
    )


@torch.no_grad()
def held_out_densities(vmtl: VMTL, batch: Batch) -> Tensor:
    """log p(y_n | the training data) of other samples given each draw, ``[S, T, B]``."""
    weights = nested_weights(vmtl)
    seen = factors(vmtl, batch)
    out = []
    for mean, covariance, noise in zip(*weights.by_draw(), weights.draws.noise, strict=True):
        loc, variance = weights.predictor(seen.features, mean[None], covariance[None])
        unseen = (torch.zeros_like(loc[0]),) * 2
        log_density = vmtl.likelihood.log_predictive(
            loc[0], variance[0].clamp_min(1e-12), seen.targets, noise.unsqueeze(1), unseen
        )
        out.append(over_outputs(log_density, batch.observed))
    return torch.stack(out)


@torch.no_grad()
def settled(vmtl: VMTL, batch: Batch, without: int | None = None) -> VMTL:
    """A model with its factors where they come to rest, given partition and scales as drawn.

    Where the likelihood is not Gaussian, the factors of a fit lag behind its last draws by some
    thousandths of a nat a sample, which is as much as a lender may be worth: what is compared has
    to have settled alike.

    :param vmtl: a model with the pool Nested, fitted to these samples; it stays as it is.
    :param batch: all of them.
    :param without: the position of a task whose data are taken out, or None.
    """
    out = copy.deepcopy(vmtl)
    weights = nested_weights(out)
    few, kept = thinned(weights.draws, _DRAWS), batch.observed.double()

    def move() -> None:
        moments = averaged(posterior(weights.evidence, weights.prior, few))
        weights.loc, weights.covariance = moments

    if without is not None:
        kept[without] = 0.0
        weights.precision[without], weights.shift[without] = 0.0, 0.0
        move()
    for _ in range(1 if out.likelihood.sites_are_exact else _STEPS):
        phi, _, shift, precision = factors(out, batch)
        before, weights.shift = weights.shift, (kept * shift).mT @ phi
        weights.precision = torch.einsum("tbk,tbi,tbj->tkij", kept * precision, phi, phi)
        move()
        if float(((weights.shift - before).abs() / (1 + before.abs())).max()) < _AT_REST:
            break
    return out
