"""The tasks: T named data sets of one input shape and one set of classes or outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_vmtl.data.arrays import (
    ArrayLike,
    encode_labels,
    read_features,
    read_targets,
    real_values,
)
from pyro_vmtl.data.batch import Batch, Views, padded
from pyro_vmtl.data.columns import TableColumns
from pyro_vmtl.errors import InputError

__all__ = ["TaskSet"]

# Tables and exports of a run use these beside the names of the tasks.
_TAKEN_NAMES = ("base", "mean", "all tasks")


@dataclass(frozen=True, eq=False, repr=False)
class TaskSet:
    """T related tasks in flat storage: the samples of all tasks one after the other.

    Tasks may differ in size, lack some of the classes, and lack labels; they share the shape of an
    input and the classes or outputs. The values are checked once, here, so that whatever follows
    can rely on them. The tensors are not to be changed in place.

    Example::

        tasks = TaskSet.from_arrays({"left eye": (x1, ["sick", "well"]), "right eye": (x2, y2)})
        train, validation, test = split_tasks(tasks)

    :param names: the names of the T tasks, unique.
    :param x: inputs, ``[N, *input_shape]`` float32, finite.
    :param y: classification: ``[N]`` int64, the class of every sample, -1 where the label is
        missing. Regression: ``[N]`` or ``[N, K]`` float32, NaN where missing; of several outputs
        each is used where it is known.
    :param task: ``[N]`` int64, the task of every sample.
    :param classes: the names of the C classes, None for regression.
    :param outputs: the names of the K outputs of regression, by default ``y0``, ``y1``, ... or,
        for targets ``[N]``, ``y``.
    :param truth: ``[T]`` int64, the true cluster of every task where it is known.
    :param sources: ``[N]`` int64, the image or subject that a sample was made from, where several
        samples may come from one.
    :param columns: of the table that the samples are rows of, where they come from one.
    :raises InputError: if any of this does not hold.
    """

    names: tuple[str, ...]
    x: Tensor
    y: Tensor
    task: Tensor
    classes: tuple[str, ...] | None
    outputs: tuple[str, ...] | None = None
    truth: Tensor | None = None
    sources: Tensor | None = None
    columns: TableColumns | None = None

    def __post_init__(self) -> None:
        _check_names(self.names)
        if self.classes is None and self.y.ndim == 2 and self.y.shape[1] == 1:
            object.__setattr__(self, "y", self.y[:, 0])  # one output is a target, not a vector
        if self.classes is None and self.outputs is None and self.y.ndim in (1, 2):
            default = ("y",) if self.y.ndim == 1 else tuple(f"y{k}" for k in range(self.y.shape[1]))
            object.__setattr__(self, "outputs", default)
        _check_shapes(self)
        if not self.x.is_meta:  # a meta tensor has a shape and a device but no values
            _check_values(self)

    @classmethod
    def from_arrays(
        cls,
        tasks: Mapping[str, tuple[ArrayLike, ArrayLike | None]],
        classes: Sequence[object] | None = None,
        regression: bool | None = None,
        outputs: Sequence[str] | None = None,
        truth: ArrayLike | None = None,
        sources: Mapping[str, ArrayLike] | None = None,
    ) -> TaskSet:
        """A task set from one pair (inputs, targets) per task.

        Inputs are ``[n, *input_shape]``, targets ``[n]`` or, for regression, ``[n, K]``: NumPy
        arrays, PyTorch tensors, pandas objects or lists. Class labels are text, truth values or
        integers. A target is missing where it is None, NaN or, for integer labels, -1; None in
        place of all targets means that the task has none.

        :param classes: the names of the classes, in order. Labels are matched by value; integer
            labels of classes that are not integers are positions. By default the distinct labels,
            sorted.
        :param regression: whether the targets are real numbers. By default they are if
            ``classes`` is None and the targets of some task are floats.
        :param outputs: names for the outputs of regression.
        :param truth: ``[T]``, the known cluster of every task.
        :param sources: for every task ``[n]`` integers, see :class:`TaskSet`.
        :raises InputError: for anything that cannot be used, naming the task and the sample.
        """
        if not isinstance(tasks, Mapping):
            raise InputError(
                f"the tasks are given as {type(tasks).__name__}; expected a dictionary "
                "{name: (inputs, targets)}."
            )
        if len(tasks) == 0:
            raise InputError("the task set is empty; expected at least one task.")
        if regression and classes is not None:
            raise InputError(
                "regression=True was given together with classes; expected one of them."
            )
        names = tuple(str(name) for name in tasks)
        _check_names(names)
        for name, pair in zip(names, tasks.values(), strict=True):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise InputError(
                    f"task {name!r} is given as {type(pair).__name__}; "
                    "expected a pair (inputs, targets)."
                )
        pairs = dict(zip(names, tasks.values(), strict=True))
        inputs = {name: read_features(name, x) for name, (x, _) in pairs.items()}
        x, task = _concatenate_inputs(inputs)
        targets = {name: read_targets(name, y, len(inputs[name])) for name, (_, y) in pairs.items()}
        if regression is None:
            regression = classes is None and any(t.kind == "real" for t in targets.values())

        class_names: tuple[str, ...] | None = None
        if regression:
            reals = {name: real_values(name, found) for name, found in targets.items()}
            unknown = {name for name, found in targets.items() if found.kind == "unknown"}
            y = _concatenate_targets(reals, unknown)
        else:
            class_names, labels = encode_labels(targets, classes)
            y = torch.from_numpy(np.concatenate([labels[name] for name in names]))
        return cls(
            names=names,
            x=x,
            y=y,
            task=task,
            classes=class_names,
            outputs=None if outputs is None else tuple(str(output) for output in outputs),
            truth=None if truth is None else _integers("truth", truth),
            sources=None if sources is None else _concatenate_sources(sources, inputs),
        )

    # What it holds

    @property
    def num_tasks(self) -> int:
        """T."""
        return len(self.names)

    @property
    def num_classes(self) -> int:
        """C, 0 for regression."""
        return 0 if self.classes is None else len(self.classes)

    @property
    def num_outputs(self) -> int:
        """Rows of a task's weights: the classes, or the outputs of regression (1 for ``[N]``)."""
        if self.is_classification:
            return self.num_classes
        return 1 if self.y.ndim == 1 else self.y.shape[1]

    @property
    def is_classification(self) -> bool:
        """Whether the targets are class labels."""
        return self.classes is not None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.x.shape[1:])

    @cached_property
    def labelled(self) -> Tensor:
        """``[N]`` bool: which samples have a label; of several outputs, one at least."""
        return self.known.any(-1)

    @cached_property
    def known(self) -> Tensor:
        """``[N, K]`` bool: which outputs of a sample are known; of classes K is 1."""
        known = self.y >= 0 if self.is_classification else ~self.y.isnan()
        return known if known.ndim == 2 else known.unsqueeze(-1)

    @cached_property
    def sizes(self) -> Tensor:
        """``[T]`` int64: the labelled samples of every task."""
        return torch.bincount(self.task[self.labelled], minlength=self.num_tasks)

    @cached_property
    def class_counts(self) -> Tensor:
        """``[T, C]`` int64: labelled samples of every class in every task; C is 0 in regression."""
        if not self.is_classification:
            return torch.zeros(self.num_tasks, 0, dtype=torch.int64, device=self.y.device)
        cell = self.task[self.labelled] * self.num_classes + self.y[self.labelled]
        counts = torch.bincount(cell, minlength=self.num_tasks * self.num_classes)
        return counts.reshape(self.num_tasks, self.num_classes)

    def __len__(self) -> int:
        """N, with or without a label."""
        return self.x.shape[0]

    def __repr__(self) -> str:
        targets = (
            f"{self.num_classes} classes ({_shortened(self.classes)})"
            if self.classes is not None
            else f"regression of {_shortened(self.outputs or ())}"
        )
        gap = "" if self.x.is_meta else f" ({int(self.labelled.sum())} labelled)"
        return (
            f"TaskSet({self.num_tasks} tasks ({_shortened(self.names)}), "
            f"{len(self)} samples{gap}, inputs {list(self.input_shape)}, {targets})"
        )

    def describe(self) -> pd.DataFrame:
        """A row per task: samples, labelled samples, and samples per class or mean and sd.

        The standard deviation is that of the sample (divisor n - 1), NaN for a single one.
        """
        samples = torch.bincount(self.task, minlength=self.num_tasks)
        columns = {"samples": samples.cpu().numpy(), "labelled": self.sizes.cpu().numpy()}
        index = pd.Index(self.names, name="task")
        table = pd.DataFrame(columns, index=index)
        if self.classes is not None:
            counts = pd.DataFrame(
                self.class_counts.cpu().numpy(), index=index, columns=list(self.classes)
            )
            return pd.concat([table, counts], axis=1)
        outputs = [str(output) for output in self.outputs or ()]
        rows = self.y[self.labelled].reshape(-1, len(outputs)).double().cpu().numpy()
        grouped = pd.DataFrame(rows, columns=outputs).groupby(
            self.task[self.labelled].cpu().numpy()
        )
        every = range(self.num_tasks)
        for output in outputs:
            table[f"mean {output}"] = grouped[output].mean().reindex(every).to_numpy()
            table[f"sd {output}"] = grouped[output].std().reindex(every).to_numpy()
        return table

    # Parts of it

    def indices(self, task: int | str) -> Tensor:
        """The rows of one task in the flat storage, in their order.

        :raises InputError: for a task that the set does not have.
        """
        return (self.task == self._position(task)).nonzero().squeeze(-1)

    def subset(self, index: Tensor) -> TaskSet:
        """The samples at ``index`` (int64 rows, or bool ``[N]``); every task stays, even if empty.

        :raises InputError: for rows that do not exist.
        """
        index = torch.as_tensor(index, device=self.x.device)
        if index.dtype == torch.bool:
            if index.shape != self.task.shape:
                raise InputError(
                    f"the index is a mask of shape {list(index.shape)}; expected [{len(self)}]."
                )
            index = index.nonzero().squeeze(-1)
        elif index.numel() == 0:
            index = index.reshape(-1).long()  # an empty list arrives as floats
        elif index.dtype.is_floating_point or index.ndim != 1:
            raise InputError(
                f"the index has shape {list(index.shape)} and dtype {index.dtype}; "
                "expected one dimension of integers or truth values."
            )
        elif not index.is_meta and not bool(((index >= 0) & (index < len(self))).all()):
            raise InputError(
                f"the index holds rows from {int(index.min())} to {int(index.max())}; "
                f"expected 0 to {len(self) - 1}."
            )
        return replace(
            self,
            x=self.x[index],
            y=self.y[index],
            task=self.task[index],
            sources=None if self.sources is None else self.sources[index],
        )

    def select(self, names: Sequence[str]) -> TaskSet:
        """Only the tasks of these names, in the order given, with the same classes.

        :raises InputError: for names that the set does not have, or no name.
        """
        chosen = [self._position(name) for name in ([names] if isinstance(names, str) else names)]
        selected_names = tuple(self.names[position] for position in chosen)
        _check_names(selected_names)
        rows = torch.cat([self.indices(position) for position in chosen])
        renumbered = torch.full((self.num_tasks,), -1, dtype=torch.int64, device=self.x.device)
        kept = torch.tensor(chosen, device=self.x.device)
        renumbered[kept] = torch.arange(len(chosen), device=self.x.device)
        return replace(
            self,
            names=selected_names,
            x=self.x[rows],
            y=self.y[rows],
            task=renumbered[self.task[rows]],
            truth=None if self.truth is None else self.truth[kept.to(self.truth.device)],
            sources=None if self.sources is None else self.sources[rows],
        )

    def to(self, device: torch.device | str) -> TaskSet:
        """The same tasks with their tensors on ``device``."""
        return replace(
            self,
            x=self.x.to(device),
            y=self.y.to(device),
            task=self.task.to(device),
            truth=None if self.truth is None else self.truth.to(device),
            sources=None if self.sources is None else self.sources.to(device),
        )

    def gather(
        self,
        index: Tensor,
        scale: Tensor | None = None,
        device: torch.device | str | None = None,
        views: Views | None = None,
    ) -> Batch:
        """The batch of the samples at ``index``, read from the flat storage in one go.

        :param index: ``[T, B]`` int64 rows, -1 for padding, row t from task t. Padding repeats the
            sample in the first column; a task without any sample shows the first of the whole set.
        :param scale: ``[T, B]`` float32, by default 1.
        :param device: where the batch goes, by default where the set is.
        :param views: of all samples of the set, where they are to go along.
        """
        index = index.to(self.x.device)
        rows = torch.where(index >= 0, index, index[:, :1].clamp(min=0))
        mask = (index >= 0) & self.labelled[rows]
        x = self.x.index_select(0, rows.flatten()).reshape(*rows.shape, *self.input_shape)
        known = self.known[rows] & (index >= 0).unsqueeze(-1)  # [T, B, K]
        y = self.y[rows]
        y = torch.where(known.view_as(y), y, torch.zeros_like(y))
        if scale is None:
            scale = torch.ones(index.shape, dtype=torch.float32)
        seen = None if views is None else views.gather(index)
        batch = Batch(
            x=x,
            y=y,
            mask=mask,
            scale=scale.to(index.device),
            index=index,
            views=seen,
            known=known if self._is_partial else None,
        )
        return batch if device is None else batch.to(device)

    def dense(self, device: torch.device | str | None = None) -> Batch:
        """All samples of all tasks as one padded batch, B being the size of the largest task.

        Samples without a label are ``present`` but masked. ``scale`` is 1. Within a task the
        samples keep their order.
        """
        index = torch.from_numpy(padded(self.task.cpu().numpy(), self.num_tasks))
        return self.gather(index, device=device)

    def check_training(self) -> None:
        """Make sure that something can be learned from every task, and about every class.

        :raises InputError: if a task has no labelled sample, or if a class has none in any task.
        """
        if self.num_tasks < 1:
            raise InputError("the task set is empty; expected at least one task.")
        empty = (self.sizes == 0).nonzero().squeeze(-1).tolist()
        if empty:
            raise InputError(
                f"task {self.names[empty[0]]!r} has no labelled training sample; "
                "expected at least one in every task."
            )
        if self.classes is None:
            never = (~self.known.any(0)).nonzero().squeeze(-1).tolist()
            if never:
                raise InputError(
                    f"the output {(self.outputs or ())[never[0]]!r} is known in no training "
                    "sample; expected one at least."
                )
            return
        if self.num_classes < 2:
            raise InputError(f"there is a single class, {self.classes}; expected at least two.")
        unseen = (self.class_counts.sum(0) == 0).nonzero().squeeze(-1).tolist()
        if unseen:
            raise InputError(
                f"class {self.classes[unseen[0]]!r} has no training sample in any of the "
                f"{self.num_tasks} tasks; expected at least one."
            )

    @cached_property
    def _is_partial(self) -> bool:
        """Whether some sample has some of its outputs, and not all."""
        return not self.y.is_meta and bool((self.labelled & ~self.known.all(-1)).any())

    def _position(self, task: int | str) -> int:
        if isinstance(task, str):
            if task not in self.names:
                raise InputError(f"there is no task {task!r}; expected one of {self.names}.")
            return self.names.index(task)
        if not 0 <= task < self.num_tasks:
            raise InputError(f"there is no task number {task}; expected 0 to {self.num_tasks - 1}.")
        return int(task)


