"""Image files into tensors of one size, those that cannot be read named and counted."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from torch import Tensor

from pyro_vmtl.data.arguments import check_whole
from pyro_vmtl.errors import InputError

__all__ = [
    "IMAGENET_TRANSFORM",
    "IMAGE_SUFFIXES",
    "ImageData",
    "ImageTransform",
    "Transform",
    "Unreadable",
    "UnreadableChoice",
    "check_choice",
    "check_readable",
    "progress_bar",
    "read_image",
    "read_images",
    "read_in_batches",
]

Transform: TypeAlias = Callable[[Image.Image], Tensor]
UnreadableChoice: TypeAlias = Literal["error", "skip"]

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""What the name of an image ends in, in any case."""


@dataclass(frozen=True)
class ImageTransform:
    """From an RGB image of any size to ``[3, size, size]`` float32: scaled, cropped, standardised.

    The shorter side is scaled to ``resize`` pixels (bilinear, antialiased), the central square of
    ``size`` pixels is cut out, and the channels, in [0, 1], become ``(x - mean) / std``.

    :param size: pixels of a side of the result.
    :param resize: pixels of the shorter side before the crop, by default ``size``.
    :param mean: what is subtracted from red, green and blue.
    :param std: what they are then divided by.
    :raises InputError: for sizes below 1, a crop larger than the image, or a ``std`` of 0 or less.
    """

    size: int = 224
    resize: int | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        check_whole("the image size", self.size, 1)
        if self.resize is not None:
            check_whole("resize", self.resize, self.size)
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise InputError(
                f"mean is {self.mean} and std is {self.std}; "
                "expected three numbers each, those of std above 0."
            )

    def __call__(self, image: Image.Image) -> Tensor:
        width, height = image.size
        short = self.size if self.resize is None else self.resize
        # As torchvision's Resize and CenterCrop round, so that features agree with theirs.
        if width <= height:
            scaled = (short, int(short * height / width))
        else:
            scaled = (int(short * width / height), short)
        image = image.convert("RGB").resize(scaled, Image.Resampling.BILINEAR)
        left, top = (round((side - self.size) / 2) for side in scaled)
        image = image.crop((left, top, left + self.size, top + self.size))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


