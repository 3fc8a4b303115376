"""A folder is one run's: claimed at once, checked before training, free when a process is gone."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pyro_vmtl.errors import InputError
from pyro_vmtl.runs.finished import read_run
from pyro_vmtl.runs.folder import RunFolder

Train = Callable[..., Path]


def test_a_claimed_folder_is_in_use_until_it_is_released(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run").claim()
    with pytest.raises(InputError, match="is in use by another process"):
        RunFolder(tmp_path / "run").claim()
    folder.release()
    assert not list((tmp_path / "run").iterdir())
    RunFolder(tmp_path / "run").claim().release()


def test_of_many_that_claim_a_folder_one_gets_it(tmp_path: Path) -> None:
    def claim(_: int) -> RunFolder | None:
        try:
            return RunFolder(tmp_path / "run").claim()
        except InputError:
            return None

    with ThreadPoolExecutor(16) as pool:
        folders = [folder for folder in pool.map(claim, range(64)) if folder is not None]
    assert len(folders) == 1
    folders[0].release()


def test_folders_named_by_the_time_are_never_shared(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: RunFolder.named_by_time(tmp_path / "runs"), range(32)))
    assert len({folder.path for folder in folders}) == 32
    for folder in folders:
        folder.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that is killed")
def test_a_killed_process_leaves_its_folder_to_who_goes_on(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        folder = RunFolder(tmp_path / "run").claim()
        folder.write_text("config.yaml", "seed: 0\n")
        (folder.path / ".mine-1.txt").write_text("mine")
        (folder.path / ".model-12-0123abcd").mkdir()
        (folder.path / "checkpoints").mkdir()
        (folder.path / "checkpoints" / ".last-12.ckpt").write_text("half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with pytest.raises(InputError, match=r"already holds a run; expected .*, or resume=.*run to"):
        RunFolder(tmp_path / "run")
    folder = RunFolder.existing(tmp_path / "run")
    assert folder.is_unfinished
    folder.claim(goes_on=True)
    hidden = [entry.name for entry in folder.path.rglob(".*")]
    assert sorted(hidden) == [".mine-1.txt", ".running"]
    with pytest.raises(InputError, match="is in use by another process"):
        RunFolder.existing(tmp_path / "run").claim(goes_on=True)
    folder.write_json("metrics.json", {})
    folder.release()
    assert not RunFolder.existing(tmp_path / "run").is_unfinished


@pytest.mark.parametrize(
    "mine", ["checkpoints/mine.ckpt", "model/model.json", "figures/mine.png", "metrics.csv"]
)
def test_what_is_in_the_way_is_said_before_training(
    train: Train,
    clusters: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mine: str,
) -> None:
    def fit_nothing(*anything: object, **options: object) -> None:
        raise AssertionError("it was trained")

    monkeypatch.setattr("pyro_vmtl.runs.experiment.fit_plan", fit_nothing)
    path = tmp_path / "run" / mine
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(SystemExit):
        train(*clusters)
    assert f"already has {mine.partition('/')[0]}, which a run writes" in capsys.readouterr().err
    found = [entry for entry in (tmp_path / "run").rglob("*") if entry.is_file()]
    assert found == [path]
    assert path.read_text() == "mine"


def check_influences(run: Path) -> None:
    """The table has every pair twice, and says what gains.csv says of tasks taken out."""
    finished = read_run(run)
    assert finished.influence is not None
    assert finished.gains is not None
    count = len(finished.names)
    assert finished.influence["kind"].value_counts().to_dict() == {
        "alone": count * (count - 1),
        "without": count * (count - 1),
    }
    ours = finished.influence[finished.influence["kind"] == "without"]
    both = ours.merge(finished.gains, left_on=["borrower", "lender"], right_on=["task", "other"])
    assert len(both) == count * (count - 1)
    np.testing.assert_allclose(both["gain_x"], both["gain_y"], atol=1e-12)
    assert "Who gains from whom" in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "figures" / "influence.png").is_file()


def test_whatever_a_run_writes_is_looked_for(train: Train, clusters: tuple[str, ...]) -> None:
    run = train(*clusters, "temperature_scaling=true", report=True)
    nested = train(*clusters, "model.classifier=null", "pool=nested", name="nested", report=True)
    assert (nested / "gains.csv").is_file()
    check_influences(nested)
    for entry in (*run.iterdir(), *nested.iterdir()):
        other = run.parent / f"other-{entry.parent.name}-{entry.name}"
        other.mkdir()
        entry.rename(other / entry.name)
        with pytest.raises(InputError, match=r"already (has|holds)"):
            RunFolder(other).claim()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (f"run_dir={300 * 'x'}", "cannot be written (File name too long)"),
        ("run_dir=[a]", "run_dir is ['a']; expected the name of a folder"),
        ("run_dir=true", "run_dir is True; expected the name of a folder"),
        ("experiment=null", "experiment is None; expected the name of a folder"),
        ("experiment=../x", "experiment is '../x'; expected a name, of a folder under runs/"),
        (f"experiment={300 * 'x'}", "cannot be written (File name too long)"),
        ('run_dir="a\\0b"', "cannot be written (embedded null byte)"),
    ],
)
def test_what_is_no_name_of_a_folder_is_one_sentence(
    train: Train, capsys: pytest.CaptureFixture[str], override: str, says: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        train(override.replace("\\0", "\0"), name="")
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_number_is_a_name(train: Train, clusters: tuple[str, ...]) -> None:
    train(*clusters, name="3")
    assert Path("3/metrics.json").is_file()
