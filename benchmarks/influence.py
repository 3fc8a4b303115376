"""Who gains from whom, and which tasks to train together: checks of influence and of groups.

    python benchmarks/influence.py                       # seeds 400 to 404, some minutes
    python benchmarks/influence.py --checks refits rows
    python benchmarks/influence.py --data ../shared/data    # where landmine.csv.gz lies
    python benchmarks/influence.py --seeds 0 1 2            # seeds to develop with

- `refits`: eight tasks in two clusters of 25 rows and 8 features. Gains of lenders taken out,
  against fits without the lender, given partition and scales (`given`: sites are found anew until
  they stay) and in full (`full`: partition and scales are drawn anew as well); of left-out rows and
  of 500 held-out rows a task. Pearson correlation over pairs.
- `rows`: the same tasks; rows of one task taken out, against fits without the row, given partition
  and scales. Spearman correlation over rows, of pairs in a cluster (`between`) and of a task on
  itself (`within`).
- `pairs`: 12 tasks in 3 clusters with 12 and 40 rows: the AUC of pair gains against the true
  clusters, and the adjusted Rand index of three groups of them, beside those of the learned
  clusters; likewise of groups by the true gains of all 4095 sets. Of 200 sets, the average of pair
  gains against the true gain.
- `unrelated`: 12 tasks in as many clusters: the mean gain by leaving a lender out, and its error.
- `liar`: six tasks of one cluster, told so, of which one has all labels flipped; with deviations
  inferred, and with none (`forced`).
- `flips`: 4 of 25 labels of one task flipped; the AUC of finding them by the task's own
  leave-one-out density, and by what the rows do for the others of its cluster.
- `encoder`: six tasks in two clusters whose 30 rows are linear in two features that all share, tanh
  of sums of five inputs; the encoder has this form and is trained, 12 parameters. Gains of lenders
  taken out, of 500 held-out rows a task, with the encoder held fixed and followed, against fits of
  the other tasks in full, with a start of the encoder as before. Pearson correlation over pairs.
- `hidden`: the same with eight hidden units before the two features, 66 parameters.
- `landmine`: 29 fields in two soils, 20 training rows a field; two groups by pair gains.

Results go to a CSV, a row a number; the summary is printed as Markdown.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import adjusted_rand_score, roc_auc_score

import pyro_vmtl as pv
from pyro_vmtl.inference import Constant, TrainingSettings
from pyro_vmtl.inference.cavities import factors, settled
from pyro_vmtl.inspection import influence_matrix, leave_one_out
from pyro_vmtl.model import NestedWeights
from pyro_vmtl.model.priors.conditionals import averaged

SEEDS = (400, 401, 402, 403, 404)
NOTHING = torch.tensor([], dtype=torch.int64)
Found = Iterator[tuple[str, str, float]]
"""What was looked at, the name of a number, and the number."""


def fit(train: pv.TaskSet, seed: int, pool: pv.Pool | None = None) -> pv.FittedVMTL:
    """The product, told that there is no intercept."""
    settings = pv.Settings(encoder=pv.Identity(), bias=False, pool=pool)
    return pv.fit(train, settings=settings, seed=seed, log_warnings=False)


def refitted(fitted: pv.FittedVMTL, train: pv.TaskSet, gone: torch.Tensor) -> pv.FittedVMTL:
    """A fit without some rows, given partition and scales: sites are found anew."""
    vmtl = copy.deepcopy(fitted.vmtl)
    weights = vmtl.classifier
    assert isinstance(weights, NestedWeights)
    batch = train.dense()
    stays = torch.ones(len(train)).index_fill(0, gone, 0.0)[batch.index]
    mask = (batch.mask * stays).double().unsqueeze(-1)
    for _ in range(12):
        phi, _, shift, precision = factors(vmtl, batch)
        weights.precision.lerp_(torch.einsum("tbk,tbi,tbj->tkij", mask * precision, phi, phi), 0.8)
        weights.shift.lerp_((mask * shift).mT @ phi, 0.8)
        weights.loc, weights.covariance = averaged(weights.by_draw())
    return replace(fitted, vmtl=vmtl)


def two_clusters(seed: int) -> tuple[pv.TaskSplits, pv.FittedVMTL]:
    """Eight tasks in two clusters, and a fit of which fewer draws are kept, for speed."""
    splits = pv.clusters(8, 2, samples=25, dimensions=8, test_samples=500, seed=seed)
    fitted = fit(splits.train, seed)
    weights = fitted.vmtl.classifier
    for name, values in list(weights.named_buffers()):
        if name.startswith("draw_"):
            setattr(weights, name, values[::10].clone())
    weights.loc, weights.covariance = averaged(weights.by_draw())
    return splits, fitted


def refits(seed: int) -> Found:
    """Lenders taken out."""
    splits, fitted = two_clusters(seed)
    train, test = splits.train, splits.test
    off = ~np.eye(8, dtype=bool)

    def densities(model: pv.FittedVMTL, names: list[str], heldout: bool) -> np.ndarray:
        if heldout:
            return model.predict(test.select(names), seed=0).log_density.double().numpy()
        return leave_one_out(model.vmtl, train.select(names)).log_density

    for where, heldout in (("left out", None), ("held out", test)):
        table = pv.influence(fitted, train, heldout, kinds=["without"])
        found = influence_matrix(table, "without").to_numpy()
        rested = refitted(fitted, train, NOTHING)
        whole = densities(rested, list(fitted.names), heldout is not None)
        task = (train if heldout is None else heldout).task.numpy()
        for how in ("given", "full"):
            expected = np.full_like(found, np.nan)
            for j, lender in enumerate(fitted.names):
                names = [name for name in fitted.names if name != lender]
                if how == "given":
                    model = refitted(fitted, train, (train.task == j).nonzero()[:, 0])
                    after = densities(model, list(fitted.names), heldout is not None)
                    away = whole - after
                else:
                    model = _full(seed, splits, lender)
                    after = densities(model, names, heldout is not None)
                    away = np.full(len(whole), np.nan)
                    away[task != j] = whole[task != j] - after
                for t in set(range(8)) - {j}:
                    expected[t, j] = away[task == t].mean()
            yield f"{where}, {how}", "pearson", pearsonr(found[off], expected[off]).statistic
            error = float(np.abs(found[off] - expected[off]).mean())
            yield f"{where}, {how}", "absolute error", error
        yield where, "absolute gain", float(np.abs(found[off]).mean())


_FULL: dict[tuple[int, str], pv.FittedVMTL] = {}


def _full(seed: int, splits: pv.TaskSplits, lender: str) -> pv.FittedVMTL:
    """A fit of all other tasks."""
    if (seed, lender) not in _FULL:
        names = [name for name in splits.train.names if name != lender]
        _FULL[seed, lender] = fit(splits.train.select(names), seed)
    return _FULL[seed, lender]


def rows(seed: int) -> Found:
    """Rows taken out, of two pairs of relatives and two tasks on themselves."""
    splits, fitted = two_clusters(seed)
    train, test = splits.train, splits.test
    rested = refitted(fitted, train, NOTHING)
    base = rested.predict(test).log_density.double().numpy()
    inside = leave_one_out(rested.vmtl, train).log_density
    for lender in (0, 1):
        chosen = (train.task == lender).nonzero()[:, 0].tolist()
        others = [refitted(fitted, train, torch.tensor([row])) for row in chosen]
        held = [other.predict(test).log_density.double().numpy() for other in others]
        left = [leave_one_out(other.vmtl, train).log_density for other in others]
        for borrower in (lender, lender + 2, lender + 4):
            which = "within" if borrower == lender else "between"
            pair = fitted.names[lender], fitted.names[borrower]
            found = pv.row_influence(fitted, train, *pair, test)["gain"]
            own = (test.task == borrower).numpy()
            expected = [(base - after)[own].mean() for after in held]
            yield f"held out, {which}", "spearman", spearmanr(found, expected).statistic
            found = pv.row_influence(fitted, train, *pair)["gain"]
            own = (train.task == borrower).numpy()
            expected = []
            for row, after in zip(chosen, left, strict=True):
                scored = own & (np.arange(len(train)) != row)
                expected.append((inside - after)[scored].mean())
            yield f"left out, {which}", "spearman", spearmanr(found, expected).statistic


def pairs(seed: int) -> Found:
    """Pair gains, groups, and gains of sets."""
    for samples in (12, 40):
        splits = pv.clusters(samples=samples, seed=seed)
        fitted = fit(splits.train, seed)
        truth = np.asarray(splits.train.truth)
        for where, heldout in (("left out", None), ("held out", splits.test)):
            table = pv.influence(fitted, splits.train, heldout, kinds=["alone"])
            yield f"{samples}, {where}", "auc", _area(influence_matrix(table).to_numpy(), truth)
            for groups in (3, None):
                found = pv.group_tasks(table, groups)
                label = "as many as is best" if groups is None else "three groups"
                yield f"{samples}, {where}, {label}", "ari", _rand(found, fitted, truth)
                yield f"{samples}, {where}, {label}", "groups", float(len(found))
            if heldout is None:
                yield from _sets(f"{samples}, {where}", fitted, splits.train, table, seed)
        every = [chosen for size in range(1, 13) for chosen in combinations(fitted.names, size)]
        gains = pv.set_gains(fitted, splits.train, every)
        for groups in (3, None):
            found = pv.group_tasks(gains, groups)
            label = "as many as is best" if groups is None else "three groups"
            yield f"{samples}, gains of all sets, {label}", "ari", _rand(found, fitted, truth)
            yield f"{samples}, gains of all sets, {label}", "groups", float(len(found))
        chances = _chances(fitted)
        yield f"{samples}, learned", "auc", _area(chances, truth)
        yield f"{samples}, learned", "ari", float(adjusted_rand_score(truth, _consensus(chances)))


def _area(matrix: np.ndarray, truth: np.ndarray) -> float:
    i, j = np.triu_indices(len(truth), 1)
    return float(roc_auc_score(truth[i] == truth[j], (matrix + matrix.T)[i, j]))


def _rand(found: pd.DataFrame, fitted: pv.FittedVMTL, truth: np.ndarray) -> float:
    place = {name: number for number, group in enumerate(found["tasks"]) for name in group}
    return float(adjusted_rand_score(truth, [place[name] for name in fitted.names]))


def _chances(fitted: pv.FittedVMTL) -> np.ndarray:
    table = pv.relatedness(fitted, num_samples=10)
    square = table.pivot(index="task", columns="other", values="probability")
    return square.reindex(index=fitted.names, columns=fitted.names).fillna(0.0).to_numpy()


def _consensus(chances: np.ndarray) -> np.ndarray:
    """Average linkage, cut at a chance of one half."""
    tree = linkage(squareform(1 - (chances + chances.T) / 2, checks=False), "average")
    return fcluster(tree, 0.5, "distance")


def _sets(
    label: str,
    fitted: pv.FittedVMTL,
    train: pv.TaskSet,
    table: pd.DataFrame,
    seed: int,
) -> Found:
    """The average of pair gains beside the true gain of sets of 2 to 6 tasks, 40 of each size."""
    generator = np.random.default_rng(seed)
    names, gains = fitted.names, influence_matrix(table).fillna(0.0)
    truth = np.asarray(train.truth)
    sets = []
    for size in (2, 3, 4, 5, 6):
        for number in range(40):
            pool = np.arange(len(names))
            if number % 2 and size <= 4:  # half of them of one cluster, where it is large enough
                pool = np.flatnonzero(truth == truth[number % len(names)])
            sets.append(tuple(names[t] for t in generator.choice(pool, size, replace=False)))
    found = pv.set_gains(fitted, train, sets)["gain"].to_numpy()
    average = np.array([gains.loc[list(g), list(g)].to_numpy().sum() / len(g) for g in sets])
    size = np.array([len(group) for group in sets])
    for many in (2, 3, 4, 5, 6):
        chosen = size == many
        where = f"{label}, sets of {many}"
        yield where, "pearson", pearsonr(average[chosen], found[chosen]).statistic
        yield where, "true gain", float(np.abs(found[chosen]).mean())
        yield (
            where,
            "slope",
            float(found[chosen] @ average[chosen] / np.square(average[chosen]).sum()),
        )


def unrelated(seed: int) -> Found:
    """The mean gain by leaving a lender out, over all rows and lenders."""
    train = pv.clusters(num_clusters=12, seed=seed).train
    fitted = fit(train, seed)
    batch = train.dense()
    vmtl = settled(fitted.vmtl, batch)
    whole = leave_one_out(vmtl, train).log_density
    away = np.full((12, len(train)), np.nan)
    for j in range(12):
        rows_of = (train.task != j).numpy()
        away[j, rows_of] = (whole - leave_one_out(settled(vmtl, batch, j), train).log_density)[
            rows_of
        ]
    mean = np.nanmean(away, axis=0)
    gain, error = float(mean.mean()), float(mean.std(ddof=1) / np.sqrt(len(mean)))
    yield "unrelated", "gain, thousandths of a nat", 1000 * gain
    yield "unrelated", "gain over its error", gain / error


def liar(seed: int) -> Found:
    """The column of a task with flipped labels among relatives."""
    splits = pv.clusters(6, 1, samples=40, dimensions=8, spread=0.1, test_samples=200, seed=seed)
    train, test = (
        replace(part, y=torch.where(part.task == 5, 1 - part.y, part.y))
        for part in (splits.train, splits.test)
    )
    for name, deviation in (("deviations inferred", None), ("forced", "none")):
        pool = pv.Nested(known=[0] * 6, deviation=deviation)  # type: ignore[arg-type]
        fitted = fit(train, seed, pool)
        for where, heldout in (("left out", None), ("held out", test)):
            table = pv.influence(fitted, train, heldout)
            for kind, chosen in table[table["lender"] == "task 5"].groupby("kind"):
                label = f"{name}, {where}, {kind}"
                yield label, "gain", float(chosen["gain"].mean())
                yield label, "negative", float((chosen["gain"] < 0).mean())
                yield label, "interval below 0", float((chosen["high"] < 0).mean())
            others = table[(table["lender"] != "task 5") & (table["borrower"] != "task 5")]
            yield f"{name}, {where}, honest", "gain", float(others["gain"].mean())


def flips(seed: int) -> Found:
    """Flipped labels, by their own task and by others."""
    train = pv.clusters(8, 2, samples=25, dimensions=8, seed=seed).train
    flipped = torch.tensor([3, 9, 14, 20])  # of task 0, whose rows come first
    y = train.y.clone()
    y[flipped] = 1 - y[flipped]
    train = replace(train, y=y)
    fitted = fit(train, seed)
    bad = np.isin(np.arange(25), flipped.numpy())
    own = leave_one_out(fitted.vmtl, train).log_density[:25]
    yield "own density", "auc", float(roc_auc_score(bad, -own))
    relatives = ("task 2", "task 4", "task 6")
    gained = sum(pv.row_influence(fitted, train, "task 0", name)["gain"] for name in relatives)
    yield "gain of relatives", "auc", float(roc_auc_score(bad, -np.asarray(gained)))


def landmine(seed: int, data: Path) -> Found:
    """Fields by soil: 20 training rows a field."""
    frame = pd.read_csv(data / "landmine.csv.gz")
    soil = frame.groupby("field")["group"].first()
    chosen = frame.groupby("field").sample(20, random_state=seed)
    features = [f"f{number}" for number in range(1, 10)]
    train = pv.read_table(chosen[["field", "mine", *features]], "field", "mine")
    fitted = pv.fit(train, seed=seed, log_warnings=False)
    names = [str(name) for name in fitted.names]
    truth = pd.factorize(soil.loc[[int(float(name)) for name in names]])[0]
    table = pv.influence(fitted, train, kinds=["alone"])
    yield "pair gains", "auc", _area(influence_matrix(table).to_numpy(), truth)
    for groups in (2, None):
        found = pv.group_tasks(table, groups)
        label = "as many as is best" if groups is None else "two groups"
        yield f"pair gains, {label}", "ari", _rand(found, fitted, truth)
        yield f"pair gains, {label}", "groups", float(len(found))
    chances = _chances(fitted)
    yield "learned", "auc", _area(chances, truth)
    best = pv.partitions(fitted).iloc[0]
    likeliest = {name: number for number, c in enumerate(best["partition"]) for name in c}
    labels = [likeliest[name] for name in fitted.names]
    yield "learned, likeliest partition", "ari", float(adjusted_rand_score(truth, labels))
    yield "learned, consensus", "ari", float(adjusted_rand_score(truth, _consensus(chances)))


def shared_features(kind: str, seed: int) -> tuple[pv.TaskSet, pv.TaskSet]:
    """Training and test samples of the check `encoder`."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(5, 2))
    centres = 2 * generator.normal(size=(2, 2))
    parts: tuple[dict[str, tuple[np.ndarray, np.ndarray]], ...] = ({}, {})
    for t in range(6):
        w = centres[t % 2] + 0.3 * generator.normal(size=2)
        for part, count in zip(parts, (30, 500), strict=True):
            x = generator.normal(size=(count, 5))
            eta = np.tanh(x @ shared) @ w
            if kind == "regression":
                y = eta + 0.5 * generator.normal(size=count)
            else:
                y = generator.random(count) < 1 / (1 + np.exp(-2 * eta))
            part[f"task {t}"] = (x, y)
    train, test = (pv.TaskSet.from_arrays(x, regression=kind == "regression") for x in parts)
    return train, test


