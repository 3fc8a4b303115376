"""The tables of a benchmark: averages over tasks, differences to the reference, every task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pyro_vmtl.inspection.scored import ALL_TASKS
from pyro_vmtl.runs.benchmark.cells import Result
from pyro_vmtl.runs.benchmark.grid import Cell, Dataset, Grid, Size
from pyro_vmtl.runs.benchmark.statistics import differences, summary, tidy
from pyro_vmtl.runs.benchmark.text import (
    Entry,
    TextTable,
    latex,
    markdown,
    markdown_escape,
    narrow,
)
from pyro_vmtl.runs.report_tables import METRICS, written

__all__ = ["Numbers", "cells_frame", "latex_page", "markdown_page", "numbers_of", "shown_metrics"]

MEAN = "mean"
_CLASSES = ("accuracy", "accuracy_seen", "accuracy_missing", "harmonic_mean", "nll", "ece")
_MOST_COLUMNS = 7
_REAL = ("nmse", "nll", "crps", "coverage_90")


@dataclass(frozen=True)
class Numbers:
    """All that the tables show.

    :ivar results: a row a number; see :func:`.statistics.tidy`.
    :ivar summary: see :func:`.statistics.summary`.
    :ivar differences: see :func:`.statistics.differences`; empty without a reference.
    :ivar reference: the method that others are compared with, or None.
    :ivar level: of the intervals.
    """

    results: pd.DataFrame
    summary: pd.DataFrame
    differences: pd.DataFrame
    reference: str | None
    level: float


def numbers_of(
    grid: Grid, results: Mapping[Cell, Result], reference: str | None, level: float
) -> Numbers:
    """Everything that is computed from the results of a grid's cells."""
    rows = tidy(results)
    methods = [method.name for method in grid.methods]
    paired = differences(rows, methods, reference or "", level)
    return Numbers(rows, summary(rows, methods, grid.seeds, level), paired, reference, level)


def cells_frame(
    grid: Grid, results: Mapping[Cell, Result], commands: Sequence[str]
) -> pd.DataFrame:
    """A row a cell: what became of it, and the command that repeats it.

    :param commands: one a cell of the grid.
    """
    rows = []
    for cell, command in zip(grid.cells, commands, strict=True):
        result = results.get(cell)
        rows.append(
            {
                "data": cell.dataset,
                "size": cell.size,
                "method": cell.method,
                "seed": cell.seed,
                "status": _status(result),
                "seconds": None if result is None else result.seconds,
                "epochs": result.epochs if result and result.error is None else None,
                "warnings": "" if result is None else " ".join(result.warnings),
                "error": result.error or "" if result else "",
                "file": cell.file,
                "command": command,
            }
        )
    return pd.DataFrame(rows)


def _status(result: Result | None) -> str:
    if result is None:
        return "missing"
    return "done" if result.error is None else "failed"


def shown_metrics(numbers: Numbers, dataset: str, chosen: Sequence[str] | None) -> list[str]:
    """The metrics of a data set that tables and figures show.

    :param chosen: by the user, or None.
    """
    rows = numbers.results
    known = set(rows.loc[(rows["data"] == dataset) & (rows["task"] == MEAN), "metric"])
    wanted = chosen or (_CLASSES if "accuracy" in known else _REAL)
    return [metric for metric in wanted if metric in known]


def label_of(metric: str) -> str:
    """What a metric is called."""
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ")


def title_of(dataset: Dataset, size: Size) -> str:
    """A data set at a training size."""
    return f"{dataset.name}, {dataset.axis}={size}" if dataset.axis else dataset.name


