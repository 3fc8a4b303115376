r"""Hidden clusters of tasks, inferred from what each task's own data said.

Task i's data enter as Gaussian evidence on its weights, :math:`\exp(h_i w - \lambda_i w^2 / 2)`.
Tasks of one cluster share a centre: :math:`w_i = \tau (\rho\,c_k + s\,\epsilon_i)` with
:math:`\rho = \sqrt{1 - s^2}` and :math:`c_k, \epsilon_i` standard normal. Two tasks of a cluster
correlate by :math:`1 - s^2`. Partitions have a Dirichlet process's prior, its
concentration being inferred as well.

What tells relatives from strangers is how far the tasks' estimates :math:`h_i / \lambda_i` scatter,
within a cluster and beyond. Under N(0, I) with noise of variance :math:`1 / \lambda` they would
scatter by :math:`\sqrt{1 + 1 / \lambda}`; weights on top of a learned encoder scatter far less, and
taken at their word they would agree, all of them, whatever the tasks. So two more things are
inferred: the scale :math:`\tau` of the weights, and how much smaller than said the noise is, a
factor :math:`\kappa \geq 1` on the evidence. (Less than 1 would explain strangers as noise.)

All is Gaussian, so centres and weights integrate out; partitions are drawn by Gibbs
sampling, and s, :math:`\tau` and :math:`\kappa` by Metropolis steps on grids.
"""

import math
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import pad
from torch.types import _size

from pyro_vmtl.distributions.evidence import (
    Blocks,
    Evidence,
    blocks_of,
    log_evidence,
    of_centre,
)
from pyro_vmtl.distributions.gaussians import Gaussians

__all__ = [
    "FACTORS",
    "SCALES",
    "SPREADS",
    "Partitions",
    "Relatives",
    "chance_of_relatives",
    "pooled_prior",
    "sample_partitions",
]

SPREADS = (0.1, 0.2, 0.3, 0.45, 0.6, 0.75)
"""The values of s that are tried, equally likely beforehand.

They end where tasks of a cluster correlate by 0.44: less would be a cluster of strangers, and to
share one would mean nothing.
"""


SCALES = tuple(2.0 ** (k / 2) for k in range(-16, 5))
"""The values of tau that are tried; its logarithm has a normal prior around 0, sd log 2."""

FACTORS = tuple(2.0**k for k in (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8))
"""The values of kappa that are tried, with a prior of 1 / kappa each."""

_MULTIPLES = (0.25, 1.0, 4.0, 16.0)  # of the concentration, equally likely

_ROOM = 8  # slots for new clusters beside those that there are

_PIECE = 2**22  # numbers of S draws, T tasks and some entries that are held at once: 32 MB


class Partitions(NamedTuple):
    """Draws of which tasks belong together, and how closely.

    :ivar labels: the cluster of each task, ``[S, T]`` int64.
    :ivar spread: s of each draw, ``[S]`` float64.
    :ivar scale: tau of each draw, ``[S]`` float64.
    :ivar factor: kappa of each draw, ``[S]`` float64.
    """

    labels: Tensor
    spread: Tensor
    scale: Tensor
    factor: Tensor

    @classmethod
    def at_start(cls, labels: Tensor) -> "Partitions":
        """Draws before anything was seen: evidence is taken at its word.

        :param labels: ``[S, T]``.
        """
        one = torch.ones(len(labels), dtype=torch.float64, device=labels.device)
        return cls(labels, SPREADS[-1] * one, one, one.clone())

    def together(self) -> Tensor:
        """1 where two tasks share a cluster, a task with itself included, ``[S, T, T]``."""
        return (self.labels.unsqueeze(-1) == self.labels.unsqueeze(-2)).double()


def chance_of_relatives(concentration: float) -> float:
    """That two tasks share a cluster, as long as nothing is known of any.

    1 / (1 + c) under a Dirichlet process of concentration c, averaged over its multiples.
    """
    return sum(1 / (1 + concentration * multiple) for multiple in _MULTIPLES) / len(_MULTIPLES)


