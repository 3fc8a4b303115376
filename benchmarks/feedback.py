"""Does feedback between outputs find what no prior of weights can?

Real digits (`relabelled_digits`), 8 images a class and task: three tasks label them by one code,
one task by a permutation of it, so that the lone task has nobody whose weights would help.

    python benchmarks/feedback.py                     # seeds 400 to 404, a quarter of an hour
    python benchmarks/feedback.py --seeds 0 1 2       # seeds to develop with

- `lone`: test NLL of the lone task with feedback, with no lenders under the same prior of its own
  weights, N(0, 4 I), with `standard`, N(0, I), and with the pool nested, all in closed form on the
  same principal components; for how many of the ten columns of its maps, of each of the three
  lenders and of their sum, the largest entry is that of the true permutation; and the chances of
  its gates;
- `random`: the labels of the three lenders are dealt out at random: the same of what is left.

Results go to a CSV, the summary over seeds, mean ± sd, is printed as Markdown.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.datasets import load_digits

import pyro_vmtl as pv

SEEDS = (400, 401, 402, 403, 404)
SHOTS = 8
SEPARATE = [1e-3]  # maps of next to nothing: every task by itself
POOLS: dict[str, pv.Pool] = {
    "feedback": pv.Feedback(),
    "no lenders": pv.Feedback(map_scales=SEPARATE),
    "standard": pv.Feedback(own_scale=1.0, map_scales=SEPARATE),
    "nested": pv.Nested(),
}
RESULTS = Path(__file__).parent / "results" / "feedback" / "feedback.csv"


def drawn(seed: int, random: bool = False) -> pv.TaskSplits:
    """The lone task, then the three lenders.

    :param random: whether the lenders' training labels are dealt out at random.
    """
    splits = pv.relabelled_digits(shots=SHOTS, validation_shots=0, seed=seed)
    names = splits.train.names
    chosen = [names[0], *names[1::2]]
    train, validation, test = (
        part.select(chosen) for part in (splits.train, splits.validation, splits.test)
    )
    if random:
        generator = torch.Generator().manual_seed(seed)
        y = train.y.clone()
        for lender in range(1, len(chosen)):
            rows = train.indices(lender)
            y[rows] = y[rows][torch.randperm(len(rows), generator=generator)]
        train = dataclasses.replace(train, y=y)
    return pv.TaskSplits(train, validation, test)


def truth(train: pv.TaskSet) -> npt.NDArray[Any]:
    """For each class of the lenders, the lone task's class of the same digit, ``[10]``."""
    assert train.sources is not None
    digit = load_digits().target[train.sources.numpy()]
    task, y = train.task.numpy(), train.y.numpy()
    code = [dict(zip(digit[task == t], y[task == t], strict=True)) for t in (0, 1)]
    return np.array([code[0][d] for d in sorted(range(10), key=lambda d: int(code[1][d]))])


def fitted(train: pv.TaskSet, name: str) -> pv.FittedVMTL:
    """With one of the pools."""
    settings = pv.Settings(encoder=pv.PrincipalComponents(50), pool=POOLS[name])
    return pv.fit(train, settings=settings, log_warnings=False)


def measured(seed: int, check: str, name: str) -> list[dict[str, Any]]:
    """Rows of numbers."""
    splits = drawn(seed, random=check == "random")
    model = fitted(splits.train, name)
    of_lone = (splits.test.task == 0).numpy()
    density = model.predict(splits.test, 1000).log_density.numpy()[of_lone]
    numbers = {"nll": -float(density.mean())}
    if name == "feedback":
        gates = model.vmtl.borrowing["weights"].probabilities()[0]  # type: ignore[operator]
        numbers |= {f"gate {u}": float(gate) for u, gate in enumerate(gates, 1)}
        if check == "lone":
            maps, true = pv.output_maps(model)[0], truth(splits.train)
            for u in (1, 2, 3):
                numbers[f"columns {u}"] = float((maps[u].argmax(0) == true).sum())
            numbers["columns of the sum"] = float((maps.sum(0).argmax(0) == true).sum())
    known = {"check": check, "seed": seed, "pool": name}
    return [known | {"number": number, "value": value} for number, value in numbers.items()]


def markdown(kind: str, parts: Iterable[tuple[str, str, str, pd.Series]]) -> str:
    """A Markdown table over seeds of ``check, kind, number`` and its values."""
    lines = [f"| check | {kind} | number | seeds | mean ± sd | least | most |", "|---" * 7 + "|"]
    for check, name, number, value in parts:
        if len(value):
            lines.append(
                f"| {check} | {name} | {number} | {len(value)} | {value.mean():.3f} ± "
                f"{value.std():.3f} | {value.min():.3f} | {value.max():.3f} |"
            )
    return "\n".join(lines)


def summary(results: pd.DataFrame) -> str:
    """A Markdown table over seeds; of NLL also what feedback has less of it."""
    wide = results.pivot_table(index=["check", "seed"], columns=["pool", "number"], values="value")
    parts = [(*key, part["value"]) for key, part in results.groupby(["check", "pool", "number"])]
    for check in results["check"].unique():
        nll = wide.loc[check].xs("nll", axis=1, level="number")
        for pool in nll.columns.drop("feedback"):
            gain = (nll[pool] - nll["feedback"]).dropna()
            parts.append((check, pool, "NLL more than with feedback", gain))
    return markdown("pool", parts)


def measure(
    kind: str,
    default: Path,
    cells: Callable[[list[int]], Iterable[tuple[int, str, str]]],
    measured: Callable[[int, str, str], list[dict[str, object]]],
    about: str | None,
) -> pd.DataFrame:
    """Measure what is not there yet of the cells ``(seed, check, kind)``, as the command line says.

    :param default: the CSV of results, a row a number.
    :param about: what ``--help`` says.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame()
    for seed, check, name in cells(options.seeds):
        key = {"check": check, "seed": seed, kind: name}
        if len(results) and (results[list(key)] == list(key.values())).all(axis=1).any():
            continue
        results = pd.concat([results, pd.DataFrame(measured(seed, check, name))], ignore_index=True)
        results.to_csv(options.out, index=False, float_format="%.6g")
    return results


def _cells(seeds: list[int]) -> Iterator[tuple[int, str, str]]:
    for name in POOLS:
        for seed in seeds:
            for check in ("lone",) if name == "nested" else ("lone", "random"):
                yield seed, check, name


if __name__ == "__main__":
    print(summary(measure("pool", RESULTS, _cells, measured, __doc__)))
