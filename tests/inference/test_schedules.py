"""Schedules start and end where they say, and go there in one direction."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import Annealing, Constant, Decay, Ramp, Schedule, Stairs

values = st.floats(0.001, 10)
shares = st.floats(0.05, 1)
totals = st.integers(1, 500)
parts = st.integers(1, 40)


@given(value=st.floats(-10, 10), iteration=st.integers(0, 1000), total=totals)
def test_a_constant_stays(value: float, iteration: int, total: int) -> None:
    assert Constant(value)(iteration, total) == value


@pytest.mark.parametrize("kind", [Ramp, Decay])
@given(start=values, end=values, until=shares, total=totals)
def test_a_change_has_its_endpoints_and_one_direction(
    kind: type[Ramp] | type[Decay], start: float, end: float, until: float, total: int
) -> None:
    schedule = kind(start, end, until)
    course = [schedule(iteration, total) for iteration in range(total + 1)]
    assert course[0] == pytest.approx(start)
    reached = math.ceil(max(1, until * total))
    for iteration in (reached, total, 2 * total + 1):
        assert schedule(iteration, total) == pytest.approx(end)
    sign = 1 if end >= start else -1
    assert all(sign * (b - a) >= -1e-9 * end for a, b in pairwise(course))


def test_a_ramp_is_a_line_and_a_decay_a_geometric_sequence() -> None:
    assert [Ramp(0, 1, 0.5)(i, 8) for i in range(6)] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    late = Ramp(0, 1, until=0.75, since=0.25)
    assert [late(i, 8) for i in range(9)] == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1])
    assert [Decay(1, 1 / 16)(i, 4) for i in range(5)] == pytest.approx(
        [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]
    )


@pytest.mark.parametrize("kind", [Ramp, Decay])
@pytest.mark.parametrize("until", [0, -0.5, 1.5, float("nan")])
def test_a_share_outside_the_run_is_refused(kind: type[Ramp] | type[Decay], until: float) -> None:
    with pytest.raises(InputError, match="until"):
        kind(1.0, 0.5, until)


@pytest.mark.parametrize("since", [-0.1, 0.5, 0.7, float("nan")])
def test_a_ramp_starts_before_it_ends(since: float) -> None:
    with pytest.raises(InputError, match="since"):
        Ramp(0.0, 1.0, 0.5, since)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (1.0, -1.0)])
def test_a_geometric_decay_cannot_reach_zero(start: float, end: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        Decay(start, end)


class TestStairs:
    @given(start=values, end=values, until=shares, total=totals, steps=parts)
    def test_hold_the_value_that_each_part_starts_with(
        self, start: float, end: float, until: float, total: int, steps: int
    ) -> None:
        inner = Decay(start, end, until)
        stairs = Stairs(inner, steps)
        for iteration in range(total):
            # Part k of the run is [k, k + 1) of `steps` equal shares of it.
            part = next(k for k in range(steps) if iteration * steps < (k + 1) * total)
            assert stairs(iteration, total) == pytest.approx(inner(part, steps))
        for iteration in (total, 3 * total):  # after the run, the last part
            assert stairs(iteration, total) == pytest.approx(inner(steps - 1, steps))

    @given(start=values, end=values, total=totals)
    def test_of_one_step_an_iteration_are_the_schedule_itself(
        self, start: float, end: float, total: int
    ) -> None:
        ramp = Ramp(start, end)
        for iteration in range(total):
            assert Stairs(ramp, total)(iteration, total) == ramp(iteration, total)

    @given(start=values, end=values, total=totals)
    def test_of_one_part_stay(self, start: float, end: float, total: int) -> None:
        stairs = Stairs(Ramp(start, end), 1)
        assert {stairs(iteration, total) for iteration in range(total + 2)} == {start}

    def test_halve_every_fifth(self) -> None:
        stairs = Stairs(Decay(1.0, 1 / 2**5), steps=5)
        assert [stairs(i, 10) for i in range(12)] == pytest.approx(
            [1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 16, 1 / 16, 1 / 16, 1 / 16]
        )


class TestAnnealing:
    @given(
        start=values,
        end=values,
        rate=st.floats(0, 2),
        steps=parts,
        length=st.integers(1, 20),
    )
    def test_is_what_comes_of_multiplying_now_and_then(
        self, start: float, end: float, rate: float, steps: int, length: int
    ) -> None:
        """By exp(-r i) at every iteration i that is a multiple of ``length``; at least ``end``."""
        schedule = Annealing(start, end, rate, steps)
        per_iteration, temperature = rate / length, start
        for iteration in range(steps * length):
            if iteration % length == 0:
                temperature *= math.exp(-per_iteration * iteration)
            expected = max(end, temperature)
            assert schedule(iteration, steps * length) == pytest.approx(expected, rel=1e-6)
        for iteration in (steps * length, 5 * steps * length):
            assert schedule(iteration, steps * length) == pytest.approx(expected, rel=1e-6)

    @given(start=values, end=values, rate=st.floats(0, 100), steps=parts, total=totals)
    def test_never_rises_and_never_falls_below_its_end(
        self, start: float, end: float, rate: float, steps: int, total: int
    ) -> None:
        schedule = Annealing(start, end, rate, steps)
        course = [schedule(iteration, total) for iteration in range(total + 2)]
        assert course[0] == max(start, end)
        assert all(later <= earlier for earlier, later in pairwise(course))
        assert min(course) >= end
        assert len(set(course)) <= steps

    def test_with_no_rate_stays(self) -> None:
        assert {Annealing(0.7, 0.1, 0.0, 5)(i, 20) for i in range(25)} == {0.7}

    @pytest.mark.parametrize("rate", [-0.1, float("nan")])
    def test_does_not_rise(self, rate: float) -> None:
        with pytest.raises(InputError, match=r"rate is .*; expected at least 0"):
            Annealing(1.0, 0.5, rate, 3)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Constant, ("1",)),
        (Constant, (None,)),
        (Ramp, (0.0, "1")),
        (Decay, ("1", 0.5)),
        (Annealing, (1.0, 0.5, "0.1", 3)),
        (Stairs, (Constant(1.0), "3")),
    ],
)
def test_text_is_no_number(kind: type[Schedule], values: tuple[Any, ...]) -> None:
    with pytest.raises(InputError, match=r"is (None|'.*'); expected a number"):
        kind(*values)


@pytest.mark.parametrize("steps", [0, -2])
def test_a_run_has_at_least_one_part(steps: int) -> None:
    with pytest.raises(InputError, match=f"steps are {steps}; expected at least 1"):
        Stairs(Constant(1.0), steps)
    with pytest.raises(InputError, match=f"steps are {steps}; expected at least 1"):
        Annealing(1.0, 0.5, 0.1, steps)
