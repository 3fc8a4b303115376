"""A prior learned across tasks: partial pooling, and a mixture of several such."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import softplus

from pyro_vmtl.distributions import Gaussians, PosteriorMixture
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.pools import Pool

__all__ = ["Hierarchical", "LearnedPrior"]


class LearnedPrior(nn.Module):
    r""":math:`p(w) = \sum_k \pi_k N(m_k, v_k)`, one for all tasks, its parameters learned.

    :param num_components: K.
    :param num_tasks: T, for the shape of the prior.
    :param event_shape: of the site.
    """

    def __init__(self, num_components: int, num_tasks: int, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.event_dim = len(event_shape)
        # Components that start equal stay equal.
        start = (
            torch.randn(num_components, *event_shape)
            if num_components > 1
            else torch.zeros(1, *event_shape)
        )
        self.loc = nn.Parameter(0.5 * start)
        # One variance a component: one for each entry could collapse where tasks agree by chance.
        self.raw_scale = nn.Parameter(torch.full((num_components,) + (1,) * self.event_dim, 0.5))
        self.logits = nn.Parameter(torch.zeros(num_components))

    def forward(self) -> PosteriorMixture:
        """The prior of every task, batch shape ``[T, 1]``."""
        scale = softplus(self.raw_scale).expand_as(self.loc)
        weights = self.logits.log_softmax(-1).expand(self.num_tasks, 1, -1)
        return PosteriorMixture(weights, Gaussians(self.loc, scale), self.event_dim)


class Hierarchical(Pool):
    """Partial pooling: a Gaussian with learned mean and variance, or a mixture of several.

    With one component it is what a Bayesian modeller would write first, w_t ~ N(m, v I); with more,
    the task-clustering prior of Bakker and Heskes (2003). m and v are point estimates, shared by
    all tasks: nobody lends, and there is no relatedness to look at.

    :param num_components: Gaussians in the mixture.
    """

    borrows = False

    def __init__(self, num_components: int = 1) -> None:
        if num_components < 1:
            raise InputError(f"num_components is {num_components}; expected at least 1")
        super().__init__()
        self.num_components = num_components

    def __repr__(self) -> str:
        return f"Hierarchical(num_components={self.num_components})"

    def learned(self, num_tasks: int, event_shape: Sequence[int]) -> LearnedPrior:
        return LearnedPrior(self.num_components, num_tasks, event_shape)
