"""One experiment: train, look at the test data once, and fill the run folder."""

import dataclasses
import logging
import math
import shlex
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from pyro_vmtl.data import ImageSplits, TaskSplits
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL, Predictions, ScaledVMTL, in_parallel, save
from pyro_vmtl.inference.choosing import are_binary
from pyro_vmtl.inspection import (
    Snapshots,
    gains,
    gains_doubts,
    influence,
    influence_doubts,
    kept_epoch,
    plot_influence,
    plot_relatedness,
    plot_relatedness_over_time,
    plot_training,
    relatedness,
    save_netcdf,
    to_inference_data,
)
from pyro_vmtl.inspection.gains import MOST_LENDERS, WITHOUT
from pyro_vmtl.inspection.scored import ALL_TASKS
from pyro_vmtl.model import Family, Settings, Standard
from pyro_vmtl.model.architectures import BESIDE_GRADIENTS, takes_no_gradient
from pyro_vmtl.runs.configuration import Plan, read_plan, repeatable
from pyro_vmtl.runs.fits import fit_plan, predict_held_out, versions
from pyro_vmtl.runs.folder import RunFolder
from pyro_vmtl.runs.report import write_report
from pyro_vmtl.runs.scaling import check_scaling, scale_run
from pyro_vmtl.runs.screen import styled

__all__ = ["Scores", "baselines", "run_experiment"]

_log = logging.getLogger(__name__)

Scores = dict[str, dict[str, float | None]]
# What a run writes before it has trained an epoch and writes a history.
_BEFORE_TRAINING = ("config.yaml", "splits", "tensorboard", "checkpoints")


def run_experiment(
    config: DictConfig,
    folder: RunFolder | None,
    console: Console,
    trusted: Collection[str] = (),
) -> FittedVMTL:
    """Do what a configuration says and write all of it into the folder.

    Where that fails before an epoch was trained, the folder is left as it was found, so that the
    next try can have it.

    :param config: a composed configuration; see ``configs/``.
    :param folder: an empty run folder; None in a further process of a run
        (:mod:`pyro_vmtl.runs.processes`), which trains along and does nothing else.
    :param console: where progress and the test table are shown, as
        :func:`pyro_vmtl.runs.screen.plain_console` makes it.
    :param trusted: what the configuration may name; see :func:`pyro_vmtl.runs.read_plan`.
    :raises InputError: says what in the configuration cannot be used.
    """
    if folder is None:
        plan, resume = _plan(config, trusted), _checkpoint(config)
        return fit_plan(plan, config.seed, resume=resume, log_warnings=False)
    try:
        fitted = _run(config, folder, console, trusted)
    except BaseException:
        if not (folder.path / "metrics.csv").exists():
            folder.discard(_BEFORE_TRAINING)
        folder.release(has_ended=False)
        raise
    folder.release()
    return fitted


def _plan(config: DictConfig, trusted: Collection[str]) -> Plan:
    """The plan, once it is sure that it can be carried out to the end."""
    plan = read_plan(config, trusted)
    _check(config, plan)
    check_scaling(config.temperature_scaling, plan.splits)
    return plan


def _checkpoint(config: DictConfig) -> Path | None:
    """What training goes on from: ``resume`` names a run, ``ckpt_path`` a file."""
    if config.get("resume") is not None:
        last = Path(str(config.resume)) / "checkpoints" / "last.ckpt"
        if last.is_file():
            return last
        if not RunFolder.existing(str(config.resume)).is_unfinished:
            raise InputError(
                f"the run {config.resume} has ended and {last} is not a file; expected a run with "
                "checkpoints, which a fit without gradients does not leave"
            )
    return None if config.ckpt_path is None else Path(str(config.ckpt_path))


