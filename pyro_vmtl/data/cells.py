"""What the cells of a table's column are: numbers, truth values, dates or text."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from pyro_vmtl.errors import InputError

__all__ = ["Cells", "Kind", "Notation", "is_text", "label", "read_cells", "row_name"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

Kind = Literal["number", "truth", "date", "text"]
"""Of a column; the values of ``date`` are days since 1970-01-01."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?")
_KINDS: tuple[Kind, ...] = ("number", "date", "truth")
_EXPECTED: dict[Kind, str] = {
    "number": "a finite number",
    "truth": "true or false",
    "date": "a date such as 2026-01-31",
    "text": "text",
}
_TRUTH = {"true": 1.0, "false": 0.0}
_DAY = 86400e6  # microseconds, which reach from the year 1 to 9999


@dataclass(frozen=True)
class Notation:
    """How numbers and missing values are written in a text file.

    :param decimal: between whole numbers and fractions, a point or a comma.
    :param thousands: between groups of three digits, or None.
    :param missing: what stands for a missing value besides an empty cell, such as ``["NA"]``.
    """

    decimal: str = "."
    thousands: str | None = None
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.decimal not in (".", ","):
            raise InputError(f"decimal is {self.decimal!r}; expected '.' or ','.")
        if self.thousands is not None and (
            not isinstance(self.thousands, str)
            or len(self.thousands) != 1
            or self.thousands.isalnum()
            or self.thousands == self.decimal
        ):
            raise InputError(
                f"thousands is {self.thousands!r}; expected a mark such as ',' or ' ' that is not "
                "the decimal one, or None."
            )
        if isinstance(self.missing, str) or not all(isinstance(m, str) for m in self.missing):
            raise InputError(f"missing is {self.missing!r}; expected texts such as ['NA'].")
        object.__setattr__(self, "missing", tuple(self.missing))

    def number(self, text: str) -> float:
        """The number that a text writes, NaN if it writes none."""
        if self.thousands is not None:
            mark, point = re.escape(self.thousands), re.escape(self.decimal)
            if re.fullmatch(rf"[+-]?\d{{1,3}}({mark}\d{{3}})+({point}\d*)?", text):
                text = text.replace(self.thousands, "")
        if self.decimal != ".":
            text = text.replace(".", "x").replace(self.decimal, ".")
        return float(text) if _NUMBER.fullmatch(text) else np.nan


@dataclass(frozen=True, eq=False)
class Cells:
    """A column of a table.

    :ivar name: of the column.
    :ivar kind: what its values are.
    :ivar numbers: ``[N]`` float64, NaN where there is none; of truth values 0 and 1.
    :ivar labels: the distinct values as text.
    :ivar codes: ``[N]`` int64, the position of each value among them, -1 where it is missing.
    """

    name: str
    kind: Kind
    numbers: _Array
    labels: tuple[str, ...]
    codes: _Array

    @property
    def missing(self) -> _Array:
        """``[N]`` bool."""
        found: _Array = self.codes < 0
        return found

    @property
    def texts(self) -> _Array:
        """``[N]`` of str, None where a value is missing."""
        found: _Array = np.array([*self.labels, None], dtype=object)[self.codes]
        return found


def row_name(position: int) -> str:
    """What messages call a row."""
    return f"row {position + 1} below the header"


def is_text(text: str) -> bool:
    """Whether it can be written into a file: Python's texts may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def label(value: Any) -> str:
    """A value as the name of a task, a class or a level: 1.0 is called 1, as 1 is."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def read_cells(
    table: str, column: pd.Series, notation: Notation, kind: Kind | None = None
) -> Cells:
    """A column's values, and what they are.

    Text is stripped of blanks at both ends, and nothing but an empty cell, or what the notation
    says, is missing. It is numbers, truth values (true and false, however capitalised) or dates
    (ISO 8601) where all of it is.

    :param table: what messages call the table.
    :param column: of any type.
    :param notation: of numbers and gaps.
    :param kind: what the values are to be; None to see what they are.
    :raises InputError: for a value that is of another kind than most, or than it is to be, naming
        its row; for a type that is none of these.
    """
    name = str(column.name)
    values, codes = _distinct(table, column, notation)
    if kind is None:
        kind = _kind(table, name, values, codes, notation)
    numbers: _Array = np.full(len(codes), np.nan)
    if kind != "text":
        found: _Array = np.array([_number(v, kind, notation) for v in values] + [np.nan])
        if not np.isfinite(found[:-1]).all():
            raise _misfit(table, name, values, codes, kind, notation)
        numbers = found[codes]
    labels = [label(value) for value in values]
    names = tuple(dict.fromkeys(labels))  # 1 and 1.0 have one name
    place = {text: number for number, text in enumerate(names)}
    places: _Array = np.array([place[text] for text in labels] + [-1], dtype=np.int64)
    return Cells(name, kind, numbers, names, places[codes])


