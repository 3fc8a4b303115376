"""Do shared priors keep their promise? Tasks in hidden clusters, where the truth is known.

Fits each prior to `clusters` for several seeds and training sizes, and scores it on fresh test data
beside single-task inference (pool `standard`):

    python benchmarks/honesty.py                        # 5 seeds at 40 samples a task
    python benchmarks/honesty.py --samples 12 40 200 --methods standard recursive

Results go to a CSV, a row a fit; rows that are there are not computed again. The summary, mean ± sd
over seeds, is printed as Markdown.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

import pyro_vmtl as pv
from pyro_vmtl.inspection import relatedness_auc

# No encoder and no bias, as in the generator; one budget for all.
STRUCTURE = {"encoder": pv.Identity(), "bias": False}
TRAINING = pv.TrainingSettings(
    epochs=30, steps_per_epoch=50, learning_rate=pv.Decay(0.03, 0.003), patience=None
)

METHODS: dict[str, Callable[[], pv.Settings]] = {
    "standard": lambda: pv.Settings(**STRUCTURE, pool=pv.Standard()),
    "recursive": lambda: pv.Settings(**STRUCTURE, pool=pv.Mixture()),
}


def score(method: str, samples: int, seed: int) -> dict[str, float | str | int]:
    """One fit on all tasks; the last epoch is kept, so that validation data play no part."""
    splits = pv.clusters(samples=samples, seed=seed)
    fitted = pv.fit(splits.train, None, METHODS[method](), TRAINING, seed=seed)
    row: dict[str, float | str | int] = {"method": method, "samples": samples, "seed": seed}
    row |= fitted.predict(splits.test, num_samples=200).metrics()["mean"]
    table = pv.relatedness(fitted)
    if len(table):
        row["auc"] = relatedness_auc(table, splits.train.truth)
    last = fitted.history.iloc[-1]
    row |= {"weights_scale": last["weights_scale"], "weights_loc": last["weights_loc"]}
    return row


def summary(results: pd.DataFrame) -> str:
    """Mean ± sd over seeds, a row a method and training size, as Markdown."""
    metrics = ["accuracy", "nll", "ece", "auc", "weights_scale", "weights_loc"]
    lines = [
        f"| samples a task | prior | seeds | {' | '.join(metrics)} |",
        "|" + "---|" * (len(metrics) + 3),
    ]
    for (samples, method), group in results.groupby(["samples", "method"], sort=False):
        cells = []
        for metric in metrics:
            values = group[metric].dropna() if metric in group else pd.Series(dtype=float)
            spread = f" ± {values.std():.3f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.3f}{spread}" if len(values) else "-")
        lines.append(f"| {samples} | {method} | {len(group)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[40], help="training sizes")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/honesty.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small: a second thread only waits
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    done = {(row["method"], row["samples"], row["seed"]) for row in rows}
    for samples in options.samples:
        for seed in range(options.seeds):
            for method in options.methods:
                if (method, samples, seed) in done:
                    continue
                rows.append(score(method, samples, seed))
                pd.DataFrame(rows).to_csv(options.out, index=False)
                print(f"{method}, {samples} samples, seed {seed}: nll {rows[-1]['nll']:.3f}")
    results = pd.DataFrame(rows)
    chosen = results["samples"].isin(options.samples) & results["method"].isin(options.methods)
    print(summary(results[chosen].sort_values(["samples", "method"])))


if __name__ == "__main__":
    main()
