"""What the columns of a table are, and how its features become inputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from pyro_vmtl.data.cells import Notation
from pyro_vmtl.data.preparation import Feature, TablePreparation
from pyro_vmtl.errors import InputError

__all__ = ["TableColumns"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class TableColumns:
    """Which column of a table is what, and how training rows say that features become inputs.

    A task set from a table carries it, and so does a model trained on one, so that new rows of the
    same table become samples in the same way (:func:`pyro_vmtl.read_rows`).

    :param task: the columns that say the task.
    :param targets: the columns of the targets: one, or as many as a regression has outputs.
    :param features: the columns of features, and what was learned of each.
    :param inputs: the names of the D inputs that they become, in their order.
    :param notation: of numbers and gaps in text files.
    :param gaps: what becomes of missing features, ``"impute"`` or ``"refuse"``.
    :param notes: sentences on what was taken for what.
    :raises InputError: if these do not fit each other.
    """

    task: tuple[str, ...]
    targets: tuple[str, ...]
    features: tuple[Feature, ...]
    inputs: tuple[str, ...]
    notation: Notation = Notation()  # noqa: RUF009, frozen
    gaps: str = "impute"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = tuple(feature.name for feature in self.features)
        used = (*self.task, *self.targets, *names)
        if not (self.task and self.targets and names) or len(set(used)) < len(used):
            raise InputError(
                f"the columns are {list(self.task)}, {list(self.targets)} and {list(names)}; "
                "expected a task, one target and one feature at least, each column once."
            )
        known = {name for feature in self.features for name in feature.inputs}
        if not self.inputs or not set(self.inputs) <= known:
            raise InputError(
                f"the inputs are {list(self.inputs)}; expected some of {sorted(known)}, which the "
                "columns of features become."
            )

    def prepare(self, frame: pd.DataFrame, table: str = "the table") -> _Array:
        """The inputs of these rows, ``[N, D]`` float64.

        :param table: what messages call it.
        :raises InputError: for a column that is not there, or a cell that is of another kind.
        """
        preparation = TablePreparation(
            self.gaps,  # type: ignore[arg-type]
            [feature.name for feature in self.features if feature.kind == "text"],
            self.notation.decimal,
            self.notation.thousands,
            self.notation.missing,
        )
        preparation.features_, preparation.inputs_ = self.features, self.inputs
        return preparation.transform(frame, table)

    def to_plain(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Any) -> TableColumns:
        """Back from :meth:`to_plain`.

        :raises InputError: for anything else.
        """
        try:
            features = tuple(_built(Feature, feature) for feature in plain["features"])
            given = {**plain, "features": features, "notation": _built(Notation, plain["notation"])}
            return _built(cls, given)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"the columns of a table are written as {str(plain)[:200]!r}; expected task, "
                "targets, features, inputs, notation, gaps and notes."
            ) from error


def _built(kind: type[Any], plain: Any) -> Any:
    """A frozen dataclass from a dictionary, with tuples where JSON has lists."""
    names = {field.name for field in fields(kind)}
    if set(plain) != names:
        raise TypeError
    values = {}
    for field in fields(kind):
        value: Any = plain[field.name]
        value = tuple(value) if isinstance(value, list) else value
        wanted = str(field.type)
        if wanted.startswith("tuple[str") and not all(isinstance(v, str) for v in value):
            raise TypeError
        if wanted == "float":
            value = float(value)
        if wanted == "str" and not isinstance(value, str):
            raise TypeError
        values[field.name] = value
    return kind(**values)
