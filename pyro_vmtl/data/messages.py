"""Small files that places send each other: tensors and a description, opened without running code.

A message is a safetensors file, whose header says what kind of message it is, in which format, and
the rest as JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as unpack
from safetensors.torch import save as pack
from torch import Tensor

from pyro_vmtl.errors import InputError, in_a_sentence

__all__ = ["Message", "broken"]

_FORMAT = 1
_LENGTH = 8  # bytes that say how long the header is


@dataclass(frozen=True)
class Message:
    """What is written and read.

    :ivar kind: of the message, such as ``"evidence"``.
    :ivar description: what JSON can hold.
    :ivar tensors: by their names.
    """

    kind: str
    description: dict[str, Any]
    tensors: Mapping[str, Tensor]

    def packed(self) -> bytes:
        """The file's bytes."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.tensors.items()}
        text = json.dumps(self.description)
        header = {"kind": self.kind, "format": str(_FORMAT), "description": text}
        return pack(tensors, header | {"digest": _digest(text, _body(pack(tensors)))})

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write it to the side and rename it: whoever waits for the file finds it whole."""
        path = Path(path)
        draft = path.with_name(f".{path.name[:100]}-{os.getpid()}-{secrets.token_hex(4)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(self.packed())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return path

    @classmethod
    def read(cls, path: str | os.PathLike[str], kind: str) -> Message:
        """Open a message.

        :param kind: that it has to be.
        :raises InputError: for a file that is none, or is of another kind or format.
        """
        path = Path(path)
        with broken(path, kind):
            packed = path.read_bytes()
            length = int.from_bytes(packed[:_LENGTH], "little")
            header = json.loads(packed[_LENGTH : _LENGTH + length])["__metadata__"]
            found, written = header["kind"], header["format"]
        if found != kind:
            raise InputError(f"{path} holds a message of the kind {found!r}; expected {kind!r}")
        if written != str(_FORMAT):
            raise InputError(f"{path} has format {written}; this version reads format {_FORMAT}")
        with broken(path, kind):
            if _digest(header["description"], _body(packed)) != header["digest"]:
                raise ValueError("its content is not what was written")
            tensors = unpack(packed)
            description = json.loads(header["description"])
            for name, value in tensors.items():
                if not bool(value.isfinite().all()):
                    raise ValueError(f"{name} has numbers that are not finite")
        return cls(kind, description, tensors)


def _body(packed: bytes) -> bytes:
    """The bytes of the tensors, behind the header."""
    return packed[_LENGTH + int.from_bytes(packed[:_LENGTH], "little") :]


def _digest(description: str, body: bytes) -> str:
    return hashlib.sha256(description.encode() + body).hexdigest()


def broken(path: str | os.PathLike[str], kind: str) -> contextlib.AbstractContextManager[None]:
    """Whatever is wrong with a message is said in a sentence."""
    return in_a_sentence(f"{path} is no message of the kind {kind!r}", "the file as it was written")
