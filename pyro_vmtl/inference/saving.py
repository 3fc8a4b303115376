"""Saved models: tensors as safetensors, the rest as JSON; opening one never runs code."""

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load as unpack
from safetensors.torch import save as pack

from pyro_vmtl.data import TableColumns
from pyro_vmtl.errors import InputError, in_a_sentence
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inference.noise import all_noise
from pyro_vmtl.inference.temperature_scaling import ScaledVMTL
from pyro_vmtl.model import SITES, assemble, from_plain, to_plain
from pyro_vmtl.model.closed_form import conjugate_weights

__all__ = ["described", "load", "read_sizes", "read_texts", "save"]

_FORMAT = 1
_SCALING = ("temperature", "samples", "own", "scaling_warnings")
_TENSORS, _DESCRIPTION = "model.safetensors", "model.json"


def save(fitted: FittedVMTL, path: str | Path, overwrite: bool = False) -> Path:
    """Write a fitted model into a folder, whole or not at all.

    Of a model trained on a table, it keeps which columns were what and what the features were
    standardised by, so that new rows can be read for it (:func:`pyro_vmtl.read_rows`); of a scaled
    one, its temperatures.

    :param path: a folder that does not exist yet.
    :param overwrite: whether a saved model that is there gives way, once the new one is written.
    :return: the folder.
    :raises InputError: if the folder exists, or it is not a fitted model.
    """
    if not isinstance(fitted, FittedVMTL):
        raise InputError(f"a {type(fitted).__name__} cannot be saved; expected a FittedVMTL")
    path = Path(path)
    if path.exists():
        inside = {entry.name for entry in path.iterdir()} if path.is_dir() else {path.name}
        if not overwrite or not inside <= {_TENSORS, _DESCRIPTION}:
            expected = (
                "a folder with nothing but a saved model to overwrite"
                if overwrite
                else "a new folder to save the model into, or overwrite=True"
            )
            raise InputError(f"{path} exists; expected {expected}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name[:100]}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        draft.mkdir()  # not by tempfile, whose files are the owner's alone, whatever umask says
        tensors = {k: v.detach().cpu().contiguous() for k, v in fitted.vmtl.state_dict().items()}
        packed = pack(tensors)
        (draft / _TENSORS).write_bytes(packed)
        description = described(fitted) | {"digest": hashlib.sha256(packed).hexdigest()}
        (draft / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        if path.exists():
            old = draft.with_name(f"{draft.name}-old")
            path.rename(old)
            draft.rename(path)
            shutil.rmtree(old)
        else:
            draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return path


def described(fitted: FittedVMTL) -> dict[str, Any]:
    """All of a model but its tensors and its history, as JSON can hold it."""
    description: dict[str, Any] = {
        "format": _FORMAT,
        "settings": to_plain(fitted.settings),
        "names": fitted.names,
        "classes": fitted.classes,
        "outputs": fitted.outputs,
        "input_shape": fitted.input_shape,
        "columns": None if fitted.columns is None else fitted.columns.to_plain(),
        "tempering": fitted.vmtl.tempering,
        "warnings": fitted.warnings,
        "notes": fitted.notes,
    }
    if isinstance(fitted, ScaledVMTL):
        errors = [None if math.isnan(error) else error for error in fitted.standard_error]
        scaling = {name: getattr(fitted, name) for name in _SCALING}
        description["scaling"] = scaling | {"standard_error": errors}
    return description


def load(path: str | os.PathLike[str], **own: Any) -> FittedVMTL:
    """Open a saved model.

    :param path: the folder that :func:`save` wrote, or a run folder with one in ``model/``.
    :param own: objects of the user's own that could not be written down, such as
        ``encoder=MyEncoder()``; their tensors are read from the file.
    :raises InputError: for a folder that is not a saved model, or does not fit what is passed in.
    """
    folder = Path(path)
    try:
        if (folder / "model" / _DESCRIPTION).is_file():
            folder = folder / "model"
        absent = [name for name in (_DESCRIPTION, _TENSORS) if not (folder / name).is_file()]
    except OSError as error:  # a name that is too long, or a folder that may not be read
        raise InputError(
            f"{str(folder)[:200]} cannot be read ({error.strerror}); expected the folder of a "
            "saved model"
        ) from error
    if absent:
        raise InputError(f"{folder} has no {absent[0]}; expected the folder of a saved model")
    with _read(folder / _DESCRIPTION, "is not the description of a saved model"):
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        known = description["format"]
    if known != _FORMAT:
        raise InputError(
            f"{folder / _DESCRIPTION} has format {known}; this version reads format {_FORMAT}"
        )
    with _read(folder / _DESCRIPTION, "is not the description of a saved model"):
        names, classes, outputs = (
            read_texts(description, key) for key in ("names", "classes", "outputs")
        )
        if not names or (classes is None and outputs is None):
            raise ValueError("it has no tasks, or neither classes nor outputs")
        input_shape = read_sizes(description["input_shape"])
        tempering = {site: float(description["tempering"][site]) for site in SITES}
        if not all(math.isfinite(weight) and weight >= 0 for weight in tempering.values()):
            raise ValueError(f"the KL weights are {tempering}")
        sentences = read_texts(description, "warnings") or ()
        notes = read_texts(description, "notes") or ()
        settings = from_plain(description["settings"], **own)
        plain = description.get("columns")  # models of earlier versions do not say
        columns = None if plain is None else TableColumns.from_plain(plain)
        count = len(outputs or ()) if classes is None else len(classes)
        with all_noise(0):  # a start that is replaced at once
            vmtl = assemble(settings, len(names), count, input_shape, classes is not None)
    with _read(folder / _TENSORS, "does not fit the model"):
        packed = (folder / _TENSORS).read_bytes()
        digest = description.get("digest")  # likewise
        if digest is not None and hashlib.sha256(packed).hexdigest() != digest:
            raise ValueError("it is not the file that was saved with the description")
        tensors = unpack(packed)
        if "_extra_state" not in tensors:  # of an earlier version, for which training had begun
            tensors["_extra_state"] = torch.tensor(True)
            tensors.pop("lenders.started", None)
        for name, value in vmtl.state_dict().items():
            if name in tensors and tensors[name].is_floating_point() != value.is_floating_point():
                raise ValueError(f"{name} is {tensors[name].dtype}; expected {value.dtype}")
            if name in tensors and not bool(tensors[name].isfinite().all()):
                raise ValueError(f"{name} has numbers that are not finite")
        vmtl.load_state_dict(tensors)
        if digest is None and vmtl.classifier.is_conjugate:
            weights = conjugate_weights(vmtl)
            weights.by_draw()  # whether evidence and draws fit each other
            noise = weights.noise_by_draw()
            units = [getattr(vmtl.likelihood, "target_scale", noise)]
            units.append(getattr(vmtl.encoder, "scale", noise))
            if not all(bool((unit > 0).all()) for unit in (noise, *units)):
                raise ValueError("the scale of inputs, of targets or of their noise is not above 0")
    vmtl.tempering.update(tempering)
    vmtl.eval()
    fitted = FittedVMTL(
        *(vmtl, settings, names, classes, outputs, input_shape),
        *(pd.DataFrame(), sentences, columns, notes),
    )
    scaling = description.get("scaling")
    if scaling is None:
        return fitted
    with _read(folder / _DESCRIPTION, "is not the description of a saved model"):
        errors = [
            math.nan if error is None else float(error) for error in scaling["standard_error"]
        ]
        return ScaledVMTL.of(
            fitted,
            temperature=tuple(map(float, scaling["temperature"])),
            standard_error=tuple(errors),
            samples=tuple(map(int, scaling["samples"])),
            own=tuple(map(bool, scaling["own"])),
            scaling_warnings=tuple(map(str, scaling["scaling_warnings"])),
        )


def _read(file: Path, complaint: str) -> contextlib.AbstractContextManager[None]:
    return in_a_sentence(f"{file} {complaint}", "the files as save wrote them")


def read_texts(description: dict[str, Any], key: str) -> tuple[str, ...] | None:
    """A list of different texts, or None."""
    texts = description.get(key, []) if key == "notes" else description[key]
    if texts is None:
        return None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} is {texts!r}")
    if key not in ("warnings", "notes") and (not texts or len(set(texts)) < len(texts)):
        raise ValueError(f"{key} is {texts!r}")
    return tuple(texts)


def read_sizes(sizes: Any) -> tuple[int, ...]:
    """The shape of a sample."""
    whole = isinstance(sizes, list) and all(type(size) is int and size > 0 for size in sizes)
    if not whole or not sizes:
        raise ValueError(f"input_shape is {sizes!r}")
    return tuple(sizes)
