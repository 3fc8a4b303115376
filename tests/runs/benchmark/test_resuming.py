"""What is there is not computed again; what is not, or is no result, is."""

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import DictConfig

from pyro_vmtl.runs.benchmark import cells
from pyro_vmtl.runs.benchmark.grid import Cell, fingerprint
from tests.runs.benchmark.conftest import Benchmark


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / "cells").iterdir()}


def test_a_stopped_run_goes_on_with_what_is_missing(
    benchmark_: Benchmark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    score, count = cells.score, 0

    def stopped(config: DictConfig, trusted: Collection[str] = ()) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return score(config, trusted)

    monkeypatch.setattr(cells, "score", stopped)
    folder = benchmark_(code=130)
    assert "goes on from here" in capsys.readouterr().err
    before = _files(folder)
    assert len(before) == 1
    assert benchmark_() == folder
    assert count == 2 + 3
    after = _files(folder)
    assert len(after) == 4
    assert after.items() >= before.items()
    benchmark_()
    assert count == 2 + 3
    assert _files(folder) == after


def test_other_settings_are_computed_anew_and_the_old_ones_kept(
    benchmark_: Benchmark, scored: list[DictConfig]
) -> None:
    folder = benchmark_("methods=[default]")
    first = pd.read_csv(folder / "results.csv")
    benchmark_("methods=[default]", extra="model.bias=false")
    assert len(scored) == 4
    assert len(_files(folder)) == 4
    assert not first["value"].equals(pd.read_csv(folder / "results.csv")["value"])
    # What a run shows while it trains does not make it another one.
    benchmark_("methods=[default]", extra="trainer.tensorboard=false experiment=mine")
    assert len(scored) == 4
    assert first.equals(pd.read_csv(folder / "results.csv"))


def test_files_that_are_no_results_are_named_and_computed_anew(
    benchmark_: Benchmark, scored: list[DictConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("methods=[default]", "reference=null", "seeds=[0,1,2,3]")
    folder = benchmark_(*arguments)
    half, foreign, empty, other = paths = sorted((folder / "cells").iterdir())
    tests = [json.loads(path.read_text())["test"] for path in paths]
    half.write_text(half.read_text()[:100])
    foreign.write_text(other.read_text())
    empty.write_text("")
    capsys.readouterr()
    benchmark_(*arguments)
    out = capsys.readouterr().out
    for path in (half, foreign, empty):
        assert f"{path} is no result of its cell" in out
    assert str(other) not in out
    assert len(scored) == 4 + 3
    assert [json.loads(path.read_text())["test"] for path in paths] == tests


def test_tables_alone_fit_nothing(benchmark_: Benchmark, scored: list[DictConfig]) -> None:
    folder = benchmark_("seeds=[0]")
    benchmark_("tables_only=true", code=1)
    assert len(scored) == 2
    states = pd.read_csv(folder / "cells.csv")
    assert list(states["status"]) == ["done", "done", "missing", "missing"]
    page = (folder / "tables.md").read_text()
    assert "(1 of 2 seeds)" in page
    assert "2 of 4 fits are there" in page


def test_its_own_configuration_goes_on_with_it(
    benchmark_: Benchmark, scored: list[DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyro_vmtl.benchmark import main

    folder = benchmark_("methods=[default]")
    arguments = ["--config-dir", str(folder), "--config-name", "grid", "seeds=[0,1,2]"]
    monkeypatch.setattr("sys.argv", ["pyro_vmtl.benchmark", *arguments])
    main()
    assert [config.seed for config in scored] == [0, 1, 2]
    assert len(_files(folder)) == 3


def test_a_fit_that_was_interrupted_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(config: DictConfig, trusted: Collection[str] = ()) -> dict[str, Any]:
        sys.exit(1)  # what the trainer does on Ctrl-C

    monkeypatch.setattr(cells, "score", interrupted)
    config = DictConfig({"seed": 0})
    cell = Cell("data", None, "", "method", 0, ("seed=0",), fingerprint(config))
    with pytest.raises(KeyboardInterrupt):
        cells.run_cell(tmp_path, {cell.fingerprint: cell}, 1, (), config)
    assert not list(tmp_path.iterdir())
