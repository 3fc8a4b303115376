"""How the tasks are weighed against each other in training by how large their losses are."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.weighting import missing_torchjd
from pyro_vmtl.model import VMTL

__all__ = ["LossRule", "LossWeighting", "loss_weighting"]

LossRule: TypeAlias = Literal["famo", "balanced", "go4align"]
"""A way to weigh tasks by their losses, by name."""

_RATE = 0.1  # beta of GO4Align
_GROUPS = 2


class LossWeighting:
    """Tasks are weighed by their losses: a gradient of the weighted sum, and nothing else.

    Losses are those of a mean sample of each task, in nats. Weights sum to the number of tasks, so
    that tasks with equal losses are trained as they would be without weighing.

    :param sizes: labelled training samples of each task, ``[T]``.
    """

    def __init__(self, sizes: Tensor) -> None:
        self._share = sizes.double() / sizes.sum()
        self._weights = torch.ones(len(sizes), dtype=torch.float64)

    def weigh(self, losses: Tensor) -> Tensor:
        """Weights ``[T]`` from the losses of a mean sample of each task, ``[T]``."""
        raise NotImplementedError

    def backward(self, losses: Tensor, vmtl: VMTL) -> None:
        """Add the gradients of a step to those of the model's parameters.

        :param losses: of each task, ``[T]``, as parts of the loss of a mean sample of all.
        """
        of_sample = losses.detach() / self._share.to(losses)
        if bool(of_sample.isfinite().all()):  # else training ends the epoch by itself
            weights = self.weigh(of_sample)
            self._weights = weights * len(weights) / weights.sum()
        (self._weights.to(losses) * losses).sum().backward()

    def look_back(self, losses: Tensor) -> None:
        """See what a step has done to the losses; :attr:`looks_back` says whether to ask.

        :param losses: of the same batch after the step.
        """

    looks_back = False

    def weights(self) -> Tensor:
        """What the tasks' losses were multiplied with in the last step, ``[T]``."""
        return self._weights


class _Balanced(LossWeighting):
    r"""The sum of h(L_t) with the increasing, convex h(l) = exp(l) (Liang and Zhang 2020).

    Its gradient weighs the tasks by exp(L_t): those that are hard now count more.
    """

    def weigh(self, losses: Tensor) -> Tensor:
        return losses.softmax(0)


class _Famo(LossWeighting):
    r"""FAMO (Liu, Feng, Stone and Liu, NeurIPS 2023): losses fall at equal relative rates.

    The gradient is that of :math:`\sum_t z_t \log L_t`, z = softmax(w), and w follows what the step
    has done to each loss. By TorchJD, with the rates of its paper.
    """

    looks_back = True

    def __init__(self, sizes: Tensor) -> None:
        super().__init__(sizes)
        try:
            from torchjd.scalarization import FAMO
        except ImportError as error:
            raise missing_torchjd("FAMO", error) from error
        self._famo = FAMO(len(sizes))

    def weigh(self, losses: Tensor) -> Tensor:
        values = losses.float().requires_grad_()
        (weights,) = torch.autograd.grad(self._famo.to(values.device)(values), values)
        return weights.double()

    def look_back(self, losses: Tensor) -> None:
        of_sample = losses.detach() / self._share.to(losses)
        if bool((of_sample > 0).all()):
            self._famo.update(of_sample.float())


class _Go4Align(LossWeighting):
    r"""GO4Align (Shen, Wang, Xiao, van Noord and Worring, NeurIPS 2024), equations 3 to 7.

    A task's indicator is :math:`P_t Q_t`: P, how small its loss is beside the mean loss; Q, a
    running record that shrinks by :math:`e^{-\beta L_t}` at every step, made to sum to T. The
    indicators fall into groups by k-means, and the centre of its group is a task's weight. The rate
    beta = 0.1 and the number of groups, two, are chosen here.
    """

    def __init__(self, sizes: Tensor) -> None:
        super().__init__(sizes)
        self._record = torch.ones_like(self._weights)

    def weigh(self, losses: Tensor) -> Tensor:
        losses = losses.cpu().double()
        record = self._record * (-_RATE * losses).exp()
        self._record = record * len(record) / record.sum()
        indicator = (losses.mean() / losses * self._record).numpy()
        groups = min(_GROUPS, len(np.unique(indicator)))
        starts = np.quantile(indicator, np.linspace(0, 1, groups))[:, None]
        found = KMeans(groups, init=starts, n_init=1).fit(indicator[:, None])
        return torch.from_numpy(found.cluster_centers_[found.labels_, 0])


_RULES: dict[str, type[LossWeighting]] = {
    "famo": _Famo,
    "balanced": _Balanced,
    "go4align": _Go4Align,
}
_OF_POSITIVE = ("famo", "go4align")


def loss_weighting(name: LossRule, sizes: Tensor, vmtl: VMTL) -> LossWeighting:
    """The weighting of this name.

    :param sizes: labelled training samples of each task, ``[T]``.
    :param vmtl: the model that it is to train.
    :raises InputError: for another name, losses that may be below 0, or without torchjd.
    """
    if name not in get_args(LossRule):
        raise InputError(f"the loss weighting is {name!r}; expected one of {[*get_args(LossRule)]}")
    if name in _OF_POSITIVE and not vmtl.likelihood.num_classes:
        raise InputError(
            f"task_weighting is {name!r}, which needs losses above 0, and a log density of numbers "
            "may have any sign; expected classes, or task_weighting='balanced'"
        )
    return _RULES[name](sizes)
