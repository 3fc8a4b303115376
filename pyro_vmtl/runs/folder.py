"""The folder of a run: each file is written to the side and renamed, so that none is half there."""

import contextlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pandas as pd

from pyro_vmtl.errors import InputError

if sys.platform != "win32":
    import fcntl

__all__ = ["RunFolder"]


# What a run writes into its folder, and what says that it has begun there and not ended.
_WRITTEN = (
    *("config.yaml", "splits", "tensorboard", "checkpoints", "model", "figures"),
    *("metrics.csv", "metrics.json", "relatedness.csv", "relatedness_over_time.csv", "gains.csv"),
    "influence.csv",
    *("predictions.parquet", "predictions_scaled.parquet", "inference_data.nc", "report.html"),
)
_RUNNING = ".running"
_DRAFT = re.compile(
    r"\.(best|last|model|config|metrics|predictions|predictions_scaled|inference_data|gains|report"
    r"|influence|training|relatedness(_\w+)?)-\d+(-[0-9a-f]{8}|\.\w+)"
)


class _TakenError(InputError):
    """Another run has the folder, or files are in it."""


def _taken(path: Path, name: str) -> InputError:
    if name == "config.yaml":
        return _TakenError(
            f"the run folder {path} already holds a run; expected run_dir to be a new or empty "
            f"folder, or resume={path} to go on with that run"
        )
    return _TakenError(
        f"the run folder {path} already has {name}, which a run writes; expected run_dir to be a "
        "new or empty folder"
    )


def _not_writable(path: Path, error: OSError | ValueError) -> InputError:
    reason = error.strerror if isinstance(error, OSError) else error
    shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}..."
    return InputError(
        f"the run folder {shown} cannot be written ({reason}); expected run_dir to be a folder "
        "that can"
    )


class RunFolder:
    """A folder and the files that a run, or a benchmark, writes into it.

    :param path: the folder; it is made here, and must not hold a run already.
    :raises InputError: where it cannot be made or written, or holds a run.

    :ivar goes_on: whether the run in it is an earlier one, which goes on.
    """

    goes_on = False
    _made: Sequence[Path] = ()  # folders made for it, from the inside out
    _found: frozenset[str] | None = None  # what was in it before; None: a finished run's
    _lock: IO[str] | None = None

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            if (self.path / "config.yaml").exists():
                raise _taken(self.path, "config.yaml")
            around = [self.path, *self.path.parents]
            self._made = [folder for folder in around if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._found = frozenset(entry.name for entry in self.path.iterdir())
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except InputError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a name that no file system has
            raise _not_writable(self.path, error) from error

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
        """A new folder under ``parent``, named by the time and claimed; two at a time get two."""
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        count = 1
        while True:
            path = Path(parent) / (stamp if count == 1 else f"{stamp}-{count}")
            if not os.path.lexists(path):
                with contextlib.suppress(_TakenError):
                    return RunFolder(path).claim()
            count += 1

    @property
    def is_unfinished(self) -> bool:
        """Whether a run has begun here and not ended, and may go on."""
        return (self.path / _RUNNING).exists() or not (self.path / "metrics.json").exists()

    def claim(self, goes_on: bool = False) -> "RunFolder":
        """Have the folder for one run, until :meth:`release` or the end of this process.

        :param goes_on: whether the run is the one that is in it already.
        :return: itself.
        :raises InputError: where another process has it, or a file is in it that a run would write.
        """
        self.goes_on = goes_on
        mark = self.path / _RUNNING
        was_there = mark.exists()
        try:
            self._lock = _locked(mark)
            self._found = frozenset(entry.name for entry in self.path.iterdir())
        except OSError as error:
            raise _not_writable(self.path, error) from error
        if self._lock is None:
            raise _TakenError(
                f"the run folder {self.path} is in use by another process; expected another "
                "folder, or that process to have ended"
            )
        if goes_on:
            self._clear_drafts()
        for name in () if goes_on else _WRITTEN:
            there = self.path / name
            if there.is_file() or (there.is_dir() and any(there.iterdir())):
                self.release(has_ended=not was_there)
                raise _taken(self.path, name)
        return self

    def _clear_drafts(self) -> None:
        """Remove what a killed process was about to write."""
        for inside in (self.path, self.path / "checkpoints", self.path / "figures"):
            for entry in inside.glob(".*"):
                if _DRAFT.fullmatch(entry.name) and entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                elif _DRAFT.fullmatch(entry.name):
                    entry.unlink(missing_ok=True)

    def release(self, has_ended: bool = True) -> None:
        """Let others have the folder.

        :param has_ended: whether the run has come to its end; one that has not may go on later.
        """
        if self._lock is not None:
            if has_ended:
                (self.path / _RUNNING).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def discard(self, names: Sequence[str]) -> None:
        """Take back what a run has written that came to nothing, and the folders made for it.

        :param names: of files and folders in it; what was there before the run stays.
        """
        self.release(has_ended="config.yaml" not in (self._found or ()))
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
        draft = target.with_name(f".{target.stem[:100]}-{os.getpid()}{target.suffix}")
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


def _locked(path: Path) -> IO[str] | None:
    """The file, made where it is not there, and held until this process ends; None: by another."""
    while True:
        file = path.open("a")
        try:
            if sys.platform != "win32":  # where it is, only what lies in a folder tells
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:  # a file system that has no locks
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()  # whoever held it has taken it away meanwhile


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data
