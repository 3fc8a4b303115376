"""Who borrows from whom: the fitted relatedness as a tidy table, and what can be read off it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inspection.draws import (
    BASE,
    borrowing_of,
    is_relaxation,
    other_names,
    relatedness_draws,
    relatedness_probabilities,
    responsibility_draws,
)
from pyro_vmtl.model import Kind, NestedBorrowing
from pyro_vmtl.model.closed_form import partitions_of

__all__ = [
    "COLUMNS",
    "LABELS",
    "VALUES",
    "Truth",
    "Value",
    "chance_level",
    "highest_density_interval",
    "independence",
    "kind_of",
    "partitions",
    "rank_correlations",
    "related_pairs",
    "relatedness",
    "relatedness_auc",
    "relatedness_matrix",
    "relatedness_roc",
    "relatedness_stability",
    "site_rows",
    "table_sites",
    "true_clusters",
]

Value: TypeAlias = Literal[
    "mean", "sd", "hdi_low", "hdi_high", "probability", "before_data", "responsibility"
]

LABELS = ("site", "kind", "task", "other", "draws_of")
VALUES: tuple[Value, ...] = get_args(Value)
COLUMNS = (*LABELS, *VALUES)
"""The columns of the relatedness table, and of ``relatedness.csv`` in a run folder."""

Truth: TypeAlias = Mapping[str, Any] | Sequence[Any] | npt.NDArray[Any] | Tensor | pd.Series
"""The true cluster of each task: in the order of the tasks, or by name."""


def relatedness(
    fitted: FittedVMTL, num_samples: int = 1000, seed: int = 0, hdi_prob: float = 0.9
) -> pd.DataFrame:
    """How much every task borrows from each other task, and how sure that is.

    A row per site (``weights``, ``representations``, whichever borrow), task and other task (or
    ``base``, N(0, I)):

    - ``kind``: what the site's relatedness is: ``weights`` of the lenders; ``gates``, for the pool
      ``power``; or ``clusters``, for ``nested``;
    - ``draws_of``: whose draws the next four columns describe: of the ``posterior``; or, where
      model and guide share their logits, of the ``relaxation``, whose noise is not what the data
      left open;
    - ``mean``, ``sd``, ``hdi_low``, ``hdi_high``: over posterior draws of the relatedness, the
      interval being the narrowest that holds ``hdi_prob`` of them;
    - ``probability``: the chance that this lender is picked; of gates, that this one is open; of
      clusters, that the two share one;
    - ``before_data``: the same chance as long as nothing is known of any task;
    - ``responsibility``: for a mixture, the share of the prior at the task's posterior that comes
      from this lender, averaged over draws; else NaN.

    Of a site and task, ``mean``, ``probability`` and ``responsibility`` each sum to 1 over the
    lenders where these are weights. The table is empty where nothing borrows.

    :param fitted: of :func:`pyro_vmtl.fit` or :func:`pyro_vmtl.load`.
    :param num_samples: draws.
    :param seed: of the draws.
    :param hdi_prob: in (0, 1).
    :raises InputError: for numbers out of range, or what is no fitted model.
    """
    _check_fitted(fitted)
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; expected at least 1.")
    if not 0 < hdi_prob < 1:
        raise InputError(f"hdi_prob is {hdi_prob}; expected a share between 0 and 1.")
    vmtl = fitted.vmtl
    frames = [_site_table(fitted, site, num_samples, seed, hdi_prob) for site in vmtl.borrowing]
    if frames:
        table = pd.concat(frames, ignore_index=True)
    else:
        text = {name: pd.Series(dtype=str) for name in LABELS}
        table = pd.DataFrame(text | {name: pd.Series(dtype=float) for name in VALUES})
    return table


def _check_fitted(given: object) -> None:
    if not isinstance(given, FittedVMTL):
        raise InputError(
            f"the model is a {type(given).__name__}; expected a FittedVMTL, as pyro_vmtl.fit and "
            "pyro_vmtl.load return it."
        )


def partitions(fitted: FittedVMTL) -> pd.DataFrame:
    """Which clusters the tasks may fall into, all together: the partitions that were drawn.

    :func:`relatedness` says it pair by pair. Here a row is a partition of all tasks, the most
    probable first:

    - ``partition``: the clusters, a tuple of the names of its tasks each, in the tasks' order;
    - ``draws``: how many of the draws that training kept are of it;
    - ``probability``: its share of them, no finer than one over their number;
    - ``clusters``: how many there are, lone tasks included;
    - ``spread``: s, how far the tasks of a cluster lie from its centre where 1 is the scale of all
      weights, averaged over the partition's draws; NaN where every task is alone;
    - ``correlation``: 1 - s², by which tasks of a cluster correlate, likewise.

    Example::

        table = partitions(fitted)
        clusters = table["partition"].iloc[0]  # (("task 0", "task 3"), ("task 1", "task 2"))

    :param fitted: a model whose pool is :class:`pyro_vmtl.Nested`.
    :raises InputError: for another pool, or what is no fitted model.
    """
    _check_fitted(fitted)
    borrowing = _clustered(fitted)
    labels = borrowing.labels.cpu().numpy()
    # Numbers of clusters mean nothing: a cluster is called by the first of its tasks.
    first = (labels[:, :, None] == labels[:, None, :]).argmax(-1)
    found, row_of, counts = np.unique(first, axis=0, return_inverse=True, return_counts=True)
    spreads = borrowing.spreads.double().cpu().numpy()
    row_of = row_of.reshape(-1)
    rows = []
    for number in np.argsort(-counts, kind="stable"):
        clusters = [
            tuple(np.array(fitted.names, dtype=object)[found[number] == label].tolist())
            for label in np.unique(found[number])
        ]
        spread = spreads[row_of == number]
        # Of lone tasks s says nothing: its draws are then those of its prior.
        shared = len(clusters) < len(fitted.names)
        rows.append(
            {
                "partition": tuple(clusters),
                "draws": int(counts[number]),
                "probability": counts[number] / len(labels),
                "clusters": len(clusters),
                "spread": spread.mean() if shared else np.nan,
                "correlation": (1 - spread**2).mean() if shared else np.nan,
            }
        )
    return pd.DataFrame(rows)


def _clustered(fitted: FittedVMTL) -> NestedBorrowing:
    if len(fitted.names) == 1:
        raise InputError(
            f"the model has one task, {fitted.names[0]!r}; expected two at least, to be parted."
        )
    return partitions_of(fitted.vmtl)


def _site_table(
    fitted: FittedVMTL, site: str, num_samples: int, seed: int, hdi_prob: float
) -> pd.DataFrame:
    others = other_names(fitted, site)
    borrowing = borrowing_of(fitted.vmtl, site)
    draws = relatedness_draws(fitted.vmtl, site, num_samples, seed)
    responsibilities = responsibility_draws(fitted.vmtl, site, num_samples, seed)
    low, high = highest_density_interval(draws, hdi_prob)
    values = {
        "mean": draws.mean(0),
        "sd": draws.std(0),
        "hdi_low": low,
        "hdi_high": high,
        "probability": relatedness_probabilities(fitted.vmtl, site),
        "before_data": np.full(draws.shape[1:], borrowing.chance_before_data()),
        "responsibility": (
            np.full(draws.shape[1:], np.nan)
            if responsibilities is None
            else responsibilities.mean(0)
        ),
    }
    pairs = np.array(
        [(t, i) for t in range(len(fitted.names)) for i in range(len(others)) if i != t]
    )
    rows, columns = pairs.T
    names = np.array(others, dtype=object)
    labels = {"site": site, "kind": borrowing.pool.kind}
    labels |= {"task": names[rows], "other": names[columns]}
    labels["draws_of"] = "relaxation" if is_relaxation(fitted.vmtl, site) else "posterior"
    return pd.DataFrame(labels | {name: value[rows, columns] for name, value in values.items()})


def highest_density_interval(
    draws: npt.NDArray[np.float64], prob: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The narrowest interval that holds a share of the draws, for every entry.

    :param draws: ``[S, *shape]``; NaN throughout for an entry gives NaN.
    :param prob: the share.
    :return: lower and upper ends, ``[*shape]`` each.
    """
    ordered = np.sort(draws, axis=0)
    steps = min(int(prob * len(ordered)), len(ordered) - 1)
    widths = ordered[steps:] - ordered[: len(ordered) - steps]
    first = np.where(np.isnan(widths), np.inf, widths).argmin(0)[None]
    low = np.take_along_axis(ordered, first, 0)[0]
    high = np.take_along_axis(ordered, first + steps, 0)[0]
    return low, high