def encoder(seed: int, hidden: tuple[int, ...] = ()) -> Found:
    """Lenders that have shaped an encoder."""
    settings = pv.Settings(pv.MLP(2, hidden, dropout=0.0, stochastic=False), pv.Nested())
    training = TrainingSettings(learning_rate=Constant(0.01), patience=None)
    off = ~np.eye(6, dtype=bool)
    for kind in ("regression", "binary"):
        train, test = shared_features(kind, seed)

        def fit_of(names: list[str], train: pv.TaskSet = train) -> pv.FittedVMTL:
            return pv.fit(
                train.select(names), None, settings, training, seed=seed, log_warnings=False
            )

        def means(fitted: pv.FittedVMTL, test: pv.TaskSet = test) -> pd.Series:
            of = test.select(list(fitted.names))
            found = pd.Series(fitted.predict(of, seed=0).log_density.double().numpy())
            return found.groupby([fitted.names[t] for t in of.task.tolist()]).mean()

        names = list(train.names)
        fitted = fit_of(names)
        expected = pd.DataFrame(np.nan, names, names)
        for lender in names:
            others = [name for name in names if name != lender]
            expected.loc[others, lender] = (means(fitted) - means(fit_of(others)))[others]
        yield kind, "absolute gain", float(np.abs(expected.to_numpy()[off]).mean())
        for way in ("fixed", "followed"):
            table = pv.influence(fitted, train, test, kinds=["without"], encoder=way)
            found = influence_matrix(table, "without").to_numpy()[off]
            yield f"{kind}, {way}", "pearson", pearsonr(found, expected.to_numpy()[off]).statistic
            error = float(np.abs(found - expected.to_numpy()[off]).mean())
            yield f"{kind}, {way}", "absolute error", error


