"""Every plot of predictions draws for classes and real targets, for 2, 6 and 60 tasks."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from pyro_vmtl.data import TaskSplits
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inspection import plots

MakeFit = Callable[..., tuple[FittedVMTL, TaskSplits]]
MakeTable = Callable[..., pd.DataFrame]
MakePredictions = Callable[..., Predictions]

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

SIZES = [2, 6, 60]


def drawn(result: Axes | list[Axes]) -> None:
    """The axes hold something, and can be laid out."""
    every = result if isinstance(result, list) else [result]
    for ax in every:
        assert isinstance(ax, Axes)
        assert ax.has_data() or ax.texts
    figure = every[0].get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()


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