IMAGENET_TRANSFORM = ImageTransform(
    size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
"""What torchvision's networks for ImageNet were trained to see."""


class ImageData(NamedTuple):
    """What was made of a list of image files.

    :param values: float32, ``[n, ...]``: images ``[n, 3, H, W]`` or features ``[n, d]`` of the n
        files that could be read.
    :param rows: ``[n]`` int64, their positions in the list, ascending.
    :param unreadable: the other files, and why they cannot be read.
    """

    values: Tensor
    rows: Tensor
    unreadable: Mapping[str, str]


@dataclass(frozen=True)
class Unreadable:
    """Why a file gave no image.

    :param passing: whether it was the disk that failed, so that it may be read another time.
    """

    reason: str
    passing: bool


def read_image(path: Path, transform: Transform) -> Tensor | Unreadable:
    """One image, decoded to its last pixel and transformed.

    :raises InputError: if the transform gives something else than a tensor.
    """
    try:
        if path.exists() and not path.is_file():  # to open a pipe is to wait for its other end
            return Unreadable("it is a pipe or a device, and not a file", passing=False)
        with Image.open(path) as file:
            image = file.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:
        # A broken file makes the decoders raise nearly anything: OSError where it is truncated,
        # SyntaxError, ValueError or struct.error elsewhere.
        passing = isinstance(error, OSError) and error.errno is not None
        return Unreadable(" ".join(str(error).split()) or type(error).__name__, passing)
    value = transform(image)
    if not isinstance(value, Tensor):
        raise InputError(
            f"the transform {transform!r} gives {type(value).__name__}; expected a tensor."
        )
    return value.float()


def read_in_batches(
    paths: Sequence[Path], transform: Transform, batch_size: int, workers: int
) -> Iterator[list[Tensor | Unreadable]]:
    """The images of ``paths`` in their order, ``batch_size`` at a time, decoded in threads."""
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            yield list(pool.map(lambda path: read_image(path, transform), batch))


def read_images(
    paths: Sequence[str | Path],
    transform: Transform | None = None,
    unreadable: UnreadableChoice = "error",
    workers: int = 4,
    progress: bool = True,
) -> ImageData:
    """All images in memory: four bytes for each channel of each pixel.

    :param transform: from an RGB image to a tensor, of one shape for all; by default
        :class:`ImageTransform`, pixels in [0, 1].
    :param unreadable: ``"error"``, or ``"skip"`` to leave out what cannot be read.
    :param workers: threads that decode.
    :param progress: whether to show a progress bar.
    :returns: values ``[n, 3, H, W]``.
    :raises InputError: for images that cannot be read or do not fit into memory.
    """
    check_choice(unreadable)
    transform = ImageTransform() if transform is None else transform
    files = [Path(path) for path in paths]
    values: Tensor | None = None
    rows: list[int] = []
    broken: dict[str, str] = {}
    position = 0
    with progress_bar("reading images", len(files), progress) as advance:
        for batch in read_in_batches(files, transform, batch_size=64, workers=workers):
            for image in batch:
                if isinstance(image, Unreadable):
                    broken[str(files[position])] = image.reason
                else:
                    if values is None:
                        _check_memory(len(files), image.shape)
                        values = torch.empty(len(files), *image.shape)
                    if image.shape != values.shape[1:]:
                        raise InputError(
                            f"the transform gives shape {list(image.shape)} for "
                            f"'{files[position]}'; expected {list(values.shape[1:])} as for the "
                            "images before."
                        )
                    values[len(rows)] = image
                    rows.append(position)
                position += 1
            advance(len(batch))
    if unreadable == "error":
        check_readable(broken, len(files))
    if values is None:
        # Without an image its shape is unknown, unless the transform says it.
        size = transform.size if isinstance(transform, ImageTransform) else 1
        values = torch.empty(0, 3, size, size)
    return ImageData(values[: len(rows)], torch.tensor(rows, dtype=torch.int64), broken)


def check_choice(unreadable: object) -> None:
    """Make sure that ``unreadable`` is a choice.

    :raises InputError: if it is neither ``"error"`` nor ``"skip"``.
    """
    if unreadable not in ("error", "skip"):
        raise InputError(f"unreadable is {unreadable!r}; expected 'error' or 'skip'.")


def check_readable(unreadable: Mapping[str, str], number: int) -> None:
    """Make sure that all of ``number`` images could be read.

    :raises InputError: if not, with their number and the names of the first few.
    """
    if unreadable:
        named = ", ".join(f"'{path}' ({why})" for path, why in list(unreadable.items())[:3])
        more = ", ..." if len(unreadable) > 3 else ""
        raise InputError(
            f"{len(unreadable)} of {number} images cannot be read: {named}{more}; "
            "expected whole images, or unreadable='skip' to leave them out."
        )


@contextmanager
def progress_bar(what: str, number: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar on the standard error; what it gives is called with the number of images done."""
    with Progress(console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(escape(what), total=number)
        yield lambda done: bar.advance(task, done)


def _check_memory(number: int, shape: Sequence[int]) -> None:
    needed = 4 * number * math.prod(shape)
    present = _physical_memory()
    if present is not None and needed > present:
        raise InputError(
            f"{number} images of shape {list(shape)} take {needed / 1e9:.1f} GB and there are "
            f"{present / 1e9:.1f} GB of memory; expected a smaller image_size, fewer images, or "
            "features of a network instead."
        )


def _physical_memory() -> int | None:
    sysconf: Any = getattr(os, "sysconf", None)  # Windows has none
    try:
        return int(sysconf("SC_PAGE_SIZE")) * int(sysconf("SC_PHYS_PAGES"))
    except (TypeError, ValueError, OSError):
        return None
