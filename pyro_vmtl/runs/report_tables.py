"""The tables of a report: what stands in their cells, and by what number a cell is sorted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pyro_vmtl.inspection import calibration_table, independence, uncertainty_table
from pyro_vmtl.inspection.gains import WITHOUT
from pyro_vmtl.inspection.scored import ALL_TASKS, binomial_interval
from pyro_vmtl.runs.finished import FinishedRun

__all__ = [
    "COVERAGE",
    "HIGH_IS_GOOD",
    "METRICS",
    "Cell",
    "Column",
    "Strip",
    "Table",
    "borrowing_rows",
    "borrowing_table",
    "calibration_report",
    "calibration_rows",
    "gains_table",
    "scaling_report",
    "scores_table",
    "uncertainty_report",
    "written",
    "written_range",
]

COVERAGE = 0.9
"""The stated share of the intervals behind the metric ``coverage_90``."""

METRICS = {
    "accuracy": ("accuracy", "share of samples whose most probable class is right; high is good"),
    "accuracy_seen": ("accuracy, seen", "that on classes that the task was trained on"),
    "accuracy_missing": ("accuracy, missing", "that on classes it had no training sample of"),
    "harmonic_mean": ("harmonic mean", "that of the two accuracies, 0 where one is; high is good"),
    "nll": ("NLL", "minus the mean log predictive density of a target, in nats; low is good"),
    "brier": ("Brier", "squared distance of probabilities from what came, 0 to 2; low is good"),
    "ece": ("ECE", "mean distance of accuracy from stated confidence; low is good, but never 0"),
    "nmse": ("NMSE", "squared error over the targets' variance; 1 is no better than their mean"),
    "rmse": ("RMSE", "root mean squared error, in the unit of the target; low is good"),
    "crps": ("CRPS", "distance of the prediction's law from the target, in its unit; low is good"),
    "coverage_90": ("coverage of 90%", "share of targets inside their 90% intervals; 0.9 is best"),
}  # fmt: skip
"""What each metric is called, and what it says."""

HIGH_IS_GOOD = ("accuracy", "accuracy_seen", "accuracy_missing", "harmonic_mean")
"""The metrics that are the better the higher they are."""


@dataclass(frozen=True)
class Strip:
    """A range and a dot on a short axis from 0 to 1, as shares of its length.

    :ivar low: start of the range.
    :ivar high: its end.
    :ivar dot: the value.
    :ivar mark: where a value should be, if there is such a place.
    """

    low: float
    high: float
    dot: float
    mark: float | None = None


@dataclass(frozen=True)
class Cell:
    """One entry.

    :ivar text: as it is read.
    :ivar value: the number behind it, by which it is sorted; None where it is no number.
    :ivar best: whether it is the best of those that it stands beside.
    :ivar strip: drawn in place of the text, which then is read aloud.
    """

    text: str
    value: float | None = None
    best: bool = False
    strip: Strip | None = None


@dataclass(frozen=True)
class Column:
    """The head of a column.

    :ivar label: as it is read.
    :ivar numeric: whether its cells are numbers, set to the right.
    """

    label: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by each of its columns.

    :ivar name: of its element.
    :ivar caption: what it shows.
    :ivar columns: the first names the rows.
    :ivar rows: a cell per column.
    :ivar footer: a last row that stays where it is.
    :ivar groups: labels above the columns with the number that each spans.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    footer: tuple[Cell, ...] = ()
    groups: tuple[tuple[str, int], ...] = ()


def written(value: float | None) -> str:
    """A number as a person reads it: three decimals, or two digits where these say nothing."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and abs(value) < 0.0005:
        text = f"{value:.1e}"
    elif abs(value) >= 1000:
        text = f"{value:.0f}"
    else:
        text = f"{value:.3f}"
    return text.replace("-", "−")


def written_range(low: float, high: float) -> str:
    """Two numbers as a person reads them, or one where they look the same."""
    return written(low) if written(low) == written(high) else f"{written(low)} to {written(high)}"


def _number(value: float | None, best: bool = False) -> Cell:
    missing = value is None or math.isnan(value)
    return Cell(written(value), None if missing else value, best)


