"""The images of several domains: their paths, domains and classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

__all__ = ["ImageTree"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False, repr=False)
class ImageTree:
    """The images of several domains.

    :param root: the folder that the paths start from.
    :param domains: names of the T domains.
    :param classes: names of the C classes.
    :param paths: ``[N]``, each image's path from the root, with slashes; in the order of domains,
        then of paths.
    :param domain: ``[N]`` int64, the domain of every image.
    :param label: ``[N]`` int64, its class.
    :param flat: domains whose images lie in no class folders.
    :param domain_names: from the loose form of every name of a domain to the domain.
    :param class_names: likewise for classes.
    """

    root: Path
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    domain: _Array
    label: _Array
    flat: frozenset[int] = frozenset()
    domain_names: Mapping[str, str] = field(default_factory=dict)
    class_names: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """N."""
        return len(self.paths)

    def __repr__(self) -> str:
        return (
            f"ImageTree({len(self.domains)} domains, {len(self.classes)} classes, "
            f"{len(self)} images in '{self.root}')"
        )

    def rows(self, domain: int) -> _Array:
        """The images of one domain."""
        return np.flatnonzero(self.domain == domain)

    @property
    def counts(self) -> _Array:
        """``[T, C]`` int64: the images of every class in every domain."""
        cells = self.domain * len(self.classes) + self.label
        counts = np.bincount(cells, minlength=len(self.domains) * len(self.classes))
        return counts.reshape(len(self.domains), len(self.classes))

    @property
    def alone(self) -> dict[str, str]:
        """The classes that a single domain has, and which."""
        held = self.counts > 0
        return {
            name: self.domains[int(np.argmax(held[:, number]))]
            for number, name in enumerate(self.classes)
            if held[:, number].sum() == 1
        }
