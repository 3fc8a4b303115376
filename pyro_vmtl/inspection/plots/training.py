"""Pictures of how training went."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pyro_vmtl.errors import InputError
from pyro_vmtl.inspection.draws import BASE
from pyro_vmtl.inspection.plots.labels import legend_beside, name_ticks, note, shortened
from pyro_vmtl.inspection.plots.palette import COLOURS, GREY, LINE_STYLES, axes_of, style_of
from pyro_vmtl.inspection.training import kept_epoch

__all__ = [
    "plot_elbo",
    "plot_kl_per_task",
    "plot_kls_over_time",
    "plot_relatedness_over_time",
    "plot_scales",
    "plot_schedules",
    "plot_training",
    "plot_validation",
]

_PARTS = {
    "expected_log_likelihood": "expected log-likelihood",
    "kl_weights": "− KL weights",
    "kl_representations": "− KL representations",
    "kl_relatedness": "− KL relatedness",
}

_WEIGHTS = {
    "kl_weights": "kl_weight_of_weights",
    "kl_representations": "kl_weight_of_representations",
    "kl_relatedness": "kl_weight_of_weights",
}
"""The columns with the weights of the KLs; the relatedness has that of the site it is of."""

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
    """What training maximises and the parts that it is the sum of, over epochs.

    That is the ELBO where KLs count in full; else the tempered ELBO, in which every KL is drawn
    with the weight that the epoch gave it. The KLs have the sign of the sum, so that curves add up.
    The axis is linear near zero and logarithmic beyond where the parts differ by orders of
    magnitude.

    :param history: a row per epoch, as in ``FittedVMTL.history`` or ``metrics.csv``.
    :param ax: where to draw; None, on a new figure.
    :raises InputError: if the history lacks a column.
    """
    _check(history, ["epoch", "elbo", *_PARTS])
    ax = axes_of(ax)
    marker = "o" if len(history) == 1 else None
    parts = pd.DataFrame({name: _weighted(history, name) for name in _PARTS})
    untempered = all(parts[name].equals(-history[name]) for name in _WEIGHTS)
    whole = history["elbo"] if untempered else parts.sum(axis=1)
    of_whole = "ELBO" if untempered else "tempered ELBO"
    ax.plot(history["epoch"], whole, color="black", lw=2, label=of_whole, marker=marker)
    for number, (name, label) in enumerate(_PARTS.items()):
        if (parts[name] != 0).any():
            ax.plot(history["epoch"], parts[name], label=label, marker=marker, **style_of(number))
    everything = parts.assign(whole=whole).abs().stack()
    typical = everything[everything > 0].median() if (everything > 0).any() else 1.0
    if everything.max() > 50 * typical:
        ax.set_yscale("symlog", linthresh=typical)
    ax.set_ylabel("nats, all tasks")
    ax.legend(fontsize=8)
    epoch_axis(ax, history)
    return ax


def _weighted(history: pd.DataFrame, part: str) -> pd.Series:
    """A part as it counts in what training maximises."""
    if part not in _WEIGHTS:
        return history[part]
    return -history[part] * history.get(_WEIGHTS[part], 1.0)


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
    kept = kept_epoch(history)
    if kept is not None and density is not None and density.notna().any():
        epoch = history["epoch"].iloc[kept]
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


def _curves(history: pd.DataFrame, ax: Axes | None, curves: dict[str, str], spread: float) -> Axes:
    """Columns of a history over epochs, on a logarithmic axis where they differ by far."""
    ax = axes_of(ax)
    shown = {name: label for name, label in curves.items() if name in history.columns}
    marker = "o" if len(history) == 1 else None
    for number, (name, label) in enumerate(shown.items()):
        # Dashes as well as colours: schedules often run on top of each other.
        ax.plot(
            history["epoch"],
            history[name],
            color=COLOURS[number],
            linestyle=LINE_STYLES[number],
            label=label,
            marker=marker,
        )
    values = history[list(shown)].abs().to_numpy()
    positive = values[values > 0]
    if len(positive) == values.size and positive.max() > spread * positive.min():
        ax.set_yscale("log")
    ax.legend(fontsize=8)
    epoch_axis(ax, history)
    return ax


def plot_schedules(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The temperature of the relatedness and the KL weights over epochs.

    :param history: a row per epoch, as in ``FittedVMTL.history`` or ``metrics.csv``.
    :raises InputError: if the history lacks the temperature.
    """
    _check(history, ["epoch", "temperature"])
    curves = {
        "temperature": "temperature",
        "kl_weight_of_weights": "KL weight of weights",
        "kl_weight_of_representations": "KL weight of representations",
    }
    return _curves(history, ax, curves, spread=20)


