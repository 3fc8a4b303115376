"""Do stated chances of relatedness come true where the prior holds?

Tasks of two classes are drawn from the nested prior itself: a partition, all scales, the weights,
and then the data. The product is fitted to them, and its chances that two tasks share a cluster are
held against the partitions that were drawn:

    python benchmarks/chances.py              # seeds 400 to 449, some minutes
    python benchmarks/chances.py --seeds 0 1 2

Results go to a CSV, the 66 pairs of 12 tasks of every seed; seeds that are there are not computed
again. The reliability table is printed as Markdown.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from simulated import reliability
from simulated_worlds import DIMENSIONS, SAMPLES, TASKS

import pyro_vmtl as pv
from pyro_vmtl.model.priors.gibbs import Hyperpriors
from pyro_vmtl.model.priors.moves import DOF, LEAST, MOST, MOST_SPREAD

SEEDS = tuple(range(400, 450))
COLUMNS = ["seed", "method", "task", "other", "probability", "truth"]

Array = npt.NDArray[np.float64]


def _log_variance(generator: np.random.Generator, scale: float, most: float = MOST) -> float:
    """The logarithm of a variance whose root is half-t, where the product allows it to be."""
    while True:
        drawn = 2 * math.log(scale * abs(generator.standard_t(DOF)))
        if LEAST < drawn < most:
            return drawn


def _log_deviations(generator: np.random.Generator, prior: Hyperpriors) -> Array:
    """The logarithms of V by feature, ``[d]``."""
    while True:
        centre = _log_variance(generator, prior.deviation)
        spread = math.exp(_log_variance(generator, prior.deviation_spread, MOST_SPREAD))
        logs: Array = generator.normal(centre, math.sqrt(spread), DIMENSIONS)
        if logs.min() > LEAST and logs.max() < MOST:
            return logs


def draw(seed: int) -> tuple[pv.TaskSet, npt.NDArray[np.int64]]:
    """Tasks whose partition, scales and weights come from the prior, and the partition ``[T]``."""
    generator = np.random.default_rng((seed, 7))
    prior = Hyperpriors(torch.arange(DIMENSIONS), torch.zeros(1, DIMENSIONS, dtype=torch.bool))
    components = generator.geometric(1 / prior.expected)
    shares = generator.dirichlet([prior.gamma] * components)
    truth = generator.choice(components, TASKS, p=shares)
    mean, cluster = (
        math.exp(0.5 * _log_variance(generator, scale)) for scale in (prior.mean, prior.cluster)
    )
    weights = mean * generator.standard_normal(DIMENSIONS)
    weights = weights + cluster * generator.standard_normal((components, DIMENSIONS))[truth]
    own = np.exp(0.5 * _log_deviations(generator, prior))
    weights = weights + own * generator.standard_normal((TASKS, DIMENSIONS))
    x = generator.standard_normal((TASKS, SAMPLES, DIMENSIONS))
    scores = np.einsum("tnd,td->tn", x, weights)
    y = (scores + generator.logistic(size=scores.shape) > 0).astype(np.int64)
    tasks = {f"task {t}": (x[t].astype(np.float32), y[t]) for t in range(TASKS)}
    return pv.TaskSet.from_arrays(tasks, classes=(0, 1)), truth


def stated(seed: int) -> pd.DataFrame:
    """The chances that the product states of every pair, and whether the two share a cluster."""
    tasks, truth = draw(seed)
    fitted = pv.fit(tasks, settings=pv.Settings(bias=False), seed=seed, log_warnings=False)
    table = pv.relatedness(fitted)
    place = {name: t for t, name in enumerate(tasks.names)}
    task, other = (table[column].map(place) for column in ("task", "other"))
    table = table.assign(task=task, other=other, truth=truth[task] == truth[other])
    return table[task < other].assign(seed=seed, method="pyro_vmtl")[COLUMNS]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/chances.csv.gz"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=COLUMNS)
    for seed in options.seeds:
        if seed in set(pairs["seed"]):
            continue
        pairs = pd.concat([pairs, stated(seed)]) if len(pairs) else stated(seed)
        aside = options.out.with_name(f"new_{options.out.name}")
        pairs.to_csv(aside, index=False, float_format="%.6g")
        aside.replace(options.out)
    print(reliability(pairs[pairs["seed"].isin(options.seeds)]))


if __name__ == "__main__":
    main()