class _Lookup:
    """Entries of tables, found by data, size, task, metric and method."""

    def __init__(self, grid: Grid, numbers: Numbers, results: Mapping[Cell, Result]) -> None:
        keys = ["data", "size", "task", "metric", "method"]
        self._means = numbers.summary.set_index(keys).to_dict("index")
        self._pairs = numbers.differences.set_index(keys).to_dict("index")
        self._seeds = len(grid.seeds)
        self._failed = {
            (cell.dataset, cell.size, cell.method) for cell, r in results.items() if r.error
        }

    def mean(self, data: str, size: Size, task: str, metric: str, method: str) -> Entry:
        row = self._means.get((data, size, task, metric, method))
        if row is None:
            return Entry("failed" if (data, size, method) in self._failed else "–")
        if metric == "ece_in_range":
            return Entry(f"{row['mean'] * row['seeds']:.0f} of {row['seeds']}")
        text = written(row["mean"])
        if not math.isnan(row["sd"]):
            text += f" ± {written(row['sd'])}"
        if row["seeds"] < self._seeds:
            text += f" ({row['seeds']} of {self._seeds} seeds)"
        return Entry(text, "bold" if row["best"] else "italic" if row["tied"] else "")

    def difference(self, data: str, size: Size, metric: str, method: str) -> Entry:
        row = self._pairs.get((data, size, MEAN, metric, method))
        if row is None:
            return Entry("failed" if (data, size, method) in self._failed else "–")
        sign = "+" if row["mean"] > 0 else ""
        text = f"{sign}{written(row['mean'])}"
        if row["seeds"] < self._seeds:
            text += f" ({row['seeds']} of {self._seeds} seeds)"
        if math.isnan(row["low"]):
            return Entry(text)
        holds_zero = row["low"] <= 0 <= row["high"]
        text += f" [{written(row['low'])}, {written(row['high'])}]"
        return Entry(text, "italic" if holds_zero else "")


def _tables(
    grid: Grid,
    numbers: Numbers,
    results: Mapping[Cell, Result],
    metrics: Sequence[str] | None,
) -> dict[str, list[TextTable]]:
    """Tables by section."""
    lookup = _Lookup(grid, numbers, results)
    names = [method.name for method in grid.methods]
    sections: dict[str, list[TextTable]] = {"Averages": [], "Differences": [], "Tasks": []}
    rows = numbers.results
    for dataset in grid.datasets:
        shown = shown_metrics(numbers, dataset.name, metrics)
        if not shown:
            continue  # nothing is there yet
        here = rows[rows["data"] == dataset.name]
        tasks = [task for task in dict.fromkeys(here["task"]) if task not in (MEAN, ALL_TASKS)]
        pooled = [("ece", "pooled ECE"), ("ece_in_range", "in range")]
        pooled = pooled if ALL_TASKS in set(here["task"]) and "ece" in shown else []
        for size in dataset.sizes:
            title = title_of(dataset, size)
            head = ("method", *map(label_of, shown), *(label for _, label in pooled), "CPU s")
            body = []
            for name in names:
                where = (dataset.name, size)
                entries = [lookup.mean(*where, MEAN, metric, name) for metric in shown]
                entries += [lookup.mean(*where, ALL_TASKS, metric, name) for metric, _ in pooled]
                seconds = _mean_seconds(results, dataset.name, size, name)
                body.append((Entry(name), *entries, Entry(seconds)))
            sections["Averages"].append(TextTable(f"{title}: mean over tasks", head, tuple(body)))
            for metric in shown:
                columns = [*tasks, MEAN]
                body = []
                for name in names:
                    entries = [lookup.mean(dataset.name, size, t, metric, name) for t in columns]
                    body.append((Entry(name), *entries))
                head = ("method", *columns)
                sections["Tasks"].append(
                    TextTable(f"{title}: {label_of(metric)} of every task", head, tuple(body))
                )
        if numbers.reference is None:
            continue
        for metric in shown:
            body = []
            for name in names:
                if name == numbers.reference:
                    continue
                entries = [
                    lookup.difference(dataset.name, size, metric, name) for size in dataset.sizes
                ]
                body.append((Entry(name), *entries))
            sizes = [f"{dataset.axis}={size}" if dataset.axis else "" for size in dataset.sizes]
            title = f"{dataset.name}: {label_of(metric)} minus that of {numbers.reference}"
            sections["Differences"].append(TextTable(title, ("method", *sizes), tuple(body)))
    return {name: tables for name, tables in sections.items() if tables}


def _mean_seconds(results: Mapping[Cell, Result], data: str, size: Size, method: str) -> str:
    seconds = [
        result.seconds
        for cell, result in results.items()
        if (cell.dataset, cell.size, cell.method) == (data, size, method) and result.error is None
    ]
    return f"{sum(seconds) / len(seconds):.0f}" if seconds else "–"


