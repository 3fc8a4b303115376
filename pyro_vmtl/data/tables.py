"""CSV and Parquet files with a column that says the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pyro_vmtl.data.splits import TaskSplits, split_tasks
from pyro_vmtl.data.task_set import TaskSet
from pyro_vmtl.errors import InputError

__all__ = ["read_table", "split_table"]

_PARQUET = (".parquet", ".pq")
_MAGIC = b"PAR1"  # how a Parquet file begins and ends


def read_table(
    path: str | Path,
    task: str,
    target: str | Sequence[str],
    features: Sequence[str] | None = None,
    classes: Sequence[object] | None = None,
    regression: bool | None = None,
    separator: str | None = None,
) -> TaskSet:
    """A task set from a table: a row is a sample, and a column says which task it belongs to.

    Tasks come in the order of their first rows. A target that is missing - in a text file empty, or
    one of the marks that pandas knows, such as NA and null - is a sample without a label; a missing
    task or feature is an error. Text, truth values and whole numbers are classes,
    other numbers are regression, unless said otherwise.

    Example::

        tasks = read_table("schools.csv", task="school", target="score", regression=True)

    :param path: ``.parquet`` or ``.pq``; or ``.csv``, ``.tsv`` or any other name for text in UTF-8
        with a header, perhaps compressed (``.csv.gz``).
    :param task: the column of the tasks.
    :param target: the column of the targets; several for regression with as many outputs.
    :param features: the columns of the inputs, numbers all; by default all others.
    :param classes: the names of the classes in their order, see :meth:`TaskSet.from_arrays`.
    :param regression: whether the targets are real numbers.
    :param separator: what separates the columns of a text file, by default a tab in ``.tsv`` and a
        comma elsewhere.
    :returns: inputs ``[number of features]``.
    :raises InputError: for a file, column, row or value that will not do, and which.
    """
    path = Path(path).expanduser()
    targets = [target] if isinstance(target, str) else list(target)
    frame = _read(path, task, separator)
    frame.columns = [str(column) for column in frame.columns]
    columns = _feature_columns(path, frame, task, targets, features)
    if len(frame) == 0:
        raise InputError(f"the table '{path}' has no row; expected one per sample.")
    unnamed = frame[task].isna().to_numpy()
    if unnamed.any():
        raise InputError(
            f"{_row(int(unnamed.argmax()))} of '{path}' has no value in the column {task!r}; "
            "expected the name of its task."
        )
    x = np.column_stack([_numbers(path, frame[column]) for column in columns])
    # Several outputs are regression; one is a column, of whatever type.
    y: Any = frame[targets] if len(targets) > 1 else frame[targets[0]]
    if len(targets) > 1 and regression is None:
        regression = True
    names = frame[task].astype(str)
    pairs = {}
    for name in dict.fromkeys(names):
        mine = (names == name).to_numpy()
        pairs[name] = (x[mine], _plain(y[mine]))
    tasks = TaskSet.from_arrays(pairs, classes=classes, regression=regression)
    return tasks if tasks.is_classification else replace(tasks, outputs=tuple(targets))


def _read(path: Path, task: str, separator: str | None) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(
            f"the table '{path}' {'is a folder' if path.is_dir() else 'does not exist'}; "
            "expected a CSV or Parquet file."
        )
    with path.open("rb") as file:
        parquet = file.read(len(_MAGIC)) == _MAGIC
    named = path.suffix.casefold() in _PARQUET
    if parquet != named:
        raise InputError(
            f"the table '{path}' is named as {'Parquet' if named else 'text'} and is "
            f"{'Parquet' if parquet else 'not'}; expected .parquet for Parquet files and only them."
        )
    try:
        # Nullable types: whole numbers beside gaps stay whole numbers, and so stay classes.
        if parquet:
            return pd.read_parquet(path, dtype_backend="numpy_nullable")
        tab = ".tsv" in [suffix.casefold() for suffix in path.suffixes]
        return pd.read_csv(
            path,
            sep=separator or ("\t" if tab else ","),
            dtype={task: "string"},  # a task named 007 is not the number 7
            dtype_backend="numpy_nullable",
            encoding="utf-8-sig",
            skipinitialspace=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # of the many ways in which a file is not a table
        kind = "Parquet" if parquet else "text with separated columns, in UTF-8"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"the table '{path}' cannot be read ({reason}); expected {kind}."
        ) from error


def _feature_columns(
    path: Path,
    frame: pd.DataFrame,
    task: str,
    targets: Sequence[str],
    features: Sequence[str] | None,
) -> list[str]:
    if isinstance(features, str):
        features = [features]
    if not targets:
        raise InputError("no target is named; expected a column at least.")
    others = [column for column in frame.columns if column not in (task, *targets)]
    chosen = others if features is None else list(features)
    for column in (task, *targets, *chosen):
        if column not in frame.columns:
            there = ", ".join(repr(c) for c in list(frame.columns)[:20])
            more = ", ..." if len(frame.columns) > 20 else ""
            # A header that was not parted is a table with another separator.
            header = frame.columns[0] if len(frame.columns) == 1 else ""
            other = next((mark for mark in ";\t|" if mark in header), None)
            hint = "" if other is None else f", or separator={other!r}, by which it seems parted"
            raise InputError(
                f"there is no column {column!r} in '{path}'; expected one of {there}{more}{hint}."
            )
    used = [task, *targets, *chosen]
    twice = [column for column in used if used.count(column) > 1]
    if twice:
        raise InputError(
            f"the column {twice[0]!r} is used twice, as task, target or feature; "
            "expected each column once."
        )
    if not chosen:
        raise InputError(f"'{path}' has no column of features; expected one at least.")
    return chosen


def _numbers(path: Path, column: pd.Series) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The values of a column of features, float64, all finite."""
    missing = column.isna().to_numpy()
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    elif pd.api.types.is_datetime64_any_dtype(column.dtype):
        values = np.full(len(column), np.nan)
    else:
        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(wrong.argmax())
        said = "no value" if missing[row] else repr(str(column.iloc[row]))
        raise InputError(
            f"{_row(row)} of '{path}' has {said} in the column {column.name!r}; "
            "expected a finite number for a feature."
        )
    return values


