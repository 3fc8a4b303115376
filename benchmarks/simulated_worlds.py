"""Simulated tasks whose truth is known: the worlds of `benchmarks/simulated.py`.

In every world a task t has weights w_t ~ N(0, Omega_tt I), the inputs are standard normal, there is
no bias, and all features are alike: with Omega the covariance of the tasks,

    cov(w_t, w_u) = Omega_tu I.

Where tasks fall into clusters, Omega_tu is `centre_variance` for two tasks of a cluster, and
`spread_variance` is added on the diagonal. Unless it says otherwise, a world has 12 tasks in 3
clusters, 20 features, 40 training rows and 500 test rows a task, and weights of variance 1.09
(centres of variance 1, a spread of .3 around them). What `pyro_vmtl.clusters` can draw is drawn by
it. What each stream of random numbers is used for leaves the others as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

import pyro_vmtl as pv
from pyro_vmtl.data.clusters import cluster_weights

Array = npt.NDArray[np.float64]

TASKS, DIMENSIONS, SAMPLES, TEST_SAMPLES = 12, 20, 40, 500
SPREAD = 0.3
VARIANCE = 1 + SPREAD**2

_WEIGHTS, _TRAIN, _TEST, _SIZES = 0, 1, 3, 4


@dataclass(frozen=True)
class World:
    """One draw of a world.

    :ivar kind: ``binary``, ``multiclass`` or ``regression``.
    :ivar weights: the true weights ``[T, K, d]``; K is the number of classes for ``multiclass``.
    :ivar covariance: of tasks, ``[T, T]``.
    :ivar truth: the cluster of every task ``[T]``, or None where tasks do not fall into clusters.
    :ivar centre_variance: the variance of the centres of clusters, given ``truth``.
    :ivar spread_variance: the variance of weights around their centre, given ``truth``.
    :ivar noise: the scale of the noise in a regression.
    :ivar freedom: the degrees of freedom of a Student t noise; infinite for a Gaussian.
    """

    name: str
    seed: int
    kind: str
    train: pv.TaskSet
    test: pv.TaskSet
    weights: Array
    covariance: Array
    truth: npt.NDArray[np.int64] | None = None
    centre_variance: float = 1.0
    spread_variance: float = SPREAD**2
    noise: float = 0.5
    freedom: float = np.inf

    @property
    def has_clusters(self) -> bool:
        """Whether tasks fall into clusters and some share one, so that pairs can be told apart."""
        return self.truth is not None and len(np.unique(self.truth)) < len(self.truth)


def _shared(truth: npt.NDArray[np.int64], centre: float, spread: float) -> Array:
    """The covariance of tasks in clusters."""
    return centre * (truth[:, None] == truth) + spread * np.eye(len(truth))


def _clusters(
    kind: str = "binary",
    samples: int = SAMPLES,
    test_samples: int = TEST_SAMPLES,
    noise: float = 0.5,
    **options: int,
) -> Callable[[str, int], World]:
    """The tasks of `pyro_vmtl.clusters`."""

    def draw(name: str, seed: int) -> World:
        splits = pv.clusters(
            kind=kind, samples=samples, test_samples=test_samples, noise=noise, seed=seed, **options
        )
        weights, truth = (part.numpy() for part in cluster_weights(kind=kind, seed=seed, **options))
        covariance = _shared(truth, 1.0, SPREAD**2)
        return World(
            name, seed, kind, splits.train, splits.test, weights, covariance, truth, noise=noise
        )

    return draw


def _inputs(
    generator: np.random.Generator, tasks: int, samples: int, correlation: float = 0.0
) -> Array:
    """Inputs ``[T, n, d]`` of variance 1; neighbouring features correlate as in an AR(1)."""
    x = generator.standard_normal((tasks, samples, DIMENSIONS))
    for j in range(1, DIMENSIONS):
        x[..., j] = correlation * x[..., j - 1] + np.sqrt(1 - correlation**2) * x[..., j]
    return x


def _task_set(
    generator: np.random.Generator,
    weights: Array,
    sizes: npt.NDArray[np.int64],
    kind: str,
    correlation: float,
    noise: float,
    freedom: float,
    truth: npt.NDArray[np.int64] | None,
) -> pv.TaskSet:
    """Rows of binary tasks or regressions with weights ``[T, 1, d]``, ``sizes`` of them a task."""
    x = _inputs(generator, len(weights), sizes.max(), correlation)
    scores = np.einsum("tnd,td->tn", x, weights[:, 0])
    if kind == "regression":
        if np.isinf(freedom):
            error = generator.standard_normal(scores.shape)
        else:
            error = generator.standard_t(freedom, size=scores.shape)
        y = (scores + noise * error).astype(np.float32)
    else:
        y = (scores + generator.logistic(size=scores.shape) > 0).astype(np.int64)
    return pv.TaskSet.from_arrays(
        {
            f"task {t}": (x[t, :size].astype(np.float32), y[t, :size])
            for t, size in enumerate(sizes)
        },
        classes=None if kind == "regression" else (0, 1),
        truth=truth,
    )


def _linear(
    draw_weights: Callable[[np.random.Generator], tuple[Array, Array]],
    kind: str = "binary",
    truth: npt.NDArray[np.int64] | None = None,
    sizes: Callable[[np.random.Generator], npt.NDArray[np.int64]] | None = None,
    correlation: float = 0.0,
    centre_variance: float = 1.0,
    spread_variance: float = SPREAD**2,
    noise: float = 0.5,
    freedom: float = np.inf,
) -> Callable[[str, int], World]:
    """Tasks with weights ``[T, d]`` and a covariance ``[T, T]`` as ``draw_weights`` gives them."""

    def draw(name: str, seed: int) -> World:
        weights, covariance = draw_weights(np.random.default_rng((seed, _WEIGHTS)))
        weights = weights[:, None]
        even = np.full(len(weights), SAMPLES)
        rows = even if sizes is None else sizes(np.random.default_rng((seed, _SIZES)))
        tests = np.full(len(weights), TEST_SAMPLES)
        train, test = (
            _task_set(
                np.random.default_rng((seed, stream)),
                weights, number, kind, correlation, noise, freedom, truth,
            )
            for stream, number in ((_TRAIN, rows), (_TEST, tests))
        )  # fmt: skip
        return World(
            name, seed, kind, train, test, weights, covariance, truth,
            centre_variance, spread_variance, noise, freedom,
        )  # fmt: skip

    return draw


def _in_clusters(
    centre_variance: float = 1.0, spread_variance: float = SPREAD**2, **options: object
) -> Callable[[str, int], World]:
    """Tasks in 3 clusters, with other weights, inputs, sizes or noise than the standard ones."""
    truth = np.arange(TASKS) % 3

    def weights(generator: np.random.Generator) -> tuple[Array, Array]:
        centres = generator.standard_normal((3, DIMENSIONS)) * np.sqrt(centre_variance)
        own = generator.standard_normal((TASKS, DIMENSIONS)) * np.sqrt(spread_variance)
        return centres[truth] + own, _shared(truth, centre_variance, spread_variance)

    return _linear(
        weights,
        truth=truth,
        centre_variance=centre_variance,
        spread_variance=spread_variance,
        **options,
    )


def _gaussian(covariance: Array, generator: np.random.Generator) -> Array:
    """Weights ``[T, d]`` with this covariance of tasks."""
    root = np.linalg.cholesky(covariance)
    return root @ generator.standard_normal((len(covariance), DIMENSIONS))


def _chain(generator: np.random.Generator) -> tuple[Array, Array]:
    """Each task is like the one before it: an AR(1) over tasks with correlation .8."""
    steps = np.abs(np.subtract.outer(np.arange(TASKS), np.arange(TASKS)))
    covariance = VARIANCE * 0.8**steps
    return _gaussian(covariance, generator), covariance


def _factor(generator: np.random.Generator) -> tuple[Array, Array]:
    """Weights of rank two plus noise; a task's two loadings are drawn."""
    loadings = generator.standard_normal((TASKS, 2)) / np.sqrt(2)
    covariance = loadings @ loadings.T + SPREAD**2 * np.eye(TASKS)
    return _gaussian(covariance, generator), covariance


