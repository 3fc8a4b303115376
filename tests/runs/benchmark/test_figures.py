"""Metrics against training size."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from pyro_vmtl.runs.benchmark.cells import Result
from pyro_vmtl.runs.benchmark.figures import figure_of_sizes
from pyro_vmtl.runs.benchmark.grid import Cell, Dataset, Grid, Method, Size
from pyro_vmtl.runs.benchmark.tables import Numbers, numbers_of

SIZES: tuple[Size, ...] = (1, 3, 5)
DATASET = Dataset("data", (), "data.shots", SIZES)


def _numbers(methods: list[str], outlier: float | None = None) -> Numbers:
    """Three seeds of each method, better with size; the last method may be far off."""
    grid = Grid(tuple(Method(m, ()) for m in methods), (DATASET,), (0, 1, 2), (), ())
    results = {}
    for place, method in enumerate(methods):
        for size in SIZES:
            for seed in grid.seeds:
                nll = 2.0 - 0.1 * float(size) + 0.02 * place + 0.01 * seed
                if outlier is not None and method == methods[-1]:
                    nll = outlier
                scores = {"accuracy": 1 - nll / 3, "nll": nll}
                cell = Cell("data", "data.shots", size, method, seed, (), f"{place}{size}{seed}")
                results[cell] = Result({"mean": scores}, 1.0, 1, (), None)
    return numbers_of(grid, results, methods[0], 0.95)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def _draw(methods: list[str], outlier: float | None = None) -> Figure:
    return figure_of_sizes(_numbers(methods, outlier), DATASET, methods, ["accuracy", "nll"])


def test_every_method_has_a_line_through_its_means() -> None:
    methods = [f"method {i}" for i in range(16)]
    figure = _draw(methods)
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy", "NLL"]
    _, nll = figure.axes
    lines = {c.get_label(): c.lines[0] for c in nll.containers}  # type: ignore[attr-defined]
    assert list(lines) == methods
    for place, name in enumerate(methods):
        expected = [2.01 - 0.1 * float(size) + 0.02 * place for size in SIZES]
        assert lines[name].get_ydata() == pytest.approx(expected)
    assert [t.get_text() for t in nll.get_xticklabels()] == ["1", "3", "5"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == methods


def test_no_two_methods_look_alike_or_stand_on_each_other() -> None:
    methods = [f"method {i}" for i in range(16)]
    nll = _draw(methods).axes[1]
    lines = [container.lines[0] for container in nll.containers]  # type: ignore[attr-defined]
    assert len({(x.get_color(), x.get_linestyle(), x.get_marker()) for x in lines}) == 16
    places = np.sort(np.concatenate([line.get_xdata() for line in lines]))
    assert np.diff(places).min() > 0.01


@pytest.mark.parametrize("value", [184.0, -184.0])
def test_a_method_far_off_does_not_set_the_scale_and_is_shown_at_the_edge(value: float) -> None:
    methods = ["a", "b", "c", "far"]
    nll = _draw(methods, outlier=value).axes[1]
    low, high = nll.get_ylim()
    assert high - low < 2
    assert low < 1.5 < 1.9 < high
    edges = [line for line in nll.lines if line.get_marker() == ("^" if value > 0 else "v")]
    ends = {float(np.asarray(line.get_ydata())[0]) for line in edges if len(line.get_xdata()) == 1}  # type: ignore[arg-type]
    assert ends == {high if value > 0 else low}
    assert [text.get_text() for text in nll.texts] == [f"{value:.3g}"] * 3


def test_one_method_and_one_seed_are_drawn() -> None:
    grid = Grid((Method("a", ()),), (DATASET,), (0,), (), ())
    results = {
        Cell("data", "data.shots", size, "a", 0, (), str(size)): Result(
            {"mean": {"nll": 1.0}}, 1.0, 1, (), None
        )
        for size in SIZES
    }
    figure = figure_of_sizes(numbers_of(grid, results, None, 0.95), DATASET, ["a"], ["nll"])
    line = figure.axes[0].containers[0].lines[0]  # type: ignore[attr-defined]
    assert line.get_ydata() == pytest.approx([1.0] * 3)
    assert line.get_xdata() == pytest.approx([0.0, 1.0, 2.0])
