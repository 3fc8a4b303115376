"""Features of images under a frozen network, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pyro_vmtl.data.arguments import check_whole
from pyro_vmtl.data.image_lists import write_text
from pyro_vmtl.data.images import (
    IMAGENET_TRANSFORM,
    ImageData,
    Transform,
    Unreadable,
    UnreadableChoice,
    check_choice,
    check_readable,
    progress_bar,
    read_in_batches,
)
from pyro_vmtl.data.networks import FrozenNetwork, frozen_network
from pyro_vmtl.errors import InputError

__all__ = ["BLOCK", "default_cache", "extract_features"]

log = logging.getLogger(__name__)

BLOCK = 512
"""How many images are kept in one file: what a stopped extraction loses at most."""

_FORMAT = 1  # of the files in the cache; another number makes them all anew


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/pyro_vmtl/features``, by default in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pyro_vmtl" / "features"


def extract_features(
    paths: Sequence[str | Path],
    network: str | nn.Module | FrozenNetwork = "vgg16",
    *,
    weights: str | Path | None = None,
    transform: Transform = IMAGENET_TRANSFORM,
    cache: str | Path | None = None,
    groups: Sequence[int] | None = None,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    unreadable: UnreadableChoice = "error",
    workers: int = 4,
    progress: bool = True,
) -> ImageData:
    """The features of image files under a frozen network, from the cache where they are known.

    The images are taken in blocks of :data:`BLOCK`. A block is kept in the cache as soon as it is
    done, so that an extraction that was stopped goes on where it was: as ``<key>.safetensors`` and
    ``<key>.json``, where the key stands for the images (absolute paths, sizes, times of
    modification), the network (architecture and weights) and the transform. Files are written to
    the side and renamed, the description last; what does not agree with its description is
    computed anew, with a warning. A transform whose ``repr`` does not identify it, such as a
    function, leaves the cache unused, with a warning.

    :param paths: the images.
    :param network: a name, an import path or a module, see :func:`frozen_network`; run in
        evaluation mode, without gradients.
    :param weights: a file of weights for it.
    :param transform: from an RGB image to a tensor, of one shape for all images.
    :param cache: a folder, by default :func:`default_cache`.
    :param groups: ``[N]``, for every image a number; no block holds images of two numbers that
        follow each other. Images that are often asked for together, and without the others, are
        then found again.
    :param batch_size: images that go through the network at once.
    :param device: where the network runs, by default where its parameters are.
    :param unreadable: ``"error"``, or ``"skip"`` to leave out what cannot be read.
    :param workers: threads that decode images.
    :param progress: whether to show a progress bar.
    :returns: values ``[n, d]`` float32 on the CPU.
    :raises InputError: for a network or weights that are not there, or images that cannot be read;
        all are looked at first, so that the sentence counts them.
    """
    check_whole("batch_size", batch_size, 1)
    check_choice(unreadable)
    frozen = frozen_network(network, weights)
    files = [Path(path) for path in paths]
    blocks = list(_blocks(len(files), groups))
    folder = _cache_folder(cache, transform)
    extractor = _Extractor(frozen, transform, batch_size, device, workers)

    parts: list[Tensor] = []
    rows: list[Tensor] = []
    broken: dict[str, str] = {}
    with progress_bar(f"features of {frozen.name}", len(files), progress) as advance:
        for block in blocks:
            own = files[block.start : block.stop]
            key = None if folder is None else _key(own, frozen, transform)
            part = None if folder is None or key is None else _from_cache(folder, key, own)
            if part is not None:
                advance(len(own))
            elif broken and unreadable == "error":
                # There will be no features; all that is left to learn is what else is broken.
                part = extractor.check(own, advance)
            else:
                part, passing = extractor.extract(own, advance)
                if folder is not None and key is not None and not passing:
                    folder = _into_cache(folder, key, part, own, frozen, transform)
            if part.unreadable and not broken and unreadable == "error":
                log.warning(
                    "'%s' cannot be read (%s); looking through the other images before stopping",
                    *next(iter(part.unreadable.items())),
                )
            broken.update(part.unreadable)
            parts.append(part.values)
            rows.append(part.rows + block.start)
    if unreadable == "error":
        check_readable(broken, len(files))
    kept = [part for part in parts if len(part)]
    widths = {part.shape[1] for part in kept}
    if len(widths) > 1:
        raise InputError(
            f"the network {frozen.name!r} gives features of the sizes {sorted(widths)}; "
            "expected one size, as from images of one size."
        )
    values = torch.cat(kept) if kept else torch.empty(0, 1)
    return ImageData(values, torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64), broken)


@dataclass
class _Extractor:
    frozen: FrozenNetwork
    transform: Transform
    batch_size: int
    device: torch.device | str | None
    workers: int

    def extract(
        self, files: Sequence[Path], advance: Callable[[int], None]
    ) -> tuple[ImageData, bool]:
        """The features of these images, and whether it was the disk that failed for some."""
        module = self.frozen.module
        parameter = next(itertools.chain(module.parameters(), module.buffers()), None)
        if self.device is not None:
            module.to(self.device)
        device = self.device or (torch.device("cpu") if parameter is None else parameter.device)
        modes = {part: part.training for part in module.modules()}
        module.eval()
        parts: list[Tensor] = []
        rows: list[int] = []
        broken: dict[str, str] = {}
        position, passing = 0, False
        try:
            batches = read_in_batches(files, self.transform, self.batch_size, self.workers)
            for batch in batches:
                images = []
                for image in batch:
                    if isinstance(image, Unreadable):
                        broken[str(files[position])] = image.reason
                        passing |= image.passing
                    else:
                        images.append(image)
                        rows.append(position)
                    position += 1
                if images:
                    parts.append(self._forward(images, device))
                advance(len(batch))
        finally:
            # The module may be the user's own: it leaves as it came.
            for part, mode in modes.items():
                part.training = mode
        values = torch.cat(parts) if parts else torch.empty(0, 1)
        return ImageData(values, torch.tensor(rows, dtype=torch.int64), broken), passing

    def check(self, files: Sequence[Path], advance: Callable[[int], None]) -> ImageData:
        """Which of these images cannot be read; no features."""
        broken: dict[str, str] = {}
        position = 0
        for batch in read_in_batches(files, self.transform, self.batch_size, self.workers):
            for image in batch:
                if isinstance(image, Unreadable):
                    broken[str(files[position])] = image.reason
                position += 1
            advance(len(batch))
        return ImageData(torch.empty(0, 1), torch.empty(0, dtype=torch.int64), broken)

    def _forward(self, images: Sequence[Tensor], device: torch.device | str) -> Tensor:
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise InputError(
                f"the transform gives images of the shapes {sorted(shapes)}; expected one shape."
            )
        with torch.no_grad():
            features = self.frozen.module(torch.stack(list(images)).to(device))
        if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != len(images):
            given = (
                list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            )
            raise InputError(
                f"the network {self.frozen.name!r} gives {given} for {len(images)} images; "
                f"expected features [{len(images)}, ...]."
            )
        return features.flatten(1).float().cpu()


def _blocks(number: int, groups: Sequence[int] | None) -> Iterator[range]:
    if groups is not None and len(groups) != number:
        raise InputError(f"there are {number} images but {len(groups)} groups; expected as many.")
    start = 0
    for _, members in itertools.groupby([0] * number if groups is None else groups):
        stop = start + sum(1 for _ in members)
        for first in range(start, stop, BLOCK):
            yield range(first, min(first + BLOCK, stop))
        start = stop


def _cache_folder(cache: str | Path | None, transform: Transform) -> Path | None:
    if re.search(r"\bat 0x[0-9a-fA-F]+", repr(transform)):
        # An address says nothing about what the function does, and the next run may reuse it.
        log.warning(
            "the transform %r cannot be told from others; its features are not kept", transform
        )
        return None
    return default_cache() if cache is None else Path(cache).expanduser()


def _key(files: Sequence[Path], frozen: FrozenNetwork, transform: Transform) -> str | None:
    images = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            return None  # it cannot be read either, and may be back another time
        images.append([str(file.absolute()), stat.st_size, stat.st_mtime_ns])
    described = [_FORMAT, frozen.key, repr(transform), images]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _from_cache(folder: Path, key: str, files: Sequence[Path]) -> ImageData | None:
    """The features of a block, or None where they are not known or cannot be trusted."""
    description = folder / f"{key}.json"
    try:
        record = json.loads(description.read_text(encoding="utf-8"))
        content = (folder / f"{key}.safetensors").read_bytes()
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            raise ValueError("its content is not what was written")
        tensors = load(content)
        data = ImageData(tensors["features"], tensors["rows"], dict(record["unreadable"]))
        if len(data.values) != len(data.rows) or len(data.rows) + len(data.unreadable) != len(
            files
        ):
            raise ValueError("it does not hold these images")
    except FileNotFoundError as error:
        if description.exists():  # the description is written last: its features were there
            log.warning("'%s' is gone; these features are computed anew", error.filename)
        return None
    except Exception as error:  # anything can be wrong with a file on disk
        log.warning("'%s' cannot be used (%s); its features are computed anew", description, error)
        return None
    return data


def _into_cache(
    folder: Path,
    key: str,
    data: ImageData,
    files: Sequence[Path],
    frozen: FrozenNetwork,
    transform: Transform,
) -> Path | None:
    """Keep a block; a folder that cannot be written to is given up, not the features."""
    content = save({"features": data.values.contiguous(), "rows": data.rows})
    record = {
        "network": frozen.name,
        "network_sha256": frozen.key,
        "transform": repr(transform),
        "images": [str(file) for file in files],
        "unreadable": dict(data.unreadable),
        "shape": list(data.values.shape),
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": {"torch": torch.__version__},
    }
    target = folder / f"{key}.safetensors"
    aside = folder / f".{key}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_bytes(content)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
        write_text(folder / f"{key}.json", json.dumps(record, indent=1))
    except OSError as error:
        log.warning("features cannot be kept in '%s' (%s)", folder, error)
        return None
    return folder