def _run(
    config: DictConfig, folder: RunFolder, console: Console, trusted: Collection[str]
) -> FittedVMTL:
    started = time.perf_counter()
    plan = _plan(config, trusted)
    if not folder.goes_on:
        folder.write_text("config.yaml", repeatable(config, folder.path, _checkpoint(config)))
    console.print(_introduction(plan))
    if isinstance(plan.splits, ImageSplits):
        plan.splits.write_lists(folder.path / "splits")
    fitted, snapshots = _fit(plan, config, folder)
    seconds = {"training": time.perf_counter() - started}

    parts = predict_held_out(fitted, plan, config.num_samples, config.seed)
    test = parts["test"]
    train = plan.splits.train
    scores = test.metrics(train)
    shown: dict[str, Scores] = {}
    scaled = None
    if config.temperature_scaling:
        choice, draws = config.temperature_scaling, config.num_samples
        scaled = scale_run(fitted, plan.splits, parts, choice, draws, config.seed)
        shown["VMTL, scaled"] = scaled.entry["after"]["test"]
        frame = scaled.test.frame()
        folder.write("predictions_scaled.parquet", lambda path: frame.to_parquet(path, index=False))
    others = baselines(plan, config) if config.baselines else {}
    shown |= others
    seconds["total"] = time.perf_counter() - started
    folder.write_json(
        "metrics.json",
        {
            "test": scores,
            "validation": parts["validation"].metrics(train) if "validation" in parts else None,
            "calibrated": None if scaled is None else scaled.entry,
            "baselines": {name: {"test": other} for name, other in others.items()},
            "samples": {name: len(part) for name, part in plan.splits._asdict().items()},
            "seconds": seconds,
            "warnings": list(fitted.warnings),
            "notes": list(fitted.notes),
            "versions": versions(),
        },
    )
    _write_inspection(fitted, snapshots, test, plan.splits, config, folder)
    gained = _gains(fitted, plan, config.seed)
    if gained is not None:
        folder.write_csv("gains.csv", gained)
    influenced = _influence(fitted, plan, gained, folder)
    for note in fitted.notes:
        console.print(note)
    for table in _tables({"VMTL" if shown else "": scores, **shown}):
        console.print(table)
    if scaled is not None:
        console.print(_temperatures(scaled.model))
    doubts: list[str] = []
    if gained is not None:
        console.print(_gains_table(gained))
        doubts = gains_doubts(gained)
    if influenced is not None:
        doubts += influence_doubts(influenced, relatedness(fitted, seed=config.seed))
    for sentence in (*fitted.warnings, *doubts, *(scaled.model.scaling_warnings if scaled else ())):
        console.print(styled("yellow", "Warning:", sentence))
    _write_report(folder, console)
    console.print(f"Run folder: {folder.path}", soft_wrap=True)
    if (folder.path / "report.html").is_file():
        console.print(f"To read first: {folder.path / 'report.html'}", soft_wrap=True)
    return fitted


def _check(config: DictConfig, plan: Plan) -> None:
    """Make sure, before anything is trained, that the results can be written."""
    draws = config.num_samples
    if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
        raise InputError(f"num_samples is {draws!r}; expected a whole number of at least 1")
    if not isinstance(config.baselines, bool):
        raise InputError(f"baselines is {config.baselines!r}; expected true or false")
    if not bool(plan.splits.test.labelled.any()):
        raise InputError("the test part has no labelled sample; expected some to score")


def _introduction(plan: Plan) -> str:
    splits, tasks = plan.splits, plan.splits.train
    counts = ", ".join(f"{len(part)} {name}" for name, part in splits._asdict().items())
    inputs = " x ".join(str(size) for size in tasks.input_shape)
    # What numbers were taken for is said before it is trained on.
    kind = (
        f"classification, {tasks.num_classes} classes"
        if tasks.is_classification
        else f"{'chances of' if are_binary(tasks) else 'regression of'} "
        f"{', '.join(tasks.outputs or ())}"
    )
    said = f"{tasks.num_tasks} tasks; inputs: {inputs}; {kind}; samples: {counts}"
    notes = () if tasks.columns is None else tasks.columns.notes
    return "\n".join((said, *notes))


