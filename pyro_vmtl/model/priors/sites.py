"""Weights in closed form: what a task's data say is a Gaussian site, moved by conjugate steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import ClassVar, TypeAlias

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.encoders import Encoder
from pyro_vmtl.model.evaluation import evaluating
from pyro_vmtl.model.likelihoods import Likelihood, with_bias
from pyro_vmtl.model.pools import Pool
from pyro_vmtl.model.posteriors import WeightsPosterior
from pyro_vmtl.model.priors.gibbs import Evidence, Moments

__all__ = ["ConjugateWeights", "Seen"]

_EVERY = 10  # iterations between two updates, where an encoder learns
_CLOSING_STEPS = 20  # beside an encoder that has learned, averaged over its noise
_CLOSING_DROPOUT = 0.2  # at least: representations of training samples are plainer than others
_DRAWS_OF_Z = 4
_MOST_ENTRIES = 2**26  # of all precisions, 512 MiB


Seen: TypeAlias = tuple[Batch, dist.TorchDistribution]
"""Samples, and q(z | x) of them."""


class ConjugateWeights(WeightsPosterior):
    r"""q(w_t) as what a task's data say, a Gaussian site, times what the other tasks say.

    A row of a task's weights has the site :math:`\exp(h w - w \Lambda w / 2)`. Conjugate steps move
    it towards the likelihood's factors (:meth:`pyro_vmtl.model.Likelihood.sites`), which is
    conjugate-computation variational inference (Khan and Lin, AISTATS 2017), or expectation
    propagation where the likelihood has it: every row of data speaks once. Nothing in it takes a
    gradient; its state moves in :meth:`update` alone. Subclasses say what the other tasks say: they
    define :meth:`find_posterior`, :meth:`forward`, :meth:`weights_prior`, :meth:`by_draw` and
    :meth:`noise_by_draw`.

    :param pool: how the other tasks become a task's prior.
    :param num_tasks: T.
    :param likelihood: gives the sites.
    :param latent_dim: d_z.
    :param bias: whether the weights have a bias as their last column.
    :param learns: whether an encoder learns beside: then every tenth iteration moves the sites.
    :param rate: the least by which a step moves the sites: the k-th moves them by 6 / k, at most
        .7, until that is less. None, .1, and .2 where an encoder learns: it moves between two
        steps, so that old sites must be left.
    :raises InputError: if Lambda takes more than 512 MiB.

    :cvar hears_held_out: whether the prior is inferred from held-out samples as well, beside an
        encoder that learns.
    :ivar moves_likelihood: whether the parameters of the likelihood and its noise move with these
        weights.
    :ivar learns: whether an encoder learns beside.
    :ivar slopes: how many entries of a row are not the bias: d_z.
    :ivar precision: Lambda of every task's site, ``[T, K, q, q]`` float64; ``shift``: h. Where the
        noise of a regression is inferred as well, both are those of a noise of 1.
    :ivar loc: mean of q(w), ``[T, K, q]`` float64; ``covariance``: ``[T, K, q, q]``. Likewise.
    """

    is_conjugate: ClassVar[bool] = True
    moves_likelihood = True
    hears_held_out: ClassVar[bool] = False
    precision: Tensor
    shift: Tensor
    counts: Tensor
    squares: Tensor
    loc: Tensor
    covariance: Tensor
    steps: Tensor
    seed: Tensor

    def __init__(
        self,
        pool: Pool,
        num_tasks: int,
        likelihood: Likelihood,
        latent_dim: int,
        bias: bool = True,
        learns: bool = False,
        rate: float | None = None,
    ) -> None:
        super().__init__()
        rows, columns = likelihood.num_outputs, latent_dim + int(bias)
        if num_tasks * rows * columns**2 > _MOST_ENTRIES:
            most = math.isqrt(_MOST_ENTRIES // (num_tasks * rows)) - int(bias)
            raise InputError(
                f"the pool is {type(pool).__name__}, with {latent_dim} representations, "
                f"{num_tasks} tasks and {rows} rows of weights for each; expected at most {most} "
                f"representations, as of PrincipalComponents(latent_dim={most})"
            )
        self.pool = pool
        self.num_tasks = num_tasks
        self.event_shape = torch.Size([rows, columns])
        self.slopes = latent_dim
        self.learns = learns
        self.every = _EVERY if learns else 1
        self.rate = (0.2 if learns else 0.1) if rate is None else rate
        self.infers_noise = likelihood.has_noise
        shape = (num_tasks, rows, columns)
        zeros = torch.zeros(*shape, dtype=torch.float64)
        eye = torch.eye(columns, dtype=torch.float64).expand(*shape, columns)
        self.register_buffer("precision", torch.zeros_like(eye))
        self.register_buffer("shift", zeros.clone())
        self.register_buffer("counts", zeros[:, :, 0].clone())
        self.register_buffer("squares", zeros.new_zeros(num_tasks, rows))
        self.register_buffer("loc", zeros.clone())
        self.register_buffer("covariance", 0.3 * eye)
        self.register_buffer("steps", torch.tensor(0))
        # A stream of noise of its own, from the seed that the caller has set.
        self.register_buffer("seed", torch.randint(2**31, ()))

    def gaussians(self) -> Gaussians:
        scale = self.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        shape = (self.num_tasks, *self.event_shape)
        return Gaussians(self.loc.view(shape).float(), scale.view(shape).float())

    @property
    def evidence(self) -> Evidence:
        """The sites of all tasks."""
        squares = self.squares if self.infers_noise else None
        return Evidence(self.precision, self.shift, self.counts, squares)

    def weights_prior(self, draw: Tensor | None) -> dist.TorchDistribution:
        """p(w | draw), what the other tasks' sites say, batch shape ``[..., T, 1]``."""
        raise NotImplementedError

    def by_draw(self) -> Moments:
        """q(w) given each of the S draws that are kept, ``[S, T, K, q]``; its mixture is q(w)."""
        raise NotImplementedError

    def noise_by_draw(self) -> Tensor:
        """The variance of a regression's noise in each of them, ``[S, T, K]``; else 1."""
        raise NotImplementedError

    # What moves

    @torch.no_grad()
    def update(
        self,
        batch: Batch,
        encoder: Encoder,
        likelihood: Likelihood,
        last: bool = False,
        held_out: Batch | None = None,
    ) -> None:
        """A step, where the iteration has one: beside an encoder that learns, few have.

        When training beside an encoder ends, more steps close it: sites average over the noise of
        dropout, under which the encoder was trained, with a fifth dropped at least: training makes
        the representations of its own samples plainer than those of others. Where the noise of the
        targets is inferred, these steps have no dropout, whose noise would be taken for theirs.

        The arguments are those of :meth:`WeightsPosterior.update`.
        """
        if not (last or self.loc.is_meta) and int(self.steps) % self.every:
            self.steps += 1
            return
        if not (self.loc.is_meta or int(self.steps)):
            self.start(batch, likelihood, held_out)
        seen = None
        if held_out is not None and self.learns and self.hears_held_out:
            with evaluating(encoder):
                seen = held_out, encoder(held_out.x)
        quiet = last and likelihood.has_noise
        varies = encoder.training and not quiet and encoder.has_dropout
        closes = last and self.learns
        count = _CLOSING_STEPS if closes else 1
        for number in range(count):
            if varies or not number:
                mode = evaluating(encoder) if quiet else contextlib.nullcontext()
                with self.own_noise(), encoder.dropping(_CLOSING_DROPOUT if closes else 0), mode:
                    law = encoder(batch.x)
            rate = 2 / (number + 2) if closes else None  # later steps weigh more in the average
            self.step(batch, law, likelihood, last and number == count - 1, seen, rate)

    def start(self, batch: Batch, likelihood: Likelihood, held_out: Batch | None) -> None:
        """What there is to do before the first step; the arguments are those of :meth:`update`."""

    @torch.no_grad()
    def step(
        self,
        batch: Batch,
        representations: dist.TorchDistribution,
        likelihood: Likelihood,
        last: bool = False,
        held_out: Seen | None = None,
        rate: float | None = None,
    ) -> None:
        """One conjugate step of the sites, and a look at what follows from them.

        :param batch: with a scale that makes it stand for all data.
        :param representations: q(z | x) of its samples.
        :param likelihood: gives the sites; the noise of a regression is handed on to it.
        :param last: see :meth:`look`.
        :param held_out: samples of which the sites, and an encoder, are not to learn.
        :param rate: the share of the way that the sites go; None, by the number of the step.
        """
        if self.loc.is_meta:
            return  # there is nothing to see
        if rate is None:
            step = int(self.steps) // self.every
            exact = step == 0 or likelihood.sites_are_exact
            rate = 1.0 if exact else max(self.rate, min(0.7, 6 / step))
        self._step(batch, representations, likelihood, rate)
        self.look(likelihood, last, None if held_out is None else self.seen(*held_out, likelihood))

    @torch.no_grad()
    def look(
        self, likelihood: Likelihood, last: bool = False, held_out: Evidence | None = None
    ) -> None:
        """Find the posterior anew, given the sites as they are, and count the step.

        The arguments are those of :meth:`find_posterior`.
        """
        self.steps += 1
        self.find_posterior(likelihood, last, held_out)

    def find_posterior(self, likelihood: Likelihood, last: bool, held_out: Evidence | None) -> None:
        """Set ``loc`` and ``covariance`` to the posterior that the sites give.

        :param likelihood: the noise of a regression is handed on to it.
        :param last: whether training ends, so that it may take longer.
        :param held_out: what held-out samples say of weights, for a prior that hears it.
        """
        raise NotImplementedError

    def _step(
        self,
        batch: Batch,
        representations: dist.TorchDistribution,
        likelihood: Likelihood,
        rate: float,
    ) -> None:
        # Before the first step the posterior says nothing that parameters could be fitted to.
        has_stepped = int(self.steps) >= self.every
        own_rate = rate if has_stepped and self.moves_likelihood else 0.0
        self.move(self.seen(batch, representations, likelihood, own_rate), rate)

    def generator(self) -> torch.Generator:
        """Of the draws of the present step, on the CPU."""
        return torch.Generator().manual_seed(int(self.seed) + 7919 * (int(self.steps) - 1))

    @contextlib.contextmanager
    def own_noise(self) -> Iterator[None]:
        """A stream of noise of the present step's own: the caller's is left as it was."""
        device = self.seed.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if not self.seed.is_meta:
                torch.manual_seed(int(self.seed) + int(self.steps))
            yield

    @torch.no_grad()
    def seen(
        self,
        batch: Batch,
        representations: dist.TorchDistribution,
        likelihood: Likelihood,
        rate: float = 0.0,
    ) -> Evidence:
        """What the rows say of the weights at their present posterior: sites, not yet damped.

        :param batch: with a scale that makes it stand for all data.
        :param representations: q(z | x) of its samples.
        :param likelihood: gives the sites.
        :param rate: the share of the way that its own parameters first go to where these rows have
            them.
        """
        # One z, where it is a function of x; else the sites are averaged over some draws of it.
        if isinstance(representations, dist.Delta):
            draws = [representations.mean]
        else:
            with self.own_noise():
                draws = [representations.sample() for _ in range(_DRAWS_OF_Z)]
        precision, shift = torch.zeros_like(self.precision), torch.zeros_like(self.shift)
        weight = batch.weight
        targets = likelihood.standardised(likelihood.filled(batch))
        for number, drawn in enumerate(draws):
            features = with_bias(drawn.double(), self.event_shape[-1])
            loc, variance = self.predictor(features, self.loc[None], self.covariance[None])
            if rate and not number:
                likelihood.update(loc[0], variance[0], targets, weight, rate)
            sites = likelihood.sites if int(self.steps) else likelihood.first_sites
            g, r = sites(loc[0], variance[0], targets)
            g, r = weight * g / len(draws), weight * r / len(draws)
            seen = torch.einsum("tbk,tbi,tbj->tkij", r, features, features)
            precision += seen
            shift += g.mT @ features
            shift += (seen @ self.loc.unsqueeze(-1)).squeeze(-1)
        squares = (weight * targets.square()).sum(1) if self.infers_noise else None
        return Evidence(precision, shift, weight.sum(1).expand_as(self.counts), squares)

    @torch.no_grad()
    def move(self, evidence: Evidence, rate: float) -> None:
        """Let the sites go a share of the way to these."""
        self.precision.lerp_(evidence.precision, rate)
        self.shift.lerp_(evidence.shift, rate)
        self.counts.lerp_(evidence.counts, rate)
        if evidence.squares is not None:
            self.squares.lerp_(evidence.squares, rate)

    def predictor(self, features: Tensor, loc: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of eta = w phi, ``[S, T, B, K]`` each.

        :param features: phi, ``[T, B, q]`` or one for each draw, ``[S, T, B, q]``, the bias's 1
            included.
        :param loc: ``[S, T, K, q]``; ``covariance``: ``[S, T, K, q, q]``.
        """
        wide = features.unsqueeze(-3)  # [..., T, 1, B, q]
        variance = ((wide @ covariance) * wide).sum(-1).mT  # [S, T, B, K]
        return features @ loc.mT, variance.clamp_min(0)