def table_sites(table: pd.DataFrame) -> tuple[str, ...]:
    """The sites that a relatedness table has rows of."""
    return tuple(table["site"].unique())


def site_rows(table: pd.DataFrame, site: str, task: str | None = None) -> pd.DataFrame:
    """The rows of one site, or of one task at it.

    :raises InputError: if there are none.
    """
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"the table has no column {missing[0]!r}; expected the columns of relatedness()."
        )
    rows = table[table["site"] == site]
    if rows.empty:
        raise InputError(
            f"the relatedness table has no rows of the site {site!r}; "
            f"expected one of {list(table_sites(table))}."
        )
    if task is None:
        return rows
    chosen = rows[rows["task"] == task]
    if chosen.empty:
        raise InputError(
            f"the relatedness table has no task {task!r}; "
            f"expected one of {list(rows['task'].unique())}."
        )
    return chosen


def kind_of(table: pd.DataFrame, site: str = "weights") -> Kind:
    """What a site's relatedness is."""
    kind: Kind = site_rows(table, site)["kind"].iloc[0]
    return kind


def chance_level(table: pd.DataFrame, site: str = "weights") -> float:
    """The ``probability`` of every lender before any data."""
    return float(site_rows(table, site)["before_data"].iloc[0])


def independence(table: pd.DataFrame, site: str = "weights") -> pd.Series:
    """How far each task stands on its own, in [0, 1].

    The ``probability`` of ``base``; for gates and clusters, 1 - the largest chance. NaN where the
    pool has weights and no ``base``: such a task cannot decline to borrow.

    :return: a value per task, by name; none of an empty table.
    :raises InputError: if the table has rows, but none of the site.
    """
    if table.empty:
        return pd.Series(dtype=float, index=pd.Index([], name="task"), name="independence")
    rows = site_rows(table, site)
    tasks = pd.Index(rows["task"].unique(), name="task")
    if kind_of(table, site) == "weights":
        values = rows[rows["other"] == BASE].set_index("task")["probability"]
    else:
        values = 1 - rows.groupby("task")["probability"].max()
    return values.reindex(tasks).astype(float).rename("independence")


