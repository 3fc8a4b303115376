"""A batch: samples of every task side by side in one dense block, and as seen through tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

__all__ = ["Batch", "Views", "count_up", "padded"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Views(NamedTuple):
    """What every sample looks like through every task.

    :ivar x: ``[N, T, *input_shape]`` float32, in the order of the task set.
    :ivar present: ``[N, T]`` bool: False where the task has no sample to look through; ``x`` is
        then the sample itself.
    """

    x: Tensor
    present: Tensor

    def gather(self, index: Tensor, device: torch.device | str | None = None) -> Views:
        """The views of a batch, ``[T, B, T, *input_shape]`` and ``[T, B, T]``.

        :param index: ``[T, B]`` rows of the task set, -1 on padding: of the row's first sample.
        """
        rows = torch.where(index >= 0, index, index[:, :1].clamp(min=0)).to(self.x.device)
        return Views(self.x[rows].to(device), self.present[rows].to(device))


@dataclass(eq=False)
class Batch:
    """Samples of every task in one dense block.

    :param x: inputs, ``[T, B, *input_shape]``; padding repeats a real sample.
    :param y: targets, ``[T, B]`` int64 or float32, or ``[T, B, K]`` float32; class 0 or 0.0 where
        there is no label, or an output is not known.
    :param mask: ``[T, B]`` bool, True where there is a sample with a label.
    :param scale: ``[T, B]`` float32, the inverse of the probability with which a sample of the
        task came into the batch; 1 where ``mask`` is False.
    :param index: ``[T, B]`` int64, the row of the sample in the task set, -1 on padding.
    :param views: the samples as seen through every task, in training where the prior of the
        representations needs them (:func:`pyro_vmtl.data.attention_views`); else None.
    :param known: ``[T, B, K]`` bool, where some samples have some of their outputs and not all:
        those that are known; else None, and ``mask`` says it of all outputs.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    scale: Tensor
    index: Tensor
    views: Views | None = field(default=None, kw_only=True)
    known: Tensor | None = field(default=None, kw_only=True)

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.mask.shape[0]

    @property
    def num_samples(self) -> int:
        """B, padding included."""
        return self.mask.shape[1]

    @property
    def present(self) -> Tensor:
        """``[T, B]`` bool: True where there is a sample, with or without a label."""
        return self.index >= 0

    @property
    def observed(self) -> Tensor:
        """Which outputs count, ``[T, B, K]`` bool; ``[T, B, 1]`` where a sample has all or none."""
        return self.mask.unsqueeze(-1) if self.known is None else self.known

    @property
    def weight(self) -> Tensor:
        """How often each output counts, float64, of the shape of :attr:`observed`."""
        return self.observed * self.scale.unsqueeze(-1).double()

    def to(self, device: torch.device | str) -> Batch:
        """The batch on ``device``; the very same object if it is there already."""
        here = (self.x, self.y, self.mask, self.scale, self.index)
        there = tuple(tensor.to(device) for tensor in here)
        if all(new is old for new, old in zip(there, here, strict=True)):
            return self
        views = None if self.views is None else Views(*(part.to(device) for part in self.views))
        known = None if self.known is None else self.known.to(device)
        return Batch(*there, views=views, known=known)


def padded(group: _Array, num_groups: int) -> _Array:
    """The positions of the members of every group, in their order, side by side.

    :param group: ``[N]`` integers in [0, num_groups).
    :returns: ``[num_groups, size of the largest group]`` int64, -1 on padding.
    """
    sizes = np.bincount(group, minlength=num_groups)
    members = np.argsort(group, kind="stable")
    table = np.full((num_groups, sizes.max(initial=0)), -1, dtype=np.int64)
    table[group[members], count_up(sizes)] = members
    return table


def count_up(sizes: _Array) -> _Array:
    """0, 1, ..., s - 1 for every s in ``sizes``, one after the other."""
    ends = np.cumsum(sizes)
    counts: _Array = np.arange(sizes.sum()) - np.repeat(ends - sizes, sizes)
    return counts
