r"""One number for stated confidence, fitted on validation data: temperature scaling.

A fitted model may state too much or too little confidence. Temperature scaling (Guo, Pleiss, Sun,
Weinberger 2017) raises its predictive distribution to the power 1 / T and normalises it again; T is
what predicts labelled validation samples best. Above 1 it takes confidence away, below 1 it adds
some; which class is the most probable, and which mean is predicted, stays as it was.

- Classes: :math:`p_T(c) \propto p(c)^{1/T}`, with p the posterior-predictive probabilities,
  averaged over draws. Total uncertainty is the entropy of :math:`p_T`; its parts keep their shares,
  since one number says how much confidence was missing, and not of which kind.
- Real targets: the predictive distribution is stretched around its mean m until its variance is T
  times what it was, :math:`p_T(y) = T^{-K/2}\, p(m + (y - m) / \sqrt{T})` for K outputs. Of a
  Gaussian that is the power 1 / T. Draws and every part of the variance are stretched alike.

T is an estimate: its standard error comes from the curvature of the validation density in log T,
and is of the size of :math:`\sqrt{2 / N}` for N real targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inference.predict import Predictions

__all__ = ["LARGEST_ERROR", "TEMPERATURES", "ScaledVMTL", "scale_temperature"]

TEMPERATURES = (0.05, 20.0)
"""Between these a temperature is looked for. None inside is best where every class came out right
(any confidence would be too little), or where predictions are no better than chance."""

LARGEST_ERROR = 0.25
"""The standard error of log T up to which a task's own validation samples give it its own T."""

