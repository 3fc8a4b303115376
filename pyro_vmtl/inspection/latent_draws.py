"""Draws of weights, representations and targets, a block at a time, so that memory is bounded."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vmtl.data import Batch, TaskSet
from pyro_vmtl.data.batch import padded
from pyro_vmtl.inference.noise import fixed_noise
from pyro_vmtl.inspection.draws import borrowing_of, by_name
from pyro_vmtl.model import VMTL, of_known

__all__ = ["Draws", "posterior_draws", "prior_draws"]

# Numbers in the largest array that a block of draws works on: 64 MB of float32.
_BLOCK = 2**24

_Array = npt.NDArray[Any]


@dataclass
class Draws:
    """Draws of a task set's latent variables and targets; N samples, S draws, S' after thinning.

    :ivar targets: ``[S, N]`` or ``[S, N, K]``.
    :ivar log_likelihood: log of p(y | w), the representations averaged out, ``[S, N]``; of no
        meaning where a sample has no label; empty for the prior.
    :ivar weights: ``[S', T, K, d_z + 1]``, or None.
    :ivar representations: ``[S', N, d_z]``, or None.
    :ivar distances: root mean square differences between tasks' weights, ``[S', T, T + 1]``, NaN
        for the task itself, the last column their distance to 0; or None.
    :ivar relatedness: of the prior, by site, ``[S', T, T]`` or ``[S', T, T + 1]``.
    """

    targets: _Array
    log_likelihood: _Array
    weights: _Array | None = None
    representations: _Array | None = None
    distances: _Array | None = None
    relatedness: dict[str, _Array] = field(default_factory=dict)


def _blocks(total: int, size: int) -> Iterator[range]:
    size = max(1, size)
    for start in range(0, total, size):
        yield range(start, min(start + size, total))


def _batches(tasks: TaskSet, size: int, device: torch.device) -> Iterator[Batch]:
    """Every sample once, at most ``size`` of each task at a time."""
    rows = padded(tasks.task.cpu().numpy(), tasks.num_tasks)
    for columns in _blocks(rows.shape[1], size):
        index = torch.from_numpy(rows[:, columns.start : columns.stop])
        yield tasks.gather(index, device=device)


def _sizes(vmtl: VMTL, tasks: TaskSet, num_samples: int, repeats: int) -> tuple[int, int]:
    """Draws in a block, and samples of each task in a batch."""
    per_draw = vmtl.num_tasks * vmtl.classifier.event_shape.numel()
    draws = min(num_samples, max(1, _BLOCK // per_draw))
    longest = int(torch.bincount(tasks.task, minlength=tasks.num_tasks).max())
    per_sample = (
        repeats * vmtl.num_tasks * (vmtl.encoder.latent_dim + 2 * vmtl.likelihood.num_outputs)
    )
    draws = max(1, min(draws, _BLOCK // (per_sample * min(longest, 64))))
    return draws, max(1, _BLOCK // (per_sample * draws))


def _empty_targets(vmtl: VMTL, tasks: TaskSet, num_samples: int) -> _Array:
    shape = (num_samples, *tasks.y.shape)
    return np.empty(shape, np.int32 if tasks.is_classification else np.float32)


def _kept(block: range, thin: int) -> tuple[slice, slice]:
    """Which draws of a block are kept, and where they go."""
    first = -(-block.start // thin)
    count = len(range(first * thin, block.stop, thin))
    return slice(first * thin - block.start, None, thin), slice(first, first + count)


@torch.no_grad()
def posterior_draws(
    vmtl: VMTL,
    tasks: TaskSet,
    num_samples: int,
    repeats: int = 10,
    thin: int = 1,
    keep: Collection[str] = (),
    seed: int = 0,
) -> Draws:
    """Draws from the guide, with the targets they predict and their pointwise log-likelihoods.

    :param num_samples: S.
    :param repeats: representations drawn for each draw of the weights, over which the likelihood is
        averaged (1 where they are a function of the input).
    :param thin: keep the latent variables of every so many draws.
    :param keep: of ``weights``, ``representations`` and ``task_distances``.
    :param seed: of the draws.
    """
    vmtl.eval()
    device = vmtl.device
    kept = len(range(0, num_samples, thin))
    out = _allocate(vmtl, tasks, num_samples, kept, keep)
    size, batch_size = _sizes(vmtl, tasks, num_samples, repeats)
    with fixed_noise(seed, device):
        posterior = vmtl.classifier()
        for block in _blocks(num_samples, size):
            weights = posterior.sample(torch.Size([len(block)]))
            source, target = _kept(block, thin)
            thinned = weights[source].squeeze(-3)
            if out.weights is not None:
                out.weights[target] = thinned.cpu().numpy()
            if out.distances is not None:
                of_classes = vmtl.likelihood.class_weights(thinned)
                out.distances[target] = _distances(of_classes).cpu().numpy()
            for batch in _batches(tasks, batch_size, device):
                _predict(vmtl, batch, weights, repeats, block, thin, out)
    return out


def _allocate(
    vmtl: VMTL, tasks: TaskSet, num_samples: int, kept: int, keep: Collection[str]
) -> Draws:
    num_tasks, latent = vmtl.num_tasks, vmtl.encoder.latent_dim
    shapes = {
        "weights": (kept, num_tasks, *vmtl.classifier.event_shape),
        "representations": (kept, len(tasks), latent),
        "task_distances": (kept, num_tasks, num_tasks + 1),
    }
    arrays = {name: np.empty(shapes[name], np.float32) for name in keep}
    return Draws(
        _empty_targets(vmtl, tasks, num_samples),
        np.empty((num_samples, len(tasks)), np.float32),
        arrays.get("weights"),
        arrays.get("representations"),
        arrays.get("task_distances"),
    )


def _distances(weights: Tensor) -> Tensor:
    """``[S, T, K, d]`` to ``[S, T, T + 1]``."""
    flat = weights.flatten(2).double()
    flat = torch.cat([flat, torch.zeros_like(flat[:, :1])], 1)
    distances = torch.cdist(flat[:, :-1], flat, compute_mode="donot_use_mm_for_euclid_dist")
    distances = distances / math.sqrt(flat.shape[-1])
    distances.diagonal(dim1=-2, dim2=-1).fill_(torch.nan)
    return distances


def _predict(
    vmtl: VMTL,
    batch: Batch,
    weights: Tensor,
    repeats: int,
    block: range,
    thin: int,
    out: Draws,
) -> None:
    law = vmtl.encoder(batch.x)
    if isinstance(law, dist.Delta):
        repeats = 1
    representations = law.sample(torch.Size([repeats, len(block)]))
    likelihood = vmtl.likelihood(representations, weights)
    targets = vmtl.likelihood.filled(batch)
    density = of_known(likelihood, batch.known).log_prob(targets).logsumexp(0) - math.log(repeats)
    present = batch.present
    rows = batch.index[present].cpu().numpy()
    drawn = slice(block.start, block.stop)
    out.log_likelihood[drawn, rows] = density[:, present].cpu().numpy()
    targets = likelihood.sample()[0]
    out.targets[drawn, rows] = targets[:, present].cpu().numpy()
    if out.representations is not None:
        source, target = _kept(block, thin)
        kept = representations[0][source][:, present]
        out.representations[target, rows] = kept.cpu().numpy()


@torch.no_grad()
def prior_draws(
    vmtl: VMTL,
    tasks: TaskSet,
    num_samples: int,
    thin: int = 1,
    keep: Collection[str] = (),
    seed: int = 0,
) -> Draws:
    """Draws from the prior: relatedness, the weights that it pools, and the targets they predict.

    Representations are drawn from N(0, I) where each has a prior of its own; from Phi x with
    Phi ~ p(Phi) for a Bayesian encoder layer; and are the encoder's output otherwise.

    :param num_samples: S.
    :param thin: keep the latent variables of every so many draws.
    :param keep: ``weights`` or nothing.
    """
    vmtl.eval()
    device = vmtl.device
    kept = len(range(0, num_samples, thin))
    out = _allocate(vmtl, tasks, num_samples, kept, keep)
    out.log_likelihood = np.empty((0, len(tasks)), np.float32)
    size, batch_size = _sizes(vmtl, tasks, num_samples, 1)
    layer = vmtl.encoder.layer()
    if layer is not None:
        per_draw = layer.loc[0].numel() * vmtl.num_tasks
        size = max(1, min(size, _BLOCK // per_draw))
    relatedness: dict[str, list[_Array]] = {site: [] for site in vmtl.borrowing}
    with fixed_noise(seed, device):
        for block in _blocks(num_samples, size):
            source, target = _kept(block, thin)
            shape = torch.Size([len(block)])
            draws: dict[str, Tensor] = {}
            for site in vmtl.borrowing:
                borrowing = borrowing_of(vmtl, site)
                draws[site] = borrowing.relatedness_prior().sample(shape)
                relatedness[site].append(by_name(borrowing, draws[site][source]).cpu().numpy())
            weights = _sample(vmtl.weights_prior(draws.get("weights")), len(block))
            if out.weights is not None:
                out.weights[target] = weights[source].squeeze(-3).cpu().numpy()
            phi = None
            if layer is not None:
                phi = _sample(vmtl.layer_prior(layer, draws.get("representations")), len(block))
            for batch in _batches(tasks, batch_size, device):
                representations = _prior_representations(vmtl, batch, phi, len(block))
                targets = vmtl.likelihood(representations, weights).sample()
                present = batch.present
                rows = batch.index[present].cpu().numpy()
                values = targets[:, present].cpu().numpy()
                out.targets[block.start : block.stop, rows] = values
    out.relatedness = {
        f"relatedness_{site}": np.concatenate(values) for site, values in relatedness.items()
    }
    return out


def _sample(law: Any, count: int) -> Tensor:
    """``[count, *batch, *event]`` of a law that is the same for all draws, or has one for each."""
    repeated = law.batch_shape[:-2] == (count,)
    draws: Tensor = law.sample() if repeated else law.sample(torch.Size([count]))
    return draws


def _prior_representations(vmtl: VMTL, batch: Batch, phi: Tensor | None, count: int) -> Tensor:
    if phi is not None:  # [S, 1 or T, 1, inputs + 1, d_z]
        phi = phi.squeeze(-3)
        return batch.x.flatten(2) @ phi[..., :-1, :] + phi[..., -1:, :]
    if vmtl.encoder.has_density:
        shape = (count, *batch.mask.shape, vmtl.encoder.latent_dim)
        return torch.randn(shape, dtype=batch.x.dtype, device=batch.x.device)
    representations: Tensor = vmtl.encoder(batch.x).sample()
    return representations.expand(count, *representations.shape)
