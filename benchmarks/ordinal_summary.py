"""The summary of the results of `ordinal.py`, as Markdown; it needs pandas alone."""

import pandas as pd

__all__ = ["summary"]


def summary(results: pd.DataFrame) -> str:
    """Means over splits, a row a table and method, as Markdown."""
    lines = ["| table | method | NLL | accuracy | RPS | CPU s |", "|---|---|---|---|---|---|"]
    for table in dict.fromkeys(results["table"]):
        mean = results[results["table"] == table].groupby("method").mean(numeric_only=True)
        for method in dict.fromkeys(results["method"]):
            row = mean.loc[method]
            best = row["nll"] == mean["nll"].min()
            nll = f"**{row['nll']:.3f}**" if best else f"{row['nll']:.3f}"
            lines.append(
                f"| {table} | {method} | {nll} | {row['accuracy']:.3f} | {row['rps']:.3f} | "
                f"{row['seconds']:.1f} |"
            )
    return "\n".join(lines)
