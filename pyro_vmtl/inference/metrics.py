r"""How good predictions are, and how honest: metrics of one task, and of all tasks together.

Classes, from posterior-predictive probabilities :math:`p_n` and the class :math:`y_n` that came:

- ``accuracy``: the share of samples whose most probable class is :math:`y_n`;
- ``nll``: :math:`-\frac1N \sum_n \log p_n(y_n)`, in nats;
- ``brier``: :math:`\frac1N \sum_n \sum_c (p_n(c) - [y_n = c])^2`, from 0 to 2 (Brier 1950);
- ``ece``: expected calibration error of the most probable class in 15 equal-width bins of its
  probability (Guo, Pleiss, Sun, Weinberger 2017). It is not 0 for a perfect model on finitely many
  samples: :func:`calibration_range` says what to hold it against.

Where a task is tested on classes of which it had no training sample (Shen, Xiao, Zhen, Snoek,
Worring 2022), also ``accuracy_seen`` and ``accuracy_missing``, over the samples of classes that it
had and of those that it had not, and ``harmonic_mean``, that of the two, 0 where either is.

Real targets, from the mean, the log density and draws of the posterior predictive:

- ``nmse``: mean squared error divided by the variance of the same task's targets (population
  variance: divided by N), the mean of that ratio over outputs; 1 is what predicting the targets'
  own mean scores;
- ``rmse``: root of the mean squared error over samples and outputs, in the targets' unit;
- ``nll``: minus the mean log density of a sample, in nats, jointly over outputs;
- ``crps``: continuous ranked probability score, the mean over samples and outputs, in the targets'
  unit; the fair estimator, unbiased for the predictive distribution whatever the number of draws
  (Zamo and Naveau 2018);
- ``coverage_90``: the share of targets inside the central 90% interval of their draws.
"""

import math
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import nll_loss, one_hot
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.classification import binary_calibration_error, multiclass_accuracy

from pyro_vmtl.errors import InputError

__all__ = [
    "calibration_range",
    "category_shift_metrics",
    "classification_metrics",
    "metrics_per_task",
    "regression_metrics",
]

_BINS = 15

# Averages of float32 probabilities sum to 1 within 1e-6; half precision needs what is left.
_SUM_TOLERANCE = 1e-2

# Outcomes that are drawn at a time: 32 MB in float64.
_MOST_OUTCOMES = 2**22

# The largest number below 1: torchmetrics gives a confidence of exactly 1 a sixteenth bin.
_BELOW_ONE = math.nextafter(1.0, 0.0)


def classification_metrics(probabilities: Tensor, targets: Tensor) -> dict[str, float]:
    """Accuracy, NLL, Brier score and expected calibration error of one task.

    :param probabilities: posterior-predictive class probabilities, ``[N, C]``, rows that sum to 1.
    :param targets: the classes that came, integers from 0 to C - 1, ``[N]``; labelled samples only.
    :return: ``accuracy``, ``nll`` (nats), ``brier``, ``ece``; nothing when N is 0.
    :raises InputError: if a shape, a probability or a target is not as said.
    """
    _check_probabilities(probabilities)
    _check_classes(targets, *probabilities.shape)
    if not len(targets):
        return {}
    # A probability that an average of float32 softmaxes rounds to 0 is small, not impossible: the
    # smallest normal number of its type keeps one such sample from making the mean infinite.
    smallest = torch.finfo(probabilities.dtype).tiny
    probabilities = probabilities.detach().double().cpu()
    targets = targets.detach().long().cpu()
    num_classes = probabilities.shape[-1]
    # Rounding leaves a little more than 1 behind, which the scores refuse or take for a logit.
    clamped = probabilities.clamp(0, 1)
    brier = (clamped - one_hot(targets, num_classes)).square().sum(-1).mean()
    confidence, predicted = clamped.max(-1)
    return {
        "accuracy": multiclass_accuracy(predicted, targets, num_classes, average="micro").item(),
        "nll": nll_loss(probabilities.clamp_min(smallest).log(), targets).item(),
        "brier": brier.item(),
        "ece": _calibration_error(confidence, predicted == targets, _BINS),
    }