def _fit(plan: Plan, config: DictConfig, folder: RunFolder) -> tuple[FittedVMTL, Snapshots]:
    loggers = []
    if plan.trainer["tensorboard"]:
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(folder.path, name="tensorboard", version=""))

    def write_history(history: list[dict[str, float]]) -> None:
        if folder.goes_on:  # what it goes on with is known to fit the checkpoint by now
            folder.write_text("config.yaml", repeatable(config, folder.path, config.ckpt_path))
        folder.write_csv("metrics.csv", pd.DataFrame(history))

    snapshots = Snapshots(plan.splits.train.names, every=None)
    fitted = fit_plan(
        plan,
        config.seed,
        checkpoints=folder.path / "checkpoints",
        resume=_checkpoint(config),
        loggers=loggers,
        callbacks=[snapshots],
        on_epoch=write_history,
        log_warnings=False,  # the command shows them under its tables
    )
    if not (folder.path / "metrics.csv").exists():  # all epochs were in the checkpoint already
        folder.write_csv("metrics.csv", fitted.history)
    if folder.goes_on:  # the process may have ended just after it was written
        folder.write_text("config.yaml", repeatable(config, folder.path, config.ckpt_path))
        shutil.rmtree(folder.path / "model", ignore_errors=True)
    save(fitted, folder.path / "model")
    return fitted, snapshots


def _write_inspection(
    fitted: FittedVMTL,
    snapshots: Snapshots,
    test: Predictions,
    splits: TaskSplits,
    config: DictConfig,
    folder: RunFolder,
) -> None:
    table = relatedness(fitted, seed=config.seed)
    folder.write_csv("relatedness.csv", table)
    over_time = snapshots.relatedness()
    folder.write_csv("relatedness_over_time.csv", over_time)
    frame = test.frame()
    folder.write("predictions.parquet", lambda path: frame.to_parquet(path, index=False))
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    data = to_inference_data(
        fitted,
        splits.test,
        num_samples=config.num_samples,
        seed=config.seed,
        config={str(name): value for name, value in plain.items()},
    )
    folder.write("inference_data.nc", lambda path: save_netcdf(data, path))
    figures = {"training": plot_training(fitted.history)[0].get_figure()}
    for site in table["site"].unique():
        figures[f"relatedness_{site}"] = plot_relatedness(table, site=site).get_figure()
        if site not in set(over_time["site"]):  # a fit without gradients has no epochs to look at
            continue
        row = kept_epoch(fitted.history)
        kept = None if row is None else float(fitted.history["epoch"].iloc[row])
        ax = plot_relatedness_over_time(over_time, site=site, kept=kept)
        figures[f"relatedness_over_time_{site}"] = ax.get_figure()
    for name, figure in figures.items():
        _write_figure(folder, f"figures/{name}.png", figure)


def _gains(fitted: FittedVMTL, plan: Plan, seed: int) -> pd.DataFrame | None:
    """What sharing gains, where it can be had without a trained encoder."""
    is_fixed = takes_no_gradient(fitted.settings.encoder)
    if not fitted.vmtl.classifier.shares_weights or not is_fixed or len(fitted.names) < 2:
        return None
    return gains(fitted, plan.splits.train, seed=seed)


def _influence(
    fitted: FittedVMTL, plan: Plan, gained: pd.DataFrame | None, folder: RunFolder
) -> pd.DataFrame | None:
    """Who gains from whom, where tasks are few enough to take each of them out."""
    if gained is None or len(fitted.names) > MOST_LENDERS:
        return None
    table = influence(fitted, plan.splits.train, gained=gained)
    folder.write_csv("influence.csv", table)
    _write_figure(folder, "figures/influence.png", plot_influence(table).get_figure())
    return table


def _gains_table(gained: pd.DataFrame) -> Table:
    """Each task's gain over the rivals, with its standard error."""
    rivals = [against for against in gained["against"].unique() if against != WITHOUT]
    table = Table("task", title="Gain in log density a training sample, each left out, over")
    for rival in rivals:
        table.add_column(rival, justify="right", no_wrap=True)
    shown = {(row["task"], row["against"]): row for _, row in gained.iterrows()}
    names = [name for name in gained["task"].unique() if name != ALL_TASKS]
    for task in (*names, ALL_TASKS):
        rows = [shown[task, rival] for rival in rivals]
        cells = [f"{row['gain']:+.3f} ± {_number(row['se'])}" for row in rows]
        table.add_row(task, *cells, style="bold" if task == ALL_TASKS else None)
    return table


