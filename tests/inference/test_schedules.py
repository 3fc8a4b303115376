"""Schedules start and end where they say, and go there in one direction."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import Constant, Decay, Ramp

values = st.floats(0.001, 10)
shares = st.floats(0.05, 1)
totals = st.integers(1, 500)


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
    assert [Decay(1, 1 / 16)(i, 4) for i in range(5)] == pytest.approx(
        [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]
    )


@pytest.mark.parametrize("kind", [Ramp, Decay])
@pytest.mark.parametrize("until", [0, -0.5, 1.5, float("nan")])
def test_a_share_outside_the_run_is_refused(kind: type[Ramp] | type[Decay], until: float) -> None:
    with pytest.raises(InputError, match="until"):
        kind(1.0, 0.5, until)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (1.0, -1.0)])
def test_a_geometric_decay_cannot_reach_zero(start: float, end: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        Decay(start, end)
