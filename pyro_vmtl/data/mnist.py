"""Rotated MNIST: by what angle was a handwritten digit turned?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

# The protocol is that of the small digits; only the images, and their two parts, differ.
from pyro_vmtl.data.arguments import check_whole
from pyro_vmtl.data.digits import ANGLES, _rotated, _shuffled_pools, _splits
from pyro_vmtl.data.extras import import_torchvision
from pyro_vmtl.data.splits import TaskSplits
from pyro_vmtl.errors import InputError

__all__ = ["rotated_mnist"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_FILES = tuple(
    f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
)


def rotated_mnist(
    root: str | Path,
    shots: int = 1,
    validation_shots: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> TaskSplits:
    """Regression: ten tasks, one per digit of MNIST; the target is the angle of rotation.

    The protocol of Shen et al. (2021), as in :func:`rotated_digits`: every image is rotated once,
    by one of the :data:`ANGLES`. Training has ``shots`` images per angle and task and validation
    ``validation_shots``, all from MNIST's training images; the test part is MNIST's own 10,000 test
    images, the angles dealt round in turn. Inputs are 784 pixels in [0, 1], the target ``[N]`` is
    the angle, scaled from [0, 90] degrees to [-1, 1].

    :param root: the folder that holds ``MNIST/raw`` with MNIST's four files, unpacked.
    :param shots: training images per angle and task.
    :param validation_shots: validation images per angle and task, by default as many again; with
        0 the validation part is empty.
    :param seed: of the dealing.
    :param download: whether to fetch the files that are not there.
    :returns: three parts that share no source image (``sources``: its number among the training
        images or, from where these end, the test images).
    :raises InputError: if the files are not there, are not MNIST's, or do not hold enough images.
    """
    check_whole("shots", shots, 1)
    if validation_shots is None:
        validation_shots = shots
    check_whole("validation_shots", validation_shots, 0)
    first, test = (_read(Path(root).expanduser(), train, download) for train in (True, False))
    num_first = len(first[1])
    drawn = _shuffled_pools(first[1], seed)
    tested = _shuffled_pools(test[1], seed)

    ends = (len(ANGLES) * shots, len(ANGLES) * (shots + validation_shots))
    least = min(len(pool) for pool in drawn)
    if ends[1] > least:
        raise InputError(
            f"shots is {shots} and validation_shots is {validation_shots} per angle and task; "
            f"expected at most {least // len(ANGLES)} together, as some digit has {least} "
            f"training images for {len(ANGLES)} angles."
        )
    if min(len(pool) for pool in tested) == 0:
        raise InputError(f"MNIST in '{root}' has no test image of some digit; expected all ten.")

    images = np.concatenate([first[0], test[0]])
    angle = np.zeros(len(images), dtype=np.int64)
    parts = []
    for pool, held_out in zip(drawn, tested, strict=True):
        train, validation = np.split(pool[: ends[1]], ends[:1])
        own = (train, validation, held_out + num_first)
        for rows in own:
            angle[rows] = np.asarray(ANGLES)[np.arange(len(rows)) % len(ANGLES)]
        parts.append([own])
    used = np.concatenate([rows for own in parts for part in own for rows in part])
    held = np.zeros(images.shape, dtype=np.float32)
    for degrees in ANGLES:
        rows = used[angle[used] == degrees]
        held[rows] = _rotated(degrees)(images[rows].astype(np.float32) / 255)
    return _splits(
        names=tuple(f"digit {digit}" for digit in range(10)),
        images=held,
        y=torch.from_numpy((angle / 45 - 1).astype(np.float32)),
        parts=parts,
        classes=None,
        outputs=("angle",),
    )


def _read(root: Path, train: bool, download: bool) -> tuple[_Array, _Array]:
    """Images ``[n, 28, 28]`` uint8 and labels ``[n]`` int64."""
    mnist = import_torchvision("datasets", "MNIST").MNIST
    folder = root / "MNIST" / "raw"
    missing = [name for name in _FILES if not (folder / name).is_file()]
    reason = ""
    if missing and download:
        try:
            mnist(str(root), train=train, download=True)
        except Exception as error:  # without a network it can be any error
            reason = f" and cannot be downloaded ({_line(error, last=True)})"
        missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"MNIST is not in '{root}'{reason}; expected the files {', '.join(_FILES)}, unpacked, "
            f"in '{folder}'."
        )
    try:
        found = mnist(str(root), train=train)
        images, labels = found.data.numpy(), found.targets.numpy().astype(np.int64)
    except Exception as error:  # a broken file makes the reader raise nearly anything
        raise InputError(
            f"MNIST in '{folder}' cannot be read ({_line(error)}); "
            "expected the files of MNIST, unpacked."
        ) from error
    if len(images) != len(labels) or not np.isin(labels, range(10)).all():
        raise InputError(
            f"MNIST in '{folder}' has {len(images)} images and {len(labels)} labels; "
            "expected as many, and labels 0 to 9."
        )
    return images, labels


def _line(error: Exception, last: bool = False) -> str:
    """What an error says first or, of a download tried in several places, last."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if last else 0].rstrip(":.")
