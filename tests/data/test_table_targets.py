"""Targets of a table: classes or numbers, said with counts, and doubted where they should be."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pyro_vmtl.data.cells import Notation
from pyro_vmtl.data.table_targets import Target, outcome_doubts, read_target, unit_doubts
from pyro_vmtl.errors import InputError


def target(values: object, **options: object) -> Target:
    frame = pd.DataFrame({"y": values})
    return read_target("the table", frame, ["y"], Notation(), **options)  # type: ignore[arg-type]


class TestClasses:
    @pytest.mark.parametrize(
        ("values", "classes"),
        [
            (["b", "a", None], ("a", "b")),
            ([True, False, True], ("False", "True")),
            ([0.0, 1.0, np.nan], ("0", "1")),
            (["0.0", "1.0", "1"], ("0", "1")),
            ([-1, 0, 1, 10, 2], ("-1", "0", "1", "2", "10")),  # in the order of the numbers
            (["1", "2", "absent"], ("1", "2", "absent")),
        ],
    )
    def test_are_found(self, values: object, classes: tuple[str, ...]) -> None:
        assert target(values).classes == classes

    def test_are_matched_by_their_text(self) -> None:
        found = target([3, 1, 2], classes=["1", "2", "3", "absent"])
        assert found.y.tolist() == [2, 0, 1]
        with pytest.raises(InputError, match="has '4'; expected one of '1', '2'"):
            target([4], classes=["1", "2"])
        with pytest.raises(InputError, match="expected each name once"):
            target([1], classes=[1, 1.0])

    def test_are_said_with_counts(self) -> None:
        said = target(["a", "b", "b", None]).sentence
        assert said == "classification of 'y', 2 classes (a 1, b 2), 3 of 4 rows labelled"

    def test_that_are_too_many_or_too_few(self) -> None:
        with pytest.raises(InputError, match="has 40 distinct texts in 40 rows; expected"):
            target([f"name {n}" for n in range(40)])
        with pytest.raises(InputError, match="has the single class 'a'; expected two"):
            target(["a", "a"])
        with pytest.raises(InputError, match="has no value; expected two"):
            target([None, None])


class TestNumbers:
    def test_are_regression(self) -> None:
        found = target([1.5, 2.0, None])
        assert found.classes is None
        np.testing.assert_array_equal(found.y, [1.5, 2, np.nan])
        assert found.sentence == "regression of 'y' (2 of 3 rows known, 1.5 to 2)"

    def test_whole_ones_are_regression_where_they_are_many(self) -> None:
        values = np.arange(30) % 15
        found = target(values)
        assert found.classes is None
        assert "15 distinct whole numbers; regression=False makes them classes" in found.sentence
        assert target(values, regression=False).classes == tuple(map(str, range(15)))
        assert target(values % 3).classes == ("0", "1", "2")
        assert target(values % 3, regression=True).classes is None

    def test_with_a_cell_that_is_none(self) -> None:
        with pytest.raises(InputError, match=r"row 31 .* has '<0.1' in the column 'y'"):
            target([*map(str, np.arange(30) / 7), "<0.1"])
        with pytest.raises(InputError, match="decimal=','"):
            target([f"{n},5" for n in range(30)])

    def test_settings_that_contradict_each_other(self) -> None:
        with pytest.raises(InputError, match="expected one or the other"):
            target([1.0, 2.0], classes=["a", "b"], regression=True)
        frame = pd.DataFrame({"a": [1.0], "b": [2.0]})
        with pytest.raises(InputError, match="expected one column of classes"):
            read_target("the table", frame, ["a", "b"], Notation(), regression=False)


class TestOutcomes:
    def doubts(self, values: object, y: Target, name: str = "x") -> list[str]:
        return outcome_doubts([name], np.asarray(values, dtype=float)[:, None], y)

    def test_that_tell_the_target_are_doubted(self) -> None:
        generator = np.random.default_rng(0)
        x, noise = generator.normal(size=(2, 100))
        for y in (target(x > 0), target(3 * x + 0.01 * noise)):
            (said,) = self.doubts(x, y)
            assert "predicts the target all but perfectly: 'x'" in said
            assert self.doubts(x + 2 * noise, y) == []

    def test_by_their_names(self) -> None:
        y = target(["a", "b"] * 20)
        x = np.random.default_rng(0).normal(size=40)
        for name in ("stay", "Length of stay", "died", "outcome"):
            (said,) = self.doubts(x, y, name)
            assert f"is called like an outcome and taken as a feature: {name!r}" in said
        assert self.doubts(x, y, "stayed at home") == []


class TestUnits:
    def test_that_differ_between_tasks_are_doubted(self) -> None:
        generator = np.random.default_rng(0)
        tasks = np.repeat(["a", "b", "c", "d"], 10)
        kilograms = generator.normal(70, 10, 40)
        assert unit_doubts("weight", kilograms, tasks) == []
        mixed = np.where(tasks == "c", 1000 * kilograms, kilograms)
        (said,) = unit_doubts("weight", mixed, tasks)
        assert "times as large in the task 'c' as in others: is its unit the same?" in said
        assert 800 < float(said.removeprefix("The column 'weight' is about ").split()[0]) < 1250

    def test_of_numbers_that_vary_much_or_change_sign_are_not(self) -> None:
        generator = np.random.default_rng(0)
        tasks = np.repeat(["a", "b", "c"], 10)
        wide = 10 ** generator.normal(0, 1.5, 30)
        assert unit_doubts("dose", wide, tasks) == []
        assert unit_doubts("change", generator.normal(size=30) * 1000, tasks) == []
        assert unit_doubts("none", np.full(30, np.nan), tasks) == []
