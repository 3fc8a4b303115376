"""Training batches: how the samples of every task are drawn, so that each batch is unbiased."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch

from pyro_vmtl.data.arguments import check_whole
from pyro_vmtl.data.batch import Batch, Views, count_up, padded
from pyro_vmtl.data.task_set import TaskSet
from pyro_vmtl.errors import InputError

__all__ = ["TaskBatches"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class TaskBatches:
    """Batches of labelled samples for training; each holds every task and is unbiased for its sum.

    Three ways to draw them:

    - neither ``batch_size`` nor ``per_class``: the full batch, one and the same object each step;
    - ``batch_size``: a random permutation of every task's N_t samples is cut into the fewest chunks
      of at most so many samples, as equal as can be, and a batch takes the next chunk of each task.
      The sizes are settled beforehand, so that a chunk of b samples is a uniform random subset and
      each of its samples has the inclusion probability b / N_t;
    - ``per_class``: the same within each class of each task, min(m, N_tc) samples at a time, with
      inclusion probability min(m, N_tc) / N_tc.

    ``scale`` is the inverse of that probability: for any f, the sum of scale * f over a task's
    samples in the batch has the sum of f over all its labelled samples as its mean. A task whose
    chunks are used up within an epoch goes on with a new permutation. The epoch's batches are a
    function of ``(seed, rank, epoch)``, and nothing else: iterating twice gives them twice.

    The batches have B in common (padding, where tasks differ in size), and are read from the flat
    storage by index: no step copies more than its own samples.

    Example::

        batches = TaskBatches(train, batch_size=32)
        for epoch in range(10):
            batches.set_epoch(epoch)
            for batch in batches:
                ...

    :param tasks: the task set; a task without a labelled sample is masked throughout.
    :param batch_size: samples per task, at most.
    :param per_class: samples per task and class, at most.
    :param steps_per_epoch: batches per epoch; by default as many as it takes the largest task (or
        class of a task) to be seen once.
    :param seed: of the order of samples.
    :param rank: the process among several that train one model, each on batches of its own; None:
        what torch.distributed says when an epoch begins, and 0 where there is one process.
    :param device: where the batches go, by default where ``tasks`` is.
    :param views: of all samples of ``tasks``, where the batches are to hold them.
    :raises InputError: for sizes that are not positive integers, for both sizes at once, for
        ``per_class`` in regression, and where there is no labelled sample at all.
    """

    def __init__(
        self,
        tasks: TaskSet,
        batch_size: int | None = None,
        per_class: int | None = None,
        steps_per_epoch: int | None = None,
        seed: int = 0,
        rank: int | None = None,
        device: torch.device | str | None = None,
        views: Views | None = None,
    ) -> None:
        sizes_given = {
            "batch_size": batch_size,
            "per_class": per_class,
            "steps_per_epoch": steps_per_epoch,
        }
        for name, value in sizes_given.items():
            if value is not None:
                check_whole(name, value, 1)
        check_whole("seed", seed, 0)
        if rank is not None:
            check_whole("rank", rank, 0)
        if batch_size is not None and per_class is not None:
            raise InputError(
                f"batch_size={batch_size} and per_class={per_class} were both given; "
                "expected one of them."
            )
        if per_class is not None and not tasks.is_classification:
            raise InputError(
                f"per_class={per_class} was given for regression; expected batch_size, "
                "as there are no classes."
            )
        labelled = tasks.labelled.cpu().numpy()
        if not labelled.any():
            raise InputError(
                f"none of the {len(tasks)} samples has a label; "
                "expected some to make training batches of."
            )
        self.tasks = tasks
        self.seed = int(seed)
        self.rank = None if rank is None else int(rank)
        self.epoch = 0
        self.device = device
        self.views = views

        # A group is what chunks are drawn from: a task, or a class of a task.
        rows = np.flatnonzero(labelled)
        task = tasks.task.cpu().numpy()[rows]
        per_task = 1
        group = task
        if per_class is not None:
            per_task = tasks.num_classes
            group = task * per_task + tasks.y.cpu().numpy()[rows]
        sizes = np.bincount(group, minlength=tasks.num_tasks * per_task)
        self._rows = rows[np.argsort(group, kind="stable")]
        self._sizes = sizes
        self._starts = np.cumsum(sizes) - sizes

        # Chunk j of a group has base + (j < extra) samples.
        if batch_size is not None:
            self._chunks = np.maximum(-(-sizes // batch_size), 1)
            self._base, self._extra = np.divmod(sizes, self._chunks)
            steps = self._chunks.max()
        else:
            limit = sizes.max() if per_class is None else per_class
            self._chunks = np.maximum(sizes // limit, 1)
            self._base = np.minimum(sizes, limit)
            self._extra = np.zeros_like(sizes)
            steps = -(-sizes.max() // limit)
        self.steps_per_epoch = int(steps if steps_per_epoch is None else steps_per_epoch)

        # Which group, and which place in the group's chunk, every cell of [T, B] holds.
        widths = self._base + (self._extra > 0)
        cells = np.repeat(np.arange(len(sizes)), widths)
        table = padded(cells // per_task, tasks.num_tasks)
        self._is_cell = table >= 0
        self._group = cells[table]
        self._place = count_up(widths)[table]

        # Where every group fits into a batch there is nothing to draw, and one batch serves all.
        self._is_drawn = self._base < sizes
        self._whole = None if self._is_drawn.any() else self._batch(self._rows, 0)

    @property
    def num_samples(self) -> int:
        """B, the samples per task in a batch, padding included."""
        return int(self._group.shape[1])

    @property
    def sampler(self) -> TaskBatches:
        """Itself: Lightning's ``Trainer`` calls ``set_epoch`` on the sampler of a loader."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields."""
        check_whole("epoch", epoch, 0)
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        if self._whole is not None:
            for _ in range(len(self)):
                yield self._whole
            return
        rank = _process_rank() if self.rank is None else self.rank
        generator = np.random.default_rng((self.seed, rank, self.epoch))
        order = self._rows.copy()
        for step in range(len(self)):
            used_up = (step % self._chunks == 0) & self._is_drawn
            if used_up.any():
                self._shuffle(order, np.flatnonzero(used_up), generator)
            yield self._batch(order, step)

    def _shuffle(self, order: _Array, groups: _Array, generator: np.random.Generator) -> None:
        """Permute the rows of these groups in place, each group among itself."""
        sizes = self._sizes[groups]
        slots = np.repeat(self._starts[groups], sizes) + count_up(sizes)
        # Sorting random keys within each group is a uniform permutation of each, all at once.
        keys = generator.random(len(slots))
        order[slots] = order[slots[np.lexsort((keys, np.repeat(groups, sizes)))]]

    def _batch(self, order: _Array, step: int) -> Batch:
        chunk = step % self._chunks
        size = self._base + (chunk < self._extra)
        start = self._starts + chunk * self._base + np.minimum(chunk, self._extra)
        here = self._is_cell & (self._place < size[self._group])
        slot = np.where(here, start[self._group] + self._place, 0)
        index = np.where(here, order[slot], -1)
        weight = self._sizes / np.maximum(size, 1)
        scale = np.where(here, weight[self._group], 1.0).astype(np.float32)
        return self.tasks.gather(
            torch.from_numpy(index), torch.from_numpy(scale), self.device, self.views
        )


def _process_rank() -> int:
    distributed = torch.distributed
    return (
        distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    )
