"""Which task helps which: the gain of every lender for every borrower, without a new fit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from pyro_vmtl.data import Batch, TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL
from pyro_vmtl.inference.cavities import held_out_densities, settled
from pyro_vmtl.inference.following import check_small, followed
from pyro_vmtl.inspection.closed_form import check_closed_form
from pyro_vmtl.inspection.gains import WITHOUT as AGAINST_WITHOUT
from pyro_vmtl.inspection.leave_one_out import leave_one_out
from pyro_vmtl.inspection.scored import ALL_TASKS
from pyro_vmtl.inspection.set_gains import mean_and_error, member_gains
from pyro_vmtl.model import VMTL

__all__ = [
    "ALONE",
    "WITHOUT",
    "InfluenceKind",
    "influence",
    "influence_doubts",
    "influence_matrix",
]

InfluenceKind = Literal["alone", "without"]
ALONE: InfluenceKind = "alone"
WITHOUT: InfluenceKind = "without"

_LEAST = 5e-4  # nats a sample: less is written as 0

_Array = npt.NDArray[np.float64]


def influence(
    fitted: FittedVMTL,
    train: TaskSet,
    heldout: TaskSet | None = None,
    kinds: Sequence[InfluenceKind] = (ALONE, WITHOUT),
    gained: pd.DataFrame | None = None,
    encoder: Literal["fixed", "followed"] = "fixed",
) -> pd.DataFrame:
    r"""The gain of every task, as a lender, for every other, as a borrower.

    Data attribution between tasks (Tu, Liu, Ma, Tang, 2025) in closed form: each task's data are a
    Gaussian site, so that a task leaves by a subtraction. Gains are mean differences in log
    density, in nats a sample, of the borrower's training samples, each predicted from all others
    (:func:`pyro_vmtl.inspection.leave_one_out`), or of held-out samples. There are two kinds:

    - ``alone``: with the lender as the only other task, less with no other task. Alone a task has
      :math:`w_t \sim N(0, A + B + V)`; with the lender it shares
      :math:`m + c \sim N(0, A + B)`, and each deviates by N(0, V). Nothing of the partition is
      read: the scales are the geometric means of those drawn, and the factors of the targets are
      found anew beside the data of each task alone. Where the two do not belong together, this gain
      is negative: it says what it would cost to force them into one cluster.
    - ``without``: with all other tasks, less with all but the lender. Partition and scales stay as
      they were drawn; where targets are not Gaussian, the factors of the other tasks' targets
      follow. It says what the model as it is owes to the lender, and is near 0 for those that the
      partition keeps apart.

    An encoder is held fixed, as it was with all data. Where it was trained, gains are those of
    held-out samples, and a lender has shaped it as well: with ``encoder="followed"`` a small one
    goes to where its own evidence is highest without the lender, near where training has left it
    (Newton's method by conjugate gradients, given partition and scales). That takes a second or two
    for each lender and enters ``without`` alone. It agrees better with new fits than an encoder
    held fixed, but with a hidden layer of eight units neither agreed (docs/influence.md).

    Example::

        table = pv.influence(fitted, splits.train)
        pv.plot_influence(table)

    :param fitted: a model with the pool Nested whose encoder is a function of the inputs.
    :param train: what it was trained on.
    :param heldout: labelled samples of the same tasks, or None for leave-one-out; a trained encoder
        needs them.
    :param kinds: which of the two to compute. ``without`` takes a second or two for each lender.
    :param gained: of :func:`pyro_vmtl.gains` of the same model and training samples; what it says
        of tasks taken out is then not computed again.
    :param encoder: ``"fixed"``, or ``"followed"`` for a trained one of at most 5,000 parameters.
    :return: a row for each ``kind``, ``borrower`` and ``lender``: ``samples`` of the borrower;
        ``gain``; ``se``, the standard error of the paired differences, NaN for fewer than two
        samples; ``low`` and ``high``, the gain less and plus two standard errors.
    :raises InputError: for another model, other tasks, or a single task; for an encoder that is to
        be followed and is large, or has nothing that could follow.
    """
    check_closed_form("influences", fitted, train, heldout, may_learn=True)
    if encoder not in ("fixed", "followed"):
        raise InputError(f"encoder is {encoder!r}; expected 'fixed' or 'followed'")
    if encoder == "followed":
        check_small(fitted.vmtl.encoder)
    if len(fitted.names) < 2:
        raise InputError("the model has a single task; expected two or more")
    wrong = [kind for kind in kinds if kind not in (ALONE, WITHOUT)]
    if wrong:
        raise InputError(f"a kind is {wrong[0]!r}; expected 'alone' or 'without'")
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        if kind == ALONE:
            rows += _alone(fitted, train, heldout)
        elif gained is not None and heldout is None and bool(_left_out(gained).any()):
            rows += _from_gains(gained)
        else:
            near = functools.partial(followed, trained=fitted.vmtl)
            rows += _without(fitted, train, heldout, near if encoder == "followed" else settled)
    table = pd.DataFrame(rows)
    return table.assign(low=table["gain"] - 2 * table["se"], high=table["gain"] + 2 * table["se"])


def influence_matrix(
    table: pd.DataFrame, kind: InfluenceKind = ALONE, value: str = "gain"
) -> pd.DataFrame:
    """The influences of a kind, a row a borrower and a column a lender; NaN of a task on itself.

    :param table: of :func:`influence`.
    :raises InputError: if it has no such kind.
    """
    chosen = table[table["kind"] == kind]
    if chosen.empty:
        raise InputError(
            f"the table has no influence of the kind {kind!r}; expected one of "
            f"{sorted(table['kind'].unique())}"
        )
    names = list(dict.fromkeys(chosen["borrower"]))
    square = chosen.pivot(index="borrower", columns="lender", values=value)
    return square.reindex(index=names, columns=names)


def influence_doubts(table: pd.DataFrame, relatedness: pd.DataFrame) -> list[str]:
    """Sentences on where listening costs, and where gains and learned relatedness disagree.

    :param table: of :func:`influence`.
    :param relatedness: of :func:`pyro_vmtl.relatedness`; empty where there are no clusters.
    """
    said = []
    is_loss = (table["high"] < 0) & (table["gain"] < -_LEAST)
    costs = table[(table["kind"] == WITHOUT) & is_loss].sort_values("gain")
    if len(costs):
        shown = _listed(
            [f"{row.borrower} to {row.lender} ({_written(row)})" for row in costs.itertuples()]
        )
        total = int((table["kind"] == WITHOUT).sum())
        said.append(
            f"Listening costs, in nats a sample: {shown}. That is {len(costs)} of {total} gains; "
            "of gains that are all 0 one in forty would look so."
        )
    pairs = _pairs(table, relatedness)
    together = pairs[(pairs["probability"] > 0.5) & (pairs["gain"] < -2 * pairs["se"])]
    apart = pairs[(pairs["probability"] < 0.5) & (pairs["gain"] > 2 * pairs["se"])]
    for found, sentence in (
        (together, "are thought to be related, and lose by each other where they are two alone"),
        (apart, "are thought to be unrelated, and gain by each other where they are two alone"),
    ):
        if len(found):
            names = [
                f"{row.borrower} and {row.lender} ({_written(row)})" for row in found.itertuples()
            ]
            said.append(
                f"Of {len(pairs)} pairs of tasks {len(found)} {sentence}: {_listed(names)}."
            )
    return said


def _pairs(table: pd.DataFrame, relatedness: pd.DataFrame) -> pd.DataFrame:
    """Each pair's mean gain over both directions where it is alone, and its relatedness."""
    chosen = table[table["kind"] == ALONE]
    shown = relatedness[relatedness["site"] == "weights"]
    chances = shown.set_index(["task", "other"])["probability"].to_dict()
    found = {(row.borrower, row.lender): row for row in chosen.itertuples()}
    place = {name: number for number, name in enumerate(dict.fromkeys(chosen["borrower"]))}
    rows = [
        {
            "borrower": one,
            "lender": other,
            "gain": (row.gain + found[other, one].gain) / 2,
            "se": float(np.hypot(row.se, found[other, one].se)) / 2,
            "probability": chances.get((one, other), np.nan),
        }
        for (one, other), row in found.items()
        if place[one] < place[other]
    ]
    return pd.DataFrame(rows, columns=["borrower", "lender", "gain", "se", "probability"])


def _written(row: Any) -> str:
    return f"{row.gain:+.3f} ± {row.se:.3f}"


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _row(borrower: str, lender: str, kind: str, difference: _Array) -> dict[str, Any]:
    known = difference[~np.isnan(difference)]
    gain, se = mean_and_error(known)
    return {
        "borrower": borrower,
        "lender": lender,
        "kind": kind,
        "samples": len(known),
        "gain": gain,
        "se": se,
    }


def _alone(fitted: FittedVMTL, train: TaskSet, heldout: TaskSet | None) -> list[dict[str, Any]]:
    names = fitted.names
    pairs = torch.triu_indices(len(names), len(names), 1).T
    members = torch.zeros(len(pairs), len(names), dtype=torch.bool).scatter_(1, pairs, True)
    found = {}
    for one in member_gains(fitted, train, members, heldout):
        first, second = pairs[one.of].tolist()
        found[one.task, second if one.task == first else first] = one.difference
    return [_row(names[t], names[other], ALONE, found[t, other]) for t, other in sorted(found)]


def _without(
    fitted: FittedVMTL,
    train: TaskSet,
    heldout: TaskSet | None,
    rested: Callable[[VMTL, Batch, int | None], VMTL],
) -> list[dict[str, Any]]:
    """:param rested: a model with what may move at rest, with all data or without a task."""
    scored = train if heldout is None else heldout
    task = scored.task.cpu().numpy()

    batch = train.dense().to(fitted.vmtl.device)
    vmtl = rested(fitted.vmtl, batch, None)

    def densities(model: VMTL) -> _Array:
        if heldout is None:
            return leave_one_out(model, train).log_density
        unseen = heldout.dense().to(model.device)
        by_draw = held_out_densities(model, unseen)
        out = np.full(len(heldout), np.nan)
        out[unseen.index[unseen.mask].cpu().numpy()] = (
            (by_draw.logsumexp(0) - np.log(len(by_draw)))[unseen.mask].cpu().numpy()
        )
        return out

    whole = densities(vmtl)
    rows = []
    for j, lender in enumerate(fitted.names):
        away = whole - densities(rested(vmtl, batch, j))
        rows += [
            _row(borrower, lender, WITHOUT, away[task == t])
            for t, borrower in enumerate(fitted.names)
            if t != j
        ]
    place = {name: number for number, name in enumerate(fitted.names)}
    return sorted(rows, key=lambda row: (place[row["borrower"]], place[row["lender"]]))


def _left_out(gained: pd.DataFrame) -> pd.Series:
    return (gained["against"] == AGAINST_WITHOUT) & (gained["task"] != ALL_TASKS)


def _from_gains(gained: pd.DataFrame) -> list[dict[str, Any]]:
    rows = gained[_left_out(gained)].rename(columns={"task": "borrower", "other": "lender"})
    place = {name: number for number, name in enumerate(dict.fromkeys(gained["task"]))}
    rows = rows.assign(kind=WITHOUT).sort_values(
        ["borrower", "lender"], key=lambda names: names.map(place)
    )
    columns = ["borrower", "lender", "kind", "samples", "gain", "se"]
    return rows[columns].to_dict("records")
