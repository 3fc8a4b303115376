"""Reading what a user hands in - arrays, tensors, lists, frames - into numbers with known gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike as NumpyArrayLike
from torch import Tensor

from pyro_vmtl.errors import InputError

__all__ = ["ArrayLike", "Targets", "encode_labels", "read_features", "read_targets", "real_values"]

ArrayLike: TypeAlias = NumpyArrayLike | Tensor | Sequence[Any]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Targets:
    """The targets of one task as they were found, before it is known what they are targets of.

    :param kind: ``"text"``, ``"integer"``, ``"real"``, or ``"unknown"`` where all are missing.
    :param values: ``[n]`` or ``[n, K]``; entries that are missing hold anything.
    :param missing: bool, of the shape of ``values``: None, NaN or NA.
    """

    kind: Literal["text", "integer", "real", "unknown"]
    values: _Array
    missing: _Array


def _as_array(what: str, value: Any, one_by_one: bool = False) -> _Array:
    """``value`` as an array; ``one_by_one`` keeps the type of every element of a list or frame.

    NumPy would make the text "nan" of a NaN among texts, and pandas a float of an integer that
    stands beside a gap.
    """
    own_types = one_by_one and isinstance(value, (Sequence, pd.Series, pd.DataFrame, pd.Index))
    try:
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
            value = torch.stack(list(value))
            own_types = False
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            value = value.float() if value.dtype == torch.bfloat16 else value  # NumPy has none
        array: _Array = np.array(value, dtype=object) if own_types else np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{what} cannot be read as an array; expected samples that all have one shape."
        ) from error
    return array


def read_features(task: str, x: ArrayLike) -> _Array:
    """The inputs of one task as numbers, ``[n, *input_shape]``.

    :raises InputError: if they are not numbers, or not at least two-dimensional.
    """
    what = f"the inputs of task {task!r}"
    values = _as_array(what, x)
    if values.shape == (0,):  # an empty list: a task without samples, its shape unknown
        return values.astype(np.float32)
    if values.ndim < 2:
        raise InputError(
            f"{what} have shape {list(values.shape)}; "
            "expected [samples, features] or more dimensions."
        )
    if values.dtype.kind in "OU":
        return _parsed(task, values)
    if values.dtype.kind not in "biuf":
        raise InputError(f"{what} have the dtype {values.dtype}; expected real numbers.")
    return values


def _parsed(task: str, values: _Array) -> _Array:
    """Objects and texts as float64, NaN where there is none."""
    objects = np.where(pd.isna(values), np.nan, values.astype(object))
    try:
        return objects.astype(np.float64)
    except (ValueError, TypeError, OverflowError):
        for (row, *feature), value in np.ndenumerate(objects):
            try:
                float(value)
            except (ValueError, TypeError, OverflowError):
                place = feature[0] if len(feature) == 1 else tuple(feature)
                raise InputError(
                    f"feature {place} of sample {row} in task {task!r} is {value!r}; "
                    "expected a number."
                ) from None
        raise


def read_targets(task: str, y: ArrayLike | None, num_samples: int) -> Targets:
    """The targets of one task, of whatever kind; None stands for no target at all.

    :raises InputError: if they are not ``num_samples`` numbers, rows of numbers, or labels.
    """
    what = f"the targets of task {task!r}"
    if y is None:
        nothing = np.full(num_samples, np.nan)
        return Targets("unknown", nothing, np.isnan(nothing))
    values = _as_array(what, y, one_by_one=True)
    if values.ndim not in (1, 2):
        raise InputError(
            f"{what} have shape {list(values.shape)}; expected [samples] or [samples, outputs]."
        )
    if len(values) != num_samples:
        raise InputError(
            f"task {task!r} has {num_samples} inputs but {len(values)} targets; "
            "expected one target per input."
        )
    missing = np.asarray(pd.isna(values), dtype=bool)
    if missing.all():  # also when there are none
        return Targets("unknown", np.full(values.shape, np.nan), missing)
    kind = _kind(what, values, missing)
    if kind == "text":
        texts = np.full(values.shape, "", dtype=object)
        texts[~missing] = [str(value) for value in values[~missing]]
        return Targets(kind, texts, missing)
    numbers = np.where(missing, 0, values) if values.dtype.kind == "O" else values
    if kind == "integer":
        return Targets(kind, _in_64_bits(what, numbers), missing)
    try:
        reals = numbers.astype(np.float64)
    except OverflowError as error:
        raise InputError(
            f"{what} have a number beyond all floats; expected numbers below 1e308."
        ) from error
    return Targets(kind, np.where(missing, np.nan, reals), missing)


def _in_64_bits(what: str, numbers: _Array) -> _Array:
    bounds = np.iinfo(np.int64)
    for row, value in enumerate(numbers.flat if numbers.dtype.kind in "Ou" else ()):
        if not bounds.min <= int(value) <= bounds.max:
            raise InputError(
                f"{what} have an integer beyond 64 bits at position {row}; expected a smaller "
                "one, or floats for a regression."
            )
    return numbers.astype(np.int64)


def _kind(what: str, values: _Array, missing: _Array) -> Literal["text", "integer", "real"]:
    letter = values.dtype.kind
    if letter in "bUT":  # truth values are names of classes, not the numbers 0 and 1
        return "text"
    if letter in "iu":
        return "integer"
    if letter == "f":
        return "real"
    if letter == "O":
        present = values[~missing]
        if all(isinstance(value, (str, bool, np.bool_)) for value in present):
            return "text"
        if not any(isinstance(value, (bool, np.bool_)) for value in present):
            if all(isinstance(value, Integral) for value in present):
                return "integer"
            if all(isinstance(value, Real) for value in present):
                return "real"
        types = sorted({type(value).__name__ for value in present})
        raise InputError(
            f"{what} are of the types {', '.join(types)}; expected all text or all numbers."
        )
    raise InputError(f"{what} have the dtype {values.dtype}; expected text or numbers.")


def real_values(task: str, targets: Targets) -> _Array:
    """Targets of regression as float64, NaN where missing.

    :raises InputError: if they are text.
    """
    if targets.kind == "text":
        row = np.argwhere(~targets.missing)[0]
        raise InputError(
            f"the target of sample {row[0]} in task {task!r} is "
            f"{targets.values[tuple(row)]!r}; expected a number for regression."
        )
    return np.where(targets.missing, np.nan, targets.values.astype(np.float64))


def encode_labels(
    targets: Mapping[str, Targets], classes: Sequence[object] | None
) -> tuple[tuple[str, ...], dict[str, _Array]]:
    """Class labels of all tasks as positions among the classes, -1 where missing.

    Labels are matched with the classes by value. Only where the labels are integers and the names
    of the classes are not (labels 0, 1 for classes "cat", "dog") are they taken as positions.
    An integer -1 is a missing label, unless -1 is among the given classes.

    :param classes: the classes in their order; None to infer them from the labels, sorted.
    :returns: the names of the classes, and ``[n]`` int64 for every task.
    :raises InputError: for labels outside the classes, or fewer than two classes.
    """
    for task, found in targets.items():
        if found.values.ndim != 1:
            raise InputError(
                f"the labels of task {task!r} have shape {list(found.values.shape)}; "
                "expected [samples] for classification."
            )
    labels = {task: _whole_numbers(task, found) for task, found in targets.items()}
    names = _infer_classes(labels) if classes is None else tuple(str(c) for c in classes)
    if len(set(names)) < len(names):
        raise InputError(f"the classes {_listed(names)} are not distinct; expected each name once.")
    if len(names) < 2:
        raise InputError(
            f"there is a single class, {_listed(names)}; expected at least two classes "
            "(the integer -1 marks a missing label)."
            if names
            else "there are no classes; expected at least two."
        )
    return names, {task: _positions(task, found, names) for task, found in labels.items()}


def _whole_numbers(task: str, targets: Targets) -> Targets:
    # A frame holds integer labels with gaps as floats: take them for what they were.
    if targets.kind != "real":
        return targets
    rounded = np.where(targets.missing, 0, targets.values)
    broken = ~np.isfinite(rounded) | (rounded != np.floor(rounded))
    if broken.any():
        row = int(np.argmax(broken))
        raise InputError(
            f"the label of sample {row} in task {task!r} is {rounded[row]}; "
            "expected text or a whole number for classification."
        )
    return Targets("integer", rounded.astype(np.int64), targets.missing)


def _infer_classes(labels: Mapping[str, Targets]) -> tuple[str, ...]:
    first = {
        kind: next((task for task, found in labels.items() if found.kind == kind), None)
        for kind in ("text", "integer")
    }
    if first["text"] is not None and first["integer"] is not None:
        raise InputError(
            f"the labels of task {first['text']!r} are text and those of task "
            f"{first['integer']!r} are integers; expected one kind, or the classes named."
        )
    present = [found.values[~found.missing] for found in labels.values() if found.kind != "unknown"]
    if not present:
        raise InputError(
            "no task has a label, so the classes are unknown; expected labels or the classes named."
        )
    if first["text"] is not None:
        return tuple(sorted(set(np.concatenate(present).tolist())))
    values = np.unique(np.concatenate(present))
    if values[0] < -1:
        raise InputError(
            f"the label {values[0]} is negative; expected integers from 0 (-1 where missing), "
            "or the classes named."
        )
    return tuple(str(value) for value in values if value >= 0)


def _positions(task: str, targets: Targets, names: tuple[str, ...]) -> _Array:
    if targets.kind == "unknown":
        return np.full(len(targets.values), -1, dtype=np.int64)
    missing = targets.missing
    index = pd.Index(names, dtype=object)
    expected = f"expected one of {_listed(names)}"
    if targets.kind == "integer":
        if _are_integers(names):
            index = pd.Index([int(name) for name in names])
        else:
            index = pd.RangeIndex(len(names))
            expected = f"expected 0 to {len(names) - 1}, the position of one of {_listed(names)}"
        if -1 not in index:
            missing = missing | (targets.values == -1)
    positions = np.asarray(index.get_indexer(targets.values), dtype=np.int64)
    unknown = (positions < 0) & ~missing
    if unknown.any():
        row = int(np.argmax(unknown))
        label = targets.values[row]
        raise InputError(
            f"the label of sample {row} in task {task!r} is "
            f"{label if targets.kind == 'integer' else repr(label)}; {expected}."
        )
    return np.where(missing, -1, positions)


def _are_integers(names: tuple[str, ...]) -> bool:
    return all(name.removeprefix("-").isdecimal() and str(int(name)) == name for name in names)


def _listed(names: Sequence[str], limit: int = 10) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > limit else shown
