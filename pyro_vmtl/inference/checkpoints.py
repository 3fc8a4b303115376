"""Checkpoints of a training: what they come from, and whether it can go on from one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.training import TrainingModule
from pyro_vmtl.model import Settings, to_plain

__all__ = ["WholeCheckpoints", "check_checkpoint", "origin", "restore_best"]

# What torch.load raises for a text, for half a file, for an empty one; then for other contents.
_UNREADABLE = (
    *(UnpicklingError, RuntimeError, EOFError, LookupError, ValueError),
    *(TypeError, AttributeError),
)
_BEST = "best.ckpt"


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it, so that none is ever half there."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = _draft(target)
        try:
            packed = io.BytesIO()  # torch's own writer says of a full disk what nobody understands
            torch.save(checkpoint, packed)
            draft.write_bytes(packed.getbuffer())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)


def _draft(target: Path) -> Path:
    return target.with_name(f".{target.stem}-{os.getpid()}{target.suffix}")  # one for each process


def origin(
    tasks: TaskSet, validation: TaskSet | None, settings: Settings, seed: int
) -> dict[str, str]:
    """What a fit is a fit of, in words and digests: its data, their split, the model and the seed.

    :return: texts by what they say; two fits with the same texts may go on from each other.
    """
    found = {
        "the tasks": json.dumps(tasks.names),
        "the classes": json.dumps(tasks.classes),
        "the outputs": json.dumps(tasks.outputs),
    }
    for part, of_part in (("training", tasks), ("validation", validation)):
        found[f"the number of {part} samples"] = str(0 if of_part is None else len(of_part))
        if of_part is not None:
            for name, values in (("inputs", of_part.x), ("targets", of_part.y)):
                found[f"the digest of the {part} {name}"] = _digest(values, of_part.task)
    for name, value in to_plain(settings).items():
        own = type(getattr(settings, name)).__name__ if value is None else value
        found[f"the setting {name}"] = json.dumps(own, default=repr)
    return found | {"the seed": str(int(seed))}


def _digest(*values: Tensor) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(f"{value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def check_checkpoint(path: Path, module: TrainingModule) -> None:
    """Make sure, before anything is changed, that a training can go on from this file.

    :param path: of the file.
    :param module: what is to be trained.
    :raises InputError: says why not.
    """
    if not path.is_file():
        raise InputError(f"the checkpoint {path} is not a file; expected one to resume from")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found = {name: list(value.shape) for name, value in saved["state_dict"].items()}
        groups = [
            [len(group["params"]) for group in state["param_groups"]]
            for state in saved["optimizer_states"]
        ]
        made = int(saved["epoch"]) + 1
        source = None if saved["origin"] is None else dict(saved["origin"])
        _ = list(saved["history"]), dict(saved["tempering"])
    except _UNREADABLE as error:
        raise InputError(
            f"the file {path} cannot be read as a checkpoint; expected one that training wrote, "
            "with this version"
        ) from error
    ours = {name: list(value.shape) for name, value in module.state_dict().items()}
    for name in ours | found:
        if ours.get(name) != found.get(name):
            raise InputError(
                f"the checkpoint {path} does not fit this model: {name} is "
                f"{found.get(name, 'missing')} there and {ours.get(name, 'missing')} here; "
                "expected one from a run with the same data shapes and model settings"
            )
    optimizer = module.configure_optimizers()["optimizer"]
    expected = [len(group["params"]) for group in optimizer.param_groups]
    for found_groups in groups:
        if found_groups != expected:
            raise InputError(
                f"the checkpoint {path} does not fit this version: its optimiser has groups of "
                f"{found_groups} parameters, and this one of {expected}; expected a checkpoint of "
                "the same version, or a new run"
            )
    _check_origin(path, source, module.origin)
    if made > module.settings.epochs:
        raise InputError(
            f"epochs is {module.settings.epochs}, and the checkpoint {path} comes from epoch "
            f"{made}; expected the number that training is to end with, at least {made}"
        )


def _check_origin(path: Path, there: dict[str, str] | None, here: dict[str, str] | None) -> None:
    if there is None or here is None:
        return  # a training module of the user's own, who knows what it is trained on
    for name in here | there:
        one, other = there.get(name, "missing"), here.get(name, "missing")
        if one != other:
            raise InputError(
                f"the checkpoint {path} comes from another run: {name} is {one} there and {other} "
                "here; expected the data, split, model settings and seed of the run that goes on"
            )


def restore_best(keep: ModelCheckpoint, resume: Path | None) -> None:
    """Keep the best epoch of the run that was resumed, where none since was better.

    The trainer does not look for it when the checkpoints go into another folder.

    :param keep: what kept the best epoch of this training.
    :param resume: the checkpoint that it went on from.
    :raises InputError: if the best epoch was before that checkpoint, and is not beside it.
    """
    if resume is None:
        return
    saved = torch.load(resume, map_location="cpu", weights_only=True)
    state = saved.get("callbacks", {}).get(keep.state_key, {})
    score, since = state.get("best_model_score"), keep.best_model_score
    if score is None or (since is not None and score > since.cpu()):
        return
    path, ours = Path(resume).parent / _BEST, Path(keep.best_model_path)
    if not path.is_file():
        raise InputError(
            f"the best epoch so far was before the checkpoint {resume}, and {path} is not a file; "
            "expected the folder of checkpoints as training wrote it"
        )
    if ours.is_file() and ours.samefile(path):
        return
    target = Path(str(keep.dirpath)) / _BEST
    draft = _draft(target)
    try:
        shutil.copyfile(path, draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    keep.best_model_path, keep.best_model_score = str(target), score
