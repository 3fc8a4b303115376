"""Tasks, classes and outputs keep their names, whatever signs are in them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pyro_vmtl as pv

Train = Callable[..., Path]
TASKS = ("[/a]", "[bold]b", ":smile: $x_{", "All tasks", "<i>&amp;\\", "é·ß", 300 * "x")


def _table(path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = 12 * len(TASKS)
    inputs = generator.normal(size=(rows, 2))
    frame = pd.DataFrame(inputs, columns=["[red]x", "y $"])
    frame["where"] = np.repeat(TASKS, 12)
    frame["kind"] = np.where(inputs[:, 0] > 0, "[/yes]", ":no_entry: [b]")
    frame["speed [m/s]"] = inputs[:, 0] + 0.1 * generator.normal(size=rows)
    frame["[/cost] $"] = inputs[:, 1] + 0.1 * generator.normal(size=rows)
    frame.to_csv(path, index=False)


@pytest.mark.parametrize("target", ["kind", ["speed [m/s]", "[/cost] $"]])
def test_go_through_a_whole_run_as_they_are(
    train: Train,
    tmp_path: Path,
    target: str | list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    _table(tmp_path / "rows [x].csv")
    targets = [target] if isinstance(target, str) else target
    quoted = ",".join(f"'{name}'" for name in targets)
    train(
        "data=table",
        "data.path='rows [x].csv'",
        "data.task=where",
        f"data.target=[{quoted}]" if len(targets) > 1 else f"data.target={quoted}",
        "data.features=['[red]x','y $']",
        "model=mlp",
        "pool=mixture",
        "baselines=true",
        "temperature_scaling=per_task",
        "trainer.progress_bar=true",
        name="'[/run] $'",
        report=True,
    )
    run, shown = tmp_path / "[/run] $", capsys.readouterr().out
    for name in (*TASKS, "[/run] $", *(targets if target != "kind" else ())):
        assert name in shown
    if target != "kind":
        assert f"regression of {', '.join(targets)}" in shown
    assert "report.html was not written" not in shown
    assert (run / "report.html").is_file()
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["test"]) == {*TASKS, "mean"}
    for sentence in metrics["warnings"]:
        assert sentence in shown
    assert set(pd.read_csv(run / "relatedness.csv")["task"]) == set(TASKS)
    fitted = pv.load(run)
    assert set(fitted.names) == set(TASKS)
    assert fitted.classes == ((":no_entry: [b]", "[/yes]") if target == "kind" else None)
    assert target == "kind" or fitted.outputs == tuple(targets)


@pytest.mark.parametrize("name", ["all tasks", "a\0b"])
def test_that_a_run_cannot_hold_are_refused_before_training(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    rows = pd.DataFrame(
        {
            "x": np.random.default_rng(0).normal(size=40),
            "task": ["a", name] * 20,
            "y": ["no", "no", "yes", "yes"] * 10,
        }
    )
    rows.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(SystemExit):
        train("data=table", "data.path=rows.parquet", "data.task=task", "data.target=y")
    error = capsys.readouterr().err
    assert "named" in error
    assert repr(name) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_in_a_refusal_are_as_they_are(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train("data=table", "data.path='[/x] :smile:.csv'", "data.task=a", "data.target=b")
    assert "[/x] :smile:.csv" in capsys.readouterr().err
