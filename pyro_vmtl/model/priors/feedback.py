"""Feedback between outputs: weights that hear other tasks' predictions, each behind a gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.types import _size

from pyro_vmtl.errors import InputError
from pyro_vmtl.model.borrowing import Borrowing
from pyro_vmtl.model.encoders import Encoder
from pyro_vmtl.model.likelihoods import CategoricalLikelihood, Likelihood
from pyro_vmtl.model.pools import Kind, Setup
from pyro_vmtl.model.posteriors import WeightsPosterior
from pyro_vmtl.model.priors.conditionals import Moments, averaged
from pyro_vmtl.model.priors.gibbs import Evidence, spread
from pyro_vmtl.model.priors.nested import Deviation, Nested, NestedWeights
from pyro_vmtl.model.priors.stacking import StackedEncoder

__all__ = ["Feedback", "FeedbackBorrowing", "FeedbackWeights"]

_CHAINS = 4
_BURN_IN = 10  # sweeps of the last look that are thrown away
_SWEEPS = 40  # sweeps of the last look
_KEPT = 4  # draws of each chain that give the moments
_ALL_OPEN = 6  # steps before gates may close: sites have to settle
_CLOSED = 1e-3  # standard deviation of a map behind a closed gate: next to nothing


class _Gates(dist.Bernoulli):
    """Gates that are open or shut; nothing takes a gradient, so their draws owe none."""

    has_rsample = True

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:
        return self.sample(sample_shape)


class FeedbackBorrowing(Borrowing):
    """The gates of feedback, whose chances are those of the weights' posterior."""

    learns = False
    _weights: tuple[FeedbackWeights]

    def relatedness_posterior(self) -> dist.TorchDistribution:
        """Independent Bernoulli gates, batch shape ``[T, 1]``, event shape ``[L]``."""
        return _Gates(self._weights[0].open.unsqueeze(-2)).to_event(1)

    def relatedness_prior(self) -> dist.TorchDistribution:
        """Every gate is open with the chance 1/2."""
        half = torch.full_like(self._weights[0].open, 0.5)
        return _Gates(half.unsqueeze(-2)).to_event(1)

    def probabilities(self) -> Tensor:
        return self._weights[0].open


