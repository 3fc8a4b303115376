"""How a temperature or a KL weight changes over training."""

import math
from dataclasses import dataclass

from pyro_vmtl.errors import InputError

__all__ = ["Constant", "Decay", "Ramp", "Schedule"]


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

    def __call__(self, iteration: int, total: int) -> float:
        return self.value


@dataclass(frozen=True)
class Ramp(Schedule):
    """A straight line from ``start`` to ``end`` over the first part of a run, then ``end``.

    :ivar until: the share of the run at which ``end`` is reached, in (0, 1].
    """

    start: float
    end: float
    until: float = 1.0

    def __post_init__(self) -> None:
        _share(self)

    def __call__(self, iteration: int, total: int) -> float:
        progress = min(1.0, iteration / max(1.0, self.until * total))
        return self.start + progress * (self.end - self.start)


@dataclass(frozen=True)
class Decay(Schedule):
    """A geometric decay from ``start`` to ``end`` over the first part of a run, then ``end``.

    :ivar until: the share of the run at which ``end`` is reached, in (0, 1].
    """

    start: float
    end: float
    until: float = 1.0

    def __post_init__(self) -> None:
        _share(self)
        if self.start <= 0 or self.end <= 0:
            raise InputError(
                f"a geometric decay runs from {self.start} to {self.end}; expected both above 0"
            )

    def __call__(self, iteration: int, total: int) -> float:
        progress = min(1.0, iteration / max(1.0, self.until * total))
        return self.start * math.exp(progress * math.log(self.end / self.start))


def _share(schedule: Ramp | Decay) -> None:
    if not 0 < schedule.until <= 1:
        raise InputError(
            f"the schedule's until is {schedule.until}; expected a share of the run in (0, 1]"
        )
