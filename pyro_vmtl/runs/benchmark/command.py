"""A benchmark: compute what is missing, and write the tables of what is there."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from pyro_vmtl.errors import InputError
from pyro_vmtl.runs.benchmark.cells import command, read_results
from pyro_vmtl.runs.benchmark.figures import figure_of_sizes
from pyro_vmtl.runs.benchmark.grid import Grid, read_grid
from pyro_vmtl.runs.benchmark.launching import launch
from pyro_vmtl.runs.benchmark.tables import (
    Numbers,
    cells_frame,
    latex_page,
    markdown_page,
    numbers_of,
    shown_metrics,
)
from pyro_vmtl.runs.folder import RunFolder
from pyro_vmtl.runs.report_tables import METRICS
from pyro_vmtl.runs.screen import styled

__all__ = ["run_benchmark"]

_REPEAT = """\
# The configuration of this benchmark. To go on with it:
#   python -m pyro_vmtl.benchmark --config-dir {folder} --config-name grid
"""


def run_benchmark(
    config: DictConfig,
    launcher: DictConfig,
    console: Console,
    config_folders: Sequence[str] = (),
    trusted: Collection[str] = (),
) -> int:
    """Compute the cells that are missing or failed, and write tables and figures of all.

    :param config: of ``configs/benchmark.yaml``.
    :param launcher: the node ``hydra.launcher``, by which cells are computed.
    :param console: where progress is shown.
    :param config_folders: of the user's own configs, for the commands that repeat a cell.
    :param trusted: what configurations may name; see :func:`pyro_vmtl.runs.read_plan`.
    :return: how many cells have no result in the end.
    :raises InputError: says what in the configuration cannot be used.
    """
    threads, level = _threads(config.threads), _level(config.level)
    metrics = _metrics(config.metrics)
    grid = read_grid(config)
    reference = _reference(config.reference, grid)
    folder = RunFolder(Path(config.run_dir).absolute())
    folder.write_text("grid.yaml", _repeatable(config, folder.path))
    results, complaints = read_results(folder, grid.cells)
    for sentence in complaints:
        console.print(styled("yellow", "Warning:", sentence), soft_wrap=True)
    missing = [c for c in grid.cells if c not in results or results[c].error is not None]
    console.print(
        f"{len(grid.methods)} methods, {len(grid.cells)} fits: "
        f"{len(grid.cells) - len(missing)} are done, {len(missing)} are not"
    )
    if missing and not config.tables_only:
        for sentence in launch(missing, folder.path, launcher, threads, config_folders, trusted):
            console.print(styled("red", "Error:", sentence), soft_wrap=True)
        results, _ = read_results(folder, grid.cells)
    numbers = numbers_of(grid, results, reference, level)
    folder.write_csv("results.csv", numbers.results)
    folder.write_csv("summary.csv", numbers.summary)
    folder.write_csv("differences.csv", numbers.differences)
    commands = [command(cell, threads, config_folders) for cell in grid.cells]
    folder.write_csv("cells.csv", cells_frame(grid, results, commands))
    figures = _write_figures(folder, grid, numbers, metrics)
    folder.write_text("tables.md", markdown_page(grid, numbers, results, metrics, figures))
    folder.write_text("tables.tex", latex_page(grid, numbers, results, metrics))
    failed = [cell for cell, result in results.items() if result.error is not None]
    for cell in failed:
        sentence = f"{cell.title}: {results[cell].error}"
        console.print(styled("red", "Failed:", sentence), soft_wrap=True)
    left = len(grid.cells) - len(results) + len(failed)
    if left:
        how = (
            "tables_only=false computes them" if config.tables_only else "the same command goes on"
        )
        console.print(f"{left} of {len(grid.cells)} fits have no result; {how}")
    console.print(f"Tables: {folder.path / 'tables.md'}", soft_wrap=True)
    return left


def _write_figures(
    folder: RunFolder, grid: Grid, numbers: Numbers, metrics: Sequence[str] | None
) -> list[str]:
    """A figure a data set that has results; their files, relative to the folder."""
    names = []
    methods = [method.name for method in grid.methods]
    for dataset in grid.datasets:
        shown = shown_metrics(numbers, dataset.name, metrics)
        if not shown:
            continue
        figure = figure_of_sizes(numbers, dataset, methods, shown)
        name = f"figures/{re.sub(r'[^A-Za-z0-9_.-]+', '-', dataset.name)}.png"
        folder.write(name, partial(figure.savefig, dpi=110))
        plt.close(figure)
        names.append(name)
    return names


def _repeatable(config: DictConfig, folder: Path) -> str:
    data = OmegaConf.to_container(config, resolve=True)
    assert isinstance(data, dict)
    text = {
        "defaults": [
            {"override hydra/job_logging": "none"},
            {"override hydra/hydra_logging": "none"},
            "_self_",
        ],
        "hydra": {"output_subdir": None, "run": {"dir": "."}, "job": {"chdir": False}},
        **data,
        "run_dir": str(folder),
    }
    return _REPEAT.format(folder=folder) + OmegaConf.to_yaml(OmegaConf.create(text))


def _reference(given: Any, grid: Grid) -> str | None:
    names = [method.name for method in grid.methods]
    if given is not None and given not in names:
        raise InputError(
            f"reference is {given!r}; expected one of the methods, {', '.join(names)}, or null"
        )
    return None if given is None else str(given)


def _threads(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise InputError(f"threads is {given!r}; expected a whole number of at least 1")
    return given


def _level(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < 1:
        raise InputError(f"level is {given!r}; expected a share between 0 and 1")
    return float(given)


def _metrics(given: Any) -> list[str] | None:
    if given is None:
        return None
    names = [given] if isinstance(given, str) else [str(name) for name in given]
    for name in names:
        if name not in METRICS:
            raise InputError(f"metrics has {name!r}; expected some of {', '.join(METRICS)}")
    return names
