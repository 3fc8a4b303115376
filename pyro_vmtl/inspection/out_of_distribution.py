"""Inputs unlike the training data: does the model know that it does not know them?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inspection.uncertainty import KINDS, Kind, sample_uncertainty

__all__ = [
    "leave_out_class",
    "leave_out_task",
    "out_of_distribution_auroc",
    "out_of_distribution_table",
]


def leave_out_class(tasks: TaskSet, name: str) -> tuple[TaskSet, TaskSet]:
    """Split off every sample of one class, for a model that is never told of it.

    :return: the samples of the other classes (and those without a label), and those of the class
        left out, without a label; both with the other classes only.
    :raises InputError: for a regression, a class that there is not, or only two classes.
    """
    if tasks.classes is None:
        raise InputError("the task set is a regression; expected classes to leave one out.")
    if name not in tasks.classes:
        raise InputError(f"there is no class {name!r}; expected one of {list(tasks.classes)}.")
    if len(tasks.classes) < 3:
        raise InputError(
            f"the classes are {tasks.classes}; expected at least three, to keep two of them."
        )
    number = tasks.classes.index(name)
    classes = tuple(other for other in tasks.classes if other != name)
    left_out = tasks.y == number
    # The classes behind the one left out move up by one.
    y = torch.where(tasks.y > number, tasks.y - 1, tasks.y)
    y = torch.where(left_out, torch.full_like(y, -1), y)
    renamed = replace(tasks, y=y, classes=classes)
    return renamed.subset(~left_out), renamed.subset(left_out)


def leave_out_task(
    tasks: TaskSet, name: str, seen_as: str | None = None
) -> tuple[TaskSet, TaskSet]:
    """Split off one task, as a domain that the model never saw.

    :param seen_as: the remaining task through which the inputs left out are to be predicted; None,
        through every one of them in turn.
    :return: the other tasks, and the inputs of the task left out as samples of those tasks, without
        a label.
    :raises InputError: for a task that there is not, or a single task.
    """
    for task in (name, seen_as):
        if task is not None and task not in tasks.names:
            raise InputError(f"there is no task {task!r}; expected one of {list(tasks.names)}.")
    kept = [task for task in tasks.names if task != name]
    if not kept or seen_as == name:
        raise InputError(f"task {name!r} is left out; expected another task to see it as.")
    inside = tasks.select(kept)
    borrowers = kept if seen_as is None else [seen_as]
    x = tasks.x[tasks.indices(name)]
    y = tasks.y[tasks.indices(name)]
    missing = torch.full_like(y, -1 if tasks.is_classification else torch.nan)
    numbers = torch.tensor([kept.index(task) for task in borrowers], device=x.device)
    outside = replace(
        inside,
        x=x.repeat(len(borrowers), *[1] * (x.dim() - 1)),
        y=missing.repeat(len(borrowers), *[1] * (y.dim() - 1)),
        task=numbers.repeat_interleave(len(x)),
        sources=None,
    )
    return inside, outside


def out_of_distribution_auroc(
    inside: Predictions, outside: Predictions, by: Kind = "epistemic"
) -> float:
    """How well uncertainty tells inputs from outside from those like the training data.

    The area under the ROC curve: the chance that a sample from outside is the less certain of a
    random pair; 0.5 is no better than a coin.

    :param inside: predictions of samples like the training data.
    :param outside: predictions of samples that are not.
    :raises InputError: if either has no sample.
    """
    scores = [sample_uncertainty(predictions, by) for predictions in (inside, outside)]
    for name, values in zip(("inside", "outside"), scores, strict=True):
        if not len(values):
            raise InputError(f"there is no sample {name}; expected some.")
    labels = np.repeat([0, 1], [len(values) for values in scores])
    return float(roc_auc_score(labels, np.concatenate(scores)))


def out_of_distribution_table(inside: Predictions, outside: Predictions) -> pd.DataFrame:
    """The AUROC by each kind of uncertainty, and its mean inside and outside.

    :return: a row per kind: ``auroc, mean_inside, mean_outside``.
    """
    return pd.DataFrame(
        {
            "auroc": [out_of_distribution_auroc(inside, outside, kind) for kind in KINDS],
            "mean_inside": [sample_uncertainty(inside, kind).mean() for kind in KINDS],
            "mean_outside": [sample_uncertainty(outside, kind).mean() for kind in KINDS],
        },
        index=pd.Index(KINDS, name="uncertainty"),
    )