def relatedness_matrix(
    table: pd.DataFrame, site: str = "weights", value: Value = "probability"
) -> pd.DataFrame:
    """One value of the table as a matrix: a row per task, a column per other task, then ``base``.

    :return: ``[T, T]`` or ``[T, T + 1]``, the diagonal NaN.
    :raises InputError: if the table has no such site or value.
    """
    rows = site_rows(table, site)
    if value not in VALUES:
        raise InputError(f"the value is {value!r}; expected one of {list(VALUES)}.")
    tasks = list(rows["task"].unique())
    base = [BASE] if (rows["other"] == BASE).any() else []
    matrix = rows.pivot(index="task", columns="other", values=value)
    return matrix.reindex(index=tasks, columns=tasks + base)


def related_pairs(table: pd.DataFrame, truth: Truth, site: str = "weights") -> pd.DataFrame:
    """Every pair of tasks with its relatedness and whether the two are truly related.

    :param truth: the true cluster of each task.
    :return: ``task, other, score, related``, a row per unordered pair; ``score`` is the mean of
        the two directions' ``probability``.
    :raises InputError: if the truth does not name a cluster for every task.
    """
    matrix = relatedness_matrix(table, site)
    tasks = list(matrix.index)
    clusters = true_clusters(truth, tasks).to_numpy()
    values = matrix[tasks].to_numpy()
    first, second = np.triu_indices(len(tasks), 1)
    names = np.array(tasks, dtype=object)
    return pd.DataFrame(
        {
            "task": names[first],
            "other": names[second],
            "score": (values[first, second] + values[second, first]) / 2,
            "related": clusters[first] == clusters[second],
        }
    )


