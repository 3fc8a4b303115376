"""What to distrust about a run: checks of its files, each with its findings in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pyro_vmtl.inference.training import EPOCHS
from pyro_vmtl.inspection import gains_doubts, influence_doubts
from pyro_vmtl.inspection.scored import ALL_TASKS
from pyro_vmtl.model.architectures import FIXED
from pyro_vmtl.runs.finished import FinishedRun
from pyro_vmtl.runs.report_tables import COVERAGE, calibration_rows, written, written_range

__all__ = ["Check", "check", "tells_nothing"]

_FEW = 50
_ALIKE = 0.05
_ALIKE_WEIGHTS = 0.2
_ROUGH = 2  # of a 95% interval, the upper end over the lower: a standard error of 0.18 in log T


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    :ivar subject: what it is about.
    :ivar question: what was asked.
    :ivar findings: sentences; none where nothing was found.
    """

    subject: str
    question: str
    findings: tuple[str, ...]


def check(run: FinishedRun, calibration: pd.DataFrame | None = None) -> list[Check]:
    """Look for reasons to distrust a run.

    :param run: a finished run.
    :param calibration: of :func:`pyro_vmtl.runs.report_tables.calibration_rows`, if it is there.
    :return: every check that applies, found something or not.
    """
    if calibration is None:
        calibration = calibration_rows(run)
    checks = [
        Check("Training", "did training's own diagnostics warn?", tuple(run.metrics["warnings"])),
        Check("Convergence", "did training stay finite and end by itself?", _convergence(run)),
        Check("Calibration", "do stated probabilities come true?", _calibration(run, calibration)),
        Check("Trivial answers", "is every task better than a trivial answer?", _trivial(run)),
        Check("Test data", f"does every task have {_FEW} labelled test samples?", _few(run)),
        Check("Tempering", "is it Bayes' rule, with KL weights of 1?", _tempering(run)),
        Check("Weights", "do predictions average over a posterior of the weights?", _points(run)),
    ]
    if run.sites:
        checks.append(Check("Evidence", "is each task's evidence counted once?", _recursion(run)))
        checks.append(
            Check("Relatedness", "does it tell one task from another?", _relatedness(run))
        )
    if run.gains is not None:
        question = "does a simpler model predict training samples better when each is left out?"
        checks.append(Check("Sharing", question, tuple(gains_doubts(run.gains))))
    if run.influence is not None:
        question = "do tasks gain from whom they borrow?"
        found = influence_doubts(run.influence, run.relatedness)
        checks.append(Check("Influence", question, tuple(found)))
    if run.metrics.get("calibrated"):
        question = "is the temperature well known, and did it help on test data?"
        checks.append(Check("Temperature scaling", question, _scaling(run)))
    if run.metrics.get("baselines"):
        checks.append(Check("Borrowing", "did it help the mean over tasks?", _baselines(run)))
    return checks


