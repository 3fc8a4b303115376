"""Weights in closed form under pools of what the other tasks' own data said."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vmtl.distributions import Gaussians, PosteriorMixture
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.borrowing import Borrowing
from pyro_vmtl.model.likelihoods import Likelihood
from pyro_vmtl.model.priors.gibbs import Moments
from pyro_vmtl.model.priors.sites import ConjugateWeights

__all__ = ["PooledWeights"]

_DRAWS = 16  # of the relatedness, over which natural parameters are averaged
_ROUNDS = 30  # of the last look
_STRENGTH = 2.0  # samples' worth of the mean noise in that of every task


class PooledWeights(ConjugateWeights):
    r"""q(w_t) = N(mu_t, diag sigma_t^2), its site times a pool of the others, in closed form.

    Every task lends what its own data said under N(0, I): its site times N(0, I), mean-field. Every
    row is counted once; where current posteriors are lent, evidence comes back. Unless the
    likelihood is Gaussian with a known noise, though, the factors that make a site are taken at q,
    which has heard the other tasks.

    Given the relatedness :math:`\alpha`, q is the optimum of the ELBO: its natural parameters are
    those of the site plus the prior's, averaged over draws of :math:`\alpha`. In place of a mixture
    stands the Gaussian :math:`\prod_i c_i^{r_i}` of its lenders, r being their responsibilities at
    q (:meth:`pyro_vmtl.distributions.PosteriorMixture.natural`): a fixed point. The noise of a
    regression goes to where the expected log-likelihood has its maximum.

    The arguments are those of :class:`ConjugateWeights`.

    :ivar noise: the variance of every task's noise, ``[T, K]`` float64; 1 where there is none.
    """

    noise: Tensor
    _borrowing: tuple[Borrowing, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("noise", torch.ones_like(self.squares))

    def bind(self, borrowing: Borrowing) -> None:
        """Say by what relatedness these tasks borrow."""
        self._borrowing = (borrowing,)  # in a tuple: not a submodule

    # Distributions

    def by_draw(self) -> Moments:
        return Moments(self.loc.unsqueeze(0), self.covariance.unsqueeze(0))

    def noise_by_draw(self) -> Tensor:
        return self.noise.unsqueeze(0)

    def lent(self) -> Gaussians:
        """What each task's own data said, under N(0, I): ``[T, K, q]`` float64."""
        return self._given(torch.ones_like(self.loc), torch.zeros_like(self.loc))

    def forward(self, draw: Tensor | None = None) -> dist.TorchDistribution:
        """q(w), batch shape ``[T, 1]``: the same for every draw of the relatedness."""
        scale = self.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        return dist.Normal(self.loc.unsqueeze(1), scale.unsqueeze(1)).to_event(2)

    def sentences(self) -> list[str]:
        if self.every == 1:  # no encoder learns
            return []
        return [
            f"Beside a learned encoder the pool {type(self.pool).__name__} expects weights of the "
            "scale 1, which is mostly too wide: where samples are few, predictions may be "
            "overconfident. The pool Nested infers the scale (pool=nested)."
        ]

    def _given(self, precision: Tensor, shift: Tensor) -> Gaussians:
        """The sites times diagonal Gaussians with these natural parameters, mean-field."""
        total = self.precision / self.noise[..., None, None] + precision.diag_embed()
        moved = (self.shift / self.noise.unsqueeze(-1) + shift).unsqueeze(-1)
        loc = torch.cholesky_solve(moved, torch.linalg.cholesky(total)).squeeze(-1)
        return Gaussians(loc, total.diagonal(dim1=-2, dim2=-1).rsqrt())

    # What moves

    @torch.no_grad()
    def look(self, likelihood: Likelihood, last: bool = False) -> None:
        """Find q(w) and the noise, given the sites and the relatedness.

        :param likelihood: the noise of a regression is handed on to it.
        :param last: whether to go on until both have settled; else it is one round.
        """
        self.steps += 1
        draws = None
        if self._borrowing:
            with self.own_noise():
                law = self._borrowing[0].relatedness_posterior()
                draws = law.sample(torch.Size([_DRAWS]))
        for _ in range(_ROUNDS if last else 1):
            loc, scale = self._given(*self._prior(draws))
            self.loc, self.covariance = loc, scale.square().diag_embed()
            if self.infers_noise:
                self.noise = self._noise(loc, scale)
        if self.infers_noise:
            likelihood.take_noise(self.noise.sqrt())

    def _prior(self, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        """Precision and shift of the prior at q(w), averaged over draws, ``[T, K, q]`` each."""
        if draws is None:
            return torch.ones_like(self.loc), torch.zeros_like(self.loc)
        law = self._borrowing[0].prior(draws, self.lent())
        if isinstance(law, PosteriorMixture):
            scale = self.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
            parts = law.natural(self.loc.unsqueeze(1), scale.unsqueeze(1))
        else:
            base = getattr(law, "base_dist", law)
            if not isinstance(base, torch.distributions.Normal):
                raise InputError(
                    f"the pool {self.pool} gives a {type(base).__name__}, under which weights have "
                    "no closed form; expected a Normal or a PosteriorMixture, or "
                    "classifier='mean_field'"
                )
            precision = base.variance.reciprocal()
            parts = precision, precision * base.mean
        precision, shift = (part.mean(0).squeeze(1) for part in parts)
        return precision, shift

    def _noise(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Expected squared residuals of every task, drawn to those of all of them together."""
        fitted = (self.precision @ loc.unsqueeze(-1)).squeeze(-1)
        residual = self.squares + (loc * (fitted - 2 * self.shift)).sum(-1)
        residual += (self.precision.diagonal(dim1=-2, dim2=-1) * scale.square()).sum(-1)
        everywhere = residual.sum(0) / self.counts.sum(0).clamp_min(1)
        noise = (residual + _STRENGTH * everywhere) / (self.counts + _STRENGTH)
        return noise.clamp_min(1e-6)
