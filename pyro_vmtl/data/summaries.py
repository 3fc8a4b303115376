"""What a place says of its rows before anything is fitted: sums, from which all agree on units."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vmtl.data.cells import Notation
from pyro_vmtl.data.columns import TableColumns
from pyro_vmtl.data.messages import Message, broken
from pyro_vmtl.data.preparation import Feature, Gaps, TablePreparation
from pyro_vmtl.data.sums import ColumnSums, TargetSums
from pyro_vmtl.data.tables import Table, training_rows
from pyro_vmtl.data.task_set import TaskSet
from pyro_vmtl.errors import InputError

__all__ = ["TaskSummary", "common_columns", "summary"]

_KIND = "summary"
_FEW, _IDENTIFIES = 5, 0.5  # distinct texts of a column, and their share of rows, that may be sent


@dataclass(frozen=True)
class TaskSummary:
    """Counts, means and sums of squares of the rows of some tasks; no row is among them.

    :ivar names: of the tasks.
    :ivar classes: of their targets, or None; ``outputs``: of a regression, or None.
    :ivar input_shape: of one sample, as far as it is known: of a table, its columns of features.
    :ivar inputs: sums over every input of all tasks' samples, or every column of features.
    :ivar targets: sums over every output of the labelled samples; of classes none.
    :ivar class_counts: of the labelled samples; of a regression none.
    :ivar table: which columns of a table are what, or None for arrays.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...] | None
    outputs: tuple[str, ...] | None
    input_shape: tuple[int, ...]
    inputs: tuple[ColumnSums, ...]
    targets: tuple[ColumnSums, ...]
    class_counts: tuple[int, ...]
    table: TableUse | None = None

    @property
    def target_sums(self) -> TargetSums:
        """What a likelihood learns its unit from."""
        mean, variance = (
            torch.tensor([getattr(t, name) for t in self.targets], dtype=torch.float64)
            for name in ("mean", "variance")
        )
        labelled = self.targets[0].rows if self.targets else sum(self.class_counts)
        return TargetSums(labelled, mean, variance, torch.tensor(self.class_counts))

    @property
    def shared(self) -> dict[str, Any]:
        """What all places have to have in common."""
        return {
            "columns": [column.name for column in self.inputs],
            **{name: getattr(self, name) for name in ("classes", "outputs", "input_shape")},
            **({} if self.table is None else vars(self.table)),
        }

    def message(self) -> Message:
        """What is sent."""
        plain = {**asdict(self), "table": None if self.table is None else asdict(self.table)}
        return Message(_KIND, plain, {})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it into a file of JSON and numbers, in place of one that is there."""
        return self.message().write(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TaskSummary:
        """Open what :meth:`save` wrote; no code of the file is run.

        :raises InputError: for a file that is no summary.
        """
        plain = Message.read(path, _KIND).description
        with broken(path, _KIND):
            classes, outputs = (
                None if plain[key] is None else tuple(map(str, plain[key]))
                for key in ("classes", "outputs")
            )
            inputs, targets = (
                tuple(map(ColumnSums.from_plain, plain[key])) for key in ("inputs", "targets")
            )
            use = plain["table"]
            out = cls(
                tuple(map(str, plain["names"])),
                *(classes, outputs, tuple(map(int, plain["input_shape"])), inputs, targets),
                tuple(map(int, plain["class_counts"])),
                None if use is None else TableUse.from_plain(use),
            )
            if not out.names or not out.inputs or len(out.class_counts) != len(out.classes or ()):
                raise ValueError("it has no tasks or inputs, or another number of classes")
            if len(out.targets) != len(out.outputs or ()) or min(out.class_counts, default=0) < 0:
                raise ValueError("its targets are not those of its outputs or classes")
        return out

    @classmethod
    def merged(cls, parts: Sequence[TaskSummary]) -> TaskSummary:
        """Of all tasks of all parts together.

        :raises InputError: where they do not have the same columns, inputs, classes or outputs.
        """
        if not parts:
            raise InputError("there is no summary; expected one from every place")
        for part in parts:
            if not isinstance(part, TaskSummary):
                raise InputError(f"a summary is a {type(part).__name__}; expected a TaskSummary")
        first = parts[0]
        names = [name for part in parts for name in part.names]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(
                f"two summaries have a task {twice!r}; expected another name for one of them"
            )
        for part in parts[1:]:
            for name, ours in first.shared.items():
                if part.shared.get(name) != ours:
                    raise InputError(
                        f"the summary of {part.names[0]!r} has the {name} {part.shared.get(name)}; "
                        f"expected those of {first.names[0]!r}, {ours}"
                    )
        by_input, by_output = (
            tuple(map(ColumnSums.merged, zip(*(getattr(p, name) for p in parts), strict=True)))
            for name in ("inputs", "targets")
        )
        counts = tuple(map(sum, zip(*(part.class_counts for part in parts), strict=True)))
        return cls(
            tuple(names),
            first.classes,
            first.outputs,
            first.input_shape,
            by_input,
            by_output,
            counts,
            first.table,
        )


@dataclass(frozen=True)
class TableUse:
    """Which columns of a table are what, and how it is read."""

    task: tuple[str, ...]
    targets: tuple[str, ...]
    features: tuple[str, ...]
    gaps: Gaps
    notation: Notation

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> TableUse:
        """From what JSON holds."""
        task, targets, features = (
            tuple(map(str, plain[key])) for key in ("task", "targets", "features")
        )
        if plain["gaps"] not in ("impute", "refuse"):
            raise ValueError(f"gaps is {plain['gaps']!r}")
        return cls(task, targets, features, plain["gaps"], Notation(**plain["notation"]))


def summary(
    rows: TaskSet | Table,
    task: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    *,
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
) -> TaskSummary:
    """What is sent of rows that stay where they are, so that all places standardise alike.

    Of every column of numbers it is the count, the mean and the sum of squared deviations, of text
    the distinct values and their counts, of classes their counts; all over the rows of all tasks
    together. With one row these are the row.

    Example::

        said = pv.summary("north.csv", task="clinic", target="ill", classes=["no", "yes"])
        said.save("north.summary")

    :param rows: of the tasks of this place: a table, as for :func:`pyro_vmtl.read_table`, whose
        other arguments are the same here; or a task set of arrays.
    :param classes: of the target: of a table all places have to name the same.
    :param categories: columns that are text, and whose values may be sent even if many of them
        differ.
    :raises InputError: for rows that will not do; for text that names its rows, as names do.
    """
    if isinstance(rows, TaskSet):
        if rows.columns is not None:
            raise InputError(
                "the task set comes from a table, and is standardised by its own rows; expected "
                "the table itself, or a task set of arrays"
            )
        x = rows.x.flatten(1).double().cpu().numpy()
        inputs = [ColumnSums.of_numbers(f"input {k}", column) for k, column in enumerate(x.T)]
        return _summary(rows, rows.input_shape, inputs, None)
    if task is None or target is None:
        raise InputError("a table is given without task and target; expected the columns of both")
    listed = tuple([categories] if isinstance(categories, str) else categories)
    marks = tuple([missing] if isinstance(missing, str) else missing)
    preparation = TablePreparation(gaps, listed, decimal, thousands, marks)
    found = training_rows(
        *(rows, task, target, features, classes, regression),
        *(leave_out, preparation, separator, encoding),
    )
    cells = preparation.cells(found.frame[list(found.features)], found.table)
    sums = [ColumnSums.of(column) for column in cells]
    for column in sums:
        known = column.rows - column.missing
        many = len(column.levels) > max(_FEW, _IDENTIFIES * known)
        if many and column.name not in listed:
            raise InputError(
                f"the column {column.name!r} of {found.table} has {len(column.levels)} distinct "
                f"texts in {known} rows, which would be sent; expected it left out "
                f"(leave_out=[{column.name!r}]), or in categories where they name nobody"
            )
    tasks = found.task_set(np.zeros((len(found.tasks), 1)), np.arange(len(found.tasks)))
    notation = Notation(decimal, thousands, marks)
    use = TableUse(found.task, found.targets, tuple(found.features), gaps, notation)
    return _summary(tasks, (len(sums),), sums, use)


def _summary(
    tasks: TaskSet, shape: tuple[int, ...], inputs: Sequence[ColumnSums], use: TableUse | None
) -> TaskSummary:
    outputs = tasks.outputs or ()
    y = tasks.y[tasks.labelled].reshape(-1, max(1, len(outputs))).double().cpu().numpy()
    return TaskSummary(
        tasks.names,
        tasks.classes,
        tasks.outputs,
        shape,
        tuple(inputs),
        tuple(ColumnSums.of_numbers(name, y[:, k]) for k, name in enumerate(outputs)),
        tuple(tasks.class_counts.sum(0).tolist()),
        use,
    )


def common_columns(merged: TaskSummary) -> TableColumns | None:
    """How the features of every place become the same inputs; None where they are no table's.

    :param merged: the summary of all places.
    :raises InputError: where no feature varies.
    """
    use = merged.table
    if use is None:
        return None
    features = [Feature.learn(sums) for sums in merged.inputs]
    kept = tuple(feature for feature in features if feature.inputs)
    if not kept:
        raise InputError("no column of features varies in any place; expected one at least")
    notes = [
        f"The column {feature.name!r} does not vary, and is left out."
        for feature in features
        if not feature.inputs
    ]
    inputs = tuple(name for feature in kept for name in feature.inputs)
    return TableColumns(use.task, use.targets, kept, inputs, use.notation, use.gaps, tuple(notes))
