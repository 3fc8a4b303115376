"""Every plot of training draws, whatever borrows and however many tasks there are."""

from collections.abc import Callable

import pandas as pd
import pytest
from matplotlib.axes import Axes

from pyro_vmtl import inspection
from pyro_vmtl.data import TaskSplits
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inspection import plots

MakeFit = Callable[..., tuple[FittedVMTL, TaskSplits]]
MakeTable = Callable[..., pd.DataFrame]
MakePredictions = Callable[..., Predictions]

OF_HISTORY = ["plot_elbo", "plot_scales", "plot_schedules", "plot_training", "plot_validation"]
OF_TRAINING = ["plot_kl_per_task", "plot_kls_over_time", "plot_relatedness_over_time"]


def drawn(result: Axes | list[Axes]) -> None:
    """The axes hold something, and can be laid out."""
    every = result if isinstance(result, list) else [result]
    for ax in every:
        assert isinstance(ax, Axes)
        assert ax.has_data() or ax.texts
    figure = every[0].get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()


@pytest.mark.parametrize("name", [*OF_HISTORY, *OF_TRAINING])
@pytest.mark.parametrize(
    ("settings", "kind", "num_tasks"),
    [
        ("mixture", "multiclass", 2),
        ("power", "regression", 6),
        ("layers", "regression", 6),
        ("nested", "binary", 60),
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
