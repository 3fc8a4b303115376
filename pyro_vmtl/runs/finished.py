"""What the folder of a finished run says, read back from its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import xarray as xr
import yaml

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import Predictions
from pyro_vmtl.inspection import kept_epoch

__all__ = ["FinishedRun", "Kind", "read_run"]

Kind: TypeAlias = Literal["weights", "gates", "clusters"]

_FILES = (
    "config.yaml",
    "metrics.csv",
    "metrics.json",
    "relatedness.csv",
    "predictions.parquet",
    "model/model.json",
)
_NUMBERS = ("mean", "sd", "hdi_low", "hdi_high", "probability", "responsibility")
_POOL_OF_SITE = {"weights": "pool", "representations": "representation_pool"}
_KINDS: dict[str, Kind] = {"Power": "gates", "Clustered": "clusters"}


@dataclass(frozen=True)
class FinishedRun:
    """A run, as its files tell it.

    :ivar path: its folder.
    :ivar config: ``config.yaml``.
    :ivar history: ``metrics.csv``, a row per epoch.
    :ivar metrics: ``metrics.json``.
    :ivar relatedness: ``relatedness.csv``; ``attrs["gates"]`` as :func:`pyro_vmtl.relatedness`
        leaves it.
    :ivar predictions: ``predictions.parquet``, with the draws of a regression and the inputs where
        ``inference_data.nc`` has them.
    :ivar model: the description of the saved model, ``model/model.json``.
    :ivar truth: the true cluster of each task, where it is known.
    :ivar has_inputs: whether the inputs of ``predictions`` are the test samples' own.
    """

    path: Path
    config: dict[str, Any]
    history: pd.DataFrame
    metrics: dict[str, Any]
    relatedness: pd.DataFrame
    predictions: Predictions
    model: dict[str, Any]
    truth: tuple[int, ...] | None
    has_inputs: bool

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the T tasks."""
        return self.predictions.tasks.names

    @property
    def is_classification(self) -> bool:
        """Whether the targets are classes."""
        return self.predictions.tasks.is_classification

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that borrow, ``weights`` or ``representations``."""
        return tuple(self.relatedness["site"].unique())

    @property
    def kept(self) -> int | None:
        """The row of the history that the model stands at."""
        return kept_epoch(self.history)

    def setting(self, name: str) -> str:
        """The name of a choice, such as the pool's; ``own`` for one of the user's own."""
        choice = self.model["settings"].get(name)
        return "own" if choice is None else str(next(iter(choice)))

    def kind(self, site: str) -> Kind:
        """What the relatedness of a site is: weights of lenders, gates, or shared clusters."""
        pool = self.setting(_POOL_OF_SITE.get(site, "pool"))
        if pool == "own":  # rows of weights sum to 1, and nothing else need
            rows = self.relatedness[self.relatedness["site"] == site]
            total = rows.groupby("task")["probability"].sum()
            return "weights" if np.allclose(total, 1, atol=1e-3) else "gates"
        return _KINDS.get(pool, "weights")


def read_run(path: str | Path) -> FinishedRun:
    """Read the files of a finished run.

    :param path: its folder.
    :raises InputError: for a folder that lacks one of them, or a file that cannot be read.
    """
    path = Path(path)
    for name in _FILES:
        if not (path / name).is_file():
            raise InputError(f"{path} has no {name}; expected the folder of a finished run")
    name = ""
    try:
        for name in _FILES:
            _READERS[name](path / name)
        name = "config.yaml"
        config = yaml.safe_load((path / name).read_text())
        name = "metrics.csv"
        history = pd.read_csv(path / name, float_precision="round_trip")
        name = "metrics.json"
        metrics = json.loads((path / name).read_text())
        name = "model/model.json"
        model = json.loads((path / name).read_text())
        name = "relatedness.csv"
        relatedness = _read_relatedness(path / name)
        name = "predictions.parquet"
        frame = pd.read_parquet(path / name)
    except (OSError, ValueError, KeyError, yaml.YAMLError) as error:
        raise InputError(f"{path / name} cannot be read ({error}); expected a run's") from error
    return FinishedRun(path, config, history, metrics, relatedness, frame, model, None, False)
