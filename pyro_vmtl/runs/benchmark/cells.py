"""One cell of a benchmark: fit, score, and a file that says what came of it."""

from __future__ import annotations

import json
import shlex
import time
import traceback
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import Predictions, calibration_range, classification_metrics
from pyro_vmtl.inspection.scored import ALL_TASKS
from pyro_vmtl.runs.benchmark.grid import Cell, fingerprint
from pyro_vmtl.runs.configuration import read_plan
from pyro_vmtl.runs.fits import fit_plan, predict_held_out, versions
from pyro_vmtl.runs.folder import RunFolder
from pyro_vmtl.runs.processes import refuse_parallel
from pyro_vmtl.runs.refusals import wants_traceback
from pyro_vmtl.runs.scaling import check_scaling, scale_run
from pyro_vmtl.runs.screen import plain_console

__all__ = ["Result", "command", "read_results", "run_cell", "score"]


@dataclass(frozen=True)
class Result:
    """What came of a cell.

    :ivar test: metrics of each task, of their ``mean`` and, of classes, the calibration of
        ``all tasks`` together; empty where the cell failed.
    :ivar seconds: of a processor, for the whole cell.
    :ivar epochs: trained.
    :ivar warnings: of the fit, in sentences.
    :ivar error: why there is nothing, or None.
    """

    test: Mapping[str, Mapping[str, float | None]]
    seconds: float
    epochs: int
    warnings: tuple[str, ...]
    error: str | None


def command(cell: Cell, threads: int, config_folders: Sequence[str] = ()) -> str:
    """The shell command that repeats a cell's fit into a run folder.

    :param cell: the cell.
    :param threads: of the fit; sums split over threads round differently.
    :param config_folders: of the user's own configs.
    """
    extra = [part for folder in config_folders for part in ("--config-dir", folder)]
    words = ["python", "-m", "pyro_vmtl.train", *extra, *cell.overrides]
    return f"OMP_NUM_THREADS={threads} {shlex.join(words)}"


def run_cell(
    path: Path,
    cells: Mapping[str, Cell],
    threads: int,
    config_folders: Sequence[str],
    config: DictConfig,
    trusted: Collection[str] = (),
) -> None:
    """Compute a cell and write its file; what goes wrong is written there too.

    :param path: the benchmark's folder.
    :param cells: those that are to be computed, by fingerprint.
    :param threads: of the fit.
    :param config_folders: of the user's own configs, for the command.
    :param config: the composed training configuration of one of the cells.
    :param trusted: what it may name; see :func:`pyro_vmtl.runs.read_plan`.
    :raises InputError: where it is none of them.
    """
    mark = fingerprint(config)
    if mark not in cells:
        raise InputError("its configuration is not the one planned: configs changed meanwhile")
    cell = cells[mark]
    torch.set_num_threads(threads)
    started, worked = time.perf_counter(), time.process_time()
    record: dict[str, Any]
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("default")
            record = score(config, trusted)
        record["python_warnings"] = list(dict.fromkeys(_sentence(w.message) for w in heard))
        shown = ", ".join(_shown(record["test"]["mean"]))
    except SystemExit as error:
        # Lightning's answer to Ctrl-C in the middle of a fit.
        raise KeyboardInterrupt from error
    except Exception as error:
        # Of any kind: the other cells are not to suffer for it.
        shown = _sentence(error)
        record = {"error": shown, "traceback": traceback.format_exc()}
        if wants_traceback():
            traceback.print_exc()
        shown = f"failed: {shown}"
    seconds = time.perf_counter() - started
    # On a machine that does other things as well, what it took of a processor is what compares.
    processor = time.process_time() - worked
    RunFolder(path).write_json(
        cell.file,
        {
            "dataset": cell.dataset,
            "axis": cell.axis,
            "size": cell.size,
            "method": cell.method,
            "seed": cell.seed,
            "fingerprint": mark,
            "command": command(cell, threads, config_folders),
            **record,
            "seconds": {
                **record.get("seconds", {}),
                "total": seconds,
                "processor": processor,
            },
            "versions": versions(),
        },
    )
    place = list(cells).index(mark) + 1
    line = f"[{place}/{len(cells)}] {cell.title}: {shown} ({seconds:.0f} s)"
    plain_console(soft_wrap=True, highlight=False).print(line)


