"""Distributions of the relatedness sites: how much a task borrows from each other task.

Both are the relaxations of Maddison et al. (2017) and Jang et al. (2017), made safe at low
temperature: draws stay inside the open support, so that densities stay finite (in float32 at
temperature 0.1 with 11 lenders 7.5% of plain draws have an infinite one), and their KL divergence
is computed without sampling (:mod:`pyro_vmtl.distributions.kl`).
"""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus
from torch.types import _size

__all__ = ["RelatednessGates", "RelatednessWeights"]


class RelatednessWeights(dist.RelaxedOneHotCategorical):
    """Gumbel-softmax weights over the lenders (VMTL, equation 7), finite at any temperature.

    Example::

        >>> import torch
        >>> from pyro_vmtl.distributions import RelatednessWeights
        >>> RelatednessWeights(torch.tensor(0.1), logits=torch.zeros(4, 1, 3)).sample().shape
        torch.Size([4, 1, 3])

    :param temperature: scalar tensor > 0; towards 0 the draws become one-hot.
    :param logits: unnormalised log probabilities of picking each lender, ``[*batch, L]``.
    """

    has_rsample = True

    def expand(self, batch_shape: _size, _instance: object = None) -> "RelatednessWeights":
        new = self._get_checked_instance(RelatednessWeights, _instance)
        expanded: RelatednessWeights = super().expand(batch_shape, _instance=new)
        return expanded

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:
        """As :meth:`rsample`, without gradient."""
        with torch.no_grad():  # torch's own would go round rsample and leave the open simplex
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:
        """Draws in the open simplex, ``[*sample, *batch, L]``."""
        # At low temperature the logarithms are so large that float32 loses the sum of their
        # exponentials in the sixth digit; softmax makes it 1 again.
        draws = self.base_dist.rsample(sample_shape).softmax(-1)
        return draws.clamp_min(torch.finfo(draws.dtype).tiny)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density on the simplex, ``[*sample, *batch]``."""
        if self._validate_args:
            self._validate_sample(value)
        log_value = value.clamp_min(torch.finfo(value.dtype).tiny).log()
        return self.base_dist.log_prob(log_value) - log_value.sum(-1)


class RelatednessGates(dist.TorchDistribution):
    """Independent relaxed Bernoulli gates, one for each lender, as one vector-valued site.

    :param temperature: scalar tensor > 0; towards 0 the gates become 0 or 1.
    :param logits: log odds that a gate is open, ``[*batch, L]``.
    """

    arg_constraints = {"temperature": constraints.positive, "logits": constraints.real_vector}
    support = constraints.independent(constraints.unit_interval, 1)
    has_rsample = True

    def __init__(
        self, temperature: Tensor, logits: Tensor, validate_args: bool | None = None
    ) -> None:
        self.temperature = temperature
        self.logits = logits
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "RelatednessGates":
        new = self._get_checked_instance(RelatednessGates, _instance)
        new.temperature = self.temperature
        new.logits = self.logits.expand(*batch_shape, *self.event_shape)
        super(RelatednessGates, new).__init__(
            torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    @property
    def probs(self) -> Tensor:
        """The chance that each gate is open, ``[*batch, L]``."""
        return self.logits.sigmoid()

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:
        """Draws in the open unit cube, ``[*sample, *batch, L]``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        info = torch.finfo(self.logits.dtype)
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        uniform = uniform.clamp(info.tiny, 1 - info.eps)
        logistic = uniform.log() - (-uniform).log1p()
        draws = ((self.logits + logistic) / self.temperature).sigmoid()
        return draws.clamp(info.tiny, 1 - info.eps)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density on the unit cube, ``[*sample, *batch]``."""
        if self._validate_args:
            self._validate_sample(value)
        info = torch.finfo(value.dtype)
        value = value.clamp(info.tiny, 1 - info.eps)
        log_value, log_rest = value.log(), (-value).log1p()
        shifted = self.logits - self.temperature * (log_value - log_rest)
        density = self.temperature.log() + shifted - 2 * softplus(shifted)
        return (density - log_value - log_rest).sum(-1)
