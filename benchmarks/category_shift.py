"""Classes that tasks lack in training: does what others know of them arrive?

    python -m pyro_vmtl.benchmark 'methods=[default,bmtl,vbmtl,recursive]' \\
        'datasets=[{data: digit_domains, overrides: {data.category_shift: 0.3}}]' \\
        'sizes=[3]' 'seeds=[400,401,402,403,404]' run_dir=runs/category_shift
    python benchmarks/category_shift.py runs/category_shift/results.csv

The second line fits the yardstick, `one classifier`: the network of `bmtl` with one classifier for
all tasks, on the same data and budget. It writes the scores of all to a CSV, a row a number as in
the benchmark's, and prints mean ± sd over seeds as Markdown.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from hydra import compose, initialize_config_dir

from pyro_vmtl.data import TaskSet
from pyro_vmtl.runs.configuration import config_folder, read_plan
from pyro_vmtl.runs.fits import fit_plan

METRICS = {
    "accuracy": "accuracy",
    "accuracy_seen": "seen",
    "accuracy_missing": "missing",
    "harmonic_mean": "harmonic mean",
    "nll": "NLL",
}
POOLED = "one classifier"
SETTINGS = ("data=digit_domains", "data.category_shift=0.3", "data.shots=3", "recipe=bmtl")
BUDGET = ("trainer.epochs=12", "trainer.steps_per_epoch=50", "trainer.num_particles=1")


def pooled(seed: int) -> pd.DataFrame:
    """Scores of a network that does not know which task a sample is of, ``task, metric, value``."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", [*SETTINGS, *BUDGET, f"seed={seed}"])
    # The names of run and recipe are interpolated from what a command has chosen.
    config.experiment, config.recipe, config.trainer.progress_bar = POOLED, "bmtl", False
    plan = read_plan(config)
    splits = plan.splits
    as_one = splits._replace(**{name: _as_one(part) for name, part in splits._asdict().items()})
    fitted = fit_plan(replace(plan, splits=as_one), seed, log_warnings=False)
    predictions = fitted.predict(as_one.test, config.num_samples, seed=seed)
    scores = replace(predictions, tasks=splits.test).metrics(splits.train)
    rows = [(task, name, row[name]) for task, row in scores.items() for name in METRICS]
    return pd.DataFrame(rows, columns=["task", "metric", "value"])


def _as_one(tasks: TaskSet) -> TaskSet:
    return replace(tasks, names=("all",), task=torch.zeros_like(tasks.task))


def summary(results: pd.DataFrame) -> str:
    """Means over tasks, mean ± sd over seeds, a row a method, as Markdown."""
    means = results[results["task"] == "mean"]
    lines = [f"| method | {' | '.join(METRICS.values())} |", f"| --- |{' ---: |' * len(METRICS)}"]
    for method, rows in means.groupby("method", sort=False):
        by_metric = rows.groupby("metric")["value"]
        values = [by_metric.get_group(metric) for metric in METRICS]
        cells = [f"{value.mean():.3f} ± {value.std():.3f}" for value in values]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Fit the yardstick for the benchmark's seeds, and write all scores."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="results.csv of the benchmark")
    parser.add_argument("--out", type=Path, default=Path("category_shift.csv"))
    arguments = parser.parse_args()
    results = pd.read_csv(arguments.results).drop(columns=["data", "size"])
    results = results[results["metric"].isin(METRICS)]
    for seed in results["seed"].unique().tolist():
        rows = pooled(seed).assign(method=POOLED, seed=seed)
        results = pd.concat([results, rows], ignore_index=True)
    results.to_csv(arguments.out, index=False, float_format="%.6g")
    print(summary(results))


if __name__ == "__main__":
    main()
