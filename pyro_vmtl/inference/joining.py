"""Tasks join a fitted model and leave it, without a new fit."""

from __future__ import annotations

import copy
import dataclasses

import pyro.distributions as dist
import torch

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.noise import all_noise
from pyro_vmtl.model import (
    VMTL,
    NestedWeights,
    Settings,
    assemble,
    evaluating,
    with_bias,
)
from pyro_vmtl.model.closed_form import nested_weights
from pyro_vmtl.model.priors.joining import candidates, with_site, without
from pyro_vmtl.model.priors.nested import Nested

__all__ = ["add_tasks", "forget_rows", "forget_task", "nested", "resized"]

_ROUNDING = 1e-6  # of the largest eigenvalue of what a task's rows say together


@torch.no_grad()
def add_tasks(vmtl: VMTL, settings: Settings, tasks: TaskSet, seed: int = 0) -> VMTL:
    """A model with more tasks, one joining after the other.

    :param vmtl: a fitted model, which stays as it is; ``settings``: its structure.
    :param tasks: the new ones, with labelled samples or without.
    :param seed: of the clusters and the noise that are drawn for them.
    :raises InputError: where the model has no draws that a task could join.
    """
    weights, pool = nested(vmtl, settings)
    if pool.known is not None:
        raise InputError(
            f"the pool's known is {list(pool.known)}, the clusters of the tasks that were fitted, "
            "and a new task is not among them; expected known=None, or a fit of all tasks"
        )
    if pool.clusters and not bool((weights.draws.cluster > 0).all()):
        raise InputError(
            "the model was fitted to one task, which says nothing of how far clusters are apart; "
            "expected one that was fitted to two tasks or more, or a fit of all tasks"
        )
    with all_noise(seed), evaluating(vmtl):
        out = resized(vmtl, settings, vmtl.num_tasks + tasks.num_tasks, tasks.input_shape)
        batch = tasks.dense().to(vmtl.device)
        law = vmtl.encoder(batch.x)
        # Where z is random the sites are averaged over some draws of it, as in a fit.
        count = 1 if isinstance(law, dist.Delta) else 4
        features = with_bias(law.sample(torch.Size([count])).double(), weights.event_shape[-1])
    classifier, likelihood = nested_weights(out), out.likelihood
    targets = likelihood.standardised(likelihood.filled(batch))
    evidence, chains, draws = weights.evidence, weights.chains, weights.draws
    generator = torch.Generator().manual_seed(seed)
    prior = classifier.prior
    for task, mask in enumerate(batch.mask):
        joining = candidates(evidence, prior, draws)
        observed = batch.observed[task, mask]
        site = joining.site(features[:, task, mask], targets[task, mask], observed, likelihood)
        draws = joining.join(site, generator)
        chains = candidates(evidence, prior, chains).join(site, generator)
        evidence = with_site(evidence, site)
    classifier.take(evidence, chains, draws, likelihood, like=weights)
    return out


@torch.no_grad()
def forget_task(
    vmtl: VMTL, settings: Settings, input_shape: tuple[int, ...], task: int
) -> tuple[VMTL, Settings]:
    """A model without one of its tasks, and its settings.

    :param vmtl: a fitted model, which stays as it is; ``settings``: its structure.
    :param input_shape: of one sample.
    :param task: the number of the task.
    :raises InputError: where tasks cannot be told apart, or no other would be left.
    """
    weights, pool = nested(vmtl, settings)
    if vmtl.num_tasks == 1:
        raise InputError("the model has a single task; expected another that remains")
    if pool.known is not None:
        pool = pool.with_known([k for t, k in enumerate(pool.known) if t != task])
        settings = dataclasses.replace(settings, pool=pool)
    with all_noise(0):
        out = resized(vmtl, settings, vmtl.num_tasks - 1, input_shape)
    evidence, draws = without(weights.evidence, weights.draws, task)
    _, chains = without(weights.evidence, weights.chains, task)
    nested_weights(out).take(evidence, chains, draws, out.likelihood, like=weights)
    return out, settings