def category_shift_metrics(
    probabilities: Tensor, targets: Tensor, seen: Tensor
) -> dict[str, float]:
    """Accuracy on classes with and without training samples of one task, and their harmonic mean.

    Shen, Xiao, Zhen, Snoek, Worring: Association Graph Learning for Multi-Task Classification with
    Category Shifts. NeurIPS 2022.

    :param probabilities: posterior-predictive class probabilities, ``[N, C]``, rows that sum to 1.
    :param targets: the classes that came, integers from 0 to C - 1, ``[N]``; labelled samples only.
    :param seen: whether the task had training samples of a class, ``[C]`` bool.
    :return: ``accuracy_seen``, ``accuracy_missing``, ``harmonic_mean``; nothing unless there are
        samples of both kinds.
    :raises InputError: if a shape, a probability or a target is not as said.
    """
    _check_probabilities(probabilities)
    _check_classes(targets, *probabilities.shape)
    if seen.shape != probabilities.shape[-1:] or seen.dtype != torch.bool:
        raise InputError(
            f"seen has the shape {_shape(seen)} and the type {seen.dtype}, and truth values "
            f"[{probabilities.shape[-1]}], one a class, were expected."
        )
    targets, is_seen = targets.cpu(), seen.cpu()[targets.cpu()]
    if is_seen.all() or not is_seen.any():
        return {}
    is_right = (probabilities.cpu().argmax(-1) == targets).double()
    known, unknown = is_right[is_seen].mean().item(), is_right[~is_seen].mean().item()
    harmonic = 2 * known * unknown / (known + unknown) if known and unknown else 0.0
    return {"accuracy_seen": known, "accuracy_missing": unknown, "harmonic_mean": harmonic}