def _write_report(folder: RunFolder, console: Console) -> None:
    try:
        write_report(folder.path)
    except Exception as error:
        # The run is whole without it, and a command can write it later.
        _log.debug("no report", exc_info=True)
        sentence = f"report.html was not written ({type(error).__name__}: {error})"
        again = f"python -m pyro_vmtl.report {shlex.quote(str(folder.path))}"
        said = f"{sentence}; the run is complete, and `{again}` tries again."
        console.print(styled("yellow", "Warning:", said), soft_wrap=True)


def _write_figure(folder: RunFolder, name: str, figure: Any) -> None:
    folder.write(name, lambda path: figure.savefig(path, dpi=150, bbox_inches="tight"))
    plt.close(figure)


def baselines(plan: Plan, config: DictConfig) -> dict[str, Scores]:
    """Test metrics without borrowing: N(0, I) priors, and every task by itself.

    The same data, budget and choice of epoch; single-task models have encoders of their own, so
    with no encoder to share the two are one and the same, given once.
    """
    choices: dict[str, Settings] = {}
    train = plan.splits.train
    named = train.columns is not None
    decided = plan.settings.for_data(train.input_shape, named, train.is_classification)
    is_fixed = takes_no_gradient(decided.encoder)
    encoder = decided.encoder if is_fixed else plan.settings.encoder or BESIDE_GRADIENTS
    plain = dataclasses.replace(
        plan.settings, pool=Standard(), representation_pool=Standard(), encoder=encoder
    )
    if not is_fixed:
        # Beside a learned encoder gradients find better weights under N(0, I), where they can.
        likelihood = plain.likelihood_of(train.is_classification)
        by_gradients = isinstance(likelihood, Family) and not likelihood.needs_closed_form
        if by_gradients and plain.classifier in (None, "conjugate"):
            plain = dataclasses.replace(plain, classifier="mean_field")
        choices["N(0, I)"] = plain
    if dataclasses.is_dataclass(encoder) and hasattr(encoder, "per_task"):
        choices["single-task"] = dataclasses.replace(
            plain, encoder=dataclasses.replace(encoder, per_task=True)
        )
    elif is_fixed:
        choices["single-task"] = plain
    # The further processes of a run in several have ended by now.
    alone: dict[str, Any] = {}
    if in_parallel(plan.trainer):
        alone = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    scores = {}
    for name, settings in choices.items():
        fitted = fit_plan(
            dataclasses.replace(plan, settings=settings),
            config.seed,
            log_warnings=False,  # they would pass for those of the model
            **alone,
        )
        test = fitted.predict(plan.splits.test, config.num_samples, seed=config.seed)
        scores[name] = test.metrics(plan.splits.train)
    return scores


def _tables(scores: dict[str, Scores]) -> list[Table]:
    """The test table: a row a task; a table for each metric where methods stand side by side."""
    methods = list(scores)
    first = scores[methods[0]]
    metrics = list(first["mean"])
    if len(methods) == 1:
        table = Table("task", title="Test data")
        for metric in metrics:
            table.add_column(metric, justify="right")
        for task, values in first.items():
            cells = [_number(values.get(metric)) for metric in metrics]
            table.add_row(task, *cells, style="bold" if task == "mean" else None)
        return [table]
    tables = []
    for metric in metrics:
        table = Table("task", title=f"Test data: {metric}")
        for method in methods:
            table.add_column(method, justify="right")
        for task in first:
            cells = [_number(scores[method][task].get(metric)) for method in methods]
            table.add_row(task, *cells, style="bold" if task == "mean" else None)
        tables.append(table)
    return tables


def _temperatures(scaled: ScaledVMTL) -> Table:
    """What the temperatures are and how well they are known."""
    table = Table("task", title="Temperature, fitted to validation data")
    for name in ("temperature", "95% from", "to", "samples"):
        table.add_column(name, justify="right")
    frame = scaled.frame()
    shared = not frame["own"].any()
    for row in (frame.head(1).assign(task="all tasks") if shared else frame).itertuples():
        cells = [_number(value) for value in (row.temperature, row.low, row.high)]
        whose = "" if shared or row.own else " (all tasks)"
        table.add_row(row.task, *cells, f"{row.samples}{whose}")
    return table


def _number(value: Any) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
