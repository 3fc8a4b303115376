"""Cells: what a column's values are, however they are written, and what is refused."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_vmtl.data.cells import Cells, Notation, read_cells
from pyro_vmtl.errors import InputError


def cells(values: object, notation: Notation | None = None, kind: object = None) -> Cells:
    column: pd.Series = pd.Series(values, name="x")
    return read_cells("the table", column, notation or Notation(), kind)  # type: ignore[arg-type]


class TestKinds:
    @pytest.mark.parametrize(
        ("values", "kind", "numbers"),
        [
            (["1", " 2.5 ", "", "-3e2"], "number", [1, 2.5, np.nan, -300]),
            ([1, 2, None], "number", [1, 2, np.nan]),
            ([Decimal("1.5"), 2, 0.25], "number", [1.5, 2, 0.25]),
            (pd.array([1, None], dtype="Int64"), "number", [1, np.nan]),
            (["True", "false", "TRUE"], "truth", [1, 0, 1]),
            ([True, None, False], "truth", [1, np.nan, 0]),
            (["1970-01-02", "1970-01-01T12:00"], "date", [1, 0.5]),
            ([date(1970, 1, 3), None], "date", [2, np.nan]),
            (pd.to_datetime(["1970-01-02 06:00"]), "date", [1.25]),
            (["a ", " a", "b"], "text", [np.nan] * 3),
            (pd.Categorical(["a", None]), "text", [np.nan] * 2),
            ([None, None], "number", [np.nan, np.nan]),
        ],
    )
    def test_are_seen(self, values: object, kind: str, numbers: list[float]) -> None:
        found = cells(values)
        assert found.kind == kind
        np.testing.assert_array_equal(found.numbers, numbers)

    def test_of_text_nothing_but_the_empty_cell_is_missing(self) -> None:
        found = cells(["NA", "None", "nan", "", "  ", "null"])
        assert found.texts.tolist() == ["NA", "None", "nan", None, None, "null"]
        marked = cells(["NA", "1", "-"], Notation(missing=("NA", "-")))
        assert marked.kind == "number"
        assert marked.missing.tolist() == [True, False, True]

    def test_one_value_has_one_name(self) -> None:
        assert cells([1.0, 2.0, np.nan], kind="text").texts.tolist() == ["1", "2", None]
        assert cells(["yes ", "yes"]).labels == ("yes",)

    def test_digits_are_not_lost(self) -> None:
        seconds = 1.7e9 + 10.0 * np.arange(40)
        assert len(set(cells(seconds).numbers)) == 40
        assert cells([str(value) for value in seconds]).numbers.tolist() == seconds.tolist()

    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
    def test_floats_come_back_from_their_text(self, values: list[float]) -> None:
        assert cells([repr(value) for value in values]).numbers.tolist() == values


class TestNotation:
    def test_commas_and_marks_of_thousands(self) -> None:
        german = Notation(decimal=",", thousands=".")
        assert cells(["1.234,5", "-2,5", "7"], german).numbers.tolist() == [1234.5, -2.5, 7]
        english = Notation(thousands=",")
        assert cells(["1,234,567.5", "12"], english).numbers.tolist() == [1234567.5, 12]
        assert np.isnan(english.number("12,34"))
        assert np.isnan(german.number("1.5"))

    def test_commas_are_asked_about(self) -> None:
        said = "row 2 .* has '1,5' in the column 'x'; .* number .decimal=',' reads a decimal comma"
        with pytest.raises(InputError, match=said):
            cells(["1", "1,5", "2"])

    @pytest.mark.parametrize(
        "options",
        [{"decimal": ";"}, {"thousands": "ab"}, {"thousands": "."}, {"missing": [1]}],
    )
    def test_what_it_cannot_be(self, options: dict[str, object]) -> None:
        with pytest.raises(InputError, match=rf"{next(iter(options))} is .*; expected"):
            Notation(**options)  # type: ignore[arg-type]


class TestTrouble:
    def test_text_among_numbers_is_asked_about(self) -> None:
        said = "row 3 .* has '<0.1' in the column 'x'; .* as 2 of 3 cells are: .*missing=.'<0.1'"
        with pytest.raises(InputError, match=said):
            cells(["1", "2", "<0.1"])
        assert cells(["1", "a", "b"]).kind == "text"  # numbers among texts are texts

    @pytest.mark.parametrize(
        "values",
        [
            [1 + 2j],
            pd.to_timedelta(["1 h"]),
            pd.period_range("2020", "2021", freq="Y"),
            pd.interval_range(0, 2),
        ],
    )
    def test_types_that_are_no_values(self, values: object) -> None:
        with pytest.raises(InputError, match=r"the column 'x' .* of the type .*; expected numbers"):
            cells(values)

    def test_lists_and_mixtures(self) -> None:
        with pytest.raises(InputError, match=r"row 2 below the header of .* has a list"):
            cells(["a", [1]])
        with pytest.raises(InputError, match="values of the types bool, str; expected one kind"):
            cells([True, "a"])
        with pytest.raises(InputError, match=r"has 'inf' .*; expected a finite number"):
            cells([1.0, np.inf])

    def test_another_kind_than_it_is_to_be(self) -> None:
        for kind, expected in (
            ("number", "a finite number"),
            ("truth", "true or false"),
            ("date", "a date such as"),
        ):
            with pytest.raises(InputError, match=rf"row 1 .* has 'a' .*; expected {expected}"):
                cells(["a"], kind=kind)
        assert cells(["1", "0", "true"], kind="truth").numbers.tolist() == [1, 0, 1]
