"""What places send each other in place of rows: requests and evidence."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pyro_vmtl.data import TableColumns
from pyro_vmtl.data.messages import Message, broken
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inference.joining import nested, resized
from pyro_vmtl.inference.noise import all_noise
from pyro_vmtl.inference.saving import described, read_sizes, read_texts
from pyro_vmtl.model import VMTL, Settings, assemble, from_plain
from pyro_vmtl.model.priors.gibbs import Evidence

__all__ = ["TaskEvidence", "TaskRequest", "digest_of", "part_of"]

_REQUEST, _EVIDENCE = "request", "evidence"
# What a request has of the posterior: moments of the weights, and the sites that went into them.
_KNOWN = ("loc", "covariance", "precision", "shift")


@dataclass(frozen=True, eq=False)
class TaskRequest:
    """What a place needs to know to compute its tasks' evidence, and nothing of other tasks' rows.

    It holds the settings, the common standardisation, and mean and covariance of the weights of
    the place's own tasks given the evidence so far. :func:`pyro_vmtl.read_rows` takes it for
    ``like``.

    :ivar vmtl: encoder, likelihood and weights of these tasks; its draws are none.
    :ivar settings: its structure.
    :ivar names: of the tasks.
    :ivar classes: of their targets, or None; ``outputs``: of a regression, or None.
    :ivar input_shape: of one sample.
    :ivar columns: of the table that the samples are rows of, or None.
    :ivar digest: of the model that asks.
    """

    vmtl: VMTL
    settings: Settings
    names: tuple[str, ...]
    classes: tuple[str, ...] | None
    outputs: tuple[str, ...] | None
    input_shape: tuple[int, ...]
    columns: TableColumns | None
    digest: str

    def message(self) -> Message:
        """What is sent."""
        state = self.vmtl.state_dict()
        kept = {name: value for name, value in state.items() if _is_asked(name)}
        model = FittedVMTL(
            *(self.vmtl, self.settings, self.names, self.classes, self.outputs, self.input_shape),
            *(pd.DataFrame(), (), self.columns),
        )
        return Message(_REQUEST, described(model) | {"of": self.digest}, kept)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it into a file of JSON and tensors, in place of one that is there."""
        return self.message().write(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **own: Any) -> TaskRequest:
        """Open what :meth:`save` wrote; no code of the file is run.

        :param own: as in :func:`pyro_vmtl.load`, such as ``encoder=MyEncoder()``.
        :raises InputError: for a file that is no request.
        """
        message = Message.read(path, _REQUEST)
        plain = message.description
        with broken(path, _REQUEST):
            names, classes, outputs = (
                read_texts(plain, key) for key in ("names", "classes", "outputs")
            )
            if not names or (classes is None and outputs is None):
                raise ValueError("it has no tasks, or neither classes nor outputs")
            shape, of = read_sizes(plain["input_shape"]), str(plain["of"])
            settings = from_plain(plain["settings"], **own)
            columns = (
                None if plain["columns"] is None else TableColumns.from_plain(plain["columns"])
            )
            count = len(classes or outputs or ())
            with all_noise(0):
                vmtl = assemble(settings, len(names), count, shape, classes is not None)
            nested(vmtl, settings)
            expected = {name for name in vmtl.state_dict() if _is_asked(name)}
            if set(message.tensors) != expected:
                raise ValueError(f"it has not the tensors {sorted(expected)}")
            vmtl.load_state_dict(dict(message.tensors), strict=False)
        return cls(vmtl.eval(), settings, names, classes, outputs, shape, columns, of)


