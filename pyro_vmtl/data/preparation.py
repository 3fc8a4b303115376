"""From the columns of a table to the inputs of a model: numbers, categories, dates and gaps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from pyro_vmtl.data.cells import Cells, Kind, Notation, read_cells, row_name
from pyro_vmtl.data.sums import ColumnSums
from pyro_vmtl.errors import InputError

__all__ = ["Feature", "Gaps", "TablePreparation", "prepared"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

Gaps = Literal["impute", "refuse"]
"""What becomes of missing features."""

_IDENTIFIES = 0.5  # share of distinct texts above which a column is a name of its row
_FEW = 20  # distinct texts that are too few for that


@dataclass(frozen=True)
class Feature:
    """A column of features, and what training rows have shown of it.

    :param name: of the column.
    :param kind: of its values.
    :param mean: of numbers, truth values and dates: what is subtracted.
    :param deviation: what they are divided by then, above 0; 0 where they do not vary.
    :param levels: of text, those that two training rows or more have; of two levels both.
    :param shares: of text, the share of the rows that have each level.
    :param gaps: the share of the rows in which it is missing; 0 where it is one alone.
    """

    name: str
    kind: Kind
    mean: float = 0.0
    deviation: float = 0.0
    levels: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    gaps: float = 0.0

    @classmethod
    def learn(cls, sums: ColumnSums) -> Feature:
        """What there is to be known of a column, from sums over the training rows."""
        rows = max(1, sums.rows)
        gaps = sums.missing / rows if sums.missing > 1 else 0.0
        if sums.kind == "text":
            least = 1 if len(sums.levels) == 2 else 2
            kept = sorted(level for level in sums.levels if level[1] >= least)
            levels, shares = tuple(text for text, _ in kept), tuple(n / rows for _, n in kept)
            return cls(sums.name, sums.kind, levels=levels, shares=shares, gaps=gaps)
        deviation = 0.5 if sums.binary and sums.variance else math.sqrt(sums.variance)
        return cls(sums.name, sums.kind, sums.mean, deviation, gaps=gaps)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that it becomes."""
        if self.kind != "text":
            names = [self.name] if self.deviation > 0 else []
        elif len(self.levels) == 2 and not self.gaps and sum(self.shares) > 1 - 1e-9:
            names = [f"{self.name}={self.levels[1]}"]  # it says what the other would
        elif len(self.levels) + (self.gaps > 0) > 1:
            names = [f"{self.name}={level}" for level in self.levels]
        else:
            names = []
        return (*names, *([f"{self.name} is missing"] if 0 < self.gaps < 1 else []))

    def transform(self, cells: Cells) -> dict[str, _Array]:
        """The inputs, ``[N]`` each, by their names; 0 where nothing is known."""
        values: dict[str, _Array] = {}
        for name in self.inputs:
            if name == f"{self.name} is missing":
                values[name] = (cells.missing - self.gaps) / 0.5
            elif self.kind == "text":
                place = self.levels.index(name.removeprefix(f"{self.name}="))
                has = (cells.texts == self.levels[place]) - self.shares[place]
                values[name] = np.where(np.isin(cells.texts, self.levels), has / 0.5, 0.0)
            else:
                centred = (cells.numbers - self.mean) / self.deviation
                values[name] = np.where(cells.missing, 0.0, centred)
        return values


def prepared(
    features: Iterable[Feature], inputs: Sequence[str], columns: Iterable[Cells]
) -> _Array:
    """The inputs of these names, ``[N, D]`` float64."""
    values: dict[str, _Array] = {}
    for feature, cells in zip(features, columns, strict=True):
        values |= feature.transform(cells)
    return np.column_stack([values[name] for name in inputs])


