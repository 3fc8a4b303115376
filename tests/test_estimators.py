"""Estimators: what scikit-learn expects of one, and what tasks add to it."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import pyro_vmtl as pv
from pyro_vmtl import VMTLClassifier, VMTLRegressor
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.priors import nested

EXCEPTIONS = {
    "check_fit_score_takes_y": "partial_fit takes rows of new tasks, and none of those learned",
}


@pytest.fixture
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """What scikit-learn asks does not depend on how well the posterior is known."""
    for name, value in {"_SWEEPS": 2, "_BURN_IN": 2, "_ROUND": 5, "_ROUNDS": 1}.items():
        monkeypatch.setattr(nested, name, value)
    monkeypatch.setattr(sys.modules["pyro_vmtl.inference.fit"], "_UPDATES", 2)


def wards(rows: int = 120, seed: int = 0, names: str = "abcd") -> pd.DataFrame:
    """Wards a and b are alike, and c and d: there age works the other way round."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "ward": generator.choice(list(names), rows),
            "age": generator.normal(60, 10, rows),
            "sex": generator.choice(["f", "m"], rows),
        }
    )
    sign = np.where(frame["ward"].isin(["a", "b"]), 1, -1)
    risk = 3 * sign * (frame["age"] - 60) / 10 + (frame["sex"] == "m")
    frame["ill"] = np.where(risk + generator.logistic(size=rows) > 0, "yes", "no")
    frame["days"] = 100 + 20 * risk + generator.normal(size=rows)
    frame.loc[generator.random(rows) < 0.05, "age"] = np.nan
    return frame


