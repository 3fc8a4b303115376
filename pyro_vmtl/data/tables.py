"""Tables with a column that says the task: CSV and Parquet files, and pandas frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import torch

from pyro_vmtl.data.columns import TableColumns
from pyro_vmtl.data.splits import TaskSplits, split_tasks
from pyro_vmtl.data.task_set import TaskSet
from pyro_vmtl.errors import InputError

__all__ = ["FromTable", "Table", "read_rows", "read_table", "split_table", "standardise"]

Table: TypeAlias = str | Path | pd.DataFrame
"""A file, or what was read from one."""

_PARQUET = (".parquet", ".pq")
_MAGIC = b"PAR1"  # how a Parquet file begins and ends


@runtime_checkable
class FromTable(Protocol):
    """What came from a table and remembers its columns: a task set, or a model trained on one."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def classes(self) -> tuple[str, ...] | None: ...

    @property
    def outputs(self) -> tuple[str, ...] | None: ...

    @property
    def columns(self) -> TableColumns | None: ...


def read_table(
    path: Table,
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
        with a header, perhaps compressed (``.csv.gz``); or a ``DataFrame``.
    :param task: the column of the tasks.
    :param target: the column of the targets; several for regression with as many outputs.
    :param features: the columns of the inputs, numbers all; by default all others.
    :param classes: the names of the classes in their order, see :meth:`TaskSet.from_arrays`.
    :param regression: whether the targets are real numbers.
    :param separator: what separates the columns of a text file, by default a tab in ``.tsv`` and a
        comma elsewhere.
    :returns: inputs ``[number of features]``, in the table's own units.
    :raises InputError: for a file, column, row or value that will not do, and which.
    """
    targets = [target] if isinstance(target, str) else list(target)
    frame, table = _frame(path, task, separator)
    columns = _feature_columns(table, frame, task, targets, features)
    names, x = _samples(table, frame, task, columns)
    # Several outputs are regression; one is a column, of whatever type.
    y: Any = frame[targets] if len(targets) > 1 else frame[targets[0]]
    if len(targets) > 1 and regression is None:
        regression = True
    pairs = {}
    for name in dict.fromkeys(names):
        mine = (names == name).to_numpy()
        pairs[name] = (x[mine], _plain(y[mine]))
    tasks = TaskSet.from_arrays(pairs, classes=classes, regression=regression)
    return replace(
        tasks,
        outputs=None if tasks.is_classification else tuple(targets),
        columns=TableColumns(task, tuple(targets), tuple(columns)),
    )


def read_rows(rows: Table, like: FromTable, separator: str | None = None) -> TaskSet:
    """New rows of a table, as the task set that a model trained on the table predicts.

    Example::

        fitted = pv.load("runs/table/2026-01-31_12-00-00")
        predictions = fitted.predict(pv.read_rows("new.csv", like=fitted))
        print(predictions.frame())  # a row per row, in the names and units of the table

    Columns are found by name; others are passed over. The features are standardised as those of
    training were. The targets may be missing, all or some: such samples are predicted, and are left
    out of the metrics. Tasks of which there is no row stay, without samples.

    :param rows: a CSV or Parquet file, or a ``DataFrame``.
    :param like: a model trained on tasks of a table, or the task set itself.
    :param separator: see :func:`read_table`.
    :returns: the samples in the order of the rows.
    :raises InputError: for a table that lacks a column, a task that the model does not know, or
        whatever :func:`read_table` refuses.
    """
    columns = _columns_of(like)
    frame, table = _frame(rows, columns.task, separator)
    given = [column for column in columns.targets if column in frame.columns]
    expected = columns.targets if given else ()
    _check_there(table, frame, (columns.task, *columns.features, *expected))
    names, x = _samples(table, frame, columns.task, columns.features)
    unknown = ~names.isin(like.names).to_numpy()
    if unknown.any():
        row = int(unknown.argmax())
        raise InputError(
            f"{_row(row)} of {table} is of the task {names.iloc[row]!r}; expected one of "
            f"{', '.join(map(repr, like.names))}, which the model knows."
        )
    y: Any = frame[given] if len(given) > 1 else frame[given[0]] if given else None
    shape = (len(frame), *([len(columns.targets)] if len(columns.targets) > 1 else []))
    pairs: dict[str, tuple[Any, Any]] = {}
    places = []
    for name in like.names:
        mine = np.flatnonzero((names == name).to_numpy())
        places.append(mine)
        missing = np.full((len(mine), *shape[1:]), np.nan)
        pairs[name] = (x[mine], missing if y is None else _plain(y.iloc[mine]))
    tasks = TaskSet.from_arrays(
        pairs,
        classes=like.classes,
        regression=like.classes is None,
        outputs=like.outputs,
    )
    # Task by task they were read; the user knows them by their rows.
    tasks = tasks.subset(torch.from_numpy(np.concatenate(places).argsort()))
    return replace(tasks, x=columns.standardise(tasks.x), columns=columns)


def _columns_of(like: object) -> TableColumns:
    if not isinstance(like, FromTable):
        raise InputError(
            f"like is a {type(like).__name__}; expected a fitted model, or a task set."
        )
    if like.columns is None:
        raise InputError(
            "like does not say which columns of a table it comes from; expected a model trained on "
            "tasks of read_table or split_table, or such a task set."
        )
    return like.columns


def _frame(source: Table, task: str, separator: str | None) -> tuple[pd.DataFrame, str]:
    """A table with text for its columns' names, and what messages call it."""
    if isinstance(source, pd.DataFrame):
        frame, table = source.copy(deep=False), "the DataFrame"
    elif isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        frame, table = _read(path, task, separator), f"the table '{path}'"
    else:
        raise InputError(
            f"the table is a {type(source).__name__}; expected the path of a file, or a DataFrame."
        )
    frame.columns = [str(column) for column in frame.columns]
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise InputError(f"{table} has two columns {twice[0]!r}; expected each name once.")
    return frame, table


def _samples(
    table: str, frame: pd.DataFrame, task: str, features: Sequence[str]
) -> tuple[pd.Series, np.ndarray[Any, np.dtype[np.float64]]]:
    """The task and the features of every row."""
    if len(frame) == 0:
        raise InputError(f"{table} has no row; expected one per sample.")
    unnamed = frame[task].isna().to_numpy()
    if unnamed.any():
        raise InputError(
            f"{_row(int(unnamed.argmax()))} of {table} has no value in the column {task!r}; "
            "expected the name of its task."
        )
    x = np.column_stack([_numbers(table, frame[column]) for column in features])
    return frame[task].astype(str), x


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
    table: str,
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
    _check_there(table, frame, (task, *targets, *chosen))
    used = [task, *targets, *chosen]
    twice = [column for column in used if used.count(column) > 1]
    if twice:
        raise InputError(
            f"the column {twice[0]!r} is used twice, as task, target or feature; "
            "expected each column once."
        )
    if not chosen:
        raise InputError(f"{table} has no column of features; expected one at least.")
    return chosen


def _check_there(table: str, frame: pd.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in frame.columns:
            there = ", ".join(repr(c) for c in list(frame.columns)[:20])
            more = ", ..." if len(frame.columns) > 20 else ""
            # A header that was not parted is a table with another separator.
            header = frame.columns[0] if len(frame.columns) == 1 else ""
            other = next((mark for mark in ";\t|" if mark in header), None)
            hint = "" if other is None else f", or separator={other!r}, by which it seems parted"
            raise InputError(
                f"there is no column {column!r} in {table}; expected one of {there}{more}{hint}."
            )


def _numbers(table: str, column: pd.Series) -> np.ndarray[Any, np.dtype[np.float64]]:
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
            f"{_row(row)} of {table} has {said} in the column {column.name!r}; "
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
    path: Table,
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

    Targets stay as they are, and so predictions are in their unit: in a regression, choose a unit
    and an origin in which they are of order 1, as the priors are.

    :param validation: share or number of each task's labelled samples for validation.
    :param test: the same for testing.
    :param seed: of the split.
    :returns: tasks whose ``columns`` say what the features were standardised by; new rows are
        read by :func:`read_rows`.
    :raises InputError: as :func:`read_table` and :func:`pyro_vmtl.data.split_tasks`.

    The other parameters are those of :func:`read_table`.
    """
    tasks = read_table(path, task, target, features, classes, regression, separator)
    return standardise(split_tasks(tasks, validation, test, seed))


def standardise(splits: TaskSplits) -> TaskSplits:
    """Tasks of a table, their features standardised by those of the training part.

    Mean and standard deviation are those of the training samples of all tasks together; a feature
    that is constant there is only centred.

    :param splits: parts of a task set of :func:`read_table`, split as you like.
    :returns: the same parts; their ``columns`` remember mean and deviation.
    :raises InputError: for tasks of no table, or whose features are standardised already.
    """
    columns = _columns_of(splits.train)
    if columns.mean is not None:
        raise InputError(
            "the features are standardised already; expected those of read_table, in their units."
        )
    x = splits.train.x.double()
    # The mean of equal numbers may differ from them in the last digit: not by their deviation, but
    # by looking, is it seen that a feature is constant.
    varies = (x != x[:1]).any(0)
    columns = replace(
        columns,
        mean=tuple(torch.where(varies, x.mean(0), x[0]).tolist()),
        deviation=tuple(torch.where(varies, x.std(0, correction=0), 1.0).tolist()),
    )
    return TaskSplits(
        *(replace(part, x=columns.standardise(part.x), columns=columns) for part in splits)
    )
