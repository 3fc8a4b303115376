"""The pictures of a report, drawn from a run's files and held as data URIs."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from pyro_vmtl.inspection import (
    extreme_samples,
    plot_coverage,
    plot_elbo,
    plot_influence,
    plot_pit,
    plot_relatedness,
    plot_relatedness_graph,
    plot_relatedness_over_time,
    plot_reliability,
    plot_risk_coverage,
    plot_scales,
    plot_validation,
    task_order,
)
from pyro_vmtl.inspection.influence import InfluenceKind
from pyro_vmtl.model import SITES
from pyro_vmtl.runs.finished import FinishedRun, leads_out
from pyro_vmtl.runs.report_tables import METRICS, written

__all__ = [
    "Figure",
    "Sample",
    "calibration_figures",
    "extremes",
    "further_figures",
    "influence_figures",
    "over_time_figure",
    "relatedness_figure",
    "training_figures",
]

_DRAWN_HERE = (
    *("training", "influence"),
    *(f"relatedness_{site}" for site in SITES),
    *(f"relatedness_over_time_{site}" for site in SITES),
)
_MOST_BYTES = 1_500_000
_SHOWN = 6
_SMALLEST_SIDE = 8


@dataclass(frozen=True)
class Figure:
    """A picture.

    :ivar source: a data URI.
    :ivar alternative: what one would see.
    :ivar caption: what to make of it.
    """

    source: str
    alternative: str
    caption: str


@dataclass(frozen=True)
class Sample:
    """One test sample and its prediction.

    :ivar which: ``most certain`` or ``least certain``.
    :ivar row: in ``predictions.parquet``.
    :ivar task: its task.
    :ivar prediction: the predicted class, or mean and standard deviation.
    :ivar target: what came.
    :ivar wrong: whether another class came.
    :ivar uncertainty: total, of the prediction.
    :ivar image: a data URI, where the input is an image.
    """

    which: str
    row: int
    task: str
    prediction: str
    target: str
    wrong: bool
    uncertainty: float
    image: str | None


def _vector(ax: Axes) -> str:
    """The figure of these axes as SVG; the same axes give the same text."""
    buffer = io.BytesIO()
    figure: Any = ax.get_figure(root=True)
    with mpl.rc_context({"svg.hashsalt": "pyro_vmtl"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _draw(ax: Axes, alternative: str, caption: str) -> Figure:
    return Figure(_vector(ax), alternative, caption)


def _new_axes(width: float = 5.4, height: float = 3.8) -> Axes:
    return plt.subplots(figsize=(width, height))[1]


def training_figures(run: FinishedRun) -> list[Figure]:
    """The ELBO and its parts, the validation data, and the posterior scales, over epochs."""
    history = run.history
    if history.empty:
        return []
    meaning = (
        "What training maximises: the fit to the training data minus what each posterior costs "
        "against its prior, which in a tempered run counts by its KL weight. The parts add up."
    )
    if run.setting("pool") == "Nested":
        meaning = (
            f"{meaning} Of every task it is given what the other tasks say: a score of predicting "
            "each from the rest, and no bound on the evidence of all, by which priors could be "
            "compared."
        )
    figures = [
        _draw(
            plot_elbo(history, _new_axes()),
            "Curves of the ELBO and its parts over epochs.",
            meaning,
        )
    ]
    validated = [name for name in history.columns if name.startswith("validation_")]
    main = "accuracy" if run.is_classification else "nmse"
    for name in ("nll", main):
        if f"validation_{name}" in validated and history[f"validation_{name}"].notna().any():
            label, meaning = METRICS[name]
            title = label[0].upper() + label[1:]
            figures.append(
                _draw(
                    plot_validation(history, name, _new_axes()),
                    f"Curve of the validation {label} over epochs.",
                    f"{title} on validation data: {meaning}. The epoch of the best NLL is kept.",
                )
            )
    if run.classifier == "point":
        return figures  # a point has no scale
    figures.append(
        _draw(
            plot_scales(history, _new_axes()),
            "Curves of the mean posterior scales over epochs.",
            "Posterior scales. Where they fall to nothing while the weights drift away, evidence "
            "was counted more than once.",
        )
    )
    return figures


def calibration_figures(run: FinishedRun) -> list[Figure]:
    """Stated against observed shares on the test data, and whether uncertainty finds errors."""
    predictions = run.predictions
    figures = []
    if run.is_classification:
        figures.append(
            _draw(
                plot_reliability(predictions, _new_axes()),
                "Reliability diagram: accuracy against confidence in bins.",
                "Reliability of all tasks pooled: samples in bins of their stated confidence, and "
                "how many were right. Dots above the diagonal: more often right than stated; "
                "below: overconfident. The bars below are the share of samples in each bin.",
            )
        )
    elif predictions.draws is not None:
        figures += [
            _draw(
                plot_coverage(predictions, _new_axes()),
                "Coverage of predictive intervals against their stated share.",
                "Coverage of all tasks pooled: how many targets lie in intervals of each stated "
                "share. Below the diagonal intervals are too narrow, above it too wide.",
            ),
            _draw(
                plot_pit(predictions, _new_axes()),
                "Histogram of the probability integral transform.",
                "Where targets fall within their predictive distributions. Flat within the band: "
                "calibrated; a bowl: intervals too narrow; a hump: too wide; a slope: off to one "
                "side.",
            ),
        ]
    error = "share of wrong classes" if run.is_classification else "mean squared error"
    figures.append(
        _draw(
            plot_risk_coverage(predictions, _new_axes()),
            f"Curve of the {error} on the samples that the model is surest of.",
            f"Does the uncertainty find the errors? The {error} when only the surest predictions "
            "are accepted. The lower the curve on the left, the better; a flat one tells nothing.",
        )
    )
    return figures


def relatedness_figure(run: FinishedRun, site: str) -> Figure:
    """Who lends to whom, as arrows."""
    return _draw(
        plot_relatedness_graph(run.relatedness, site=site),
        "Graph of the tasks with arrows from lenders to borrowers.",
        "The strongest lenders of each task, at most three, where they say more than before any "
        "data: arrows point from lender to borrower, wider for more. Brighter tasks are more "
        "independent; grey: the prior has no way to decline.",
    )


def influence_figures(run: FinishedRun) -> list[Figure]:
    """Who gains from whom, beside the relatedness that was learned, in one order of tasks."""
    table = run.influence
    if table is None or table.empty:
        return []
    site = next(iter(run.sites), None)
    order = None if site is None else task_order(run.relatedness, site)
    figures = []
    if site is not None:
        figures.append(
            _draw(
                plot_relatedness(run.relatedness, site=site, order=order),
                "Heat map of the learned relatedness.",
                "The relatedness that was learned, for comparison.",
            )
        )
    captions: dict[InfluenceKind, str] = {
        "alone": "With the lender as the only other task, less with no other task: nothing of the "
        "learned partition is read. Red: forcing the two together would cost so much.",
        "without": "With all other tasks, less with all but the lender: what the model as it is "
        "owes to each.",
    }
    figures += [
        _draw(
            plot_influence(table, kind=kind, order=order),
            f"Heat map of the gain of each task by each lender, {kind}.",
            f"{caption} Of left-out training samples, in nats a sample; bold or dotted where it is "
            "two standard errors away from 0.",
        )
        for kind, caption in captions.items()
    ]
    return figures


def over_time_figure(run: FinishedRun, site: str) -> Figure | None:
    """How the relatedness of a site formed, where the run looked at it during training."""
    if run.over_time is None or site not in set(run.over_time["site"]):
        return None
    row = run.kept
    kept = None if row is None or run.history.empty else float(run.history["epoch"].iloc[row])
    what = {
        "weights": "the probability that a lender is picked",
        "gates": "the probability that a gate is open",
        "clusters": "the probability that two tasks share a cluster",
    }[run.kind(site)]
    return _draw(
        plot_relatedness_over_time(run.over_time, _new_axes(), site=site, kept=kept),
        "Curves of the relatedness of pairs of tasks over epochs.",
        f"How relatedness formed: {what}, over epochs; the pairs that end highest are named. "
        "Curves that still move at the epoch that was kept would have gone on: train longer before "
        "reading them.",
    )


def further_figures(run: FinishedRun) -> tuple[list[Figure], list[str]]:
    """Pictures in ``figures/`` that the report does not draw itself, and names left out by size."""
    figures, left_out, total = [], [], 0
    for path in sorted((run.path / "figures").glob("*.png")):
        if path.stem in _DRAWN_HERE or path.name.startswith(".") or leads_out(path, run.path):
            continue
        content = path.read_bytes()
        total += len(content)
        if total > _MOST_BYTES:
            left_out.append(path.name)
            continue
        name = path.stem.replace("_", " ")
        source = "data:image/png;base64," + base64.b64encode(content).decode()
        figures.append(Figure(source, name, f"{name} (figures/{path.name})"))
    return figures, left_out


# Samples


def extremes(run: FinishedRun) -> list[Sample]:
    """The test samples that the model is surest of, then those that it is least sure of."""
    predictions = run.predictions
    number = max(1, min(_SHOWN, len(predictions.tasks) // 2))
    table = extreme_samples(predictions, number)
    images = _images(run)
    samples = []
    for row in table.itertuples():
        at = place = int(row.sample)
        wrong = False
        if run.is_classification:
            confidence = float(predictions.mean[at].max())
            shown = f"{row.prediction} ({written(confidence)})"
            target = "no label" if row.target is None else str(row.target)
            wrong = row.target is not None and row.target != row.prediction
            if run.outputs:
                place, output = divmod(at, len(run.outputs))
                shown = f"{run.outputs[output]}: {shown}"
        else:
            shown, target = _interval(run, at), _real(row.target)
        image = None if images is None else _png(images[at], images)
        samples.append(
            Sample(row.which, place, row.task, shown, target, wrong, float(row.uncertainty), image)
        )
    return samples


def _interval(run: FinishedRun, at: int) -> str:
    means = run.predictions.mean[at].reshape(-1).tolist()
    variances = run.predictions.total[at].reshape(-1).tolist()
    pairs = zip(means, variances, strict=True)
    return ", ".join(f"{written(mean)} ± {written(math.sqrt(var))}" for mean, var in pairs)


def _real(target: Any) -> str:
    values = target if isinstance(target, tuple) else (target,)
    if all(math.isnan(value) for value in values):
        return "no label"
    return ", ".join("none" if math.isnan(value) else written(value) for value in values)


def _images(run: FinishedRun) -> npt.NDArray[np.float32] | None:
    """The test inputs as images ``[N, h, w]`` or ``[N, h, w, 3]``, if that is what they are."""
    if not run.has_inputs:
        return None
    x = run.predictions.tasks.x.numpy()
    if x.ndim == 2:
        # Flat inputs are taken for images if they could be pixels of a square, and nothing else.
        side = math.isqrt(x.shape[1])
        if side < _SMALLEST_SIDE or side**2 != x.shape[1] or x.min() < 0 or x.max() > 1:
            return None
        return x.reshape(-1, side, side)
    if x.ndim == 3:
        return x
    if x.ndim == 4 and x.shape[1] in (1, 3):
        return x[:, 0] if x.shape[1] == 1 else np.moveaxis(x, 1, -1)
    return None


def _png(image: npt.NDArray[np.float32], images: npt.NDArray[np.float32]) -> str:
    """One image, from the darkest to the brightest number that there is in any."""
    low, high = float(images.min()), float(images.max())
    shades = (image - low) / max(high - low, 1e-12)
    # Large images are thinned: what is shown is small, and the report has to stay small as well.
    step = max(1, max(shades.shape[:2]) // 96)
    buffer = io.BytesIO()
    plt.imsave(buffer, shades[::step, ::step], format="png", cmap="gray", vmin=0, vmax=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
