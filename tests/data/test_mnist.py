"""Rotated MNIST on a small file in MNIST's own format: counts, angles, and what is missing."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy import ndimage

from pyro_vmtl.data import ANGLES, rotated_mnist
from pyro_vmtl.errors import InputError

pytest.importorskip("torchvision")

TRAIN, TEST = 450, 230


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of noise, 45 per digit to train on and 23 to test on."""
    root = tmp_path_factory.mktemp("mnist")
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, number in (("train", TRAIN), ("t10k", TEST)):
        images = generator.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        header = struct.pack(">iiii", 2051, number, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = (np.arange(number) % 10).astype(np.uint8)
        header = struct.pack(">ii", 2049, number)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return root


def source_images(root: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    parts = [
        np.frombuffer((root / "MNIST/raw" / f"{part}-images-idx3-ubyte").read_bytes()[16:], "u1")
        for part in ("train", "t10k")
    ]
    return (np.concatenate(parts).reshape(-1, 28, 28) / 255).astype(np.float32)


@pytest.mark.parametrize(("shots", "validation_shots"), [(1, None), (3, 1), (2, 0)])
def test_shots_per_angle_and_task(mnist: Path, shots: int, validation_shots: int | None) -> None:
    splits = rotated_mnist(mnist, shots, validation_shots)
    wanted = shots if validation_shots is None else validation_shots
    for part, count in ((splits.train, shots), (splits.validation, wanted)):
        assert part.names == tuple(f"digit {digit}" for digit in range(10))
        for task in range(10):
            _, counts = torch.unique(part.y[part.indices(task)], return_counts=True)
            assert counts.tolist() == [count] * (len(ANGLES) if count else 0)
    assert len(splits.test) == TEST
    for task in range(10):
        _, counts = torch.unique(splits.test.y[splits.test.indices(task)], return_counts=True)
        assert len(counts) == len(ANGLES)
        assert counts.max() - counts.min() <= 1


def test_no_image_is_in_two_parts_and_the_test_part_is_mnists(mnist: Path) -> None:
    train, validation, test = (part.sources for part in rotated_mnist(mnist, 2))
    assert train is not None
    assert validation is not None
    assert test is not None
    assert not set(train.tolist()) & set(validation.tolist())
    assert max(train.max(), validation.max()) < TRAIN
    assert sorted(test.tolist()) == list(range(TRAIN, TRAIN + TEST))


def test_the_image_is_the_source_turned_by_the_target(mnist: Path) -> None:
    images = source_images(mnist)
    for part in rotated_mnist(mnist):
        assert part.outputs == ("angle",)
        assert part.input_shape == (784,)
        assert part.sources is not None
        for row in range(0, len(part), 17):
            angle = round(float(part.y[row] + 1) * 45)
            assert angle in ANGLES
            source = int(part.sources[row])
            assert source % 10 == int(part.task[row])  # as the labels were made
            turned = ndimage.rotate(images[source], angle, reshape=False, order=1).clip(0, 1)
            np.testing.assert_allclose(part.x[row].reshape(28, 28), turned, atol=1e-5)


def test_the_seed_deals(mnist: Path) -> None:
    one, same, other = (rotated_mnist(mnist, seed=seed).train for seed in (3, 3, 4))
    assert one.x.equal(same.x)
    assert not one.x.equal(other.x)


def test_too_many_shots(mnist: Path) -> None:
    assert len(rotated_mnist(mnist, 4, 0).train) == 400
    with pytest.raises(InputError, match="expected at most 4 together"):
        rotated_mnist(mnist, 3)
    with pytest.raises(InputError, match="shots is 0"):
        rotated_mnist(mnist, 0)
    with pytest.raises(InputError, match="validation_shots is -1"):
        rotated_mnist(mnist, 1, -1)


class TestFiles:
    def test_none_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            rotated_mnist(tmp_path)
        for name in ("train-images-idx3-ubyte", "train-labels", "t10k-images", "t10k-labels"):
            assert name in str(caught.value)
        assert str(tmp_path / "MNIST" / "raw") in str(caught.value)
        assert not list(tmp_path.iterdir())

    def test_no_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from torchvision.datasets import MNIST

        def download(self: object) -> None:
            raise URLError("no route")

        monkeypatch.setattr(MNIST, "download", download)
        with pytest.raises(InputError, match=r"downloaded \(.*no route.*expected the files train"):
            rotated_mnist(tmp_path, download=True)

    @pytest.mark.parametrize("content", [b"", b"not MNIST at all", struct.pack(">ii", 2049, 9)])
    def test_a_broken_file(self, mnist: Path, tmp_path: Path, content: bytes) -> None:
        folder = tmp_path / "MNIST" / "raw"
        folder.mkdir(parents=True)
        for file in (mnist / "MNIST" / "raw").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "train-labels-idx1-ubyte").write_bytes(content)
        with pytest.raises(InputError, match=r"MNIST in .*; expected"):
            rotated_mnist(tmp_path)

    def test_torchvision_missing(self, mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("torchvision", "torchvision.datasets"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=r"MNIST needs torchvision.*'images'"):
            rotated_mnist(mnist)
