"""Saved models: tensors as safetensors, the rest as JSON; opening one never runs code."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pyro_vmtl.data import TableColumns
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.model import assemble, from_plain, to_plain

__all__ = ["load", "save"]

_FORMAT = 1
_TENSORS, _DESCRIPTION = "model.safetensors", "model.json"


def save(fitted: FittedVMTL, path: str | Path) -> Path:
    """Write a fitted model into a folder, whole or not at all.

    Of a model trained on a table, it keeps which columns were what and what the features were
    standardised by, so that new rows can be read for it (:func:`pyro_vmtl.read_rows`).

    :param path: a folder that does not exist yet.
    :return: the folder.
    :raises InputError: if the folder exists, or it is not a fitted model.
    """
    if not isinstance(fitted, FittedVMTL):
        raise InputError(
            f"a {type(fitted).__name__} cannot be saved; expected a FittedVMTL, such as the "
            "`fitted` of a scaled model, whose temperatures validation data give again"
        )
    path = Path(path)
    if path.exists():
        raise InputError(f"{path} exists; expected a new folder to save the model into")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        draft.chmod(0o755)
        tensors = {k: v.detach().cpu().contiguous() for k, v in fitted.vmtl.state_dict().items()}
        save_file(tensors, draft / _TENSORS)
        description = {
            "format": _FORMAT,
            "settings": to_plain(fitted.settings),
            "names": fitted.names,
            "classes": fitted.classes,
            "outputs": fitted.outputs,
            "input_shape": fitted.input_shape,
            "columns": None if fitted.columns is None else fitted.columns.to_plain(),
            "tempering": fitted.vmtl.tempering,
            "warnings": fitted.warnings,
        }
        (draft / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return path


def load(path: str | os.PathLike[str], **own: Any) -> FittedVMTL:
    """Open a saved model.

    :param path: the folder that :func:`save` wrote, or a run folder with one in ``model/``.
    :param own: objects of the user's own that could not be written down, such as
        ``encoder=MyEncoder()``; their tensors are read from the file.
    :raises InputError: for a folder that is not a saved model, or does not fit what is passed in.
    """
    folder = Path(path)
    if (folder / "model" / _DESCRIPTION).is_file():
        folder = folder / "model"
    for name in (_DESCRIPTION, _TENSORS):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}; expected the folder of a saved model")
    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        known = description["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / _DESCRIPTION} is not the description of a saved model ({error})"
        ) from error
    if known != _FORMAT:
        raise InputError(
            f"{folder / _DESCRIPTION} has format {known}; this version reads format {_FORMAT}"
        )
    settings = from_plain(description["settings"], **own)
    names, classes, outputs = (
        None if description[key] is None else tuple(description[key])
        for key in ("names", "classes", "outputs")
    )
    assert names is not None
    input_shape = tuple(description["input_shape"])
    plain = description.get("columns")  # models of earlier versions do not say
    columns = None if plain is None else TableColumns.from_plain(plain)
    count = len(classes) if classes is not None else len(outputs or ("y",))
    vmtl = assemble(settings, len(names), count, input_shape, classes is not None)
    try:
        vmtl.load_state_dict(load_file(folder / _TENSORS))
    except (RuntimeError, SafetensorError) as error:
        last = str(error).splitlines()[-1].strip()
        raise InputError(f"{folder / _TENSORS} does not fit the model ({last})") from error
    vmtl.tempering.update(description["tempering"])
    vmtl.eval()
    return FittedVMTL(
        vmtl,
        settings,
        names,
        classes,
        outputs,
        input_shape,
        pd.DataFrame(),
        tuple(description["warnings"]),
        columns,
    )
