"""Predictions for the rows of a file, by a model in a folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import IO

import pandas as pd
import torch

from pyro_vmtl.data import TaskSet, read_rows
from pyro_vmtl.data.table_files import read_frame
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL, load

__all__ = ["predict_file", "write_table"]

_WRITERS = {".csv": ",", ".tsv": "\t", ".parquet": None, ".pq": None}


def predict_file(
    model: Path,
    rows: Path,
    learn: Path | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    num_samples: int = 200,
    seed: int = 0,
) -> tuple[pd.DataFrame, list[str]]:
    """The rows of a table with predictions beside them.

    Tasks that the model does not know are predicted from the population of tasks, or from labelled
    rows of theirs in ``learn``.

    :param model: the folder of a model trained on a table, or of its run.
    :param rows: the table; its targets may be missing.
    :param learn: a table with labelled rows of new tasks.
    :param separator: of both tables, see :func:`pyro_vmtl.read_rows`; ``encoding``: likewise.
    :param num_samples: posterior draws.
    :param seed: of them.
    :return: the columns of the table and those of ``Predictions.frame()``, and sentences on what to
        know before trusting them.
    :raises InputError: for what cannot be read, or a model that cannot predict it.
    """
    fitted = load(model)
    frame, table = read_frame(rows, separator, encoding)
    tasks = read_rows(frame, fitted, new_tasks=True)
    fitted, sentences = _joined(fitted, tasks, learn, separator, encoding, seed)
    names = fitted.names
    place = torch.tensor([names.index(name) for name in tasks.names])
    tasks = replace(tasks, names=names, task=place[tasks.task])
    said = fitted.predict(tasks, num_samples, seed=seed).frame().drop(columns="task")
    said = said.drop(columns=[name for name in said if name.partition(" ")[0] == "target"])
    clash = [name for name in said if name in frame.columns]
    if clash:
        raise InputError(
            f"{table} has a column {clash[0]!r}, as the predictions do; expected another name."
        )
    return pd.concat([frame.reset_index(drop=True), said], axis=1), sentences


def _joined(
    fitted: FittedVMTL,
    tasks: TaskSet,
    learn: Path | None,
    separator: str | None,
    encoding: str | None,
    seed: int,
) -> tuple[FittedVMTL, list[str]]:
    """The model with the tasks that it does not know, and what is to be said of them."""
    known = len(fitted.warnings)
    if learn is not None:
        rows = read_rows(learn, fitted, separator, encoding, new_tasks=True)
        old = [fitted.names[t] for t in rows.task.unique().tolist() if t < len(fitted.names)]
        if old:
            raise InputError(
                f"the table '{learn}' has rows of the task {old[0]!r}, which the model was trained "
                "on; expected new tasks alone, or a new fit."
            )
        fitted = fitted.add_task(rows.select(rows.names[len(fitted.names) :]), seed=seed)
    unknown = [name for name in tasks.names if name not in fitted.names]
    if unknown:
        new = tasks.select(unknown).subset(torch.empty(0, dtype=torch.int64))  # no label is learned
        fitted = fitted.add_task(new, seed=seed)
    return fitted, list(fitted.warnings[known:])


def write_table(frame: pd.DataFrame, out: Path | IO[str], overwrite: bool = False) -> None:
    """Write a table as its name's ending says: CSV, TSV or Parquet; to a stream as CSV.

    The file is written to the side and renamed, so that there is never half of it.

    :raises InputError: for another ending, a folder that is not there, or a file that is.
    """
    if not isinstance(out, Path):
        frame.to_csv(out, index=False)
        return
    if out.suffix.casefold() not in _WRITERS:
        raise InputError(f"out is '{out}'; expected a name that ends in {', '.join(_WRITERS)}.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"out is '{out}', in a folder that does not exist; expected one.")
    if out.exists() and not overwrite:
        raise InputError(f"out is '{out}', which exists; expected a new file, or --overwrite.")
    separator = _WRITERS[out.suffix.casefold()]
    draft = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        if separator is None:
            frame.to_parquet(draft, index=False)
        else:
            frame.to_csv(draft, index=False, sep=separator)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
