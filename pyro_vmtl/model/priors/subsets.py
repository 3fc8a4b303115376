"""What a few tasks say of each other where they alone are there, as one cluster or each by itself.

Nothing here reads the partition. Alone, a task has w_t ~ N(0, A + B + V); tasks that are together
share the base m + c ~ N(0, A + B), and each has a deviation of its own, e_t ~ N(0, V).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from pyro_vmtl.model.likelihoods import Likelihood
from pyro_vmtl.model.priors.gibbs import (
    Evidence,
    Hyperpriors,
    Moments,
    Sites,
    State,
    mean_variance,
    spread,
)
from pyro_vmtl.model.priors.joining import Candidates

__all__ = ["as_one", "own_evidence", "typical"]


def typical(draws: State) -> State:
    """One state with the geometric means of the scales of all draws, and no partition to speak of.

    :return: with S = 1 and every task in one cluster.
    """

    def mean(name: str) -> Tensor:
        value: Tensor = getattr(draws, name)
        if name == "labels":
            return torch.zeros_like(value[:1])
        out = value.clamp_min(1e-30).log().mean(0, keepdim=True).exp()
        return torch.where(out > 1e-29, out, torch.zeros_like(out))  # B is 0 without clusters

    return State(**{field.name: mean(field.name) for field in dataclasses.fields(State)})


def own_evidence(
    evidence: Evidence,
    prior: Hyperpriors,
    state: State,
    features: Tensor,
    targets: Tensor,
    observed: Tensor,
    likelihood: Likelihood,
) -> Evidence:
    """The site of every task where its own data alone are there, w_t ~ N(0, A + B + V).

    A Gaussian likelihood's sites are the same beside whatever else is known, and are returned as
    they are. Others are expanded where the posterior lies, which the other tasks have moved.

    :param evidence: the sites beside all other tasks; ``state``: of S = 1.
    :param features: phi, ``[T, B, q]``; ``targets``: of :meth:`Likelihood.standardised`.
    :param observed: which outputs are known, ``[T, B, K]``, or ``[T, B, 1]`` of all or none.
    """
    if likelihood.sites_are_exact:
        return evidence
    total = mean_variance(prior, state) + state.cluster[:, None, None]
    total = total + spread(state.deviation, prior.groups)[:, None]
    weights = Moments(torch.zeros_like(total), total.diag_embed())
    one = torch.zeros_like(total[:, 0, :1])
    alone = Candidates(state, one, weights, one[:, 0], one[:, 0])
    sites = [
        alone.site(
            features[None, task, seen], targets[task, seen], observed[task, seen], likelihood
        )
        for task, seen in enumerate(observed.any(-1))
    ]
    precision, shift = (torch.cat([getattr(site, name) for site in sites]) for name in _PARTS)
    return dataclasses.replace(evidence, precision=precision, shift=shift)


_PARTS = ("precision", "shift")


def as_one(
    evidence: Evidence, prior: Hyperpriors, state: State, members: Tensor
) -> tuple[Tensor, Moments]:
    """The weights of the tasks of some sets, were each set one cluster and no other task there.

    :param state: of S = 1.
    :param members: which tasks each set has, ``[G, T]`` bool.
    :return: the set and the task of each of P members, ``[P, 2]``, and their weights,
        ``[P, K, q]``.
    """
    sites = Sites(evidence, prior, state)
    which = members.to(sites.shift)
    precision = torch.einsum("gt,tkij->gkij", which, sites.of_base[0])
    shift = torch.einsum("gt,tki->gki", which, sites.shift_of_base[0])
    sd = (mean_variance(prior, state) + state.cluster[:, None, None]).sqrt()  # [1, K, q]
    inner = sd.unsqueeze(-1) * precision * sd.unsqueeze(-2)
    inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
    half = torch.linalg.solve_triangular(
        torch.linalg.cholesky(inner), sd.diag_embed().expand_as(inner), upper=False
    )
    covariance = half.mT @ half
    loc = (covariance @ shift.unsqueeze(-1)).squeeze(-1)
    rows = members.nonzero()
    of, task = rows.T
    own = sites.own_covariance()[0]
    keep = torch.eye(own.shape[-1], dtype=own.dtype, device=own.device) - own @ sites.precision[0]
    apart = (own @ sites.shift[0].unsqueeze(-1)).squeeze(-1)[task]
    keep = keep[task]
    loc = apart + (keep @ loc[of].unsqueeze(-1)).squeeze(-1)
    return rows, Moments(loc, own[task] + keep @ covariance[of] @ keep.mT)