def hidden(seed: int) -> Found:
    """The same with a hidden layer."""
    return encoder(seed, (8,))


CHECKS: dict[str, Callable[[int], Found]] = {
    "refits": refits,
    "rows": rows,
    "encoder": encoder,
    "hidden": hidden,
    "pairs": pairs,
    "unrelated": unrelated,
    "liar": liar,
    "flips": flips,
}
_TITLES = ("check", "what", "number", "seeds", "mean ± sd", "least", "most")


def summary(results: pd.DataFrame) -> str:
    """A row for each number, over seeds, as Markdown."""
    lines = [f"| {' | '.join(_TITLES)} |", "|" + "---|" * len(_TITLES)]
    for (check, what, number), part in results.groupby(["check", "what", "number"], sort=False):
        value = part["value"]
        cells = [check, what, number, str(len(part)), f"{value.mean():.3f} ± {value.std():.3f}"]
        cells += [f"{value.min():.3f}", f"{value.max():.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checks", nargs="+", choices=[*CHECKS, "landmine"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="a folder of landmine.csv.gz"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/influence.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small: a second thread only waits
    checks = options.checks or [*CHECKS, "landmine"]
    results = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame()
    for check in checks:
        if check == "landmine" and not (options.data / "landmine.csv.gz").is_file():
            print(f"landmine is skipped: there is no landmine.csv.gz in {options.data}")
            continue
        for seed in options.seeds:
            found = landmine(seed, options.data) if check == "landmine" else CHECKS[check](seed)
            new = pd.DataFrame(found, columns=["what", "number", "value"])
            new = new.assign(check=check, seed=seed)[["check", "seed", "what", "number", "value"]]
            if len(results):
                results = results[(results["check"] != check) | (results["seed"] != seed)]
            results = pd.concat([results, new], ignore_index=True)
            results.round(6).to_csv(options.out, index=False)
            print(new.to_string(index=False, header=False), flush=True)
    print(summary(results[results["seed"].isin(options.seeds)]))


if __name__ == "__main__":
    main()
