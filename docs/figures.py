"""Draws the figures of the pages beside it, and prints the numbers that they state.

    python docs/figures.py                       # all pages: a few minutes
    python docs/figures.py relatedness training  # some of them

Everything is drawn anew from fits to the built-in data, with fixed seeds. The page `report` needs
Chromium on the path, for the screenshot.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from PIL import Image
from sklearn.datasets import load_digits

import pyro_vmtl as pv
from pyro_vmtl.inspection import (
    Snapshots,
    attributes,
    calibration_table,
    group,
    group_names,
    influence_matrix,
    interval_coverage,
    kept_epoch,
    kl_per_task,
    leave_out_class,
    plot_bands,
    plot_calibration,
    plot_coverage,
    plot_dendrogram,
    plot_elbo,
    plot_extreme_samples,
    plot_intervals,
    plot_kl_per_task,
    plot_kls_over_time,
    plot_out_of_distribution,
    plot_pit,
    plot_relatedness,
    plot_relatedness_graph,
    plot_relatedness_over_time,
    plot_relatedness_roc,
    plot_reliability,
    plot_responsibilities,
    plot_risk_coverage,
    plot_scales,
    plot_schedules,
    plot_stability,
    plot_uncertainty,
    plot_uncertainty_of_samples,
    relatedness_auc,
    relatedness_stability,
    task_order,
    uncertainty_table,
)

FOLDER = Path(__file__).parent / "figures"
MOST_BYTES = 150_000

# Of the paper's recursion without encoder and bias, as in the generator of the tasks: Bayes' rule.
RECURSION = pv.TrainingSettings(
    epochs=30,
    steps_per_epoch=50,
    learning_rate=pv.Decay(0.03, 0.003),
    kl_weights=pv.Constant(1.0),
    kl_representations=pv.Constant(1.0),
    patience=None,
)


def save(name: str, shown: Axes | list[Axes]) -> None:
    """Write a figure as PNG, small enough for a page."""
    figure = (shown[0] if isinstance(shown, list) else shown).get_figure(root=True)
    assert figure is not None
    path = FOLDER / f"{name}.png"
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)
    if path.stat().st_size > MOST_BYTES:  # a palette is a half of the bytes
        Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        sys.exit(f"{path} has {path.stat().st_size} bytes; expected at most {MOST_BYTES}")


def show(name: str, value: object) -> None:
    """A number or table that a page states."""
    sys.stdout.write(f"\n{name}\n{value}\n")


def panels(columns: int, width: float = 4.6, height: float = 3.8) -> list[Axes]:
    """Axes side by side."""
    size = (width * columns, height)
    return list(plt.subplots(1, columns, figsize=size, layout="constrained")[1])


@cache
def tasks_in_clusters(samples: int = 40) -> pv.TaskSplits:
    """Twelve tasks: eleven in three clusters, and one that has no relatives."""
    return pv.clusters(num_tasks=12, num_clusters=3, outliers=1, samples=samples, seed=1)


@cache
def in_clusters(
    pool: pv.Pool, seed: int = 0, samples: int = 40
) -> tuple[pv.FittedVMTL, pv.TaskSplits]:
    """A fit to tasks in hidden clusters."""
    splits = tasks_in_clusters(samples)
    structure = pv.Settings(encoder=pv.Identity(), bias=False, pool=pool)
    return pv.fit(splits.train, settings=structure, seed=seed, log_warnings=False), splits


@cache
def two_codes() -> tuple[pv.FittedVMTL, pv.TaskSplits, Snapshots]:
    """A fit with a learned encoder, watched while it is trained: images under two codes."""
    splits = pv.relabelled_digits(shots=3, seed=0)
    snapshots = Snapshots(splits.train.names)
    fitted = pv.fit(splits.train, splits.validation, callbacks=[snapshots])
    return fitted, splits, snapshots


NESTED = pv.Nested()
MIXTURE = pv.Mixture(base=True, spread="scalar")


def relatedness() -> None:
    """Who belongs with whom, who borrows from whom, and how sure that is."""
    fitted, splits = in_clusters(NESTED)
    truth = splits.train.truth
    assert truth is not None
    table = pv.relatedness(fitted)
    show("first rows of the table", table.head(3).round(3).to_string(index=False))
    for samples in (40, 200):
        of_outlier = pv.relatedness(in_clusters(NESTED, 0, samples)[0])
        of_outlier = of_outlier[of_outlier["task"] == "task 11"].set_index("other")["probability"]
        show(f"the outlier, {samples} samples", of_outlier.round(2).to_dict())
    save("relatedness_heat_map", plot_relatedness(table, truth=truth))
    save("relatedness_dendrogram", plot_dendrogram(table, truth=truth))
    save("relatedness_graph", plot_relatedness_graph(table, truth=truth))
    save("relatedness_roc", plot_relatedness_roc(table, truth))
    trained, _, snapshots = two_codes()
    kept = kept_epoch(trained.history)
    assert kept is not None
    save(
        "relatedness_over_time",
        plot_relatedness_over_time(snapshots.relatedness(), kept=float(kept)),
    )
    mixed, _ = in_clusters(MIXTURE)
    weights = pv.relatedness(mixed)
    save("relatedness_intervals", plot_intervals(weights, task="task 0"))
    save("relatedness_responsibilities", plot_responsibilities(weights, task="task 0"))
    for name, pool in (("nested", NESTED), ("mixture", MIXTURE)):
        tables = {seed: pv.relatedness(in_clusters(pool, seed)[0]) for seed in range(3)}
        stability = relatedness_stability(tables)
        areas = [relatedness_auc(one, truth) for one in tables.values()]
        show(f"{name}: AUC of each seed", np.round(areas, 3))
        show(
            f"{name}: largest range over seeds",
            (stability["high"] - stability["low"]).max().round(3),
        )
        if name == "mixture":
            save("relatedness_stability", plot_stability(tables))


def _regression() -> tuple[pv.FittedVMTL, pv.TaskSplits]:
    splits = pv.clusters(6, 2, samples=12, dimensions=8, kind="regression", seed=0)
    structure = pv.Settings(encoder=pv.Identity(), bias=False)
    return pv.fit(splits.train, splits.validation, structure), splits


def _lines() -> pv.Predictions:
    """Straight lines with noise, a few samples each: the bands widen where there are none."""
    generator = np.random.default_rng(0)
    slopes, shift = (1.5, 1.8, -1.0), 0.3
    data = {}
    for number, slope in enumerate(slopes):
        x = generator.uniform(-0.5, 1.0, size=(6, 1)).astype(np.float32)
        y = slope * x[:, 0] + shift + 0.5 * generator.normal(size=6).astype(np.float32)
        data[f"line {number}"] = (x, y.astype(np.float32))
    tasks = pv.TaskSet.from_arrays(data)
    fitted = pv.fit(tasks, None, pv.Settings(encoder=pv.Identity()))
    grid = np.linspace(-3, 3, 61, dtype=np.float32)[:, None]
    asked = {
        name: (np.concatenate([x, grid]), np.append(y, np.full(61, np.nan)))
        for name, (x, y) in data.items()
    }
    return fitted.predict(pv.TaskSet.from_arrays(asked))


def uncertainty() -> None:
    """Do stated probabilities come true, where does uncertainty come from, and is it of use?"""
    splits = pv.digit_domains(shots=3)
    fitted = pv.fit(splits.train, splits.validation)
    predictions = fitted.predict(splits.test)
    scaled = pv.scale_temperature(fitted, splits.validation)
    after = scaled.predict(splits.test)
    ax = panels(2, 4.4, 4.2)
    plot_reliability(predictions, ax[0])
    plot_reliability(after, ax[1])
    for one, what in zip(ax, ("as fitted", "scaled by a temperature"), strict=True):
        one.set_title(f"{what}: {one.get_title().split(': ')[1]}", fontsize=10)
    save("uncertainty_reliability", ax)
    save("uncertainty_calibration", plot_calibration(predictions))
    show("calibration", calibration_table(predictions).round(3).to_string())
    show("temperature", scaled.frame().head(1).round(3).to_string(index=False))
    means = {"as fitted": predictions.metrics()["mean"], "scaled": after.metrics()["mean"]}
    show("before and after", pd.DataFrame(means).round(3).to_string())
    pooled = {
        name: calibration_table(one).loc["all tasks", ["ece", "ece_low", "ece_high"]]
        for name, one in (("as fitted", predictions), ("scaled", after))
    }
    show("pooled ECE", pd.DataFrame(pooled).astype(float).round(3).to_string())
    ax = panels(2, 5.0, 3.8)
    plot_uncertainty(predictions, ax[0])
    plot_uncertainty_of_samples(predictions, ax[1])
    save("uncertainty_decomposition", ax)
    show("uncertainty", uncertainty_table(predictions).round(3).to_string())
    save("uncertainty_risk_coverage", plot_risk_coverage(predictions))
    save("uncertainty_extreme_samples", plot_extreme_samples(predictions))

    known, _ = leave_out_class(splits.train, "8")
    checked, _ = leave_out_class(splits.validation, "8")
    inside, outside = leave_out_class(splits.test, "8")
    without = pv.fit(known, checked)
    ax = panels(2, 4.8, 3.4)
    for one, kind in zip(ax, ("epistemic", "total"), strict=True):
        pair = without.predict(inside), without.predict(outside)
        plot_out_of_distribution(*pair, one, by=kind)  # type: ignore[arg-type]
    save("uncertainty_out_of_distribution", ax)

    regression, tasks = _regression()
    real = regression.predict(tasks.test, num_samples=500)
    ax = panels(2, 4.4, 3.8)
    plot_coverage(real, ax[0])
    plot_pit(real, ax[1])
    save("uncertainty_coverage", ax)
    coverage = interval_coverage(real)
    show("coverage", coverage[coverage["level"] == 0.9].round(3).to_string(index=False))
    stretched = pv.scale_temperature(regression, tasks.validation)
    show("temperature of the regression", stretched.frame().head(1).round(3).to_string(index=False))
    lines = _lines()
    ax = panels(3, 4.2, 3.2)
    for one, name in zip(ax, lines.tasks.names, strict=True):
        plot_bands(lines, one, task=name)
        if one is not ax[-1]:
            legend = one.get_legend()
            assert legend is not None
            legend.remove()
    save("uncertainty_bands", ax)


def training() -> None:
    """The ELBO and its parts, schedules, scales, and what each task pays."""
    fitted, _, snapshots = two_codes()
    ax = panels(2)
    plot_elbo(fitted.history, ax[0])
    plot_schedules(fitted.history, ax[1])
    save("training_elbo", ax)
    ax = panels(2, 5.0)
    plot_kl_per_task(kl_per_task(fitted), ax[0])
    plot_kls_over_time(snapshots.kls(), ax[1], most=4)
    save("training_kl_per_task", ax)

    splits = tasks_in_clusters()
    histories = {}
    for name, classifier in (("closed form", None), ("recursive", "mean_field")):
        structure = pv.Settings(
            encoder=pv.Identity(),
            bias=False,
            pool=pv.Mixture(),
            classifier=classifier,  # type: ignore[arg-type]
        )
        training = None if classifier is None else RECURSION
        one = pv.fit(splits.train, splits.validation, structure, training, log_warnings=False)
        histories[name] = one.history
    ax = panels(2)
    for axes, (name, history) in zip(ax, histories.items(), strict=True):
        plot_scales(history, axes)
        axes.set_title(f"mixture, {name}", fontsize=10)
        axes.set_yscale("log")
        axes.set_ylim(0.003, 2)
    save("training_scales", ax)
    columns = ["weights_evidence", "weights_drift", "validation_nll"]
    last = {name: history.reindex(columns=columns).iloc[-1] for name, history in histories.items()}
    show("diagnostics after the last epoch", pd.DataFrame(last).round(3).to_string())
    show("warnings, recursive", "\n".join(one.warnings))


def report() -> None:
    """The report of a run, as a browser shows it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("there is no Chromium on the path; expected one for the screenshot")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [
            *(sys.executable, "-m", "pyro_vmtl.train", "data=clusters", "data.samples=40"),
            *("data.outliers=1", "data.num_clusters=3", "model=identity", "model.bias=false"),
            "trainer.progress_bar=false",
            *("temperature_scaling=true", f"run_dir={run}", "trainer.tensorboard=false"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for name, size in (("report", "1280,1500"), ("report_narrow", "500,1100")):
            shot = Path(folder) / f"{name}.png"
            flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            quiet = ["--disable-background-networking", "--disable-component-update"]
            profile = f"--user-data-dir={folder}/profile"
            page = (run / "report.html").as_uri()
            where = [f"--window-size={size}", f"--screenshot={shot}", page]
            subprocess.run(
                [browser, *flags, *quiet, profile, *where], check=True, capture_output=True
            )
            # A palette is a quarter of the bytes.
            picture = Image.open(shot).convert("RGB").quantize(96)
            picture.save(FOLDER / f"{name}.png", optimize=True)


def arviz() -> None:
    """How far a task's weights are from those of the others, from the exported draws."""
    import arviz as az

    fitted, splits = in_clusters(NESTED)
    data = pv.to_inference_data(fitted, splits.test)
    show("groups and variables", _contents(data))
    distances = group(data, "posterior")["task_distances"]
    show("the file as exported, attributes", sorted(attributes(data)))
    others = [name for name in fitted.names if name != "task 0"]
    az.plot_forest(
        data,
        var_names=["task_distances"],
        coords={"task": ["task 0"], "other_task": [*others, "base"]},
        combined=True,
        figsize=(6, 4),
    )
    nearest = distances.mean(("chain", "draw")).sel(task="task 0").to_series().sort_values()
    show("nearest to task 0", nearest.head(3).round(2).to_string())
    save("arviz_forest", plt.gcf().axes[0])


def _contents(data: Any) -> str:
    lines = []
    for name in group_names(data):
        for variable, values in group(data, name).data_vars.items():
            lines.append(f"{name}: {variable} ({', '.join(map(str, values.dims))})")
    return "\n".join(lines)


def influence() -> None:
    """Who gains from whom, by two measures, beside the learned relatedness."""
    fitted, splits = in_clusters(NESTED)
    truth = splits.train.truth
    assert truth is not None
    learned = pv.relatedness(fitted)
    order = task_order(learned)
    table = pv.influence(fitted, splits.train)
    show("first rows of the table", table.head(3).round(3).to_string(index=False))
    ax = panels(3, 5.0, 4.3)
    plot_relatedness(learned, ax[0], truth=truth, order=order)
    for kind, one in (("alone", ax[1]), ("without", ax[2])):
        pv.plot_influence(table, one, kind=kind, truth=truth, order=order)  # type: ignore[arg-type]
    for one, title in zip(ax, ("learned", "alone", "without"), strict=True):
        one.set_title(title, fontsize=10)
    save("influence", ax)


def grouping() -> None:
    """Groups of tasks, what they gain by their number, and how far pairs tell of sets."""
    fitted, splits = in_clusters(NESTED)
    table = pv.influence(fitted, splits.train, kinds=["alone"])
    best = pv.group_tasks(table)
    show("the best groups", best.round(3).to_string(index=False))
    order = [name for group in best["tasks"] for name in group]
    labels = {name: str(number) for number, group in enumerate(best["tasks"]) for name in group}
    ax = panels(3, 5.0, 4.3)
    pv.plot_influence(table, ax[0], order=order, truth=labels)
    ax[0].set_title("pair gains; outlined: the best groups", fontsize=10)
    numbers = np.arange(1, 13)
    worth = [pv.group_tasks(table, int(number)).attrs["gain"] for number in numbers]
    ax[1].axhline(0, color="grey", lw=0.8)
    ax[1].plot(numbers, worth, "o-")
    ax[1].set_xlabel("number of groups")
    ax[1].set_ylabel("sum of the gains of the best groups")
    sizes = (2, 3, 4, 5, 6)
    gains = influence_matrix(table).fillna(0.0)
    generator = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        sets = [
            tuple(generator.choice(fitted.names, size, replace=False).tolist()) for _ in range(40)
        ]
        sets += [group[:size] for group in best["tasks"] if len(group) >= size]
        average = [gains.loc[list(g), list(g)].to_numpy().sum() / size for g in sets]
        true = pv.set_gains(fitted, splits.train, sets)["gain"]
        ax[2].plot(average, true, ".", color=f"C{number}", label=f"{size} tasks")
    ax[2].axline((0, 0), slope=1, color="grey", lw=0.8)
    ax[2].set_xlabel("average of pair gains")
    ax[2].set_ylabel("true gain of the set")
    ax[2].legend(fontsize=8)
    save("grouping", ax)


def feedback() -> None:
    """The map between two codes of labels beside the true one, and gates of lenders."""
    splits = pv.relabelled_digits(shots=8, validation_shots=0)
    names = splits.train.names
    train = splits.train.select([names[0], *names[1::2]])
    settings = pv.Settings(encoder=pv.PrincipalComponents(50), pool=pv.Feedback())
    fitted = pv.fit(train, settings=settings, log_warnings=False)
    y = train.y.clone()
    for lender in (1, 2, 3):
        rows = train.indices(lender)
        y[rows] = y[rows][torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    random = pv.fit(replace(train, y=y), settings=settings, log_warnings=False)
    digit = load_digits().target[train.sources.numpy()]
    own = [train.indices(task) for task in (0, 1)]
    code = [dict(zip(digit[rows], train.y[rows].tolist(), strict=True)) for rows in own]
    true = np.zeros((10, 10))
    for d in range(10):
        true[code[0][d], code[1][d]] = 1
    ax = panels(3, 4.6, 4.2)
    learned = pv.output_maps(fitted)[0].sum(0)
    limit = abs(learned).max()
    ax[0].imshow(learned, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax[1].imshow(true, cmap="Greys")
    for one, title in zip(ax, ("learned, sum over lenders", "true"), strict=False):
        one.set(xticks=range(10), yticks=range(10), xlabel="class of the lenders", title=title)
    ax[0].set_ylabel("class of the lone task")
    plt.colorbar(ax[0].images[0], ax=ax[0], shrink=0.8)
    for number, (fit, label) in enumerate(((fitted, "true labels"), (random, "random labels"))):
        gates = fit.vmtl.borrowing["weights"].probabilities()[0]
        show(f"gates of lenders with {label}", str(gates.numpy().round(3)))
        ax[2].bar(np.arange(3) + 0.4 * number - 0.2, gates, 0.4, label=label)
    ax[2].axhline(0.5, color="grey", lw=0.8, ls="--")
    ax[2].set(xticks=range(3), xticklabels=train.names[1:], ylim=(0, 1.18))
    ax[2].set(title="chance that the lone task's gate is open")
    ax[2].legend(loc="upper left", ncols=2, fontsize=8)
    save("feedback", ax)


PAGES: dict[str, Callable[[], None]] = {
    "relatedness": relatedness,
    "training": training,
    "influence": influence,
    "grouping": grouping,
    "feedback": feedback,
    "arviz": arviz,
    "report": report,
    "uncertainty": uncertainty,
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", choices=[*PAGES, []], default=[])
    chosen = parser.parse_args().pages or list(PAGES)
    FOLDER.mkdir(exist_ok=True)
    for page in chosen:
        PAGES[page]()


if __name__ == "__main__":
    main()
