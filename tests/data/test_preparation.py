"""Preparation: from columns of features to inputs, by what the training rows have shown."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pyro_vmtl.data import TablePreparation
from pyro_vmtl.errors import InputError


def frame(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    out = pd.DataFrame(
        {
            "age": generator.normal(60, 10, rows),
            "smokes": generator.choice([0, 1], rows, p=[0.8, 0.2]),
            "sex": generator.choice(["f", "m"], rows),
            "stage": generator.choice(["I", "II", "III"], rows),
            "day": pd.Timestamp("2026-01-01")
            + pd.to_timedelta(generator.integers(0, 90, rows), "D"),
        }
    )
    out.loc[generator.random(rows) < 0.2, "age"] = np.nan
    out.loc[:3, "stage"] = None
    return out


def inputs(of: pd.DataFrame, **options: object) -> pd.DataFrame:
    fitted = TablePreparation(**options).fit(of)  # type: ignore[arg-type]
    return pd.DataFrame(fitted.transform(of), columns=fitted.get_feature_names_out())


class TestInputs:
    def test_have_names(self) -> None:
        assert list(inputs(frame())) == [
            *("age", "age is missing", "smokes", "sex=m"),
            *("stage=I", "stage=II", "stage=III", "stage is missing", "day"),
        ]

    def test_numbers_and_dates_are_standardised_and_gaps_are_the_mean(self) -> None:
        of = frame()
        x = inputs(of)
        known = of["age"].notna().to_numpy()
        assert x["age"][known].mean() == pytest.approx(0)
        assert x["age"][known].std(ddof=0) == pytest.approx(1)
        assert (x["age"][~known] == 0).all()
        assert x["day"].std(ddof=0) == pytest.approx(1)
        assert np.corrcoef(x["day"], of["day"].astype("int64"))[0, 1] == pytest.approx(1)

    def test_of_two_values_differ_by_two_however_rare_one_is(self) -> None:
        of = frame()
        x = inputs(of)
        for name, has in (
            ("smokes", of["smokes"] == 1),
            ("sex=m", of["sex"] == "m"),
            ("age is missing", of["age"].isna()),
            ("stage=II", of["stage"] == "II"),
        ):
            there = x[name][has].unique()
            away = x[name][~has & of["stage"].notna()].unique()
            assert len(there) == len(away) == 1
            assert there[0] - away[0] == pytest.approx(2)

    def test_of_new_rows_are_by_the_training_rows_alone(self) -> None:
        of = frame()
        fitted = TablePreparation().fit(of)
        new = frame(5, seed=1)
        alone = [fitted.transform(new.iloc[[row]])[0] for row in range(5)]
        np.testing.assert_array_equal(fitted.transform(new), alone)

    def test_of_a_level_that_was_not_seen_say_nothing(self) -> None:
        fitted = TablePreparation().fit(frame())
        new = frame(1).assign(sex="x", stage="IV", age=60.0)
        x = dict(zip(fitted.inputs_, fitted.transform(new)[0], strict=True))
        assert x["sex=m"] == x["stage=I"] == x["stage=II"] == x["stage=III"] == 0

    def test_large_numbers_keep_their_digits_in_float32(self) -> None:
        for values in (1.7e9 + 10.0 * np.arange(40), 2.46e6 + 0.01 * np.arange(40)):
            x = inputs(pd.DataFrame({"time": values}))["time"].to_numpy(dtype=np.float32)
            assert len(set(x)) == 40


def test_gaps_are_counted_in_a_sentence() -> None:
    of = pd.DataFrame(
        {"a": [1.0, np.nan, 3.0, 4.0], "b": [np.nan, 2.0, np.nan, 1.0], "c": range(4)}
    )
    fitted = TablePreparation().fit(of)
    assert fitted.inputs_ == ("a", "b", "b is missing", "c")
    (note,) = fitted.notes_
    assert note.startswith("Values are missing in 4 training rows: 1 of 'a', 2 of 'b'. Inputs are")
    assert TablePreparation().fit(of[["c"]]).notes_ == ()


class TestWhatIsLeftOut:
    def notes(self, of: pd.DataFrame) -> tuple[tuple[str, ...], tuple[str, ...]]:
        fitted = TablePreparation().fit(of)
        return fitted.inputs_, fitted.notes_

    def test_constants(self) -> None:
        of = frame().assign(same=0.1, word="a", none=np.nan)
        names, notes = self.notes(of)
        assert not {"same", "word=a", "none"} & set(names)
        for name in ("same", "word", "none"):
            assert any(f"{name!r} does not vary" in note for note in notes)

    def test_repetitions(self) -> None:
        of = frame().assign(again=frame()["smokes"])
        names, notes = self.notes(of)
        assert "again" not in names
        assert "The input 'again' is the same as 'smokes', and is left out." in notes

    def test_names_of_rows(self) -> None:
        of = frame().assign(who=[f"patient {n}" for n in range(60)])
        names, notes = self.notes(of)
        assert not any("who" in name for name in names)
        assert any("'who' has 60 distinct texts in 60 rows" in note for note in notes)

    def test_a_level_of_one_row(self) -> None:
        of = frame(60).assign(city=["a"] * 30 + ["b"] * 29 + ["c"])
        x = inputs(of)
        assert "city=c" not in x
        assert x.loc[59, ["city=a", "city=b"]].tolist() == [0, 0]

    def test_all(self) -> None:
        with pytest.raises(InputError, match="no column of features that varies"):
            TablePreparation().fit(pd.DataFrame({"same": [1.0, 1.0]}))


class TestOptions:
    def test_gaps_can_be_refused(self) -> None:
        with pytest.raises(InputError, match="has no value in the column 'age'; expected one"):
            TablePreparation(gaps="refuse").fit(frame())
        whole = frame().dropna()
        fitted = TablePreparation(gaps="refuse").fit(whole)
        with pytest.raises(InputError, match="has no value in the column"):
            fitted.transform(frame())
        with pytest.raises(InputError, match="gaps is 'drop'; expected 'impute' or 'refuse'"):
            TablePreparation(gaps="drop").fit(whole)  # type: ignore[arg-type]

    def test_numbers_can_be_names(self) -> None:
        of = pd.DataFrame({"ward": [1, 2, 3] * 4, "x": range(12)})
        assert list(inputs(of, categories=["ward"])) == ["ward=1", "ward=2", "ward=3", "x"]


def test_it_is_a_transformer_of_scikit_learn() -> None:
    of = frame()
    y = of["sex"] == "m"
    pipeline = make_pipeline(TablePreparation(categories=["stage"]), LogisticRegression())
    fitted = clone(pipeline).fit(of, y)
    assert fitted.score(of, y) > 0.95
    assert fitted[:-1].get_feature_names_out()[0] == "age"