def score(config: DictConfig, trusted: Collection[str] = ()) -> dict[str, Any]:
    """Fit what a training configuration says, and look at the test data once.

    :param config: a composed training configuration; with ``temperature_scaling``, the test metrics
        are those after it.
    :param trusted: what it may name; see :func:`pyro_vmtl.runs.read_plan`.
    :return: ``test`` and ``validation`` metrics, ``epochs``, ``samples``, ``seconds`` and
        ``warnings``.
    """
    started = time.perf_counter()
    plan = read_plan(config, trusted)
    refuse_parallel(plan.trainer, "a benchmark")
    check_scaling(config.temperature_scaling, plan.splits)
    loaded = time.perf_counter()
    fitted = fit_plan(plan, config.seed, progress_bar=False, log_warnings=False)
    trained = time.perf_counter()
    draws, seed = config.num_samples, config.seed
    looks = predict_held_out(fitted, plan, draws, seed)
    if config.temperature_scaling:
        scaled = scale_run(fitted, plan.splits, looks, config.temperature_scaling, draws, seed)
        looks["test"] = scaled.test
    train = plan.splits.train
    test = looks["test"].metrics(train)
    if plan.splits.test.is_classification:
        test[ALL_TASKS] = _pooled_calibration(looks["test"])
    scored = time.perf_counter()
    return {
        "test": test,
        "validation": looks["validation"].metrics(train) if "validation" in looks else None,
        "epochs": len(fitted.history),
        "samples": {name: len(part) for name, part in plan.splits._asdict().items()},
        "seconds": {
            "data": loaded - started,
            "training": trained - loaded,
            "scoring": scored - trained,
        },
        "warnings": list(fitted.warnings),
    }


def _pooled_calibration(predictions: Predictions) -> dict[str, float | None]:
    """ECE over all tasks together, and its range if the model were perfectly calibrated.

    A task's test part alone often has too few samples in a bin to say anything.
    """
    labelled = predictions.tasks.labelled.cpu()
    probabilities = predictions.mean[labelled]
    error = classification_metrics(probabilities, predictions.tasks.y.cpu()[labelled])["ece"]
    low, high = calibration_range(probabilities)
    return {
        "ece": error,
        "ece_low": low,
        "ece_high": high,
        "ece_in_range": float(low <= error <= high),
    }


def read_results(folder: RunFolder, cells: Sequence[Cell]) -> tuple[dict[Cell, Result], list[str]]:
    """The results of those cells that have one, and sentences about files that are no result.

    :param folder: of the benchmark.
    :param cells: of the grid; files of other cells are passed over.
    """
    results, complaints = {}, []
    for cell in cells:
        path = folder.path / cell.file
        if not path.exists():
            continue
        try:
            results[cell] = _read(path, cell)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error) if isinstance(error, InputError) else "not what a cell writes"
            complaints.append(f"{path} is no result of its cell ({reason}); it is computed anew")
    return results, complaints


def _read(path: Path, cell: Cell) -> Result:
    record = json.loads(path.read_text())
    for key in ("fingerprint", "dataset", "method", "size", "seed"):
        if record[key] != getattr(cell, key):
            raise InputError(f"its {key} is {record[key]!r}; expected {getattr(cell, key)!r}")
    seconds = float(record["seconds"]["processor"])
    if "error" in record:
        return Result({}, seconds, 0, (), str(record["error"]))
    test = {
        str(task): {str(k): None if v is None else float(v) for k, v in row.items()}
        for task, row in record["test"].items()
    }
    if "mean" not in test:
        raise InputError("it has no mean over tasks")
    sentences = tuple(str(sentence) for sentence in record["warnings"])
    return Result(test, seconds, int(record["epochs"]), sentences, None)


def _shown(scores: Mapping[str, float | None]) -> list[str]:
    chosen = ("accuracy", "nmse", "nll")
    return [f"{name} {scores[name]:.3f}" for name in chosen if scores.get(name) is not None]


def _sentence(error: Warning | Exception | str) -> str:
    if isinstance(error, (InputError, str)):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
