"""One site's borrowed prior: a pool, the relatedness that weighs the lenders, and their spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.model.pools import Pool

__all__ = ["Borrowing"]


class Borrowing(nn.Module):
    """The learned part of a borrowed prior: relatedness of T tasks, and spread.

    A task's L lenders are the other T - 1 tasks, after the base N(0, I) where the pool has one.

    :param pool: how the lenders become a prior.
    :param num_tasks: T, at least 2.
    :param event_shape: of the site.
    :param empirical_bayes: model and guide share the logits (the paper); by default the model's are
        uniform and the guide's learned, so that relatedness has a posterior.
    :param temperature: of the relaxed weights; schedules change it during training.
    :param initial_spread: s at the start.

    :cvar learns: whether relatedness has logits that gradients move; else it is a matter of the
        weights' posterior.
    """

    learns: ClassVar[bool] = True
    logits: nn.Parameter
    lender_of_slot: Tensor
    slot_of_component: Tensor
    temperature: Tensor

    def __init__(
        self,
        pool: Pool,
        num_tasks: int,
        event_shape: Sequence[int],
        empirical_bayes: bool = False,
        temperature: float = 1.0,
        initial_spread: float = 0.3,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.num_tasks = num_tasks
        self.event_shape = tuple(event_shape)
        self.event_dim = len(event_shape)
        self.empirical_bayes = empirical_bayes
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float64))
        shape: tuple[int, ...] | None = None
        if pool.spread == "scalar":
            shape = (1,) * (1 + self.event_dim)
        elif pool.spread == "task":
            shape = (num_tasks,) + (1,) * self.event_dim
        elif pool.spread == "feature":
            shape = (1, *event_shape)
        start = self._raw(initial_spread)
        self.raw_spread = None if shape is None else nn.Parameter(torch.full(shape, start))
        self._add_slots()

    def _add_slots(self) -> None:
        """The L lenders of each task, and their logits."""
        num_tasks, base = self.num_tasks, int(self.pool.base)
        components = torch.arange(num_tasks + base)
        slots = torch.stack([components[components != t + base] for t in range(num_tasks)])
        self.register_buffer("lender_of_slot", slots, persistent=False)  # [T, L] -> component
        # The slot in which a component stands for a task; L, one past the end, for the task itself.
        inverse = torch.full((num_tasks, num_tasks + base), slots.shape[1])
        inverse.scatter_(1, slots, torch.arange(slots.shape[1]).expand_as(slots))
        self.register_buffer("slot_of_component", inverse, persistent=False)  # [T, C] -> slot
        if self.learns:
            self.logits = nn.Parameter(torch.zeros(num_tasks, slots.shape[1]))

    @staticmethod
    def _raw(spread: float) -> float:
        return spread + math.log(-math.expm1(-spread))  # the inverse of softplus

    @property
    def spread(self) -> Tensor | None:
        """s, broadcasting over ``[T, *event]``, or None."""
        return None if self.raw_spread is None else softplus(self.raw_spread)

    def _distribution(self, logits: Tensor) -> dist.TorchDistribution:
        # float64: at low temperature a weight may be 1e-60, and the mixture takes its logarithm.
        return self.pool.relaxation(self.temperature, logits=logits.double().unsqueeze(-2))

    def relatedness_posterior(self) -> dist.TorchDistribution:
        """q(alpha), batch shape ``[T, 1]``, event shape ``[L]``."""
        return self._distribution(self.logits)

    def relatedness_prior(self) -> dist.TorchDistribution:
        """p(alpha): uniform, or the posterior itself under empirical Bayes."""
        return self._distribution(
            self.logits if self.empirical_bayes else torch.zeros_like(self.logits)
        )

    def of_single_tasks(self) -> Iterable[nn.Parameter]:
        """The parameters of which every task has its own."""
        return (self.logits,) if self.learns else ()

    def bind(self, weights: nn.Module) -> None:
        """Say whose relatedness this is: called once, of the site ``weights``."""
        self._weights = (weights,)  # in a tuple: not a submodule

    def chance_before_data(self) -> float:
        """The probability of every lender as long as nothing is known of any."""
        return 1 / self.lender_of_slot.shape[-1] if self.pool.kind == "weights" else 0.5

    def probabilities(self) -> Tensor:
        """The chance that each lender is picked (or its gate is open), ``[T, L]``."""
        probabilities: Tensor = self.relatedness_posterior().probs
        return probabilities.squeeze(-2)

    def by_component(self, slots: Tensor, empty: float = 0.0) -> Tensor:
        """Values of the lenders ``[..., T, 1, L]`` laid out by component ``[..., T, 1, C]``.

        :param empty: what the task itself gets.
        """
        padded = torch.cat([slots, torch.full_like(slots[..., :1], empty)], -1)
        index = self.slot_of_component.unsqueeze(-2)
        return padded.gather(-1, index.expand(*padded.shape[:-1], index.shape[-1]))

    def prior(
        self,
        draw: Tensor,
        lenders: Gaussians,
        present: Tensor | None = None,
    ) -> dist.TorchDistribution:
        """The prior of the site given a draw of the relatedness.

        :param draw: ``[..., T, 1, L]``.
        :param lenders: the tasks' posteriors, ``[T, *event]`` or ``[T, B, T, *event]``.
        :param present: ``[T, B, T]``, which tasks lend to a sample: the others drop out of its
            prior, which is N(0, I) where nobody is left; None, all.
        :return: batch shape ``[..., T, 1]`` or ``[..., T, B]``, event shape ``event``.
        """
        weights, spread = self.by_component(draw), self.spread
        if present is not None:
            weights, lenders, spread = self._without_absent(weights, lenders, spread, present)
        return self.pool.prior(weights, lenders, spread, self.event_dim)

    def _without_absent(
        self, weights: Tensor, lenders: Gaussians, spread: Tensor | None, present: Tensor
    ) -> tuple[Tensor, Gaussians, Tensor | None]:
        own = torch.eye(self.num_tasks, dtype=torch.bool, device=present.device).unsqueeze(1)
        lending = present & ~own
        alone = ~lending.any(-1, keepdim=True)  # [T, B, 1]
        # Where nobody is left, one component stands in for N(0, I): `base`, or the first other.
        if self.pool.base:
            lending = torch.cat([torch.ones_like(alone), lending], -1)
        else:
            first = (~own).cumsum(-1).eq(1) & ~own
            lending = lending | (alone & first)
        kept = torch.where(lending, weights, torch.zeros_like(weights))
        gone = alone.view(*alone.shape, *(1,) * self.event_dim)
        lenders = Gaussians(
            torch.where(gone, torch.zeros_like(lenders.loc), lenders.loc),
            torch.where(gone, torch.ones_like(lenders.scale), lenders.scale),
        )
        if spread is not None:  # N(0, I) is not to be widened
            spread = torch.where(gone, torch.zeros_like(spread), spread)
        if self.pool.kind == "weights":  # a gate that is left stays as open as it was
            kept = kept / kept.sum(-1, keepdim=True)
        return kept, lenders, spread
