r"""Tasks share what they know of each other, and keep their rows.

A task's data enter the posterior as a Gaussian site exp(h w - w Lambda w / 2), of which Lambda and
h are sums over its rows. So every place computes the sites of its own tasks, and partition, scales
and posteriors are inferred from the sites alone:

1. :func:`pyro_vmtl.summary` says of each place's rows what all need to standardise alike, and
   :func:`agree` makes of it a model of all tasks that knows nothing yet.
2. :func:`request` says what is known of one place's weights so far, :func:`evidence` answers with
   what its rows say, and :func:`join` makes of all answers the next model.

With Gaussian noise the second step is exact at once. With other likelihoods the sites depend on the
posterior, and the step is repeated until posterior means no longer move. It is expectation
propagation over places (Vehtari et al., JMLR 2020), with all partitions and scales in the middle.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vmtl.data import Batch, TaskSet, TaskSummary, common_columns
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.exchange import TaskEvidence, TaskRequest, digest_of, part_of
from pyro_vmtl.inference.fit import FittedVMTL, lacking_a_class
from pyro_vmtl.inference.joining import nested
from pyro_vmtl.inference.noise import all_noise, fixed_noise
from pyro_vmtl.inference.temperature_scaling import ScaledVMTL
from pyro_vmtl.model import (
    Bernoulli,
    Likelihood,
    Nested,
    NestedWeights,
    Settings,
    assemble,
    evaluating,
    with_bias,
)
from pyro_vmtl.model.architectures import Architecture, takes_no_gradient
from pyro_vmtl.model.priors.conditionals import averaged
from pyro_vmtl.model.priors.gibbs import Evidence

__all__ = ["agree", "evidence", "join", "request"]

_ROUNDING = 1e-6  # of the largest eigenvalue of what a task's rows say
_RATE = 0.7  # of a round; at 1, places that all answer at once may swing
_STEPS = 100  # of a place's own sites, what the others say held fixed
_TOLERANCE = 1e-6  # of a site's change in a step, in units of the site


def agree(
    summaries: Sequence[TaskSummary],
    settings: Settings | None = None,
    *,
    targets: Tensor | None = None,
    seed: int = 0,
) -> FittedVMTL:
    """A model of all tasks of all places that knows nothing of their weights yet.

    Settled by it are the features and how they are standardised, the classes, the unit of the
    targets, the likelihood and the pool. Standardisation and unit are those of all rows together,
    from the sums of :func:`pyro_vmtl.summary`; they are what a fit of all rows would have, but for
    two choices that a fit leaves to rows: a likelihood that is not said is
    :class:`pyro_vmtl.Categorical`, :class:`pyro_vmtl.Gaussian`, or of several outputs that are all
    0 or 1 :class:`pyro_vmtl.Bernoulli`, and inputs that repeat each other
    stay.

    Example::

        summaries = [pv.TaskSummary.load(f"{place}.summary") for place in places]
        model = pv.agree(summaries, pv.Settings(likelihood=pv.Poisson()))

    :param summaries: one of every place.
    :param settings: of the model. The pool is ``Nested``, and the encoder ``Identity()``, or one
        that was trained elsewhere and stays as it is: ``fitted.vmtl.encoder`` of public data, say.
    :param targets: ``[N]`` or ``[N, K]``, to take the unit of the targets from in place of the
        sums: for likelihoods whose unit is none of sums, as the median is.
    :param seed: of the draws to come.
    :raises InputError: for summaries that do not fit each other, and settings that training would
        have to fit.
    """
    whole = TaskSummary.merged(summaries)
    columns = common_columns(whole)
    shape = whole.input_shape if columns is None else (len(columns.inputs),)
    settings = Settings() if settings is None else settings
    if settings.pool is None:
        settings = replace(settings, pool=Nested())
    settings = settings.for_data(shape, named=columns is not None)
    if isinstance(settings.encoder, Architecture) and not takes_no_gradient(settings.encoder):
        raise InputError(
            f"the encoder is {settings.encoder}, which rows of all places would have to train; "
            "expected Identity(), or an encoder that was trained elsewhere"
        )
    is_classification = whole.classes is not None
    binary = len(whole.targets) > 1 and all(target.binary for target in whole.targets)
    if settings.likelihood is None and binary:  # as in a fit
        settings = replace(settings, likelihood=Bernoulli())
    settings = replace(settings, likelihood=settings.likelihood_of(is_classification))
    absent = [
        name for name, n in zip(whole.classes or (), whole.class_counts, strict=True) if not n
    ]
    if absent:
        raise InputError(
            f"no place has a sample of the class {absent[0]!r}; expected one at least, or the "
            "classes without it"
        )
    with all_noise(seed):
        count = len(whole.classes or whole.outputs or ())
        vmtl = assemble(settings, len(whole.names), count, shape, is_classification)
    weights, _ = nested(vmtl, settings)
    if columns is None:
        mean, variance = (
            torch.tensor([getattr(sums, name) for sums in whole.inputs], dtype=torch.float64)
            for name in ("mean", "variance")
        )
        vmtl.encoder.learn_from_sums(mean, variance, centre=settings.bias)
    elif getattr(vmtl.encoder, "standardises", False):
        raise InputError(
            f"the encoder is {settings.encoder}, and features of a table are standardised before; "
            "expected Identity(), or an encoder that was trained elsewhere"
        )
    if targets is None:
        vmtl.likelihood.learn_from_sums(whole.target_sums, centre=settings.bias)
    else:
        vmtl.likelihood.learn_from(torch.as_tensor(targets), centre=settings.bias)
    weights.take(weights.evidence, weights.chains, weights.draws, vmtl.likelihood, like=weights)
    return FittedVMTL(
        *(vmtl.eval(), settings, whole.names, whole.classes, whole.outputs, shape),
        *(pd.DataFrame(), tuple(vmtl.encoder.sentences()), columns),
    )


@torch.no_grad()
def request(model: FittedVMTL, names: str | Sequence[str] | None = None) -> TaskRequest:
    """What is to be sent to the place of some tasks, for their evidence.

    :param model: of :func:`agree` or :func:`join`, or any with the pool ``Nested``.
    :param names: of the tasks; None, all.
    :raises InputError: for a task that the model does not know.
    """
    _check_model(model)
    names = model.names if names is None else (names,) if isinstance(names, str) else tuple(names)
    vmtl, settings = part_of(model, names)
    return TaskRequest(
        *(vmtl, settings, names, model.classes, model.outputs, model.input_shape),
        *(model.columns, digest_of(model)),
    )


@torch.no_grad()
def evidence(rows: TaskSet, model: FittedVMTL | TaskRequest) -> TaskEvidence:
    """What rows say of their tasks' weights, as sums over them.

    For Gaussian noise it is X'X, X'y, y'y and the number of rows, of standardised inputs and
    targets. For other likelihoods it is the site that fits what the other tasks say, found by
    damped steps as in a fit, all others held fixed; and the slope and the curvature of the expected
    log-likelihood in the likelihood's own parameters.

    Example::

        request = pv.TaskRequest.load("north.request")
        rows = pv.read_rows("north.csv", like=request)
        pv.evidence(rows, request).save("north.evidence")

    :param rows: the training rows of some of the model's tasks, all of each.
    :param model: what asks.
    :raises InputError: for rows that do not fit the model, and a task without a labelled row.
    """
    if not isinstance(rows, TaskSet):
        raise InputError(f"the rows are a {type(rows).__name__}; expected a TaskSet")
    if isinstance(model, FittedVMTL):
        _check_model(model)
    elif not isinstance(model, TaskRequest):
        raise InputError(
            f"what asks is a {type(model).__name__}; expected a TaskRequest, or a FittedVMTL"
        )
    vmtl, settings = part_of(model, rows.names)
    _check_rows(rows, model)
    vmtl.likelihood.check(rows)
    weights, likelihood = nested(vmtl, settings)[0], vmtl.likelihood
    batch = rows.dense().to(vmtl.device)
    with fixed_noise(0, vmtl.device), evaluating(vmtl):
        law = vmtl.encoder(batch.x)
        sites = _settled(weights, batch, law, likelihood)
        features = with_bias(law.mean.double(), weights.event_shape[-1])
    loc, variance = weights.predictor(features, weights.loc[None], weights.covariance[None])
    targets = likelihood.standardised(likelihood.filled(batch))
    slopes = likelihood.slopes(loc[0], variance[0], targets, batch.weight)
    digest = model.digest if isinstance(model, TaskRequest) else digest_of(model)
    return TaskEvidence(rows.names, sites, slopes, tuple(lacking_a_class(rows)), digest)


@torch.no_grad()
def join(evidence: Sequence[TaskEvidence], model: FittedVMTL) -> FittedVMTL:
    """The model that knows what the rows of all places say, from their evidence alone.

    The sites go to those of the evidence, after the first round a share of the way, and partition
    and scales are drawn anew given them. The model predicts, says relatedness, is saved and loaded
    as one that was fitted to the rows, and can ask again.

    Its ``history`` has a row for every round: the number of ``tasks``, the ``bytes`` of the
    evidence as files, and how far it ``moved`` the posterior means, in posterior standard
    deviations of the weight that moved most, partition and scales held fixed. Two fits with
    other draws differ by about 0.1 there. The last of ``notes`` says the same.

    Example::

        model = pv.join([pv.TaskEvidence.load(f"{place}.evidence") for place in places], model)

    :param evidence: of every place, computed with this very model; of each task once.
    :param model: what asked.
    :raises InputError: for evidence that was computed with another model, of another number of
        features, of a task twice, or not of all tasks.
    """
    started = time.perf_counter()
    _check_model(model)
    sites, slopes = _gathered(evidence, model)
    vmtl = copy.deepcopy(model.vmtl)
    weights, likelihood = nested(vmtl, model.settings)[0], vmtl.likelihood
    first = not int(weights.steps)
    before = averaged(weights.by_draw())
    weights.move(sites, 1.0 if first or likelihood.sites_are_exact else _RATE)
    after = averaged(weights.by_draw())
    sd = after.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    moved = float(((after.loc - before.loc) / sd.clamp_min(1e-12)).abs().max())
    if slopes is not None:
        likelihood.move(*slopes)
    if first and likelihood.sites_are_exact:
        weights.look(likelihood)  # as a fit does, which so has the same draws
    weights.look(likelihood, last=True)
    row = {
        "round": sum(note.startswith("Round ") for note in model.notes) + 1,
        "tasks": len(model.names),
        "bytes": sum(len(part.message().packed()) for part in evidence),
        "moved": moved,
        "seconds": time.perf_counter() - started,
    }
    note = (
        f"Round {row['round']}: the evidence of {row['tasks']} tasks, {row['bytes']} bytes, moved "
        f"posterior means by at most {moved:.2g} standard deviations."
    )
    told = dict.fromkeys(sentence for part in evidence for sentence in part.sentences)
    history = [frame for frame in (model.history, pd.DataFrame([row])) if len(frame)]
    return replace(
        model,
        vmtl=vmtl,
        history=pd.concat(history, ignore_index=True),
        warnings=(*vmtl.encoder.sentences(), *told, *weights.sentences()),
        notes=(*model.notes, note),
    )


def _gathered(
    evidence: Sequence[TaskEvidence], model: FittedVMTL
) -> tuple[Evidence, tuple[Tensor, Tensor] | None]:
    """The sites of all tasks in the model's order, and the sums of all slopes."""
    weights, _ = nested(model.vmtl, model.settings)
    expected, digest = tuple(weights.shift.shape[1:]), digest_of(model)
    theirs: dict[str, tuple[TaskEvidence, int]] = {}
    for part in evidence:
        if not isinstance(part, TaskEvidence):
            raise InputError(f"the evidence is a {type(part).__name__}; expected a TaskEvidence")
        shape, who = tuple(part.sites.shift.shape[1:]), part.names[0]
        if shape != expected:
            raise InputError(
                f"the evidence of {who!r} is of {shape[0]} rows of {shape[1]} weights, the bias "
                f"among them; expected {expected[0]} of {expected[1]}, as the model has"
            )
        if part.digest != digest:
            raise InputError(
                f"the evidence of {who!r} answers another model than this: one of other settings, "
                "of another standardisation, or of another round; expected the answer to a request "
                "of this model"
            )
        for position, name in enumerate(part.names):
            if name in theirs:
                raise InputError(f"there is evidence of the task {name!r} twice; expected it once")
            theirs[name] = part, position
    absent = [name for name in model.names if name not in theirs]
    if absent:
        raise InputError(
            f"there is no evidence of the task {absent[0]!r}; expected some of every task that "
            "was agreed on"
        )
    by_task = [theirs[name] for name in model.names]
    precision, shift, counts = (
        torch.stack([getattr(part.sites, name)[position] for part, position in by_task])
        for name in ("precision", "shift", "counts")
    )
    eigenvalues = torch.linalg.eigvalsh(precision)  # of sums of squares none is below 0
    wrong = (eigenvalues[..., 0] < -_ROUNDING * eigenvalues[..., -1].clamp_min(1)).any(-1)
    if bool(wrong.any()):
        raise InputError(
            f"the evidence of {model.names[int(wrong.nonzero()[0])]!r} has a precision with "
            "eigenvalues below 0, as sums over rows do not; expected what evidence(rows, request) "
            "gives"
        )
    squares = [part.sites.squares for part in evidence if part.sites.squares is not None]
    stacked = None
    if weights.infers_noise and len(squares) == len(evidence):
        stacked = torch.stack(
            [p.sites.squares[i] for p, i in by_task if p.sites.squares is not None]
        )
    slopes = [part.slopes for part in evidence if part.slopes is not None]
    theta = getattr(model.vmtl.likelihood, "theta", None)
    size = theta.numel() if isinstance(theta, Tensor) else 0
    fits = all(s.shape == (size,) and h.shape == (size, size) for s, h in slopes)
    if (stacked is None) == weights.infers_noise or not fits or bool(size) != bool(slopes):
        raise InputError(
            f"the evidence does not fit the likelihood {type(model.vmtl.likelihood).__name__}; "
            "expected the answers to requests of this model"
        )
    summed = None
    if slopes:
        summed = (
            torch.stack([s for s, _ in slopes]).sum(0),
            torch.stack([h for _, h in slopes]).sum(0),
        )
    return Evidence(precision, shift, counts, stacked), summed


