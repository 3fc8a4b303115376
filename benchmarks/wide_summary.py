"""The worlds, methods and summary of `wide_tables.py`; it needs none of the rivals' packages."""

import pandas as pd

__all__ = ["METHODS", "SEEDS", "WORLDS", "summary"]

SEEDS = (405, 406, 407, 408, 409)
WORLDS = {  # factors, rows a task, whether targets are classes
    "10 factors, 10 rows": (10, 10, True),
    "10 factors, 30 rows": (10, 30, True),
    "40 factors, 30 rows": (40, 30, True),
    "10 factors, 30 rows, regression": (10, 30, False),
}
METHODS = ("pooled", "one-hot", "pyro_vmtl")


def summary(rows: pd.DataFrame) -> str:
    """A Markdown table of test NLL, mean ± sd over seeds, and the product's paired difference."""
    head = ["world", *METHODS, "pyro_vmtl - best rival", "coverage or ECE", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for world, part in rows.groupby("world", sort=False):
        nll = part.pivot_table(index="seed", columns="method", values="nll")[list(METHODS)]
        away = nll["pyro_vmtl"] - nll[nll.mean().drop("pyro_vmtl").idxmin()]
        own = part[part["method"] == "pyro_vmtl"]
        stated = own["ece" if WORLDS[str(world)][2] else "coverage"]
        cells = [f"{nll[method].mean():.3f} ± {nll[method].std():.3f}" for method in METHODS]
        cells.append(f"{away.mean():+.3f} ± {away.std() / len(away) ** 0.5:.3f}")
        cells.append(f"{stated.mean():.3f} ± {stated.std():.3f}")
        lines.append(f"| {world} | " + " | ".join(cells) + f" | {own['seconds'].mean():.1f} |")
    return "\n".join(lines)
