"""The summary of what `counts.py` and `ordinal.py` find, as Markdown; it needs pandas alone."""

from collections.abc import Mapping

import pandas as pd

__all__ = ["COUNTS", "ORDINAL", "summary"]

COUNTS = {"rmse": ("RMSE", 2), "coverage": ("coverage of 90%", 2)}
ORDINAL = {"accuracy": ("accuracy", 3), "rps": ("RPS", 3)}
"""Of each score beside the NLL its title, and how many decimals are shown."""


def summary(results: pd.DataFrame, scores: Mapping[str, tuple[str, int]]) -> str:
    """Means over splits, a row a table and method, as Markdown."""
    titles = ["table", "method", "NLL", *(title for title, _ in scores.values()), "CPU s"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for table in dict.fromkeys(results["table"]):
        mean = results[results["table"] == table].groupby("method").mean(numeric_only=True)
        for method in dict.fromkeys(results["method"]):
            row = mean.loc[method]
            nll = f"{row['nll']:.3f}"
            cells = [table, method, f"**{nll}**" if row["nll"] == mean["nll"].min() else nll]
            cells += [f"{row[name]:.{digits}f}" for name, (_, digits) in scores.items()]
            lines.append(f"| {' | '.join([*cells, f'{row.seconds:.1f}'])} |")
    return "\n".join(lines)
