r"""Hidden clusters of tasks, inferred from what each task's own data said.

Task i's data enter as Gaussian evidence on its weights, :math:`\exp(h_i w - \lambda_i w^2 / 2)`.
Tasks of one cluster share a centre: :math:`w_i = \rho\,c_k + s\,\epsilon_i` with
:math:`\rho = \sqrt{1 - s^2}` and :math:`c_k, \epsilon_i` standard normal. Every task by itself is
N(0, I), as without sharing; two tasks of a cluster correlate by :math:`1 - s^2`; at s = 1 nobody
shares. Partitions have a Dirichlet process's prior. All is diagonal and Gaussian, so centres and
weights integrate out, and partitions and s are drawn by Gibbs sampling.
"""

import math
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

from pyro_vmtl.distributions.gaussians import Gaussians

__all__ = [
    "SPREADS",
    "Evidence",
    "Partitions",
    "Relatives",
    "evidence_of",
    "pooled_prior",
    "sample_partitions",
]

SPREADS = (0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 1.0)
"""The values of s that are tried, equally likely beforehand."""


class Evidence(NamedTuple):
    """What each task's data said of its weights, beyond N(0, I); float64.

    :ivar shift: h, the precision times the location, ``[T, P]``.
    :ivar precision: lambda >= 0, ``[T, P]``.
    """

    shift: Tensor
    precision: Tensor


class Partitions(NamedTuple):
    """Draws of which tasks belong together, and how closely.

    :ivar labels: the cluster of each task, ``[S, T]`` int64.
    :ivar spread: s of each draw, ``[S]`` float64.
    """

    labels: Tensor
    spread: Tensor

    def together(self) -> Tensor:
        """1 where two tasks share a cluster, a task with itself included, ``[S, T, T]``."""
        return (self.labels.unsqueeze(-1) == self.labels.unsqueeze(-2)).double()


def evidence_of(posteriors: Gaussians, share: float = 1.0) -> Evidence:
    """The evidence that turned N(0, I) into these posteriors.

    :param posteriors: of the T tasks, each from its own data alone, ``[T, *event]``.
    :param share: of the evidence to take. Under a KL weight of 0.1 the data counted ten times, and
        a tenth is what they said once.
    """
    loc, scale = (x.double().flatten(1) for x in posteriors)
    precision = scale.square().reciprocal()
    added = (precision - 1).clamp_min(0)
    shift = torch.where(added > 0, loc * precision, torch.zeros_like(loc))
    return Evidence(share * shift, share * added)


