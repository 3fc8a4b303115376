r"""What a model says of each training sample with that sample taken out, without fitting again.

Given a draw s of partition and scales, the density of a sample is that of its target under what is
left (:mod:`pyro_vmtl.inference.cavities`). Draws were made with the sample: they are weighed by one
over that density, since

.. math::
    p(y_n \mid D_{-n}) = 1 \Big/ E_{s \mid D}\big[ 1 / p(y_n \mid D_{-n}, s) \big],

with the tail of the weights smoothed (Vehtari, Simpson, Gelman, Yao, Gabry 2024). The encoder and
the unit of the targets have seen the sample.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.cavities import left_out_densities
from pyro_vmtl.inspection.arviz_adapter import pareto_smoothed
from pyro_vmtl.inspection.draws import borrowing_of
from pyro_vmtl.model import VMTL

__all__ = ["LeftOut", "can_leave_out", "leave_one_out"]

_Array = npt.NDArray[Any]


class LeftOut(NamedTuple):
    """Of every sample.

    :ivar log_density: log p(y_n | all others), ``[N]`` float64, NaN without a label.
    :ivar k: Pareto's, ``[N]``: above 0.7 the draws hardly reach where the posterior without the
        sample lies.
    """

    log_density: _Array
    k: _Array


def can_leave_out(vmtl: VMTL) -> bool:
    """Whether a sample leaves by linear algebra: weights in closed form, no learned relatedness.

    A relatedness that gradients fitted to every sample would have to be fitted again.
    """
    learned = "weights" in vmtl.borrowing and borrowing_of(vmtl, "weights").learns
    return vmtl.classifier.is_conjugate and not learned


@torch.no_grad()
def leave_one_out(vmtl: VMTL, train: TaskSet) -> LeftOut:
    """The log density of every training sample given all others.

    Under the pool Standard there is one draw: scale and noise as fitted.

    :param vmtl: a model for which :func:`can_leave_out`, fitted to these samples.
    :param train: the samples.
    :raises InputError: for another model, or other tasks.
    """
    if not can_leave_out(vmtl):
        raise InputError(
            "the weights are not in closed form, or borrow by a learned relatedness, so that no "
            "sample can be taken out; expected the pool Nested or Standard, and "
            "classifier='conjugate'"
        )
    if train.num_tasks != vmtl.num_tasks:
        raise InputError(
            f"the training set has {train.num_tasks} tasks; the model was built for "
            f"{vmtl.num_tasks}"
        )
    batch = train.dense().to(vmtl.device)
    log_density = left_out_densities(vmtl, batch)
    seen = batch.mask.cpu()
    by_draw = log_density.cpu()[:, seen].double().numpy().T  # [n, S]
    log_weights, k = pareto_smoothed(-by_draw)
    density = np.full(len(train), np.nan)
    shape = np.full(len(train), np.nan)
    rows = batch.index.cpu()[seen].numpy()
    density[rows] = np.logaddexp.reduce(log_weights + by_draw, axis=-1)
    shape[rows] = k
    return LeftOut(density, shape)
