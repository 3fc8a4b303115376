"""A prior that is a weighted mixture of other tasks' posteriors (VMTL, equations 5 and 6)."""

from typing import Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

from pyro_vmtl.distributions.gaussians import Gaussians, pairwise_kl, pairwise_log_density

__all__ = ["KLBound", "PosteriorMixture"]

KLBound = Literal["tight", "convexity"]


class PosteriorMixture(TorchDistribution):
    r"""Mixture of diagonal Gaussians, :math:`p(w) = \sum_i a_i N(w; m_i, \mathrm{diag}\, V_i)`.

    The components may be shared by the whole batch (every task mixes the same T posteriors with
    weights of its own), which makes densities and KLs matrix products.

    Example::

        >>> import torch
        >>> from pyro_vmtl.distributions import Gaussians, PosteriorMixture
        >>> lenders = Gaussians(torch.zeros(3, 2, 5), torch.ones(3, 2, 5))  # three of [2, 5]
        >>> weights = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5]])  # two tasks
        >>> PosteriorMixture(weights.log(), lenders, event_dim=2).sample().shape
        torch.Size([2, 2, 5])

    :param log_weights: log mixture weights, ``[*batch, C]``; -inf leaves a component out; they are
        normalised here.
    :param components: ``loc`` and ``scale`` of shape ``[C, *event]`` (shared) or
        ``[*batch, C, *event]``.
    :param event_dim: number of event dimensions.
    :param kl_bound: which analytic upper bound ``kl_divergence(Normal, PosteriorMixture)`` returns:
        ``"tight"``, :math:`-\log\sum_i a_i e^{-KL(q\|c_i)}` (Hershey and Olsen 2007), or
        ``"convexity"``, :math:`\sum_i a_i KL(q\|c_i)`.
    :raises ValueError: where shapes do not fit or no component has weight.
    """

    arg_constraints = {"log_weights": constraints.independent(constraints.less_than(1e-5), 1)}
    has_rsample = False

    def __init__(
        self,
        log_weights: Tensor,
        components: Gaussians,
        event_dim: int = 1,
        kl_bound: KLBound = "tight",
        validate_args: bool | None = None,
    ) -> None:
        loc, scale = components
        if event_dim < 1 or loc.dim() < event_dim + 1 or loc.shape != scale.shape:
            raise ValueError(
                f"components have loc {tuple(loc.shape)} and scale {tuple(scale.shape)}; expected "
                f"equal shapes [..., C, *event] with {event_dim} event dimensions"
            )
        count = loc.shape[-event_dim - 1]
        if log_weights.shape[-1:] != (count,):
            raise ValueError(
                f"log_weights has shape {tuple(log_weights.shape)}, its last dimension must be the "
                f"{count} components"
            )
        if kl_bound not in ("tight", "convexity"):
            raise ValueError(f"kl_bound is {kl_bound!r}, expected 'tight' or 'convexity'")
        batch_shape, event_shape = log_weights.shape[:-1], loc.shape[loc.dim() - event_dim :]
        lead = loc.shape[: -event_dim - 1]
        if lead:
            batch_shape = torch.broadcast_shapes(batch_shape, lead)
            expand = (*batch_shape, count, *event_shape)
            components = Gaussians(loc.expand(expand), scale.expand(expand))
        self.log_weights = log_weights.log_softmax(-1).expand(*batch_shape, count)
        self.components = components
        self.kl_bound: KLBound = kl_bound
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def shared(self) -> bool:
        """Whether the batch shares one set of components."""
        return self.components.loc.dim() == len(self.event_shape) + 1

    @property
    def _flat(self) -> Gaussians:
        return self.components.flatten(len(self.event_shape))

    def expand(self, batch_shape: _size, _instance: object = None) -> "PosteriorMixture":
        new = self._get_checked_instance(PosteriorMixture, _instance)
        batch_shape = torch.Size(batch_shape)
        count = self.log_weights.shape[-1]
        new.log_weights = self.log_weights.expand(*batch_shape, count)
        components = self.components
        if not self.shared:
            shape = (*batch_shape, count, *self.event_shape)
            components = Gaussians(components.loc.expand(shape), components.scale.expand(shape))
        new.components = components
        new.kl_bound = self.kl_bound
        super(PosteriorMixture, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Exact log density, ``[*sample, *batch]``."""
        if self._validate_args:
            self._validate_sample(value)
        flat = value.reshape(value.shape[: value.dim() - len(self.event_shape)] + (-1,))
        return (self.log_weights + pairwise_log_density(flat, self._flat)).logsumexp(-1)

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:
        """Draws: a component by its weight, then a value from it."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            picked = torch.distributions.Categorical(logits=self.log_weights).sample(
                torch.Size(sample_shape)
            )
            loc, scale = self._flat
            if self.shared:
                loc, scale = loc[picked], scale[picked]
            else:
                index = picked[..., None, None].expand(*picked.shape, 1, loc.shape[-1])
                lead = (*picked.shape, *loc.shape[-2:])
                loc = loc.expand(lead).gather(-2, index).squeeze(-2)
                scale = scale.expand(lead).gather(-2, index).squeeze(-2)
            return torch.normal(loc, scale).reshape(shape)

    def _moment(self, values: Tensor) -> Tensor:
        """Weighted average over components of ``[C, P]`` or ``[*batch, C, P]``, float64."""
        weights = self.log_weights.double().exp()
        if values.dim() == 2:
            return weights @ values
        return (weights.unsqueeze(-2) @ values).squeeze(-2)

    @property
    def mean(self) -> Tensor:
        """``[*batch, *event]``."""
        loc = self._flat.loc
        return self._moment(loc.double()).to(loc.dtype).reshape(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """``[*batch, *event]``: within plus between components."""
        loc, scale = (x.double() for x in self._flat)
        centre = loc.mean(-2, keepdim=True)  # around it the two large squares cancel less
        first = self._moment(loc - centre)
        second = self._moment(scale.square() + (loc - centre).square())
        variance = (second - first.square()).clamp_min(0).to(self._flat.loc.dtype)
        return variance.reshape(self.batch_shape + self.event_shape)

    def pairwise_kl(self, loc: Tensor, scale: Tensor) -> Tensor:
        """KL(q || c_i), ``[*batch, C]``, for q with ``loc`` and ``scale`` ``[*batch, *event]``."""
        q = Gaussians(loc, scale).flatten(len(self.event_shape))
        return pairwise_kl(q.loc, q.scale, self._flat)

    def tight_bound(self, loc: Tensor, scale: Tensor) -> Tensor:
        r""":math:`-\log\sum_i a_i e^{-KL(q\|c_i)}` (Hershey and Olsen 2007), ``[*batch]``."""
        return -(self.log_weights - self.pairwise_kl(loc, scale)).logsumexp(-1)

    def convexity_bound(self, loc: Tensor, scale: Tensor) -> Tensor:
        r""":math:`\sum_i a_i KL(q\|c_i)`, never below the tight bound, ``[*batch]``."""
        return (self.log_weights.exp() * self.pairwise_kl(loc, scale)).sum(-1)

    def responsibilities(self, loc: Tensor, scale: Tensor) -> Tensor:
        r""":math:`r_i \propto a_i e^{-KL(q\|c_i)}`: the components the prior of q really uses.

        They are the gradient of the tight bound with respect to the components' KLs,
        ``[*batch, C]``.
        """
        return (self.log_weights - self.pairwise_kl(loc, scale)).softmax(-1)

    def natural(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        r"""The Gaussian :math:`\prod_i c_i^{r_i}` that the bound at q has in place of the mixture.

        With :math:`r_i` the :meth:`responsibilities` (of the convexity bound the weights) the bound
        at q is :math:`KL(q \| \prod_i c_i^{r_i})` but for terms without q: minimised in q and r by
        turns, it falls.

        :return: precision :math:`\sum_i r_i / V_i` and shift :math:`\sum_i r_i m_i / V_i`,
            ``[*batch, *event]`` float64.
        """
        tight = self.kl_bound == "tight"
        shares = self.responsibilities(loc, scale) if tight else self.log_weights.exp()
        mean, sd = (part.double() for part in self._flat)
        precision = sd.square().reciprocal()
        shape = self.batch_shape + self.event_shape
        shares = shares.double().unsqueeze(-2)
        parts = (shares @ values for values in (precision, precision * mean))
        total, shift = (part.squeeze(-2).reshape(shape) for part in parts)
        return total, shift