def _plain(y: pd.Series | pd.DataFrame) -> Any:
    """Targets as they are read best: Python's own types, None where one is missing."""
    if isinstance(y, pd.DataFrame):
        return [[None if pd.isna(v) else v for v in row] for row in y.itertuples(index=False)]
    return [None if pd.isna(value) else value for value in y]


def _row(position: int) -> str:
    return f"row {position + 1} below the header"


def split_table(
    path: str | Path,
    task: str,
    target: str | Sequence[str],
    features: Sequence[str] | None = None,
    classes: Sequence[object] | None = None,
    regression: bool | None = None,
    separator: str | None = None,
    validation: float | int = 0.2,
    test: float | int = 0.2,
    seed: int = 0,
) -> TaskSplits:
    """A table's samples as training, validation and test tasks, the features standardised.

    Mean and standard deviation are those of the training samples of all tasks together; a feature
    that is constant there is only centred. Targets stay as they are: in a regression, choose a unit
    and an origin in which they are of order 1, as the priors are.

    :param validation: share or number of each task's labelled samples for validation.
    :param test: the same for testing.
    :param seed: of the split.
    :raises InputError: as :func:`read_table` and :func:`pyro_vmtl.data.split_tasks`.

    The other parameters are those of :func:`read_table`.
    """
    tasks = read_table(path, task, target, features, classes, regression, separator)
    splits = split_tasks(tasks, validation, test, seed)
    mean = splits.train.x.mean(0)
    deviation = splits.train.x.std(0, correction=0)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    return TaskSplits(*(replace(part, x=(part.x - mean) / deviation) for part in splits))