@torch.no_grad()
def forget_rows(vmtl: VMTL, settings: Settings, rows: TaskSet) -> VMTL:
    """A model without what some of its training rows said of the weights.

    :param vmtl: a fitted model, which stays as it is; ``settings``: its structure.
    :param rows: of its tasks, as they were trained on.
    :raises InputError: where tasks cannot be told apart, or they were not trained on these rows.
    """
    weights, _ = nested(vmtl, settings)
    batch = rows.dense().to(vmtl.device)
    with all_noise(0), evaluating(vmtl):
        features = with_bias(vmtl.encoder(batch.x).mean.double(), weights.event_shape[-1])
    likelihood, weight = vmtl.likelihood, batch.weight
    targets = likelihood.standardised(likelihood.filled(batch))
    loc, variance = weights.predictor(features, weights.loc[None], weights.covariance[None])
    g, r = (weight * part for part in likelihood.sites(loc[0], variance[0], targets))
    known = weights.evidence
    precision = known.precision - torch.einsum("tbk,tbi,tbj->tkij", r, features, features)
    shift = known.shift - (g + r * loc[0]).mT @ features
    counts = known.counts - weight.sum(1)
    least = torch.linalg.eigvalsh(precision)[..., 0]
    most = torch.linalg.eigvalsh(known.precision)[..., -1].clamp_min(1)
    wrong = (counts < -_ROUNDING).any(-1) | (least < -_ROUNDING * most).any(-1)
    squares = known.squares
    if squares is not None:
        before, squares = squares, squares - (weight * targets.square()).sum(1)
        wrong |= (squares < -_ROUNDING * before.clamp_min(1)).any(-1)
    if bool(wrong.any()):
        raise InputError(
            f"the task {rows.names[int(wrong.nonzero()[0])]!r} was not trained on these rows; "
            "expected rows of the training data, as they were read for training"
        )
    out = copy.deepcopy(vmtl)
    evidence = dataclasses.replace(
        known, precision=precision, shift=shift, counts=counts.clamp_min(0), squares=squares
    )
    kept = (weights.chains, weights.draws)
    nested_weights(out).take(evidence, *kept, out.likelihood, like=weights)
    return out


def nested(vmtl: VMTL, settings: Settings) -> tuple[NestedWeights, Nested]:
    """The weights and their prior, where nothing else of the model belongs to single tasks."""
    weights = nested_weights(vmtl)
    per_task = getattr(settings.encoder, "per_task", False) or any(
        True for part in vmtl.encoder.modules() for _ in getattr(part, "of_single_tasks", tuple)()
    )
    if per_task:
        raise InputError(
            "the model has an encoder for each task, which training fits; expected one "
            "encoder for all tasks"
        )
    if "representations" in vmtl.borrowing:
        raise InputError(
            f"the model has the representation pool "
            f"{type(vmtl.representation_pool).__name__}, whose relatedness training fits; expected "
            "Standard"
        )
    return weights, weights.pool


def resized(vmtl: VMTL, settings: Settings, num_tasks: int, input_shape: tuple[int, ...]) -> VMTL:
    """The same model for another number of tasks, whose weights are still to be taken."""
    likelihood = vmtl.likelihood
    is_classification = likelihood.num_classes > 0
    count = likelihood.num_classes if is_classification else likelihood.num_outputs
    out = assemble(settings, num_tasks, count, input_shape, is_classification).to(vmtl.device)
    ours = vmtl.state_dict()
    for name, value in out.state_dict().items():
        # A model of one task has no relatedness, and its temperature is missing.
        known = ours.get(name)
        if known is not None and known.shape == value.shape and not name.startswith("classifier."):
            value.copy_(known)
    out.set_extra_state(vmtl.get_extra_state())
    out.tempering.update(vmtl.tempering)
    return out.eval()