def _opposed(generator: np.random.Generator) -> tuple[Array, Array]:
    """Two clusters of six; the last task of the first wants the contrary of its fellows."""
    truth, sign = np.arange(TASKS) % 2, np.ones(TASKS)
    sign[-2] = -1
    covariance = _shared(truth, 1.0, SPREAD**2) * np.outer(sign, sign)
    return _gaussian(covariance, generator), covariance


def _graded(generator: np.random.Generator) -> tuple[Array, Array]:
    """Tasks have places on a line of length 1; likeness falls with distance as a bell of sd .25."""
    place = np.sort(generator.random(TASKS))
    distance = np.subtract.outer(place, place)
    covariance = np.exp(-0.5 * (distance / 0.25) ** 2) + SPREAD**2 * np.eye(TASKS)
    return _gaussian(covariance, generator), covariance


def _sizes(generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """From 8 to 150 rows a task, uniform on the logarithm."""
    return np.exp(generator.uniform(np.log(8), np.log(151), TASKS)).astype(np.int64)


_LOOSE = VARIANCE / 2  # centres and spread of one variance: tasks of a cluster correlate by .5

WORLDS: dict[str, Callable[[str, int], World]] = {
    "clusters 12": _clusters(samples=12),
    "clusters 40": _clusters(samples=40),
    "clusters 200": _clusters(samples=200),
    "pairs": _clusters(num_clusters=6),
    "loose": _in_clusters(centre_variance=_LOOSE, spread_variance=_LOOSE),
    "small weights": _in_clusters(centre_variance=0.3**2, spread_variance=(0.3 * SPREAD) ** 2),
    "thirty": _clusters(num_tasks=30, num_clusters=5),
    "unequal": _in_clusters(sizes=_sizes),
    "correlated inputs": _in_clusters(correlation=0.8),
    "three classes": _clusters(kind="multiclass"),
    "regression .5": _clusters(kind="regression", noise=0.5),
    "regression 3": _clusters(kind="regression", noise=3.0),
    "t noise": _in_clusters(kind="regression", noise=0.5, freedom=3.0),
    "unrelated": _clusters(num_clusters=12),
    "outlier": _clusters(num_clusters=3, outliers=1),
    "chain": _linear(_chain),
    "factor": _linear(_factor),
    "opposed": _linear(_opposed),
    "graded": _linear(_graded),
    "300 tasks": _clusters(num_tasks=300, num_clusters=10, test_samples=100),
    "1000 tasks": _clusters(num_tasks=1000, num_clusters=30, test_samples=100),
}


def draw(name: str, seed: int) -> World:
    """The world of this name and seed."""
    return WORLDS[name](name, seed)


def arrays(tasks: pv.TaskSet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs ``[T, n, d]``, targets ``[T, n]`` and which of them are there, in float64."""
    batch = tasks.dense()
    return batch.x.double(), batch.y.double(), batch.mask
