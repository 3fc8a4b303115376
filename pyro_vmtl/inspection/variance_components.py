"""What a mixed model would print: shared effects, and how they vary between clusters and tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL
from pyro_vmtl.model.architectures import takes_no_gradient
from pyro_vmtl.model.closed_form import nested_weights
from pyro_vmtl.model.priors.conditionals import drawn_bases
from pyro_vmtl.model.priors.gibbs import spread

__all__ = ["INTERCEPT", "variance_components"]

INTERCEPT = "(intercept)"

_Array = npt.NDArray[np.float64]
_LOOKS = 5  # at every draw of partition and scales


def variance_components(fitted: FittedVMTL, coverage: float = 0.9, seed: int = 0) -> pd.DataFrame:
    """The effects of the inputs: their means over tasks, and their standard deviations.

    With w_t = m + c_k(t) + e_t a row for each input, and for the intercept, has

    - ``mean``: of m + c_k(t) over the tasks, with an interval from ``mean_low`` to ``mean_high``:
      the fixed effect of a mixed model;
    - ``between_clusters``: the standard deviation of m + c_k(t) over the tasks, 0 where they are
      one cluster, likewise with an interval;
    - ``between_tasks``: the standard deviation of e_t, sqrt(V), likewise: that of the random
      effects of a mixed model.

    Effects are those of the inputs as the model sees them (a number by its standard deviation,
    truth values and levels by half their difference), in logits or in standard deviations of the
    target. Of three classes or more they are those of orthonormal contrasts.

    Example::

        print(pv.variance_components(fitted).round(2))

    :param fitted: a model with the pool Nested and an encoder that takes no gradient.
    :param coverage: of the intervals.
    :param seed: of the draws.
    :return: with the columns ``output``, ``input`` and those above, each with ``_low`` and
        ``_high``; points are posterior means.
    :raises InputError: for another model.
    """
    vmtl, is_fixed = fitted.vmtl, takes_no_gradient(fitted.settings.encoder)
    if not (vmtl.classifier.shares_weights and is_fixed):
        raise InputError(
            "variance components need weights in closed form and inputs that are known; expected a "
            "model with the pool Nested on a table"
        )
    if not 0 < coverage < 1:
        raise InputError(f"coverage is {coverage}; expected a number between 0 and 1")
    weights = nested_weights(vmtl)
    draws, generator = weights.draws, torch.Generator().manual_seed(seed)
    bases = torch.cat(
        [drawn_bases(weights.evidence, weights.prior, draws, generator) for _ in range(_LOOKS)]
    )  # [S, T, K, q]
    deviations = spread(draws.deviation, weights.prior.groups).sqrt()  # [S, q]
    parts = {
        "mean": bases.mean(1),
        "between_clusters": bases.std(1, correction=0),
        "between_tasks": deviations.unsqueeze(1).expand(-1, bases.shape[2], -1),
    }
    ends = [(1 - coverage) / 2, (1 + coverage) / 2]
    summaries = {name: _summary(value.cpu().numpy(), ends) for name, value in parts.items()}
    outputs, inputs = _outputs(fitted), _inputs(fitted)
    rows: list[dict[str, Any]] = []
    for k, output in enumerate(outputs):
        for d, name in enumerate(inputs):
            row: dict[str, Any] = {"output": output, "input": name}
            for part, (mean, low, high) in summaries.items():
                row |= {part: mean[k, d], f"{part}_low": low[k, d], f"{part}_high": high[k, d]}
            rows.append(row)
    return pd.DataFrame(rows)


def _summary(values: _Array, ends: list[float]) -> tuple[_Array, _Array, _Array]:
    low, high = np.quantile(values, ends, axis=0)
    return values.mean(0), low, high


def _outputs(fitted: FittedVMTL) -> list[str]:
    rows = fitted.vmtl.classifier.event_shape[0]
    if fitted.classes is not None:
        return [fitted.classes[1]] if rows == 1 else [f"contrast {k + 1}" for k in range(rows)]
    return list(fitted.outputs or ())


def _inputs(fitted: FittedVMTL) -> list[str]:
    columns = fitted.vmtl.classifier.event_shape[1]
    count = fitted.vmtl.encoder.latent_dim
    names = [f"z{d}" for d in range(count)]
    if fitted.columns is not None and len(fitted.columns.inputs) == count:
        names = list(fitted.columns.inputs)
    return [*names, INTERCEPT] if columns > count else names
