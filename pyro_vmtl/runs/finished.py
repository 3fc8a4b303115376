"""What the folder of a finished run says, read back from its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from omegaconf import OmegaConf
from torch import Tensor

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import Predictions
from pyro_vmtl.inspection import kept_epoch
from pyro_vmtl.inspection.relatedness import LABELS, VALUES, kind_of
from pyro_vmtl.model import Kind
from pyro_vmtl.model.architectures import FIXED

__all__ = ["FinishedRun", "leads_out", "read_influence", "read_run"]

_OWN = "own"
_FILES = (
    *("config.yaml", "metrics.json", "metrics.csv", "model/model.json", "relatedness.csv"),
    *("relatedness_over_time.csv", "predictions.parquet", "predictions_scaled.parquet"),
    *("gains.csv", "influence.csv", "inference_data.nc"),
)


@dataclass(frozen=True)
class FinishedRun:
    """A run, as its files tell it.

    :ivar path: its folder.
    :ivar config: ``config.yaml``.
    :ivar history: ``metrics.csv``, a row per epoch.
    :ivar metrics: ``metrics.json``.
    :ivar relatedness: ``relatedness.csv``; see :func:`pyro_vmtl.relatedness`.
    :ivar model: the description of the saved model, ``model/model.json``.
    :ivar predictions: ``predictions.parquet``, of outputs that are 0 or 1 a row for each
        (:meth:`pyro_vmtl.Predictions.by_output`); where ``inference_data.nc`` has them, with the
        draws of a regression and the test samples' inputs.
    :ivar truth: the true cluster of each task, where it is known.
    :ivar has_inputs: whether the inputs of ``predictions`` are the test samples' own.
    :ivar over_time: ``relatedness_over_time.csv``, where there is one that says something.
    :ivar scaled: ``predictions_scaled.parquet``, where temperatures were fitted; without draws.
    :ivar gains: ``gains.csv``, where there is one; see :func:`pyro_vmtl.gains`.
    :ivar influence: ``influence.csv``, where there is one; see :func:`pyro_vmtl.influence`.
    """

    path: Path
    config: dict[str, Any]
    history: pd.DataFrame
    metrics: dict[str, Any]
    relatedness: pd.DataFrame
    model: dict[str, Any]
    predictions: Predictions
    truth: tuple[int, ...] | None = None
    has_inputs: bool = False
    over_time: pd.DataFrame | None = None
    scaled: Predictions | None = None
    gains: pd.DataFrame | None = None
    influence: pd.DataFrame | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the T tasks."""
        return self.predictions.tasks.names

    @property
    def is_classification(self) -> bool:
        """Whether the targets are classes."""
        return self.predictions.tasks.is_classification

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that are 0 or 1, of which each row has as many predictions; else none."""
        stacked = self.is_classification and self.model["classes"] is None
        return tuple(self.model["outputs"]) if stacked else ()

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that borrow, of ``weights`` and ``representations``."""
        return tuple(self.relatedness["site"].unique())

    @property
    def kept(self) -> int | None:
        """The row of the history that the model stands at."""
        return kept_epoch(self.history)

    def kind(self, site: str) -> Kind:
        """What the relatedness of a site is."""
        return kind_of(self.relatedness, site)

    @property
    def classifier(self) -> str:
        """What the posterior of the weights is; before there was a choice, mean-field."""
        chosen = self.model["settings"].get("classifier", "mean_field")
        return next(iter(chosen)) if isinstance(chosen, dict) else str(chosen)

    @property
    def is_conjugate(self) -> bool:
        """Whether weights are in closed form without a learned encoder: no epoch overfits."""
        in_closed_form = self.classifier == "conjugate" or self.setting("pool") == "Nested"
        return in_closed_form and self.setting("encoder") in FIXED

    def setting(self, name: str) -> str:
        """The name of one of the model's choices, such as its ``pool``."""
        return setting(self.model, name)


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a link takes a path out of its folder: a report shows what is in its run alone."""
    return not path.resolve().is_relative_to(folder.resolve())


def setting(model: dict[str, Any], name: str) -> str:
    """The name of a choice in a saved model's description; ``own`` for one of its author's."""
    choice = model["settings"].get(name)
    return next(iter(choice)) if isinstance(choice, dict) else _OWN


def read_run(path: str | Path) -> FinishedRun:
    """Read the files of a finished run.

    :param path: its folder.
    :raises InputError: for a folder that lacks one of them, or a file that cannot be read.
    """
    path = Path(path)
    for name in _FILES:
        if leads_out(path / name, path):
            raise InputError(
                f"{path / name} is a link that leads out of the folder; expected the file itself, "
                "as a run writes it"
            )
    config = _read(path / "config.yaml", _config)
    metrics = _read(path / "metrics.json", _json)
    model = _read(path / "model" / "model.json", _json)
    history = _read(path / "metrics.csv", pd.read_csv)
    frame = _read(path / "predictions.parquet", pd.read_parquet)
    table = _read(path / "relatedness.csv", _relatedness)
    over_time = _read_if_there(path / "relatedness_over_time.csv", _relatedness)
    scaled = _read_if_there(path / "predictions_scaled.parquet", pd.read_parquet)
    gained = _read_if_there(path / "gains.csv", _gains)
    influenced = _read_if_there(path / "influence.csv", read_influence)
    try:
        constant = _group(path, "constant_data")
        inputs = _inputs(constant, len(frame))
        draws = None
        if model["classes"] is None:
            draws = _draws(_group(path, "posterior_predictive"), len(frame))
        return FinishedRun(
            path,
            config,
            history,
            metrics,
            table,
            model,
            _predictions(frame, model, inputs, draws),
            _truth(constant),
            inputs is not None,
            None if over_time is None or over_time.empty else over_time,
            None if scaled is None else _predictions(scaled, model, None, None),
            gained,
            influenced,
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"the files of {path} do not fit each other ({error!r}); expected those of one run"
        ) from error


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    if not path.is_file():
        raise InputError(f"{path} is missing; expected the folder of a finished run")
    try:
        return reader(path)
    except Exception as error:  # each format has errors of its own for what is not of it
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}); expected the file of a run") from error


def _read_if_there(path: Path, reader: Callable[[Path], Any]) -> Any:
    return _read(path, reader) if path.is_file() else None


def _config(path: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(path))


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _gains(path: Path) -> pd.DataFrame:
    # A task may be called NA.
    table = pd.read_csv(path, keep_default_na=False, dtype={"task": str, "other": str})
    return table.astype({"samples": int}).assign(
        **{name: pd.to_numeric(table[name], errors="coerce") for name in ("gain", "se")}
    )


def read_influence(path: Path) -> pd.DataFrame:
    """``influence.csv`` of a run."""
    table = pd.read_csv(path, keep_default_na=False, dtype={"borrower": str, "lender": str})
    return table.astype({"samples": int}).assign(
        **{n: pd.to_numeric(table[n], errors="coerce") for n in ("gain", "se", "low", "high")}
    )


def _relatedness(path: Path) -> pd.DataFrame:
    # A task may be called NA or 1: only an empty number is missing.
    table = pd.read_csv(
        path,
        dtype=dict.fromkeys(LABELS, str) | dict.fromkeys(VALUES, float),
        keep_default_na=False,
        na_values={name: [""] for name in VALUES},
    )
    return table if "draws_of" in table else table.assign(draws_of="")  # of earlier versions


def _group(path: Path, name: str) -> xr.Dataset | None:
    """A group of the export; the report does without it where there is none."""
    try:
        with xr.open_dataset(path / "inference_data.nc", group=name, engine="h5netcdf") as group:
            return group.load()
    except (OSError, KeyError, ValueError):
        return None


def _inputs(constant: xr.Dataset | None, count: int) -> Tensor | None:
    if constant is None or "inputs" not in constant or constant.sizes["sample"] != count:
        return None
    return torch.from_numpy(constant["inputs"].to_numpy().astype(np.float32))


def _draws(predictive: xr.Dataset | None, count: int) -> Tensor | None:
    if predictive is None or predictive.sizes.get("sample") != count:
        return None
    values = predictive["targets"].to_numpy()
    return torch.from_numpy(values.reshape(-1, *values.shape[2:]))


def _truth(constant: xr.Dataset | None) -> tuple[int, ...] | None:
    if constant is None or "true_cluster" not in constant:
        return None
    return tuple(int(cluster) for cluster in constant["true_cluster"].to_numpy())


def _predictions(
    frame: pd.DataFrame, model: dict[str, Any], inputs: Tensor | None, draws: Tensor | None
) -> Predictions:
    names, classes, outputs = model["names"], model["classes"], model["outputs"]
    is_binary = False
    place = {name: number for number, name in enumerate(names)}

    def column(name: str) -> Tensor:
        if name in frame.columns:
            return torch.from_numpy(frame[name].to_numpy(dtype=np.float32, copy=True))
        # Of several outputs, each has a column of its own.
        parts = frame[[f"{name} {output}" for output in outputs]]
        return torch.from_numpy(parts.to_numpy(dtype=np.float32, copy=True))

    if classes is not None:
        number = {name: c for c, name in enumerate(classes)}
        y = torch.tensor([number.get(target, -1) for target in frame["target"]])
        shown = [f"probability {name}" for name in classes]
        mean = torch.from_numpy(frame[shown].to_numpy(dtype=np.float32, copy=True))
    else:
        is_binary = any(name.startswith("probability") for name in frame.columns)
        y, mean = column("target"), column("probability" if is_binary else "prediction")
    tasks = TaskSet(
        names=tuple(names),
        x=torch.zeros(len(frame), 1) if inputs is None else inputs,
        y=y,
        task=torch.tensor([place[name] for name in frame["task"]]),
        classes=None if classes is None else tuple(classes),
        outputs=None if outputs is None else tuple(outputs),
    )
    predictions = Predictions(
        tasks,
        mean,
        column("log_density"),
        column("total"),
        column("aleatoric"),
        column("epistemic"),
        None if is_binary else draws,
        is_binary,
    )
    return predictions.by_output() if is_binary else predictions
