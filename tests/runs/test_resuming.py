"""A run that stopped goes on as the run that it was, and as no other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from pyro_vmtl.runs.folder import RunFolder

Train = Callable[..., Path]
FIXED = ("trainer.temperature.end=1.0", "trainer.patience=null")


@contextmanager
def _interrupted(name: str, after: int) -> Iterator[None]:
    """Ctrl-C when the folder's file of that name is written once more than so often."""
    write, seen = RunFolder.write, 0

    def stop(folder: RunFolder, written: str, *rest: Any) -> Path:
        nonlocal seen
        seen += written == name
        if seen > after:
            raise KeyboardInterrupt
        return write(folder, written, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write", stop)
        with pytest.raises(SystemExit) as exit_:
            yield
        assert exit_.value.code == 130


def _models(*runs: Path) -> list[bytes]:
    return [(run / "model" / "model.safetensors").read_bytes() for run in runs]


def _histories(*runs: Path) -> list[pd.DataFrame]:
    return [pd.read_csv(run / "metrics.csv").drop(columns="seconds") for run in runs]


class TestOneWord:
    @pytest.mark.parametrize(
        ("name", "after"), [("metrics.csv", 0), ("metrics.csv", 2), ("metrics.json", 0)]
    )
    def test_goes_on_in_the_folder_of_a_run_that_stopped(
        self, train: Train, clusters: tuple[str, ...], name: str, after: int
    ) -> None:
        """In the first epoch, in the third, and after the last, when the model is written."""
        overrides = (*clusters, *FIXED, "trainer.epochs=4", "seed=3")
        whole = train(*overrides, name="whole")
        with _interrupted(name, after):
            train(*overrides, name="stopped")
        if name == "metrics.csv" and after == 0:  # it came to nothing, and is nothing to go on with
            assert not Path("stopped").exists()
            return
        train("resume=stopped", name="", small=False)
        stopped = Path("stopped")
        pd.testing.assert_frame_equal(*_histories(whole, stopped))
        assert len(set(_models(whole, stopped))) == 1
        assert not list(stopped.rglob(".*"))
        assert not Path("runs").exists()
        configs = [OmegaConf.load(run / "config.yaml") for run in (whole, stopped)]
        assert configs[0] == configs[1]

    def test_trains_one_that_has_ended_for_longer_elsewhere(
        self, train: Train, clusters: tuple[str, ...]
    ) -> None:
        whole = train(*clusters, *FIXED, "trainer.epochs=3", "data.samples=14", name="whole")
        half = train(*clusters, *FIXED, "trainer.epochs=2", "data.samples=14", name="half")
        before = {path: path.read_bytes() for path in half.rglob("*") if path.is_file()}
        train("resume=half", "trainer.epochs=3", name="", small=False)
        assert {path: path.read_bytes() for path in half.rglob("*") if path.is_file()} == before
        (rest,) = Path("runs/clusters").iterdir()
        pd.testing.assert_frame_equal(*_histories(whole, rest))
        assert OmegaConf.load(rest / "config.yaml").ckpt_path == "half/checkpoints/last.ckpt"
        named = train("resume=half", "trainer.epochs=3", name="named", small=False)
        assert len(set(_models(whole, rest, named))) == 1

    def test_that_is_refused_leaves_the_run_as_it_was(
        self,
        train: Train,
        clusters: tuple[str, ...],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        with _interrupted("metrics.csv", 1):
            train(*clusters, name="stopped")
        before = Path("stopped/config.yaml").read_text()
        for override in ("data.samples=13", "trainer.epochs=0", "num_samples=0"):
            with pytest.raises(SystemExit):
                train("resume=stopped", override, name="", small=False)
            assert Path("stopped/config.yaml").read_text() == before
        assert "the number of training samples is 48 there and 52 here" in capsys.readouterr().err
        train("resume=stopped", name="", small=False)

    @pytest.mark.parametrize(
        ("overrides", "says"),
        [
            (("resume=nowhere",), "nowhere has no config.yaml; expected the folder of a run"),
            (("resume=run", "--config-name=config"), "was given with --config-name=config"),
            (("resume=run", "ckpt_path=x.ckpt"), "was given with ckpt_path=x.ckpt"),
            (("resume=run", "--multirun"), "was given with --multirun"),
        ],
    )
    def test_that_cannot_be_is_one_sentence(
        self,
        train: Train,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        overrides: tuple[str, ...],
        says: str,
    ) -> None:
        (tmp_path / "run").mkdir()
        with pytest.raises(SystemExit) as exit_:
            train(*overrides, name="other", small=False)
        assert exit_.value.code == 2
        assert says in capsys.readouterr().err
        assert not (tmp_path / "other").exists()

    def test_has_nothing_to_go_on_with_where_nothing_takes_a_gradient(
        self, train: Train, clusters: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        train(*clusters, "model=default", "model.classifier=null", "pool=nested")
        with pytest.raises(SystemExit):
            train("resume=run", name="", small=False)
        assert "has ended and run/checkpoints/last.ckpt is not a file" in capsys.readouterr().err


def test_a_checkpoint_of_other_data_is_refused(
    train: Train, clusters: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    train(*clusters, "data.samples=14", name="a")
    checkpoint = "ckpt_path=a/checkpoints/last.ckpt"
    with pytest.raises(SystemExit):
        train(*clusters, checkpoint, "trainer.epochs=4", name="b")
    said = capsys.readouterr().err
    assert "comes from another run: the number of training samples is 56 there and 48 here" in said
    assert not Path("b").exists()


@pytest.mark.parametrize("choices", [(), ("trainer.loss=task_means",)])
def test_a_run_resumed_after_its_last_epoch_is_the_run(
    train: Train, clusters: tuple[str, ...], choices: tuple[str, ...]
) -> None:
    overrides = (*clusters, *FIXED, *choices, "pool=mixture", "trainer.kl_weights.value=0.2")
    one = train(*overrides, name="one")
    two = train(*overrides, "ckpt_path=one/checkpoints/last.ckpt", name="two")
    assert len(set(_models(one, two))) == 1
    assert len({(run / "model" / "model.json").read_text() for run in (one, two)}) == 1
    assert '"weights": 1.0' not in (two / "model" / "model.json").read_text()
    for name in ("predictions.parquet", "relatedness.csv", "relatedness_over_time.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    warnings = [OmegaConf.load(run / "metrics.json").warnings for run in (one, two)]
    assert warnings[0] == warnings[1]
