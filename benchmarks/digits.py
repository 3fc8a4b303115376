"""Digits against what anyone would try first: regressions, networks, and a Gaussian process.

python benchmarks/digits.py                    seeds 400 to 409, 1 and 3 images a class and task
python benchmarks/digits.py --seeds 0 1        others

Every method sees the same images: training images to fit, as many validation images to choose when
training ends, a kernel's width or a temperature, and test images that are scored once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy, nll_loss, one_hot

import pyro_vmtl as pv
from pyro_vmtl.inference.metrics import calibration_range, classification_metrics
from pyro_vmtl.model.encoders import mlp

OUT = Path(__file__).parent / "results" / "digits" / "digits.csv"
_Method = Callable[[pv.TaskSplits, int], torch.Tensor]


def default(splits: pv.TaskSplits, seed: int) -> torch.Tensor:
    """The library's default."""
    fitted = pv.fit(splits.train, splits.validation, seed=seed, log_warnings=False)
    return fitted.predict(splits.test).mean


def network(splits: pv.TaskSplits, seed: int) -> torch.Tensor:
    """One network with one head for the images of all tasks, stopped where validation is best."""
    torch.manual_seed(seed)
    x, y = splits.train.x, splits.train.y
    net = mlp((64,), (256,), 10, 0.2)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-4)
    best, kept = np.inf, torch.zeros(len(splits.test), 10)
    for step in range(1, 1001):
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
        if step % 20 == 0:
            net.eval()
            with torch.no_grad():
                score = float(cross_entropy(net(splits.validation.x), splits.validation.y))
                if score < best:
                    best, kept = score, net(splits.test.x).softmax(-1)
            net.train()
    return kept


def four_networks(splits: pv.TaskSplits, seed: int) -> torch.Tensor:
    """The average of four such networks."""
    return torch.stack([network(splits, 1000 * seed + k) for k in range(4)]).mean(0)


def logistic(splits: pv.TaskSplits, seed: int) -> torch.Tensor:
    """One logistic regression on the pixels of all tasks; validation data choose the penalty."""
    return _logistic(splits, per_task=False)


def logistic_per_task(splits: pv.TaskSplits, seed: int) -> torch.Tensor:
    """One for each task, all with one penalty."""
    return _logistic(splits, per_task=True)


def _logistic(splits: pv.TaskSplits, per_task: bool) -> torch.Tensor:
    train, validation, test = splits.train, splits.validation, splits.test
    best, kept = np.inf, torch.zeros(len(test), 10)
    for penalty in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0):
        chances = [torch.zeros(len(part), 10, dtype=torch.float64) for part in (validation, test)]
        for task in range(train.num_tasks) if per_task else (None,):
            rows = [
                torch.ones_like(part.task, dtype=torch.bool) if task is None else part.task == task
                for part in splits
            ]
            model = LogisticRegression(C=penalty, max_iter=2000)
            model.fit(train.x[rows[0]], train.y[rows[0]])
            for out, part, those in zip(chances, (validation, test), rows[1:], strict=True):
                out[those] = torch.from_numpy(model.predict_proba(part.x[those])).double()
        seen = chances[0].clamp_min(1e-12)
        score = float(nll_loss(seen.log(), validation.y))
        if score < best:
            best, kept = score, chances[1]
    return kept


def gaussian_process(splits: pv.TaskSplits, seed: int) -> torch.Tensor:
    """Least squares on labels with a kernel of pixels and tasks, and a temperature.

    The kernel is k(x, x') (1 - c + c [same task]) with a squared exponential k; width, noise, c and
    the temperature have the best validation density.
    """
    train, validation, test = splits.train, splits.validation, splits.test
    labels = one_hot(train.y, 10).double() - 0.1

    def kernel(one: pv.TaskSet, two: pv.TaskSet, width: float, own: float) -> torch.Tensor:
        near = (-torch.cdist(one.x.double(), two.x.double()).square() / (2 * width**2)).exp()
        same = (one.task[:, None] == two.task).double()
        return near * (1 - own + own * same)

    best, kept = np.inf, torch.zeros(len(test), 10)
    for width in (1.0, 1.5, 2.0, 3.0):
        for own in (0.1, 0.3, 0.6):
            inner, seen = (kernel(s, train, width, own) for s in (train, validation))
            for noise in (0.01, 0.03, 0.1):
                eye = torch.eye(len(train), dtype=torch.float64)
                weights = torch.linalg.solve(inner + noise * eye, labels)
                for heat in (2.0, 4.0, 6.0, 8.0, 12.0, 16.0):
                    score = float(cross_entropy(heat * seen @ weights, validation.y))
                    if score < best:
                        best = score
                        kept = (heat * kernel(test, train, width, own) @ weights).softmax(-1)
    return kept


METHODS: dict[str, _Method] = {
    "default": default,
    "logistic, per task": logistic_per_task,
    "logistic, pooled": logistic,
    "one network": network,
    "four networks": four_networks,
    "Gaussian process": gaussian_process,
}


def scores(chances: torch.Tensor, test: pv.TaskSet) -> dict[str, float | bool]:
    """Means over tasks; ECE is that of all test images together."""
    chances = chances.double().clamp_min(1e-12)
    nll = -chances.gather(1, test.y[:, None]).squeeze(1).log()
    right = (chances.argmax(1) == test.y).double()
    tasks = range(test.num_tasks)
    ece = classification_metrics(chances, test.y)["ece"]
    low, high = calibration_range(chances)
    return {
        "accuracy": float(np.mean([float(right[test.task == t].mean()) for t in tasks])),
        "nll": float(np.mean([float(nll[test.task == t].mean()) for t in tasks])),
        "pooled_ece": ece,
        "in_range": low <= ece <= high,
    }


def summary(table: pd.DataFrame) -> str:
    """Mean ± sd over seeds as Markdown, a row a size and method."""
    heads = ("images", "method", "accuracy", "NLL", "pooled ECE", "in range", "CPU s")
    lines = ["| " + " | ".join(heads) + " |", "| ---: | --- |" + " ---: |" * 5]
    for (shots, method), rows in table.groupby(["shots", "method"], sort=False):
        cells = [
            f"{rows[name].mean():.3f} ± {rows[name].std():.3f}"
            for name in ("accuracy", "nll", "pooled_ece")
        ]
        cells.append(f"{rows['in_range'].sum()} of {len(rows)}")
        cells.append(f"{rows['seconds'].mean():.1f}")
        lines.append(f"| {shots} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Fit, score, write a row each and print what they come to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(400, 410)))
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for shots in arguments.shots:
        for seed in arguments.seeds:
            splits = pv.digit_domains(shots=shots, seed=seed)
            for name in arguments.methods:
                started = time.process_time()
                chances = METHODS[name](splits, seed)
                row = {"shots": shots, "seed": seed, "method": name}
                row |= scores(chances, splits.test) | {"seconds": time.process_time() - started}
                print(row, file=sys.stderr, flush=True)
                rows.append(row)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.round(4).to_csv(arguments.out, index=False)
    print(summary(table))


if __name__ == "__main__":
    main()
