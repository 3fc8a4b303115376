"""The command of benchmarks that fit methods to splits of tables: `counts.py` and `ordinal.py`."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from split_summary import summary
from threadpoolctl import threadpool_limits

__all__ = ["run"]

SPLITS = range(400, 405)


def run(
    description: str | None,
    tables: Iterable[str],
    methods: Iterable[str],
    split: Callable[[str, int], Any],
    cell: Callable[[Any, str], dict[str, object]],
    scores: Mapping[str, tuple[str, int]],
    out: str,
) -> None:
    """Fit every method to every split, write a row for each, and print the summary.

    :param split: draws the split of a table that has this number; ``cell`` fits a method to it.
    :param scores: of :func:`split_summary.summary`.
    :param out: the name of the CSV in benchmarks/results.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=list(tables), default=list(tables))
    parser.add_argument("--methods", nargs="+", choices=list(methods), default=list(methods))
    parser.add_argument("--splits", type=int, nargs="+", default=list(SPLITS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results") / out)
    options = parser.parse_args()
    threadpool_limits(1)
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for table in options.tables:
        for number in options.splits:
            drawn = split(table, number)
            for method in options.methods:
                rows.append(cell(drawn, method))
                print(*list(rows[-1].values())[:4], flush=True)
                pd.DataFrame(rows).to_csv(options.out, index=False, float_format="%.6g")
    print(summary(pd.DataFrame(rows), scores))
