"""Checks of the numbers that a user sets, with a sentence for each that will not do."""

from __future__ import annotations

import math
from numbers import Integral, Real

from pyro_vmtl.errors import InputError

__all__ = ["check_scale", "check_whole"]


def check_whole(name: str, value: object, least: int) -> None:
    """Make sure that ``value`` is an integer of at least ``least``.

    :raises InputError: if it is not; truth values are not integers here.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InputError(f"{name} is {value!r}; expected an integer of at least {least}.")


def check_scale(name: str, value: object) -> None:
    """Make sure that ``value`` is a finite number of at least 0.

    :raises InputError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise InputError(f"{name} is {value!r}; expected a finite number of at least 0.")
