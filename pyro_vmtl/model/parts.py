"""What choices of a model have in common: they are values."""

from __future__ import annotations

__all__ = ["Part"]


class Part:
    """A choice of a model, by its settings: those of one class that were made alike are equal."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self))))
