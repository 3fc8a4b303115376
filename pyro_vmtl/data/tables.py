"""Tables with a column that says the task, as task sets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import torch

from pyro_vmtl.data.cells import Notation, read_cells, row_name
from pyro_vmtl.data.columns import TableColumns
from pyro_vmtl.data.preparation import Gaps, TablePreparation
from pyro_vmtl.data.splits import TaskSplits, split_rows
from pyro_vmtl.data.table_files import Table, read_frame
from pyro_vmtl.data.table_targets import Target, outcome_doubts, read_target, unit_doubts
from pyro_vmtl.data.task_set import TaskSet
from pyro_vmtl.errors import InputError

__all__ = [
    "FromTable",
    "Table",
    "TableRows",
    "read_rows",
    "read_table",
    "split_table",
    "training_rows",
]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_log = logging.getLogger(__name__)

_PARTS = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("val", "valid", "validation"), 1),
    **dict.fromkeys(("test", "testing"), 2),
}
_MARKS = ("na", "n/a", "nan", "null", "?", "-", ".")  # that often mean that a value is missing
_FEW_ROWS = 10  # that a column may count by chance
_JOINED = " / "  # between the values of several task columns


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
    task: str | Sequence[str],
    target: str | Sequence[str],
    features: Sequence[str] | None = None,
    classes: Sequence[object] | None = None,
    regression: bool | None = None,
    leave_out: Sequence[str] = (),
    categories: Sequence[str] = (),
    gaps: Gaps = "impute",
    separator: str | None = None,
    decimal: str = ".",
    thousands: str | None = None,
    missing: Sequence[str] = (),
    encoding: str | None = None,
) -> TaskSet:
    """A task set of training rows from a table: a row is a sample, and a column says its task.

    The features are prepared by these rows (:class:`pyro_vmtl.data.TablePreparation`): numbers are
    standardised, text becomes categories, gaps are filled and marked. Rows to validate or to test
    on are read like them, by :func:`read_rows`; :func:`split_table` does both.

    What was taken for what is said in ``TaskSet.columns.notes``, and what should be doubted is
    logged as a warning.

    Example::

        tasks = read_table("schools.csv", task="school", target="passed")

    :param path: ``.parquet``, ``.pq``, ``.feather``, ``.xlsx``; any other name is text with a
        header, perhaps compressed (``.csv.gz``); or a frame of pandas, polars or pyarrow.
    :param task: the column of the tasks; of several, their values together are a task's name.
    :param target: the column of the targets; several for regression with as many outputs. Text,
        truth values and at most ten distinct whole numbers are classes, other numbers regression,
        unless said otherwise. A row without a target is a sample without a label.
    :param features: the columns of the inputs; by default all others but row numbers.
    :param classes: the names of the classes in their order.
    :param regression: whether the targets are real numbers.
    :param leave_out: columns that are not to be features.
    :param categories: columns of features that are text, whatever they look like.
    :param gaps: ``"impute"`` or ``"refuse"``, for missing features.
    :param separator: between the columns of a text file; by default a tab in ``.tsv`` and a comma
        elsewhere.
    :param decimal: mark of text files, ``"."`` or ``","``; ``thousands``: likewise, or None.
    :param missing: texts that mean that a value is missing, besides the empty cell: ``["NA"]``.
        The names of tasks are taken as they stand.
    :param encoding: of a text file, by default UTF-8.
    :returns: the samples in the order of the rows.
    :raises InputError: for a file, column, row or value that will not do, and which.
    """
    preparation = TablePreparation(gaps, _listed(categories), decimal, thousands, _listed(missing))
    rows = training_rows(
        *(path, task, target, features, classes, regression),
        *(leave_out, preparation, separator, encoding),
    )
    (tasks,) = rows.task_sets([np.arange(len(rows.tasks))])
    return tasks


def split_table(
    path: Table,
    task: str | Sequence[str],
    target: str | Sequence[str],
    features: Sequence[str] | None = None,
    classes: Sequence[object] | None = None,
    regression: bool | None = None,
    leave_out: Sequence[str] = (),
    categories: Sequence[str] = (),
    gaps: Gaps = "impute",
    separator: str | None = None,
    decimal: str = ".",
    thousands: str | None = None,
    missing: Sequence[str] = (),
    encoding: str | None = None,
    part: str | None = None,
    groups: str | None = None,
    validation: float | int = 0.2,
    test: float | int = 0.2,
    seed: int = 0,
) -> TaskSplits:
    """A table's samples as training, validation and test tasks, prepared by the training rows.

    :param part: the column that says which part a row belongs to: train, validation or test; None
        deals rows out at random.
    :param groups: a column such as the patient: rows that share its value go to one part.
    :param validation: share or number of each task's labelled samples for validation.
    :param test: the same for testing.
    :param seed: of the split.
    :raises InputError: as :func:`read_table` and :func:`pyro_vmtl.data.split_tasks`.

    The other parameters are those of :func:`read_table`.
    """
    own = [name for name in (part, groups) if name is not None]
    preparation = TablePreparation(gaps, _listed(categories), decimal, thousands, _listed(missing))
    rows = training_rows(
        *(path, task, target, features, classes, regression),
        *(leave_out, preparation, separator, encoding, own),
    )
    frame = rows.frame
    if groups is not None:
        cells = read_cells(rows.table, frame[groups], Notation(), "text")
        # A row of no group is one by itself.
        alone = len(cells.labels) + np.arange(len(frame))
        rows.sources = np.where(cells.missing, alone, cells.codes)
    if part is None:
        provisional = rows.task_set(np.zeros((len(frame), 1)), np.arange(len(frame)))
        return TaskSplits(*rows.task_sets(split_rows(provisional, validation, test, seed)))
    cells = read_cells(rows.table, frame[part], Notation(), "text")
    for row, text in enumerate(cells.texts):
        if text is None or text.casefold() not in _PARTS:
            raise InputError(
                f"{row_name(row)} of {rows.table} has {text!r} in the column {part!r}; expected "
                "train, validation or test."
            )
    number = np.array([_PARTS[text.casefold()] for text in cells.texts])
    return TaskSplits(*rows.task_sets([np.flatnonzero(number == which) for which in range(3)]))


def read_rows(
    rows: Table,
    like: FromTable,
    separator: str | None = None,
    encoding: str | None = None,
    new_tasks: bool = False,
) -> TaskSet:
    """New rows of a table, as the task set that a model trained on the table predicts.

    Example::

        fitted = pv.load("runs/table/2026-01-31_12-00-00")
        predictions = fitted.predict(pv.read_rows("new.csv", like=fitted))
        print(predictions.frame())  # a row per row, in the names and units of the table

    Columns are found by name; others are passed over. The features are prepared as those of
    training were. The targets may be missing, all or some: such samples are predicted, and are left
    out of the metrics. Tasks of which there is no row stay, without samples.

    :param rows: a file, or a frame, see :func:`read_table`.
    :param like: a model trained on tasks of a table, or the task set itself.
    :param separator: see :func:`read_table`; ``encoding``: likewise.
    :param new_tasks: whether other tasks are allowed; they come after those that the model knows
        (:meth:`pyro_vmtl.FittedVMTL.add_task`).
    :returns: the samples in the order of the rows.
    :raises InputError: for a table that lacks a column, a task that the model does not know, or
        whatever :func:`read_table` refuses.
    """
    columns = _columns_of(like)
    frame, table = read_frame(rows, separator, encoding)
    given = [column for column in columns.targets if column in frame.columns]
    expected = columns.targets if given else ()
    names = [feature.name for feature in columns.features]
    _check_there(table, frame, (*columns.task, *names, *expected))
    tasks = _task_names(table, frame, columns.task)
    known = like.names
    unknown = ~np.isin(tasks, known)
    if unknown.any() and not new_tasks:
        row = int(unknown.argmax())
        raise InputError(
            f"{row_name(row)} of {table} is of the task {tasks[row]!r}; expected one of "
            f"{', '.join(map(repr, known))}, which the model knows."
        )
    known = (*known, *dict.fromkeys(tasks[unknown].tolist()))
    if given:
        is_regression = like.classes is None
        target = read_target(
            table, frame, columns.targets, columns.notation, like.classes, is_regression
        )
    elif like.classes is None:
        shape = (len(frame), len(columns.targets)) if len(columns.targets) > 1 else (len(frame),)
        target = Target(np.full(shape, np.nan), None, "")
    else:
        target = Target(np.full(len(frame), -1), like.classes, "")
    found = TableRows(frame, table, columns.task, tasks, known, columns.targets, target)
    x = columns.prepare(frame, table)
    return replace(found.task_set(x, np.arange(len(frame))), outputs=like.outputs, columns=columns)


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


@dataclass(eq=False)
class TableRows:
    """The rows of a table before they are parted.

    :ivar tasks: the name of every row's task, ``[N]``.
    :ivar names: of the T tasks.
    :ivar preparation: of the columns ``features``, not fitted.
    :ivar notes: sentences on what was taken for what.
    :ivar doubts: sentences to be warned by.
    :ivar sources: which rows belong together, ``[N]``, or None.
    """

    frame: pd.DataFrame
    table: str
    task: tuple[str, ...]
    tasks: _Array
    names: tuple[str, ...]
    targets: tuple[str, ...]
    target: Target
    features: Sequence[str] = ()
    preparation: TablePreparation = field(default_factory=TablePreparation)
    notes: Sequence[str] = ()
    doubts: Sequence[str] = ()
    sources: _Array | None = None

    def task_set(self, x: _Array, rows: _Array) -> TaskSet:
        """Some rows as a task set; ``x`` are their inputs, ``[len(rows), D]``."""
        place = {name: number for number, name in enumerate(self.names)}
        y = torch.from_numpy(self.target.y[rows])
        is_regression = self.target.classes is None
        return TaskSet(
            names=self.names,
            x=torch.from_numpy(x).float(),
            y=y.float() if is_regression else y,
            task=torch.tensor([place[name] for name in self.tasks[rows]], dtype=torch.int64),
            classes=self.target.classes,
            outputs=self.targets if is_regression else None,
            sources=None if self.sources is None else torch.from_numpy(self.sources[rows]),
        )

    def task_sets(self, parts: Sequence[_Array]) -> list[TaskSet]:
        """Every part as a task set, prepared by the rows of the first."""
        training = self.frame.iloc[parts[0]]
        if not len(training):
            raise InputError(f"{self.table} has no row to train on; expected one at least.")
        fitted = self.preparation.fit(training[list(self.features)], table=self.table)
        columns = TableColumns(
            self.task,
            self.targets,
            fitted.features_,
            fitted.inputs_,
            Notation(fitted.decimal, fitted.thousands, tuple(fitted.missing)),
            fitted.gaps,
            (*self.notes, *fitted.notes_, _inputs_sentence(fitted)),
        )
        x = columns.prepare(self.frame, self.table)
        y = self.target.y[parts[0]]
        doubts = outcome_doubts(columns.inputs, x[parts[0]], replace(self.target, y=y))
        texts = {feature.name: feature.levels for feature in columns.features}
        texts[self.targets[0]] = self.target.classes or ()
        for sentence in (*self.doubts, *doubts, *_mark_doubts(texts), *self._unit_doubts(columns)):
            _log.warning(sentence)
        return [replace(self.task_set(x[rows], rows), columns=columns) for rows in parts]

    def _unit_doubts(self, columns: TableColumns) -> list[str]:
        values = {
            feature.name: read_cells(
                self.table, self.frame[feature.name], columns.notation, "number"
            ).numbers
            for feature in columns.features
            if feature.kind == "number"
        }
        if self.target.classes is None:
            values |= dict(
                zip(self.targets, self.target.y.reshape(len(self.frame), -1).T, strict=True)
            )
        return [
            sentence
            for name, numbers in values.items()
            for sentence in unit_doubts(name, numbers, self.tasks)
        ]


def _inputs_sentence(fitted: TablePreparation) -> str:
    names = fitted.inputs_
    shown = ", ".join(names[:12]) + (f", ... and {len(names) - 12} more" if len(names) > 12 else "")
    return f"{len(names)} input{'s' if len(names) > 1 else ''}: {shown}."


def training_rows(
    path: Table,
    task: str | Sequence[str],
    target: str | Sequence[str],
    features: Sequence[str] | None,
    classes: Sequence[object] | None,
    regression: bool | None,
    leave_out: Sequence[str],
    preparation: TablePreparation,
    separator: str | None,
    encoding: str | None,
    own: Sequence[str] = (),
) -> TableRows:
    """The rows of a table, and what its columns are; ``own`` are columns of another use."""
    tasks, targets = _listed(task), _listed(target)
    if not targets:
        raise InputError("no target is named; expected a column at least.")
    if not tasks:
        raise InputError("no task is named; expected a column at least.")
    notation = Notation(preparation.decimal, preparation.thousands, tuple(preparation.missing))
    frame, table = read_frame(path, separator, encoding)
    out, chosen = _listed(leave_out), None if features is None else _listed(features)
    named = (*tasks, *targets, *own, *out, *preparation.categories, *(chosen or ()))
    _check_there(table, frame, named)
    used = [*tasks, *targets, *own, *(chosen or ())]
    twice = [column for column in used if used.count(column) > 1]
    if twice:
        raise InputError(
            f"the column {twice[0]!r} is used twice, as task, target or feature; "
            "expected each column once."
        )
    doubts: list[str] = []
    if chosen is None:
        rest = [name for name in frame.columns if name not in (*used, *out)]
        counting = [name for name in rest if _counts_rows(name, frame[name])]
        doubts = [
            f"The column {name!r} counts the rows, and is left out (features=[...] takes it)."
            for name in counting
        ]
        chosen = tuple(name for name in rest if name not in counting)
    if not chosen:
        raise InputError(f"{table} has no column of features; expected one at least.")
    names = _task_names(table, frame, tasks)
    found = read_target(table, frame, targets, notation, classes, regression)
    missing = np.isnan(found.y) if found.y.ndim == 2 else np.zeros((1, 1), dtype=bool)
    partial = int((missing.any(1) & ~missing.all(1)).sum())
    said = f"{found.sentence[0].upper()}{found.sentence[1:]}."
    if partial:
        said += (
            f" Of {len(frame)} rows {partial} have some of the targets and not all: each target is "
            "used where it is known."
        )
    return TableRows(
        frame,
        table,
        tasks,
        names,
        tuple(dict.fromkeys(names.tolist())),
        targets,
        found,
        chosen,
        preparation,
        [said, *_task_features(frame, names, chosen)],
        doubts,
    )


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(str(name) for name in names)


def _task_names(table: str, frame: pd.DataFrame, columns: Sequence[str]) -> _Array:
    """The name of every row's task, ``[N]``; nothing but an empty cell is missing."""
    parts = []
    for column in columns:
        cells = read_cells(table, frame[column], Notation(), "text")
        if cells.missing.any():
            raise InputError(
                f"{row_name(int(cells.missing.argmax()))} of {table} has no value in the column "
                f"{column!r}; expected the name of its task."
            )
        parts.append(cells.texts)
    joined: _Array = np.array([_JOINED.join(row) for row in zip(*parts, strict=True)], dtype=object)
    return joined


