"""What the columns of a table are, and what its features were standardised by."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vmtl.errors import InputError

__all__ = ["TableColumns"]


@dataclass(frozen=True)
class TableColumns:
    """Which column of a table is what, and what its features were standardised by.

    A task set from a table carries it, and so does a model trained on one, so that new rows of the
    same table become samples in the same way (:func:`pyro_vmtl.read_rows`).

    :param task: the column that says the task.
    :param targets: the columns of the targets: one, or as many as a regression has outputs.
    :param features: the D columns of the inputs, in their order.
    :param mean: of each feature, in its unit: what is subtracted. None where features stay as they
        are.
    :param deviation: what each is divided by then, in its unit, above 0. None likewise.
    :raises InputError: if these do not fit each other.
    """

    task: str
    targets: tuple[str, ...]
    features: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        used = (self.task, *self.targets, *self.features)
        if not self.targets or not self.features or len(set(used)) < len(used):
            raise InputError(
                f"the columns are {self.task!r}, {list(self.targets)} and {list(self.features)}; "
                "expected a task, one target and one feature at least, each column once."
            )
        for name, values in (("mean", self.mean), ("deviation", self.deviation)):
            if (values is None) != (self.mean is None):
                raise InputError(
                    "the features have a mean or a deviation; expected both, or neither."
                )
            if values is None:
                continue
            least = 0.0 if name == "deviation" else -math.inf
            if len(values) != len(self.features) or not all(least < v < math.inf for v in values):
                raise InputError(
                    f"the {name} of the features {list(self.features)} is {list(values)}; "
                    f"expected a finite number for each{', above 0' if least == 0 else ''}."
                )

    def standardise(self, x: Tensor) -> Tensor:
        """Features as the table has them to what a model trained on it takes.

        :param x: ``[N, D]`` float32.
        :returns: the same shape, (x - mean) / deviation, or ``x`` itself where there are none.
        """
        if self.mean is None or self.deviation is None:
            return x
        # In float64: a year less its mean would otherwise lose half of its digits.
        mean, deviation = (
            torch.tensor(values, dtype=torch.float64, device=x.device)
            for values in (self.mean, self.deviation)
        )
        return ((x.double() - mean) / deviation).to(x.dtype)

    def to_plain(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_plain(cls, plain: Any) -> TableColumns:
        """Back from :meth:`to_plain`.

        :raises InputError: for anything else.
        """
        try:
            mean, deviation = (
                None if plain[key] is None else tuple(map(float, plain[key]))
                for key in ("mean", "deviation")
            )
            targets, features = (tuple(map(str, plain[key])) for key in ("targets", "features"))
            return cls(str(plain["task"]), targets, features, mean, deviation)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"the columns of a table are written as {plain!r}; expected task, targets, "
                "features, mean and deviation."
            ) from error