def _distinct(table: str, column: pd.Series, notation: Notation) -> tuple[list[Any], _Array]:
    """The distinct values, stripped, and the place of each row's among them, -1 if missing."""
    dtype = column.dtype
    wrong = (complex, np.complexfloating, dt.timedelta, np.timedelta64, pd.Period)
    codes: _Array = np.full(len(column), -1, dtype=np.int64)
    if pd.api.types.is_float_dtype(dtype):
        floats: _Array = column.to_numpy(dtype=np.float64, na_value=np.nan)
        known = ~np.isnan(floats)
        numbers, codes[known] = np.unique(floats[known], return_inverse=True)
        return numbers.tolist(), codes
    places: dict[Any, int] = {}
    values: list[Any] = []
    for row, value in enumerate(column):
        if isinstance(value, str):
            value = value.strip()
            if value == "" or value in notation.missing:
                continue
        elif isinstance(value, wrong) or isinstance(dtype, pd.IntervalDtype):
            raise InputError(
                f"the column {str(column.name)!r} of {table} has values of the type "
                f"{type(value).__name__}; expected numbers, truth values, dates or text."
            )
        elif _is_missing(value):
            continue
        try:
            key = (type(value), value)
            hash(key)
        except TypeError:
            raise InputError(
                f"{row_name(row)} of {table} has a {type(value).__name__} in the column "
                f"{str(column.name)!r}; expected a number, a truth value, a date or text."
            ) from None
        if key not in places:
            if isinstance(value, str) and not is_text(value):
                raise InputError(
                    f"{row_name(row)} of {table} has {value!r} in the column {str(column.name)!r}, "
                    "half a character; expected text that UTF-8 can write."
                )
            places[key] = len(values)
            values.append(value)
        codes[row] = places[key]
    return values, codes


def _is_missing(value: Any) -> bool:
    return value is None or (np.ndim(value) == 0 and bool(pd.isna(value)))


def _is_real(value: Any) -> bool:
    return isinstance(value, (Real, Decimal)) and not isinstance(value, (bool, np.bool_))


def _float(value: Any) -> float:
    try:
        return float(value)
    except (OverflowError, ValueError):  # beyond all floats, or a signalling NaN
        return np.nan


def _number(value: Any, kind: Kind, notation: Notation) -> float:
    """A value as a number of this kind, NaN if it is none."""
    if kind == "date":
        if isinstance(value, (dt.date, np.datetime64)) or (
            isinstance(value, str) and _DATE.fullmatch(value)
        ):
            stamp = pd.to_datetime(value, utc=True, errors="coerce")
            return np.nan if pd.isna(stamp) else stamp.as_unit("us").asm8.astype(np.int64) / _DAY
        return np.nan
    if isinstance(value, (bool, np.bool_)):
        return float(value) if kind == "truth" else np.nan
    if isinstance(value, str):
        if kind == "truth" and value.casefold() in _TRUTH:
            return _TRUTH[value.casefold()]
        number = notation.number(value)
    else:
        number = _float(value) if _is_real(value) else np.nan
    return number if kind == "number" or number in (0.0, 1.0) else np.nan


def _kind(
    table: str,
    name: str,
    values: Sequence[Any],
    codes: _Array,
    notation: Notation,
) -> Kind:
    if not values:
        return "number"
    for kind in _KINDS:  # numbers 0 and 1 are numbers; truth values are written out
        if all(np.isfinite(_number(value, kind, notation)) for value in values):
            return kind
    are: _Array = np.isfinite([_number(value, "number", notation) for value in values])
    counts = np.bincount(codes[codes >= 0], minlength=len(values))
    if 2 * counts[are].sum() >= counts.sum() or _has_commas(values, notation):
        raise _misfit(table, name, values, codes, "number", notation)
    types = sorted({type(value).__name__ for value in values})
    if len(types) > 1:
        raise InputError(
            f"the column {name!r} of {table} has values of the types {', '.join(types)}; expected "
            "one kind."
        )
    return "text"


def _has_commas(values: Sequence[Any], notation: Notation) -> bool:
    """Whether all are numbers where the decimal mark is a comma."""
    comma = Notation(",", None if notation.thousands == "," else notation.thousands)
    return notation.decimal == "." and all(
        np.isfinite(_number(value, "number", comma)) for value in values
    )


def _misfit(
    table: str, name: str, values: Sequence[Any], codes: _Array, kind: Kind, notation: Notation
) -> InputError:
    """What is said of the first cell that is not of this kind."""
    fits: _Array = np.isfinite([_number(value, kind, notation) for value in values])
    row = int(np.flatnonzero((codes >= 0) & ~np.append(fits, True)[codes])[0])
    said = label(values[codes[row]])
    count, total = int(np.append(fits, False)[codes].sum()), int((codes >= 0).sum())
    remedy = ""
    if kind == "number" and _has_commas(values, notation):
        remedy = " (decimal=',' reads a decimal comma, thousands=',' a mark of thousands)"
    elif kind == "number" and count:
        remedy = (
            f", as {count} of {total} cells are: write a number, leave the cell empty, give "
            f"missing=[{said!r}] where that means that the value is missing, or "
            f"categories=[{name!r}] where a column of features is no numbers"
        )
    return InputError(
        f"{row_name(row)} of {table} has {said!r} in the column {name!r}; expected "
        f"{_EXPECTED[kind]}{remedy}."
    )