def true_clusters(truth: Truth, tasks: Sequence[str]) -> pd.Series:
    """The true cluster of each task, by name.

    :param truth: clusters by name, or in the order of ``tasks``.
    :raises InputError: if it does not name a cluster for every task.
    """
    if isinstance(truth, (Mapping, pd.Series)):
        missing = [name for name in tasks if name not in truth]
        if missing:
            raise InputError(
                f"the truth has no cluster for task {missing[0]!r}; expected one for every task."
            )
        return pd.Series({name: truth[name] for name in tasks}, name="cluster")
    clusters = np.asarray(truth)
    if clusters.shape != (len(tasks),):
        raise InputError(
            f"the truth has shape {list(clusters.shape)}; expected [{len(tasks)}], "
            "a cluster for every task."
        )
    return pd.Series(clusters, index=list(tasks), name="cluster")


def relatedness_auc(table: pd.DataFrame, truth: Truth, site: str = "weights") -> float:
    """How well relatedness tells tasks of one true cluster from others.

    The area under the ROC curve of the symmetrised ``probability`` (the chance of a gate to be
    open for ``power``) over unordered pairs of tasks; 0.5 is chance, 1 is perfect. NaN where all
    pairs are related, or none.

    :param truth: the true cluster of each task, in the table's order of tasks or by name.
    :raises InputError: if the truth does not name a cluster for every task.
    """
    pairs = related_pairs(table, truth, site)
    if pairs["related"].nunique() < 2:
        return float("nan")
    return float(roc_auc_score(pairs["related"], pairs["score"]))


def relatedness_roc(table: pd.DataFrame, truth: Truth, site: str = "weights") -> pd.DataFrame:
    """The ROC curve behind :func:`relatedness_auc`.

    :return: ``false_positive, true_positive, threshold``: pairs whose score is at least the
        threshold count as called related. No rows where all pairs are related, or none.
    :raises InputError: if the truth does not name a cluster for every task.
    """
    pairs = related_pairs(table, truth, site)
    columns = ("false_positive", "true_positive", "threshold")
    if pairs["related"].nunique() < 2:
        return pd.DataFrame({name: pd.Series(dtype=float) for name in columns})
    curve = roc_curve(pairs["related"], pairs["score"], drop_intermediate=False)
    return pd.DataFrame(dict(zip(columns, curve, strict=True)))


def relatedness_stability(
    tables: Mapping[int, pd.DataFrame], site: str = "weights", value: Value = "probability"
) -> pd.DataFrame:
    """How the relatedness of each pair varies over fits that differ in their seed.

    :param tables: relatedness tables of the same tasks, by seed.
    :return: ``task, other``, the value in each fit (``seed 0``, ...), and over the fits ``mean``,
        ``sd`` (divisor S - 1), ``low`` and ``high`` (the smallest and largest).
    :raises InputError: if there are fewer than two tables, or their pairs differ.
    """
    if len(tables) < 2:
        raise InputError(f"there are {len(tables)} relatedness tables; expected at least two.")
    keys = ["task", "other"]
    columns = {
        f"seed {seed}": site_rows(table, site).set_index(keys)[value]
        for seed, table in tables.items()
    }
    first = next(iter(columns.values()))
    for name, column in columns.items():
        if set(column.index) != set(first.index):
            raise InputError(
                f"the relatedness table of {name} has other pairs of tasks than the first; "
                "expected fits of the same tasks with the same lenders."
            )
    values = pd.DataFrame(columns).reindex(first.index)
    summary = {
        "mean": values.mean(axis=1),
        "sd": values.std(axis=1),
        "low": values.min(axis=1),
        "high": values.max(axis=1),
    }
    return values.assign(**summary).reset_index()


def rank_correlations(
    tables: Mapping[int, pd.DataFrame], site: str = "weights", value: Value = "probability"
) -> pd.DataFrame:
    """Spearman's rank correlation of the relatedness between every two fits, over all pairs.

    :param tables: relatedness tables of the same tasks, by seed.
    :return: ``[seeds, seeds]``; NaN where a fit gives all pairs the same relatedness.
    :raises InputError: if there are fewer than two tables, or their pairs differ.
    """
    values = relatedness_stability(tables, site, value)[[f"seed {seed}" for seed in tables]]
    correlations: pd.DataFrame = values.rank().corr()
    return correlations
