"""How sure is relatedness of images, where tasks of two codes differ in some labels alone?

Six tasks of digits (`data=relabelled_digits`), three of each code, which exchange so many digits
in a circle. The fewer, the more alike the tasks are, down to two digits, where four fifths of the
images say the same. Scored are the chances of pairs to share a cluster, against the codes, and test
NLL beside complete pooling and an oracle that knows the codes:

    python benchmarks/exchanged.py

A row a fit goes to the CSV; the summary, mean ± sd over seeds, is printed as Markdown. The seeds,
425 to 429, had been looked at before, with former defaults.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

import pyro_vmtl as pv
from pyro_vmtl.inspection import related_pairs, relatedness_auc

EXCHANGED = (2, 3, 5, 10)
POOLS = {
    "nested": pv.Nested(),
    "complete pooling": pv.Nested(clusters=False, deviation="none"),
    "oracle": pv.Nested(known=[0, 1, 0, 1, 0, 1]),
}


def score(
    exchanged: int, images: int, method: str, seed: int, unvalidated: bool = False
) -> dict[str, object]:
    """One fit and what it says."""
    splits = pv.relabelled_digits(shots=images, exchanged=exchanged, seed=seed)
    settings = pv.Settings(pool=POOLS[method])
    validation = None if unvalidated else splits.validation
    fitted = pv.fit(splits.train, validation, settings, seed=seed, log_warnings=False)
    row: dict[str, object] = {"exchanged": exchanged, "images": images, "method": method}
    row |= {"seed": seed, "nll": fitted.predict(splits.test).metrics()["mean"]["nll"]}
    if method == "nested":
        assert splits.train.truth is not None
        table = pv.relatedness(fitted)
        pairs = related_pairs(table, splits.train.truth)
        chance, related = pairs["score"], pairs["related"].astype(bool)
        row |= {
            "chance, same code": chance[related].mean(),
            "chance, other code": chance[~related].mean(),
            "Brier": ((chance - related) ** 2).mean(),
            "AUC": relatedness_auc(table, splits.train.truth),
        }
    return row


def summary(results: pd.DataFrame) -> str:
    """Mean ± sd over seeds as Markdown."""
    measured = [name for name in results if name not in ("exchanged", "images", "method", "seed")]
    lines = [
        f"| exchanged | images | prior | {' | '.join(measured)} |",
        "|" + "---|" * (len(measured) + 3),
    ]
    keys = ["exchanged", "images", "method"]
    for (exchanged, images, method), group in results.groupby(keys, sort=False):
        cells = [
            "-"
            if group[name].isna().all()
            else f"{group[name].mean():.3f} ± {group[name].std():.3f}"
            for name in measured
        ]
        lines.append(f"| {exchanged} | {images} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(425, 430)))
    parser.add_argument("--exchanged", type=int, nargs="+", default=list(EXCHANGED))
    parser.add_argument("--images", type=int, nargs="+", default=[3], help="per class and task")
    parser.add_argument("--methods", nargs="+", choices=POOLS, default=list(POOLS))
    parser.add_argument("--unvalidated", action="store_true", help="fit without validation images")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/exchanged.csv"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the tensors are small: a second thread only waits
    rows = []
    for exchanged in options.exchanged:
        for images in options.images:
            for method in options.methods:
                for seed in options.seeds:
                    rows.append(score(exchanged, images, method, seed, options.unvalidated))
                    print(rows[-1], flush=True)
    results = pd.DataFrame(rows)
    results.to_csv(options.out, index=False)
    print(summary(results))


if __name__ == "__main__":
    main()