_Z95 = 1.959964
_STEP = 0.05  # in log T, of the differences that the curvature is taken from
_TOLERANCE = 1e-4  # in log T; standard errors are a hundred times as large
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class ScaledVMTL(FittedVMTL):
    """A fitted model whose predictive distributions are scaled by temperatures.

    It is a fitted model in all else, and is saved and loaded as one.

    :ivar temperature: T of each task.
    :ivar standard_error: of log T, for each task; NaN where no temperature could be fitted.
    :ivar samples: labelled validation samples that each temperature was fitted to.
    :ivar own: whether a task has a temperature of its own, or that of all tasks.
    :ivar scaling_warnings: what a reader should know before trusting the temperatures.
    """

    temperature: tuple[float, ...] = ()
    standard_error: tuple[float, ...] = ()
    samples: tuple[int, ...] = ()
    own: tuple[bool, ...] = ()
    scaling_warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, fitted: FittedVMTL, **temperatures: Any) -> ScaledVMTL:
        """A model, and the fields that say how it is scaled.

        :raises ValueError: where they are not one for each task, or no temperatures.
        """
        scaled = cls(**_fields(fitted), **temperatures)
        for name in ("temperature", "standard_error", "samples", "own"):
            if len(getattr(scaled, name)) != len(fitted.names):
                raise ValueError(f"{name} is not one for each task")
        if not all(math.isfinite(value) and value > 0 for value in scaled.temperature):
            raise ValueError(f"temperature is {scaled.temperature}")
        return scaled

    @property
    def fitted(self) -> FittedVMTL:
        """The model as it was, without temperatures."""
        return FittedVMTL(**_fields(self))

    def predict(
        self,
        tasks: TaskSet,
        num_samples: int = 200,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> Predictions:
        """Scaled posterior-predictive distributions; see :func:`pyro_vmtl.predict`.

        :param num_samples: posterior draws; as many as the temperature was fitted with, or more.
        """
        temperature = torch.tensor(self.temperature)
        predictions = self.fitted.predict(tasks, num_samples, batch_size, seed)
        density = _density(self.fitted, predictions, num_samples, batch_size, seed)
        return _scaled(predictions, temperature, density)

    def add_task(self, tasks: TaskSet, seed: int = 0) -> FittedVMTL:
        """New tasks have no temperature.

        :raises InputError: always.
        """
        raise InputError(
            "the model is scaled by the temperatures of the tasks that it knows; expected "
            "scaled.fitted.add_task(...), to be scaled again"
        )

    def forget(self, what: str | TaskSet, rest: TaskSet | None = None, seed: int = 0) -> FittedVMTL:
        """The temperatures have seen every task.

        :raises InputError: always.
        """
        raise InputError(
            "the model is scaled by temperatures that have seen every task; expected "
            "scaled.fitted.forget(...), to be scaled again"
        )

    def frame(self) -> pd.DataFrame:
        """A row per task: ``task, temperature, standard_error, low, high, samples, own``.

        ``standard_error`` is that of log T, about the relative error of T; ``low`` and ``high``
        bound a 95% interval of T.
        """
        temperature, error = pd.Series(self.temperature), pd.Series(self.standard_error)
        return pd.DataFrame(
            {
                "task": self.names,
                "temperature": temperature,
                "standard_error": error,
                "low": temperature * (-_Z95 * error).map(math.exp),
                "high": temperature * (_Z95 * error).map(math.exp),
                "samples": self.samples,
                "own": self.own,
            }
        )


def scale_temperature(
    fitted: FittedVMTL,
    validation: TaskSet,
    *,
    per_task: bool = False,
    num_samples: int = 200,
    batch_size: int | None = None,
    seed: int = 0,
) -> ScaledVMTL:
    """Fit a temperature to labelled validation samples, by their log predictive density.

    Example::

        fitted = pv.fit(splits.train, splits.validation)
        scaled = pv.scale_temperature(fitted, splits.validation)
        print(scaled.frame())  # the temperature and how well it is known
        print(fitted.predict(splits.test).metrics()["mean"])
        print(scaled.predict(splits.test).metrics()["mean"])

    Never fit it to test samples: their scores would be those of a model that has seen them. The
    score of the validation samples themselves is a little too good, by about a nat in all for each
    temperature; where they also chose the epoch, that comes on top.

    :param validation: labelled samples of the same tasks, not of training.
    :param per_task: a temperature for each task whose own samples give it to within
        :data:`LARGEST_ERROR` in log T; the other tasks take that of all.
    :param num_samples: posterior draws.
    :param batch_size: samples per task at once.
    :param seed: of the draws.
    :raises InputError: for a set without a labelled sample.
    """
    if isinstance(fitted, ScaledVMTL):
        fitted = fitted.fitted
    if not bool(validation.labelled.any()):
        raise InputError(
            "the validation set has no labelled sample; expected some to fit a temperature to"
        )
    if fitted.vmtl.likelihood.is_binary:
        raise InputError(
            "the outputs are 0 or 1, several at once, which have no temperature of their own; "
            "expected one target of classes, or numbers"
        )
    predictions = fitted.predict(validation, num_samples, batch_size, seed)
    density = _density(fitted, predictions, num_samples, batch_size, seed)
    labelled = validation.labelled.cpu()
    task = validation.task.cpu()[labelled]
    count = validation.num_tasks
    sizes = torch.bincount(task, minlength=count)

    def of_tasks(log_temperature: Tensor) -> Tensor:
        """Minus the log density of each task's samples, ``[T]``, at a temperature for each."""
        value = density(log_temperature.exp())[labelled].double()
        return -torch.zeros(count, dtype=value.dtype).index_add(0, task, value)

    def of_all(log_temperature: Tensor) -> Tensor:
        return of_tasks(log_temperature.expand(count)).sum().unsqueeze(0)

    shared, error, ends = _minimum(of_all, 1)
    total = int(sizes.sum())
    warnings = []
    if bool(ends[0]):
        warnings.append(_at_the_end(float(shared[0].exp()), total))
        shared = torch.zeros_like(shared)  # T = 1, no scaling: the data do not say which
    temperature, errors = shared.expand(count), error.expand(count)
    own = torch.zeros(count, dtype=torch.bool)
    if per_task:
        best, best_error, ends = _minimum(of_tasks, count)
        own = (sizes > 0) & ~ends & (best_error <= LARGEST_ERROR)  # not where it is NaN
        temperature = torch.where(own, best, temperature)
        errors = torch.where(own, best_error, errors)
    return ScaledVMTL.of(
        fitted,
        temperature=tuple(temperature.exp().tolist()),
        standard_error=tuple(errors.tolist()),
        samples=tuple(torch.where(own, sizes, total).tolist()),
        own=tuple(own.tolist()),
        scaling_warnings=tuple(warnings),
    )


def _fields(fitted: FittedVMTL) -> dict[str, Any]:
    return {field.name: getattr(fitted, field.name) for field in fields(FittedVMTL)}


def _at_the_end(temperature: float, count: int) -> str:
    samples = f"the {count} labelled validation sample" + ("s" if count > 1 else "")
    if temperature < 1:
        why = "there is no error among them, so any confidence would be too little"
    else:
        why = "predictions are no better there than saying nothing"
    return (
        f"No temperature between {TEMPERATURES[0]:g} and {TEMPERATURES[1]:g} fits {samples} best: "
        f"{why}. Predictions were left as they were (temperature 1); use more validation samples."
    )


_Density = Callable[[Tensor], Tensor]
"""From a temperature for each task ``[T]`` to the log density of each sample ``[N]``."""


def _density(
    fitted: FittedVMTL,
    predictions: Predictions,
    num_samples: int,
    batch_size: int | None,
    seed: int,
) -> _Density:
    tasks = predictions.tasks
    task = tasks.task.cpu()
    if predictions.draws is None:

        def of_classes(temperature: Tensor) -> Tensor:
            scaled = _log_probabilities(predictions, temperature)
            target = tasks.y.cpu().clamp_min(0).unsqueeze(-1)  # -1 is a missing label
            at_target = scaled.gather(-1, target).squeeze(-1)
            return at_target.masked_fill(~tasks.labelled.cpu(), torch.nan)

        return of_classes

    def of_reals(temperature: Tensor) -> Tensor:
        """The density of the same draws, asked at targets moved away from or to the mean."""
        stretch = _per_sample(temperature.sqrt()[task], predictions.mean)
        moved = predictions.mean + (tasks.y.cpu() - predictions.mean) / stretch
        asked = replace(tasks, y=moved.to(tasks.y))
        value = fitted.predict(asked, num_samples, batch_size, seed).log_density
        outputs = tasks.known.cpu().sum(-1)
        return value - outputs * temperature[task].log() / 2

    return of_reals


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """A number a sample ``[N]``, of the dimensions of ``[N]`` or ``[N, K]``."""
    return values.to(like).reshape(-1, *[1] * (like.dim() - 1))


def _log_probabilities(predictions: Predictions, temperature: Tensor) -> Tensor:
    """log p_T of every class, ``[N, C]`` in float64."""
    mean = predictions.mean
    # A probability that rounds to 0 is small, not impossible; metrics take the same for it.
    logs = mean.double().clamp_min(torch.finfo(mean.dtype).tiny).log()
    task = predictions.tasks.task.cpu()
    return (logs / temperature.double()[task].unsqueeze(-1)).log_softmax(-1)


def _scaled(predictions: Predictions, temperature: Tensor, density: _Density) -> Predictions:
    """Predictions at a temperature for each task.

    :param temperature: ``[T]``.
    :param density: the log density of each sample ``[N]`` at such temperatures.
    """
    log_density = density(temperature).to(predictions.log_density)
    if predictions.draws is None:
        mean = _log_probabilities(predictions, temperature).exp()
        total = torch.special.entr(mean).sum(-1).to(predictions.total)
        share = predictions.aleatoric / predictions.total.clamp_min(torch.finfo(total.dtype).tiny)
        aleatoric = total * share.clamp(0, 1)
        return replace(
            predictions,
            mean=mean.to(predictions.mean),
            log_density=log_density,
            total=total,
            aleatoric=aleatoric,
            epistemic=total - aleatoric,
        )
    factor = _per_sample(temperature[predictions.tasks.task.cpu()], predictions.mean)
    return replace(
        predictions,
        log_density=log_density,
        total=predictions.total * factor,
        aleatoric=predictions.aleatoric * factor,
        epistemic=predictions.epistemic * factor,
        draws=predictions.mean + (predictions.draws - predictions.mean) * factor.sqrt(),
    )


def _minimum(objective: Callable[[Tensor], Tensor], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Golden-section search in log T for ``count`` functions at once; each has one valley.

    :return: where each is least, the standard error that its curvature gives (NaN where it has
        none), and whether it is least at an end of the range.
    """
    low, high = (torch.full((count,), math.log(end), dtype=torch.double) for end in TEMPERATURES)
    inner, outer = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_inner, at_outer = objective(inner), objective(outer)
    while float((high - low).max()) > _TOLERANCE:
        left = at_inner <= at_outer
        low, high = torch.where(left, low, inner), torch.where(left, outer, high)
        # Of the two points within, one is a point that is known.
        known, value = torch.where(left, inner, outer), torch.where(left, at_inner, at_outer)
        new = torch.where(left, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        at_new = objective(new)
        inner, outer = torch.where(left, new, known), torch.where(left, known, new)
        at_inner, at_outer = torch.where(left, at_new, value), torch.where(left, value, at_new)
    best = (low + high) / 2
    around = (objective(best - _STEP) - 2 * objective(best) + objective(best + _STEP)) / _STEP**2
    error = around.clamp_min(0).rsqrt()
    error = error.where(error.isfinite(), torch.nan)
    first, last = (math.log(end) for end in TEMPERATURES)
    ends = (best - first < 10 * _TOLERANCE) | (last - best < 10 * _TOLERANCE)
    return best, error.where(~ends, torch.nan), ends
