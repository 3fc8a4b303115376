"""A run in two processes: one folder, written by one of them, and other noise in each."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import in_parallel
from pyro_vmtl.runs.processes import is_first_process, refuse_parallel
from tests.runs.conftest import SMALL

Train = Callable[..., Path]


def test_two_processes_fill_one_folder_with_what_both_drew(
    train: Train, clusters: tuple[str, ...], tmp_path: Path
) -> None:
    overrides = (*SMALL, *clusters, "trainer.tensorboard=false")
    started = subprocess.run(
        [sys.executable, "-m", "pyro_vmtl.train", *overrides, "trainer.devices=2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert started.returncode == 0, started.stderr
    assert started.stdout.count("Run folder:") == 1
    (run,) = (tmp_path / "runs" / "clusters").iterdir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs"]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    both = pd.read_csv(run / "metrics.csv")
    assert list(both["epoch"]) == [0, 1]
    alone = pd.read_csv(train(*clusters, "trainer.tensorboard=false") / "metrics.csv")
    assert list(both["step"]) == list(alone["step"])
    # The mean of two gradients is not that of one: the second process drew noise of its own.
    assert (both["weights_loc"] != alone["weights_loc"]).all()
    # But the two are of the same thing.
    assert both["elbo"].to_numpy() == pytest.approx(alone["elbo"].to_numpy(), rel=0.2)


@pytest.mark.parametrize(
    ("trainer", "several"),
    [
        ({}, False),
        ({"devices": 1}, False),
        ({"devices": "1", "num_nodes": 1}, False),
        ({"devices": [1]}, False),  # the second device, and no other
        ({"devices": 2}, True),
        ({"devices": [0, 1]}, True),
        ({"devices": "auto"}, True),
        ({"devices": -1}, True),
        ({"devices": 1, "num_nodes": 2}, True),
    ],
)
def test_several_processes_are_those_of_devices_and_nodes(
    monkeypatch: pytest.MonkeyPatch, trainer: dict[str, Any], several: bool
) -> None:
    assert in_parallel(trainer) == several
    assert is_first_process(trainer)
    # A rank alone says nothing: runs of their own may have one too.
    monkeypatch.setattr("pyro_vmtl.runs.processes.rank_zero_only.rank", 1)
    assert is_first_process(trainer) == (not several)
    if several:
        with pytest.raises(InputError, match="in a sweep, of which each process"):
            refuse_parallel(trainer, "a sweep")
    else:
        refuse_parallel(trainer, "a sweep")