def _mark_doubts(texts: Mapping[str, Sequence[str]]) -> list[str]:
    """Sentences on classes and levels that are called as missing values often are."""
    return [
        f"In the column {name!r} {text!r} is taken for a value like others (missing=[{text!r}] "
        "says that there is none)."
        for name, found in texts.items()
        for text in found
        if text.casefold() in _MARKS
    ]


def _counts_rows(name: str, column: pd.Series) -> bool:
    """Whether a column is 0, 1, 2, ... or 1, 2, 3, ..., as an index is."""
    try:
        numbers = pd.to_numeric(column, errors="coerce")
        values = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    except (OverflowError, TypeError, ValueError):  # of other types, or beyond all floats
        return False
    counted = values - np.arange(len(values))
    is_index = name.startswith("Unnamed: ") or len(values) > _FEW_ROWS
    return is_index and bool(np.isin(counted, (0.0, 1.0)).all()) and len(set(counted)) == 1


def _task_features(frame: pd.DataFrame, names: _Array, features: Sequence[str]) -> list[str]:
    """A sentence on columns that vary between tasks alone."""
    texts = pd.DataFrame({name: list(map(ascii, frame[name])) for name in features})
    alone = (texts.groupby(names).nunique() <= 1).all() & (texts.nunique() > 1)
    found = [name for name in features if alone[name]]
    if not found or len(set(names.tolist())) == len(names):
        return []
    return [
        f"{', '.join(map(repr, found))} {'varies' if len(found) == 1 else 'vary'} with nothing but "
        "the task: a feature of tasks, of which there are as many values as tasks."
    ]


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
