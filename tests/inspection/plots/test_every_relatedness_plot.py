"""Every plot of relatedness draws for weights and gates, for 2, 6 and 60 tasks."""

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


def extra(name: str, truth: object) -> dict[str, Any]:
    if name == "plot_relatedness_roc":
        return {"truth": truth}
    takes_truth = name in ("plot_dendrogram", "plot_relatedness", "plot_relatedness_graph")
    return {"truth": truth} if takes_truth else {}


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


@pytest.mark.parametrize("settings", ["mixture", "power", "nested", "layers"])
def test_plots_of_a_fit(make_fit: MakeFit, settings: str) -> None:
    fitted, splits = make_fit(settings, 6, "regression" if settings == "layers" else "multiclass")
    table = inspection.relatedness(fitted, 20)
    for site in table["site"].unique():
        for name in OF_TABLES:
            if name != "plot_stability":
                truth = splits.train.truth
                assert isinstance(truth, torch.Tensor)
                drawn(getattr(plots, name)(table, site=site, **extra(name, truth)))


@pytest.mark.parametrize("num_tasks", SIZES)
@pytest.mark.parametrize("name", ["plot_influence"])
def test_plots_of_influence(name: str, num_tasks: int) -> None:
    generator = np.random.default_rng(0)
    names = [f"task {t}" for t in range(num_tasks)]
    rows = [
        (kind, one, other, generator.normal())
        for kind in ("alone", "without")
        for one in names
        for other in names
        if one != other
    ]
    table = pd.DataFrame(rows, columns=["kind", "borrower", "lender", "gain"])
    table = table.assign(low=table["gain"] - 1, high=table["gain"] + 1)
    draw = getattr(plots, name)
    drawn(draw(table, truth=np.arange(num_tasks) % 2))
    given = plt.subplots(figsize=(3, 3))[1]
    assert draw(table, ax=given, kind="without", order=names[::-1]) is given
    assert next(text.get_text() for text in given.get_yticklabels()) == names[-1]