def _chance(value: float) -> Cell:
    """A number in [0, 1], of which further digits say nothing."""
    return Cell("–") if math.isnan(value) else Cell(f"{value:.3f}", value)


def _count(value: int) -> Cell:
    return Cell(f"{value}", value)


def _label(metric: str) -> str:
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ")


def _distance_from_best(metric: str, value: float) -> float:
    if metric in HIGH_IS_GOOD:
        return -value
    return abs(value - COVERAGE) if metric == "coverage_90" else value


# How good


def gains_table(run: FinishedRun) -> Table | None:
    """How much better each task is predicted than by each rival."""
    gained = run.gains
    if gained is None:
        return None
    rivals = [against for against in gained["against"].unique() if against != WITHOUT]
    shown = gained[gained["against"] != WITHOUT].set_index(["task", "against"])

    def row(task: str) -> tuple[Cell, ...]:
        cells = [Cell(task)]
        for rival in rivals:
            found = shown.loc[(task, rival)]
            cells += [_number(found["gain"]), _number(found["se"])]
        return tuple(cells)

    head = [Column("task", numeric=False)]
    head += [Column(label) for _ in rivals for label in ("gain", "± s.e.")]
    caption = (
        "Mean difference in log density, in nats a sample, of training samples that are each "
        "predicted from all others: above 0 this model is better than the rival."
    )
    groups = (("", 1), *((f"over {rival}", 2) for rival in rivals))
    rows = tuple(row(name) for name in run.names)
    return Table("gains", caption, tuple(head), rows, row(ALL_TASKS), groups)


def scores_table(run: FinishedRun) -> Table:
    """The test metrics of every task, beside those of the models that do not borrow."""
    methods = {"VMTL": run.metrics["test"]}
    scaled = run.metrics.get("calibrated")
    if scaled:
        methods["VMTL, scaled"] = scaled["after"]["test"]
    baselines = run.metrics.get("baselines") or {}
    methods |= {name: scores["test"] for name, scores in baselines.items()}
    first = methods["VMTL"]
    metrics = list(first["mean"])
    sizes = dict(zip(run.names, run.predictions.tasks.sizes.tolist(), strict=True))

    def row(task: str) -> tuple[Cell, ...]:
        cells = [Cell("mean over tasks" if task == "mean" else task)]
        cells.append(Cell("") if task == "mean" else _count(sizes[task]))
        for metric in metrics:
            values = [scores.get(task, {}).get(metric) for scores in methods.values()]
            known = [_distance_from_best(metric, v) for v in values if v is not None]
            for value in values:
                best = (
                    value is not None
                    and _distance_from_best(metric, value) == min(known)
                    and max(known) > min(known)
                )
                cells.append(_number(value, best))
        return tuple(cells)

    head = [Column("task", numeric=False), Column("samples")]
    groups: tuple[tuple[str, int], ...] = ()
    if len(methods) > 1:
        names = [method.replace(" ", "\u00a0") for method in methods]
        head += [Column(name) for _ in metrics for name in names]
        groups = (("", 2), *((_label(metric), len(methods)) for metric in metrics))
    else:
        head += [Column(_label(metric)) for metric in metrics]
    caption = "Scores on held-out test data, never used for any choice."
    if scaled:
        caption += " Scaled: by a temperature that was fitted to validation data."
    if baselines:
        caption += (
            " N(0, I) is the same model without borrowing; single-task has encoders of its own."
            if len(baselines) > 1
            else f" {next(iter(baselines))} does not borrow."
        )
    if len(methods) > 1:
        caption += " Bold: the best of a row, from one seed."
    return Table(
        "scores",
        caption,
        tuple(head),
        tuple(row(task) for task in first if task != "mean"),
        row("mean"),
        groups,
    )


# How sure


