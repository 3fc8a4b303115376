"""Small runs of the real command."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from pyro_vmtl.__main__ import main as command_line
from pyro_vmtl.runs.folder import RunFolder
from pyro_vmtl.train import main

SMALL = (
    "trainer.epochs=2",
    "trainer.steps_per_epoch=3",
    "trainer.validation_samples=4",
    "trainer.progress_bar=false",
    "trainer.accelerator=cpu",
    "num_samples=20",
)
CLUSTERS = ("data=clusters", "data.num_tasks=4", "data.num_clusters=2", "data.samples=12")


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Run the command with overrides in an empty folder; the run folder is returned."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str, name: str = "run", small: bool = True, report: bool = False) -> Path:
        if not report:  # page and figures take seconds, and have tests of their own
            monkeypatch.setattr("pyro_vmtl.runs.experiment.write_report", lambda path: path)
            monkeypatch.setattr("pyro_vmtl.runs.experiment._write_figure", _close)
        flags = [override for override in overrides if override.startswith("--")]
        values = [override for override in overrides if not override.startswith("--")]
        named = [f"run_dir={name}"] if name else []
        arguments = [*flags, *(SMALL if small else ()), *named, *values]
        monkeypatch.setattr("sys.argv", ["pyro_vmtl.train", *arguments])
        main()
        return tmp_path / name

    return run


def _close(folder: RunFolder, name: str, figure: Figure) -> None:
    plt.close(figure)


@pytest.fixture
def clusters() -> tuple[str, ...]:
    """Overrides that choose four small tasks, and a model that is trained by gradients."""
    model = ("model=identity", "model.classifier=mean_field")
    return (*CLUSTERS, "data.dimensions=3", "data.test_samples=20", *model)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run ``python -m pyro_vmtl`` with arguments in an empty folder; its exit code is returned."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["pyro_vmtl", *arguments])
        try:
            command_line()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run
