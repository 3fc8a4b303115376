r"""What a benchmark's numbers say: means over seeds, and differences of methods seed by seed.

Methods see the same data and start from the same seeds, so what counts is the difference
:math:`d_s` of two methods seed by seed: the interval of its mean is that of Student's t,
:math:`\bar d \pm t_{n-1} \, \mathrm{sd}(d) / \sqrt n`. Fewer than two seeds have no interval. No
interval is widened for the number of methods compared: of twenty, one is wrong at a level of 0.95.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import t as student

from pyro_vmtl.runs.benchmark.cells import Result
from pyro_vmtl.runs.benchmark.grid import Cell
from pyro_vmtl.runs.report_tables import COVERAGE, HIGH_IS_GOOD

__all__ = ["differences", "distance_from_best", "paired_interval", "summary", "tidy"]

COLUMNS = ["data", "size", "method", "seed", "task", "metric", "value"]
_GROUP = ["data", "size", "task", "metric"]


def tidy(results: Mapping[Cell, Result]) -> pd.DataFrame:
    """A row a number: ``data, size, method, seed, task, metric, value``.

    Tasks are the data's own, ``mean`` over them and, of classes, the calibration of ``all tasks``
    together. A value that is not defined has no row.
    """
    rows = [
        (cell.dataset, cell.size, cell.method, cell.seed, task, metric, value)
        for cell, result in results.items()
        for task, scores in result.test.items()
        for metric, value in scores.items()
        if value is not None
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def distance_from_best(metric: str, value: float) -> float:
    """The lower, the better: accuracy is to be high, coverage at what is stated, all else low."""
    if metric in (*HIGH_IS_GOOD, "ece_in_range"):
        return -value
    return abs(value - COVERAGE) if metric == "coverage_90" else value


def paired_interval(
    differences: Sequence[float] | npt.NDArray[np.float64], level: float
) -> tuple[float, float]:
    """The t interval of a mean difference.

    :param differences: one a seed.
    :param level: the chance that such intervals hold the expected difference.
    :return: ``(low, high)``; NaN for fewer than two differences.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return (np.nan, np.nan)
    error = values.std(ddof=1) / np.sqrt(len(values))
    reach = float(student.ppf((1 + level) / 2, len(values) - 1)) * error
    return (float(values.mean() - reach), float(values.mean() + reach))


def summary(
    results: pd.DataFrame, methods: Sequence[str], seeds: Sequence[int], level: float
) -> pd.DataFrame:
    """Mean and sd over seeds, and what is best.

    A row per data, size, task, metric and method that has a value:

    - ``seeds``: how many the method has; ``mean``, and ``sd`` (divided by n - 1; NaN for one seed);
    - ``best``: whether its mean is the best. Only methods with all the seeds take part, and with
      one seed there is no best;
    - ``tied``: whether it is not the best, but the interval of the paired difference from the best
      holds 0: the seeds do not say which of the two is better.

    :param results: of :func:`tidy`.
    :param methods: in the order of the rows.
    :param seeds: that a method has when it is complete.
    :param level: of the intervals.
    """
    rows = []
    for group, values in _groups(results, methods):
        metric = group[-1]
        complete = values.columns[values.notna().sum() == len(seeds)]
        means = values.mean()
        distance = {name: distance_from_best(metric, means[name]) for name in complete}
        comparable = len(complete) > 1 and len(seeds) > 1
        least = min(distance.values()) if comparable else np.nan
        best = [name for name in complete if distance[name] == least]
        rows += [
            {
                **dict(zip(_GROUP, group, strict=True)),
                "method": name,
                "seeds": int(values[name].notna().sum()),
                "mean": means[name],
                "sd": values[name].std(),
                "best": name in best,
                "tied": bool(best)
                and name not in best
                and name in complete
                and _holds_zero(values[name] - values[best[0]], level),
            }
            for name in values
        ]
    columns = [*_GROUP, "method", "seeds", "mean", "sd", "best", "tied"]
    return pd.DataFrame(rows, columns=columns)


def differences(
    results: pd.DataFrame, methods: Sequence[str], reference: str, level: float
) -> pd.DataFrame:
    """Paired differences to a reference over the seeds that both have.

    A row per data, size, task, metric and other method: ``reference``, ``seeds``, the ``mean``
    difference (method minus reference), its ``sd`` over seeds, and the t interval from ``low`` to
    ``high``, NaN for fewer than two seeds.

    :param results: of :func:`tidy`.
    :param methods: in the order of the rows.
    :param reference: one of them.
    :param level: of the intervals.
    """
    rows = []
    for group, values in _groups(results, methods):
        if reference not in values:
            continue
        for name in values.columns.drop(reference):
            paired = (values[name] - values[reference]).dropna()
            if paired.empty:
                continue
            low, high = paired_interval(paired.to_numpy(), level)
            rows.append(
                {
                    **dict(zip(_GROUP, group, strict=True)),
                    "method": name,
                    "reference": reference,
                    "seeds": len(paired),
                    "mean": paired.mean(),
                    "sd": paired.std(),
                    "low": low,
                    "high": high,
                }
            )
    columns = [*_GROUP, "method", "reference", "seeds", "mean", "sd", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _groups(
    results: pd.DataFrame, methods: Sequence[str]
) -> list[tuple[tuple[str, object, str, str], pd.DataFrame]]:
    """Values of each data, size, task and metric: a row a seed, a column a method that has some."""
    groups = []
    for group, rows in results.groupby(_GROUP, sort=False):
        values = rows.pivot(index="seed", columns="method", values="value")
        groups.append((group, values[[name for name in methods if name in values]]))
    return groups


def _holds_zero(paired: pd.Series, level: float) -> bool:
    low, high = paired_interval(paired.to_numpy(), level)
    return bool(low <= 0 <= high)
