"""How often posteriors have counted their data: the precision they have over what data say."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.model import (
    VMTL,
    BayesianLinearEncoder,
    Encoder,
    PerTask,
    evaluating,
    linear_predictor,
    with_bias,
)
from pyro_vmtl.model.encoders import is_dropout

__all__ = ["times_counted"]

_DRAWS = 8
_NAMES = {"weights": "weights", "layers": "representations"}
"""What has a posterior, and the site whose KL weight it takes."""

_Information = dict[str, Tensor]
"""By name what the data of each task add to the precision, ``[T, *event]``, at a KL weight of 1."""


@torch.no_grad()
def times_counted(vmtl: VMTL, batch: Batch) -> dict[str, float]:
    r"""Precisions that posteriors have beyond their prior's, over what data add to them.

    What a task's data add to the precision of a weight is their Fisher information, expected over
    the posterior and over the dropout that training has, divided by the KL weight:

    - ``weights_evidence``: of the tasks' posteriors, the precision beyond N(0, I) over what the
      data of *all* tasks together would add if every task shared one and the same weights, each's
      data at its own posterior. 1 / T where each task counts its own data once; more than 1 says
      that data were counted more than once, since there are no more;
    - ``layers_evidence``: the same of the layers, where each task has a
      :class:`pyro_vmtl.model.BayesianLinearEncoder` of its own.

    Exact at the optimum of the ELBO: there a mean-field posterior has the precision of its prior
    plus the information. For the likelihoods of this library; not for point estimates, whose scale
    is 0, nor for encoders of the user's own that have layers. Dropout is that of PyTorch's dropout
    layers; a function that drops out by itself is taken as in evaluation mode.

    :param vmtl: a model; it is left as it was, but the random state moves on.
    :param batch: training data; its ``scale`` makes a minibatch stand for the whole.
    """
    # Of points there is no scale; where weights are conjugate, data speak once by construction.
    if vmtl.classifier.is_point or vmtl.classifier.is_conjugate:
        return {}
    information = _information(vmtl, batch)
    if information is None:
        return {}
    numbers = {}
    for name, site in _NAMES.items():
        said, kl_weight = information.get(name), vmtl.tempering[site]
        if said is None or kl_weight == 0:  # the prior plays no part
            continue
        added = (_posterior(vmtl, name).scale.square().reciprocal() - 1).clamp_min(0).mean()
        numbers[f"{name}_evidence"] = float(kl_weight * added / (vmtl.num_tasks * said.mean()))
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _posterior(vmtl: VMTL, name: str) -> Gaussians:
    if name == "weights":
        return vmtl.classifier.gaussians()
    layer = vmtl.encoder.layer()
    assert layer is not None
    return layer


def _information(vmtl: VMTL, batch: Batch) -> _Information | None:
    """Averaged over draws; None for a likelihood that is not known."""
    total: _Information = {}
    # Posteriors count the data that training shows them. Without dropout a model that fits its data
    # all but perfectly would find nothing in them, and every posterior too narrow.
    with evaluating(vmtl), _dropping_out(vmtl.encoder) as is_random:
        law, x = _encoded(vmtl.encoder, batch)
        for draw in range(_DRAWS):  # one at a time, in the memory of a training step
            if draw and is_random:
                law, x = _encoded(vmtl.encoder, batch)
            found = _of_one_draw(vmtl, batch, law, x)
            if found is None:
                return None
            total = {name: total.get(name, 0) + part / _DRAWS for name, part in found.items()}
    return total


@contextlib.contextmanager
def _dropping_out(encoder: Encoder) -> Iterator[bool]:
    """Dropout as in training, all else as it is; gives whether there is any."""
    parts = [
        part
        for part in encoder.modules()
        # Networks of a task each have one mode: what of them learns from batches is put back.
        if isinstance(part, PerTask) or is_dropout(part)
    ]
    modes = [part.training for part in parts]
    buffers = [(buffer, buffer.clone()) for part in parts for buffer in part.buffers()]
    try:
        for part in parts:
            part.train()
        yield len(parts) > 0
    finally:
        for part, training in zip(parts, modes, strict=True):
            part.train(training)
        for buffer, before in buffers:
            buffer.copy_(before)


def _encoded(encoder: Encoder, batch: Batch) -> tuple[dist.TorchDistribution, Tensor | None]:
    """q(z | x), and what the tasks' own Bayesian layers are applied to, ``[T, B, inputs]``."""
    layer = encoder.layer()
    is_own = layer is not None and len(layer.loc) == batch.num_tasks > 1
    if layer is None or not is_own or not isinstance(encoder, BayesianLinearEncoder):
        return encoder(batch.x), None
    x = encoder.dropout(batch.x.flatten(2))
    return encoder.through(x, layer), x


def _of_one_draw(
    vmtl: VMTL, batch: Batch, law: dist.TorchDistribution, x: Tensor | None
) -> _Information | None:
    representations, weights = law.sample(), vmtl.classifier().sample()
    curvatures = _curvatures(vmtl, batch.observed, representations, weights)
    if curvatures is None:
        return None
    counts = (batch.mask * batch.scale).unsqueeze(-1)
    of_outputs, of_representations = curvatures
    features = with_bias(representations, weights.shape[-1])
    information = {"weights": (counts * of_outputs).mT @ features.square()}  # [T, K, d_z + 1]
    if x is not None:
        layer = with_bias(x, x.shape[-1] + 1).square().mT @ (counts * of_representations)
        information["layers"] = layer  # [T, inputs + 1, d_z]
    return information


def _curvatures(
    vmtl: VMTL, observed: Tensor, representations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Of minus the log-likelihood, expected over targets.

    :param observed: which outputs are known, ``[T, B, K]`` or ``[T, B, 1]``; others say nothing.
    :param representations: z, ``[T, B, d_z]``.
    :param weights: ``[T, 1, K, d_z]``, or ``d_z + 1`` with the bias.
    :return: in the linear predictor, ``[T, B, K]``, and in z, ``[T, B, d_z]``.
    """
    likelihood = vmtl.likelihood(representations, weights)
    slopes = weights.squeeze(1)[..., : representations.shape[-1]]  # [T, K, d_z]
    if isinstance(likelihood, torch.distributions.Categorical):
        # Of two classes with one row of weights, the first has a logit, and a slope, of 0.
        probabilities = likelihood.probs[..., -vmtl.likelihood.num_outputs :]
        variance = probabilities @ slopes.square() - (probabilities @ slopes).square()
        return probabilities * (1 - probabilities), variance
    base = getattr(likelihood, "base_dist", likelihood)
    shape = linear_predictor(representations, weights).shape
    if isinstance(base, torch.distributions.Bernoulli):
        precision = base.variance.reshape(shape)
    elif isinstance(base, torch.distributions.Normal):
        precision = base.scale.square().reciprocal().reshape(shape)
    else:
        return None  # a likelihood of the user's own
    precision = precision * observed
    return precision, precision @ slopes.square()
