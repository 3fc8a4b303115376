"""Pictures of how training went."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pyro_vmtl.errors import InputError
from pyro_vmtl.inspection.plots.palette import GREY, axes_of, style_of

__all__ = ["plot_elbo", "plot_training", "plot_validation"]

_PARTS = {
    "expected_log_likelihood": "expected log-likelihood",
    "kl_weights": "− KL weights",
    "kl_representations": "− KL representations",
    "kl_relatedness": "− KL relatedness",
}

_VALIDATION = "validation_"


def _check(history: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in history.columns]
    if missing:
        raise InputError(
            f"the history has no column {missing[0]!r}; expected those of metrics.csv."
        )
    if history.empty:
        raise InputError("the history has no rows; expected one for each epoch.")


def epoch_axis(ax: Axes, history: pd.DataFrame) -> None:
    """Whole epochs below, and a single one not spread over a made-up range."""
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(history) == 1:
        epoch = float(history["epoch"].iloc[0])
        ax.set_xlim(epoch - 1, epoch + 1)


def plot_elbo(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The ELBO and the parts that it is the sum of, over epochs.

    The KLs are drawn with the sign they have in the sum, so that the curves add up to the ELBO.
    The axis is linear near zero and logarithmic beyond where the parts differ by orders of
    magnitude.

    :param history: a row per epoch, as in ``FittedVMTL.history`` or ``metrics.csv``.
    :param ax: where to draw; None, on a new figure.
    :raises InputError: if the history lacks a column.
    """
    _check(history, ["epoch", "elbo", *_PARTS])
    ax = axes_of(ax)
    marker = "o" if len(history) == 1 else None
    ax.plot(history["epoch"], history["elbo"], color="black", lw=2, label="ELBO", marker=marker)
    for number, (name, label) in enumerate(_PARTS.items()):
        values = history[name] if number == 0 else -history[name]
        if (values != 0).any():
            ax.plot(history["epoch"], values, label=label, marker=marker, **style_of(number))
    everything = history[["elbo", *_PARTS]].abs().stack()
    typical = everything[everything > 0].median() if (everything > 0).any() else 1.0
    if everything.max() > 50 * typical:
        ax.set_yscale("symlog", linthresh=typical)
    ax.set_ylabel("nats, all tasks")
    ax.legend(fontsize=8)
    epoch_axis(ax, history)
    return ax


def plot_validation(history: pd.DataFrame, metric: str = "nll", ax: Axes | None = None) -> Axes:
    """One validation metric over epochs, with the epoch of the best density marked.

    :param metric: a column of the history, with or without ``validation_`` before it.
    :raises InputError: if the history lacks the metric.
    """
    column = metric if metric.startswith(_VALIDATION) else _VALIDATION + metric
    _check(history, ["epoch", column])
    ax = axes_of(ax)
    marker = "o" if len(history) == 1 else None
    ax.plot(history["epoch"], history[column], marker=marker, **style_of(0))
    density = history.get(f"{_VALIDATION}nll")
    if density is not None and density.notna().any():
        best = density.idxmin()
        epoch = history["epoch"].loc[best]
        ax.axvline(epoch, color=GREY, linestyle=":", label=f"kept: epoch {epoch:g}")
        ax.legend(fontsize=8)
    ax.set_ylabel(column.replace("_", " "))
    epoch_axis(ax, history)
    return ax


def plot_training(
    history: pd.DataFrame, axes: Sequence[Axes] | None = None, metrics: Sequence[str] | None = None
) -> list[Axes]:
    """The ELBO in parts, and beside it every validation metric.

    :param history: a row per epoch, as in ``FittedVMTL.history`` or ``metrics.csv``.
    :param axes: where to draw, one for the ELBO and one for each metric; None, on a new figure.
    :param metrics: validation metrics to draw; None, all in the history.
    :return: the axes, the ELBO's first.
    :raises InputError: if a column is missing, or there are fewer axes than curves.
    """
    if metrics is None:
        metrics = [name for name in history.columns if name.startswith(_VALIDATION)]
    panels = 1 + len(metrics)
    if axes is None:
        columns = min(panels, 3)
        rows = -(-panels // columns)
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(4.2 * columns, 3.2 * rows),
            layout="constrained",
            squeeze=False,
        )
        axes = list(grid.flat)
        for spare in axes[panels:]:
            figure.delaxes(spare)
        axes = axes[:panels]
    if len(axes) < panels:
        raise InputError(
            f"there are {len(axes)} axes for the ELBO and {len(metrics)} metrics; "
            f"expected {panels}."
        )
    plot_elbo(history, axes[0])
    for metric, ax in zip(metrics, axes[1:], strict=False):
        plot_validation(history, metric, ax)
    return list(axes[:panels])