def calibration_rows(run: FinishedRun) -> pd.DataFrame:
    """A row per task, then the pooled samples, and in ``verdict`` what to make of it.

    Of classes the columns of :func:`pyro_vmtl.inspection.calibration_table`. Of a regression
    ``samples, coverage, coverage_low, coverage_high`` of the 90% intervals, the coverage of a task
    being the one in ``metrics.json`` and its interval Jeffreys' for that share.
    """
    if run.is_classification:
        table = calibration_table(run.predictions)
        above = table["ece"] > table["ece_high"]
        over = table["confidence"] > table["accuracy"]
        words = np.where(over, "overconfident", "underconfident")
        return table.assign(verdict=np.where(above, words, "as calibrated"))
    tasks = run.predictions.tasks
    outputs = 1 if tasks.y.ndim == 1 else tasks.y.shape[1]
    sizes = {
        name: size * outputs for name, size in zip(tasks.names, tasks.sizes.tolist(), strict=True)
    }
    shares = {name: scores["coverage_90"] for name, scores in run.metrics["test"].items()}
    shares = {n: s for n, s in shares.items() if n != "mean" and s is not None}
    samples = np.array([sizes[name] for name in shares])
    hits = np.rint(np.array(list(shares.values())) * samples)
    samples, hits = np.append(samples, samples.sum()), np.append(hits, hits.sum())
    low, high = binomial_interval(hits, samples)
    words = np.where(high < COVERAGE, "too narrow", "too wide")
    return pd.DataFrame(
        {
            "samples": samples,
            "coverage": [*shares.values(), hits[-1] / samples[-1]],
            "coverage_low": low,
            "coverage_high": high,
            "verdict": np.where((low <= COVERAGE) & (high >= COVERAGE), "as stated", words),
        },
        index=pd.Index([*shares, ALL_TASKS], name="task"),
    )


def calibration_report(run: FinishedRun, rows: pd.DataFrame) -> Table:
    """The table of :func:`calibration_rows`."""
    if run.is_classification:
        labels: tuple[str, ...] = ("samples", "accuracy", "confidence", "ECE", "range from", "to")
        keys: tuple[str, ...] = ("accuracy", "confidence", "ece", "ece_low", "ece_high")
        marked: tuple[float, ...] = ()
        start, end = 0.0, 1.08 * float(rows[["ece", "ece_high"]].max().max())
        value, where = "ece", "ECE and that range"
        caption = (
            "Calibration by task. The range is where the ECE of perfectly calibrated predictions "
            "with these probabilities would lie, 95 times in 100; above it, the stated "
            "probabilities are off. Confidence is the mean probability of the predicted class."
        )
    else:
        labels = ("samples", "coverage of 90%", "interval from", "to")
        keys = ("coverage", "coverage_low", "coverage_high")
        lowest = min(float(rows["coverage_low"].min()), COVERAGE)
        start, end = max(0.0, lowest - 0.03), 1.0
        value, marked = "coverage", (COVERAGE,)
        where = "beside 0.9"
        caption = (
            "Calibration by task: the share of targets inside their 90% predictive intervals, with "
            "the 95% interval of that share. Where it misses 0.9, the stated intervals are off."
        )
    made = []
    for task, row in rows.iterrows():
        low, high, dot = (float(row[key]) for key in (f"{value}_low", f"{value}_high", value))
        text, excess = f"{written(dot)} ({written(low)} to {written(high)})", dot - high
        low, high, dot, *marks = ((x - start) / (end - start) for x in (low, high, dot, *marked))
        strip = Strip(low, high, dot, *marks)
        made.append(
            (
                Cell(str(task)),
                _count(int(row["samples"])),
                *(_number(float(row[key])) for key in keys),
                Cell(text, excess, strip=strip),
                Cell(str(row["verdict"])),
            )
        )
    return Table(
        "calibration",
        caption,
        (
            Column("task", numeric=False),
            *(Column(label) for label in labels),
            Column(where, numeric=False),
            Column("verdict", numeric=False),
        ),
        tuple(made[:-1]),
        made[-1],
    )


