"""The folder of a run: each file is written to the side and renamed, so that none is half there."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from pyro_vmtl.errors import InputError

__all__ = ["RunFolder"]


class RunFolder:
    """One run's folder and its files.

    :param path: the folder; it is made here, and must not hold a run already.
    :raises InputError: where it cannot be made or written, or holds a run.
    """

    _made: Sequence[Path] = ()  # folders made for it, from the inside out
    _found: frozenset[str] | None = None  # what was in it before; None: a finished run's

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if (self.path / "config.yaml").exists():
            raise InputError(
                f"the run folder {self.path} already holds a run; expected run_dir to be a new or "
                "empty folder"
            )
        around = [self.path, *self.path.parents]
        self._made = [folder for folder in around if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._found = frozenset(entry.name for entry in self.path.iterdir())
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise InputError(
                f"the run folder {self.path} cannot be written ({error.strerror}); expected "
                "run_dir to be a folder that can"
            ) from error

    @classmethod
    def existing(cls, path: str | Path) -> "RunFolder":
        """The folder of a run that is there already, to write a further file into it.

        :raises InputError: where there is no run.
        """
        if not (Path(path) / "config.yaml").is_file():
            raise InputError(f"{path} has no config.yaml; expected the folder of a run")
        folder = cls.__new__(cls)
        folder.path = Path(path)
        return folder

    @staticmethod
    def named_by_time(parent: str | Path) -> "RunFolder":
        """A new folder under ``parent``, named by the time; two at a time get different names."""
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        path, count = Path(parent) / stamp, 1
        while path.exists():
            count += 1
            path = Path(parent) / f"{stamp}-{count}"
        return RunFolder(path)

    def discard(self, names: Sequence[str]) -> None:
        """Take back what a run has written that came to nothing, and the folders made for it.

        :param names: of files and folders in it; what was there before the run stays.
        """
        for name in names:
            path = self.path / name
            if self._found is None or name in self._found:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # there is something else in it
                break

    def write(self, name: str, writer: Callable[[Path], object]) -> Path:
        """Have ``writer`` write a file to the side, then put it in place.

        :param name: of the file, relative to the folder.
        :param writer: is called with the path to write.
        """
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.stem}-{os.getpid()}{target.suffix}")
        try:
            writer(draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        return target

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file."""
        return self.write(name, lambda path: path.write_text(text))

    def write_json(self, name: str, data: Any) -> Path:
        """Write JSON; numbers that are not finite become null, which JSON can say."""
        return self.write_text(name, json.dumps(_finite(data), indent=2) + "\n")

    def write_csv(self, name: str, frame: pd.DataFrame) -> Path:
        """Write a table."""
        return self.write(name, lambda path: frame.to_csv(path, index=False))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data
