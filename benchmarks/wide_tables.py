"""Tables with more columns than tasks have rows: is the default worth it there?

Eight tasks with 200 correlated columns, which some factors lie behind, and targets that depend on
the factors, a little differently in every task. The product has its default for tables as wide as
these, the nested prior on 50 principal components:

    python benchmarks/wide_tables.py                  # seeds 405 to 409, some minutes
    python benchmarks/wide_tables.py --seeds 0 1 2    # seeds to develop with

Rivals are those of `tables.py`. Results go to a CSV, a row a world, seed and method; those that are
there are not computed again. The table is printed as Markdown.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from table_rivals import RIVALS
from table_sources import Rows, Split
from tables import product, scores
from threadpoolctl import threadpool_limits
from wide_summary import METHODS, SEEDS, WORLDS, summary

import pyro_vmtl as pv

TASKS, COLUMNS, TEST_ROWS = 8, 200, 200


def draw(world: str, seed: int) -> Split:
    """Training and test rows, standardised by the training rows."""
    factors, rows, is_classification = WORLDS[world]
    generator = np.random.default_rng((seed, 13))
    loadings = generator.normal(size=(factors, COLUMNS)) * (0.9 / factors) ** 0.5
    common = generator.normal(size=factors)
    weights = common + 0.3 * generator.normal(size=(TASKS, factors))
    parts = []
    for count in (rows, TEST_ROWS):
        task = np.repeat(np.arange(TASKS), count)
        seen = generator.normal(size=(len(task), factors))
        x = seen @ loadings + 0.1**0.5 * generator.normal(size=(len(task), COLUMNS))
        eta = 2 * (seen * weights[task]).sum(1) / factors**0.5
        y = eta + (generator.logistic if is_classification else generator.normal)(size=len(task))
        parts.append([x, (y > 0).astype(float) if is_classification else y, task])
    (x, y, _), _ = parts
    for part in parts:
        part[0] = (part[0] - x.mean(0)) / x.std(0)
        if not is_classification:
            part[1] = (part[1] - y.mean()) / y.std()
    names = tuple(f"task {t}" for t in range(TASKS))
    return Split(world, seed, is_classification, names, *(Rows(*part) for part in parts))


def cell(world: str, seed: int, method: str) -> dict[str, object]:
    """One fit and its scores."""
    split = draw(world, seed)
    started = time.process_time()
    if method == "pyro_vmtl":
        predict = product(split, encoder=pv.PrincipalComponents())
    else:
        predict = RIVALS[method](split)
    seconds = time.process_time() - started
    found = scores(split, predict(split.test))
    return {"world": world, "seed": seed, "method": method, "seconds": seconds, **found}


def main() -> None:
    """Compute what is missing, and print the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    default = Path(__file__).parent / "results" / "wide_tables.csv"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    threadpool_limits(1)
    torch.set_num_threads(1)
    saved = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    rows = {(row["world"], row["seed"], row["method"]): row for row in saved}
    for case in [(w, s, m) for w in WORLDS for s in options.seeds for m in METHODS]:
        if case not in rows:
            rows[case] = cell(*case)
            pd.DataFrame(rows.values()).to_csv(options.out, index=False)
            print(*case, f"nll {rows[case]['nll']:.3f}", flush=True)
    found = pd.DataFrame(rows.values())
    print(summary(found[found["seed"].isin(options.seeds)]))


if __name__ == "__main__":
    main()
