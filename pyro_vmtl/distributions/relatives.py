"""The relatives of every task, as draws of partitions say them."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

__all__ = ["Relatives"]


class Relatives(dist.TorchDistribution):
    """Which other tasks share a task's cluster: the empirical law of draws of partitions.

    A draw is one partition, the same for all tasks: row t says 1 for the relatives of task t.

    :param labels: the cluster of every task, ``[S, T]``, for S draws of partitions; batch shape
        ``[T, 1]``, event shape ``[T - 1]``.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.boolean, 1)
    has_rsample = True  # it has no parameters, so its draws owe no gradient

    def __init__(self, labels: Tensor, validate_args: bool | None = None) -> None:
        self.labels = labels
        num_tasks = labels.shape[-1]
        super().__init__(
            torch.Size([num_tasks, 1]), torch.Size([num_tasks - 1]), validate_args=validate_args
        )

    def expand(self, batch_shape: _size, _instance: object = None) -> "Relatives":
        new = self._get_checked_instance(Relatives, _instance)
        new.labels = self.labels
        shape = torch.Size(batch_shape)
        super(Relatives, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _rows(self, labels: Tensor) -> Tensor:
        """``[..., T]`` to ``[..., T, 1, T - 1]``."""
        num_tasks = labels.shape[-1]
        same = (labels.unsqueeze(-1) == labels.unsqueeze(-2)).double()
        # Without the diagonal a row of T stands T + 1 further on.
        rows = same.flatten(-2)[..., 1:].unflatten(-1, (num_tasks - 1, num_tasks + 1))[..., :-1]
        return rows.flatten(-2).unflatten(-1, (num_tasks, 1, num_tasks - 1))

    @property
    def mean(self) -> Tensor:
        """The chance that each is a relative, ``[*batch, L]``."""
        total = torch.zeros((), dtype=torch.float64, device=self.labels.device)
        for labels in self.labels.split(64):
            total = total + self._rows(labels).sum(0)
        return (total / len(self.labels)).expand(*self.batch_shape, *self.event_shape)

    @property
    def probs(self) -> Tensor:
        """The same as :attr:`mean`."""
        return self.mean

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:
        """Rows of drawn partitions, ``[*sample, *batch, L]``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        lead = shape[:-3]
        picked = torch.randint(len(self.labels), (math.prod(lead),), device=self.labels.device)
        return self._rows(self.labels[picked]).reshape(*lead, *shape[-3:])

    def log_prob(self, value: Tensor) -> Tensor:
        """log of the share of draws with this row, ``[*sample, *batch]``; -inf for none."""
        total = torch.zeros((), dtype=torch.float64, device=self.labels.device)
        for labels in self.labels:
            total = total + (self._rows(labels) == value).all(-1).double()
        return (total / len(self.labels)).log()
