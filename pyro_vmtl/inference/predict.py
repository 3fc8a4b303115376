"""Posterior-predictive distributions, averaged over draws of weights and representations."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_vmtl.data import Batch, TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.metrics import (
    category_shift_metrics,
    classification_metrics,
    metrics_per_task,
    regression_metrics,
)
from pyro_vmtl.inference.noise import fixed_noise
from pyro_vmtl.model import (
    VMTL,
    evaluating,
    of_known,
    with_bias,
)
from pyro_vmtl.model.closed_form import conjugate_weights

__all__ = ["Predictions", "predict"]


@dataclass(frozen=True)
class Predictions:
    """What the model says of every sample of a task set, in the set's order.

    :ivar tasks: the set predicted.
    :ivar mean: predictive class probabilities ``[N, C]``, or means ``[N]`` / ``[N, K]``; of outputs
        that are 0 or 1, the chance of 1.
    :ivar log_density: log of the predictive density at the target, ``[N]``; of several outputs,
        at those that are known, together; NaN without a label.
    :ivar total: predictive uncertainty: entropy in nats, or variance in the target's unit squared;
        ``[N]`` (``[N, K]`` for K outputs). Of outputs that are 0 or 1 it is an entropy.
    :ivar aleatoric: the part that more data would not remove: expected entropy, or noise variance.
    :ivar epistemic: the rest: mutual information between target and latents, or the variance of
        the conditional mean.
    :ivar draws: predictive draws of the targets in a regression, ``[S, N]`` or ``[S, N, K]``.
    :ivar is_binary: whether outputs are 0 or 1 (:class:`pyro_vmtl.Bernoulli`); see
        :meth:`by_output`.
    """

    tasks: TaskSet
    mean: Tensor
    log_density: Tensor
    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    draws: Tensor | None = None
    is_binary: bool = False

    @property
    def sd(self) -> Tensor:
        """Predictive standard deviations of numbers, or of outputs that are 0 or 1, as ``mean``.

        :raises InputError: for classes.
        """
        if self.tasks.is_classification:
            raise InputError("targets are classes, which have no deviations; expected a regression")
        return (self.mean * (1 - self.mean) if self.is_binary else self.total).sqrt()

    def by_output(self) -> "Predictions":
        """Of outputs that are 0 or 1: a classification with a sample for each output of each.

        Samples come in the set's order, the K outputs of each one after the other; so what looks
        at classes (calibration, uncertainty, pictures) looks at them.

        :raises InputError: for outputs that are not 0 or 1.
        """
        if not self.is_binary:
            raise InputError("the outputs are not 0 or 1; expected those of Bernoulli outputs")
        tasks = self.tasks
        count = tasks.num_outputs
        y = tasks.y.reshape(-1)
        chance = self.mean.reshape(-1)
        came = torch.where(y.cpu() > 0, chance, 1 - chance)
        # A chance that rounds to 0 is small, not impossible; metrics take the same for it.
        log_density = came.clamp_min(torch.finfo(came.dtype).tiny).log()
        return Predictions(
            TaskSet(
                names=tasks.names,
                x=tasks.x.repeat_interleave(count, 0),
                y=torch.where(y.isnan(), -1, y).long(),
                task=tasks.task.repeat_interleave(count),
                classes=("0", "1"),
                truth=tasks.truth,
            ),
            torch.stack([1 - chance, chance], -1),
            log_density.masked_fill(y.isnan().cpu(), torch.nan),
            self.total.reshape(-1),
            self.aleatoric.reshape(-1),
            self.epistemic.reshape(-1),
        )

    def metrics(self, training: TaskSet | None = None) -> dict[str, dict[str, float | None]]:
        """``{task: {metric: value}, "mean": {...}}`` over the labelled samples.

        None stands for what cannot be measured, on a task without labelled samples. Outputs that
        are 0 or 1 are scored as classes, all outputs together.

        :param training: what was trained on, to score the classes that a task had no training
            sample of apart (:func:`pyro_vmtl.inference.category_shift_metrics`).
        :raises InputError: without a labelled sample, or for training data of other tasks or
            classes.
        """
        if self.is_binary:
            return self.by_output().metrics()
        for thing in () if training is None else ("names", "classes"):
            ours, theirs = getattr(self.tasks, thing), getattr(training, thing)
            if ours != theirs:
                raise InputError(
                    f"the training data have the {thing} {theirs}; expected those predicted, {ours}"
                )
        values = {}
        labelled = self.tasks.labelled.cpu()
        task = self.tasks.task.cpu()
        for t, name in enumerate(self.tasks.names):
            rows = (labelled & (task == t)).nonzero().squeeze(-1)
            if len(rows):
                values[name] = self._metrics_of(rows)
                if training is not None and self.tasks.is_classification:
                    seen = training.class_counts[t] > 0
                    values[name] |= category_shift_metrics(
                        self.mean[rows], self.tasks.y.cpu()[rows], seen
                    )
        if not values:
            raise InputError("the task set has no labelled sample; expected some to score")
        return metrics_per_task(values)

    def _metrics_of(self, rows: Tensor) -> dict[str, float]:
        targets = self.tasks.y.cpu()[rows]
        if self.draws is None:
            return classification_metrics(self.mean[rows], targets)
        return regression_metrics(
            self.mean[rows], self.log_density[rows], self.draws[:, rows], targets
        )

    def interval(self, coverage: float = 0.9) -> tuple[Tensor, Tensor]:
        """The ends of equal-tailed intervals of the targets of a regression, of the draws.

        :param coverage: the probability that an interval holds.
        :return: lower and upper end, ``[N]`` or ``[N, K]`` each, in the targets' unit.
        :raises InputError: for classes, or a coverage outside (0, 1).
        """
        if self.draws is None:
            raise InputError(
                "targets are classes, or 0 or 1, which have no intervals; expected a regression"
            )
        if not 0 < coverage < 1:
            raise InputError(f"coverage is {coverage}; expected a number between 0 and 1")
        ends = self.draws.new_tensor([(1 - coverage) / 2, (1 + coverage) / 2])
        low, high = torch.quantile(self.draws, ends, dim=0)
        return low, high

    def frame(self) -> pd.DataFrame:
        """A row per sample: task, target, prediction, and how sure it is.

        For classes the prediction is the most probable one, and each has its probability (of an
        output that is 0 or 1, ``probability`` is that of 1); ``total``, ``aleatoric`` and
        ``epistemic`` are in nats. In a regression ``sd`` and a 90% interval from ``low`` to
        ``high`` are in the unit of the target, and ``total``, ``aleatoric`` and ``epistemic`` are
        variances, in its square.
        """
        tasks = self.tasks
        names = np.array(tasks.names, dtype=object)
        columns: dict[str, object] = {"task": names[tasks.task.cpu().numpy()]}
        y = tasks.y.cpu()
        if tasks.classes is not None:
            classes = np.array([*tasks.classes, None], dtype=object)
            columns["target"] = classes[y.numpy()]  # -1, a missing label, picks the None
            columns["prediction"] = classes[self.mean.argmax(-1).numpy()]
            for c, name in enumerate(tasks.classes):
                columns[f"probability {name}"] = self.mean[:, c].numpy()
        else:
            outputs = [""] if y.dim() == 1 else [f" {name}" for name in tasks.outputs or ()]
            parts = {"target": y}
            if self.is_binary:
                parts |= {"prediction": (self.mean > 0.5).float(), "probability": self.mean}
            else:
                low, high = self.interval()
                parts |= {"prediction": self.mean, "sd": self.sd}
                parts |= {"low": low, "high": high}
            for k, output in enumerate(outputs):
                for name, value in parts.items():
                    columns[f"{name}{output}"] = (value if y.dim() == 1 else value[:, k]).numpy()
        for name in ("total", "aleatoric", "epistemic"):
            value = getattr(self, name)
            if value.dim() == 1:
                columns[name] = value.numpy()
            else:
                for k, output in enumerate(tasks.outputs or ()):
                    columns[f"{name} {output}"] = value[:, k].numpy()
        columns["log_density"] = self.log_density.numpy()
        return pd.DataFrame(columns)


@torch.no_grad()
def predict(
    vmtl: VMTL,
    tasks: TaskSet,
    num_samples: int = 200,
    batch_size: int | None = None,
    seed: int = 0,
) -> Predictions:
    """Predict every sample, averaging the likelihood over posterior draws of z and w.

    :param vmtl: a fitted model; it predicts on the device of its parameters.
    :param tasks: with the same tasks in the same order as in training.
    :param num_samples: S, draws of weights and representations.
    :param batch_size: samples per task at once; None keeps an array of draws under 64 MB.
    :param seed: of the draws; the same weights are drawn for every sample.
    :raises InputError: where the task set does not fit the model.
    """
    _check(vmtl, tasks, num_samples, batch_size)
    if tasks.is_classification and _is_certain(vmtl):
        num_samples = 1  # every draw says the same
    device = vmtl.device
    if batch_size is None:
        width = vmtl.encoder.latent_dim + 2 * tasks.num_outputs
        batch_size = max(1, 2**24 // (num_samples * tasks.num_tasks * width))
    pieces: list[_Piece] = []
    rows: list[Tensor] = []
    with fixed_noise(seed, device), evaluating(vmtl):
        weights: Tensor | None = None
        moments = _moments(vmtl, num_samples)
        for batch in _chunks(tasks, batch_size):
            batch = batch.to(device)
            if moments is not None:
                piece = _predict_conjugate(vmtl, batch, moments, num_samples)
            else:
                piece, weights = _predict_batch(vmtl, batch, num_samples, weights)
            present = batch.index >= 0
            pieces.append(piece.pick(present))
            rows.append(batch.index[present].cpu())
    order = torch.cat(rows).argsort()
    joined = _Piece.join(pieces)
    log_density = joined.log_density[order]
    log_density[~tasks.labelled.cpu()] = torch.nan
    return Predictions(
        tasks,
        joined.mean[order],
        log_density,
        joined.total[order],
        joined.aleatoric[order],
        joined.epistemic[order],
        None if joined.draws is None else joined.draws[:, order],
        is_binary=vmtl.likelihood.is_binary,
    )


def _check(vmtl: VMTL, tasks: TaskSet, num_samples: int, batch_size: int | None) -> None:
    if tasks.num_tasks != vmtl.num_tasks:
        raise InputError(
            f"the task set has {tasks.num_tasks} tasks; the model was built for {vmtl.num_tasks}"
        )
    expected = vmtl.likelihood.num_classes or vmtl.likelihood.num_outputs
    if tasks.num_outputs != expected:
        raise InputError(
            f"the task set has {tasks.num_outputs} classes or outputs; the model was built for "
            f"{expected}"
        )
    shape = vmtl.encoder.input_shape
    if shape is not None and tasks.input_shape != shape:
        raise InputError(
            f"a sample has shape {list(tasks.input_shape)}; the model's encoder was built for "
            f"{list(shape)}"
        )
    if len(tasks) == 0:
        raise InputError("the task set has no samples; expected some to predict")
    vmtl.likelihood.check(tasks)
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; expected at least 1")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1")


def _chunks(tasks: TaskSet, batch_size: int) -> Iterator[Batch]:
    """Every sample once, at most ``batch_size`` of each task at a time."""
    longest = int(torch.bincount(tasks.task, minlength=tasks.num_tasks).max())
    if longest <= batch_size:
        yield tasks.dense()
        return
    by_task = [tasks.indices(t) for t in range(tasks.num_tasks)]
    for start in range(0, longest, batch_size):
        rows = [index[start : start + batch_size] for index in by_task]
        subset = torch.cat(rows)
        batch = tasks.subset(subset).dense()
        batch.index = torch.where(batch.index >= 0, subset[batch.index.clamp_min(0)], -1)
        yield batch


def _is_certain(vmtl: VMTL) -> bool:
    """Whether weights and representations are functions of the input, and not drawn."""
    return vmtl.classifier.is_point and vmtl.encoder.is_function


class _Piece(NamedTuple):
    """The fields of :class:`Predictions` for one batch, ``[T, B]`` or already flat ``[n]``."""

    mean: Tensor
    log_density: Tensor
    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    draws: Tensor | None = None

    def pick(self, present: Tensor) -> "_Piece":
        return _Piece(
            self.mean[present].cpu(),
            self.log_density[present].cpu(),
            self.total[present].cpu(),
            self.aleatoric[present].cpu(),
            self.epistemic[present].cpu(),
            None if self.draws is None else self.draws[:, present].cpu(),
        )

    @staticmethod
    def join(pieces: list["_Piece"]) -> "_Piece":
        draws = [piece.draws for piece in pieces if piece.draws is not None]
        return _Piece(
            torch.cat([piece.mean for piece in pieces]),
            torch.cat([piece.log_density for piece in pieces]),
            torch.cat([piece.total for piece in pieces]),
            torch.cat([piece.aleatoric for piece in pieces]),
            torch.cat([piece.epistemic for piece in pieces]),
            torch.cat(draws, 1) if draws else None,
        )


class _Moments(NamedTuple):
    """q(w) given each of S draws: ``[S, T, K, q]``, ``[S, T, K, q, q]``; noise ``[S, T, K]``."""

    loc: Tensor
    covariance: Tensor
    noise: Tensor


def _moments(vmtl: VMTL, num_samples: int) -> _Moments | None:
    """Of conjugate weights, given their draws of partitions and scales, evenly thinned."""
    if not vmtl.classifier.is_conjugate:
        return None
    classifier = conjugate_weights(vmtl)
    loc, covariance = classifier.by_draw()
    noise = classifier.noise_by_draw()
    chosen = torch.linspace(0, len(loc) - 1, min(num_samples, len(loc)), device=loc.device).long()
    return _Moments(loc[chosen], covariance[chosen], noise[chosen])


def _predict_conjugate(vmtl: VMTL, batch: Batch, moments: _Moments, num_samples: int) -> _Piece:
    """Weights given a draw are Gaussian, and so is eta: no weights need to be drawn.

    Where draws are fewer than half of the samples that are wanted, eta is drawn from each of them
    as often as that takes.
    """
    classifier = conjugate_weights(vmtl)
    law = vmtl.encoder(batch.x)
    count = len(moments.loc)
    representations = law.sample(torch.Size([count])) if vmtl.encoder.has_density else law.sample()
    features = with_bias(representations.double(), classifier.event_shape[-1])
    loc, variance = classifier.predictor(features, moments.loc, moments.covariance)
    noise = moments.noise.unsqueeze(2)
    often = max(1, num_samples // count)
    loc, variance, noise = (part.repeat(often, 1, 1, 1) for part in (loc, variance, noise))
    likelihood, given = vmtl.likelihood.components(loc, variance, noise)
    if isinstance(likelihood, torch.distributions.Categorical):
        return _classification(likelihood, batch)
    return _regression(likelihood, vmtl, batch, given)


def _predict_batch(
    vmtl: VMTL, batch: Batch, num_samples: int, weights: Tensor | None
) -> tuple[_Piece, Tensor]:
    guide = vmtl.guide if weights is None else poutine.condition(vmtl.guide, {"weights": weights})
    with pyro.plate("draws", num_samples, dim=-3):
        trace = poutine.trace(guide).get_trace(batch, observed=False)
    drawn = trace.nodes["weights"]["value"]
    if vmtl.encoder.is_function:
        representations = vmtl.encoder(batch.x).mean
    else:
        representations = trace.nodes["representations"]["value"]
    assert drawn is not None
    assert representations is not None
    likelihood = vmtl.likelihood(representations, drawn)
    if isinstance(likelihood, torch.distributions.Categorical):
        return _classification(likelihood, batch), drawn
    return _regression(likelihood, vmtl, batch), drawn


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(-1)


def _binary_entropy(chance: Tensor) -> Tensor:
    return torch.special.entr(chance) + torch.special.entr(1 - chance)


def _classification(likelihood: torch.distributions.Categorical, batch: Batch) -> _Piece:
    probabilities = likelihood.logits.softmax(-1)
    mean = probabilities.mean(0)
    # From log probabilities: a target that every draw thinks impossible has -1e3, not log(0).
    at_target = likelihood.logits.log_softmax(-1).logsumexp(0) - math.log(len(probabilities))
    log_density = at_target.gather(-1, batch.y.unsqueeze(-1)).squeeze(-1)
    total, aleatoric = _entropy(mean), _entropy(probabilities).mean(0)
    epistemic = (total - aleatoric).clamp_min(0)
    return _Piece(mean, log_density, total, aleatoric, epistemic)


def _regression(
    likelihood: dist.TorchDistribution,
    vmtl: VMTL,
    batch: Batch,
    given: torch.distributions.Distribution | None = None,
) -> _Piece:
    """A mixture over draws.

    :param likelihood: a component for every draw.
    :param given: the same with the weights known, where components integrate over them.
    """
    means = likelihood.mean
    mean = means.mean(0)
    targets = vmtl.likelihood.filled(batch).to(means.dtype)
    density = of_known(likelihood, batch.known).log_prob(targets)
    log_density = density.logsumexp(0) - math.log(len(density))
    if vmtl.likelihood.is_binary:
        total, aleatoric = _binary_entropy(mean), _binary_entropy(means).mean(0)
        return _Piece(mean, log_density, total, aleatoric, (total - aleatoric).clamp_min(0))
    aleatoric = (likelihood if given is None else given).variance.mean(0)
    epistemic = means.var(0, correction=0) + likelihood.variance.mean(0) - aleatoric
    draws = likelihood.sample()
    return _Piece(mean, log_density, aleatoric + epistemic, aleatoric, epistemic, draws)