def _legends(grid: Grid, numbers: Numbers) -> dict[str, str]:
    """What to make of the tables of each section."""
    pooled = (
        "Coverage is best at 0.9. Pooled ECE is over all tasks together; in range: in how many "
        "seeds it lies where that of a perfectly calibrated model would in 95 of 100 cases. CPU "
        "seconds are those of a fit with its scoring."
    )
    if len(grid.seeds) < 2:
        one = "Test data, one seed, which has no interval and supports no claim."
        return {
            "Averages": f"{one} {pooled}",
            "Differences": f"Method minus {numbers.reference}. {one}",
            "Tasks": "As the averages, a column a task.",
        }
    level = f"{100 * numbers.level:g}%"
    return {
        "Averages": (
            f"Test data, mean ± sd over {len(grid.seeds)} seeds. Bold: the best mean. Italic: the "
            f"{level} interval of its paired difference from the best holds 0, so the seeds do not "
            f"tell the two apart. Only methods with all seeds take part. {pooled}"
        ),
        "Differences": (
            f"Method minus {numbers.reference}, mean over the seeds that both have, with {level} t "
            "intervals; italic: the interval holds 0. Intervals are not widened for the number of "
            "methods."
        ),
        "Tasks": "As the averages, a column a task.",
    }


def _failures(results: Mapping[Cell, Result]) -> list[str]:
    return [f"{cell.title}: {result.error}" for cell, result in results.items() if result.error]


def _warned(grid: Grid, results: Mapping[Cell, Result]) -> list[str]:
    lines = []
    for method in grid.methods:
        of_method = [r for cell, r in results.items() if cell.method == method.name and not r.error]
        warned = [result for result in of_method if result.warnings]
        if warned:
            lines.append(f"{method.name}: {len(warned)} of {len(of_method)} fits")
    return lines


def _budget(grid: Grid) -> str:
    shared = " ".join(grid.shared) or "none"
    seeds = ", ".join(map(str, grid.seeds))
    return f"Overrides of every fit: {shared}. Seeds: {seeds}."


def _progress(grid: Grid, results: Mapping[Cell, Result]) -> str:
    done = sum(1 for result in results.values() if result.error is None)
    return f"{done} of {len(grid.cells)} fits are there."


def markdown_page(
    grid: Grid,
    numbers: Numbers,
    results: Mapping[Cell, Result],
    metrics: Sequence[str] | None,
    figures: Sequence[str],
) -> str:
    """All tables, figures, failures and counts of warnings, as Markdown.

    :param metrics: shown; None for a choice.
    :param figures: their files, relative to the page.
    """
    lines = ["# Benchmark", "", f"{markdown_escape(_budget(grid))} {_progress(grid, results)}", ""]
    legends = _legends(grid, numbers)
    for section, tables in _tables(grid, numbers, results, metrics).items():
        lines += [f"## {section}", "", markdown_escape(legends[section]), ""]
        lines += [markdown(table) for table in tables]
        if section == "Averages":
            lines += [f"![Metrics against training size]({name})\n" for name in figures]
    for title, items in (
        ("Failed fits", _failures(results)),
        ("Fits with warnings (cells.csv says which)", _warned(grid, results)),
    ):
        if items:
            lines += [f"## {title}", "", *(f"- {markdown_escape(item)}" for item in items), ""]
    return "\n".join(lines)


def latex_page(
    grid: Grid, numbers: Numbers, results: Mapping[Cell, Result], metrics: Sequence[str] | None
) -> str:
    """All tables as LaTeX, to be read by ``\\input``.

    :param metrics: shown; None for a choice.
    """
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        f"% {_budget(grid)} {_progress(grid, results)}",
        "",
    ]
    legends = _legends(grid, numbers)
    for section, tables in _tables(grid, numbers, results, metrics).items():
        lines += [f"% {section}. {legends[section]}", ""]
        parts = [part for table in tables for part in narrow(table, _MOST_COLUMNS)]
        lines += [
            latex(part, f"tab:{section.lower()}-{number}") for number, part in enumerate(parts, 1)
        ]
    failures = [" ".join(item.split()) for item in _failures(results)]
    lines += [f"% Failed: {item}" for item in failures]
    return "\n".join(lines) + "\n"