@dataclass(frozen=True, eq=False)
class Feedback(Nested):
    r"""Output-level relatedness: a task's logits hear what the other tasks' classifiers say.

    .. math::
        \eta_t(x) = W_t z(x) + \sum_{u \neq t} g_{ut} A_{ut}\, p_u(x), \qquad
        g_{ut} \sim \mathrm{Bernoulli}(1/2), \quad A_{ut} \sim N(0, s^2 I), \quad
        W_t \sim N(0, v^2 I)

    p_u(x) are the class probabilities, less 1/C, of u's own classifier: it is fitted to u's rows
    alone, under the prior of W_u, and then frozen (:class:`pyro_vmtl.model.StackedEncoder`). W_t
    borrows nothing; the map A_ut and its gate g_ut are directed, from u to t. All is inferred in
    closed form: each task's data are a Gaussian site, weights given the gates are Gaussian, and
    gates and s are drawn by Gibbs sampling with all weights integrated out.

    After Xi, Gao, Xu, Guo and Jin (2024, arXiv 2404.00885), for tasks with inputs of their own: one
    pass, and a spike-and-slab prior in place of their Gumbel gate. For classes without an order,
    and encoders that take no gradient.

    :param own_scale: v, the standard deviation of a task's own weights.
    :param map_scales: the values that s may have, one for all pairs of tasks, all as likely.
    """

    kind: ClassVar[Kind] = "gates"
    borrowing: ClassVar[type[nn.Module] | None] = FeedbackBorrowing
    needs_fixed_encoder: ClassVar[bool] = True  # classifiers that are heard are fitted before
    borrows = True

    mean: bool = field(default=False, init=False, repr=False)
    clusters: bool = field(default=False, init=False, repr=False)
    deviation: Deviation | None = field(default="fixed", init=False, repr=False)
    known: Sequence[int] | None = field(default=None, init=False, repr=False)
    gamma: float = field(default=1.0, init=False, repr=False)
    expected: float = field(default=3.0, init=False, repr=False)
    own_scale: float = 2.0
    map_scales: Sequence[float] = (2.8, 4.0, 5.6, 8.0, 11.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        own, maps = self.own_scale, self.map_scales
        if not 0 < own < float("inf"):
            raise InputError(f"the pool's own_scale is {own}; expected a number above 0")
        if not maps or not all(0 < scale < float("inf") for scale in maps):
            raise InputError(f"the pool's map_scales are {maps}; expected numbers above 0")
        object.__setattr__(self, "own_scale", float(own))
        object.__setattr__(self, "map_scales", tuple(float(scale) for scale in maps))

    def posterior(self, setup: Setup) -> WeightsPosterior:
        return self._weights(setup, setup.num_tasks - 1)

    def _weights(self, setup: Setup, heard: int) -> FeedbackWeights:
        return FeedbackWeights(
            self, setup.num_tasks, setup.likelihood, setup.latent_dim, heard, setup.bias
        )

    def encoder(self, own: Encoder, setup: Setup) -> StackedEncoder:
        """The representations, and beside them what other tasks' classifiers say."""
        likelihood = setup.likelihood
        if not isinstance(likelihood, CategoricalLikelihood):
            name = type(likelihood).__name__.removesuffix("Likelihood")
            raise InputError(
                f"the pool is Feedback, which hears the class probabilities of other tasks, and "
                f"the likelihood is {name}; expected classes without an order"
            )
        return StackedEncoder(own, self._weights(setup, 0), likelihood)


class FeedbackWeights(NestedWeights):
    """q(w_t) of weights whose last columns but the bias hear the other tasks' outputs.

    :param pool: gives the scale of the maps.
    :param num_tasks: T.
    :param likelihood: gives the sites; each lender has as many columns as it has rows, K.
    :param latent_dim: d_z, the columns that hear included.
    :param heard: how many lenders each task hears, L: T - 1, or 0 for tasks by themselves.
    :param bias: whether the weights have a bias as their last column.

    :ivar open: the chance that each gate is open, ``[T, L]`` float64.
    """

    shares_weights = False
    pool: Feedback
    open: Tensor
    chain_deviation: Tensor
    chain_shared: Tensor

    def __init__(
        self,
        pool: Feedback,
        num_tasks: int,
        likelihood: Likelihood,
        latent_dim: int,
        heard: int,
        bias: bool = True,
    ) -> None:
        super().__init__(pool, num_tasks, likelihood, latent_dim, bias)
        rows = likelihood.num_outputs
        groups = self._prior.groups.clone()
        groups[latent_dim - heard * rows : latent_dim] += 1 + torch.arange(heard * rows) // rows
        self._prior = dataclasses.replace(self._prior, groups=groups)
        self.groups = groups
        self.heard = heard
        self.register_buffer("open", torch.full((num_tasks, heard), 0.5, dtype=torch.float64))
        start = torch.ones(_CHAINS, num_tasks, heard, dtype=torch.bool)
        self._stand("chain", start, self.loc.new_full((_CHAINS,), pool.map_scales[0] ** 2))
        self._stand("draw", start, self.loc.new_full((_CHAINS,), pool.map_scales[0] ** 2))

    def _stand(self, role: str, gates: Tensor, square: Tensor) -> None:
        """Stand at these gates, ``[S, T, L]``, and at s^2, ``[S]``; or keep them as draws."""
        for name in ("labels", "deviation_spread", "cluster", "mean", "noise", "noise_spread"):
            value = getattr(self, f"{role}_{name}")[:1]  # what this prior does without
            setattr(self, f"{role}_{name}", value.repeat(len(gates), *(1,) * (value.dim() - 1)))
        setattr(self, f"{role}_shared", square)
        setattr(self, f"{role}_deviation", self._variances(gates, square))

    def _variances(self, gates: Tensor, square: Tensor) -> Tensor:
        """Of own columns, and of those of every lender, ``[..., T, 1 + L]``.

        :param gates: ``[..., T, L]``; ``square``: s^2, ``[...]``.
        """
        wide = torch.where(gates, square[..., None, None], _CLOSED**2)
        own = wide.new_full((*wide.shape[:-1], 1), self.pool.own_scale**2)
        return torch.cat([own, wide], -1)

    # Distributions

    def _moments(self, deviation: Tensor) -> Moments:
        """q(w) given these variances ``[..., T, 1 + L]``: ``[..., T, K, q]``."""
        sd = spread(deviation, self.get_buffer("groups")).sqrt().unsqueeze(-2)
        inner = sd.unsqueeze(-1) * self.precision * sd.unsqueeze(-2)
        inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
        half = torch.linalg.solve_triangular(
            torch.linalg.cholesky(inner), sd.diag_embed().expand_as(inner), upper=False
        )
        covariance = half.mT @ half
        return Moments((covariance @ self.shift.unsqueeze(-1)).squeeze(-1), covariance)

    def by_draw(self) -> Moments:
        return self._moments(self.draws.deviation)

    def _of_gates(self, draw: Tensor | None) -> Tensor:
        """The variances of a draw of the gates, ``[..., T, 1, L]``, s as in the mean draw of it."""
        if draw is None:
            return self.draws.deviation[0]
        square = self.draws.shared.log().mean().exp()
        return self._variances(draw.squeeze(-2) > 0.5, square)

    def forward(self, draw: Tensor | None = None) -> dist.TorchDistribution:
        if draw is None and self.heard:
            return self._mixture()
        given = self._moments(self._of_gates(draw))
        return self._normal(Moments(given.loc.unsqueeze(-3), given.covariance.unsqueeze(-4)))

    def weights_prior(self, draw: Tensor | None) -> dist.TorchDistribution:
        """p(w | gates) = N(0, V), batch shape ``[..., T, 1]``."""
        sd = spread(self._of_gates(draw), self.get_buffer("groups")).sqrt()[..., None, None, :]
        sd = sd.expand(*sd.shape[:-2], *self.event_shape)
        return dist.MultivariateNormal(torch.zeros_like(sd), scale_tril=sd.diag_embed()).to_event(1)

    # What moves

    def find_posterior(self, likelihood: Likelihood, last: bool, held_out: Evidence | None) -> None:
        """Some sweeps over the gates and the scale of maps, given the sites as they are."""
        generator = self.generator()
        gates, square = self.chain_deviation[..., 1:] > _CLOSED, self.chain_shared
        if self.heard:
            sites = self._of_maps()
            chances, kept = [], []
            for number in range(_BURN_IN + _SWEEPS if last else 1):
                square = self._draw_scale(*sites, gates, generator)
                if int(self.steps) > _ALL_OPEN:
                    gates, chance = self._draw_gates(*sites, gates, square, generator)
                else:
                    chance = torch.full_like(gates, 0.5, dtype=square.dtype)
                if number >= _BURN_IN or not last:
                    chances.append(chance.mean(0))
                    kept.append((gates, square))
            self.open = torch.stack(chances).mean(0)
            every = max(1, len(kept) // _KEPT)
            parts = (torch.cat(part) for part in zip(*kept[every - 1 :: every], strict=True))
            self._stand("draw", *parts)
            self._stand("chain", gates, square)
        self.loc, self.covariance = averaged(self.by_draw())

    def _of_maps(self) -> tuple[Tensor, Tensor]:
        """What the sites say of the maps, own weights integrated out.

        :return: precision ``[T, K, L K, L K]`` and shift ``[T, K, L K]``.
        """
        own = self.get_buffer("groups") == 0
        precision, shift = self.precision, self.shift
        inner = precision[..., own, :][..., own]
        inner.diagonal(dim1=-2, dim2=-1).add_(self.pool.own_scale**-2)
        both = torch.cat([precision[..., own, :][..., ~own], shift[..., own].unsqueeze(-1)], -1)
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), both, upper=False)
        left, right = half[..., :-1], half[..., -1:]
        seen = precision[..., ~own, :][..., ~own] - left.mT @ left
        return seen, shift[..., ~own] - (left.mT @ right).squeeze(-1)

    def _log_evidence(
        self, precision: Tensor, shift: Tensor, gates: Tensor, square: Tensor
    ) -> Tensor:
        """log p(D | gates, s) but for a constant, ``[S, T]``.

        :param precision: of :meth:`_of_maps`; ``shift``: likewise.
        :param gates: ``[S, T, L]``; ``square``: s^2, ``[S]``.
        """
        sd = self._variances(gates, square)[..., 1:].sqrt()
        sd = sd.repeat_interleave(self.event_shape[0], -1).unsqueeze(-2)  # [S, T, 1, L K]
        inner = sd.unsqueeze(-1) * precision * sd.unsqueeze(-2)
        inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
        factor = torch.linalg.cholesky(inner)
        fit = torch.linalg.solve_triangular(factor, (sd * shift).unsqueeze(-1), upper=False)
        size = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (0.5 * fit.square().sum((-2, -1)) - size).sum(-1)

    def _draw_scale(
        self, precision: Tensor, shift: Tensor, gates: Tensor, generator: torch.Generator
    ) -> Tensor:
        """s^2 of every chain, ``[S]``, given its gates."""
        squares = shift.new_tensor(self.pool.map_scales).square()
        ways = gates.repeat(len(squares), 1, 1), squares.repeat_interleave(len(gates))
        evidence = self._log_evidence(precision, shift, *ways).sum(-1).view(len(squares), -1)
        uniform = torch.rand(len(gates), generator=generator, dtype=torch.float64).to(shift.device)
        below = evidence.softmax(0).cumsum(0) < uniform
        return squares[below.sum(0).clamp_max(len(squares) - 1)]

    def _draw_gates(
        self,
        precision: Tensor,
        shift: Tensor,
        gates: Tensor,
        square: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Every gate given the others, and the chance with which it was open, ``[S, T, L]``."""
        chance = torch.full_like(gates, 0.5, dtype=shift.dtype)
        uniform = torch.rand(gates.shape, generator=generator, dtype=torch.float64)
        uniform = uniform.to(shift.device)
        for slot in torch.randperm(self.heard, generator=generator).tolist():
            ways = gates.repeat(2, 1, 1, 1)
            ways[0, ..., slot], ways[1, ..., slot] = False, True
            evidence = self._log_evidence(precision, shift, ways.flatten(0, 1), square.repeat(2))
            closed, opened = evidence.chunk(2)
            chance[..., slot] = (opened - closed).sigmoid()
            gates = ways[0]
            gates[..., slot] = uniform[..., slot] < chance[..., slot]
        return gates, chance
