"""How a temperature or a KL weight changes over training."""

import math
from dataclasses import dataclass
from numbers import Real

from pyro_vmtl.errors import InputError

__all__ = ["Annealing", "Constant", "Decay", "Ramp", "Schedule", "Stairs"]


class Schedule:
    """A number that depends on how far training is; subclass it to bring your own."""

    def __call__(self, iteration: int, total: int) -> float:
        """The value.

        :param iteration: optimiser steps made so far.
        :param total: steps of the whole run.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """Always ``value``."""

    value: float

    def __post_init__(self) -> None:
        _numbers(self, "value")

    def __call__(self, iteration: int, total: int) -> float:
        return self.value


@dataclass(frozen=True)
class Ramp(Schedule):
    """``start`` at first, then a straight line to ``end`` over a part of a run, then ``end``.

    :ivar until: the share of the run at which ``end`` is reached, in (0, 1].
    :ivar since: the share at which ``start`` is left, in [0, ``until``).
    """

    start: float
    end: float
    until: float = 1.0
    since: float = 0.0

    def __post_init__(self) -> None:
        _numbers(self, "start", "end", "until", "since")
        _share(self)
        if not 0 <= self.since < self.until:
            raise InputError(
                f"the schedule's since is {self.since}; expected a share of the run in "
                f"[0, {self.until:g})"
            )

    def __call__(self, iteration: int, total: int) -> float:
        progress = (iteration / max(1, total) - self.since) / (self.until - self.since)
        return self.start + min(1.0, max(0.0, progress)) * (self.end - self.start)


@dataclass(frozen=True)
class Decay(Schedule):
    """A geometric decay from ``start`` to ``end`` over the first part of a run, then ``end``.

    :ivar until: the share of the run at which ``end`` is reached, in (0, 1].
    """

    start: float
    end: float
    until: float = 1.0

    def __post_init__(self) -> None:
        _numbers(self, "start", "end", "until")
        _share(self)
        if self.start <= 0 or self.end <= 0:
            raise InputError(
                f"a geometric decay runs from {self.start} to {self.end}; expected both above 0"
            )

    def __call__(self, iteration: int, total: int) -> float:
        progress = min(1.0, iteration / max(1.0, self.until * total))
        return self.start * math.exp(progress * math.log(self.end / self.start))


@dataclass(frozen=True)
class Stairs(Schedule):
    """Another schedule, looked at only at the start of each of so many equal parts of a run.

    Example: halving 0.0001 every fifth of a run is ``Stairs(Decay(1e-4, 1e-4 / 2**5), steps=5)``.

    :ivar schedule: what gives the values.
    :ivar steps: the number of parts.
    """

    schedule: Schedule
    steps: int

    def __post_init__(self) -> None:
        _numbers(self, "steps")
        _parts(self)

    def __call__(self, iteration: int, total: int) -> float:
        step = min(self.steps - 1, iteration * self.steps // max(1, total))
        # The start of a part may lie between two iterations: schedules take shares of a run.
        return self.schedule(step, self.steps)


@dataclass(frozen=True)
class Annealing(Schedule):
    r"""``start`` times :math:`e^{-c k (k + 1) / 2}` in part k of a run, from 0; at least ``end``.

    What comes of multiplying a temperature by :math:`e^{-r i}` at every so-manieth iteration i, as
    is usual for Gumbel-softmax: the decay gets faster as it goes.

    :ivar rate: c, the rate r times the iterations of a part.
    :ivar steps: the number of parts.
    """

    start: float
    end: float
    rate: float
    steps: int

    def __post_init__(self) -> None:
        _numbers(self, "start", "end", "rate", "steps")
        _parts(self)
        if not self.rate >= 0:
            raise InputError(f"the schedule's rate is {self.rate}; expected at least 0")

    def __call__(self, iteration: int, total: int) -> float:
        k = min(self.steps - 1, iteration * self.steps // max(1, total))
        return max(self.end, self.start * math.exp(-self.rate * k * (k + 1) / 2))


def _numbers(schedule: Schedule, *names: str) -> None:
    for name in names:
        value = getattr(schedule, name)
        if not isinstance(value, Real) or isinstance(value, bool):
            raise InputError(f"the schedule's {name} is {value!r}; expected a number")


def _parts(schedule: Stairs | Annealing) -> None:
    if schedule.steps < 1:
        raise InputError(f"the schedule's steps are {schedule.steps}; expected at least 1")


def _share(schedule: Ramp | Decay) -> None:
    if not 0 < schedule.until <= 1:
        raise InputError(
            f"the schedule's until is {schedule.until}; expected a share of the run in (0, 1]"
        )