def _named(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _convergence(run: FinishedRun) -> tuple[str, ...]:
    history = run.history
    if history.empty:
        return ("There is no history of training.",)
    found = []
    if not np.isfinite(history[["elbo", "loss"]].to_numpy(dtype=float)).all():
        found.append("The ELBO was not finite in some epoch.")
    density = history.get("validation_nll")
    most = run.config["trainer"]["epochs"] or EPOCHS
    if run.is_conjugate:  # training's own diagnostics speak of the draws
        return tuple(found)
    if density is None or density.isna().all():
        found.append(
            "There was no labelled validation data, so the last epoch was kept, good or not."
        )
    elif run.kept == len(history) - 1 and len(history) >= most:
        found.append(
            f"The last of {len(history)} epochs was the best on validation data: training may have "
            "ended too early; allow more (trainer.epochs)."
        )
    return tuple(found)


def _calibration(run: FinishedRun, rows: pd.DataFrame) -> tuple[str, ...]:
    tasks, pooled = rows.drop(index=ALL_TASKS), rows.loc[ALL_TASKS]
    fine = "as calibrated" if run.is_classification else "as stated"
    off = tasks[tasks["verdict"] != fine]
    found = []
    if run.is_classification:
        if pooled["verdict"] != fine:
            found.append(
                f"Over all tasks the model is {pooled['verdict']}: its mean confidence is "
                f"{written(pooled['confidence'])} and its accuracy {written(pooled['accuracy'])}; "
                f"the ECE of {written(pooled['ece'])} lies above {written(pooled['ece_high'])}, "
                "the most that calibrated predictions would give."
            )
        kinds = ("overconfident", "underconfident")
        sentence = "The ECE is above its calibrated range on {count} of {total}, {kind}: {names}."
    else:
        if pooled["verdict"] != fine:
            found.append(
                f"Over all tasks the {COVERAGE:.0%} intervals are {pooled['verdict']}: "
                f"{written(pooled['coverage'])} of the targets lie inside."
            )
        kinds = ("too narrow", "too wide")
        sentence = "Intervals are {kind} on {count} of {total}: {names}."
    for kind in kinds:
        names = list(off.index[off["verdict"] == kind])
        if names:
            total = f"{len(tasks)} task" + ("s" if len(tasks) > 1 else "")
            found.append(
                sentence.format(count=len(names), total=total, kind=kind, names=_named(names))
            )
    return tuple(found)


def _scaling(run: FinishedRun) -> tuple[str, ...]:
    entry = run.metrics["calibrated"]
    found = list(entry["warnings"])
    rough = [
        f"{task} ({written_range(fitted['low'], fitted['high'])})"
        for task, fitted in entry["temperatures"].items()
        if fitted["low"] is not None and fitted["high"] > _ROUGH * fitted["low"]
    ]
    if rough and not any(fitted["own"] for fitted in entry["temperatures"].values()):
        rough = [f"all tasks{rough[0][rough[0].rindex(' (') :]}"]
    if rough:
        found.append(f"Too few validation samples to know the temperature well: {_named(rough)}.")
    before, after = (entry[when]["test"]["mean"]["nll"] for when in ("before", "after"))
    if before is not None and after is not None and after > before:
        found.append(
            f"The temperature made the mean test density worse: NLL {written(after)} against "
            f"{written(before)}."
        )
    return tuple(found)


def _trivial(run: FinishedRun) -> tuple[str, ...]:
    scores = {name: row for name, row in run.metrics["test"].items() if name != "mean"}
    if not run.is_classification:
        names = [name for name, row in scores.items() if (row["nmse"] or 0) >= 1]
        what = "Predicting the mean of the test targets would be as good"
    else:
        tasks = run.predictions.tasks
        counts = tasks.class_counts.numpy()
        share = counts.max(-1) / np.maximum(counts.sum(-1), 1)
        most = dict(zip(tasks.names, share, strict=True))
        # A float32 accuracy may lie a little above the share that it equals.
        names = [name for name, row in scores.items() if row["accuracy"] <= most[name] + 1e-6]
        what = "Always answering the most frequent class of the test data would be as good"
    return (f"{what} on {len(names)} of {len(scores)} tasks: {_named(names)}.",) if names else ()


def _few(run: FinishedRun) -> tuple[str, ...]:
    sizes = run.predictions.tasks.sizes.tolist()
    names = [f"{n} ({size})" for n, size in zip(run.names, sizes, strict=True) if size < _FEW]
    if not names:
        return ()
    return (
        f"Scores of tasks with fewer than {_FEW} labelled test samples are uncertain: "
        f"{_named(names)}.",
    )


def _tempering(run: FinishedRun) -> tuple[str, ...]:
    tempered = {site: w for site, w in run.model["tempering"].items() if w != 1}
    # A deterministic encoder has no KL that a weight could temper, nor has a point.
    settings = run.model["settings"]
    for kind, options in (settings.get("encoder") or {}).items():
        if kind in (*FIXED, "DeterministicEncoder") or options.get("stochastic") is False:
            tempered.pop("representations", None)
    if run.classifier == "point":
        tempered.pop("weights", None)
    if not tempered:
        return ()
    parts = " and ".join(f"{weight:g} ({site})" for site, weight in tempered.items())
    return (
        f"The posterior is tempered: its KL weights are {parts}, where Bayes' rule says 1. Its "
        "scales are not those of Bayes' rule; judge them by the calibration above.",
    )


def _points(run: FinishedRun) -> tuple[str, ...]:
    if run.classifier != "point":
        return ()
    return (
        "The weights are point estimates: predictions know nothing of how unsure the weights are, "
        "and are the more overconfident the fewer the training samples.",
    )


def _recursion(run: FinishedRun) -> tuple[str, ...]:
    if run.setting("lenders") == "Anchored":  # an earlier version had such, which count once
        return ()
    ways = {"representations": "with pool@representation_pool=standard nobody lends them"}
    if run.classifier != "conjugate":
        ways["weights"] = "weights in closed form (model.classifier=conjugate) count it once"
    sites = [site for site in run.sites if site in ways]
    if not sites:
        return ()
    advice = "; ".join(ways[site] for site in sites)
    return (
        f"Tasks lend each other their posteriors of {' and '.join(sites)}: what a task lends comes "
        "back to it through the others, the same evidence is counted again and again, and "
        f"intervals come out too narrow. {advice[0].upper()}{advice[1:]}.",
    )


def tells_nothing(run: FinishedRun, site: str) -> bool:
    """Whether the probabilities of a site are so alike that they do not tell tasks apart.

    They differ by less than 0.05; weights, by less than a fifth of what each lender would have if
    all had the same.
    """
    rows = run.relatedness[run.relatedness["site"] == site]
    between = float(rows["probability"].max() - rows["probability"].min())
    if run.kind(site) != "weights":
        return between < _ALIKE
    return between * int(rows.groupby("task").size().max()) < _ALIKE_WEIGHTS


def _relatedness(run: FinishedRun) -> tuple[str, ...]:
    found = []
    for site in run.sites:
        rows = run.relatedness[run.relatedness["site"] == site]
        low, high = rows["probability"].min(), rows["probability"].max()
        lenders = rows.groupby("task").size().max()
        if run.kind(site) == "weights" and lenders == 1:
            found.append(
                f"The relatedness of {site} says nothing: each task has one lender, whose weight "
                "is 1 whatever the data say."
            )
        elif tells_nothing(run, site):
            found.append(
                f"The relatedness of {site} does not tell tasks apart: every pair has about the "
                f"same probability, {written_range(low, high)}."
            )
        if run.model["settings"].get("empirical_bayes") and run.kind(site) != "clusters":
            found.append(
                f"The relatedness of {site} is a point estimate: model and guide share its "
                "logits, and its intervals show the noise of the relaxation, not what the data "
                "left open."
            )
    return tuple(found)


def _baselines(run: FinishedRun) -> tuple[str, ...]:
    ours = run.metrics["test"]["mean"]["nll"]
    found = []
    for name, scores in run.metrics["baselines"].items():
        theirs = scores["test"]["mean"]["nll"]
        if ours is not None and theirs is not None and theirs <= ours:
            found.append(
                f"Without borrowing ({name}) the mean test density is as good or better: NLL "
                f"{written(theirs)} against {written(ours)}."
            )
    return tuple(found)
