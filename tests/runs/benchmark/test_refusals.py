"""What a person may get wrong, and the one sentence that answers."""

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from pyro_vmtl.benchmark import main
from pyro_vmtl.errors import InputError
from pyro_vmtl.runs.benchmark import cells
from tests.runs.benchmark.conftest import Benchmark


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["methods=[defualt]"], "methods has 'defualt'; expected a recipe, one of default"),
        (["methods=[default,default]"], "methods has 'default' twice"),
        (["methods=[]"], "methods is []; expected a list with at least one entry"),
        (["datasets=[nowhere]"], "datasets has 'nowhere'; expected one of"),
        (["datasets=[{data: clusters, size: 3}]"], "expected a name such as digit_domains"),
        (["seeds=[a]"], "seeds has 'a'; expected whole numbers"),
        (["seeds=[1,1]"], "seeds has 1 twice"),
        (["overrides=[5]"], "overrides has 5; expected overrides of the training command"),
        (["reference=nobody"], "reference is 'nobody'; expected one of the methods"),
        (["level=95"], "level is 95; expected a share"),
        (["threads=0"], "threads is 0; expected a whole number"),
        (["metrics=[f1]"], "metrics has 'f1'; expected some of accuracy"),
        (["overrides=['trainer.epochz=5']"], "clusters data.samples=12 default cannot be trained"),
        (["overrides=['data.path=x']"], "cannot be trained"),
        (["datasets=[{data: table, axis: null}]"], "data.path has no value"),
        (["datasets=[digit_domains]", "axis=data.samples"], "data.samples"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_before_anything_is_fitted(
    benchmark_: Benchmark,
    scored: list[DictConfig],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    benchmark_(*arguments, code=2)
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert not scored


def test_the_folder_of_a_run_is_not_taken(
    benchmark_: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "config.yaml").write_text("a: run")
    benchmark_(code=2)
    assert "already holds a run" in capsys.readouterr().err


def test_help_explains(benchmark_: Benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        benchmark_("--help")
    assert not exit_.value.code
    text = capsys.readouterr().out
    for word in ("methods=", "hydra/launcher=joblib", "differences.csv", "reference", "seeds"):
        assert word in text


def test_a_sweep_is_refused(
    benchmark_: Benchmark, capsys: pytest.CaptureFixture[str], scored: list[DictConfig]
) -> None:
    benchmark_("--multirun", code=2)
    assert "expected it without" in capsys.readouterr().err
    assert not scored


def test_a_cell_whose_configuration_was_not_planned_is_refused(tmp_path: Path) -> None:
    config = DictConfig({"seed": 0})
    with pytest.raises(InputError, match="not the one planned"):
        cells.run_cell(tmp_path, {}, 1, (), config)


def test_a_grid_of_somebody_elses_makes_nothing_of_theirs(
    benchmark_: Benchmark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line the same is the user's own word."""
    part = "methods=[{mine: {pool: standard, pool._target_: builtins.dict}}]"
    benchmark_(part, "seeds=[0]", "reference=null", code=1)
    assert "names builtins.dict" not in capsys.readouterr().out
    monkeypatch.setattr(
        "sys.argv",
        [
            "pyro_vmtl.benchmark",
            "--config-dir=bench",
            "--config-name=grid",
            "run_dir=theirs",
        ],
    )
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "the configuration of pool names builtins.dict, which is not of this library" in shown
