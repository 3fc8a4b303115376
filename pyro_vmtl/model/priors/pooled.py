"""Weights in closed form under pools of what the other tasks' own data said."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import Gaussians, PosteriorMixture, RowGaussians
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.likelihoods import Likelihood
from pyro_vmtl.model.pools import Pool, Standard
from pyro_vmtl.model.posteriors import Lending
from pyro_vmtl.model.priors.gibbs import Evidence, Moments
from pyro_vmtl.model.priors.sites import ConjugateWeights

__all__ = ["PooledWeights"]

_DRAWS = 16  # of the relatedness, over which natural parameters are averaged
_ROUNDS = 30  # of the last look
_STRENGTH = 2.0  # samples' worth of the mean noise in that of every task


class PooledWeights(ConjugateWeights):
    r"""q(w_t), Gaussian: its site times a pool of what the others lend, in closed form.

    A row of a task's weights keeps its correlations. Every task lends what it infers by itself, of
    its own data under N(0, s^2 I): the marginals, since pools are of diagonal Gaussians. What it
    lends never hears the other tasks, so that every row of data is counted once; where current
    posteriors are lent, evidence comes back.

    The scale s of all slopes is inferred, by EM, from the tasks each by themselves; a bias has the
    scale 1. Pools are of weights in these units, w / s, in which N(0, I) stands for a task that
    borrows from nobody.

    Given the relatedness :math:`\alpha`, q is the optimum of the ELBO: its natural parameters are
    those of the site plus the prior's, averaged over draws of :math:`\alpha`. In place of a mixture
    stands the Gaussian :math:`\prod_i c_i^{r_i}` of its lenders, r being their responsibilities at
    q (:meth:`pyro_vmtl.distributions.PosteriorMixture.natural`): a fixed point. The noise of a
    regression goes to where the expected log-likelihood has its maximum.

    The arguments are those of :class:`ConjugateWeights`.

    :ivar noise: the variance of every task's noise, ``[T, K]`` float64; 1 where there is none.
    :ivar unit: s of every entry of a row, ``[q]`` float64; 1 for the bias.
    :ivar alone: the same under :class:`Standard`, which tasks lend; None where nobody borrows.
    """

    noise: Tensor
    unit: Tensor
    alone: PooledWeights | None
    _lending: tuple[Lending, ...] = ()

    def __init__(self, pool: Pool, *args: Any, **kwargs: Any) -> None:
        super().__init__(pool, *args, **kwargs)
        self.register_buffer("noise", torch.ones_like(self.squares))
        self.register_buffer("unit", torch.ones_like(self.loc[0, 0]))
        self.covariance.copy_(self.unit.diag())
        self.alone = PooledWeights(Standard(), *args, **kwargs) if pool.borrows else None
        if self.alone is not None:
            self.alone.every, self.alone.moves_likelihood = 1, False  # it is updated when these are

    def bind(self, lending: Lending) -> None:
        self._lending = (lending,)  # in a tuple: not a submodule

    # Distributions

    def by_draw(self) -> Moments:
        return Moments(self.loc.unsqueeze(0), self.covariance.unsqueeze(0))

    def noise_by_draw(self) -> Tensor:
        return self.noise.unsqueeze(0)

    def lent(self) -> Gaussians:
        """What each task infers by itself, the marginals of w / s, ``[T, K, q]`` float64."""
        alone = self.alone or self
        return Gaussians(alone.loc / self.unit, _scale(alone.covariance) / self.unit)

    def forward(self, draw: Tensor | None = None) -> dist.TorchDistribution:
        """q(w), batch shape ``[T, 1]``: the same for every draw of the relatedness."""
        root = torch.linalg.cholesky(self.covariance)
        rows = dist.MultivariateNormal(self.loc.unsqueeze(1), scale_tril=root.unsqueeze(1))
        return RowGaussians(rows, 1)

    def weights_prior(self, draw: Tensor | None) -> dist.TorchDistribution:
        if draw is None:
            zeros = torch.zeros_like(self.loc).unsqueeze(1)
            return dist.Normal(zeros, self.unit.expand_as(zeros)).to_event(2)
        law = self._lending[0].prior(draw, self.lent())
        if isinstance(law, PosteriorMixture):
            loc, scale = (self.unit * part for part in law.components)
            return PosteriorMixture(law.log_weights, Gaussians(loc, scale), 2, law.kl_bound)
        base = getattr(law, "base_dist", law)
        if not isinstance(base, torch.distributions.Normal):
            raise InputError(
                f"the pool {self.pool} gives a {type(base).__name__}, under which weights have "
                "no closed form; expected a Normal or a PosteriorMixture, or "
                "classifier='mean_field'"
            )
        return dist.Normal(self.unit * base.loc, self.unit * base.scale).to_event(2)

    def _given(self, precision: Tensor, shift: Tensor) -> Moments:
        """The sites times diagonal Gaussians with these natural parameters."""
        total = self.precision / self.noise[..., None, None] + precision.diag_embed()
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(total))
        moved = self.shift / self.noise.unsqueeze(-1) + shift
        return Moments((covariance @ moved.unsqueeze(-1)).squeeze(-1), covariance)

    # What moves

    def _step(
        self,
        batch: Batch,
        representations: dist.TorchDistribution,
        likelihood: Likelihood,
        rate: float,
    ) -> None:
        if self.alone is not None:
            self.alone.step(batch, representations, likelihood, rate=rate)
        super()._step(batch, representations, likelihood, rate)

    def find_posterior(self, likelihood: Likelihood, last: bool, held_out: Evidence | None) -> None:
        """Find q(w), the noise and s, given the sites and the relatedness.

        :param likelihood: the noise of a regression is handed on to it.
        :param last: whether to go on until they have settled; else it is one round.
        :param held_out: not heard.
        """
        draws = None
        if self._lending:
            with self.own_noise():
                law = self._lending[0].relatedness_posterior()
                draws = law.sample(torch.Size([_DRAWS]))
        if self.alone is not None and (last or int(self.steps) == 1):
            # From there a task takes to lenders who are like what it infers by itself.
            self.loc, self.covariance = self.alone.loc, self.alone.covariance
            self.noise = self.alone.noise.clone()
        # A scale that had not settled would leave sites where the posterior is no more.
        for _ in range(_ROUNDS if last or self.alone is None else 1):
            self.unit = self._unit() if self.alone is None else self.alone.unit.clone()
            self.loc, self.covariance = self._given(*self._prior(draws))
            if self.infers_noise:
                self.noise = self._noise()
        if self.infers_noise and self.moves_likelihood:
            likelihood.take_noise(self.noise.sqrt())

    def _unit(self) -> Tensor:
        """A step of EM, drawn to 1."""
        squares = (self.loc.square() + _scale(self.covariance).square())[..., : self.slopes]
        mean = (squares.sum() + _STRENGTH) / (squares.numel() + _STRENGTH)
        unit = torch.ones_like(self.unit)
        unit[: self.slopes] = mean.sqrt()
        return unit

    def _prior(self, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        """Precision and shift of the prior at q(w), averaged over draws, ``[T, K, q]`` each."""
        law = self.weights_prior(draws)
        if isinstance(law, PosteriorMixture):
            parts = law.natural(self.loc.unsqueeze(1), _scale(self.covariance).unsqueeze(1))
        else:
            base = law.base_dist
            precision = base.variance.reciprocal()
            parts = precision, precision * base.mean
        shape = (-1, *self.loc.shape)
        precision, shift = (part.reshape(shape).mean(0) for part in parts)
        return precision, shift

    def _noise(self) -> Tensor:
        """Expected squared residuals of every task, drawn to those of all of them together."""
        fitted = (self.precision @ self.loc.unsqueeze(-1)).squeeze(-1)
        residual = self.squares + (self.loc * (fitted - 2 * self.shift)).sum(-1)
        residual += (self.precision * self.covariance).sum((-2, -1))
        everywhere = residual.sum(0) / self.counts.sum(0).clamp_min(1)
        noise = (residual + _STRENGTH * everywhere) / (self.counts + _STRENGTH)
        return noise.clamp_min(1e-6)


def _scale(covariance: Tensor) -> Tensor:
    """Standard deviations, ``[..., q]``."""
    return covariance.diagonal(dim1=-2, dim2=-1).sqrt()
