"""How near does the product come to exact Bayes? Simulated tasks whose truth is known.

Fits the product to the worlds of `benchmarks/simulated_worlds.py` and holds it against references
of `benchmarks/exact_bayes.py`:

    python benchmarks/simulated.py
    python benchmarks/simulated.py --worlds "clusters 12" pairs --methods standard pyro_vmtl
    python benchmarks/simulated.py --seeds 0 1 2 3 4        # seeds to develop with

- `standard`: every task on its own, told the variance of weights and the noise. Polya-Gamma Gibbs
  sampling for two classes and for three, closed form for Gaussian and Gibbs sampling for Student t
  noise.
- `pooled`: one logistic or linear regression of all rows with weights N(0, I).
- `oracle`: told the clusters, the variances and the noise; where tasks do not fall into clusters,
  told their covariance.
- `exact`: told the variances and the noise, with clusters unknown; the prior of partitions is a
  mixture of finite mixtures. Not run for three classes, nor for 300 tasks and more, where it costs
  too much.
- `pyro_vmtl`: the product, told nothing but that there is no bias and no encoder.

Results go to a CSV, a row a world, method and seed; the chances that pairs of tasks share a cluster
go to a second one, at most 1000 pairs a fit. What is there is not computed again, so that a killed
run goes on. The summary, mean ± sd over seeds, and the reliability of the chances are printed as
Markdown. `error` columns are Monte Carlo errors, the differences between two halves of the chains.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import exact_bayes
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from exact_bayes import Budget
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import binom, spearmanr
from simulated_worlds import WORLDS, World, draw
from sklearn.metrics import adjusted_rand_score, roc_auc_score

import pyro_vmtl as pv

SEEDS = (400, 401, 402, 403, 404)
MOST_PAIRS = 1000
KEYS = ["world", "method", "seed"]
PAIR_COLUMNS = [*KEYS, "task", "other", "probability", "truth"]

Row = dict[str, object]
Found = tuple[Row, pd.DataFrame | None]
"""A row of results, and the pairs of tasks with the chance of each, where a method states them."""


def together_scores(world: World, together: npt.NDArray[np.float64]) -> Found:
    """What chances ``[T, T]`` that two tasks share a cluster are worth.

    With clusters these are the AUC over pairs and the adjusted Rand index of a consensus partition
    (average linkage, cut at a chance of one half). Without, it is the rank correlation of the
    chances with the tasks' covariances.
    """
    i, j = np.triu_indices(len(together), 1)
    chances = (together[i, j] + together[j, i]) / 2
    if world.truth is None:
        return {"rank": float(spearmanr(chances, world.covariance[i, j]).statistic)}, None
    related = world.truth[i] == world.truth[j]
    row: Row = {}
    if world.has_clusters:
        row["auc"] = float(roc_auc_score(related, chances))
    apart = squareform(1 - chances, checks=False)
    tree = linkage(squareform(apart, checks=False), "average")
    row["ari"] = float(adjusted_rand_score(world.truth, fcluster(tree, 0.5, "distance")))
    pairs = pd.DataFrame({"task": i, "other": j, "probability": chances, "truth": related * 1})
    if len(pairs) > MOST_PAIRS:
        pairs = pairs.sample(MOST_PAIRS, random_state=world.seed)
    return row, pairs


def pyro_vmtl(world: World) -> Found:
    """The product with its defaults, on features as they are."""
    started = time.perf_counter()
    settings = pv.Settings(encoder=pv.Identity(), bias=False)
    fitted = pv.fit(world.train, settings=settings, seed=world.seed)
    metrics = fitted.predict(world.test).metrics()["mean"]
    seconds = time.perf_counter() - started
    row: Row = {
        "nll": metrics["nll"],
        "accuracy": metrics.get("accuracy"),
        "rmse": metrics.get("rmse"),
        "coverage90": metrics.get("coverage_90"),
        "seconds": seconds,
    }
    found, pairs = together_scores(world, _chances(fitted, world.train.names))
    return row | found, pairs


def _chances(fitted: pv.FittedVMTL, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """The chances ``[T, T]`` that the product states for pairs of tasks."""
    # The chances are the same for any number of draws; those of 1000 tasks are large.
    table = pv.relatedness(fitted, num_samples=10)
    table = table[(table["site"] == "weights") & (table["other"] != "base")]
    square = table.pivot(index="task", columns="other", values="probability")
    return square.reindex(index=names, columns=names).fillna(0.0).to_numpy()


def _reference(
    method: Callable[[Sequence[World], Budget], exact_bayes.Answer], budget: Budget
) -> Callable[[Sequence[World]], list[Found]]:
    """A reference for several seeds of a world at once; large worlds take fewer draws."""

    def compute(worlds: Sequence[World]) -> list[Found]:
        large = worlds[0].train.num_tasks >= 100
        answer = method(worlds, Budget(chains=2, sweeps=150, burn=30) if large else budget)
        found: list[Found] = []
        for s, world in enumerate(worlds):
            row: Row = {name: values[s] for name, values in (answer.scores | answer.errors).items()}
            row["seconds"] = answer.seconds / len(worlds)
            pairs = None
            if answer.together is not None:
                scores, pairs = together_scores(world, answer.together[s].numpy())
                row |= scores
            found.append((row, pairs))
        return found

    return compute


def _each(method: Callable[[World], Found]) -> Callable[[Sequence[World]], list[Found]]:
    """A method that takes one seed at a time."""
    return lambda worlds: [method(world) for world in worlds]


METHODS: dict[str, Callable[[Sequence[World]], list[Found]]] = {
    "standard": _reference(exact_bayes.standard, Budget(8, 300, 60)),
    "pooled": _reference(exact_bayes.pooled, Budget(4, 150, 30)),
    "oracle": _reference(exact_bayes.oracle, Budget(8, 300, 60)),
    "exact": _reference(exact_bayes.exact, Budget(8, 400, 80)),
    "pyro_vmtl": _each(pyro_vmtl),
}
REFERENCES = ("standard", "pooled", "oracle", "exact")


def is_possible(world: World, method: str) -> bool:
    """Whether a method is made for a world."""
    if method != "exact":
        return True
    return world.truth is not None and world.kind != "multiclass" and len(world.truth) < 100


def summary(results: pd.DataFrame) -> str:
    """A row a world, mean ± sd over seeds, as Markdown.

    `share` is the part of the oracle's gain over `standard` that the product reaches (of means over
    seeds), and `share of exact` the part that `exact` does, where that gain is above .01. `- alone`
    is the product's NLL less the smaller mean of `standard` and `pooled`, and `- exact` less that
    of `exact`, both ± the standard error of the paired difference. `coverage` is that of 90%
    intervals, `auc` and `ari` (adjusted Rand) are those of the chances of pairs: of the product
    and, after a slash, of `exact`. `rank` is the rank correlation of the product's chances with the
    tasks' covariances, where there are no clusters.
    """
    product = [name for name in results["method"].unique() if name not in REFERENCES]
    lines = []
    for name in product or [None]:
        own = results[results["method"].isin([*REFERENCES, name])]
        head = [*REFERENCES, *([name] if name else [])]
        columns = [*head, "share", "share of exact", "- alone", "- exact"]
        columns += ["coverage", "auc", "ari", "rank", "seconds"]
        lines += [f"| world | seeds | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 2)]
        order = [world for world in WORLDS if world in set(own["world"])]
        lines += [_summary_row(world, own[own["world"] == world], head, name) for world in order]
        lines.append("")
    return "\n".join(lines)


def _summary_row(world: str, results: pd.DataFrame, head: list[str], name: str | None) -> str:
    nll = results.pivot_table(index="seed", columns="method", values="nll").reindex(columns=head)
    # Of the seeds that every method has which has any.
    nll = nll[nll.dropna(axis=1, how="all").notna().all(axis=1)]
    results = results[results["seed"].isin(nll.index)]
    mean = nll.mean()
    cells = [_spread(nll[method]) for method in head]
    gain = mean["standard"] - mean["oracle"]
    for method in (name, "exact"):
        has_share = method in mean and gain > 0.01 and not np.isnan(mean[method])
        cells.append(f"{(mean['standard'] - mean[method]) / gain:.2f}" if has_share else "-")
    alone = "standard" if not mean["pooled"] < mean["standard"] else "pooled"
    cells += [_difference(nll, name, alone), _difference(nll, name, "exact")]
    own = results[results["method"] == name]
    exact = results[results["method"] == "exact"]
    for metric in ("coverage90", "auc", "ari"):
        pair = [
            f"{rows[metric].mean():.3f}" if metric in rows and rows[metric].notna().any() else "-"
            for rows in (own, exact)
        ]
        cells.append("-" if pair == ["-", "-"] else " / ".join(pair))
    cells.append(_spread(own["rank"]) if "rank" in own else "-")
    cells.append(f"{own['seconds'].mean():.1f}" if len(own) else "-")
    return f"| {world} | {len(nll)} | {' | '.join(cells)} |"


def _spread(values: pd.Series) -> str:
    values = values.dropna()
    if not len(values):
        return "-"
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def _difference(nll: pd.DataFrame, name: str | None, other: str) -> str:
    """The mean of paired differences ± its standard error."""
    if name not in nll:
        return "-"
    values = (nll[name] - nll[other]).dropna()
    if not len(values):
        return "-"
    error = f" ± {values.std() / np.sqrt(len(values)):.4f}" if len(values) > 1 else ""
    return f"{values.mean():+.4f}{error}"


def reliability(pairs: pd.DataFrame, bins: int = 10) -> str:
    """Stated chances against the share of pairs that share a cluster, as Markdown.

    The range is that within which the share of a bin falls in 95 of 100 cases if every chance is
    true and pairs are independent. Pairs of one set of tasks are not, so that a share somewhat
    outside is no proof.
    """
    lines = ["| method | chance | pairs | mean chance | observed | range |", "|" + "---|" * 6]
    for method, rows in pairs.groupby("method", sort=False):
        place = np.minimum((rows["probability"] * bins).astype(int), bins - 1)
        for number, group in rows.groupby(place):
            stated, count = group["probability"].mean(), len(group)
            low, high = binom.ppf([0.025, 0.975], count, min(stated, 1.0)) / count
            lines.append(
                f"| {method} | {number / bins:.1f} to {(number + 1) / bins:.1f} | {count} | "
                f"{stated:.3f} | {group['truth'].mean():.3f} | {low:.3f} to {high:.3f} |"
            )
    return "\n".join(lines)


def compute(
    worlds: Iterable[str], methods: Iterable[str], seeds: Sequence[int], out: Path, pairs_out: Path
) -> None:
    """Compute what the two files lack, and add it to them."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for name in worlds:
        for method in methods:
            results = _read(out, KEYS)
            there = results[(results["world"] == name) & (results["method"] == method)]
            missing = [seed for seed in seeds if seed not in set(there["seed"])]
            drawn = [draw(name, seed) for seed in missing]
            if not drawn or not is_possible(drawn[0], method):
                continue
            rows, pairs = [], []
            for (row, stated), world in zip(METHODS[method](drawn), drawn, strict=True):
                key = {"world": name, "method": method, "seed": world.seed}
                rows.append(key | row)
                if stated is not None:
                    pairs.append(stated.assign(**key)[PAIR_COLUMNS])
                print(name, method, world.seed, f"nll {row['nll']:.4f}", flush=True)
            # The pairs are written first: a row of results says that its pairs are there.
            if pairs:
                _add(pd.concat(pairs), pairs_out, PAIR_COLUMNS)
            _add(pd.DataFrame(rows), out, KEYS)


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)


def _add(rows: pd.DataFrame, path: Path, columns: list[str]) -> None:
    """Add rows to a file, in place of those of the same fits.

    The file is read again, since another process may have written to it.
    """
    new = set(rows[KEYS].itertuples(index=False, name=None))
    old = _read(path, columns)
    is_old = [key not in new for key in old[KEYS].itertuples(index=False, name=None)]
    if any(is_old):
        rows = pd.concat([old[is_old], rows], ignore_index=True)
    aside = path.with_name(f"new_{path.name}")
    rows.to_csv(aside, index=False, float_format="%.6g")
    aside.replace(path)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/simulated.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the matrices are small: a second thread only waits
    pairs_out = options.out.with_name(f"{options.out.stem}_pairs.csv.gz")
    compute(options.worlds, options.methods, options.seeds, options.out, pairs_out)
    results, pairs = _read(options.out, KEYS), _read(pairs_out, PAIR_COLUMNS)
    is_wanted = {"world": options.worlds, "method": options.methods, "seed": options.seeds}
    for column, values in is_wanted.items():
        results, pairs = (table[table[column].isin(values)] for table in (results, pairs))
    print(summary(results))
    print(reliability(pairs))


if __name__ == "__main__":
    main()
