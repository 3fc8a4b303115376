"""New tasks after a fit: is it worth it to fit anew?

Nine tasks in three hidden clusters are fitted with 40 rows each. Then three more come, one of
each cluster, with a few rows or none. `add_task` lets them join the fitted model, `refit` fits all
twelve from scratch, `pooled` fits all twelve as one, and `alone` fits each new task by itself.

    python benchmarks/new_tasks.py                    # seeds 400 to 404, some minutes
    python benchmarks/new_tasks.py --seeds 0 1 2 3 4  # seeds to develop with

The score is the mean log density of 500 test rows of each new task; of a regression in the unit of
the nine tasks' standardised targets. A fit needs a row of every task, and of classes one of each:
without, there is no `refit`, `pooled` predicts by the nine tasks' fit, and `alone` is a guess: a
coin, or the mean and the variance of the nine tasks' targets. Milliseconds of the CPU are those
of a fit, and of `add_task` with all three.

Results go to a CSV, a row a world, seed, number of rows and method; those that are there are not
computed again. The table is printed as Markdown.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import torch

import pyro_vmtl as pv

SEEDS = (400, 401, 402, 403, 404)
ROWS = (0, 2, 4, 8, 16, 30)
WORLDS = ("binary", "regression")
OLD, NEW, DIMENSIONS = 9, 3, 8
Models: TypeAlias = dict[str, pv.FittedVMTL | None]  # of each new task the one that predicts it

POOLED = {"pool": pv.Nested(clusters=False, deviation="none")}


@dataclass
class World:
    """One draw of the tasks.

    :ivar kind: ``binary`` or ``regression``.
    """

    kind: str
    seed: int

    def __post_init__(self) -> None:
        options = {"dimensions": DIMENSIONS, "kind": self.kind, "seed": self.seed}
        self.drawn = pv.clusters(OLD + NEW, **options)
        self.old, self.new = self.drawn.train.names[:OLD], self.drawn.train.names[OLD:]
        self.known = self.drawn.train.select(self.old)

    def train(self, rows: int) -> pv.TaskSet:
        """All training rows of the old tasks, and the first few of the new."""
        train = self.drawn.train
        index = [train.indices(name) for name in self.old]
        return train.subset(torch.cat(index + [train.indices(name)[:rows] for name in self.new]))

    def fit(self, tasks: pv.TaskSet, **choices: pv.Pool) -> pv.FittedVMTL:
        """A fit, which standardises the inputs."""
        settings = pv.Settings(encoder=pv.Identity(standardise=True), **choices)
        return pv.fit(tasks, settings=settings, seed=self.seed, log_warnings=False)

    @cached_property
    def fitted(self) -> pv.FittedVMTL:
        """The old tasks' fit."""
        return self.fit(self.known)

    @cached_property
    def pooled(self) -> pv.FittedVMTL:
        """The old tasks' fit as one task."""
        return self.fit(self.known, **POOLED)

    def guess(self, y: torch.Tensor) -> torch.Tensor:
        """The log density of a new task's targets, of which nothing is known."""
        if self.known.is_classification:
            return torch.full_like(y, -math.log(self.known.num_classes), dtype=torch.float64)
        old = self.known.y.double()
        return torch.distributions.Normal(old.mean(), old.std()).log_prob(y)

    def density(self, models: Models) -> float:
        """The mean log density of the new tasks' test rows; a guess where there is no model."""
        test, told = self.drawn.test, {}
        for fitted in {id(fitted): fitted for fitted in models.values() if fitted}.values():
            asked = test.select(fitted.names)
            log_density = fitted.predict(asked).log_density.double()
            told |= {name: log_density[asked.indices(name)] for name in fitted.names}
        for name in models.keys() - told.keys():
            told[name] = self.guess(test.y[test.indices(name)])
        return float(torch.stack([told[name].mean() for name in models]).mean())


def add_task(world: World, rows: int) -> Models:
    """The new tasks join."""
    fitted = world.fitted.add_task(world.train(rows).select(world.new))
    return dict.fromkeys(world.new, fitted)


def refit(world: World, rows: int) -> Models:
    """All tasks from scratch."""
    return dict.fromkeys(world.new, world.fit(world.train(rows))) if rows else {}


def pooled(world: World, rows: int) -> Models:
    """All tasks as one."""
    train = world.train(rows)
    fitted = world.fit(train, **POOLED) if rows else world.pooled.add_task(train.select(world.new))
    return dict.fromkeys(world.new, fitted)


def alone(world: World, rows: int) -> Models:
    """Each new task by itself."""
    parts = {name: world.train(rows).select([name]) for name in world.new}
    return {
        name: world.fit(own) if rows and bool((own.class_counts > 0).all()) else None
        for name, own in parts.items()
    }


METHODS: dict[str, Callable[[World, int], Models]] = {
    "add_task": add_task,
    "refit": refit,
    "alone": alone,
    "pooled": pooled,
}


def cells(world: World) -> Iterator[dict[str, object]]:
    """The scores of every method for every number of rows."""
    unit = float(world.known.y.std().log()) if world.kind == "regression" else 0.0
    assert world.fitted.names == world.old  # its own time counts for nobody
    assert world.pooled.names == world.old
    for rows in ROWS:
        for name, method in METHODS.items():
            started = time.process_time()
            models = method(world, rows)
            spent = 1000 * (time.process_time() - started)
            if models:
                key = {"world": world.kind, "seed": world.seed, "rows": rows, "method": name}
                density = world.density(models) + unit
                yield key | {"density": density, "milliseconds": spent}


def summary(results: pd.DataFrame) -> str:
    """A row a world and number of rows, means ± standard errors over seeds, as Markdown."""
    head = ["world", "rows", *METHODS, "add_task - refit", "add_task, ms", "refit, ms"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (world, rows), part in results.groupby(["world", "rows"]):
        density, spent = (
            part.pivot(index="seed", columns="method", values=value).reindex(columns=list(METHODS))
            for value in ("density", "milliseconds")
        )
        shown = [_mean(density[name]) for name in METHODS]
        shown.append(_mean(density["add_task"] - density["refit"], sign="+"))
        shown += [_whole(spent[name]) for name in ("add_task", "refit")]
        lines.append(f"| {world} | {rows} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _whole(values: pd.Series) -> str:
    return f"{values.mean():.0f}" if values.notna().any() else "-"


def _mean(values: pd.Series, sign: str = "") -> str:
    values = values.dropna()
    if not len(values):
        return "-"
    error = f" ± {values.std() / math.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.3f}{error}"


def main() -> None:
    """Compute what is missing, and print the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=WORLDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    default = Path(__file__).parent / "results" / "new_tasks.csv"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame()
    for kind in options.worlds:
        for seed in options.seeds:
            if len(results) and ((results["world"] == kind) & (results["seed"] == seed)).any():
                continue
            results = pd.concat([results, pd.DataFrame(cells(World(kind, seed)))])
            results.to_csv(options.out, index=False, float_format="%.6g")
            print(kind, seed, flush=True)
    wanted = results["world"].isin(options.worlds) & results["seed"].isin(options.seeds)
    print(summary(results[wanted]))


if __name__ == "__main__":
    main()
