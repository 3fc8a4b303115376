"""Cells in several processes are those of one process."""

import json

import pytest
from hydra.core.plugins import Plugins

from tests.runs.benchmark.conftest import Benchmark


def test_joblib_gives_what_one_process_gives(benchmark_: Benchmark) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = ("methods=[vbmtl]", "reference=null")
    parallel = benchmark_(*arguments, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    single = benchmark_(*arguments, "run_dir=single").with_name("single")
    names = [path.name for path in sorted((single / "cells").iterdir())]
    assert len(names) == 2
    for name in names:
        ours, theirs = (json.loads((f / "cells" / name).read_text()) for f in (parallel, single))
        assert ours["test"] == theirs["test"]
        assert ours["command"] == theirs["command"]


def test_a_launcher_that_ends_early_leaves_tables_and_a_sentence(
    benchmark_: Benchmark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Lost:
        def launch(self, *given: object) -> None:
            raise ConnectionError("the cluster went away\nand more")

    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda self, **given: Lost())
    folder = benchmark_(code=1)
    out = capsys.readouterr().out
    assert "the launcher ended early (ConnectionError: the cluster went away)" in out
    assert "4 of 4 fits have no result" in out
    assert "0 of 4 fits are there" in (folder / "tables.md").read_text()