def parts(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    return frame[["ward", "age", "sex"]], frame["ill"], frame["days"]


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.usefixtures("_few_draws")
@pytest.mark.parametrize("estimator", [VMTLClassifier(), VMTLRegressor()], ids=lambda e: str(e))
def test_scikit_learns_own_checks(estimator: Any) -> None:
    found = check_estimator(
        estimator, expected_failed_checks=EXCEPTIONS, on_fail="raise", on_skip=None
    )
    failed = {check["check_name"] for check in found if check["status"] == "xfail"}
    assert failed == set(EXCEPTIONS)


class TestTasks:
    def test_are_a_column_or_handed_over(self) -> None:
        X, ill, _ = parts(wards())
        by_column = VMTLClassifier(task="ward").fit(X, ill)
        by_name = VMTLClassifier().fit(X.drop(columns="ward"), ill, tasks=X["ward"])
        chances = by_name.predict_proba(X.drop(columns="ward"), tasks=X["ward"])
        np.testing.assert_array_equal(by_column.predict_proba(X), chances)
        assert set(by_column.task_names_) == set("abcd")

    def test_make_a_difference(self) -> None:
        X, ill, _ = parts(wards())
        new, truth, _ = parts(wards(seed=1))
        told = VMTLClassifier(task="ward").fit(X, ill).score(new, truth)
        untold = VMTLClassifier().fit(X.drop(columns="ward"), ill)
        assert told > untold.score(new.drop(columns="ward"), truth) + 0.15

    def test_that_are_related_are_seen(self) -> None:
        X, _, days = parts(wards())
        matrix = VMTLRegressor(task="ward").fit(X, days).relatedness_
        assert matrix.loc["a", "b"] > 0.5 > matrix.loc["a", "c"]
        assert list(matrix.index) == list(matrix.columns)
        assert np.isnan(np.diag(matrix)).all()

    def test_gain_from_each_other_what_is_measured(self) -> None:
        X, _, days = parts(wards())
        model = VMTLRegressor(task="ward", likelihood=pv.StudentT()).fit(X, days)
        assert model.fitted_.settings.likelihood == pv.StudentT()
        expected = pv.gains(model.fitted_, pv.read_table(X.assign(days=days), "ward", "days"))
        pd.testing.assert_frame_equal(model.gains_, expected)

    def test_that_are_new_are_predicted_and_learned(self) -> None:
        X, ill, days = parts(wards())
        new, new_ill, new_days = parts(wards(60, seed=1, names="e"))
        model = VMTLClassifier(task="ward").fit(X, ill)
        before = model.predict_proba(new)
        np.testing.assert_allclose(before.sum(1), 1)
        assert model.partial_fit(new, new_ill) is model
        assert model.task_names_[-1] == "e"
        assert model.score(new, new_ill) > 0.7
        regressor = VMTLRegressor(task="ward").fit(X, days)
        worse = regressor.score(new, new_days)
        assert regressor.partial_fit(new, new_days).score(new, new_days) > worse
        with pytest.raises(InputError, match="task 'e', which has been learned"):
            model.partial_fit(new, new_ill)
        with pytest.raises(InputError, match="y has 'maybe'; expected one of"):
            model.partial_fit(new.assign(ward="f"), ["maybe"] * len(new))

    def test_that_are_not_there(self) -> None:
        X, ill, _ = parts(wards())
        with pytest.raises(InputError, match="X has no column 'clinic'; expected the column"):
            VMTLClassifier(task="clinic").fit(X, ill)
        with pytest.raises(InputError, match="expected one or the other"):
            VMTLClassifier(task="ward").fit(X, ill, tasks=X["ward"])
        with pytest.raises(InputError, match="tasks has 3 entries; expected 120"):
            VMTLClassifier().fit(X, ill, tasks=["a", "b", "c"])


class TestRegression:
    def test_intervals_and_deviations_are_in_the_unit_of_the_target(self) -> None:
        X, _, days = parts(wards())
        new, _, truth = parts(wards(400, seed=1))
        model = VMTLRegressor(task="ward").fit(X.fillna(60), days)
        new = new.fillna(60)
        low, high = model.predict_interval(new).T
        mean, sd = model.predict(new, return_std=True)
        assert ((low < mean) & (mean < high)).all()
        assert 0.85 < ((low < truth) & (truth < high)).mean() < 0.98
        assert (np.abs(truth - mean) < sd).mean() > 0.68  # outliers make sd large, not intervals
        assert model.score(new, truth) > 0.9

    def test_several_outputs(self) -> None:
        X, _, days = parts(wards())
        y = np.column_stack([days, -days / 20])
        model = VMTLRegressor(task="ward").fit(X, y)
        assert model.predict(X).shape == (120, 2)
        assert model.predict_interval(X).shape == (120, 2, 2)
        assert model.score(X, y) > 0.7


@pytest.mark.usefixtures("_few_draws")
class TestCompany:
    def test_cross_validation_and_search(self) -> None:
        X, ill, _ = parts(wards())
        pools = [pv.Nested(), pv.Nested(clusters=False)]
        search = GridSearchCV(VMTLClassifier(task="ward"), {"pool": pools}, cv=2).fit(X, ill)
        assert search.best_score_ > 0.7
        found = cross_validate(VMTLClassifier(task="ward"), X, ill, cv=2, scoring="neg_log_loss")
        assert found["test_score"].mean() > np.log(0.5)

    @pytest.mark.usefixtures("routing")
    def test_tasks_are_routed_through_pipelines(self) -> None:
        X, ill, _ = parts(wards().dropna())
        model = VMTLClassifier().set_fit_request(tasks=True).set_predict_request(tasks=True)
        model = model.set_score_request(tasks=True)
        pipeline = make_pipeline(StandardScaler(), model)
        tasks = X["ward"].to_numpy()
        found = cross_validate(pipeline, X[["age"]], ill, cv=2, params={"tasks": tasks})
        assert found["test_score"].mean() > 0.7

    def test_pickles_and_clones(self) -> None:
        X, ill, _ = parts(wards())
        model = VMTLClassifier(task="ward", random_state=3).fit(X, ill)
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
        other = clone(model).fit(X, ill)
        np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))

    def test_an_encoder_is_trained_with_validation_rows(self) -> None:
        X, ill, _ = parts(wards())
        training = pv.TrainingSettings(epochs=2, steps_per_epoch=2)
        encoder = pv.MLP(latent_dim=4, hidden=[8])
        model = VMTLClassifier(task="ward", encoder=encoder, training=training).fit(X, ill)
        assert model.predict_proba(X).shape == (120, 2)
        assert "validation_nll" in model.fitted_.history
