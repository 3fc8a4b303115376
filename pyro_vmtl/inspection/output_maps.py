"""What a task's logits hear of other tasks' classes, under the pool Feedback."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL
from pyro_vmtl.model import CategoricalLikelihood, FeedbackWeights, StackedEncoder

__all__ = ["output_maps"]


@torch.no_grad()
def output_maps(fitted: FittedVMTL) -> npt.NDArray[Any]:
    """Posterior means of the gated maps from one task's class probabilities to another's logits.

    Where two tasks name the same things differently, the largest entry of a column says which class
    of the one task is which of the other.

    Example::

        maps = pv.output_maps(fitted)
        maps[0, 1].argmax(0)  # for each class of task 1, the class of task 0 that it speaks for

    :param fitted: a model with the pool :class:`pyro_vmtl.Feedback`.
    :return: ``[T, T, C, C]``: of the logits of the first task's classes (rows) for the
        probabilities of the second task's (columns), each centred; 0 for a task itself.
    :raises InputError: for another pool.
    """
    weights, encoder = fitted.vmtl.classifier, fitted.vmtl.encoder
    likelihood = fitted.vmtl.likelihood
    if not isinstance(weights, FeedbackWeights) or not isinstance(encoder, StackedEncoder):
        raise InputError(
            f"the model has the pool {type(fitted.vmtl.pool).__name__}, in which no task hears "
            "another's outputs; expected Feedback"
        )
    assert isinstance(likelihood, CategoricalLikelihood)
    tasks, rows, count = weights.num_tasks, likelihood.num_outputs, likelihood.num_classes
    out = np.zeros((tasks, tasks, count, count))
    if tasks == 1:
        return out
    first = encoder.own.latent_dim
    heard = weights.loc[..., first : first + weights.heard * rows]
    own = heard.unflatten(-1, (weights.heard, rows)).transpose(1, 2)  # [T, L, K, K]
    if count == 2:  # one row: the log odds of the second class, and its chance less 1/2
        directions = own.new_tensor([[-0.5], [0.5]])
    else:
        directions = likelihood.class_weights(torch.eye(rows, dtype=own.dtype, device=own.device))
    of_classes = (directions @ own @ directions.T).cpu().numpy()
    lenders = encoder.lender_of_slot.cpu().numpy()
    out[np.arange(tasks)[:, None], lenders] = of_classes
    return out