def scaling_report(run: FinishedRun) -> Table | None:
    """The temperatures, and calibration before and after them, where they were fitted."""
    entry = run.metrics.get("calibrated")
    if not entry:
        return None
    second = "ece" if run.is_classification else "coverage_90"
    before, after = entry["before"]["test"], entry["after"]["test"]

    def scores(task: str) -> tuple[Cell, ...]:
        return tuple(
            _number(part.get(task, {}).get(name))
            for name in ("nll", second)
            for part in (before, after)
        )

    rows = tuple(
        (
            Cell(task),
            *(_number(fitted[key]) for key in ("temperature", "low", "high")),
            _count(fitted["samples"]),
            *scores(task),
        )
        for task, fitted in entry["temperatures"].items()
    )
    own = [fitted["own"] for fitted in entry["temperatures"].values()]
    whose = (
        "One temperature for all tasks"
        if not any(own)
        else "A temperature for each task"
        if all(own)
        else "A temperature for each task whose validation samples tell it well enough, one for "
        "the others"
    )
    return Table(
        "scaling",
        f"{whose}, fitted to labelled validation samples (their number in the column) and never to "
        "test data. Above 1 it takes confidence away, below 1 it adds some; where the interval "
        "holds 1, the validation data do not say that it was needed. Test scores before and after.",
        (
            Column("task", numeric=False),
            *(Column(label) for label in ("temperature", "95% from", "to", "samples")),
            *(Column(f"{_label(name)} {when}") for name in ("nll", second) for when in _WHEN),
        ),
        rows,
        (Cell("mean over tasks"), *[Cell("")] * 4, *scores("mean")),
    )


_WHEN = ("before", "after")


def uncertainty_report(run: FinishedRun) -> Table:
    """The mean uncertainty of every task, split into its parts."""
    table = uncertainty_table(run.predictions)
    error = "error_rate" if run.is_classification else "mse"
    unit = "nats" if run.is_classification else "the target's unit squared"
    keys = ("total", "aleatoric", "epistemic", "epistemic_share", error)
    made = [
        (Cell(str(task)), _count(int(row["samples"])), *(_number(float(row[key])) for key in keys))
        for task, row in table.iterrows()
    ]
    labels = ("samples", "total", "aleatoric", "epistemic", "epistemic share")
    return Table(
        "uncertainty",
        f"Mean uncertainty of a prediction, in {unit}. Aleatoric: noise that more data would not "
        "remove. Epistemic: what more data would.",
        (
            Column("task", numeric=False),
            *(Column(label) for label in labels),
            Column("error rate" if run.is_classification else "squared error"),
        ),
        tuple(made[:-1]),
        made[-1],
    )


# Who helps whom


def borrowing_rows(run: FinishedRun, site: str) -> list[dict[str, Any]]:
    """For every task the lender of the largest probability (its row), and its independence."""
    rows = run.relatedness[run.relatedness["site"] == site]
    alone = independence(run.relatedness, site)
    first = rows.sort_values("probability", ascending=False, kind="stable").groupby("task").head(1)
    first = first.set_index("task")
    return [
        {"task": task, "independence": float(alone[task]), **first.loc[task].to_dict()}
        for task in rows["task"].unique()
    ]


def borrowing_table(run: FinishedRun, site: str) -> Table:
    """Each task's closest lender, and how far it stands on its own."""
    made = borrowing_rows(run, site)
    mixture = any(not math.isnan(row["responsibility"]) for row in made)
    clusters = run.kind(site) == "clusters"
    caption = "Each task's closest relative" if clusters else "Each task's strongest lender"
    caption += f", and its independence: {_INDEPENDENCE[run.kind(site)]}."
    columns = [
        Column("task", numeric=False),
        Column("closest" if clusters else "borrows most from", numeric=False),
        Column("probability"),
        Column("interval from"),
        Column("to"),
        *([Column("responsibility")] if mixture else []),
        Column("independence"),
    ]
    keys = ("probability", "hdi_low", "hdi_high", *(["responsibility"] if mixture else []))
    rows = tuple(
        (
            Cell(str(row["task"])),
            # Who is as good as surely unrelated is nobody's closest relative.
            Cell("–" if clusters and row["probability"] < 0.005 else str(row["other"])),
            *(_chance(row[key]) for key in (*keys, "independence")),
        )
        for row in made
    )
    return Table(f"borrowing-{site}", caption, tuple(columns), rows)


_INDEPENDENCE = {
    "weights": "the probability of base, N(0, I), by which a task declines to borrow (– where the "
    "prior has no base)",
    "gates": "1 minus its widest gate",
    "clusters": "1 minus the chance that it shares a cluster with its closest relative",
}