def _of_centre(evidence: Evidence, spread: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Evidence on the weights, as evidence on a cluster's centre; and its constant.

    :param spread: s, ``[S]``.
    :return: shift and precision ``[S, T, P]``, and the log of what does not depend on the centre,
        ``[S, T]``.
    """
    shift, precision = evidence
    variance = spread.square()[:, None, None]
    widened = 1 + variance * precision
    correlation = (1 - variance).clamp_min(0)
    constant = -0.5 * (widened.log() - variance * shift.square() / widened).sum(-1)
    return correlation.sqrt() * shift / widened, correlation * precision / widened, constant


def _log_evidence(shift: Tensor, precision: Tensor) -> Tensor:
    """log of the integral of exp(shift c - precision c^2 / 2) under c ~ N(0, 1), summed over P."""
    total = 1 + precision
    return 0.5 * (shift.square() / total - total.log()).sum(-1)


@torch.no_grad()
def sample_partitions(
    evidence: Evidence,
    start: Partitions,
    sweeps: int,
    keep: int = 1,
    concentration: float = 1.0,
    generator: torch.Generator | None = None,
    known: bool = False,
) -> tuple[Partitions, Partitions]:
    """Gibbs sampling of the partition and s, several chains side by side.

    A sweep draws each task's cluster given the others (a cluster of its own included), then s.

    :param evidence: of the T tasks.
    :param start: where the chains stand.
    :param sweeps: how many to make.
    :param keep: of how many of the last sweeps the draws are returned.
    :param concentration: of the Dirichlet process; more makes lone tasks likelier.
    :param generator: of the noise, on the evidence's device.
    :param known: the partition is known: only s is drawn.
    :return: the draws kept, chains of the same sweep together, and where the chains stand now.
    """
    labels, spread = start.labels.clone(), start.spread.clone()
    grid = torch.tensor(SPREADS, dtype=torch.float64, device=labels.device)
    tried = _of_centre(evidence, grid)
    kept: list[Partitions] = []
    for sweep in range(sweeps):
        if not known:
            at = torch.searchsorted(grid, spread - 1e-9)
            labels = _sweep(labels, tried[0][at], tried[1][at], concentration, generator)
        spread = grid[_draw_spread(tried, labels, generator)]
        if sweep >= sweeps - keep:
            kept.append(Partitions(labels.clone(), spread.clone()))
    draws = Partitions(torch.cat([d.labels for d in kept]), torch.cat([d.spread for d in kept]))
    return draws, Partitions(labels, spread)


def _sweep(
    labels: Tensor,
    shift: Tensor,
    precision: Tensor,
    concentration: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Draw every task's cluster once, given the others, in each chain."""
    labels, slots = _compact(labels)
    row = torch.arange(len(labels), device=labels.device)
    member = torch.nn.functional.one_hot(labels, slots).double().mT  # [chains, slots, T]
    shifts, precisions = member @ shift, member @ precision
    counts = member.sum(-1)
    for t in torch.randperm(labels.shape[1], generator=generator, device=labels.device).tolist():
        own = labels[:, t]
        shifts[row, own] -= shift[:, t]
        precisions[row, own] -= precision[:, t]
        counts[row, own] -= 1
        joined = _log_evidence(
            shifts + shift[:, t].unsqueeze(1), precisions + precision[:, t].unsqueeze(1)
        )
        gain = joined - _log_evidence(shifts, precisions)
        empty = counts < 0.5
        new = concentration / empty.sum(-1, keepdim=True)
        prior = torch.where(empty, new, counts).log()
        chance = (gain + prior).softmax(-1)
        own = torch.multinomial(chance, 1, generator=generator).squeeze(-1)
        labels[:, t] = own
        shifts[row, own] += shift[:, t]
        precisions[row, own] += precision[:, t]
        counts[row, own] += 1
    return labels


def _compact(labels: Tensor) -> tuple[Tensor, int]:
    """The same clusters numbered from 0; and how many slots, with room for some new ones."""
    chains, num_tasks = labels.shape
    used = torch.zeros(chains, num_tasks + 1, dtype=torch.long, device=labels.device)
    used.scatter_(1, labels, 1)
    number = used.cumsum(-1) - 1
    return number.gather(1, labels), min(num_tasks, int(number.max()) + 9)


def _draw_spread(
    tried: tuple[Tensor, Tensor, Tensor], labels: Tensor, generator: torch.Generator | None
) -> Tensor:
    """An index into the grid of s for every chain, given its clusters."""
    compact, slots = _compact(labels)
    member = torch.nn.functional.one_hot(compact, slots).double().mT.unsqueeze(1)
    shift, precision, constant = tried
    joint = _log_evidence(member @ shift, member @ precision).sum(-1) + constant.sum(-1)
    return torch.multinomial(joint.softmax(-1), 1, generator=generator).squeeze(-1)


def pooled_prior(evidence: Evidence, partitions: Partitions) -> Gaussians:
    """What the other tasks say of each task's weights, averaged over partitions.

    For one partition it is Gaussian: the centre of the task's cluster given the evidence of its
    other members, plus the spread. The average over draws is matched in mean and variance, so that
    what the partitions disagree about widens the prior.

    :return: ``loc`` and ``scale`` of ``[T, P]``, float64.
    """
    shift, precision, _ = _of_centre(evidence, partitions.spread)
    others = partitions.together()
    others = others - torch.eye(others.shape[-1], dtype=torch.float64, device=others.device)
    variance = partitions.spread.square()[:, None, None]
    correlation = 1 - variance
    total = 1 + others @ precision
    loc = correlation.sqrt() * (others @ shift) / total
    spread = correlation / total + variance
    mean = loc.mean(0)
    return Gaussians(mean, (spread.mean(0) + (loc - mean).square().mean(0)).sqrt())


class Relatives(dist.TorchDistribution):
    """Which other tasks share a task's cluster: the empirical law of draws of partitions.

    A draw is one partition, the same for all tasks: row t says 1 for the relatives of task t.

    :param rows: ``[S, T, 1, L]`` of zeros and ones, for S draws of partitions.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.boolean, 1)
    has_rsample = True  # it has no parameters, so its draws owe no gradient

    def __init__(self, rows: Tensor, validate_args: bool | None = None) -> None:
        self.rows = rows
        super().__init__(rows.shape[1:-1], rows.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "Relatives":
        new = self._get_checked_instance(Relatives, _instance)
        new.rows = self.rows
        shape = torch.Size(batch_shape)
        super(Relatives, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The chance that each is a relative, ``[*batch, L]``."""
        return self.rows.mean(0).expand(*self.batch_shape, *self.event_shape)

    @property
    def probs(self) -> Tensor:
        """The same as :attr:`mean`."""
        return self.mean

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:
        """Rows of drawn partitions, ``[*sample, *batch, L]``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        own = self.rows.dim() - 1  # the dimensions of one partition
        lead = shape[: len(shape) - own]
        picked = torch.randint(len(self.rows), (math.prod(lead),), device=self.rows.device)
        return self.rows[picked].reshape(*lead, *self.rows.shape[1:]).expand(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log of the share of draws with this row, ``[*sample, *batch]``; -inf for none."""
        rows = self.rows.reshape(len(self.rows), *(1,) * (value.dim() - 3), *self.rows.shape[1:])
        return (rows == value).all(-1).double().mean(0).log()