def plot_scales(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The mean posterior scales, and the mean size of the weights, over epochs.

    A scale that falls to nothing while the weights drift away says that evidence is counted twice;
    a scale of representations at 1 says that they carry no information.

    :param history: a row per epoch, as in ``FittedVMTL.history`` or ``metrics.csv``.
    :raises InputError: if the history lacks the scales.
    """
    _check(history, ["epoch", "weights_scale"])
    curves = {
        "weights_scale": "scale of weights (mean σ)",
        "weights_loc": "size of weights (mean |μ|)",
        "representations_scale": "scale of representations (mean σ)",
    }
    return _curves(history, ax, curves, spread=10)


def plot_kl_per_task(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What each task's posteriors cost against their priors.

    :param table: of :func:`pyro_vmtl.inspection.kl_per_task`.
    """
    ax = axes_of(ax, 5.5, float(np.clip(0.2 * len(table) + 1.2, 2.4, 12.0)))
    places = np.arange(len(table))
    for number, site in enumerate(table.columns):
        marker = "o" if number == 0 else "D"
        ax.plot(table[site], places, marker, color=COLOURS[number], ms=5, label=site)
    ax.set_xlim(left=0)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel("KL from posterior to prior (nats)")
    ax.grid(axis="x", alpha=0.3)
    if len(table.columns) > 1:
        ax.legend(fontsize=8)
    name_ticks(ax, "y", [str(name) for name in table.index])
    return ax


_MOST_LINES = 8
_MOST_VECTORS = 200


def plot_relatedness_over_time(
    snapshots: pd.DataFrame,
    ax: Axes | None = None,
    task: str | None = None,
    site: str = "weights",
    most: int = _MOST_LINES,
    kept: float | None = None,
) -> Axes:
    """How relatedness formed: the probability of every lender over epochs.

    The lenders that end as the strongest are coloured and named; the others are grey.

    :param snapshots: of :meth:`pyro_vmtl.inspection.Snapshots.relatedness`, or the table
        ``relatedness_over_time.csv`` of a run.
    :param task: the borrower; None, every pair of tasks: ``task ← lender``, or one line ``task –
        other`` where both directions are the same, as of tasks that share a cluster.
    :param most: lines to colour and name.
    :param kept: an epoch to mark, such as the one whose model was kept.
    :raises InputError: if the snapshots have no such site or task.
    """
    rows = snapshots[snapshots["site"] == site]
    if rows.empty:
        raise InputError(
            f"the snapshots have no relatedness of the site {site!r}; "
            f"expected one of {list(snapshots['site'].unique())}."
        )
    if task is not None:
        if task not in set(rows["task"]):
            raise InputError(
                f"the snapshots have no task {task!r}; expected one of "
                f"{list(rows['task'].unique())}."
            )
        rows = rows[rows["task"] == task]
    ax = axes_of(ax)
    label = rows["other"] if task is not None else _pairs(rows)
    rows = rows.assign(pair=label).drop_duplicates(["epoch", "pair"])
    lines = rows.pivot(index="epoch", columns="pair", values="probability")
    strongest = lines.iloc[-1].sort_values(ascending=False, kind="stable").index[:most]
    rest = lines.drop(columns=strongest)
    if rest.shape[1]:
        # Of 60 tasks there are 3,540 pairs: as pixels they do not weigh a vector graphic down.
        many = rest.shape[1] > _MOST_VECTORS
        ax.plot(rest.index, rest.to_numpy(), color=GREY, lw=0.5, alpha=0.4, rasterized=many)
    marker = "o" if len(lines) == 1 else None
    for number, pair in enumerate(strongest):
        ax.plot(
            lines.index,
            lines[pair],
            label=shortened(pair, 32),
            marker=marker,
            zorder=3,
            **style_of(number),
        )
    if task is not None and BASE in rest.columns:
        ax.plot(rest.index, rest[BASE], color="black", linestyle=":", label=BASE)
    if kept is not None:
        ax.axvline(kept, color=GREY, linestyle=":", label=f"kept: epoch {kept:g}")
    ax.set_ylabel("probability")
    ax.set_ylim(0, 1.05 * float(lines.to_numpy().max()))
    legend_beside(ax)
    if task is not None:
        ax.set_title(f"{task} borrows from", fontsize=10)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def _pairs(rows: pd.DataFrame) -> pd.Series:
    """What each pair of tasks is called; both directions alike, if they are the same throughout."""
    both = rows.merge(
        rows,
        left_on=["epoch", "task", "other"],
        right_on=["epoch", "other", "task"],
        suffixes=("", "_back"),
    )
    if len(both) < len(rows) or not np.allclose(both["probability"], both["probability_back"]):
        return rows["task"] + " ← " + rows["other"]
    place = {name: number for number, name in enumerate(rows["task"].unique())}
    forward = rows["task"].map(place) < rows["other"].map(place)
    pair = rows["task"] + " – " + rows["other"]
    return pair.where(forward, rows["other"] + " – " + rows["task"])


def plot_kls_over_time(
    kls: pd.DataFrame, ax: Axes | None = None, site: str = "weights", most: int = _MOST_LINES
) -> Axes:
    """The KL of every task over epochs; those that end as the largest are named.

    :param kls: of :meth:`pyro_vmtl.inspection.Snapshots.kls`.
    :param most: lines to colour and name.
    """
    rows = kls[kls["site"] == site]
    ax = axes_of(ax)
    if rows.empty:
        return note(ax, f"No task pays a KL of its own for {site}.")
    lines = rows.pivot(index="epoch", columns="task", values="kl")
    largest = lines.iloc[-1].sort_values(ascending=False, kind="stable").index[:most]
    rest = lines.drop(columns=largest)
    if rest.shape[1]:
        ax.plot(rest.index, rest.to_numpy(), color=GREY, lw=0.7, alpha=0.5)
    marker = "o" if len(lines) == 1 else None
    for number, name in enumerate(largest):
        ax.plot(
            lines.index,
            lines[name],
            label=shortened(name),
            marker=marker,
            zorder=3,
            **style_of(number),
        )
    ax.set_ylabel(f"KL of {site} (nats)")
    legend_beside(ax)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax
