r"""What each task's own data said of its weights, and what that says of a cluster's centre.

A task's mean-field posterior, divided by N(0, I), is evidence on each weight by itself,
:math:`\exp(h w - \lambda w^2 / 2)`. Its locations and precisions can be trusted, its independence
cannot: 12 samples measure 12 combinations of 20 weights. What tasks have in common has to be judged
on what was measured, so the precisions are spread over the directions in which the data of a task
vary: with :math:`R` the correlations of the features that the weights are applied to, the evidence
of a task on the weights of one output has the precision matrix
:math:`\mathrm{diag}(\lambda)^{1/2} R\, \mathrm{diag}(\lambda)^{1/2}`, the Fisher information with
every sample counted alike.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vmtl.distributions.gaussians import Gaussians

__all__ = ["Blocks", "Evidence", "blocks_of", "evidence_of", "log_evidence", "of_centre"]

_FLOOR = 0.05  # evidence of less precision says nothing, and its estimates are 0 / 0

_NUMBERS = 2**15  # in the tasks' precision matrices, at most: further directions are left out


class Evidence(NamedTuple):
    """What each task's data said of its weights, beyond N(0, I); float64.

    :ivar shift: h, the precision times the location, ``[T, P]``.
    :ivar precision: lambda >= 0, ``[T, P]``.
    """

    shift: Tensor
    precision: Tensor


def evidence_of(posteriors: Gaussians) -> Evidence:
    """The evidence that turned N(0, I) into these posteriors.

    :param posteriors: of the T tasks, each from its own data alone, ``[T, *event]``.
    """
    loc, scale = (x.double().flatten(1) for x in posteriors)
    precision = scale.square().reciprocal()
    added = (precision - 1).clamp_min(0)
    shift = torch.where(added > 0, loc * precision, torch.zeros_like(loc))
    return Evidence(shift, added)


class Blocks(NamedTuple):
    """Evidence on B blocks of q weights each; blocks have nothing to do with each other.

    :ivar shift: along each task's own directions, ``[T, B, q]``.
    :ivar precision: likewise; 0 where the data say nothing.
    :ivar directions: the columns are a task's own, ``[T, B, q, q]``; None for blocks of one.
    """

    shift: Tensor
    precision: Tensor
    directions: Tensor | None = None

    def to_common(self, shift: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
        """Evidence along the tasks' own directions, turned to those that all share.

        :param shift: ``[*S, T, B, q]``; precision likewise.
        :return: ``[*S, T, B, q]`` and ``[*S, T, B, q, q]``.
        """
        if self.directions is None:
            return shift, precision.unsqueeze(-1)
        turned = (self.directions @ shift.unsqueeze(-1)).squeeze(-1)
        return turned, (self.directions * precision.unsqueeze(-2)) @ self.directions.mT


def blocks_of(evidence: Evidence, moments: Tensor | None) -> Blocks:
    """The evidence as independent blocks, as far as it says something.

    Without moments every weight is a block. With them the weights of one output are.

    :param moments: second moments of what the weights are applied to, ``[T, q, q]``, or None.
    """
    if moments is None:
        said = evidence.precision >= _FLOOR
        somewhere = said.any(0)  # an entry of which no task's data say anything costs no time
        kept = (torch.where(said, x, torch.zeros_like(x))[:, somewhere] for x in evidence)
        return Blocks(*(x.unsqueeze(-1) for x in kept))
    num_tasks, size = moments.shape[:2]
    shift, precision = (x.view(num_tasks, -1, size) for x in evidence)
    mean = shift / (1 + precision)
    deviation = moments.diagonal(dim1=-2, dim2=-1).sqrt()
    scaled = precision.sqrt() / deviation.unsqueeze(1).clamp_min(1e-12)
    fisher = scaled.unsqueeze(-1) * moments.unsqueeze(1) * scaled.unsqueeze(-2)  # [T, K, q, q]
    total, shared = torch.linalg.eigh(fisher.sum((0, 1)))
    room = int(math.sqrt(_NUMBERS / (num_tasks * fisher.shape[1])))
    rank = max(1, min(room, int((total >= _FLOOR).sum())))
    shared = shared[:, -rank:]  # beyond them the data of all tasks together say next to nothing
    precision, directions = torch.linalg.eigh(shared.mT @ fisher @ shared)
    mean = (directions.mT @ (mean @ shared).unsqueeze(-1)).squeeze(-1)
    said = precision >= _FLOOR
    precision = torch.where(said, precision, torch.zeros_like(precision))
    return Blocks(torch.where(said, (1 + precision) * mean, 0.0), precision, directions)


def of_centre(
    shift: Tensor, precision: Tensor, spread: Tensor, scale: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Evidence on the weights, as evidence on a cluster's centre; and its constant.

    :param shift: ``[T, *P]``, as the precision.
    :param spread: s, ``[S]``; likewise tau and kappa.
    :return: shift and precision ``[S, T, *P]``, and the log of what does not depend on the centre,
        ``[S, T]``.
    """
    spread, scale, factor = (x.view(-1, *(1,) * shift.dim()) for x in (spread, scale, factor))
    shift = factor * scale * shift
    precision = factor * scale.square() * precision
    variance = spread.square()
    widened = 1 + variance * precision
    correlation = (1 - variance).clamp_min(0)
    constant = (variance * shift.square() / widened - widened.log()).flatten(2).sum(-1)
    return correlation.sqrt() * shift / widened, correlation * precision / widened, 0.5 * constant


def log_evidence(shift: Tensor, precision: Tensor) -> Tensor:
    """log of the integral of exp(h c - c' L c / 2) under c ~ N(0, I), summed over the blocks.

    :param shift: h, ``[*S, B, q]``.
    :param precision: L, ``[*S, B, q, q]``.
    :return: ``[*S]``.
    """
    if shift.shape[-1] == 1:
        total = 1 + precision.squeeze(-1)
        return 0.5 * (shift.square() / total - total.log()).sum((-2, -1))
    total = precision + torch.eye(shift.shape[-1], dtype=shift.dtype, device=shift.device)
    root = torch.linalg.cholesky(total)
    solved = torch.linalg.solve_triangular(root, shift.unsqueeze(-1), upper=False).squeeze(-1)
    logs = root.diagonal(dim1=-2, dim2=-1).log()
    return (0.5 * solved.square() - logs).sum((-2, -1))
