"""Metrics against training size: an axes a metric, a line a method."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vmtl.inspection.plots.palette import GREY, style_of
from pyro_vmtl.runs.benchmark.grid import Dataset
from pyro_vmtl.runs.benchmark.tables import MEAN, Numbers, label_of
from pyro_vmtl.runs.report_tables import COVERAGE

__all__ = ["figure_of_sizes"]

_Array = npt.NDArray[np.float64]
_MARKERS = "osD^vPX*<>ph"
_SQUASHED = 2.0
_WIDTH = 0.7
_STEP = 0.06


def figure_of_sizes(
    numbers: Numbers, dataset: Dataset, methods: Sequence[str], metrics: Sequence[str]
) -> Figure:
    """Mean over tasks against training size, with the sd over seeds as bars.

    Methods stand a little beside each other, so that their bars can be told apart. A method far
    from the others is drawn at the edge, as an arrow with its value, and does not set the scale.

    :param numbers: of the benchmark.
    :param dataset: one of its data sets.
    :param methods: in their order; each keeps its colour, line and marker.
    :param metrics: an axes each.
    """
    width, height = 3.8 * len(metrics) + 2.2, max(4.0, 0.26 * len(methods) + 0.8)
    figure, axes = plt.subplots(
        1, len(metrics), figsize=(width, height), layout="constrained", squeeze=False
    )
    for ax, metric in zip(axes[0], metrics, strict=True):
        _draw(ax, numbers, dataset, methods, metric)
    handles, labels = [], []
    for ax in axes[0]:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    order = np.argsort([list(methods).index(label) for label in labels])
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside right center",
        frameon=False,
        fontsize="small",
    )
    seeds = int(numbers.summary.loc[numbers.summary["data"] == dataset.name, "seeds"].max())
    bars = f"mean ± sd over {seeds} seeds" if seeds > 1 else "one seed"
    figure.suptitle(f"{dataset.name}: test data, mean over tasks, {bars}", fontsize="medium")
    return figure


def _draw(
    ax: Axes, numbers: Numbers, dataset: Dataset, methods: Sequence[str], metric: str
) -> None:
    places = np.arange(len(dataset.sizes), dtype=np.float64)
    rows = numbers.summary
    rows = rows[
        (rows["data"] == dataset.name) & (rows["task"] == MEAN) & (rows["metric"] == metric)
    ]
    means = rows.pivot(index="size", columns="method", values="mean").reindex(dataset.sizes)
    sds = rows.pivot(index="size", columns="method", values="sd").reindex(dataset.sizes)
    low, high = _limits(means.to_numpy(), sds.fillna(0).to_numpy())
    width = min(_WIDTH, _STEP * (len(methods) - 1))
    for number, name in enumerate(methods):
        if name not in means:
            continue
        style = style_of(number) | {"marker": _MARKERS[number % len(_MARKERS)]}
        at = places + (width * (number / (len(methods) - 1) - 0.5) if width else 0)
        mean, sd = means[name].to_numpy(), sds[name].to_numpy()
        inside = (mean >= low) & (mean <= high)
        ax.errorbar(
            at,
            np.where(inside, mean, np.nan),
            np.where(inside, sd, np.nan),
            label=name,
            markersize=5,
            linewidth=1.0,
            elinewidth=1.0,
            **style,
        )
        for place, value in zip(at[~inside], mean[~inside], strict=True):
            _off_scale(ax, place, value, (low, high), style["color"])
    if metric == "coverage_90":
        ax.axhline(COVERAGE, color=GREY, linewidth=0.8, zorder=0)
    ax.set_ylim(low, high)
    ax.set_xticks(places, [str(size) for size in dataset.sizes])
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.set_xlabel(dataset.axis or "")
    ax.set_ylabel(label_of(metric))
    ax.spines[["top", "right"]].set_visible(False)


def _off_scale(
    ax: Axes, place: float, value: float, limits: tuple[float, float], colour: str
) -> None:
    if np.isnan(value):
        return
    up = value > limits[1]
    ax.plot(
        place, limits[1 if up else 0], "^" if up else "v", color=colour, clip_on=False, markersize=6
    )
    ax.annotate(
        f"{value:.3g}",
        (place, limits[1 if up else 0]),
        xytext=(0, -7 if up else 7),
        textcoords="offset points",
        rotation=90,
        ha="center",
        va="top" if up else "bottom",
        fontsize="xx-small",
        color=colour,
    )


def _limits(means: _Array, sds: _Array) -> tuple[float, float]:
    """Limits that hold the means, with their bars, but for what would squash the others.

    That is what lies further from the median of its size than twice what the others span: the range
    of the medians, and four times the median distance from them.

    :param means: ``[sizes, methods]``, NaN where there is none.
    :param sds: the same.
    """
    rows = np.isfinite(means).any(1)
    if not rows.any():
        return (0.0, 1.0)
    values, bars = means[rows], np.nan_to_num(sds[rows])
    medians = np.nanmedian(values, axis=1, keepdims=True)
    distances = np.abs(values - medians)
    span = np.ptp(medians) + 4 * np.nanmedian(distances)
    near = np.isfinite(values) & ((distances <= _SQUASHED * span) | (span == 0))
    values, bars = values[near], bars[near]
    # A bar of a method that differs from seed to seed is cut rather than squash the others.
    bars = np.minimum(bars, span or np.inf)
    low, high = (values - bars).min(), (values + bars).max()
    margin = 0.05 * (high - low) or 0.5
    return (float(low - margin), float(high + margin))
