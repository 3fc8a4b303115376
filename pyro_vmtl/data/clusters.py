"""Synthetic tasks in hidden clusters: what is related to what is known."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyro_vmtl.data.arguments import check_scale, check_whole
from pyro_vmtl.data.splits import TaskSplits
from pyro_vmtl.data.task_set import TaskSet
from pyro_vmtl.errors import InputError

__all__ = ["Kind", "cluster_weights", "clusters"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

Kind: TypeAlias = Literal["binary", "multiclass", "regression"]

# Streams of random numbers: what one of them is used for leaves the others as they are, so that
# more test samples do not change the training samples, nor the training samples the weights.
_WEIGHTS, _TRAIN, _VALIDATION, _TEST = range(4)


def cluster_weights(
    num_tasks: int = 12,
    num_clusters: int = 3,
    dimensions: int = 20,
    spread: float = 0.3,
    kind: Kind = "binary",
    num_classes: int = 3,
    outliers: int = 0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """The truth behind :func:`clusters` of the same arguments.

    With c(t) the cluster of task t and d the dimensions,

        m_c ~ N(0, I),    w_t = m_c(t) + spread * e_t,    e_t ~ N(0, I).

    :returns: the weights ``[T, K, d]``, K being ``num_classes`` for ``multiclass`` and else 1, and
        the cluster of every task, ``[T]`` int64.
    :raises InputError: see :func:`clusters`.
    """
    check_whole("num_tasks", num_tasks, 1)
    check_whole("num_clusters", num_clusters, 1)
    check_whole("dimensions", dimensions, 1)
    check_whole("outliers", outliers, 0)
    check_whole("seed", seed, 0)
    check_scale("spread", spread)
    if kind not in ("binary", "multiclass", "regression"):
        raise InputError(f"kind is {kind!r}; expected 'binary', 'multiclass' or 'regression'.")
    if kind == "multiclass":
        check_whole("num_classes", num_classes, 2)
    dealt = num_tasks - outliers
    if dealt < num_clusters:
        raise InputError(
            f"num_clusters is {num_clusters} for {num_tasks} tasks, {outliers} of them outliers; "
            f"expected at most {max(dealt, 0)}, one task per cluster."
        )
    truth = np.concatenate([np.arange(dealt) % num_clusters, num_clusters + np.arange(outliers)])
    rows = num_classes if kind == "multiclass" else 1
    generator = np.random.default_rng((seed, _WEIGHTS))
    centres = generator.standard_normal((num_clusters + outliers, rows, dimensions))
    noise = generator.standard_normal((num_tasks, rows, dimensions))
    weights = centres[truth] + spread * noise
    return torch.from_numpy(weights), torch.from_numpy(truth)


def clusters(
    num_tasks: int = 12,
    num_clusters: int = 3,
    samples: int = 40,
    dimensions: int = 20,
    spread: float = 0.3,
    kind: Kind = "binary",
    num_classes: int = 3,
    noise: float = 0.5,
    validation_samples: int | None = None,
    test_samples: int = 500,
    outliers: int = 0,
    seed: int = 0,
) -> TaskSplits:
    """Linear tasks whose weights gather in hidden clusters.

    The inputs are x ~ N(0, I), the weights w_t those of :func:`cluster_weights`, and the targets

        binary:      y ~ Bernoulli(sigmoid(w_t x))
        multiclass:  y ~ Categorical(softmax(W_t x))
        regression:  y ~ N(w_t x, noise^2)

    The tasks are dealt round the clusters in turn, so that these are of even size; the last
    ``outliers`` tasks each have a cluster of their own. With as many clusters as tasks, all tasks
    are unrelated. The cluster of every task is the ``truth`` of each part.

    :param num_tasks: T, outliers included.
    :param num_clusters: the clusters of the tasks that are not outliers.
    :param samples: training samples per task. However few, each class occurs in some task: where
        chance left one out, one sample is drawn again given that it is of this class.
    :param dimensions: d, the features of an input.
    :param spread: the standard deviation of weights within a cluster (between clusters it is 1).
    :param kind: what the targets are.
    :param num_classes: C, for ``multiclass``.
    :param noise: the standard deviation of the targets around w_t x, for ``regression``.
    :param validation_samples: per task, by default as many as ``samples``.
    :param test_samples: per task.
    :param outliers: tasks without relatives.
    :param seed: of everything; each part is drawn from a stream of its own.
    :raises InputError: for numbers out of range, fewer tasks than clusters, or fewer training
        samples than classes.
    """
    weights, truth = cluster_weights(
        num_tasks, num_clusters, dimensions, spread, kind, num_classes, outliers, seed
    )
    validation_samples = samples if validation_samples is None else validation_samples
    check_whole("samples", samples, 1)
    check_whole("validation_samples", validation_samples, 0)
    check_whole("test_samples", test_samples, 0)
    check_scale("noise", noise)
    num_labels = {"binary": 2, "multiclass": num_classes, "regression": 0}[kind]
    if num_tasks * samples < num_labels:
        raise InputError(
            f"samples is {samples} for {num_tasks} tasks; expected at least "
            f"{-(-num_labels // num_tasks)}, to have one sample of each of {num_labels} classes."
        )

    sets: list[TaskSet] = []
    sizes = (samples, validation_samples, test_samples)
    for stream, size in zip((_TRAIN, _VALIDATION, _TEST), sizes, strict=True):
        generator = np.random.default_rng((seed, stream))
        x = generator.standard_normal((num_tasks, size, dimensions))
        y = _draw_targets(x, weights.numpy(), kind, noise, generator)
        if stream == _TRAIN and num_labels:
            _complete_classes(x, y, weights.numpy(), kind, num_labels, generator)
        first = num_tasks * sum(sizes[: len(sets)])
        sets.append(
            TaskSet(
                names=tuple(f"task {number}" for number in range(num_tasks)),
                x=torch.from_numpy(x.reshape(-1, dimensions)).float(),
                y=torch.from_numpy(y.reshape(-1)),
                task=torch.from_numpy(np.repeat(np.arange(num_tasks), size)),
                classes=tuple(str(label) for label in range(num_labels)) or None,
                truth=truth,
                sources=torch.arange(first, first + num_tasks * size),
            )
        )
    return TaskSplits(*sets)


def _draw_targets(
    x: _Array, weights: _Array, kind: Kind, noise: float, generator: np.random.Generator
) -> _Array:
    """Targets ``[T, n]`` of inputs ``[T, n, d]`` under weights ``[T, K, d]``."""
    scores = np.einsum("tnd,tkd->tnk", x, weights)
    if kind == "regression":
        targets: _Array = scores[..., 0] + noise * generator.standard_normal(scores.shape[:2])
        return targets.astype(np.float32)
    if kind == "binary":
        # Two classes with the scores 0 and w x: their softmax is the sigmoid of w x.
        scores = np.concatenate([np.zeros_like(scores), scores], axis=-1)
    # The largest of the scores with Gumbel noise is a draw from their softmax.
    labels: _Array = np.argmax(scores + generator.gumbel(size=scores.shape), axis=-1)
    return labels.astype(np.int64)


def _complete_classes(
    x: _Array,
    y: _Array,
    weights: _Array,
    kind: Kind,
    num_labels: int,
    generator: np.random.Generator,
) -> None:
    """Draw a sample anew, in place, for every class that occurs in no task."""
    for label in range(num_labels):
        while not (y == label).any():
            counts = np.bincount(y.reshape(-1), minlength=num_labels)
            task, row = generator.choice(np.argwhere(counts[y] > 1))
            candidates = generator.standard_normal((1, 1000, x.shape[-1]))
            drawn = _draw_targets(candidates, weights[task : task + 1], kind, 0.0, generator)
            hits = np.flatnonzero(drawn[0] == label)
            if len(hits):
                x[task, row], y[task, row] = candidates[0, hits[0]], label
