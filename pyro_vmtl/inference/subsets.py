"""How well samples are predicted where a few tasks are there, as one cluster, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vmtl.data import Batch
from pyro_vmtl.inference.cavities import factors, left_out, over_outputs
from pyro_vmtl.model import VMTL
from pyro_vmtl.model.closed_form import nested_weights
from pyro_vmtl.model.priors.conditionals import Moments
from pyro_vmtl.model.priors.subsets import as_one, own_evidence, typical

__all__ = ["SubsetDensities", "subset_densities"]

_MOST_ENTRIES = 2**22  # of the covariances of a look: 32 MiB


class SubsetDensities(NamedTuple):
    """Of P members of sets.

    :ivar of: the set of each, ``[P]``; ``task``: its position, likewise.
    :ivar log_density: of its samples, ``[P, B]``.
    """

    of: Tensor
    task: Tensor
    log_density: Tensor


@torch.no_grad()
def subset_densities(
    vmtl: VMTL, train: Batch, members: Tensor, heldout: Batch | None = None
) -> Iterator[SubsetDensities]:
    """Log densities of the samples of every task of some sets, a few sets at a time.

    The tasks of a set share a base and no other task is there; scales are the geometric means of
    those drawn, and nothing of the partition is read. Factors of the targets are those beside the
    data of their own task alone.

    :param vmtl: a model with the pool Nested, fitted to ``train``.
    :param members: which tasks each set has, ``[G, T]`` bool.
    :param heldout: samples to predict; None, each of the training samples from all others.
    """
    weights, likelihood = nested_weights(vmtl), vmtl.likelihood
    state, prior = typical(weights.draws), weights.prior
    seen = factors(vmtl, train)
    evidence = own_evidence(
        weights.evidence, prior, state, seen.features, seen.targets, train.observed, likelihood
    )
    alone = torch.eye(vmtl.num_tasks, dtype=torch.bool, device=members.device)
    batch = train if heldout is None else heldout
    scored = factors(vmtl, batch, as_one(evidence, prior, state, alone)[1])
    of_noise = state.noise[0].unsqueeze(1)  # [T, 1, K]
    site = scored.shift / of_noise, scored.precision / of_noise
    if heldout is not None:  # what was not seen is not to be taken out
        site = torch.zeros_like(site[0]), torch.zeros_like(site[1])
    at_once = max(1, _MOST_ENTRIES // (vmtl.num_tasks * weights.covariance[0].numel()))
    for first in range(0, len(members), at_once):
        rows, moments = as_one(evidence, prior, state, members[first : first + at_once])
        of, task = rows.T
        loc, variance = weights.predictor(
            scored.features[task], moments.loc[None], moments.covariance[None]
        )
        own = site[0][task], site[1][task]
        left = Moments(loc[0], variance[0].clamp_min(1e-12))
        if heldout is None:
            left = left_out(*left, *own)
        density = likelihood.log_predictive(*left, scored.targets[task], of_noise[task], own)
        yield SubsetDensities(of + first, task, over_outputs(density, batch.observed[task]))
