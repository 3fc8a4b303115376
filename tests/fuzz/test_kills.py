"""A process that is killed at any moment leaves a run that goes on and ends as if nothing was."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

Odd = Any  # of conftest.py
SMALL = (
    *("trainer.validation_samples=3", "trainer.progress_bar=false", "trainer.accelerator=cpu"),
    *("trainer.tensorboard=false", "num_samples=5", "data.shots=1", "data.validation_shots=1"),
)
RUNS = {
    "default": (
        *(*SMALL, "trainer.epochs=6", "trainer.steps_per_epoch=4"),
        # The default of images, but with few representations: a look at weights takes less time.
        *("model=mlp", "model.encoder.latent_dim=3", "pool=nested"),
    ),
    "paper": (
        *("recipe=paper", *SMALL, "trainer.epochs=3", "trainer.steps_per_epoch=2"),
        *("trainer.num_particles=1", "trainer.per_class=1"),
    ),
}
BYTES = (
    *("model/model.safetensors", "model/model.json", "predictions.parquet", "relatedness.csv"),
    "relatedness_over_time.csv",
)
LONGEST = 240.0  # seconds of a process

Train = Callable[..., None]
Whole = Callable[[str], tuple[dict[str, Any], float]]
WHOLE: dict[str, tuple[dict[str, Any], float]] = {}


class Process:
    """``python -m pyro_vmtl`` in a folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.errors = folder / "errors.txt"
        command = [sys.executable, "-m", "pyro_vmtl", *arguments]
        with self.errors.open("wb") as errors:
            self._started = subprocess.Popen(
                command, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors
            )

    def wait(self, until: Callable[[], bool] = lambda: False) -> int | None:
        """Its exit code once it has ended, None where the condition came true before."""
        started = time.monotonic()
        while (code := self._started.poll()) is None:
            if until():
                return None
            if time.monotonic() - started > LONGEST:
                self.kill()
                raise AssertionError(f"the process ran for more than {LONGEST} s")
            time.sleep(0.002)
        return code

    def kill(self) -> None:
        self._started.kill()
        self._started.wait()


def results(run: Path) -> dict[str, Any]:
    """What a run says, without what time it took."""
    found: dict[str, Any] = {name: (run / name).read_bytes() for name in BYTES}
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["seconds"]
    config = OmegaConf.load(run / "config.yaml")
    text = re.sub(r"(Training|Total): \d+ s\.", "", (run / "report.html").read_text("utf-8"))
    return found | {"metrics.json": metrics, "config.yaml": config, "report.html": text}


@pytest.fixture
def train(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> Train:
    """Run the command in a folder to its end: with --whole in a process of its own."""

    def run(folder: Path, *arguments: str) -> None:
        if pytestconfig.getoption("--whole", default=False):
            process = Process(folder, "train", *arguments)
            assert process.wait() == 0, process.errors.read_text()
        else:  # most of the time of a process goes by before it begins
            monkeypatch.chdir(folder)
            assert command("train", *arguments).code == 0

    return run


@pytest.fixture
def whole(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What a run says that nobody kills, and how long it takes from its first file to its last."""

    def get(name: str) -> tuple[dict[str, Any], float]:
        if name not in WHOLE:
            folder = tmp_path_factory.mktemp(name)
            train(folder, *RUNS[name], "run_dir=run")
            ends = [(folder / "run" / n).stat().st_mtime for n in ("config.yaml", "report.html")]
            WHOLE[name] = results(folder / "run"), ends[1] - ends[0]
        return WHOLE[name]

    return get


@pytest.fixture(autouse=True)
def _few_draws() -> None:
    """As many as the command draws: a process of its own knows of no fewer."""


@pytest.mark.inputs(2, 20)
def test_a_kill(
    odd: Odd,
    seed: int,
    train: Train,
    whole: Whole,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    if hasattr(signal, "SIGALRM"):
        signal.alarm(0)  # processes have a limit of their own
    name = list(RUNS)[seed % len(RUNS)]
    expected, seconds = whole(name)
    for attempt in range(5):  # a kill that comes too late is none
        folder = tmp_path / str(attempt)
        folder.mkdir()
        run = folder / "run"
        process = Process(folder, "train", *RUNS[name], "run_dir=run")
        process.wait((run / "config.yaml").exists)
        moment = time.monotonic() + float(odd.random.random()) * seconds
        process.wait(partial(_is_past, moment))
        process.kill()
        if not (run / "report.html").is_file() or (run / ".running").exists():
            break
    left = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    record_property("left", " ".join(left))
    train(folder, "resume=run")
    found = results(run)
    for part, value in expected.items():
        assert found[part] == value, f"{part} is another; killed when there was {left}"
    assert not list(run.rglob(".*"))
    assert not (folder / "runs").exists()


def _is_past(moment: float) -> bool:
    return time.monotonic() >= moment
