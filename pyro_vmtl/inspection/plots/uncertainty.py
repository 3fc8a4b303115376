"""Pictures of uncertainty: where it comes from, what it is good for, and what it looks like."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inspection.out_of_distribution import out_of_distribution_auroc
from pyro_vmtl.inspection.plots.labels import (
    legend_above,
    legend_beside,
    name_ticks,
    shortened,
)
from pyro_vmtl.inspection.plots.palette import COLOURS, GREY, axes_of, style_of
from pyro_vmtl.inspection.scored import ALL_TASKS
from pyro_vmtl.inspection.uncertainty import (
    Kind,
    extreme_samples,
    predictive_bands,
    risk_coverage,
    sample_uncertainty,
    uncertainty_table,
)

__all__ = [
    "plot_bands",
    "plot_extreme_samples",
    "plot_out_of_distribution",
    "plot_risk_coverage",
    "plot_uncertainty",
    "plot_uncertainty_of_samples",
]

_MOST_INSIDE = 4


def _unit(predictions: Predictions) -> str:
    return "nats" if predictions.tasks.is_classification else "unit of the target squared"


def plot_uncertainty(predictions: Predictions, ax: Axes | None = None) -> Axes:
    """The mean uncertainty of each task and of all: aleatoric and, on top of it, epistemic.

    :param predictions: of labelled samples.
    :param ax: where to draw; None, on a new figure.
    """
    table = uncertainty_table(predictions)
    ax = axes_of(ax, 5.5, float(np.clip(0.2 * len(table) + 1.3, 2.6, 12.5)))
    places = np.arange(len(table))
    aleatoric, epistemic = table["aleatoric"], table["epistemic"]
    ax.barh(places, aleatoric, 0.7, color=COLOURS[5], label="aleatoric (in the data)")
    ax.barh(
        places,
        epistemic,
        0.7,
        left=aleatoric,
        color=COLOURS[1],
        label="epistemic (more data would help)",
    )
    ax.axhline(len(table) - 1.5, color=GREY, lw=0.5)  # the pooled samples stand apart
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel(f"mean uncertainty ({_unit(predictions)})")
    legend_above(ax)
    name_ticks(ax, "y", [str(name) for name in table.index], always=[len(table) - 1])
    return ax


def plot_uncertainty_of_samples(
    predictions: Predictions, ax: Axes | None = None, task: str | None = None
) -> Axes:
    """Every sample by its aleatoric and its epistemic uncertainty.

    Classification: samples whose predicted class did not come are drawn as crosses.

    :param predictions: of some samples, labelled or not.
    :param task: of this task only; None, of all tasks.
    :raises InputError: if there is no such task.
    """
    table = extreme_samples(predictions, len(predictions.tasks), "total", task)
    table = table[table["which"] == "most certain"]  # each sample once
    rows = table["sample"].to_numpy()
    aleatoric = sample_uncertainty(predictions, "aleatoric")[rows]
    epistemic = sample_uncertainty(predictions, "epistemic")[rows]
    ax = axes_of(ax, 4.8, 4.0)
    wrong = np.zeros(len(rows), dtype=bool)
    if predictions.tasks.is_classification:
        labelled = table["target"].notna().to_numpy()
        wrong = labelled & (table["target"] != table["prediction"]).to_numpy()
    size = float(np.clip(4000 / len(rows), 4, 25))
    right = "right" if predictions.tasks.is_classification else None
    ax.scatter(
        aleatoric[~wrong], epistemic[~wrong], size, color=COLOURS[0], alpha=0.5, lw=0, label=right
    )
    if wrong.any():
        ax.scatter(
            aleatoric[wrong],
            epistemic[wrong],
            size * 1.5,
            color=COLOURS[1],
            marker="x",
            lw=1,
            label="wrong",
        )
    if predictions.tasks.is_classification:
        ax.legend(fontsize=8)
    ax.set_xlabel(f"aleatoric ({_unit(predictions)})")
    ax.set_ylabel("epistemic")
    ax.set_title(ALL_TASKS if task is None else task, fontsize=10)
    return ax


def plot_risk_coverage(
    predictions: Predictions,
    ax: Axes | None = None,
    by: Kind = "total",
    tasks: Sequence[str] = (),
) -> Axes:
    """Selective prediction: the error on the samples that the model is surest of, by their share.

    The lower the curve on the left, the better uncertainty tells what will be wrong; a flat one
    tells nothing.

    :param by: the uncertainty to accept by.
    :param tasks: tasks that get a curve of their own beside the pooled one.
    """
    ax = axes_of(ax, 4.8, 3.6)
    for number, task in enumerate([None, *tasks]):
        table = risk_coverage(predictions, by, task)
        name = ALL_TASKS if task is None else shortened(task)
        style = {"color": "black", "lw": 2.0} if task is None else style_of(number - 1)
        ax.plot(table["coverage"], table["risk"], label=name, **style)
        if task is None:
            ax.axhline(table["risk"].iloc[-1], color=GREY, linestyle=":", label="all accepted")
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    ax.set_xlabel(f"share accepted, smallest {by} uncertainty first")
    error = "error rate" if predictions.tasks.is_classification else "mean squared error"
    ax.set_ylabel(f"{error} on these")
    if len(tasks) > _MOST_INSIDE:
        legend_beside(ax)
    else:
        ax.legend(fontsize=8)
    return ax


def plot_bands(
    predictions: Predictions,
    ax: Axes | None = None,
    task: str | None = None,
    levels: Sequence[float] = (0.5, 0.9),
    output: str | None = None,
) -> Axes:
    """Predictive intervals of every sample of a regression, with the targets as dots.

    Over the input where it is a single number, else over the samples in order of their mean.

    :param task: of this task only; None, of all tasks.
    :param levels: the stated shares, drawn the fainter the wider.
    :param output: which of several outputs; None, the first.
    :raises InputError: for a classification, or an output that there is not.
    """
    table = predictive_bands(predictions, task, levels, output)
    ax = axes_of(ax, 6.0, 3.8)
    place = np.arange(len(table), dtype=float)
    inputs = predictions.tasks.x.cpu().numpy().reshape(len(predictions.tasks), -1)
    # Of several tasks, one input has several predictions: there is no one band over it.
    one_input = inputs.shape[1] == 1 and table["task"].nunique() == 1
    if one_input:
        place = inputs[table["sample"].to_numpy(), 0].astype(float)
        order = np.argsort(place, kind="stable")
        place, table = place[order], table.iloc[order]
    for number, level in enumerate(sorted(levels, reverse=True)):
        ax.fill_between(
            place,
            table[f"low_{100 * level:g}"],
            table[f"high_{100 * level:g}"],
            color=COLOURS[0],
            alpha=0.2 + 0.2 * number,
            lw=0,
            step=None if one_input else "mid",
            label=f"{100 * level:g}%",
        )
    ax.plot(place, table["mean"], color=COLOURS[0], lw=1, label="mean")
    size = float(np.clip(150 / np.sqrt(len(table)), 2, 16))
    ax.scatter(place, table["target"], size, color=COLOURS[1], zorder=3, lw=0, label="target")
    ax.set_xlabel("input" if one_input else "samples, smallest mean first")
    outputs = predictions.tasks.outputs or ("target",)
    ax.set_ylabel(outputs[0] if output is None else output)
    ax.set_title(ALL_TASKS if task is None else task, fontsize=10)
    legend_beside(ax)
    return ax


def plot_extreme_samples(
    predictions: Predictions,
    axes: Sequence[Axes] | None = None,
    number: int = 6,
    by: Kind = "total",
    task: str | None = None,
    image_shape: Sequence[int] | None = None,
) -> list[Axes]:
    """The images that the model is surest of, above those that it is least sure of.

    Each with its prediction, and the target where it is another.

    :param predictions: of images: inputs ``[h, w]``, ``[c, h, w]``, or flat.
    :param axes: where to draw, two for each of ``number``; None, on a new figure.
    :param number: of each.
    :param by: the uncertainty to choose by.
    :param task: of this task only; None, of all tasks.
    :param image_shape: of flat inputs, ``[h, w]``; None, square.
    :return: the axes, the surest first.
    :raises InputError: if the inputs are no images, or there are too few axes.
    """
    table = extreme_samples(predictions, number, by, task)
    images = _images(predictions, table["sample"].to_numpy(), image_shape)
    columns = len(table) // 2
    if axes is None:
        size = (1.25 * columns + 0.4, 3.9)
        grid = plt.subplots(2, columns, figsize=size, layout="constrained", squeeze=False)[1]
        axes = list(grid.flat)
    if len(axes) < len(table):
        raise InputError(f"there are {len(axes)} axes for {len(table)} images; expected as many.")
    low, high = float(images.min()), float(images.max())
    for place, (ax, image, row) in enumerate(zip(axes, images, table.itertuples(), strict=False)):
        ax.imshow(image, cmap="gray", vmin=low, vmax=high)
        ax.set_xticks([])
        ax.set_yticks([])
        text, wrong = _caption(row.prediction, row.target)
        ax.set_title(
            shortened(text, 22) + f"\n{row.uncertainty:.2g}",
            fontsize=8,
            color=COLOURS[1] if wrong else "black",
        )
        ax.set_xlabel(shortened(str(row.task), 16), fontsize=7)
        if place % columns == 0:
            ax.set_ylabel(row.which, fontsize=8)
    return list(axes[: len(table)])


def _caption(prediction: object, target: object) -> tuple[str, bool]:
    """The prediction, and the target where it is known and another; whether the class is wrong."""
    unknown = target is None or (isinstance(target, float) and math.isnan(target))
    text = _written(prediction)
    if unknown or target == prediction:
        return text, False
    return f"{text}, is {_written(target)}", isinstance(target, str)


def _written(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, tuple):
        return ", ".join(f"{part:.2f}" for part in value)
    return str(value)


def _images(
    predictions: Predictions, rows: npt.NDArray[np.int64], image_shape: Sequence[int] | None
) -> npt.NDArray[np.float32]:
    """``[n, h, w]`` or ``[n, h, w, 3]``, the latter in [0, 1]."""
    x = predictions.tasks.x.cpu().numpy()[rows]
    shape = tuple(x.shape[1:]) if image_shape is None else tuple(image_shape)
    if image_shape is None and len(shape) == 1:
        side = math.isqrt(shape[0])
        shape = (side, side)
    if math.prod(shape) != math.prod(x.shape[1:]) or len(shape) not in (2, 3):
        raise InputError(
            f"an input has shape {list(x.shape[1:])}; expected an image: [h, w], [c, h, w] with 1 "
            "or 3 channels, or as many numbers as image_shape says."
        )
    x = x.reshape(-1, *shape)
    if len(shape) == 2:
        return x
    if shape[0] not in (1, 3):
        raise InputError(f"an image has {shape[0]} channels; expected 1 or 3.")
    if shape[0] == 1:
        return x[:, 0]
    # Colours may be standardised: shown from the darkest to the brightest number there is.
    low, high = x.min(), x.max()
    return np.moveaxis((x - low) / max(float(high - low), 1e-12), 1, -1)


def plot_out_of_distribution(
    inside: Predictions, outside: Predictions, ax: Axes | None = None, by: Kind = "epistemic"
) -> Axes:
    """The uncertainty of samples like the training data, and of samples from outside.

    :param inside: predictions of samples like the training data.
    :param outside: predictions of samples that are not: see ``leave_out_class`` and
        ``leave_out_task``.
    :param by: the uncertainty.
    """
    ax = axes_of(ax, 4.8, 3.4)
    values = [sample_uncertainty(predictions, by) for predictions in (inside, outside)]
    edges = np.histogram_bin_edges(np.concatenate(values), 30).tolist()
    for number, (name, shown) in enumerate(
        zip(("like the training data", "from outside"), values, strict=True)
    ):
        colour = COLOURS[number]
        label = f"{name} ({len(shown)})"
        ax.hist(shown, edges, density=True, color=colour, alpha=0.35)
        ax.hist(shown, edges, density=True, color=colour, histtype="step", lw=1.5, label=label)
    ax.set_xlabel(f"{by} uncertainty ({_unit(inside)})")
    ax.set_ylabel("density")
    area = out_of_distribution_auroc(inside, outside, by)
    ax.set_title(f"AUROC {area:.2f}", fontsize=10)
    ax.legend(fontsize=8)
    return ax
