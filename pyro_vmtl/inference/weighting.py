"""How the tasks are weighed against each other in training: by a learned variance, or by how their
gradients of shared parameters point."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from pyro_vmtl.data import Batch
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import (
    VMTL,
)

__all__ = [
    "Aggregator",
    "GradientWeighting",
    "UncertaintyWeighting",
    "missing_torchjd",
    "shared_parameters",
]

Aggregator: TypeAlias = Literal["upgrad", "pcgrad", "cagrad", "nashmtl", "imtlg", "fairgrad"]
"""A way to make one direction of the tasks' gradients, by the name of its class in torchjd."""


class UncertaintyWeighting(nn.Module):
    r"""Homoscedastic uncertainty (Kendall, Gal and Cipolla 2018): a learned variance for each task.

    .. math::
        \sum_t e^{-s_t} L_t + \tfrac12 N_t s_t, \qquad s_t = \log \sigma_t^2

    with :math:`L_t` what the task's samples cost, the sum of N_t losses: minus the expected
    log-likelihood, and the tempered KL of the representations where each has one. The KL of the
    weights is not divided.

    It is meant for classification. A Gaussian likelihood with a noise scale for each task, as here,
    *is* this weighting: :math:`\sigma_t` is the noise. So it leaves a regression as it is.

    :param num_tasks: T.
    """

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(num_tasks))

    def forward(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The batch with its samples divided by the variance of their task, and what that costs.

        :return: the batch, and :math:`\\sum_t \\tfrac12 N_t s_t` in nats.
        """
        counts = (batch.mask * batch.scale).sum(1)
        scale = batch.scale * (-self.log_variance).exp().unsqueeze(1)
        cost = 0.5 * (counts * self.log_variance).sum()
        return dataclasses.replace(batch, scale=scale), cost

    def weights(self) -> Tensor:
        """:math:`e^{-s_t}`, ``[T]``."""
        return self.log_variance.detach().neg().exp()


class GradientWeighting:
    """One gradient of the shared parameters made of the tasks' gradients, by torchjd.

    Parameters that belong to one task (its weights, its noise, its encoder) get the gradient of
    their own task; the tasks can differ about the others only. Where nothing is shared, this is
    training as ever. The result is scaled such that tasks that all have the same gradient get the
    sum of them, as they would without weighing (of CAGrad 1 + c times the sum, c being 0.5; of
    Nash-MTL a direction of norm 1 at most, as published, the weights of which are found anew every
    ten steps, and anew where a run is resumed; of FairGrad the weights d with G d = d^(-1/alpha), G
    the products of gradients, alpha being 2).

    It takes one backward pass per task through what is shared, all at once, and the memory for T
    gradients of it.

    :param name: of the aggregator.
    :param num_tasks: T.
    :raises InputError: for another name, or without torchjd.
    """

    def __init__(self, name: Aggregator, num_tasks: int) -> None:
        if name not in get_args(Aggregator):
            raise InputError(
                f"the aggregator is {name!r}; expected one of {list(get_args(Aggregator))}"
            )
        make, self._factor = _aggregators(num_tasks)[name]
        try:
            self._weighting: Callable[[Tensor], Tensor] = make().weighting
        except ImportError as error:  # torchjd is there, and what this aggregator needs is not
            raise missing_torchjd(name, error) from error
        self._weights = torch.ones(num_tasks)

    def backward(self, losses: Tensor, vmtl: VMTL) -> None:
        """Add the gradients of a step to those of the model's parameters.

        :param losses: of each task, ``[T]``.
        """
        shared = shared_parameters(vmtl)
        ours = {id(parameter) for parameter in shared}
        own = [p for p in vmtl.parameters() if p.requires_grad and id(p) not in ours]
        if own:
            losses.sum().backward(inputs=own, retain_graph=bool(shared))
        if not shared:
            return
        rows = torch.autograd.grad(
            losses,
            shared,
            torch.eye(len(losses), dtype=losses.dtype, device=losses.device),
            is_grads_batched=True,
            materialize_grads=True,
        )
        jacobian = torch.cat([row.flatten(1) for row in rows], 1)  # [T, P]
        self._weights = self._weigh(jacobian)
        for parameter, row in zip(shared, rows, strict=True):
            gradient = torch.tensordot(self._weights.to(row), row, 1)
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _weigh(self, jacobian: Tensor) -> Tensor:
        # Solvers raise at NaN, and divide by the norm; training ends a diverged epoch by itself.
        if not bool(jacobian.isfinite().all()) or not bool(jacobian.any()):
            return torch.ones_like(jacobian[:, 0])
        with torch.no_grad(), warnings.catch_warnings():
            # What the solvers say about their speed, at every step.
            warnings.filterwarnings("ignore", module=r"cvxpy|torchjd")
            return self._factor * self._weighting(jacobian)

    looks_back = False  # at what a step has done, as weightings of losses may

    def look_back(self, losses: Tensor) -> None:
        """Nothing."""

    def weights(self) -> Tensor:
        """What the tasks' gradients were multiplied with in the last step, ``[T]``."""
        return self._weights.detach()


def shared_parameters(vmtl: VMTL) -> list[nn.Parameter]:
    """The parameters that more than one task's loss depends on.

    All but the posteriors of the weights, noise scales, relatedness, and encoders or encoder layers
    of which each task has its own. A part of the user's own says by its ``of_single_tasks`` which
    of its parameters are single tasks'; those of any other count as shared.
    """
    own: set[int] = set()
    for module in vmtl.modules():
        of_single_tasks = getattr(module, "of_single_tasks", tuple)
        own |= {id(parameter) for parameter in of_single_tasks()}
    return [p for p in vmtl.parameters() if p.requires_grad and id(p) not in own]


def _aggregators(num_tasks: int) -> dict[str, tuple[Callable[[], Any], float]]:
    """How to make each, and what to multiply it with: some weights sum to 1, others to T."""
    try:
        from torchjd import aggregation
    except ImportError as error:
        raise missing_torchjd("weighing gradients", error) from error
    return {
        "upgrad": (aggregation.UPGrad, num_tasks),
        "pcgrad": (aggregation.PCGrad, 1),
        "cagrad": (lambda: aggregation.CAGrad(c=0.5), num_tasks),
        "nashmtl": (lambda: aggregation.NashMTL(n_tasks=num_tasks, update_weights_every=10), 1),
        "imtlg": (aggregation.IMTLG, num_tasks),
        "fairgrad": (lambda: aggregation.FairGrad(alpha=2.0), 1),
    }


def missing_torchjd(purpose: str, error: ImportError) -> InputError:
    """The error where torchjd, or what it needs for a purpose, cannot be imported."""
    return InputError(
        f"{purpose} needs torchjd and its solvers, which cannot be imported ({error}); expected "
        "the extra 'gradients' to be installed: pip install 'pyro_vmtl[gradients]'"
    )
