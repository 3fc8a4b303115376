"""The default recipe on real digits, beside models that borrow otherwise or not at all.

    python benchmarks/digits.py                              # both sets, all methods, 5 seeds
    python benchmarks/digits.py --data rotated_digits --methods clustered "N(0, I)"

Every method has the same encoder, budget and choice of epoch (validation density), and the default
recipe's learning rate and KL weights; the learned priors differ. `single-task` has an encoder for
each task and shares nothing. Results go to a CSV, a row a fit; rows that are there are not computed
again. `ece in range` is the share of seeds whose ECE lies within the 95 % range of what a perfectly
calibrated model of the same confidences would score on as many samples. The seeds, 100 to 104, were
not looked at while the recipe was chosen.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

import pyro_vmtl as pv
from pyro_vmtl.inference import calibration_range

FIRST_SEED = 100
DATA: dict[str, Callable[..., pv.TaskSplits]] = {
    "digit_domains": pv.digit_domains,
    "rotated_digits": pv.rotated_digits,
}
DEFAULT = pv.Settings()


def _with(**choices: object) -> pv.Settings:
    return dataclasses.replace(DEFAULT, **choices)  # type: ignore[arg-type]


def _encoder(**choices: object) -> pv.MLP:
    assert isinstance(DEFAULT.encoder, pv.MLP)
    return dataclasses.replace(DEFAULT.encoder, **choices)  # type: ignore[arg-type]


METHODS: dict[str, pv.Settings] = {
    "clustered (default)": DEFAULT,
    "power": _with(pool=pv.Power(spread="scalar")),
    "geometric": _with(pool=pv.Geometric(base=True, spread="scalar")),
    "mixture, recursive": _with(pool=pv.Mixture(), lenders=pv.Recursive),
    "N(0, I)": _with(pool=pv.Standard()),
    "deterministic encoder": _with(pool=pv.Standard(), encoder=_encoder(stochastic=False)),
    "single-task": _with(pool=pv.Standard(), encoder=_encoder(per_task=True)),
}


def score(data: str, method: str, seed: int) -> dict[str, object]:
    """One fit and its test metrics."""
    started = time.perf_counter()
    splits = DATA[data](seed=seed)
    fitted = pv.fit(splits.train, splits.validation, METHODS[method], seed=seed)
    predictions = fitted.predict(splits.test)
    row: dict[str, object] = {"data": data, "method": method, "seed": seed}
    row |= predictions.metrics()["mean"]
    if splits.test.is_classification:
        # Over all tasks together: a task's test part alone has too few samples a bin.
        pooled = pv.inference.classification_metrics(predictions.mean, splits.test.y)["ece"]
        low, high = calibration_range(predictions.mean)
        row |= {"pooled ece": pooled, "ece in range": float(low <= pooled <= high)}
    return row | {"seconds": time.perf_counter() - started}


def summary(results: pd.DataFrame) -> str:
    """Mean ± sd over seeds, and NLL against the default by seed, as Markdown."""
    lines = []
    for data, rows in results.groupby("data", sort=False):
        metrics = ["accuracy", "nll", "ece", "pooled ece", "ece in range"]
        if data == "rotated_digits":
            metrics = ["nmse", "nll", "crps", "coverage_90"]
        nll = rows.pivot_table(index="seed", columns="method", values="nll")
        lines += [
            f"| {data} | seeds | {' | '.join(metrics)} | nll - default |",
            "|" + "---|" * (len(metrics) + 3),
        ]
        for method in METHODS:
            group = rows[rows["method"] == method]
            if not len(group):
                continue
            cells = [f"{group[m].mean():.3f} ± {group[m].std():.3f}" for m in metrics]
            paired = (nll[method] - nll[next(iter(METHODS))]).dropna()
            cells.append(f"{paired.mean():+.3f} ± {paired.std():.3f}")
            lines.append(f"| {method} | {len(group)} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/digits.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small: a second thread only waits
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    done = {(row["data"], row["method"], row["seed"]) for row in rows}
    for data in options.data:
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
            for method in options.methods:
                if (data, method, seed) not in done:
                    rows.append(score(data, method, seed))
                    pd.DataFrame(rows).to_csv(options.out, index=False)
                    print(data, method, seed, f"nll {rows[-1]['nll']:.3f}", flush=True)
    print(summary(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
