"""Reading images: what the pixels become, and what is said of files that are no images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pyro_vmtl.data.images as images_module
from pyro_vmtl.data import ImageTransform, read_images
from pyro_vmtl.data.images import IMAGENET_TRANSFORM
from pyro_vmtl.errors import InputError

MakeTree = Callable[..., Path]


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


class TestTransform:
    @pytest.mark.parametrize("size", [(300, 260), (231, 500), (256, 256), (40, 30)])
    def test_agrees_with_torchvision(self, size: tuple[int, int]) -> None:
        models = pytest.importorskip("torchvision.models")
        expected = models.ResNet18_Weights.IMAGENET1K_V1.transforms()(picture(*size))
        assert torch.allclose(IMAGENET_TRANSFORM(picture(*size)), expected, atol=1e-5)

    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "1"])
    def test_every_kind_of_image_becomes_three_channels_in_the_unit_interval(
        self, mode: str
    ) -> None:
        pixels = ImageTransform(8)(picture(13, 9, mode))
        assert pixels.shape == (3, 8, 8)
        assert pixels.dtype == torch.float32
        assert pixels.min() >= 0
        assert pixels.max() <= 1

    def test_the_central_square_at_its_own_scale(self) -> None:
        image = picture(9, 5)
        expected = torch.from_numpy(np.asarray(image)[:, 2:7].copy()).permute(2, 0, 1) / 255
        assert torch.allclose(ImageTransform(5)(image), expected)

    def test_mean_and_std(self) -> None:
        plain, scaled = ImageTransform(4), ImageTransform(4, mean=(0.1, 0.2, 0.3), std=(1, 2, 4))
        expected = (plain(picture(4, 4)) - torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1)) / (
            torch.tensor([1.0, 2.0, 4.0]).reshape(3, 1, 1)
        )
        assert torch.allclose(scaled(picture(4, 4)), expected)

    def test_impossible_ones(self) -> None:
        with pytest.raises(InputError, match="image size is 0"):
            ImageTransform(0)
        with pytest.raises(InputError, match="resize is 3"):
            ImageTransform(4, resize=3)
        with pytest.raises(InputError, match="above 0"):
            ImageTransform(4, std=(1, 0, 1))


@pytest.fixture
def files(make_tree: MakeTree) -> list[Path]:
    return sorted(make_tree({"Art/Chair": 5}).rglob("*.jpg"))


class TestReadImages:
    def test_values_in_the_order_of_the_files(self, files: list[Path]) -> None:
        data = read_images(files[::-1], ImageTransform(6), progress=False)
        assert data.values.shape == (5, 3, 6, 6)
        assert data.rows.tolist() == [0, 1, 2, 3, 4]
        assert not data.unreadable
        for value, file in zip(data.values, files[::-1], strict=True):
            assert value.equal(ImageTransform(6)(Image.open(file)))

    @pytest.mark.parametrize("breakage", ["truncated", "empty", "text", "gone", "pipe"])
    def test_a_file_that_is_no_image_is_named(self, files: list[Path], breakage: str) -> None:
        content = files[2].read_bytes()
        if breakage in ("gone", "pipe"):
            files[2].unlink()
            if breakage == "pipe":
                os.mkfifo(files[2])
        else:
            broken = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"Chair"}
            files[2].write_bytes(broken[breakage])
        with pytest.raises(InputError, match=r"1 of 5 images cannot be read: '.*00003.jpg' \("):
            read_images(files, ImageTransform(6), progress=False)
        data = read_images(files, ImageTransform(6), unreadable="skip", progress=False)
        assert data.rows.tolist() == [0, 1, 3, 4]
        assert list(data.unreadable) == [str(files[2])]
        assert data.values[2].equal(ImageTransform(6)(Image.open(files[3])))

    def test_all_of_them_broken(self, files: list[Path]) -> None:
        for file in files:
            file.write_bytes(b"nothing")
        data = read_images(files, ImageTransform(6), unreadable="skip", progress=False)
        assert data.values.shape == (0, 3, 6, 6)
        assert len(data.unreadable) == 5
        with pytest.raises(InputError, match=r"5 of 5 images .*, \.\.\.; expected"):
            read_images(files, ImageTransform(6), progress=False)

    def test_more_than_the_memory_is_refused(
        self, files: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(images_module, "_physical_memory", lambda: 2000)
        with pytest.raises(InputError, match=r"5 images of shape .* expected a smaller image_size"):
            read_images(files, ImageTransform(6), progress=False)

    def test_a_transform_must_give_tensors_of_one_shape(self, files: list[Path]) -> None:
        Image.new("RGB", (5, 7)).save(files[1])
        with pytest.raises(InputError, match="gives Image"):
            read_images(files, lambda image: image, progress=False)  # type: ignore[arg-type, return-value]

        def whole(image: Image.Image) -> Tensor:
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)

        with pytest.raises(InputError, match=r"shape \[3, 7, 5\] for .*00002.jpg"):
            read_images(files, whole, progress=False)

    def test_an_unknown_choice(self, files: list[Path]) -> None:
        with pytest.raises(InputError, match="unreadable is 'ignore'"):
            read_images(files, unreadable="ignore", progress=False)  # type: ignore[arg-type]
