"""Every public plot draws for classes and real targets, for 2, 6 and 60 tasks, gates too."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from pyro_vmtl import inspection
from pyro_vmtl.data import TaskSplits
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inspection import plots

MakeFit = Callable[..., tuple[FittedVMTL, TaskSplits]]
MakeTable = Callable[..., pd.DataFrame]
MakePredictions = Callable[..., Predictions]

OF_TABLES = [
    "plot_dendrogram",
    "plot_intervals",
    "plot_relatedness",
    "plot_relatedness_graph",
    "plot_relatedness_roc",
    "plot_responsibilities",
    "plot_stability",
]
OF_PREDICTIONS = [
    "plot_calibration",
    "plot_extreme_samples",
    "plot_out_of_distribution",
    "plot_reliability",
    "plot_risk_coverage",
    "plot_uncertainty",
    "plot_uncertainty_of_samples",
]
OF_REGRESSION = ["plot_bands", "plot_coverage", "plot_pit"]
OF_HISTORY = ["plot_elbo", "plot_scales", "plot_schedules", "plot_training", "plot_validation"]
OF_TRAINING = ["plot_kl_per_task", "plot_kls_over_time", "plot_relatedness_over_time"]

SIZES = [2, 6, 60]


def drawn(result: Axes | list[Axes]) -> None:
    """The axes hold something, and can be rendered."""
    every = result if isinstance(result, list) else [result]
    for ax in every:
        assert isinstance(ax, Axes)
        assert ax.has_data() or ax.texts
    every[0].figure.canvas.draw()  # type: ignore[union-attr]


def extra(name: str, truth: object) -> dict[str, Any]:
    if name == "plot_relatedness_roc":
        return {"truth": truth}
    takes_truth = name in ("plot_dendrogram", "plot_relatedness", "plot_relatedness_graph")
    return {"truth": truth} if takes_truth else {}


def test_every_public_plot_is_among_these() -> None:
    ours = {*OF_TABLES, *OF_PREDICTIONS, *OF_REGRESSION, *OF_HISTORY, *OF_TRAINING}
    assert ours == set(plots.__all__)
    assert ours <= set(inspection.__all__)


@pytest.mark.parametrize("name", OF_TABLES)
@pytest.mark.parametrize("num_tasks", SIZES)
@pytest.mark.parametrize("gates", [True, False])
def test_plots_of_relatedness(
    make_table: MakeTable, name: str, num_tasks: int, gates: bool
) -> None:
    table: Any = make_table(num_tasks, gates=gates)
    if name == "plot_stability":
        table = {seed: make_table(num_tasks, gates=gates, seed=seed) for seed in range(3)}
    draw = getattr(plots, name)
    drawn(draw(table, **extra(name, np.arange(num_tasks) % 2)))
    if name != "plot_relatedness_roc":
        given = plt.subplots(figsize=(3, 3))[1]
        assert draw(table, ax=given) is given
        drawn(given)


@pytest.mark.parametrize("name", OF_PREDICTIONS)
@pytest.mark.parametrize("num_tasks", SIZES)
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_plots_of_predictions(
    make_predictions: MakePredictions, name: str, num_tasks: int, kind: str
) -> None:
    predictions = make_predictions(num_tasks, kind, samples=6)
    arguments: list[Any] = [predictions]
    if name == "plot_out_of_distribution":
        arguments.append(make_predictions(num_tasks, kind, samples=4, seed=1))
    draw = getattr(plots, name)
    drawn(draw(*arguments))
    if name != "plot_extreme_samples":
        given = plt.subplots(figsize=(3, 3))[1]
        assert draw(*arguments, ax=given) is given


@pytest.mark.parametrize("name", OF_REGRESSION)
@pytest.mark.parametrize("num_tasks", SIZES)
@pytest.mark.parametrize("task", [None, "task 1"])
def test_plots_of_regressions(
    make_predictions: MakePredictions, name: str, num_tasks: int, task: str | None
) -> None:
    predictions = make_predictions(num_tasks, "regression", samples=6, outputs=2)
    drawn(getattr(plots, name)(predictions, task=task))


@pytest.mark.parametrize("name", [*OF_HISTORY, *OF_TRAINING])
@pytest.mark.parametrize(
    ("settings", "kind", "num_tasks"),
    [
        ("mixture", "multiclass", 2),
        ("power", "regression", 6),
        ("layers", "regression", 6),
        ("clustered", "binary", 60),
    ],
)
def test_plots_of_training(
    make_fit: MakeFit, name: str, settings: str, kind: str, num_tasks: int
) -> None:
    fitted, _ = make_fit(settings, num_tasks, kind)
    shown = fitted.history
    if name in OF_TRAINING:
        snapshots = inspection.Snapshots(fitted.names)
        for epoch in range(2):
            snapshots.take(fitted.vmtl, epoch)
        shown = {
            "plot_kl_per_task": inspection.kl_per_task(fitted, 2),
            "plot_kls_over_time": snapshots.kls(),
            "plot_relatedness_over_time": snapshots.relatedness(),
        }[name]
    drawn(getattr(plots, name)(shown))


@pytest.mark.parametrize("settings", ["mixture", "power", "clustered", "layers"])
def test_plots_of_a_fit(make_fit: MakeFit, settings: str) -> None:
    fitted, splits = make_fit(settings, 6, "regression" if settings == "layers" else "multiclass")
    table = inspection.relatedness(fitted, 20)
    for site in table["site"].unique():
        for name in OF_TABLES:
            if name != "plot_stability":
                truth = splits.train.truth
                assert isinstance(truth, torch.Tensor)
                drawn(getattr(plots, name)(table, site=site, **extra(name, truth)))
