"""The report of a run: one HTML file that opens from disk and answers what a newcomer asks."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pyro_vmtl.errors import InputError
from pyro_vmtl.inspection import calibration_table, relatedness_auc, relatedness_matrix, task_order
from pyro_vmtl.inspection.gains import COMPLETE_POOLING, NO_POOLING, WITHOUT
from pyro_vmtl.inspection.relatedness import Value
from pyro_vmtl.inspection.scored import ALL_TASKS
from pyro_vmtl.model import Kind
from pyro_vmtl.runs.doubts import Check, check, tells_nothing
from pyro_vmtl.runs.finished import FinishedRun, read_run
from pyro_vmtl.runs.folder import RunFolder
from pyro_vmtl.runs.report_figures import (
    calibration_figures,
    extremes,
    further_figures,
    influence_figures,
    over_time_figure,
    relatedness_figure,
    training_figures,
)
from pyro_vmtl.runs.report_tables import (
    METRICS,
    borrowing_table,
    calibration_report,
    calibration_rows,
    gains_table,
    scaling_report,
    scores_table,
    uncertainty_report,
    written,
    written_range,
)

__all__ = ["write_report"]

_MOST_WRITTEN_INTO = 12
_VALUES: tuple[Value, ...] = (
    *("probability", "mean", "sd", "hdi_low", "hdi_high", "responsibility"),
)
# The per cent of the strongest colour from where on white letters contrast more than black ones on
# a light page, and black more than white on a dark one; where they change it is 4.6 to 1.
_LETTERS = {"white-by-day": 77, "black-by-night": 57}
_PROBABILITY = {
    "weights": "probability that this lender is picked",
    "gates": "probability that the gate is open",
    "clusters": "probability that the two share a cluster",
}


@dataclass(frozen=True)
class _Matrix:
    """The relatedness of a site as a page shows it; ``data`` is what answers on hover."""

    site: str
    kind: Kind
    tasks: list[str]
    others: list[str]
    cells: list[list[dict[str, Any] | None]]
    dense: bool
    top: float
    data: dict[str, Any]
    area: float | None


def write_report(run: str | Path) -> Path:
    """Write ``report.html`` into the folder of a finished run, from the files in it.

    Everything is in the one file: it loads nothing else, and opens from disk.

    :param run: the folder.
    :return: the file.
    :raises InputError: if the folder lacks a file of a run, or holds one that cannot be read.
    """
    finished = read_run(run)
    try:
        text = _render(finished)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of the many ways in which files may not be those of a run
        raise InputError(
            f"the files of {run} do not fit each other ({type(error).__name__}: {error}); expected "
            "those of one run (HYDRA_FULL_ERROR=1 shows where)"
        ) from error
    folder = RunFolder.existing(run)
    return folder.write("report.html", lambda path: path.write_text(text, encoding="utf-8"))


def _render(run: FinishedRun) -> str:
    calibration = calibration_rows(run)
    checks = check(run, calibration)
    figures, left_out = further_figures(run)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["written"] = written
    return environment.from_string(_part("report.html.jinja")).render(
        style=Markup(_part("report.css")),
        script=Markup(_part("report.js")),
        title=f"{run.config.get('experiment', 'run')} – {run.path.resolve().name}",
        experiment=run.config.get("experiment", "run"),
        folder=run.path.resolve().name,
        facts=_facts(run),
        tiles=_tiles(run, calibration, checks),
        summary=_summary(run, calibration),
        scores=scores_table(run),
        gains=gains_table(run),
        metrics=[METRICS[name] for name in run.metrics["test"]["mean"] if name in METRICS],
        calibration=calibration_report(run, calibration),
        scaling=scaling_report(run),
        pooled_scaling=_pooled_scaling(run, calibration),
        calibration_figures=calibration_figures(run),
        has_draws=run.is_classification or run.predictions.draws is not None,
        uncertainty=uncertainty_report(run),
        samples=extremes(run),
        unit="nats" if run.is_classification else "the target's unit squared",
        is_classification=run.is_classification,
        num_tasks=len(run.names),
        pool=run.setting("pool"),
        matrices=[_matrix(run, site) for site in run.sites],
        borrowing={site: borrowing_table(run, site) for site in run.sites},
        graphs={site: relatedness_figure(run, site) for site in run.sites},
        over_time={site: over_time_figure(run, site) for site in run.sites},
        influences=influence_figures(run),
        checks=checks,
        training=training_figures(run),
        kept=_kept(run),
        further=figures,
        left_out=left_out,
        command=_command(run),
        versions=run.metrics["versions"],
        seconds=run.metrics["seconds"],
        config=(run.path / "config.yaml").read_text(),
    )


def _part(name: str) -> str:
    return (files("pyro_vmtl.runs") / name).read_text(encoding="utf-8")


def _command(run: FinishedRun) -> str:
    folder = shlex.quote(str(run.path))
    return f"python -m pyro_vmtl.train --config-dir {folder} --config-name config"


def _plural(count: int, noun: str) -> str:
    ending = ("es" if noun.endswith("s") else "s") if count != 1 else ""
    return f"{count} {noun}{ending}"


def _facts(run: FinishedRun) -> list[str]:
    tasks = run.predictions.tasks
    samples = run.metrics["samples"]
    parts = ", ".join(f"{samples[part]} {part}" for part in samples)
    facts = [
        _plural(len(run.names), "task"),
        _plural(tasks.num_classes, "class")
        if run.is_classification
        else f"regression of {', '.join(tasks.outputs or ())}",
        f"samples: {parts}",
        f"pool {run.setting('pool')}",
    ]
    if run.classifier != "conjugate":
        facts.append(f"classifier {run.classifier}")
    if run.config.get("recipe") is not None:  # runs of earlier versions do not say
        facts.insert(0, f"recipe {run.config['recipe']}")
    return [*facts, f"seed {run.config.get('seed')}"]


def _kept(run: FinishedRun) -> dict[str, Any]:
    row = None if run.kept is None else run.history.iloc[run.kept]
    return {
        "epochs": len(run.history),
        "epoch": None if row is None else int(row["epoch"]),
        "elbo": None if row is None else float(row["elbo"]),
    }


def _tiles(
    run: FinishedRun, calibration: pd.DataFrame, checks: list[Check]
) -> list[dict[str, str | None]]:
    """The numbers that come first: a label, the number, and what it is to be held against."""
    mean, pooled = run.metrics["test"]["mean"], calibration.loc[ALL_TASKS]
    main = "accuracy" if run.is_classification else "nmse"
    over = "mean over tasks" if len(run.names) > 1 else "of the one task"
    tiles: list[dict[str, str | None]] = [
        {"metric": name, "label": METRICS[name][0], "value": written(mean[name]), "note": over}
        for name in (main, "nll")
    ]
    if run.is_classification:
        between = f"{written(pooled['ece_low'])} to {written(pooled['ece_high'])}"
        value, label = written(pooled["ece"]), "ECE"
        note = f"all samples; {between} if calibrated"
    else:
        value, label = written(mean["coverage_90"]), METRICS["coverage_90"][0]
        note = f"{over}; 0.900 if calibrated"
    tiles.append({"metric": None, "label": label, "value": value, "note": note})
    found = sum(len(one.findings) for one in checks)
    tiles.append(
        {
            "metric": None,
            "label": "to distrust",
            "value": str(found),
            "note": f"found by {len(checks)} checks",
        }
    )
    return tiles


def _summary(run: FinishedRun, calibration: pd.DataFrame) -> list[str]:
    """The run in a few sentences."""
    test = run.metrics["test"]
    main = "accuracy" if run.is_classification else "nmse"
    label, sign = METRICS[main][0], -1 if run.is_classification else 1
    count = _plural(int(run.predictions.tasks.sizes.sum()), "test sample")
    known = {name: row[main] for name, row in test.items() if name != "mean" and row[main] is not None}  # fmt: skip  # noqa: E501
    sentences = []
    if known:
        first = min(known, key=lambda name: sign * known[name])
        last = max(known, key=lambda name: sign * known[name])
        text = f"On {count} the {label} is {written(test['mean'][main])}"
        if len(known) > 1:
            text += (
                f" on average over tasks: best on {first} ({written(known[first])}), worst on "
                f"{last} ({written(known[last])})"
            )
        sentences.append(f"{text}.")
    pooled = calibration.loc[ALL_TASKS]
    if run.is_classification:
        sentences.append(
            f"Its mean confidence is {written(pooled['confidence'])} where "
            f"{written(pooled['accuracy'])} of the answers are right: {pooled['verdict']}."
        )
    else:
        sentences.append(
            f"Of the targets, {written(pooled['coverage'])} lie inside their 90% intervals: "
            f"{pooled['verdict']}."
        )
    sentences += [_borrowing_sentence(run, site) for site in run.sites]
    sentences += _gains_sentence(run)
    return sentences + [str(note) for note in run.metrics.get("notes") or ()]


def _gains_sentence(run: FinishedRun) -> list[str]:
    """Whether sharing helps all tasks together."""
    if run.gains is None:
        return []
    rows = (run.gains["task"] == ALL_TASKS) & (run.gains["against"] != WITHOUT)
    whole = run.gains[rows].set_index("against")
    alone, one = (
        f"{row['gain']:+.3f} ± {row['se']:.3f}"
        for row in (whole.loc[NO_POOLING], whole.loc[COMPLETE_POOLING])
    )
    return [
        f"Training samples that are left out are predicted {alone} nats better than by each task "
        f"alone, and {one} better than by one model for all tasks."
    ]


def _pooled_scaling(run: FinishedRun, calibration: pd.DataFrame) -> str:
    """What scaling did to the ECE of all samples together, and what it is to be held against."""
    if run.scaled is None or not run.is_classification:
        return ""
    before = calibration.loc[ALL_TASKS]
    after = calibration_table(run.scaled).loc[ALL_TASKS]
    between = written_range(after["ece_low"], after["ece_high"])
    return (
        f"Over all test samples the ECE was {written(before['ece'])} and is "
        f"{written(after['ece'])}; calibrated predictions of the new confidences would score "
        f"{between}."
    )


def _borrowing_sentence(run: FinishedRun, site: str) -> str:
    kind = run.kind(site)
    table = run.relatedness[run.relatedness["site"] == site]
    strongest = table.loc[table["probability"].idxmax()]
    value = written(strongest["probability"])
    low, high = table["probability"].min(), table["probability"].max()
    if tells_nothing(run, site):
        what = {
            "weights": f"Every task borrows its {site} from all others alike",
            "gates": f"All gates of {site} between tasks are about equally open",
            "clusters": "All pairs of tasks are about as likely to share a cluster",
        }[kind]
        return f"{what} (probability {written_range(low, high)})."
    likely, total = int((table["probability"] > 0.5).sum()), len(table)
    if kind == "clusters":  # each pair stands in two rows
        return (
            f"Of {_plural(total // 2, 'pair')} of tasks, {likely // 2} more likely share a cluster "
            f"than not; the surest are {strongest['task']} and {strongest['other']} ({value})."
        )
    way = f"from {strongest['other']} to {strongest['task']}"
    if kind == "gates":
        return (
            f"Of {total} gates of {site} between tasks, {likely} are more likely open than shut; "
            f"the widest leads {way} ({value})."
        )
    return f"The strongest loan of {site} goes {way}, with probability {value}."


def _matrix(run: FinishedRun, site: str) -> _Matrix:
    table, kind = run.relatedness, run.kind(site)
    matrices = {value: relatedness_matrix(table, site, value) for value in _VALUES}
    shown = matrices["probability"]
    tasks = task_order(table, site) if len(shown) > 1 else list(shown.index)
    others = tasks + [name for name in shown.columns if name not in shown.index]
    # Equal weights have the colour in the middle.
    top = 1.0 if kind != "weights" else max(float(shown.max().max()), 2 / (len(others) - 1))
    arrays = {
        value: matrix.reindex(index=tasks, columns=others).to_numpy()
        for value, matrix in matrices.items()
    }
    cells: list[list[dict[str, Any] | None]] = []
    numbers: list[list[list[float | None] | None]] = []
    for t, task in enumerate(tasks):
        cells.append([])
        numbers.append([])
        for i, other in enumerate(others):
            if task == other:
                cells[-1].append(None)
                numbers[-1].append(None)
                continue
            share = round(100 * arrays["probability"][t, i] / top)
            letters = [name for name, least in _LETTERS.items() if share >= least]
            text = f"{arrays['probability'][t, i]:.2f}"
            cells[-1].append({"share": share, "letters": " ".join(letters), "text": text})
            entry = [arrays[value][t, i] for value in _VALUES]
            numbers[-1].append([None if math.isnan(v) else float(f"{v:.7g}") for v in entry])
    area = None
    if run.truth is not None and len(run.truth) == len(run.names):
        # The order of the table's rows is the order of the tasks.
        area = relatedness_auc(table, dict(zip(run.names, run.truth, strict=True)), site)
    data = {
        "tasks": tasks,
        "others": others,
        "values": _VALUES,
        "cells": numbers,
        "kind": kind,
        "probability": _PROBABILITY[kind],
    }
    dense = len(tasks) > _MOST_WRITTEN_INTO
    known = None if area is None or math.isnan(area) else area
    return _Matrix(site, kind, tasks, others, cells, dense, top, data, known)
