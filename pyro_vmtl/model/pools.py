"""How the lenders' posteriors become one task's prior: choices, each a small replaceable object."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vmtl.distributions import (
    Gaussians,
    KLBound,
    PosteriorMixture,
    RelatednessGates,
    RelatednessWeights,
    geometric_pool,
    linear_pool,
    power_pool,
)
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.encoders import Encoder
from pyro_vmtl.model.likelihoods import Likelihood
from pyro_vmtl.model.parts import Part
from pyro_vmtl.model.posteriors import WeightsPosterior

__all__ = ["Geometric", "Kind", "Linear", "Mixture", "Pool", "Power", "Setup", "Spread", "Standard"]

Kind = Literal["weights", "gates", "clusters"]
"""What relatedness is: weights of a task's lenders, which sum to 1; the chance for each lender that
its gate is open; or the chance for each pair of tasks that the two share a cluster."""

Spread = Literal["scalar", "task", "feature"]


@dataclass(frozen=True)
class Setup:
    """What a pool's weights in closed form are made for.

    :ivar num_tasks: T.
    :ivar likelihood: gives the sites, and K.
    :ivar latent_dim: d_z.
    :ivar bias: whether the weights have a bias as their last column.
    :ivar named: whether inputs are named features.
    :ivar learns: whether an encoder learns beside.
    """

    num_tasks: int
    likelihood: Likelihood
    latent_dim: int
    bias: bool = True
    named: bool = False
    learns: bool = False


@dataclass(frozen=True, eq=False)
class Pool(Part):
    """A way to pool lenders; subclass it and define :meth:`prior` to bring your own.

    Of weights in closed form, N(0, I) and the spread are in units of their inferred scale.

    :param base: whether N(0, I) joins the lenders as component 0, so that a task with no relatives
        can decline to borrow; its weight is the task's independence.
    :param spread: None, or how the learned s in V_i = sigma_i^2 + s^2 is shared: one for the site
        (``"scalar"``), one for each lender (``"task"``) or one for each entry (``"feature"``).
        Tasks are then related, not identical (a commensurate prior).

    :cvar borrows: whether it needs lenders at all.
    :cvar kind: what its relatedness is.
    :cvar borrowing: the class of its relatedness, a :class:`pyro_vmtl.model.Borrowing`, of a pool
        that is a prior of weights alone; None, :class:`pyro_vmtl.model.Borrowing` itself, whose
        logits gradients move.
    :cvar needs_closed_form: whether the pool takes no other weights than those in closed form.
    :cvar needs_fixed_encoder: whether it takes no encoder that training changes.
    """

    borrows = True
    kind: ClassVar[Kind] = "weights"
    borrowing: ClassVar[type[nn.Module] | None] = None
    needs_closed_form: ClassVar[bool] = False
    needs_fixed_encoder: ClassVar[bool] = False
    relaxation: ClassVar[type[RelatednessWeights] | type[RelatednessGates]] = RelatednessWeights

    base: bool = False
    spread: Spread | None = None

    def __post_init__(self) -> None:
        if self.spread not in (None, "scalar", "task", "feature"):
            raise InputError(
                f"the pool's spread is {self.spread!r}; expected None, 'scalar', 'task' or "
                "'feature'"
            )
        if not isinstance(self.base, bool):
            raise InputError(f"the pool's base is {self.base!r}; expected true or false")

    def prior(
        self, weights: Tensor, lenders: Gaussians, spread: Tensor | None, event_dim: int
    ) -> dist.TorchDistribution:
        """The prior of every task.

        :param weights: how much each task borrows from each component, ``[*batch, T, 1, C]``; the
            components are the T lenders, after N(0, I) where ``base`` is set; 0 for the
            task itself.
        :param lenders: the tasks' posteriors, ``[T, *event]`` or ``[T, B, T, *event]``.
        :param spread: s, broadcasting over ``lenders``, or None.
        :return: a distribution with batch shape ``[*batch, T, 1]`` and event shape ``event``.
        """
        raise NotImplementedError

    def posterior(self, setup: Setup) -> WeightsPosterior | None:
        """q(w) in closed form where the pool has one of its own.

        :return: a new :class:`pyro_vmtl.model.ConjugateWeights`; None for
            :class:`pyro_vmtl.model.PooledWeights`, which takes any pool of Gaussians.
        """
        return None

    def encoder(self, own: Encoder, setup: Setup) -> Encoder:
        """The encoder whose representations the weights act on: this one, or one around it.

        :param own: the encoder of the settings, whose d_z the setup has.
        """
        return own

    def components(self, lenders: Gaussians, spread: Tensor | None, event_dim: int) -> Gaussians:
        """The lenders with the spread in their variance, after N(0, I) where ``base`` is set."""
        loc, scale = lenders
        if spread is not None:
            scale = (scale.square() + spread.square()).sqrt()
        if self.base:
            first = loc.narrow(-event_dim - 1, 0, 1)
            loc = torch.cat([torch.zeros_like(first), loc], -event_dim - 1)
            scale = torch.cat([torch.ones_like(first), scale], -event_dim - 1)
        return Gaussians(loc, scale)


@dataclass(frozen=True, eq=False)
class Standard(Pool):
    """N(0, I): no borrowing. Single-task and basic multi-task baselines."""

    borrows = False

    base: bool = field(default=False, init=False, repr=False)
    spread: Spread | None = field(default=None, init=False, repr=False)


@dataclass(frozen=True, eq=False)
class Mixture(Pool):
    """The paper's prior: a mixture of the lenders with the relatedness as its weights.

    :param kl_bound: the analytic bound that ``TraceMeanField_ELBO`` uses, ``"tight"`` or
        ``"convexity"``; ``Trace_ELBO`` uses the exact density instead.
    """

    kl_bound: KLBound = "tight"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl_bound not in ("tight", "convexity"):
            raise InputError(f"kl_bound is {self.kl_bound!r}; expected 'tight' or 'convexity'")

    def prior(
        self, weights: Tensor, lenders: Gaussians, spread: Tensor | None, event_dim: int
    ) -> PosteriorMixture:
        lends = weights > 0
        # The logarithm of a zero weight would put NaN into the gradient of the others.
        log_weights = torch.where(lends, weights, torch.ones_like(weights)).log()
        log_weights = log_weights.masked_fill(~lends, -torch.inf)
        components = self.components(lenders, spread, event_dim)
        return PosteriorMixture(log_weights, components, event_dim, self.kl_bound)


@dataclass(frozen=True, eq=False)
class Linear(Pool):
    """The law of the weighted sum of the lenders: what the authors' published code computes."""

    def prior(
        self, weights: Tensor, lenders: Gaussians, spread: Tensor | None, event_dim: int
    ) -> dist.TorchDistribution:
        return linear_pool(weights, self.components(lenders, spread, event_dim), event_dim)


@dataclass(frozen=True, eq=False)
class Geometric(Pool):
    """The log-linear opinion pool: one Gaussian between the lenders."""

    def prior(
        self, weights: Tensor, lenders: Gaussians, spread: Tensor | None, event_dim: int
    ) -> dist.TorchDistribution:
        return geometric_pool(weights, self.components(lenders, spread, event_dim), event_dim)


@dataclass(frozen=True, eq=False)
class Power(Pool):
    """Power prior: N(0, I) times every lender's evidence, each behind a gate of its own.

    It adds evidence up instead of picking one lender; there is no ``base``, since closed gates
    already leave N(0, I). The spread discounts each lender's evidence.
    """

    relaxation = RelatednessGates
    kind = "gates"

    base: bool = field(default=False, init=False, repr=False)

    def prior(
        self, weights: Tensor, lenders: Gaussians, spread: Tensor | None, event_dim: int
    ) -> dist.TorchDistribution:
        return power_pool(weights, lenders, event_dim, 0.0 if spread is None else spread)
