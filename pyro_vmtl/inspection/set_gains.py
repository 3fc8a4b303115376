"""What tasks gain from each other in sets that know of nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL
from pyro_vmtl.inference.subsets import subset_densities
from pyro_vmtl.inspection.closed_form import check_closed_form

__all__ = ["MemberGain", "member_gains", "set_gains"]


class MemberGain(NamedTuple):
    """What one task of a set gains.

    :ivar of: the number of the set; ``task``: the position of the task.
    :ivar difference: of the log densities of its samples, in nats, without those that have no
        label.
    """

    of: int
    task: int
    difference: npt.NDArray[np.float64]


def member_gains(
    fitted: FittedVMTL, train: TaskSet, members: Tensor, heldout: TaskSet | None = None
) -> Iterator[MemberGain]:
    """The gain of every task of some sets over itself alone; see :func:`set_gains`.

    :param members: which tasks each set has, ``[G, T]`` bool.
    """
    vmtl, device = fitted.vmtl, fitted.vmtl.device
    batch = train.dense().to(device)
    scored = None if heldout is None else heldout.dense().to(device)
    mask = (batch if scored is None else scored).mask.cpu()
    eye = torch.eye(vmtl.num_tasks, dtype=torch.bool, device=device)
    alone = torch.cat([d.log_density for d in subset_densities(vmtl, batch, eye, scored)])
    for found in subset_densities(vmtl, batch, members.to(device), scored):
        away = (found.log_density - alone[found.task]).cpu()
        for of, task, row in zip(found.of.tolist(), found.task.tolist(), away, strict=True):
            yield MemberGain(of, task, row[mask[task]].double().numpy())


def mean_and_error(difference: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The mean of paired differences and its standard error; NaN for too few."""
    count = len(difference)
    return (
        float(difference.mean()) if count else np.nan,
        float(difference.std(ddof=1) / np.sqrt(count)) if count > 1 else np.nan,
    )


def set_gains(
    fitted: FittedVMTL,
    train: TaskSet,
    sets: Iterable[Sequence[str]],
    heldout: TaskSet | None = None,
) -> pd.DataFrame:
    """What the tasks of a set gain as one cluster, were no other task there.

    From the evidence of each task, in closed form: nothing is fitted again, and nothing of the
    partition is read. The scales of the prior are those of the fit (geometric means over its
    draws). What a set of two gains each of them is the pair gain of :func:`pyro_vmtl.influence`;
    what larger sets gain is not the average of their pairs.

    Example::

        pv.set_gains(fitted, splits.train, [("task 0", "task 3"), ("task 0", "task 1", "task 3")])

    :param fitted: a model with the pool Nested whose encoder is a function of the inputs; one that
        was trained is held fixed and needs ``heldout``.
    :param train: what it was trained on.
    :param sets: the names of the tasks of each.
    :param heldout: labelled samples of the same tasks, or None for leave-one-out.
    :return: a row for each set: ``tasks``, a tuple; ``gain``, the sum over its tasks of the mean
        difference in log density a sample, in nats; ``se``, its standard error.
    :raises InputError: for another model, other tasks, or a set that is empty or names a task
        twice.
    """
    check_closed_form("gains of sets", fitted, train, heldout, may_learn=True)
    given = [tuple(one) for one in sets]
    for one in given:
        unknown = [name for name in one if name not in fitted.names]
        if unknown:
            raise InputError(
                f"there is no task {unknown[0]!r}; expected some of {list(fitted.names)}"
            )
        if not one or len(set(one)) < len(one):
            raise InputError(f"a set is {one}; expected the names of different tasks")
    place = {name: number for number, name in enumerate(fitted.names)}
    members = torch.zeros(len(given), len(place), dtype=torch.bool)
    for number, one in enumerate(given):
        members[number, [place[name] for name in one]] = True
    gain, square = np.zeros(len(given)), np.zeros(len(given))
    for found in member_gains(fitted, train, members, heldout):
        mean, error = mean_and_error(found.difference)
        if len(found.difference):  # a task that has no sample to be scored by counts as it is
            gain[found.of] += mean
            square[found.of] += error**2
    rows: dict[str, Any] = {"tasks": given, "gain": gain, "se": np.sqrt(square)}
    return pd.DataFrame(rows)
