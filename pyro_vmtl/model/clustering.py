"""Borrowing through hidden clusters: a task's prior is what its relatives' own data say of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vmtl.distributions import (
    Gaussians,
    Partitions,
    Relatives,
    chance_of_relatives,
    evidence_of,
    pooled_prior,
    sample_partitions,
)
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.borrowing import Borrowing
from pyro_vmtl.model.pools import Pool

__all__ = ["Clustered", "ClusteredBorrowing"]

_CHAINS, _SWEEPS, _KEPT = 8, 5, 4


class ClusteredBorrowing(Borrowing):
    """Draws of partitions of the tasks, kept up with the lenders during training.

    There are no logits to learn: after every ``refresh_every`` training steps, and at the end of an
    epoch, some sweeps of Gibbs sampling go on from where the chains stand, given what the lenders'
    data say by now. The
    relatedness sites hold rows of zeros and ones, the relatives of each task in one partition.

    :ivar labels: draws of the clusters, ``[S, T]``, chains of a sweep together.
    :ivar spreads: s of each draw, ``[S]``; likewise ``scales``, tau, and ``factors``, kappa.
    """

    pool: Clustered
    labels: Tensor
    spreads: Tensor
    steps: Tensor
    prior_loc: Tensor
    prior_scale: Tensor
    scales: Tensor
    factors: Tensor
    of_chains: Tensor
    refresh_every = 50
    names_of_draws = ("labels", "spreads", "scales", "factors")

    def _add_slots(self) -> None:
        super()._add_slots()
        del self.logits
        self.empirical_bayes = True  # the same draws in model and guide: the site is masked
        start = torch.arange(self.num_tasks)
        if self.pool.known is not None:
            if len(self.pool.known) != self.num_tasks:
                raise InputError(
                    f"known gives the clusters of {len(self.pool.known)} tasks; expected "
                    f"{self.num_tasks}"
                )
            start = torch.tensor(self.pool.known).unique(return_inverse=True)[1]
        count = _CHAINS * _KEPT
        # Until the lenders have learned something, nobody borrows.
        draws = Partitions.at_start(start.repeat(count, 1))
        for name, values in zip(self.names_of_draws, draws, strict=True):
            self.register_buffer(name, values)
        # s, tau and kappa where the chains of partitions stand: they are not those of the lending.
        self.register_buffer("of_chains", torch.stack(draws[1:])[:, -_CHAINS:].clone())
        self.register_buffer("steps", torch.tensor(0))
        shape = (self.num_tasks, *self.event_shape)
        self.register_buffer("prior_loc", torch.zeros(shape))
        self.register_buffer("prior_scale", torch.ones(shape))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        labels = state_dict.get(f"{prefix}labels")
        if isinstance(labels, Tensor) and labels.dim() == 2:
            # Models of earlier versions hold another number of draws, and took evidence at its
            # word: tau and kappa, which they lack, were 1.
            for name in ("scales", "factors"):
                one = torch.ones(len(labels), dtype=torch.float64)
                state_dict.setdefault(f"{prefix}{name}", one)
            for name in self.names_of_draws:
                buffer = getattr(self, name)
                buffer.resize_(len(labels), *buffer.shape[1:])
            state_dict.setdefault(f"{prefix}of_chains", self.of_chains)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def spread(self) -> Tensor:
        """The mean of s over the draws."""
        return self.spreads.mean()

    @property
    def partitions(self) -> Partitions:
        """The draws of partitions."""
        return Partitions(*(getattr(self, name) for name in self.names_of_draws))

    def chance_before_data(self) -> float:
        return chance_of_relatives(self.pool.concentration)

    def relatedness_posterior(self) -> dist.TorchDistribution:
        return Relatives(self.labels)

    def relatedness_prior(self) -> dist.TorchDistribution:
        return self.relatedness_posterior()

    @torch.no_grad()
    def update(
        self, lenders: Gaussians | None, moments: Tensor | None = None, last: bool = False
    ) -> None:
        """Go on sampling partitions where it is due, and pool the lenders anew."""
        self.steps += 1
        if lenders is None or lenders.loc.is_meta:
            return  # there is nothing to see
        steps = int(self.steps)
        if steps % self.refresh_every and not last:
            return
        evidence = evidence_of(lenders)
        if not all(x.isfinite().all() for x in evidence):
            return  # training has diverged; the loss says so in a sentence
        generator = torch.Generator(device=lenders.loc.device)
        generator.manual_seed(steps)  # so that a resumed run repeats
        here = Partitions(self.labels[-_CHAINS:], *self.of_chains)
        known = self.pool.known is not None
        # Moments are for finding out who belongs together.
        moments = None if known or moments is None else moments.double()
        draws, here = sample_partitions(
            evidence,
            here,
            _SWEEPS,
            _KEPT,
            self.pool.concentration,
            generator,
            known=known,
            moments=moments,
        )
        self.of_chains.copy_(torch.stack(here[1:]))
        if moments is not None:
            # Lent is each weight's evidence by itself, with parameters that fit such evidence.
            at = (values[-_CHAINS:].repeat(_KEPT) for values in self.partitions[1:])
            draws, _ = sample_partitions(
                evidence,
                Partitions(draws.labels, *at),
                2 * _SWEEPS,
                generator=generator,
                known=True,
            )
        for name, values in zip(self.names_of_draws, draws, strict=True):
            getattr(self, name).resize_(values.shape).copy_(values)
        pooled = pooled_prior(evidence, draws)
        self.prior_loc.copy_(pooled.loc.view_as(self.prior_loc))
        self.prior_scale.copy_(pooled.scale.view_as(self.prior_scale))

    def prior(
        self,
        draw: Tensor,
        lenders: Gaussians,
        present: Tensor | None = None,
    ) -> dist.Independent:
        """What the lenders said at the last look, averaged over partitions: not over one draw."""
        loc, scale = self.prior_loc.unsqueeze(1), self.prior_scale.unsqueeze(1)
        return dist.Normal(loc, scale).to_event(self.event_dim)


class Clustered(Pool):
    r"""Hidden clusters: evidence adds up within a cluster, the borrower's own left out.

    Tasks of one cluster correlate by :math:`1 - s^2`; a task that is alone has N(0, tau^2 I), tau
    being the scale of all weights. Clusters, s and tau have a posterior given the lenders' evidence
    (:mod:`pyro_vmtl.distributions.partition`), and the prior of a task is the average over it:
    where the data do not say who belongs together, little is borrowed. T tasks pay for T choices of
    a cluster, not for T (T - 1) weights.

    It needs lenders that say what each task's own data said (``Anchored``). The relatedness of a
    pair is the chance that the two share a cluster.

    :param concentration: of the Dirichlet process over partitions; more makes lone tasks likelier.
    :param known: the cluster of each task, where it is known; then only s, the scale of the weights
        and that of the noise are inferred.
    """

    kind = "clusters"
    needs_own_evidence = True

    def __init__(self, concentration: float = 1.0, known: Sequence[int] | None = None) -> None:
        if not 0 < concentration < math.inf:
            raise InputError(
                f"the pool's concentration is {concentration}; expected above 0 and finite"
            )
        super().__init__()
        self.concentration = concentration
        try:
            self.known = None if known is None else [index(k) for k in known]
        except TypeError as error:
            raise InputError(
                f"the pool's known is {known!r}; expected the number of each task's cluster, such "
                "as [0, 0, 1]"
            ) from error

    def __repr__(self) -> str:
        known = "" if self.known is None else f", known={self.known}"
        return f"Clustered(concentration={self.concentration}{known})"
