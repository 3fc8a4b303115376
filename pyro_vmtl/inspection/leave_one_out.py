r"""What a model says of each training sample with that sample taken out, without fitting again.

Where weights are in closed form, every sample has entered them as a factor exp(h eta - r eta^2 / 2)
of its linear predictor eta. Given a draw s of partition and scales, taking it out is a subtraction,
and the density of the sample is that of its target under what is left. Draws were made with the
sample: they are weighed by one over that density, since

.. math::
    p(y_n \mid D_{-n}) = 1 \Big/ E_{s \mid D}\big[ 1 / p(y_n \mid D_{-n}, s) \big],

with the tail of the weights smoothed (Vehtari, Simpson, Gelman, Yao, Gabry 2024). Factors are those
of all samples together, in a regression exactly so; the encoder and the unit of the targets have
seen the sample.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inspection.arviz_adapter import pareto_smoothed
from pyro_vmtl.model import VMTL, NestedWeights, evaluating, with_bias
from pyro_vmtl.model.priors.conditionals import Moments

__all__ = ["LeftOut", "leave_one_out"]

_Array = npt.NDArray[Any]


class LeftOut(NamedTuple):
    """Of every sample.

    :ivar log_density: log p(y_n | all others), ``[N]`` float64, NaN without a label.
    :ivar k: Pareto's, ``[N]``: above 0.7 the draws hardly reach where the posterior without the
        sample lies.
    """

    log_density: _Array
    k: _Array


@torch.no_grad()
def leave_one_out(vmtl: VMTL, train: TaskSet, without: int | None = None) -> LeftOut:
    """The log density of every training sample given all others.

    :param vmtl: a model with the pool Nested, fitted to these samples.
    :param train: the samples.
    :param without: the position of a task whose data are taken out as well; partition and scales
        stay as they were drawn.
    :raises InputError: for another pool, or other tasks.
    """
    weights = vmtl.classifier
    if not isinstance(weights, NestedWeights):
        raise InputError(
            "the weights are not in closed form, so that no sample can be taken out; expected a "
            "model with the pool Nested"
        )
    if train.num_tasks != vmtl.num_tasks:
        raise InputError(
            f"the training set has {train.num_tasks} tasks; the model was built for "
            f"{vmtl.num_tasks}"
        )
    batch = train.dense().to(vmtl.device)
    targets = vmtl.likelihood.standardised(vmtl.likelihood.filled(batch.y, batch.mask))
    with evaluating(vmtl):
        z = vmtl.encoder(batch.x).mean
    features = with_bias(z.double(), weights.event_shape[-1])
    loc, variance = weights.predictor(features, weights.loc[None], weights.covariance[None])
    g, r = vmtl.likelihood.sites(loc[0], variance[0], targets)
    shift = g + r * loc[0]
    moments = weights.by_draw(without)
    log_density = torch.stack(
        [
            _without_sample(vmtl, features, targets, shift, r, Moments(loc, covariance), noise)
            for loc, covariance, noise in zip(*moments, weights.draws.noise, strict=True)
        ]
    )  # [S, T, B]
    seen = batch.mask.cpu()
    by_draw = log_density.cpu()[:, seen].double().numpy().T  # [n, S]
    log_weights, k = pareto_smoothed(-by_draw)
    density = np.full(len(train), np.nan)
    shape = np.full(len(train), np.nan)
    rows = batch.index.cpu()[seen].numpy()
    density[rows] = np.logaddexp.reduce(log_weights + by_draw, axis=-1)
    shape[rows] = k
    return LeftOut(density, shape)


def _without_sample(
    vmtl: VMTL,
    features: Tensor,
    targets: Tensor,
    shift: Tensor,
    r: Tensor,
    moments: Moments,
    noise: Tensor,
) -> Tensor:
    """Log densities given a draw, ``[T, B]``.

    :param features: phi, ``[T, B, q]``.
    :param shift: of every sample's factor, ``[T, B, K]``; ``r``: its precision.
    :param moments: of q(w) given the draw, ``[T, K, q]``; ``noise``: ``[T, K]``.
    """
    weights, likelihood = vmtl.classifier, vmtl.likelihood
    assert isinstance(weights, NestedWeights)
    loc, variance = weights.predictor(features, moments.loc[None], moments.covariance[None])
    loc, variance = loc[0], variance[0].clamp_min(1e-12)
    shift, precision = shift / noise.unsqueeze(1), r / noise.unsqueeze(1)
    left = (1 / variance - precision).clamp_min(1e-6 / variance)
    loc = (loc / variance - shift) / left
    return likelihood.log_predictive(loc, 1 / left, targets, noise.unsqueeze(1), (shift, precision))
