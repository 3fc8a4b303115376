"""Real numbers with outliers."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vmtl.errors import InputError
from pyro_vmtl.model.likelihoods.base import (
    Family,
    Likelihood,
    OutputwiseLikelihood,
    Site,
    quadrature,
)

__all__ = ["StudentT", "StudentTLikelihood"]

_LEAST_DEGREES = 2.0  # so that there is a variance
_TO_DEVIATION = 1.4826  # from the median absolute deviation of a normal
_FIRST_SCALE, _FIRST_DEGREES = 0.7, 6.0
_CONTRADICTS = 2.0  # standard deviations


@dataclass(frozen=True)
class StudentT(Family):
    """Real numbers of which some may be far off: noise has a Student-t distribution.

    :ivar degrees: of freedom, above 2; None, they are learned.
    """

    degrees: float | None = None

    def __post_init__(self) -> None:
        known = self.degrees
        if known is None:
            return
        if not isinstance(known, Real) or isinstance(known, bool) or not 2 < known < float("inf"):
            raise InputError(f"the likelihood's degrees are {known!r}; expected a number above 2")

    def __call__(self, num_tasks: int, num_outputs: int, conjugate: bool) -> Likelihood:
        return StudentTLikelihood(num_outputs, self.degrees)


class StudentTLikelihood(OutputwiseLikelihood):
    r"""y = l + u (eta + s t) with t of Student's distribution with nu degrees of freedom.

    .. math::
        \log p(y \mid \eta) = c - \tfrac{\nu + 1}{2} \log\big(1 + r^2 / (\nu s^2)\big), \qquad
        r = (y - l) / u - \eta

    l and u are the median and the scaled median absolute deviation of the training targets, which
    outliers do not move. s and nu are shared by the tasks, and learned: log s has a flat prior, and
    nu - 2 a gamma distribution with the shape 2 and the rate 0.1 (Juarez and Steel 2010).

    :param num_outputs: K.
    :param degrees: nu, or None where it is learned.

    :ivar theta: log s, and where it is learned log(nu - 2), ``[2 K]`` or ``[K]``.
    """

    target_loc: Tensor
    target_scale: Tensor
    theta: Tensor

    def __init__(self, num_outputs: int = 1, degrees: float | None = None) -> None:
        super().__init__(num_outputs)
        new = torch.ones(num_outputs, dtype=torch.float64)
        self.register_buffer("target_loc", torch.zeros_like(new))
        self.register_buffer("target_scale", new.clone())
        self.fixed = degrees
        start = [_FIRST_SCALE * new]
        if degrees is None:
            start.append((_FIRST_DEGREES - _LEAST_DEGREES) * new)
        self.register_buffer("theta", torch.cat(start).log())

    @property
    def degrees(self) -> Tensor:
        """nu, ``[K]``."""
        if self.fixed is not None:
            return torch.full_like(self.target_scale, self.fixed)
        return _LEAST_DEGREES + self.theta[self.num_outputs :].exp()

    @property
    def scale(self) -> Tensor:
        """s, ``[K]``, of the standardised targets."""
        return self.theta[: self.num_outputs].exp()

    def learn_from(self, targets: Tensor, centre: bool = True) -> None:
        targets = targets.double().reshape(-1, self.num_outputs)
        middle = targets.nanmedian(0).values
        away = _TO_DEVIATION * (targets - middle).abs().nanmedian(0).values
        spread = (targets - targets.nanmean(0)).square().nanmean(0).sqrt()
        scale = torch.where(away > 0, away, spread)
        if centre:
            self.target_loc.copy_(middle)
        self.target_scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))

    def distribution(self, predictor: Tensor) -> dist.TorchDistribution:
        loc = self.target_loc + self.target_scale * predictor
        return dist.StudentT(self.degrees, loc, self.target_scale * self.scale)

    def derivatives(self, predictor: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        nu, width = self.degrees, self.degrees * self.scale.square()
        r = (targets - self.target_loc) / self.target_scale - predictor
        total = width + r.square()
        slope = (nu + 1) * r / total
        curvature = (nu + 1) * (width - r.square()) / total.square()
        return self.log_density(predictor, targets), slope, curvature

    def first_sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As all others: an outlier should not speak before the rest."""
        return self.sites(loc, variance, targets)

    def log_predictive(
        self, loc: Tensor, variance: Tensor, targets: Tensor, noise: Tensor, site: Site
    ) -> Tensor:
        """See :class:`Likelihood`.

        Where N(loc, variance) and the target's factor contradict each other, the product has a
        second mode at loc, which the tail of the density reaches: the larger of two integrals.
        """
        near = super().log_predictive(loc, variance, targets, noise, site)
        nodes, log_shares = (part.to(loc.device)[:, None, None] for part in quadrature(1))
        eta = loc + variance.sqrt() * nodes
        log_p = self.log_density(eta, targets) + log_shares.unsqueeze(-1)
        middle = (loc / variance + site[0]) / (1 / variance + site[1])
        apart = (middle - loc).abs() > _CONTRADICTS * variance.sqrt()
        return torch.where(apart, torch.maximum(near, log_p.logsumexp(0)), near)

    def log_prior(self, theta: Tensor) -> Tensor:
        above = theta[self.num_outputs :]  # its Jacobian included
        return (2 * above - 0.1 * above.exp()).sum()