@torch.no_grad()
def sample_partitions(
    evidence: Evidence,
    start: Partitions,
    sweeps: int,
    keep: int = 1,
    concentration: float = 1.0,
    generator: torch.Generator | None = None,
    known: bool = False,
    moments: Tensor | None = None,
) -> tuple[Partitions, Partitions]:
    """Gibbs sampling of the partition and its parameters, several chains side by side.

    A sweep draws each task's cluster given the others (a cluster of its own included), proposes to
    split or merge clusters, and takes a Metropolis step each of s, tau and kappa.

    :param evidence: of the T tasks.
    :param start: where the chains stand.
    :param sweeps: how many to make.
    :param keep: of how many of the last sweeps the draws are returned.
    :param concentration: of the Dirichlet process; more makes lone tasks likelier. A quarter of it
        and 4 and 16 times as much are tried as well, so that many lone tasks are no surprise.
    :param generator: of the noise, on the evidence's device.
    :param known: the partition is known: only its parameters are drawn.
    :param moments: second moments of what the weights are applied to, ``[T, q, q]``, the bias's 1
        included, for weights of ``[T, outputs, q]``: the data of a task measure combinations of
        weights, fewer than there are weights where samples are few. None: each weight was measured
        by itself, as a mean-field posterior has it.
    :return: the draws kept, chains of the same sweep together, and where the chains stand now.
    """
    labels = start.labels.clone()
    blocks = blocks_of(evidence, moments)
    grids = [_grid(values, labels) for values in (SPREADS, SCALES, FACTORS)]
    places = [  # the nearest: a chain of an earlier version may stand where no value is tried now
        (values.unsqueeze(-1) - grid).abs().argmin(-1)
        for grid, values in zip(grids, start[1:], strict=True)
    ]
    kept: list[Partitions] = []
    for sweep in range(sweeps):
        if not known:
            values = (grid[place] for grid, place in zip(grids, places, strict=True))
            shift, precision, _ = of_centre(blocks.shift, blocks.precision, *values)
            shift, precision = blocks.to_common(shift, precision)
            alpha = _draw_concentration(labels, concentration, generator)
            labels = _sweep(labels, shift, precision, alpha, generator)
            labels = _split_or_merge(labels, shift, precision, alpha, generator)
        places = _draw_parameters(blocks, labels, grids, places, generator)
        if sweep >= sweeps - keep:
            kept.append(_here(labels, grids, places))
    draws = Partitions(*(torch.cat(parts) for parts in zip(*kept, strict=True)))
    return draws, _here(labels, grids, places)


def _grid(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)


def _here(labels: Tensor, grids: list[Tensor], places: list[Tensor]) -> Partitions:
    values = (grid[place] for grid, place in zip(grids, places, strict=True))
    return Partitions(labels.clone(), *values)


def _draw_concentration(
    labels: Tensor, concentration: float, generator: torch.Generator | None
) -> Tensor:
    """A multiple of the concentration for every chain, given how many clusters there are."""
    num_tasks = labels.shape[1]
    grid = concentration * _grid(_MULTIPLES, labels)
    count = _compact(labels)[0].amax(-1, keepdim=True) + 1
    log_chance = count * grid.log() + grid.lgamma() - (grid + num_tasks).lgamma()
    return grid[torch.multinomial(log_chance.softmax(-1), 1, generator=generator).squeeze(-1)]


def _of_clusters(member: Tensor, values: Tensor) -> Tensor:
    """Sums over the members of each slot, ``[S, slots, *P]``.

    :param member: ``[S, slots, T]``.
    :param values: ``[S, T, *P]``.
    """
    return (member @ values.flatten(2)).view(*member.shape[:2], *values.shape[2:])


