"""How a run ends that is stopped, or has no room to write: what it leaves, and how it goes on."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from pyro_vmtl.runs.folder import RunFolder
from pyro_vmtl.runs.refusals import wants_traceback
from pyro_vmtl.runs.screen import plain_console

__all__ = ["stopping_in_a_sentence"]

# No room, no permission to go on writing, or a disk that fails.
_OF_THE_DISK = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM),
}


@contextmanager
def stopping_in_a_sentence(folder: RunFolder | None) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a full disk end the program with a sentence.

    :param folder: of the run; None in a further process, which has nothing to say.
    """
    signals: list[int] = []

    def stop(number: int, frame: object) -> NoReturn:
        signals.append(number)
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if is_main else None
    try:
        yield
    except KeyboardInterrupt:
        if wants_traceback():
            raise
        _say("Stopped", folder)
        sys.exit(128 + (signals[0] if signals else signal.SIGINT))
    except (OSError, RuntimeError) as error:  # writers of some formats know one of them alone
        number = _number(error)
        if wants_traceback() or number not in _OF_THE_DISK:
            raise
        name = getattr(error, "filename", None)
        where = "" if name is None else f", {name}"
        _say(f"Error: a file cannot be written ({os.strerror(number)}{where})", folder)
        sys.exit(2)
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _number(error: OSError | RuntimeError) -> int | None:
    """The number of an error of the system; HDF5 and torch say it in their texts alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    said = re.search(r"errno = (\d+)", str(error))
    if said is not None:
        return int(said[1])
    return errno.ENOSPC if os.strerror(errno.ENOSPC) in str(error) else None


def _say(what: str, folder: RunFolder | None) -> None:
    if folder is None:
        return
    path = shlex.quote(str(folder.path))
    if not (folder.path / "config.yaml").is_file():
        left = f"no epoch was trained, and nothing is left in {path}"
    elif (folder.path / "checkpoints" / "last.ckpt").is_file():
        left = (
            f"{path} keeps every epoch that was trained to its end, and "
            f"`python -m pyro_vmtl.train resume={path}` goes on"
        )
    else:
        left = f"{path} is incomplete, and `python -m pyro_vmtl.train resume={path}` starts it anew"
    console = plain_console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"{what}: {left}.")