@dataclass(frozen=True, eq=False)
class TaskEvidence:
    """What the rows of some tasks say of their weights: sums over rows, and no row.

    :ivar names: of the tasks.
    :ivar sites: Lambda and h of each task, the number of its labelled samples, and in a Gaussian
        regression the sum of its squared targets.
    :ivar slopes: what the rows say of the likelihood's own parameters, or None
        (:meth:`pyro_vmtl.Likelihood.slopes`).
    :ivar sentences: what a reader should know of the rows.
    :ivar digest: of the model that asked.
    """

    names: tuple[str, ...]
    sites: Evidence
    slopes: tuple[Tensor, Tensor] | None
    sentences: tuple[str, ...]
    digest: str

    def message(self) -> Message:
        """What is sent: of Lambda, which is symmetric, one triangle."""
        sites, q = self.sites, self.sites.shift.shape[-1]
        low, high = torch.tril_indices(q, q)
        tensors = {"precision": sites.precision[..., low, high], "shift": sites.shift}
        tensors["counts"] = sites.counts
        if sites.squares is not None:
            tensors["squares"] = sites.squares
        if self.slopes is not None:
            tensors["slope"], tensors["hessian"] = self.slopes
        plain = {"names": self.names, "warnings": self.sentences, "of": self.digest}
        return Message(_EVIDENCE, plain, tensors)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it into a file of JSON and tensors, in place of one that is there."""
        return self.message().write(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TaskEvidence:
        """Open what :meth:`save` wrote; no code of the file is run.

        :raises InputError: for a file that is no evidence.
        """
        message = Message.read(path, _EVIDENCE)
        with broken(path, _EVIDENCE):
            plain, tensors = message.description, message.tensors
            names, sentences = read_texts(plain, "names"), read_texts(plain, "warnings")
            shift, counts, squares = (
                None if name not in tensors else tensors[name].double()
                for name in ("shift", "counts", "squares")
            )
            if not names or shift is None or counts is None:
                raise ValueError("it has no tasks, or none of their sites")
            tasks, rows, q = shift.shape
            low, high = torch.tril_indices(q, q)
            precision = shift.new_zeros(tasks, rows, q, q)
            precision[..., low, high] = tensors["precision"].double()
            precision[..., high, low] = tensors["precision"].double()
            fits = counts.shape == (tasks, rows) == (len(names), rows)
            fits &= squares is None or squares.shape == (tasks, rows)
            if not fits or bool((counts < 0).any() | (counts.sum(-1) <= 0).any()):
                raise ValueError("its sites do not fit its tasks")
            slopes = None
            if "slope" in tensors:
                slopes = tensors["slope"].double(), tensors["hessian"].double()
            sites = Evidence(precision, shift, counts, squares)
        return cls(names, sites, slopes, sentences or (), str(plain["of"]))


def part_of(model: FittedVMTL | TaskRequest, names: tuple[str, ...]) -> tuple[VMTL, Settings]:
    """The model with what is known of some of its tasks alone, and its settings.

    :raises InputError: for a task that the model does not know.
    """
    unknown = [name for name in names if name not in model.names]
    if unknown or not names or len(set(names)) < len(names):
        said = f"there is no task {unknown[0]!r}" if unknown else f"the tasks are {list(names)}"
        raise InputError(f"{said}; expected some of {list(model.names)}, each once")
    weights, pool = nested(model.vmtl, model.settings)
    # What is known is of all tasks, which these are not.
    settings = replace(model.settings, pool=pool.with_known(None))
    with all_noise(0):
        vmtl = resized(model.vmtl, settings, len(names), model.input_shape)
    own, _ = nested(vmtl, settings)
    index = [model.names.index(name) for name in names]
    for name in _KNOWN:
        getattr(own, name).copy_(getattr(weights, name)[index])
    own.steps.copy_(weights.steps)
    return vmtl, settings


def digest_of(model: FittedVMTL) -> str:
    """Of all that a site depends on, and of the sites before."""
    plain = described(model)
    for name in ("warnings", "notes"):
        del plain[name]
    out = hashlib.sha256(json.dumps(plain).encode())
    for name, value in sorted(model.vmtl.state_dict().items()):
        out.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return out.hexdigest()


def _is_asked(name: str) -> bool:
    """Whether a request sends this tensor of the model; the noise of other tasks is none."""
    room, _, rest = name.partition(".")
    return (
        room == "encoder"
        or (room == "likelihood" and rest != "raw_noise")
        or (room == "classifier" and rest in _KNOWN)
    )
