"""Generated trees of tiny images, in the layouts in which the published sets come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

MakeTree = Callable[..., Path]


def write_image(path: Path, size: tuple[int, int] = (12, 10)) -> None:
    """Noise that depends on the name, so that no two images are equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(crc32(path.name.encode() + path.parent.name.encode()))
    pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def make_tree(tmp_path: Path) -> MakeTree:
    """``make_tree({"Art/Chair": 3})`` makes Art/Chair/00001.jpg to 00003.jpg and gives the root."""

    def make(
        folders: Mapping[str, int], root: str = "data", suffix: str = ".jpg", prefix: str = ""
    ) -> Path:
        top = tmp_path / root
        for folder, number in folders.items():
            (top / folder).mkdir(parents=True, exist_ok=True)
            for index in range(1, number + 1):
                write_image(top / folder / f"{prefix}{index:05d}{suffix}")
        return top

    return make