def _sweep(
    labels: Tensor,
    shift: Tensor,
    precision: Tensor,
    concentration: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Draw every task's cluster once, given the others, in each chain."""
    labels, slots = _compact(labels)
    num_tasks = labels.shape[1]
    row = torch.arange(len(labels), device=labels.device)
    member = torch.nn.functional.one_hot(labels, slots).double().mT  # [chains, slots, T]
    shifts, precisions = (_of_clusters(member, x) for x in (shift, precision))
    counts = member.sum(-1)
    apart = log_evidence(shifts, precisions)  # of each slot, kept up with its members
    spare = _ROOM  # so many slots are empty in every chain, at least: a task takes one at most
    for t in torch.randperm(num_tasks, generator=generator, device=labels.device).tolist():
        if slots < num_tasks:
            if spare == 0:
                spare = int((counts < 0.5).sum(-1).min())
            if spare == 0:  # a full table would keep tasks together
                spare = min(_ROOM, num_tasks - slots)
                slots += spare
                shifts, precisions, counts, apart = (
                    pad(x, (*(0, 0) * (x.dim() - 2), 0, spare))
                    for x in (shifts, precisions, counts, apart)
                )
            spare -= 1
        own = labels[:, t]
        shifts[row, own] -= shift[:, t]
        precisions[row, own] -= precision[:, t]
        counts[row, own] -= 1
        apart[row, own] = log_evidence(shifts[row, own], precisions[row, own])
        joined = log_evidence(
            shifts + shift[:, t].unsqueeze(1), precisions + precision[:, t].unsqueeze(1)
        )
        gain = joined - apart
        empty = counts < 0.5
        new = concentration.unsqueeze(-1) / empty.sum(-1, keepdim=True)
        prior = torch.where(empty, new, counts).log()
        chance = (gain + prior).softmax(-1)
        own = torch.multinomial(chance, 1, generator=generator).squeeze(-1)
        labels[:, t] = own
        shifts[row, own] += shift[:, t]
        precisions[row, own] += precision[:, t]
        counts[row, own] += 1
        apart[row, own] = joined[row, own]
    return labels


def _split_or_merge(
    labels: Tensor,
    shift: Tensor,
    precision: Tensor,
    concentration: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Propose to split a cluster in two, or to merge two, in each chain.

    One task at a time does not leave a cluster that it shares with the wrong half of another: two
    tasks are drawn, and where they share a cluster its other members are dealt to them in turn, by
    what they say; where they do not, their clusters are proposed to become one (sequentially
    allocated merge-split; Dahl 2003, with the acceptance probability of Metropolis and Hastings).
    """
    chains, num_tasks = labels.shape
    if num_tasks < 2:
        return labels
    labels, _ = _compact(labels)
    row, device = torch.arange(chains, device=labels.device), labels.device
    first, shift_by = (
        torch.randint(0, below, (chains,), generator=generator, device=device)
        for below in (num_tasks, num_tasks - 1)
    )
    pair = torch.stack([first, (first + 1 + shift_by) % num_tasks], 1)  # [chains, 2]
    clusters = labels.gather(1, pair)
    is_split = clusters[:, 0] == clusters[:, 1]
    in_second = labels == clusters[:, 1:]
    involved = in_second | (labels == clusters[:, :1])
    shifts, precisions = shift[row[:, None], pair], precision[row[:, None], pair]
    apart, counts = log_evidence(shifts, precisions), torch.ones_like(pair).double()
    side = torch.zeros_like(labels).scatter_(1, pair[:, 1:], 1)
    log_chance = torch.zeros(chains, dtype=torch.float64, device=device)
    for t in torch.randperm(num_tasks, generator=generator, device=device).tolist():
        dealt = involved[:, t] & (pair != t).all(1)
        joined = log_evidence(
            shifts + shift[:, t].unsqueeze(1), precisions + precision[:, t].unsqueeze(1)
        )
        log_chances = (joined - apart + counts.log()).log_softmax(-1)
        drawn = torch.multinomial(log_chances.exp(), 1, generator=generator).squeeze(-1)
        to = torch.where(is_split, drawn, in_second[:, t].long())
        log_chance += torch.where(dealt, log_chances[row, to], 0.0)
        gets = torch.nn.functional.one_hot(to, 2).double() * dealt.unsqueeze(-1)
        shifts = shifts + gets[..., None, None] * shift[:, t].unsqueeze(1)
        precisions = precisions + gets[..., None, None, None] * precision[:, t].unsqueeze(1)
        apart = torch.where(gets > 0, joined, apart)
        counts = counts + gets
        side[:, t] = torch.where(dealt, to, side[:, t])
    two = concentration.log() + counts.lgamma().sum(-1) + apart.sum(-1)
    one = counts.sum(-1).lgamma() + log_evidence(shifts.sum(1), precisions.sum(1))
    gain = two - one - log_chance
    gain = torch.where(is_split, gain, -gain)
    split = torch.where(involved & (side == 1), num_tasks, labels)
    merged = torch.where(in_second, clusters[:, :1], labels)
    proposed = torch.where(is_split.unsqueeze(-1), split, merged)
    noise = torch.rand(chains, generator=generator, device=device).double()
    return torch.where((noise.log() < gain).unsqueeze(-1), proposed, labels)


def _compact(labels: Tensor, room: int = _ROOM) -> tuple[Tensor, int]:
    """The same clusters numbered from 0; and how many slots, with room for some new ones."""
    chains, num_tasks = labels.shape
    used = torch.zeros(chains, num_tasks + 1, dtype=torch.long, device=labels.device)
    used.scatter_(1, labels, 1)
    number = used.cumsum(-1) - 1
    return number.gather(1, labels), min(num_tasks, int(number.max()) + 1 + room)


def _draw_parameters(
    blocks: Blocks,
    labels: Tensor,
    grids: list[Tensor],
    places: list[Tensor],
    generator: torch.Generator | None,
) -> list[Tensor]:
    """Places in the grids of s, tau and kappa for every chain, given its clusters."""
    compact, slots = _compact(labels, room=0)
    member = torch.nn.functional.one_hot(compact, slots).double().mT

    def joint_at(places: list[Tensor]) -> Tensor:
        values = (grid[place] for grid, place in zip(grids, places, strict=True))
        return _log_joint(blocks, member, *values)

    def draw(below: int) -> Tensor:
        shape, device = labels.shape[:1], labels.device
        return torch.randint(0, below, shape, generator=generator, device=device)

    here = joint_at(places)
    for moved, grid in enumerate(grids):
        if moved == 0:  # s goes anywhere else, tau and kappa up or down by at most three places
            there = (places[0] + 1 + draw(len(grid) - 1)) % len(grid)
        else:
            there = places[moved] + (2 * draw(2) - 1) * (1 + draw(3))
        inside = (there >= 0) & (there < len(grid))
        proposed = [*places[:moved], there.clamp(0, len(grid) - 1), *places[moved + 1 :]]
        joint = joint_at(proposed)
        noise = torch.rand(here.shape, generator=generator, device=here.device).double()
        taken = inside & (noise.log() < joint - here)
        here = torch.where(taken, joint, here)
        places = [torch.where(taken, new, old) for new, old in zip(proposed, places, strict=True)]
    return places


def _log_joint(
    blocks: Blocks, member: Tensor, spread: Tensor, scale: Tensor, factor: Tensor
) -> Tensor:
    """log density of the estimates and the parameters given the clusters, up to a constant.

    :param member: ``[S, slots, T]``, 1 for the members of each cluster.
    :param spread: ``[S]``, as the others.
    :return: ``[S]``.
    """
    shift, precision, constant = of_centre(blocks.shift, blocks.precision, spread, scale, factor)
    turned = blocks.to_common(shift, precision)
    shifts, precisions = (_of_clusters(member, x) for x in turned)
    joint = log_evidence(shifts, precisions).sum(-1) + constant.sum(-1)
    # exp(kappa (h w - lambda w^2 / 2)) as a density of the estimate h / lambda.
    said = blocks.precision > 0
    estimates = torch.where(said, blocks.shift.square() / blocks.precision, 0.0).sum()
    joint = joint + 0.5 * (said.sum() * factor.log() - factor * estimates)
    return joint - 0.5 * (scale.log() / math.log(2)).square() - factor.log()


def pooled_prior(evidence: Evidence, partitions: Partitions) -> Gaussians:
    """What the other tasks say of each task's weights, averaged over partitions.

    For one partition it is Gaussian: the centre of the task's cluster given the evidence of its
    other members, plus the spread. The average over draws is matched in mean and variance, so that
    what the partitions disagree about widens the prior.

    :return: ``loc`` and ``scale`` of ``[T, P]``, float64.
    """
    others = partitions.together()
    others = others - torch.eye(others.shape[-1], dtype=torch.float64, device=others.device)
    # Entries have nothing to do with each other, and S draws of all at once may not fit in memory.
    size = max(1, _PIECE // partitions.labels.numel())
    pieces = (Evidence(*parts) for parts in zip(*(x.split(size, 1) for x in evidence), strict=True))
    priors = [_prior_given_others(piece, others, partitions) for piece in pieces]
    return Gaussians(*(torch.cat(parts, 1) for parts in zip(*priors, strict=True)))


def _prior_given_others(evidence: Evidence, others: Tensor, partitions: Partitions) -> Gaussians:
    """The pooled prior of some entries.

    :param others: ``[S, T, T]``, 1 for the other members of a task's cluster.
    """
    _, spread, scale, factor = partitions
    shift, precision, _ = of_centre(*evidence, spread, scale, factor)
    variance = spread.square()[:, None, None]
    correlation = 1 - variance
    total = 1 + others @ precision
    loc = scale[:, None, None] * correlation.sqrt() * (others @ shift) / total
    within = scale.square()[:, None, None] * (correlation / total + variance)
    mean = loc.mean(0)
    return Gaussians(mean, (within.mean(0) + (loc - mean).square().mean(0)).sqrt())


class Relatives(dist.TorchDistribution):
    """Which other tasks share a task's cluster: the empirical law of draws of partitions.

    A draw is one partition, the same for all tasks: row t says 1 for the relatives of task t.

    :param labels: the cluster of every task, ``[S, T]``, for S draws of partitions; batch shape
        ``[T, 1]``, event shape ``[T - 1]``.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.boolean, 1)
    has_rsample = True  # it has no parameters, so its draws owe no gradient

    def __init__(self, labels: Tensor, validate_args: bool | None = None) -> None:
        self.labels = labels
        num_tasks = labels.shape[-1]
        super().__init__(
            torch.Size([num_tasks, 1]), torch.Size([num_tasks - 1]), validate_args=validate_args
        )

    def expand(self, batch_shape: _size, _instance: object = None) -> "Relatives":
        new = self._get_checked_instance(Relatives, _instance)
        new.labels = self.labels
        shape = torch.Size(batch_shape)
        super(Relatives, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _rows(self, labels: Tensor) -> Tensor:
        """``[..., T]`` to ``[..., T, 1, T - 1]``."""
        num_tasks = labels.shape[-1]
        same = (labels.unsqueeze(-1) == labels.unsqueeze(-2)).double()
        # Without the diagonal a row of T stands T + 1 further on.
        rows = same.flatten(-2)[..., 1:].unflatten(-1, (num_tasks - 1, num_tasks + 1))[..., :-1]
        return rows.flatten(-2).unflatten(-1, (num_tasks, 1, num_tasks - 1))

    @property
    def mean(self) -> Tensor:
        """The chance that each is a relative, ``[*batch, L]``."""
        total = torch.zeros((), dtype=torch.float64, device=self.labels.device)
        for labels in self.labels.split(64):
            total = total + self._rows(labels).sum(0)
        return (total / len(self.labels)).expand(*self.batch_shape, *self.event_shape)

    @property
    def probs(self) -> Tensor:
        """The same as :attr:`mean`."""
        return self.mean

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:
        """Rows of drawn partitions, ``[*sample, *batch, L]``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        lead = shape[:-3]
        picked = torch.randint(len(self.labels), (math.prod(lead),), device=self.labels.device)
        return self._rows(self.labels[picked]).reshape(*lead, *shape[-3:])

    def log_prob(self, value: Tensor) -> Tensor:
        """log of the share of draws with this row, ``[*sample, *batch]``; -inf for none."""
        total = torch.zeros((), dtype=torch.float64, device=self.labels.device)
        for labels in self.labels:
            total = total + (self._rows(labels) == value).all(-1).double()
        return (total / len(self.labels)).log()