def _check_names(names: tuple[str, ...]) -> None:
    if len(names) == 0:
        raise InputError("the task set is empty; expected at least one task.")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"a task is named {name!r}; expected text that is not empty.")
        _check_text("task", name)
        if name in _TAKEN_NAMES:
            raise InputError(
                f"a task is named {name!r}, which the tables of a run use for something else; "
                "expected another name."
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two tasks are named {twice!r}; expected each name once.")


def _check_text(what: str, name: object) -> None:
    if "\0" in str(name):
        raise InputError(
            f"a {what} is named {name!r}, which files cannot hold; expected a name without NUL."
        )


def _check_shapes(tasks: TaskSet) -> None:
    x, y, task = tasks.x, tasks.y, tasks.task
    if x.dtype != torch.float32 or x.ndim < 2 or 0 in x.shape[1:]:
        raise InputError(
            f"the inputs have shape {list(x.shape)} and dtype {x.dtype}; "
            "expected [samples, features] or more dimensions, of float32."
        )
    if tasks.classes is not None:
        if y.dtype != torch.int64 or y.ndim != 1:
            raise InputError(
                f"the labels have shape {list(y.shape)} and dtype {y.dtype}; "
                "expected [samples] of int64."
            )
        if len(tasks.classes) < 2 or len(set(tasks.classes)) < len(tasks.classes):
            raise InputError(
                f"the classes are {tasks.classes}; expected at least two, each name once."
            )
        for name in tasks.classes:
            _check_text("class", name)
        if tasks.outputs is not None:
            raise InputError(
                f"outputs {tasks.outputs} are named together with classes; expected one of them."
            )
    else:
        if y.dtype != torch.float32 or y.ndim not in (1, 2) or 0 in y.shape[1:]:
            raise InputError(
                f"the targets have shape {list(y.shape)} and dtype {y.dtype}; "
                "expected [samples] or [samples, outputs] of float32."
            )
        outputs = tasks.outputs or ()
        for name in outputs:
            _check_text("output", name)
        if len(outputs) != tasks.num_outputs or len(set(outputs)) < len(outputs):
            raise InputError(
                f"the outputs are named {outputs}; "
                f"expected {tasks.num_outputs} distinct names, as many as the targets have."
            )
    per_sample = {"targets": y, "task numbers": task}
    if tasks.sources is not None:
        per_sample["sources"] = tasks.sources
    for what, tensor in per_sample.items():
        if len(tensor) != len(x):
            raise InputError(
                f"there are {len(x)} inputs but {len(tensor)} {what}; expected as many."
            )
    integers = {"task numbers": task, "sources": tasks.sources, "true clusters": tasks.truth}
    for what, numbers in integers.items():
        if numbers is not None and (numbers.dtype != torch.int64 or numbers.ndim != 1):
            raise InputError(
                f"the {what} have shape {list(numbers.shape)} and dtype {numbers.dtype}; "
                "expected one dimension of int64."
            )
    if tasks.columns is not None:
        _check_columns(tasks, tasks.columns)
    if tasks.truth is not None and len(tasks.truth) != tasks.num_tasks:
        raise InputError(
            f"the true clusters are {len(tasks.truth)}; expected {tasks.num_tasks}, one per task."
        )
    if y.device != x.device or task.device != x.device:
        raise InputError(
            f"inputs, targets and task numbers are on {x.device}, {y.device} and {task.device}; "
            "expected one device."
        )


def _check_columns(tasks: TaskSet, columns: TableColumns) -> None:
    if tasks.input_shape != (len(columns.inputs),):
        raise InputError(
            f"the inputs have shape {list(tasks.input_shape)} and the columns of the table become "
            f"{len(columns.inputs)} inputs; expected as many (columns=None where inputs were made "
            "anew)."
        )
    count = 1 if tasks.is_classification else tasks.num_outputs
    if len(columns.targets) != count:
        raise InputError(
            f"the targets of the table are the columns {list(columns.targets)}; expected {count}, "
            "as many as the task set has."
        )


def _check_values(tasks: TaskSet) -> None:
    x, y, task = tasks.x, tasks.y, tasks.task
    wrong = (task < 0) | (task >= tasks.num_tasks)
    if bool(wrong.any()):
        raise InputError(
            f"a sample belongs to task number {int(task[wrong][0])}; "
            f"expected 0 to {tasks.num_tasks - 1}."
        )
    finite = x.isfinite()
    if not bool(finite.all()):
        row, *feature = (~finite).nonzero()[0].tolist()
        raise InputError(
            f"feature {feature[0] if len(feature) == 1 else tuple(feature)} of "
            f"{_sample(tasks, row)} is {float(x[(row, *feature)])} in float32; "
            "expected a finite number."
        )
    if tasks.classes is not None:
        outside = (y < -1) | (y >= tasks.num_classes)
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            raise InputError(
                f"the label of {_sample(tasks, row)} is {int(y[row])}; "
                f"expected 0 to {tasks.num_classes - 1}, or -1 where it is missing."
            )
    elif bool(y.isinf().any()):
        row = int(y.isinf().nonzero()[0, 0])
        raise InputError(
            f"the target of {_sample(tasks, row)} is {y[row].tolist()} in float32; "
            "expected finite numbers, or NaN where it is missing."
        )


def _sample(tasks: TaskSet, row: int) -> str:
    # The user knows a sample by its row within the task, not by its row in the flat storage.
    position = int((tasks.task[:row] == tasks.task[row]).sum())
    return f"sample {position} in task {tasks.names[int(tasks.task[row])]!r}"


def _concatenate_inputs(
    inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]],
) -> tuple[Tensor, Tensor]:
    shaped = {name: x.shape[1:] for name, x in inputs.items() if x.ndim > 1}
    if not shaped:
        raise InputError("no task has a sample; expected at least one.")
    first, shape = next(iter(shaped.items()))
    for name, other in shaped.items():
        if other != shape:
            raise InputError(
                f"an input of task {name!r} has shape {list(other)}; "
                f"expected {list(shape)} as in task {first!r}."
            )
    sizes = [len(x) for x in inputs.values()]
    flat = np.empty((sum(sizes), *shape), dtype=np.float32)
    start = 0
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused by name later on
        for values in inputs.values():
            if len(values):
                flat[start : start + len(values)] = values
            start += len(values)
    task = np.repeat(np.arange(len(sizes)), sizes)
    return torch.from_numpy(flat), torch.from_numpy(task)


