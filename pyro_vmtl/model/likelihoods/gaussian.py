"""Real numbers with Gaussian noise of every task's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vmtl.data import TargetSums
from pyro_vmtl.model.likelihoods.base import Family, Likelihood, Site, linear_predictor

__all__ = ["Gaussian", "GaussianLikelihood"]


@dataclass(frozen=True)
class Gaussian(Family):
    """Real numbers with Gaussian noise, whose scale every task has for itself.

    :ivar initial_noise: the scale at the start, in the unit of the targets, where gradients move
        it; in closed form it is inferred with the weights.
    """

    initial_noise: float = 0.5
    needs_closed_form: ClassVar[bool] = False

    def __call__(self, num_tasks: int, num_outputs: int, conjugate: bool) -> Likelihood:
        return GaussianLikelihood(num_tasks, num_outputs, self.initial_noise, learned=not conjugate)


class GaussianLikelihood(Likelihood):
    """Normal(w z + b, s_t) with a noise scale for every task and output.

    :param num_tasks: T.
    :param num_outputs: K; 1 for scalar targets, which then have no event dimension.
    :param initial_noise: s_t at the start, in the unit of the targets.
    :param learned: whether the noise is a parameter that a gradient moves; else it is inferred with
        the weights and put here by :meth:`take_noise`, and targets are standardised inside by what
        :meth:`standardise_by` was told.

    :ivar target_loc: what is subtracted from the targets inside, ``[K]`` float64; ``target_scale``:
        what they are divided by then. Distributions are in the targets' own unit.
    """

    has_noise = True
    sites_are_exact = True
    target_loc: Tensor
    target_scale: Tensor

    def __init__(
        self,
        num_tasks: int,
        num_outputs: int = 1,
        initial_noise: float = 0.5,
        learned: bool = True,
    ) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        start = float(torch.tensor(initial_noise).expm1().log())
        raw = torch.full((num_tasks, 1, num_outputs), start)
        if learned:
            self.raw_noise = nn.Parameter(raw)
        else:
            self.register_buffer("raw_noise", raw.double())
            self.register_buffer("target_loc", torch.zeros(num_outputs, dtype=torch.float64))
            self.register_buffer("target_scale", torch.ones(num_outputs, dtype=torch.float64))
        self.learned = learned

    def of_single_tasks(self) -> Iterable[nn.Parameter]:
        return self.parameters()

    @property
    def noise(self) -> Tensor:
        """s_t, ``[T, 1, K]``, in the unit of the targets."""
        # A noise of zero on a task fitted exactly would make the density infinite.
        noise = softplus(self.raw_noise) + 1e-4
        return noise if self.learned else noise * self.target_scale

    def take_noise(self, noise: Tensor) -> None:
        """Put an inferred noise scale in its place, ``[T, K]``, of the standardised targets."""
        raw = (noise - 1e-4).clamp_min(1e-6)
        self.raw_noise.copy_((raw + (-(-raw).expm1()).log()).unsqueeze(1))

    def learn_from(self, targets: Tensor, centre: bool = True) -> None:
        if not self.learned:
            self.standardise_by(targets, centre)

    def standardise_by(self, targets: Tensor, centre: bool = True) -> None:
        """Take the mean and the standard deviation of these targets, ``[N]`` or ``[N, K]``.

        Each output's are of the samples where it is known.

        :param centre: whether the mean is subtracted; without a bias it should not be.
        """
        targets = targets.double().reshape(-1, self.num_outputs)
        mean = targets.nanmean(0)
        scale = (targets - mean).square().nanmean(0).sqrt()
        if centre:
            self.target_loc.copy_(mean)
        self.target_scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))

    def learn_from_sums(self, sums: TargetSums, centre: bool = True) -> None:
        if not self.learned:
            scale = sums.variance.sqrt().to(self.target_scale)
            if centre:
                self.target_loc.copy_(sums.mean)
            self.target_scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))

    def standardised(self, targets: Tensor) -> Tensor:
        targets = targets.double()
        if self.num_outputs == 1:
            targets = targets.unsqueeze(-1)
        return (targets - self.target_loc) / self.target_scale

    def given(
        self, predictor: Tensor, variance: Tensor | None = None, noise: Tensor | None = None
    ) -> dist.TorchDistribution:
        """See :class:`Likelihood`.

        :param noise: variances of the standardised targets that take the place of the likelihood's
            own, broadcasting over ``predictor``.
        """
        scale = self.noise
        if not self.learned:
            predictor = self.target_loc + self.target_scale * predictor
            if noise is not None:
                scale = noise.sqrt() * self.target_scale
        if variance is not None:
            scale = (scale.square() + variance * self.target_scale.square()).sqrt()
        return self._normal(predictor, scale)

    def forward(self, representations: Tensor, weights: Tensor) -> dist.TorchDistribution:
        law = self.given(linear_predictor(representations, weights))
        loc, scale = law.mean, law.variance.sqrt()
        if self.num_outputs == 1:
            loc, scale = loc.unsqueeze(-1), scale.unsqueeze(-1)
        # Weights in closed form are in float64, and targets are not.
        return self._normal(loc.to(representations.dtype), scale.to(representations.dtype))

    def _normal(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        scale = scale.expand_as(loc)
        if self.num_outputs == 1:
            return dist.Normal(loc.squeeze(-1), scale.squeeze(-1))
        return dist.Normal(loc, scale).to_event(1)

    def sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of a noise of 1: that of the data divides them where it is known."""
        return targets - loc, torch.ones_like(loc)

    def first_sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self.sites(loc, variance, targets)

    def components(
        self, loc: Tensor, variance: Tensor, noise: Tensor
    ) -> tuple[dist.TorchDistribution, dist.TorchDistribution | None]:
        """Gaussians, eta integrated out."""
        return self.given(loc, variance, noise), self.given(loc, noise=noise)

    def log_predictive(
        self, loc: Tensor, variance: Tensor, targets: Tensor, noise: Tensor, site: Site
    ) -> Tensor:
        """In closed form."""
        law = dist.Normal(loc, (variance + noise).sqrt())
        log_p: Tensor = law.log_prob(targets)
        return log_p - self.target_scale.log()
