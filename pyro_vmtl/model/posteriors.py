"""Variational posteriors of the tasks' weights."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vmtl.distributions import Gaussians

__all__ = ["MeanFieldWeights", "WeightsPosterior"]


class WeightsPosterior(nn.Module):
    """q(w_t) of every task; subclass it to bring your own.

    :ivar event_shape: ``[K, d_z + 1]``, the bias as last column (``d_z`` without a bias).
    """

    event_shape: torch.Size

    def gaussians(self) -> Gaussians:
        """The T posteriors, ``[T, K, d_z + 1]``."""
        raise NotImplementedError

    def forget(self) -> None:
        """Be as wide as N(0, I), where that is a setting: know nothing yet."""

    def forward(self) -> dist.TorchDistribution:
        """q(w), batch shape ``[T, 1]``, event shape ``[K, d_z + 1]``."""
        loc, scale = self.gaussians()
        return dist.Normal(loc.unsqueeze(1), scale.unsqueeze(1)).to_event(2)


class MeanFieldWeights(WeightsPosterior):
    """q(w_t) = N(mu_t, diag sigma_t^2) with free parameters.

    :param num_tasks: T.
    :param num_outputs: K.
    :param latent_dim: d_z.
    :param bias: whether the weights have a bias as their last column.
    :param initial_scale: sigma at the start.
    :param initial_jitter: standard deviation of the means at the start.
    """

    def __init__(
        self,
        num_tasks: int,
        num_outputs: int,
        latent_dim: int,
        bias: bool = True,
        initial_scale: float = 0.05,
        initial_jitter: float = 0.1,
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size([num_outputs, latent_dim + int(bias)])
        shape = (num_tasks, *self.event_shape)
        self.loc = nn.Parameter(initial_jitter * torch.randn(shape))
        start = float(torch.tensor(initial_scale).expm1().log())
        self.raw_scale = nn.Parameter(torch.full(shape, start))

    @property
    def scale(self) -> Tensor:
        """sigma, ``[T, K, d_z + 1]``."""
        return softplus(self.raw_scale)

    def gaussians(self) -> Gaussians:
        return Gaussians(self.loc, self.scale)

    @torch.no_grad()
    def forget(self) -> None:
        self.raw_scale.fill_(math.log(math.expm1(1.0)))
