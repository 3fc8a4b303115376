"""Places that share evidence in place of rows: how far from a fit of all rows are they?

Twelve tasks in three hidden clusters lie in six places, two in each, with 20 rows a task and eight
features. The places agree, then answer round after round, through files; `fit` is the usual fit of
all rows in one place, with the same settings.

    python benchmarks/sharing.py                    # seeds 405 to 409, twenty minutes
    python benchmarks/sharing.py --seeds 0 1 2      # seeds to develop with

Seeds 400 to 404 were looked at before rounds were damped, and are not used again.

Differences of posterior means are in posterior standard deviations, over all weights: their root
mean square and the largest. `nll` is what the joined model has more of it on 500 test rows a task,
mean over tasks, than the fit. Both are random: draws of partition and scales are some 200. The row
`another fit` says how far apart two fits of other seeds are.

Results go to a CSV, a row a world, seed and round (0: another fit); those that are there are not
computed again. The table is printed as Markdown.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import pyro_vmtl as pv

SEEDS = (405, 406, 407, 408, 409)
TASKS, PER_PLACE, SAMPLES, DIMENSIONS = 12, 2, 20, 8
ROUNDS = {"regression": 1, "binary": 8, "multiclass": 12, "counts": 8}
WORLDS = tuple(ROUNDS)
SHOWN = (1, 2, 4, 8, 12)
LIKELIHOODS: dict[str, Any] = {
    "regression": pv.Gaussian(),
    "binary": pv.Categorical(),
    "multiclass": pv.Categorical(),
    "counts": pv.NegativeBinomial(),
}


def drawn(world: str, seed: int) -> pv.TaskSplits:
    """Training and test rows; counts are drawn with a log mean of half the regression's target."""
    kind: Any = "regression" if world == "counts" else world
    out = pv.clusters(TASKS, 3, SAMPLES, DIMENSIONS, kind=kind, seed=seed)
    if world != "counts":
        return out
    generator = torch.Generator().manual_seed(seed)
    return pv.TaskSplits(
        *(
            pv.TaskSet(
                names=part.names,
                x=part.x,
                y=torch.poisson((0.5 * part.y).clamp_max(5).exp(), generator=generator),
                task=part.task,
                classes=None,
            )
            for part in (out.train, out.validation, out.test)
        )
    )


def nll(model: pv.FittedVMTL, test: pv.TaskSet) -> float:
    """On test rows."""
    return -float(model.predict(test).log_density.double().mean())


def apart(one: pv.FittedVMTL, other: pv.FittedVMTL, test: pv.TaskSet) -> dict[str, float]:
    """How far the second model is from the first."""
    first, second = one.vmtl.classifier, other.vmtl.classifier
    sd = first.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    away = (second.loc - first.loc) / sd
    return {
        "rms": float(away.square().mean().sqrt()),
        "largest": float(away.abs().max()),
        "nll": nll(other, test) - nll(one, test),
    }


def measured(world: str, seed: int) -> list[dict[str, Any]]:
    """A row for every round, and one for another fit."""
    data = drawn(world, seed)
    settings = pv.Settings(encoder=pv.Identity(standardise=True), likelihood=LIKELIHOODS[world])
    fitted, another = (
        pv.fit(data.train, settings=settings, seed=s, log_warnings=False) for s in (0, 1)
    )
    names = data.train.names
    places = [
        data.train.select(names[start : start + PER_PLACE]) for start in range(0, TASKS, PER_PLACE)
    ]
    known = {"world": world, "seed": seed}
    rows: list[dict[str, Any]] = [known | {"round": 0} | apart(fitted, another, data.test)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        summaries = [pv.summary(p).save(folder / f"{k}.summary") for k, p in enumerate(places)]
        model = pv.agree([pv.TaskSummary.load(path) for path in summaries], settings)
        for number in range(1, ROUNDS[world] + 1):
            asked = [pv.request(model, p.names).save(folder / f"{p.names[0]}") for p in places]
            told = [
                pv.evidence(rows, pv.TaskRequest.load(path)).save(folder / f"{path.name}.evidence")
                for rows, path in zip(places, asked, strict=True)
            ]
            model = pv.join([pv.TaskEvidence.load(path) for path in told], model)
            sizes = {
                "bytes_asked": sum(path.stat().st_size for path in asked) / len(places),
                "bytes_told": sum(path.stat().st_size for path in told) / len(places),
            }
            sizes["moved"] = float(model.history["moved"].iloc[-1])
            rows.append(known | {"round": number} | apart(fitted, model, data.test) | sizes)
    return rows


def summary(results: pd.DataFrame) -> str:
    """A Markdown table of means over seeds, and the standard deviation of the difference in NLL."""
    lines = [
        "| targets | round | rms | largest | nll | bytes told | bytes asked |",
        "|---|---|---|---|---|---|---|",
    ]
    for world in WORLDS:
        for number in (*SHOWN, 0):
            part = results[(results["world"] == world) & (results["round"] == number)]
            if not len(part):
                continue
            mean = part.mean(numeric_only=True)
            name = "another fit" if number == 0 else str(number)
            sizes = [
                "-" if number == 0 else f"{mean[f'bytes_{way}']:.0f}" for way in ("told", "asked")
            ]
            lines.append(
                f"| {world} | {name} | {mean['rms']:.3f} | {mean['largest']:.3f} | "
                f"{mean['nll']:+.4f} ± {part['nll'].std():.4f} | {' | '.join(sizes)} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    default = Path(__file__).parent / "results" / "sharing.csv"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame()
    for seed in options.seeds:
        for world in WORLDS:
            if len(results) and ((results["world"] == world) & (results["seed"] == seed)).any():
                continue
            rows = pd.DataFrame(measured(world, seed))
            results = pd.concat([results, rows], ignore_index=True) if len(results) else rows
            options.out.parent.mkdir(parents=True, exist_ok=True)
            results.to_csv(options.out, index=False, float_format="%.6g")
            print(world, seed, flush=True)
    print(summary(results[results["seed"].isin(options.seeds)]))


if __name__ == "__main__":
    main()