def _settled(
    weights: NestedWeights, batch: Batch, law: dist.TorchDistribution, likelihood: Likelihood
) -> Evidence:
    """The sites where they no longer move, while what the other tasks say stays as it is.

    The others say what is left of the posterior without the site that went into it.
    """
    if likelihood.sites_are_exact:
        return weights.seen(batch, law, likelihood)
    precision = torch.linalg.inv(weights.covariance)
    shift = (precision @ weights.loc.unsqueeze(-1)).squeeze(-1)
    others, others_shift = precision - weights.precision, shift - weights.shift
    for step in range(_STEPS):
        seen = weights.seen(batch, law, likelihood)
        away = max(
            float(((new - old).abs() / (1 + old.abs())).max())
            for new, old in ((seen.precision, weights.precision), (seen.shift, weights.shift))
        )
        weights.move(seen, 1.0 if not int(weights.steps) else min(0.7, 20 / (step + 1)))
        if away < _TOLERANCE:
            break
        factor, fails = torch.linalg.cholesky_ex(others + weights.precision)
        if bool(fails.any()):  # of a mixture over draws, the moments alone are not enough
            break
        weights.covariance = torch.cholesky_inverse(factor)
        total = (others_shift + weights.shift).unsqueeze(-1)
        weights.loc = (weights.covariance @ total).squeeze(-1)
        weights.steps.fill_(1)
    return replace(weights.evidence, counts=batch.weight.sum(1).expand_as(weights.counts))


def _check_model(model: FittedVMTL) -> None:
    """Whether it is a model that places can share."""
    if not isinstance(model, FittedVMTL):
        raise InputError(f"the model is a {type(model).__name__}; expected a FittedVMTL")
    if isinstance(model, ScaledVMTL):
        raise InputError("the model is scaled by temperatures; expected scaled.fitted")
    nested(model.vmtl, model.settings)


def _check_rows(rows: TaskSet, model: FittedVMTL | TaskRequest) -> None:
    """Whether they are read as the model reads rows, and every task has some."""
    for name in ("input_shape", "classes", "outputs"):
        ours, theirs = getattr(model, name), getattr(rows, name)
        if ours != theirs:
            raise InputError(
                f"the rows have the {name} {theirs}; expected those of the model, {ours}"
            )
    if rows.columns != model.columns:
        raise InputError(
            "the rows were standardised otherwise than the model's; expected "
            + (
                "rows of arrays"
                if model.columns is None
                else "rows of read_rows(..., like=request)"
            )
        )
    empty = [name for name, size in zip(rows.names, rows.sizes.tolist(), strict=True) if not size]
    if empty:
        raise InputError(
            f"the task {empty[0]!r} has no labelled row; expected one at least, or the task left "
            "out by all"
        )
