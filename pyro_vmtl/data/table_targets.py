"""What a table's target is: classes or numbers, and the reasons to doubt it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from pyro_vmtl.data.cells import Cells, Notation, label, read_cells
from pyro_vmtl.errors import InputError

__all__ = ["Target", "outcome_doubts", "read_target", "unit_doubts"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_MOST_WHOLE = 10  # distinct whole numbers that are still classes
_MOST_CLASSES = 20
_LIKE_OUTCOMES = re.compile(
    r"(outcome|target|label|response|y\d*|ill|sick|diseased?|diagnosis|dead|died|death|"
    r"mortality|surviv(al|ed)|relapsed?|readmi(tted|ssion)|improved|cured|recovered|churn(ed)?|"
    r"(length_?of_?)?stay|los)"
)
_TELLS_ALL = 0.98
_ORDERS = 1.5  # of magnitude between tasks, that make one doubt their units


@dataclass(frozen=True, eq=False)
class Target:
    """The targets of a table's rows.

    :ivar y: classes as positions, ``[N]`` int64, -1 where missing; or numbers, ``[N]`` or
        ``[N, K]`` float64, NaN where missing.
    :ivar classes: their names, None in a regression.
    :ivar sentence: what the column was taken for, with counts.
    """

    y: _Array
    classes: tuple[str, ...] | None
    sentence: str


def read_target(
    table: str,
    frame: pd.DataFrame,
    targets: Sequence[str],
    notation: Notation,
    classes: Sequence[object] | None = None,
    regression: bool | None = None,
) -> Target:
    """The targets, and what they are.

    Text and truth values are classes, and so are at most ten distinct whole numbers, whether they
    are written 1 or 1.0; other numbers, and several columns, are regression. Truth values among
    several columns are 0 and 1.

    :param classes: the names of the classes, in their order; what is none of them is refused.
    :param regression: whether the targets are numbers; None to see.
    :raises InputError: for cells that are no numbers among numbers, for more classes than so many
        rows can have, and for a single class.
    """
    if len(targets) > 1 or regression:
        if classes is not None:
            raise InputError(
                f"classes={list(classes)} are given for a regression of {list(targets)}; expected "
                "one or the other."
            )
        if regression is False:
            raise InputError(
                f"regression is False and the targets are {list(targets)}; expected one column of "
                "classes."
            )
        values = np.column_stack([_numbers(table, frame[name], notation) for name in targets])
        return _regression(targets, values[:, 0] if len(targets) == 1 else values, "")
    (name,) = targets
    cells = read_cells(table, frame[name], notation, "text")
    written = np.array([notation.number(text) for text in cells.labels])
    numbers = np.array([*written, np.nan])[cells.codes]
    are, whole = np.isfinite(written), written == np.round(written)
    distinct = len(np.unique(written[are]))
    if classes is None and regression is None:
        few = bool(whole[are].all()) and distinct <= _MOST_WHOLE
        if not few and 2 * np.isfinite(numbers).sum() >= (~cells.missing).sum() > 0:
            numbers = read_cells(table, frame[name], notation, "number").numbers
            why = f" ({distinct} distinct whole numbers; regression=False makes them classes)"
            return _regression(targets, numbers, why if bool(whole.all()) else "")
        if not are.any():
            read_cells(table, frame[name], notation)  # dates, and decimal commas, are refused
    return _classes(table, cells, written, classes)


def _numbers(table: str, column: pd.Series, notation: Notation) -> _Array:
    cells = read_cells(table, column, notation, "text")
    truth = {"false": 0.0, "true": 1.0}
    values = [truth.get(text.casefold(), np.nan) for text in cells.labels]
    if cells.labels and not np.isnan(values).any():
        numbers: _Array = np.array([*values, np.nan])[cells.codes]
        return numbers
    return read_cells(table, column, notation, "number").numbers


def _regression(targets: Sequence[str], values: _Array, why: str) -> Target:
    by_output = values.reshape(len(values), -1)
    if len(targets) > 1 and bool(np.isin(by_output[~np.isnan(by_output)], (0, 1)).all()):
        events = [
            f"{name!r} ({int((~np.isnan(column)).sum())} of {len(column)} rows known, "
            f"{int(np.nansum(column))} of them 1)"
            for name, column in zip(targets, by_output.T, strict=True)
        ]
        return Target(values, None, f"outputs that are 0 or 1: {', '.join(events)}{why}")
    parts = [
        f"{name!r} ({int((~np.isnan(column)).sum())} of {len(column)} rows known, "
        f"{np.nanmin(column):.4g} to {np.nanmax(column):.4g})"
        if not np.isnan(column).all()
        else f"{name!r} (no row known)"
        for name, column in zip(targets, by_output.T, strict=True)
    ]
    for name, column in zip(targets, by_output.T, strict=True):
        known = column[~np.isnan(column)]
        if len(targets) > 1 and len(known) and bool(np.isin(known, (0, 1)).all()):
            why += f"; {name!r} is 0 or 1 and taken for a number (fit it by itself for chances)"
    return Target(values, None, f"regression of {', '.join(parts)}{why}")


def _classes(table: str, cells: Cells, written: _Array, classes: Sequence[object] | None) -> Target:
    labelled = int((~cells.missing).sum())
    # Numbers are one class however they are written, 1 or 1.0.
    names = [
        text if not np.isfinite(number) else label(float(number))
        for text, number in zip(cells.labels, written, strict=True)
    ]
    if classes is None:
        texts = sorted({n for n, w in zip(names, written, strict=True) if not np.isfinite(w)})
        order = [label(float(w)) for w in np.unique(written[np.isfinite(written)])] + texts
        if len(order) > _MOST_CLASSES and 3 * len(order) > labelled:
            raise InputError(
                f"the column {cells.name!r} of {table} has {len(order)} distinct texts in "
                f"{labelled} rows; expected a target with fewer classes, or numbers "
                "(regression=True), or the classes by name (classes=[...])."
            )
    else:
        order = [label(value) for value in classes]
        if len(set(order)) < len(order):
            raise InputError(f"the classes are {order}; expected each name once.")
        unknown = [name for name in names if name not in order]
        if unknown:
            shown = ", ".join(map(repr, order[:10])) + (", ..." if len(order) > 10 else "")
            raise InputError(
                f"the column {cells.name!r} of {table} has {unknown[0]!r}; expected one of {shown}."
            )
    if len(order) < 2:
        raise InputError(
            f"the column {cells.name!r} of {table} has "
            f"{f'the single class {order[0]!r}' if order else 'no value'}; expected two classes "
            "at least, or the classes by name (classes=[...])."
        )
    place = {name: number for number, name in enumerate(order)}
    y: _Array = np.array([*(place[name] for name in names), -1], dtype=np.int64)[cells.codes]
    counts = np.bincount(y[y >= 0], minlength=len(order))
    shown = ", ".join(f"{n} {c}" for n, c in list(zip(order, counts, strict=True))[:10])
    more = ", ..." if len(order) > 10 else ""
    sentence = (
        f"classification of {cells.name!r}, {len(order)} classes ({shown}{more}), {labelled} of "
        f"{len(y)} rows labelled"
    )
    return Target(y, tuple(order), sentence)


def outcome_doubts(names: Sequence[str], x: _Array, target: Target) -> list[str]:
    """Sentences for columns that may be a second outcome, known only after the target is.

    :param names: of the inputs.
    :param x: the inputs of training rows, ``[N, D]``.
    :param target: of the same rows.
    """
    doubts = []
    for name, column in zip(names, x.T, strict=True):
        base = name.partition("=")[0]
        if _LIKE_OUTCOMES.fullmatch(base.strip().casefold().replace(" ", "_")):
            doubts.append(f"is called like an outcome and taken as a feature: {base!r}")
        elif _tells_all(column, target):
            doubts.append(f"predicts the target all but perfectly: {base!r}")
    return [
        f"A column {doubt}. What is known only when the target is must not be a feature "
        "(leave_out=[...] leaves columns out)."
        for doubt in dict.fromkeys(doubts)
    ]


def unit_doubts(name: str, values: _Array, tasks: _Array) -> list[str]:
    """A sentence where a column of positive numbers is of another order of magnitude in a task.

    :param name: of the column.
    :param values: of training rows, ``[N]``, NaN where missing.
    :param tasks: their names, ``[N]``.
    """
    known = ~np.isnan(values)
    if not known.any() or (values[known] <= 0).any():
        return []
    logs = pd.Series(np.log10(values[known])).groupby(tasks[known])
    middle, count, within = logs.median(), logs.count(), logs.std()
    away = middle - middle.median()
    odd = away[(away.abs() > _ORDERS) & (count >= 3) & (within < _ORDERS / 3)]
    return [
        f"The column {name!r} is about {10 ** abs(float(orders)):.0f} times as "
        f"{'large' if orders > 0 else 'small'} in the task {task!r} as in others: is its unit the "
        "same?"
        for task, orders in odd.items()
    ]


def _tells_all(column: _Array, target: Target) -> bool:
    if target.classes is None:
        y = target.y.reshape(len(target.y), -1)
        return any(_correlation(column, values) > _TELLS_ALL for values in y.T)
    if len(target.classes) > 2:
        return False
    one, other = column[target.y == 1], column[target.y == 0]
    if min(len(one), len(other)) < 10:
        return False
    order = pd.Series(np.concatenate([one, other])).rank().to_numpy()
    area = (order[: len(one)].sum() / len(one) - (len(one) + 1) / 2) / len(other)
    return bool(max(area, 1 - area) > 0.99)


def _correlation(x: _Array, y: _Array) -> float:
    known = ~np.isnan(y)
    x, y = x[known], y[known]
    if len(x) < 10 or x.std() == 0 or y.std() == 0:
        return 0.0
    return abs(float(np.corrcoef(x, y)[0, 1]))
