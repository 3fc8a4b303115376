"""What is drawn is what the tables say."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import FancyArrowPatch, Rectangle

from pyro_vmtl.data import TaskSet, TaskSplits
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inspection import calibration, structure, uncertainty
from pyro_vmtl.inspection.out_of_distribution import out_of_distribution_auroc
from pyro_vmtl.inspection.plots import (
    plot_bands,
    plot_calibration,
    plot_coverage,
    plot_dendrogram,
    plot_elbo,
    plot_extreme_samples,
    plot_intervals,
    plot_kl_per_task,
    plot_kls_over_time,
    plot_out_of_distribution,
    plot_pit,
    plot_relatedness,
    plot_relatedness_graph,
    plot_relatedness_over_time,
    plot_relatedness_roc,
    plot_reliability,
    plot_responsibilities,
    plot_risk_coverage,
    plot_stability,
    plot_training,
    plot_uncertainty,
    plot_uncertainty_of_samples,
    plot_validation,
)
from pyro_vmtl.inspection.relatedness import (
    Value,
    chance_level,
    relatedness_auc,
    relatedness_matrix,
    relatedness_roc,
    relatedness_stability,
)

MakeFit = Callable[..., tuple[FittedVMTL, TaskSplits]]
MakeTable = Callable[..., pd.DataFrame]
MakePredictions = Callable[..., Predictions]


def line(ax: Axes, label: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    (found,) = [artist for artist in ax.lines if artist.get_label() == label]
    return np.asarray(found.get_xydata())


def names(ax: Axes, which: str) -> list[str]:
    axis = ax.xaxis if which == "x" else ax.yaxis
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize("value", ["probability", "mean", "responsibility"])
def test_the_heat_map_holds_the_matrix_in_its_order(make_table: MakeTable, value: Value) -> None:
    table = make_table(6)
    ax = plot_relatedness(table, value=value)
    rows, columns = names(ax, "y"), names(ax, "x")
    assert rows == structure.task_order(table)
    assert columns == [*rows, "base"]
    matrix = relatedness_matrix(table, value=value)
    image = ax.images[0].get_array()
    assert isinstance(image, np.ma.MaskedArray)
    shown = image.filled(np.nan)
    np.testing.assert_array_equal(shown, matrix.loc[rows, columns])
    written = [text.get_text() for text in ax.texts]
    assert len(written) == 6 * 7
    assert written.count("–") == 6


def test_numbers_are_written_for_few_tasks_only(make_table: MakeTable) -> None:
    assert len(plot_relatedness(make_table(12)).texts) > 0
    assert len(plot_relatedness(make_table(13)).texts) == 0


def test_an_order_can_be_given(make_table: MakeTable) -> None:
    order = ["task 3", "task 0", "task 2", "task 1"]
    assert names(plot_relatedness(make_table(4), order=order), "y") == order


@pytest.mark.parametrize("gates", [True, False])
def test_before_any_data_the_colour_is_that_of_the_middle(
    make_table: MakeTable, gates: bool
) -> None:
    table = make_table(5, gates=gates)
    table["probability"] = chance_level(table)
    low, high = plot_relatedness(table).images[0].get_clim()
    assert low is not None
    assert high is not None
    assert (low + high) / 2 == pytest.approx(chance_level(table))


def test_true_clusters_are_outlined(make_table: MakeTable) -> None:
    ax = plot_relatedness(make_table(6), truth=np.arange(6) % 2)
    (outline,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    # Two blocks of three by three, side by side along the diagonal: twelve sides each.
    assert len(outline.get_segments()) == 24
    corners = np.concatenate(outline.get_segments())
    assert {tuple(corners.min(0)), tuple(corners.max(0))} == {(-0.5, -0.5), (5.5, 5.5)}


def test_the_graph_has_an_arrow_for_every_edge(make_table: MakeTable) -> None:
    table = make_table(6)
    graph = structure.relatedness_graph(table)
    ax = plot_relatedness_graph(table)
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == graph.number_of_edges()
    widths = np.array([arrow.get_linewidth() for arrow in arrows])
    weights = np.array([graph.edges[edge]["weight"] for edge in graph.edges])
    assert (np.argsort(widths) == np.argsort(weights)).all()
    assert sorted(text.get_text() for text in ax.texts if text.get_text()) == sorted(graph)
    nodes = next(c for c in ax.collections if not isinstance(c, LineCollection))
    assert len(np.asarray(nodes.get_offsets())) == 6


def test_the_dendrogram_names_the_leaves(make_table: MakeTable) -> None:
    ax = plot_dendrogram(make_table(6), truth=np.arange(6) % 2)
    assert sorted(names(ax, "y")) == [f"task {number}" for number in range(6)]
    colours = [label.get_color() for label in ax.get_yticklabels()]
    assert len(set(colours[:3])) == len(set(colours[3:])) == 1
    assert colours[0] != colours[3]


def test_intervals_start_with_the_largest(make_table: MakeTable) -> None:
    table = make_table(4)
    ax = plot_intervals(table, most=5)
    largest = table.sort_values("mean", ascending=False).head(5)
    assert names(ax, "y") == list(largest["task"] + " ← " + largest["other"])
    np.testing.assert_allclose(line(ax, "mean and interval")[:, 0], largest["mean"])
    np.testing.assert_allclose(line(ax, "probability")[:, 0], largest["probability"])
    segments = np.array(ax.collections[0].get_segments())  # type: ignore[attr-defined]
    np.testing.assert_allclose(segments[:, 0, 0], largest["hdi_low"])
    np.testing.assert_allclose(segments[:, 1, 0], largest["hdi_high"])
    assert line(ax, "before any data")[0, 0] == 1 / 4
    assert names(plot_intervals(table, task="task 2"), "y")[0] == "task 0"


def test_relaxation_noise_is_labelled_as_such(make_table: MakeTable) -> None:
    table = make_table(3)
    assert "noise" not in plot_intervals(table).get_xlabel()
    table["draws_of"] = "relaxation"
    assert "noise" in plot_intervals(table).get_xlabel()


def test_alpha_stands_beside_responsibility(make_table: MakeTable) -> None:
    table = make_table(4)
    ax = plot_responsibilities(table, task="task 1")
    rows = table[table["task"] == "task 1"].set_index("other")
    shown = rows.loc[names(ax, "y")]
    np.testing.assert_allclose(line(ax, "probability (alpha)")[:, 0], shown["probability"])
    np.testing.assert_allclose(line(ax, "responsibility")[:, 0], shown["responsibility"])
    without = plot_responsibilities(make_table(4, gates=True))
    assert "no responsibilities" in without.texts[0].get_text()


def test_the_roc_curve_is_drawn_with_its_area(make_table: MakeTable) -> None:
    table, truth = make_table(6), [0, 0, 1, 1, 2, 2]
    ax = plot_relatedness_roc(table, truth)
    area = relatedness_auc(table, truth)
    curve = line(ax, f"weights: AUC {area:.2f}")
    expected = relatedness_roc(table, truth)
    np.testing.assert_allclose(curve, expected[["false_positive", "true_positive"]])


def test_stability_has_a_dot_for_each_seed(make_table: MakeTable) -> None:
    tables = {seed: make_table(4, seed=seed) for seed in (3, 5)}
    ax = plot_stability(tables, most=6)
    stable = relatedness_stability(tables)
    rows = stable.sort_values("mean", ascending=False).head(6)
    assert len(ax.lines) == 2
    for drawn, seed in zip(ax.lines, (3, 5), strict=True):
        np.testing.assert_allclose(np.asarray(drawn.get_xdata(), dtype=float), rows[f"seed {seed}"])


def test_reliability_shows_the_bins(make_predictions: MakePredictions) -> None:
    predictions = make_predictions(2)
    ax = plot_reliability(predictions, bins=10, task="task 1")
    table = calibration.reliability(predictions, 10, "task 1")
    dots = ax.containers[-1].lines[0].get_xydata()  # type: ignore[attr-defined]
    np.testing.assert_allclose(dots, table[["confidence", "accuracy"]])
    bars = ax.containers[-1].lines[2][0].get_segments()  # type: ignore[attr-defined]
    ends = np.array(bars)[:, :, 1]
    np.testing.assert_allclose(ends, table[["accuracy_low", "accuracy_high"]])
    heights = [patch.get_height() for patch in ax.patches if isinstance(patch, Rectangle)]
    np.testing.assert_allclose(heights, table["samples"] / table["samples"].sum())
    error = calibration.expected_calibration_error(table)
    assert ax.get_title() == f"task 1: ECE {error:.3f}"


def test_coverage_and_pit_show_their_tables(make_predictions: MakePredictions) -> None:
    predictions = make_predictions(2, "regression")
    table = calibration.interval_coverage(predictions)
    shown = line(plot_coverage(predictions), "coverage")
    np.testing.assert_allclose(shown, table[["level", "coverage"]])
    np.testing.assert_allclose(line(plot_reliability(predictions), "coverage"), shown)
    histogram = calibration.pit_histogram(predictions, 5)
    ax = plot_pit(predictions, bins=5)
    heights = [patch.get_height() for patch in ax.patches if isinstance(patch, Rectangle)]
    np.testing.assert_allclose(heights[:5], histogram["density"])


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_calibration_has_a_row_for_each_task(make_predictions: MakePredictions, kind: str) -> None:
    predictions = make_predictions(3, kind)
    ax = plot_calibration(predictions)
    table = calibration.calibration_table(predictions)
    assert names(ax, "y") == list(table.index)
    label, value = ("ECE", "ece") if kind == "classification" else ("coverage", "coverage")
    np.testing.assert_allclose(line(ax, label)[:, 0], table[value])


def test_uncertainty_is_stacked(make_predictions: MakePredictions) -> None:
    predictions = make_predictions(3)
    ax = plot_uncertainty(predictions)
    table = uncertainty.uncertainty_table(predictions)
    bars = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    widths = np.array([bar.get_width() for bar in bars])
    np.testing.assert_allclose(widths, [*table["aleatoric"], *table["epistemic"]])
    np.testing.assert_allclose([bar.get_x() for bar in bars[4:]], table["aleatoric"])


def test_wrong_samples_are_marked(make_predictions: MakePredictions) -> None:
    predictions = make_predictions(2)
    ax = plot_uncertainty_of_samples(predictions)
    wrong = predictions.mean.argmax(-1) != predictions.tasks.y
    right_dots, wrong_dots = (np.asarray(c.get_offsets()) for c in ax.collections)
    assert len(wrong_dots) == wrong.sum()
    assert len(right_dots) == (~wrong).sum()
    expected = torch.stack([predictions.aleatoric, predictions.epistemic], -1)[wrong]
    np.testing.assert_allclose(np.sort(wrong_dots, 0), np.sort(expected, 0), rtol=1e-6)


def test_risk_coverage_draws_the_pooled_curve_and_those_asked_for(
    make_predictions: MakePredictions,
) -> None:
    predictions = make_predictions(3)
    ax = plot_risk_coverage(predictions, tasks=["task 2"])
    for label, task in (("all tasks", None), ("task 2", "task 2")):
        table = uncertainty.risk_coverage(predictions, task=task)
        np.testing.assert_allclose(line(ax, label), table[["coverage", "risk"]])


def test_bands_run_over_a_single_input(make_predictions: MakePredictions) -> None:
    predictions = make_predictions(1, "regression", side=1)
    ax = plot_bands(predictions)
    place = np.sort(predictions.tasks.x[:, 0].numpy())
    np.testing.assert_allclose(line(ax, "mean")[:, 0], place)
    ranked = plot_bands(make_predictions(2, "regression", side=1))
    assert line(ranked, "mean")[:, 0].tolist() == list(range(40))
    assert (np.diff(line(ranked, "mean")[:, 1]) >= 0).all()


def test_images_are_those_of_the_extreme_samples(make_predictions: MakePredictions) -> None:
    predictions = make_predictions(2, side=4)
    axes = plot_extreme_samples(predictions, number=3)
    table = uncertainty.extreme_samples(predictions, 3)
    assert len(axes) == 6
    for ax, row in zip(axes, table.itertuples(), strict=True):
        image = ax.images[0].get_array()
        assert image is not None
        np.testing.assert_array_equal(image, predictions.tasks.x[row.sample].reshape(4, 4))
        title = ax.get_title()
        assert title.startswith(str(row.prediction))
        assert ("is " in title) == (row.target != row.prediction)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_may_have_channels(make_predictions: MakePredictions, channels: int) -> None:
    predictions = make_predictions(1, samples=4)
    x = torch.randn(4, channels, 5, 6)
    tasks: TaskSet = replace(predictions.tasks, x=x)
    axes = plot_extreme_samples(replace(predictions, tasks=tasks), number=1)
    shape = axes[0].images[0].get_array().shape  # type: ignore[union-attr]
    assert shape == ((5, 6) if channels == 1 else (5, 6, 3))


def test_inputs_that_are_no_images_are_refused(make_predictions: MakePredictions) -> None:
    predictions = make_predictions(1)
    tasks = replace(predictions.tasks, x=predictions.tasks.x[:, :7])
    with pytest.raises(InputError, match=r"shape \[7\]"):
        plot_extreme_samples(replace(predictions, tasks=tasks))
    with pytest.raises(InputError, match="1 axes for 12"):
        plot_extreme_samples(predictions, axes=[plt.subplots()[1]])


def test_out_of_distribution_gives_the_area(make_predictions: MakePredictions) -> None:
    inside, outside = make_predictions(2), make_predictions(2, seed=1)
    ax = plot_out_of_distribution(inside, outside)
    area = out_of_distribution_auroc(inside, outside)
    assert ax.get_title() == f"AUROC {area:.2f}"


def history() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epoch": [0, 1, 2],
            "elbo": [-30.0, -20.0, -12.0],
            "expected_log_likelihood": [-20.0, -12.0, -5.0],
            "kl_weights": [8.0, 6.0, 5.0],
            "kl_representations": [0.0, 0.0, 0.0],
            "kl_relatedness": [2.0, 2.0, 2.0],
            "temperature": [1.0, 0.8, 0.6],
            "weights_scale": [0.1, 0.2, 0.3],
            "validation_nll": [0.9, 0.6, 0.7],
            "validation_accuracy": [0.5, 0.7, 0.6],
        }
    )


def test_the_parts_drawn_add_up_to_the_elbo() -> None:
    ax = plot_elbo(history())
    parts = ["expected log-likelihood", "− KL weights", "− KL relatedness"]
    total = sum(line(ax, label)[:, 1] for label in parts)
    np.testing.assert_allclose(total, line(ax, "ELBO")[:, 1])
    # What is 0 throughout is not drawn.
    assert len(ax.lines) == 4


def test_of_a_tempered_run_kls_are_drawn_as_they_count() -> None:
    tempered = history().assign(kl_weight_of_weights=0.5, kl_weight_of_representations=0.01)
    ax = plot_elbo(tempered)
    assert line(ax, "− KL weights")[:, 1].tolist() == [-4, -3, -2.5]
    assert line(ax, "− KL relatedness")[:, 1].tolist() == [-1, -1, -1]
    assert line(ax, "tempered ELBO")[:, 1].tolist() == [-25, -16, -8.5]


def test_kls_that_are_0_do_not_make_a_run_tempered() -> None:
    ax = plot_elbo(history().assign(kl_weight_of_representations=0.01))
    assert line(ax, "ELBO")[:, 1].tolist() == [-30, -20, -12]


def test_validation_marks_the_epoch_that_was_kept() -> None:
    ax = plot_validation(history(), "accuracy")
    assert ax.lines[0].get_ydata().tolist() == [0.5, 0.7, 0.6]  # type: ignore[union-attr]
    assert line(ax, "kept: epoch 1")[:, 0].tolist() == [1, 1]


def test_training_has_axes_for_the_elbo_and_each_metric() -> None:
    axes = plot_training(history())
    assert [ax.get_ylabel() for ax in axes[1:]] == ["validation nll", "validation accuracy"]
    given = [plt.subplots()[1] for _ in range(2)]
    assert plot_training(history(), given, ["nll"]) == given
    with pytest.raises(InputError, match="1 axes"):
        plot_training(history(), given[:1], ["nll"])
    with pytest.raises(InputError, match="'elbo'"):
        plot_elbo(history().drop(columns="elbo"))
    with pytest.raises(InputError, match="no rows"):
        plot_elbo(history().iloc[:0])


def test_kls_are_drawn_task_by_task() -> None:
    table = pd.DataFrame({"weights": [3.0, 1.0]}, index=["a", "b"])
    ax = plot_kl_per_task(table)
    assert names(ax, "y") == ["a", "b"]
    assert line(ax, "weights")[:, 0].tolist() == [3, 1]
    kls = pd.DataFrame(
        {
            "epoch": [0, 0, 1, 1],
            "site": "weights",
            "task": ["a", "b", "a", "b"],
            "kl": [3.0, 1.0, 2.0, 4.0],
        }
    )
    ax = plot_kls_over_time(kls, most=1)
    assert line(ax, "b")[:, 1].tolist() == [1, 4]
    assert len(ax.lines) == 2
    assert "representations" in plot_kls_over_time(kls, site="representations").texts[0].get_text()


def test_relatedness_over_time_names_the_strongest() -> None:
    snapshots = pd.DataFrame(
        {
            "epoch": [0, 0, 1, 1],
            "site": "weights",
            "task": "a",
            "other": ["b", "base", "b", "base"],
            "probability": [0.5, 0.5, 0.8, 0.2],
        }
    )
    ax = plot_relatedness_over_time(snapshots, task="a", most=1)
    assert line(ax, "b")[:, 1].tolist() == [0.5, 0.8]
    assert line(ax, "base")[:, 1].tolist() == [0.5, 0.2]
    pairs = plot_relatedness_over_time(snapshots)
    assert line(pairs, "a ← b")[:, 1].tolist() == [0.5, 0.8]
    marked = plot_relatedness_over_time(snapshots, kept=1.0)
    assert line(marked, "kept: epoch 1")[:, 0].tolist() == [1, 1]
    with pytest.raises(InputError, match="no task 'z'"):
        plot_relatedness_over_time(snapshots, task="z")
    with pytest.raises(InputError, match="representations"):
        plot_relatedness_over_time(snapshots, site="representations")


def test_pairs_that_are_the_same_both_ways_are_one_line() -> None:
    ways = [("b", "a"), ("a", "b"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")]
    snapshots = pd.DataFrame(
        {
            "epoch": np.repeat([0, 1], 6),
            "site": "weights",
            "task": [task for task, _ in ways] * 2,
            "other": [other for _, other in ways] * 2,
            "probability": [0.2, 0.2, 0.5, 0.5, 0.1, 0.1, 0.9, 0.9, 0.4, 0.4, 0.3, 0.3],
        }
    )
    ax = plot_relatedness_over_time(snapshots)
    assert len(ax.lines) == 3
    # Tasks in their order in the table: b, a, c.
    assert line(ax, "b – a")[:, 1].tolist() == [0.2, 0.9]
    assert line(ax, "a – c")[:, 1].tolist() == [0.5, 0.4]
    snapshots.loc[11, "probability"] = 0.35
    apart = plot_relatedness_over_time(snapshots)
    assert len(apart.lines) == 6
    assert line(apart, "c ← b")[:, 1].tolist() == [0.1, 0.35]


@pytest.mark.parametrize("num_tasks", [4, 60])
def test_names_never_overlap(make_table: MakeTable, num_tasks: int) -> None:
    for figsize in ((3, 3), (8, 8)):
        ax = plt.subplots(figsize=figsize)[1]
        plot_relatedness(make_table(num_tasks), ax=ax)
        plot = ax.get_figure(root=True)
        assert plot is not None
        plot.canvas.draw()
        boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
        boxes = sorted(boxes, key=lambda box: box.y0)
        # Half a point of touching is the rounding of pixels.
        assert all(b.y0 - a.y1 > -1 for a, b in itertools.pairwise(boxes))
