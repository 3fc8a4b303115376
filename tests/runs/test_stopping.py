"""A run that is stopped or has no room says what it leaves, and goes on from there."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pyro_vmtl.inference.checkpoints import WholeCheckpoints
from pyro_vmtl.runs.folder import RunFolder

Train = Callable[..., Path]
SMALL = (
    *("trainer.epochs=2", "trainer.steps_per_epoch=3", "trainer.validation_samples=4"),
    *("trainer.progress_bar=false", "trainer.accelerator=cpu", "num_samples=20"),
    "trainer.tensorboard=false",
)


def _press() -> None:
    raise KeyboardInterrupt


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _fill() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "metrics.csv")


def _fill_for_a_format() -> None:
    raise RuntimeError("Unable to write (errno = 28, error message = 'No space left on device')")


def _exceed() -> None:
    raise RuntimeError("Set slist enabled failed (time = now\n, errno = 27, 'File too large')")


STOPS: list[tuple[Callable[[], None], int, str]] = [
    (_press, 130, "Stopped: "),
    (_terminate, 143, "Stopped: "),
    (_fill, 2, "Error: a file cannot be written (No space left on device, metrics.csv): "),
    (_fill_for_a_format, 2, "Error: a file cannot be written (No space left on device): "),
    (_exceed, 2, "Error: a file cannot be written (File too large): "),
]


# After an epoch, before anything was trained, and where results are written.
MOMENTS = [(name, *STOPS[0]) for name in ("metrics.csv", "config.yaml")]
MOMENTS += [("predictions.parquet", *stop) for stop in STOPS]


@pytest.mark.parametrize(("name", "stop", "code", "says"), MOMENTS)
def test_one_sentence_says_how_it_goes_on(
    train: Train,
    clusters: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    name: str,
    stop: Callable[[], None],
    code: int,
    says: str,
) -> None:
    write, seen = RunFolder.write, 0

    def stopped(folder: RunFolder, written: str, *rest: Any) -> Path:
        nonlocal seen
        seen += written == name
        if seen > (name == "metrics.csv"):
            stop()
        return write(folder, written, *rest)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write", stopped)
        with pytest.raises(SystemExit) as exit_:
            train(*clusters)
    assert exit_.value.code == code
    assert signal.getsignal(signal.SIGTERM) is handler
    error = capsys.readouterr().err
    assert error.startswith(says)
    assert error.count("\n") == 1
    if name == "config.yaml":
        assert "no epoch was trained, and nothing is left in run" in error
        assert not Path("run").exists()
        return
    assert "`python -m pyro_vmtl.train resume=run` goes on" in error
    if name == "metrics.csv" and stop is _press:
        train("resume=run", name="", small=False)
        assert len(pd.read_csv("run/metrics.csv")) == 2


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    train: Train, clusters: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    replace, count = Path.replace, 0

    def full(path: Path, target: Path) -> Path:
        nonlocal count
        count += target.name == "last.ckpt"
        if target.name == "last.ckpt" and count > 1:
            _fill()
        return replace(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(SystemExit):
            train(*clusters, "trainer.epochs=3")
    assert "run keeps every epoch that was trained to its end" in capsys.readouterr().err
    assert {entry.name for entry in Path("run/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    whole = train(*clusters, "trainer.epochs=3", name="whole")
    train("resume=run", name="", small=False)
    models = [(run / "model" / "model.safetensors").read_bytes() for run in (whole, Path("run"))]
    assert models[0] == models[1]


LIMITED = """
import contextlib, io, json, resource, sys
from pyro_vmtl.__main__ import main
ended = []
for limit, arguments in json.loads(sys.argv[1]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    sys.argv[:] = ["pyro_vmtl", *arguments]
    code, error = 0, io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code
    ended.append((code, error.getvalue()))
print(json.dumps(ended))
"""


def _limited(*commands: tuple[int, tuple[str, ...]]) -> list[tuple[int, str]]:
    """Commands in a process whose files may be so large: their exit codes, and what they say."""
    program = [sys.executable, "-c", LIMITED, json.dumps(commands)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found: list[tuple[int, str]] = json.loads(ended.stdout)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the system's")
def test_no_file_may_be_so_large(train: Train, clusters: tuple[str, ...], tmp_path: Path) -> None:
    """The limit is met by inference_data.nc, by predictions and by the report."""
    model = ("model=default", "model.classifier=null", "pool=nested")
    table = tmp_path / "rows.csv"
    names = [f"task {number % 3}" for number in range(60)]
    frame = pd.DataFrame({"t": names, "x": range(60), "y": ["no", "yes", "no"] * 20})
    frame.assign(x=frame["x"] % 7).to_csv(table, index=False)
    columns = ("data.task=t", "data.target=y")
    train("data=table", f"data.path={table}", *columns, name="whole", report=True)
    Path("out.csv").write_text("mine")
    page = Path("whole/report.html").read_bytes()
    trained = ("train", *SMALL, *clusters)
    for code, error in _limited(
        (60_000, (*trained, *model, "run_dir=late")),
        (2000, ("predict", "whole", str(table), "out.csv", "--overwrite")),
        (2000, ("report", "whole")),
    ):
        assert code == 2, error
        assert error.startswith("Error: a file cannot be "), error
        assert "(File too large" in error
        assert error.count("\n") == 1, error
    assert Path("out.csv").read_text() == "mine"
    assert Path("whole/report.html").read_bytes() == page
    assert {entry.name for entry in tmp_path.rglob(".*")} <= {".running"}
    late = {entry.name for entry in Path("late").iterdir()}
    assert {"metrics.json", "model"} <= late
    assert "inference_data.nc" not in late
    train("resume=late", name="", small=False)
    assert Path("late/inference_data.nc").is_file()


def test_a_checkpoint_is_as_open_as_other_files(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        WholeCheckpoints().save_checkpoint({"x": 1}, tmp_path / "new" / "x.ckpt")
    finally:
        os.umask(before)
    (file,) = (tmp_path / "new").iterdir()
    assert file.stat().st_mode & 0o777 == 0o644


def test_another_error_of_the_system_is_a_bug(
    train: Train, clusters: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*anything: object) -> None:
        raise FileNotFoundError("a bug")

    monkeypatch.setattr("pyro_vmtl.runs.experiment.predict_held_out", fail)
    with pytest.raises(FileNotFoundError, match="a bug"):
        train(*clusters)
