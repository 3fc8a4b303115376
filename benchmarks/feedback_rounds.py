"""Does feedback between the outputs of a row find what outputs say of each other?

Simulated tables of four tasks, ten columns and two outputs, 0 or 1.

    python benchmarks/feedback_rounds.py                     # seeds 400 to 404, some minutes
    python benchmarks/feedback_rounds.py --seeds 0 1 2       # seeds to develop with

- `heard`: y_2 follows y_1's output, a steep function of x; of every task 150 rows know y_1 and 15
  of them y_2. Held-out NLL of y_2 under the likelihoods Bernoulli and FeedbackBernoulli, and the
  gates;
- `unrelated`: the same, where y_2 has weights of its own;
- `mutual`: y_1 hears y_2 by 2 and y_2 hears y_1 by -2, for 50 rounds, after which outputs are at
  rest; 300 rows of each task know both;
- `coupled`: the same with 6 and -6, and three rounds, of which the last still moves outputs about
  as much as the first. Also without the convergence term.

`last move` is |o^(3) - o^(2)| / |o^(1)| on the test rows, at the posterior mean of the weights.

Results go to a CSV, the summary over seeds, mean ± sd, is printed as Markdown.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from feedback import markdown, measure

import pyro_vmtl as pv
from pyro_vmtl.model import FeedbackBernoulliLikelihood

TASKS, COLUMNS = 4, 10
LABELS = {"heard": (150, 15), "unrelated": (150, 15), "mutual": (300, 300), "coupled": (300, 300)}
LOOPS = {"mutual": (2.0, 50), "coupled": (6.0, 3)}  # the size of maps, and rounds
TESTED = 1000  # rows of each task
LIKELIHOODS: dict[str, pv.Bernoulli | pv.FeedbackBernoulli] = {
    "Bernoulli": pv.Bernoulli(),
    "feedback": pv.FeedbackBernoulli(),
    "feedback, c = 0": pv.FeedbackBernoulli(convergence=0.0),
}
RESULTS = Path(__file__).parent / "results" / "feedback" / "rounds.csv"


def logits(check: str, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The log odds of both outputs, ``[n, 2]``.

    :param x: ``[n, COLUMNS]``; ``w``: ``[2, COLUMNS]`` of the standard deviation 1.
    """
    eta = 6 * x @ w.T / math.sqrt(COLUMNS)
    if check == "heard":
        return torch.stack([eta[:, 0], 4 * (eta[:, 0] / 2).tanh()], -1)
    out = eta
    size, rounds = LOOPS.get(check, (0.0, 1))
    for _ in range(rounds - 1):
        out = eta + size * (out / 2).tanh().flip(-1) * torch.tensor([1.0, -1.0])
    return out


def drawn(seed: int, check: str) -> tuple[pv.TaskSet, pv.TaskSet]:
    """Training rows, of which few know y_2, and test rows, which know both."""
    generator = torch.Generator().manual_seed(seed)
    count = LABELS[check][0] + TESTED
    x = torch.randn(TASKS, count, COLUMNS, generator=generator)
    w = torch.randn(TASKS, 2, COLUMNS, generator=generator)
    odds = torch.stack([logits(check, *pair) for pair in zip(x, w, strict=True)])
    y = torch.bernoulli(odds.sigmoid(), generator=generator)
    told, few = LABELS[check]
    y[:, few:told, 1] = torch.nan

    def tasks(rows: slice) -> pv.TaskSet:
        task = torch.arange(TASKS).repeat_interleave(x[:, rows].shape[1])
        names = tuple("abcd")
        return pv.TaskSet(
            names, x[:, rows].flatten(0, 1), y[:, rows].flatten(0, 1), task, classes=None
        )

    return tasks(slice(told)), tasks(slice(told, None))


def measured(seed: int, check: str, name: str) -> list[dict[str, Any]]:
    """Rows of numbers."""
    train, test = drawn(seed, check)
    settings = pv.Settings(pool=pv.Nested(), likelihood=LIKELIHOODS[name])
    fitted = pv.fit(train, settings=settings, log_warnings=False)
    density = fitted.predict(test, 1000).by_output().log_density.view(-1, 2)
    numbers = {f"nll of y_{k + 1}": -float(density[:, k].mean()) for k in (0, 1)}
    likelihood = fitted.vmtl.likelihood
    if isinstance(likelihood, FeedbackBernoulliLikelihood):
        gates, maps = likelihood.square(likelihood.gates), likelihood.maps
        numbers |= {"gate of y_2": float(gates[1, 0]), "gate of y_1": float(gates[0, 1])}
        numbers |= {"map of y_2": float(maps[1, 0]), "map of y_1": float(maps[0, 1])}
        weights, by_task = fitted.vmtl.classifier.loc, test.dense()
        z = fitted.vmtl.encoder(by_task.x).mean.double()
        eta = z @ weights[..., :-1].mT + weights[..., -1].unsqueeze(1)
        first, *_, before, last = likelihood.outputs(eta)
        numbers["last move"] = float((last - before).norm() / first.norm())
    known = {"check": check, "seed": seed, "likelihood": name}
    return [known | {"number": number, "value": value} for number, value in numbers.items()]


def summary(results: pd.DataFrame) -> str:
    """A Markdown table over seeds; of the NLL of y_2 also what feedback has less of it."""
    parts = [
        (*key, part["value"]) for key, part in results.groupby(["check", "likelihood", "number"])
    ]
    nll = results[results["number"] == "nll of y_2"].pivot_table(
        index=["check", "seed"], columns="likelihood", values="value"
    )
    for check, gain in (nll["Bernoulli"] - nll["feedback"]).groupby("check"):
        parts.append((check, "Bernoulli", "NLL of y_2 more than with feedback", gain))
    return markdown("likelihood", parts)


def _cells(seeds: list[int]) -> Iterator[tuple[int, str, str]]:
    for seed in seeds:
        for check in LABELS:
            for name in LIKELIHOODS if check == "coupled" else ("Bernoulli", "feedback"):
                yield seed, check, name


if __name__ == "__main__":
    print(summary(measure("likelihood", RESULTS, _cells, measured, __doc__)))