def calibration_range(
    probabilities: Tensor,
    bins: int = _BINS,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """The central range of ECE that perfect calibration would score with these very probabilities.

    Finitely many samples scatter around their own probabilities, so the ECE of a calibrated model
    is not 0 and grows as samples get fewer. Outcomes are drawn from the probabilities, the ECE of
    every drawn set is taken, and the central ``level`` of them is returned: an ECE above ``high``
    is miscalibration, one within the range is not evidence of it.

    :param probabilities: posterior-predictive class probabilities, ``[N, C]``, N at least 1.
    :param bins: equal-width bins of the most probable class's probability, as in ``ece``.
    :param draws: how many sets of outcomes to draw.
    :param seed: of the draws; the same seed gives the same range.
    :param level: the share of the drawn errors that lies in the range, between 0 and 1.
    :return: ``(low, high)``.
    :raises InputError: if an argument is not as said.
    """
    _check_probabilities(probabilities)
    if not len(probabilities):
        raise InputError("probabilities hold no sample, and calibration needs at least one.")
    for name, count in (("bins", bins), ("draws", draws)):
        if count < 1:
            raise InputError(f"{name} is {count}, and at least 1 was expected.")
    if not 0 < level < 1:
        raise InputError(f"level is {level}, and a share between 0 and 1 was expected.")
    generator = torch.Generator().manual_seed(seed)
    # Only whether the most probable class came matters to ECE, so only that is drawn. Sorted: the
    # range belongs to the set of samples and not to their order.
    confidence = probabilities.detach().double().cpu().clamp(0, 1).amax(-1).sort().values
    at_once = max(1, _MOST_OUTCOMES // len(confidence))
    errors = torch.cat(
        [
            _calibration_errors(
                confidence,
                torch.bernoulli(
                    confidence.expand(min(at_once, draws - start), -1), generator=generator
                ),
                bins,
            )
            for start in range(0, draws, at_once)
        ]
    )
    low, high = np.quantile(errors.numpy(), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def regression_metrics(
    mean: Tensor, log_density: Tensor, draws: Tensor, targets: Tensor
) -> dict[str, float]:
    """NMSE, RMSE, NLL, CRPS and coverage of 90% intervals of one task.

    Targets that are all equal have no variance: ``nmse`` is then NaN, and a warning says so.

    :param mean: posterior-predictive means, ``[N]`` or ``[N, K]``, in the targets' unit.
    :param log_density: log posterior-predictive density at the targets, ``[N]``: the log of the
        density averaged over draws, jointly over outputs.
    :param draws: posterior-predictive draws of the targets, noise included, ``[S, N]`` or
        ``[S, N, K]``, S at least 2. Below 19 draws no interval can hold 90%: ``coverage_90`` is
        then that of the draws' whole range.
    :param targets: the values that came, ``[N]`` or ``[N, K]``; labelled samples only. NaN stands
        for an output that is not known: scores are of those that are.
    :return: ``nmse``, ``rmse``, ``nll`` (nats), ``crps``, ``coverage_90``; nothing when N is 0.
    :raises InputError: if a shape or a value is not as said.
    """
    _check_regression(mean, log_density, draws, targets)
    if not len(targets):
        return {}
    # K outputs always, in float64: scores are differences of numbers that may be close.
    mean, targets = (x.detach().double().cpu().reshape(len(x), -1) for x in (mean, targets))
    draws = draws.detach().double().cpu().reshape(*draws.shape[:2], -1)
    return {
        "nmse": _normalised_squared_error(mean, targets),
        "rmse": (mean - targets).square().nanmean().sqrt().item(),
        "nll": -log_density.detach().double().mean().item(),
        "crps": _ranked_probability_score(draws, targets),
        "coverage_90": _coverage(draws, targets, 0.9),
    }


def metrics_per_task(
    values_by_task: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, float | None]]:
    """The tasks' metrics side by side, and under ``mean`` their mean over tasks.

    Every task counts once, however many samples it has. What a task does not have is ``None``,
    never 0, and the mean is over the tasks that have it: a task without labelled samples hands in
    nothing (``{}``), and a metric that is not defined for a task is NaN or absent.

    :param values_by_task: a task's name to its metrics.
    :return: task to metric to value, the tasks in their order and ``mean`` last; every entry has
        the same metrics, and none is NaN, which JSON has no word for.
    :raises InputError: if a task is called ``mean``.
    """
    if "mean" in values_by_task:
        raise InputError("A task is called 'mean', and that name is kept for the mean over tasks.")
    metrics = list(dict.fromkeys(name for values in values_by_task.values() for name in values))
    table: dict[str, dict[str, float | None]] = {
        task: {name: _defined(values.get(name)) for name in metrics}
        for task, values in values_by_task.items()
    }
    table["mean"] = {name: _mean([row[name] for row in table.values()]) for name in metrics}
    return table


def _calibration_error(confidence: Tensor, correct: Tensor, bins: int) -> float:
    """ECE of ``[N]`` confidences, given which of them came true."""
    # torchmetrics' binary form is the top-label error itself, and the only one in float64.
    error = binary_calibration_error(
        confidence.clamp_max(_BELOW_ONE), correct.long(), n_bins=bins, validate_args=False
    )
    return error.item()


def _calibration_errors(confidence: Tensor, correct: Tensor, bins: int) -> Tensor:
    """ECE ``[S]`` of S sets of outcomes ``[S, N]``, 0 or 1, of the same sorted confidences ``[N]``.

    With N_b samples in bin b, N ECE = sum_b N_b |accuracy_b - confidence_b|, and N_b cancels: what
    counts is the sum of outcome minus confidence over each bin.
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype)
    bin_of = torch.bucketize(confidence.clamp_max(_BELOW_ONE), edges, right=True) - 1
    # Sorted confidences fall into one bin after the other: sums of runs, without an [N, bins].
    counts = torch.bincount(bin_of, minlength=bins)
    counts = counts[counts > 0]
    excess = torch.segment_reduce(
        (correct - confidence).mT.contiguous(), "sum", lengths=counts, axis=0
    )
    return excess.abs().sum(0) / len(confidence)


def _normalised_squared_error(mean: Tensor, targets: Tensor) -> float:
    ratios = []
    for output, (predicted, values) in enumerate(zip(mean.mT, targets.mT, strict=True)):
        known = ~values.isnan()
        predicted, values = predicted[known], values[known]
        if not len(values):  # other samples have this output
            continue
        # The variance of equal numbers need not round to 0: compare the numbers.
        if values.max() == values.min():
            warnings.warn(
                f"All {len(values)} targets of output {output} are {values[0].item():g}, so "
                "their variance is 0 and nmse is not defined; two different values were expected.",
                stacklevel=3,
            )
            return math.nan
        ratios.append(mean_squared_error(predicted, values) / values.var(correction=0))
    return float(torch.stack(ratios).mean())


def _ranked_probability_score(draws: Tensor, targets: Tensor) -> float:
    import scoringrules  # it compiles for seconds, and classes do not need it

    # "pwm" is the fair estimator by sorting; the one called "fair" builds all S x S pairs. NumPy is
    # named because the default is another compiled backend wherever that happens to be installed.
    scores = scoringrules.crps_ensemble(
        targets.numpy(), draws.movedim(0, -1).numpy(), estimator="pwm", backend="numpy"
    )
    return float(np.nanmean(scores))


def _coverage(draws: Tensor, targets: Tensor, level: float) -> float:
    # Weibull's plotting positions i / (S + 1): the interval of S draws then holds one more draw
    # with probability `level`. NumPy's default reaches 0.882 of 0.9 with 100 draws.
    low, high = np.quantile(
        draws.numpy(), [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull"
    )
    value = targets.numpy()
    inside = (low <= value) & (value <= high)
    return float(inside[~np.isnan(value)].mean())


def _defined(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def _check_probabilities(probabilities: Tensor) -> None:
    if probabilities.dim() != 2 or not probabilities.is_floating_point():
        raise InputError(
            f"probabilities have the shape {_shape(probabilities)} and the type "
            f"{probabilities.dtype}, and floating-point [N, C] was expected."
        )
    _check_finite("probabilities", probabilities)
    if not len(probabilities):
        return
    if (smallest := probabilities.min().item()) < 0:
        raise InputError(f"probabilities go down to {smallest:g}, and none below 0 was expected.")
    total = probabilities.double().sum(-1)
    row = int((total - 1).abs().argmax())
    if abs(total[row].item() - 1) > _SUM_TOLERANCE:
        raise InputError(
            f"probabilities of sample {row} sum to {total[row].item():g}, and 1 was expected."
        )


def _check_classes(targets: Tensor, num_samples: int, num_classes: int) -> None:
    if targets.shape != (num_samples,) or targets.is_floating_point() or targets.is_complex():
        raise InputError(
            f"targets have the shape {_shape(targets)} and the type {targets.dtype}, and integers "
            f"[{num_samples}] were expected."
        )
    outside = (targets < 0) | (targets >= num_classes)
    if outside.any():
        raise InputError(
            f"targets hold the class {int(targets[outside][0])}, and classes from 0 to "
            f"{num_classes - 1} were expected."
        )


def _check_regression(mean: Tensor, log_density: Tensor, draws: Tensor, targets: Tensor) -> None:
    if targets.dim() not in (1, 2):
        raise InputError(
            f"targets have the shape {_shape(targets)}, and [N] or [N, K] was expected."
        )
    if mean.shape != targets.shape:
        raise InputError(
            f"mean has the shape {_shape(mean)}, and the targets' {_shape(targets)} was expected."
        )
    if log_density.shape != targets.shape[:1]:
        raise InputError(
            f"log_density has the shape {_shape(log_density)}, and [{len(targets)}], one density a "
            "sample, was expected."
        )
    if draws.shape[1:] != targets.shape or draws.dim() == 0 or len(draws) < 2:
        expected = ", ".join(["S", *map(str, targets.shape)])
        raise InputError(
            f"draws have the shape {_shape(draws)}, and [{expected}] with S at least 2 was "
            "expected."
        )
    unknown = targets.isnan()
    if bool((unknown if unknown.dim() == 1 else unknown.all(-1)).any()):
        raise InputError(
            "some rows of targets are NaN throughout, and labelled samples alone were expected."
        )
    for name, value in (("mean", mean), ("draws", draws), ("targets", targets[~unknown])):
        _check_finite(name, value)
    # A density of 0 is bad, and the NLL says so: infinite. One that is not a number is a fault.
    if log_density.isnan().any():
        raise InputError(
            f"{int(log_density.isnan().sum())} of the {log_density.numel()} numbers in log_density "
            "are NaN, and log densities were expected."
        )


def _check_finite(name: str, value: Tensor) -> None:
    if not value.isfinite().all():
        raise InputError(
            f"{int((~value.isfinite()).sum())} of the {value.numel()} numbers in {name} are NaN or "
            "infinite, and finite ones were expected."
        )


def _shape(value: Tensor) -> str:
    return str(list(value.shape))
