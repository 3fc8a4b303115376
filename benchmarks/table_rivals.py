"""What a user would try before pyro_vmtl on the real tables of `tables.py`.

Every rival is a function that fits a split and returns how it predicts, so that the command can
time the fit alone. Every rival forecasts a density: a probability, or a normal distribution.
Folds of cross-validation are drawn at random over all rows, so that every fold holds rows of every
task.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gpboost
import numpy as np
from scipy.special import expit
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegressionCV, Ridge, RidgeCV
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from table_sources import Floats, Rows, Split

__all__ = ["RIVALS", "Forecast", "Predictor"]

SMALLEST_PROBABILITY = 1e-6
SMALLEST_SD = 1e-3
MAX_ROUNDS = 500  # of gpboost's trees; its own cross-validation stops far earlier


@dataclass(frozen=True)
class Forecast:
    """What a method says of N test rows.

    :ivar mean: ``[N]``, the predictive mean, or the probability of class 1.
    :ivar log_density: ``[N]``, the log of the predictive density or probability of what came.
    :ivar low: ``[N]``, the lower end of the central 90% interval of a regression.
    :ivar high: ``[N]``, its upper end.
    :ivar relatedness_auc: how well the method tells which tasks are of one known group.
    """

    mean: Floats
    log_density: Floats
    low: Floats | None = None
    high: Floats | None = None
    relatedness_auc: float | None = None


Predictor = Callable[[Rows], Forecast]
Design = Callable[[Rows], Floats]


def bernoulli(y: Floats, probability: Floats) -> Forecast:
    """The forecast of probabilities of class 1."""
    clipped = probability.clip(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return Forecast(probability, np.log(np.where(y == 1, clipped, 1 - clipped)))


def normal(y: Floats, mean: Floats, sd: Floats | float) -> Forecast:
    """The forecast of normal distributions."""
    density = norm(mean, np.maximum(sd, SMALLEST_SD))
    low, high = density.interval(0.9)
    return Forecast(mean, density.logpdf(y), low, high)


def pooled(split: Split) -> Predictor:
    """One linear model for all tasks."""
    return _linear(split, lambda rows: rows.x)


def one_hot(split: Split) -> Predictor:
    """One linear model with an intercept for each task, shrunk like the slopes."""
    return _linear(split, lambda rows: np.hstack([rows.x, _indicators(split, rows)]))


def interactions(split: Split) -> Predictor:
    """One linear model with an intercept and slopes for each task beside the common slopes."""

    def design(rows: Rows) -> Floats:
        tasks = _indicators(split, rows)
        products = tasks[:, :, None] * rows.x[:, None, :]
        return np.hstack([rows.x, tasks, products.reshape(len(rows.x), -1)])

    return _linear(split, design)


def groups(split: Split) -> Predictor:
    """One logistic regression for each known group of tasks, which no other rival is told."""
    assert split.groups is not None
    of_task = split.groups
    fitted = {}
    for group in np.unique(of_task):
        mine = of_task[split.train.task] == group
        fitted[group] = _logistic(split.train.x[mine], split.train.y[mine], split.number)

    def predict(rows: Rows) -> Forecast:
        probability = np.empty(len(rows.y))
        for group, model in fitted.items():
            mine = of_task[rows.task] == group
            probability[mine] = model.predict_proba(rows.x[mine])[:, 1]
        return bernoulli(rows.y, probability)

    return predict


def boosting(split: Split) -> Predictor:
    """Boosted trees with the task as a category."""
    choices: dict[str, Any] = {
        "categorical_features": [split.train.x.shape[1]],
        "early_stopping": True,
        "max_iter": 200,
        "learning_rate": 0.05,
        "min_samples_leaf": 10,
        "random_state": split.number,
    }

    def design(rows: Rows) -> Floats:
        return np.column_stack([rows.x, rows.task])

    x, y = design(split.train), split.train.y
    if split.is_classification:
        classifier = HistGradientBoostingClassifier(**choices).fit(x, y)
        return lambda rows: bernoulli(rows.y, classifier.predict_proba(design(rows))[:, 1])
    regressor = HistGradientBoostingRegressor(**choices).fit(x, y)
    sd = _residual_sd(regressor, x, y, folds=5, seed=split.number)
    return lambda rows: normal(rows.y, regressor.predict(design(rows)), sd)


def mixed_intercepts(split: Split) -> Predictor:
    """A mixed model with fixed slopes and a random intercept for each task."""
    return _mixed(split, has_slopes=False)


def mixed_slopes(split: Split) -> Predictor:
    """A mixed model with fixed slopes, and a random intercept and random slopes for each task."""
    return _mixed(split, has_slopes=True)


def gpboost_trees(split: Split) -> Predictor:
    """Shallow boosted trees plus a random intercept for each task.

    gpboost's own cross-validation picks the number of rounds. In a regression it also measures the
    predictive standard deviation: gpboost's own estimate comes from the rows that the trees were
    fitted to, and is too small.
    """
    parameters = {
        "learning_rate": 0.05,
        "max_depth": 3,
        "min_data_in_leaf": 10,
        "num_threads": 1,
        "seed": split.number,
        "verbose": -1,
    }
    x, y, task = split.train.x, split.train.y, split.train.task

    def intercepts() -> Any:
        return gpboost.GPModel(
            group_data=task, likelihood=_likelihood(split), num_parallel_threads=1
        )

    found = gpboost.cv(
        parameters,
        gpboost.Dataset(x, y),
        gp_model=intercepts(),
        num_boost_round=MAX_ROUNDS,
        early_stopping_rounds=10,
        folds=list(_folds(split, 5).split(x, y)),
        metric="test_neg_log_likelihood" if split.is_classification else "mse",
        verbose_eval=False,
    )
    (scores,) = (values for name, values in found.items() if name.endswith("-mean"))
    booster = gpboost.train(
        parameters,
        gpboost.Dataset(x, y),
        gp_model=intercepts(),
        num_boost_round=len(scores),
        verbose_eval=False,
    )

    def predict(rows: Rows) -> Forecast:
        told = booster.predict(
            data=rows.x, group_data_pred=rows.task, predict_var=True, pred_latent=False
        )
        mean = told["response_mean"]
        if split.is_classification:
            return bernoulli(rows.y, mean)
        return normal(rows.y, mean, scores[-1] ** 0.5)

    return predict


RIVALS: dict[str, Callable[[Split], Predictor]] = {
    "pooled": pooled,
    "one-hot": one_hot,
    "interactions": interactions,
    "boosting": boosting,
    "mixed intercepts": mixed_intercepts,
    "mixed slopes": mixed_slopes,
    "gpboost trees": gpboost_trees,
    "groups": groups,
}


def _indicators(split: Split, rows: Rows) -> Floats:
    return np.eye(len(split.names))[rows.task]


def _folds(split: Split, count: int) -> KFold | StratifiedKFold:
    kind = StratifiedKFold if split.is_classification else KFold
    return kind(count, shuffle=True, random_state=split.number)


def _residual_sd(model: Any, x: Floats, y: Floats, folds: int, seed: int) -> float:
    """The standard deviation of the residuals of rows that the model was not fitted to."""
    rows = KFold(folds, shuffle=True, random_state=seed)
    return float(np.sqrt(np.mean((y - cross_val_predict(model, x, y, cv=rows)) ** 2)))


def _logistic(x: Floats, y: Floats, seed: int) -> Any:
    return LogisticRegressionCV(
        Cs=np.logspace(-4, 2, 13),
        l1_ratios=(0.0,),
        cv=StratifiedKFold(5, shuffle=True, random_state=seed),
        scoring="neg_log_loss",
        max_iter=2000,
        use_legacy_attributes=False,
    ).fit(x, y)


def _linear(split: Split, design: Design) -> Predictor:
    x, y = design(split.train), split.train.y
    if split.is_classification:
        classifier = _logistic(x, y, split.number)
        return lambda rows: bernoulli(rows.y, classifier.predict_proba(design(rows))[:, 1])
    ridge = RidgeCV(np.logspace(-2, 4, 25)).fit(x, y)
    sd = _residual_sd(Ridge(ridge.alpha_), x, y, folds=10, seed=split.number)
    return lambda rows: normal(rows.y, ridge.predict(design(rows)), sd)


def _mixed(split: Split, has_slopes: bool) -> Predictor:
    # A column without variation among the training rows would make the fixed effects singular.
    varies = split.train.x.std(0) > 0

    def fixed(rows: Rows) -> Floats:
        return np.column_stack([np.ones(len(rows.x)), rows.x[:, varies]])

    slopes: dict[str, Any] = {}
    if has_slopes:
        x = split.train.x[:, varies]
        slopes = {"group_rand_coef_data": x, "ind_effect_group_rand_coef": [1] * x.shape[1]}
    model = gpboost.GPModel(
        group_data=split.train.task,
        likelihood=_likelihood(split),
        num_parallel_threads=1,
        **slopes,
    )
    model.fit(y=split.train.y, X=fixed(split.train))

    def predict(rows: Rows) -> Forecast:
        known = {
            "X_pred": fixed(rows),
            "group_data_pred": rows.task,
            "group_rand_coef_data_pred": rows.x[:, varies] if has_slopes else None,
        }
        told = model.predict(**known, predict_var=True)
        if not split.is_classification:
            return normal(rows.y, told["mu"], np.sqrt(told["var"]))
        # Rounding can leave a logit's small variance below 0, and its probability is then NaN.
        certain = expit(model.predict(**known, predict_response=False)["mu"])
        return bernoulli(rows.y, np.where(np.isnan(told["mu"]), certain, told["mu"]))

    return predict


def _likelihood(split: Split) -> str:
    return "bernoulli_logit" if split.is_classification else "gaussian"