def _concatenate_targets(
    targets: Mapping[str, np.ndarray[Any, np.dtype[Any]]], unknown: set[str]
) -> Tensor:
    shaped = {name: y.shape[1:] for name, y in targets.items() if name not in unknown}
    if not shaped:  # all are missing: what shape they were given in is all that is known
        shaped = {name: y.shape[1:] for name, y in targets.items()}
    first, shape = next(iter(shaped.items()))
    for name, other in shaped.items():
        if other != shape:
            raise InputError(
                f"a target of task {name!r} has shape {list(other)}; "
                f"expected {list(shape)} as in task {first!r}."
            )
    parts = [
        y if name in shaped else np.full((len(y), *shape), np.nan) for name, y in targets.items()
    ]
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.concatenate(parts).astype(np.float32))


def _concatenate_sources(
    sources: Mapping[str, ArrayLike], inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]
) -> Tensor:
    by_name = {str(name): values for name, values in sources.items()}
    if set(by_name) != set(inputs):
        raise InputError(
            f"sources are given for the tasks {sorted(by_name)}; expected {sorted(inputs)}."
        )
    parts = {name: _integers(f"the sources of task {name!r}", by_name[name]) for name in inputs}
    for name, part in parts.items():
        if part.shape != (len(inputs[name]),):
            raise InputError(
                f"the sources of task {name!r} have shape {list(part.shape)}; "
                f"expected [{len(inputs[name])}], one per sample."
            )
    return torch.cat(list(parts.values()))


def _integers(what: str, values: ArrayLike) -> Tensor:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"{what} has the dtype {array.dtype}; expected integers.")
    return torch.from_numpy(array.astype(np.int64))


def _shortened(names: Sequence[str], limit: int = 4) -> str:
    if len(names) <= limit:
        return ", ".join(names)
    return f"{', '.join(names[: limit - 1])}, ..., {names[-1]}"