class TablePreparation(TransformerMixin, BaseEstimator):
    """Columns of a table as inputs of a model: a scikit-learn transformer, fitted on training rows.

    Numbers, and dates in days, are standardised in float64. Truth values and numbers that are 0 and
    1 are centred and divided by 0.5, so that the effect of one is that of two standard deviations
    of another (Gelman, Statistics in Medicine 2008), however rare it is. Text becomes an input for
    each level that two rows have, or one in all for two levels; a level that was not seen says
    nothing. A missing value becomes 0, the mean, and an input says that it is missing. Columns that
    do not vary, that repeat another, and text that names its row are left out (:attr:`notes_`).

    :param gaps: ``"impute"`` or ``"refuse"``, for missing features.
    :param categories: columns that are text whatever they look like.
    :param decimal: of text, and ``thousands`` and ``missing``: see
        :class:`pyro_vmtl.data.cells.Notation`.

    :ivar features_: what was learned of each column, :class:`Feature`.
    :ivar inputs_: the names of the D inputs.
    :ivar notes_: sentences on what was left out, and why, and on what is missing.
    """

    def __init__(
        self,
        gaps: Gaps = "impute",
        categories: Sequence[str] = (),
        decimal: str = ".",
        thousands: str | None = None,
        missing: Sequence[str] = (),
    ) -> None:
        self.gaps = gaps
        self.categories = categories
        self.decimal = decimal
        self.thousands = thousands
        self.missing = missing

    def fit(self, X: pd.DataFrame, y: object = None, table: str = "the table") -> TablePreparation:
        """Learn means, deviations and levels.

        :param X: training rows, the columns of features alone.
        :param y: is not looked at.
        :param table: what messages call the table.
        :raises InputError: for a cell or a column that will not do, and which.
        """
        if self.gaps not in ("impute", "refuse"):
            raise InputError(f"gaps is {self.gaps!r}; expected 'impute' or 'refuse'.")
        columns = self.cells(X, table)
        features, notes = [], []
        for cells in columns:
            feature = Feature.learn(ColumnSums.of(cells))
            distinct, known = len(np.unique(cells.codes[cells.codes >= 0])), (~cells.missing).sum()
            if cells.kind == "text" and distinct > max(_FEW, _IDENTIFIES * known):
                notes.append(
                    f"The column {cells.name!r} has {distinct} distinct texts in {known} rows, as "
                    "a name of the row has, and is left out."
                )
                continue
            if not feature.inputs:
                notes.append(f"The column {cells.name!r} does not vary, and is left out.")
                continue
            features.append(feature)
        kept = {feature.name for feature in features}
        columns = [cells for cells in columns if cells.name in kept]
        names = [name for feature in features for name in feature.inputs]
        twice = [name for name, number in Counter(names).items() if number > 1]
        if twice:
            raise InputError(
                f"{table} has two columns that become an input {twice[0]!r}; expected another name "
                "for one of them, or one of them left out (leave_out=[...])."
            )
        inputs: list[str] = []
        seen: dict[bytes, str] = {}
        values = prepared(features, names, columns) if names else np.empty((len(X), 0))
        for name, value in zip(names, values.T, strict=True):
            twin = seen.setdefault(np.ascontiguousarray(value).tobytes(), name)
            if twin == name:
                inputs.append(name)
            else:
                notes.append(f"The input {name!r} is the same as {twin!r}, and is left out.")
        self.features_ = tuple(f for f in features if set(f.inputs) & set(inputs))
        self.inputs_ = tuple(inputs)
        gaps = [(c.name, int(c.missing.sum())) for c in columns if c.missing.any()]
        if gaps:
            shown = ", ".join(f"{count} of {name!r}" for name, count in gaps[:12])
            more = f", and some of {len(gaps) - 12} more columns" if len(gaps) > 12 else ""
            notes.append(
                f"Values are missing in {len(X)} training rows: {shown}{more}. Inputs are then at "
                "their mean, and one more says so where a column lacks two values or more."
            )
        self.notes_ = tuple(notes)
        self.n_features_in_ = X.shape[1]
        if not inputs:
            raise InputError(
                f"{table} has no column of features that varies in the training rows; expected one "
                "at least."
            )
        return self

    def transform(self, X: pd.DataFrame, table: str = "the table") -> _Array:
        """The inputs, ``[N, D]`` float64."""
        check_is_fitted(self, "inputs_")
        kinds = {feature.name: feature.kind for feature in self.features_}
        columns = self.cells(X[list(kinds)], table, kinds)
        return prepared(self.features_, self.inputs_, columns)

    def get_feature_names_out(self, input_features: object = None) -> _Array:
        """The names of the inputs."""
        check_is_fitted(self, "inputs_")
        return np.array(self.inputs_, dtype=object)

    def cells(
        self, frame: pd.DataFrame, table: str = "the table", kinds: Mapping[str, Kind] | None = None
    ) -> list[Cells]:
        """The cells of these columns, read as they are in a fit.

        :param kinds: of the columns, where they are known.
        """
        notation = Notation(self.decimal, self.thousands, tuple(self.missing))
        found = []
        for name in frame.columns:
            kind = "text" if name in self.categories else (kinds or {}).get(name)
            cells = read_cells(table, frame[name], notation, kind)
            if self.gaps == "refuse" and cells.missing.any():
                row = int(cells.missing.argmax())
                raise InputError(
                    f"{row_name(row)} of {table} has no value in the column {name!r}; expected one "
                    "where gaps is 'refuse' ('impute' takes the mean and says where)."
                )
            found.append(cells)
        return found
