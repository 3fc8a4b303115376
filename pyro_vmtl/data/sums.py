"""What rows say of a column by sums, which add up over places that keep their rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from pyro_vmtl.data.cells import Cells, Kind
from pyro_vmtl.errors import InputError

__all__ = ["ColumnSums", "TargetSums"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class TargetSums(NamedTuple):
    """What is known of the labelled targets of all tasks by sums.

    :ivar number: how many there are.
    :ivar mean: of K outputs, ``[K]`` float64; of classes none, ``[0]``.
    :ivar variance: likewise, with the divisor ``number``.
    :ivar class_counts: of C classes, ``[C]`` int64; of a regression none.
    """

    number: int
    mean: Tensor
    variance: Tensor
    class_counts: Tensor


@dataclass(frozen=True)
class ColumnSums:
    """Sums over the rows of a column.

    :ivar name: of the column; ``kind``: of its values.
    :ivar rows: how many there are; ``missing``: in how many the value is missing.
    :ivar mean: of the values that are known, 0 where there is none.
    :ivar squares: the sum of their squared distances from it, 0 only where all are equal.
    :ivar binary: whether all of them are 0 or 1.
    :ivar levels: of text, the distinct values and the number of rows of each.
    """

    name: str
    kind: Kind
    rows: int
    missing: int
    mean: float = 0.0
    squares: float = 0.0
    binary: bool = False
    levels: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, cells: Cells) -> ColumnSums:
        """Of the cells of a column."""
        missing = int(cells.missing.sum())
        if cells.kind == "text":
            found = Counter(cells.texts[~cells.missing].tolist())
            levels = tuple(sorted(found.items()))
            return cls(cells.name, cells.kind, len(cells.codes), missing, levels=levels)
        return cls.of_numbers(cells.name, cells.numbers, cells.kind)

    @classmethod
    def of_numbers(cls, name: str, numbers: _Array, kind: Kind = "number") -> ColumnSums:
        """Of numbers ``[N]``, NaN where one is missing."""
        known = numbers[~np.isnan(numbers)]
        missing = len(numbers) - len(known)
        # The mean of equal numbers may differ from them in the last digit: it is by looking that a
        # column is seen to be constant.
        if not len(known) or (known == known[0]).all():
            mean, squares = (float(known[0]) if len(known) else 0.0), 0.0
        else:
            mean = float(known.mean())
            squares = float(np.square(known - mean).sum())
        binary = bool(np.isin(known, (0.0, 1.0)).all())
        return cls(name, kind, len(numbers), missing, mean, squares, binary)

    @classmethod
    def merged(cls, parts: Sequence[ColumnSums]) -> ColumnSums:
        """Of the rows of all parts together.

        :raises InputError: where they are of different kinds.
        """
        told = [part for part in parts if part.rows > part.missing] or list(parts)
        first = told[0]
        other = next((part for part in told if part.kind != first.kind), None)
        if other is not None:
            raise InputError(
                f"the column {first.name!r} is of the kind {first.kind} in one place and "
                f"{other.kind} in another; expected one kind (categories=[{first.name!r}] makes it "
                "text in every place)"
            )
        counts = np.array([part.rows - part.missing for part in told], dtype=float)
        away = np.array([part.mean for part in told]) - first.mean
        mean = first.mean + float(counts @ away) / max(1.0, float(counts.sum()))
        squares = sum(part.squares for part in told)
        squares += float(counts @ np.square(away - (mean - first.mean)))
        levels: Counter[str] = Counter()
        for part in told:
            levels.update(dict(part.levels))
        return cls(
            first.name,
            first.kind,
            sum(part.rows for part in parts),
            sum(part.missing for part in parts),
            mean,
            squares,
            all(part.binary for part in told),
            tuple(sorted(levels.items())),
        )

    @property
    def variance(self) -> float:
        """Of the values that are known, with their number as the divisor."""
        return self.squares / max(1, self.rows - self.missing)

    def to_plain(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> ColumnSums:
        """Back from :meth:`to_plain`.

        :raises ValueError: for anything else; or a TypeError or KeyError.
        """
        out = cls(
            str(plain["name"]),
            plain["kind"],
            int(plain["rows"]),
            int(plain["missing"]),
            float(plain["mean"]),
            float(plain["squares"]),
            bool(plain["binary"]),
            tuple((str(text), int(number)) for text, number in plain["levels"]),
        )
        known = out.kind in ("number", "truth", "date", "text")
        least = min(out.squares, out.missing, out.rows - out.missing)
        counted = all(number > 0 for _, number in out.levels)
        if not (known and counted and least >= 0 and np.isfinite([out.mean, out.squares]).all()):
            raise ValueError(f"a column is {str(plain)[:200]}")
        return out
