"""The command: what it computes, and what it says of it."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import DictConfig

from tests.runs.benchmark.conftest import Benchmark

Train = Callable[..., Path]


def _record(folder: Path, method: str, seed: int) -> dict[str, Any]:
    (path,) = folder.glob(f"cells/*{method}_seed={seed}_*.json")
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def test_every_cell_is_fitted_once_and_all_tables_are_written(
    benchmark_: Benchmark, scored: list[DictConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = benchmark_(figures=True)
    assert len(scored) == 4
    assert "4 fits: 0 are done, 4 are not" in capsys.readouterr().out
    results = pd.read_csv(folder / "results.csv")
    assert list(results) == ["data", "size", "method", "seed", "task", "metric", "value"]
    assert set(results["method"]) == {"default", "recursive"}
    assert set(results["seed"]) == {0, 1}
    assert len(set(results["task"])) == 4 + 2  # the mean, and calibration of all tasks together
    keys = ["data", "size", "method", "seed", "metric"]
    table = results.pivot(index=keys, columns="task", values="value")
    own = table.drop(columns=["mean", "all tasks"])
    known = own.notna().all(axis=1)
    assert known.sum() == 4 * 4  # accuracy, nll, brier and ece of each fit
    assert table["mean"][known].to_numpy() == pytest.approx(own[known].mean(axis=1).to_numpy())
    pooled = results[results["task"] == "all tasks"].set_index(["metric", "method", "seed"])[
        "value"
    ]
    for method in ("default", "recursive"):
        for seed in (0, 1):
            low, ece, high = (pooled[name, method, seed] for name in ("ece_low", "ece", "ece_high"))
            assert low <= high
            assert pooled["ece_in_range", method, seed] == (low <= ece <= high)
    states = pd.read_csv(folder / "cells.csv")
    assert list(states["status"]) == ["done"] * 4
    for name in ("tables.md", "tables.tex", "grid.yaml", "figures/clusters.png"):
        assert (folder / name).stat().st_size > 100
    page = (folder / "tables.md").read_text()
    assert "trainer.epochs=2" in page
    assert "](figures/clusters.png)" in page
    assert not [path for path in folder.rglob(".*") if path.is_file()], "drafts were left behind"


def test_a_list_may_take_several_lines(benchmark_: Benchmark, scored: list[DictConfig]) -> None:
    benchmark_("methods=[default,\n    {plain: {pool: standard}}]", "seeds=[0]")
    pools = [config.get("pool") for config in scored]  # the default's is left to the data
    assert [pool and pool._target_.rpartition(".")[2] for pool in pools] == [None, "Standard"]


def test_the_command_of_a_cell_repeats_it(benchmark_: Benchmark, train: Train) -> None:
    folder = benchmark_("methods=[default]", "seeds=[3]", "reference=null")
    record = _record(folder, "default", 3)
    words = shlex.split(record["command"])
    assert words[:4] == ["OMP_NUM_THREADS=1", "python", "-m", "pyro_vmtl.train"]
    run = train(*words[4:], small=False)
    metrics = json.loads((run / "metrics.json").read_text())
    record["test"].pop("all tasks")
    assert metrics["test"] == record["test"]
    assert metrics["validation"] == record["validation"]


def test_a_cell_that_fails_says_why_and_stops_no_other(
    benchmark_: Benchmark, scored: list[DictConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    methods = "methods=[default,{broken: {trainer.learning_rate.value: -1}}]"
    folder = benchmark_(methods, code=1)
    sentence = "learning_rate reaches -1; expected values above 0"
    out = capsys.readouterr().out
    assert out.count(f"Failed: clusters data.samples=12 broken seed=0: {sentence}") == 1
    assert "2 of 4 fits have no result" in out
    states = pd.read_csv(folder / "cells.csv").set_index(["method", "seed"])
    assert states.loc[("broken", 1), "status"] == "failed"
    assert states.loc[("broken", 1), "error"] == sentence
    assert states.loc[("default", 1), "status"] == "done"
    assert set(pd.read_csv(folder / "results.csv")["method"]) == {"default"}
    page = (folder / "tables.md").read_text()
    assert "| broken | failed |" in page
    assert sentence.replace("_", r"\_") in page
    assert sentence in (folder / "tables.tex").read_text()
    record = _record(folder, "broken", 0)
    assert record["error"] == sentence
    assert "InputError" in record["traceback"]
    benchmark_(methods, code=1)
    assert len(scored) == 4 + 2, "what failed is tried again, what is done is not"


def test_temperature_scaling_scores_what_was_scaled(benchmark_: Benchmark, train: Train) -> None:
    plain_ = "{plain: {model.classifier: mean_field}}"
    scaled = "{scaled: {model.classifier: mean_field, temperature_scaling: true}}"
    folder = benchmark_(f"methods=[{plain_},{scaled}]", "seeds=[0]", "reference=plain")
    plain, after = _record(folder, "plain", 0)["test"], _record(folder, "scaled", 0)
    assert plain["mean"]["accuracy"] == after["test"]["mean"]["accuracy"]
    assert plain["mean"]["nll"] != after["test"]["mean"]["nll"]
    run = train(*shlex.split(after["command"])[4:], small=False)
    calibrated = json.loads((run / "metrics.json").read_text())["calibrated"]
    assert calibrated["after"]["test"]["mean"] == after["test"]["mean"]
