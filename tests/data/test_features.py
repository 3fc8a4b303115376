"""Frozen features: what is computed, when it is computed again, and what is said of weights."""

from __future__ import annotations

import itertools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import pyro_vmtl.data.features as features_module
from pyro_vmtl.data import ImageData, ImageTransform, extract_features, frozen_network
from pyro_vmtl.data.features import default_cache
from pyro_vmtl.data.networks import NETWORKS
from pyro_vmtl.errors import InputError

MakeTree = Callable[..., Path]

SMALL = ImageTransform(6)


class Counting(nn.Module):
    """A network that counts the images it sees; the count is no part of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Flatten()
        self.norm = nn.BatchNorm1d(108)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(108, 4)
        self.seen = 0
        self.stop_at: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.stop_at is not None and self.seen >= self.stop_at:
            raise KeyboardInterrupt
        self.seen += len(x)
        out: Tensor = self.linear(self.drop(self.norm(self.flat(x))))
        return out


@pytest.fixture
def files(make_tree: MakeTree) -> list[Path]:
    return sorted(make_tree({"Art/Chair": 7}).rglob("*.jpg"))


Extract = Callable[..., ImageData]


@pytest.fixture
def extract(tmp_path: Path) -> Extract:
    """``extract(files, network, ...)`` with small images and batches, and a cache of its own."""

    def run(files: list[Path], network: nn.Module, **options: Any) -> ImageData:
        given: dict[str, Any] = {
            "transform": SMALL,
            "cache": tmp_path / "cache",
            "batch_size": 3,
            "progress": False,
        }
        return extract_features(files, network, **given | options)

    return run


def direct(network: nn.Module, files: list[Path]) -> Tensor:
    was = network.training
    network.eval()
    with torch.no_grad():
        out: Tensor = network(torch.stack([SMALL(Image.open(file)) for file in files]))
    network.train(was)
    return out


class TestWhatIsComputed:
    @pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
    def test_the_network_in_evaluation_mode_without_gradient(
        self, files: list[Path], extract: Extract, batch_size: int
    ) -> None:
        network = Counting()
        data = extract(files, network, batch_size=batch_size)
        assert torch.allclose(data.values, direct(network, files), atol=1e-5)
        assert data.rows.tolist() == list(range(7))
        assert not data.values.requires_grad
        assert data.values.dtype == torch.float32

    def test_the_module_leaves_as_it_came(self, files: list[Path], extract: Extract) -> None:
        network = Counting().train()
        network.norm.eval()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        extract(files, network)
        assert network.training
        assert network.drop.training
        assert not network.norm.training
        assert all(before[key].equal(value) for key, value in network.state_dict().items())

    def test_features_are_flattened(self, files: list[Path], extract: Extract) -> None:
        data = extract(files, nn.Conv2d(3, 2, 3))
        assert data.values.shape == (7, 2 * 4 * 4)

    def test_the_bar_and_the_bare_call_give_the_same(
        self, files: list[Path], extract: Extract, capsys: pytest.CaptureFixture[str]
    ) -> None:
        network = nn.Flatten()
        shown = extract(files, network, progress=True)
        assert "features of Flatten" in capsys.readouterr().err
        assert shown.values.equal(extract(files, network).values)

    @pytest.mark.parametrize("groups", [None, [0, 0, 0, 1, 1, 1, 1], [5, 5, 2, 2, 2, 2, 5]])
    def test_groups_change_blocks_not_values(
        self, files: list[Path], extract: Extract, tmp_path: Path, groups: list[int] | None
    ) -> None:
        data = extract(files, nn.Flatten(), groups=groups)
        assert torch.allclose(data.values, direct(nn.Flatten(), files))
        blocks = 1 if groups is None else 1 + sum(a != b for a, b in itertools.pairwise(groups))
        assert len(list((tmp_path / "cache").glob("*.json"))) == blocks

    def test_no_image_at_all(self, extract: Extract) -> None:
        assert len(extract([], nn.Flatten()).values) == 0

    def test_an_output_that_is_no_feature(self, files: list[Path], extract: Extract) -> None:
        class Total(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.sum()

        with pytest.raises(InputError, match=r"'Total' gives \[\] for 3 images; expected"):
            extract(files, Total())


class TestCache:
    def test_the_second_time_costs_nothing(self, files: list[Path], extract: Extract) -> None:
        network = Counting()
        first = extract(files, network)
        assert network.seen == 7
        second = extract(files, network)
        assert network.seen == 7
        assert first.values.equal(second.values)
        assert first.rows.equal(second.rows)

    def test_another_copy_of_the_weights_is_the_same_network(
        self, files: list[Path], extract: Extract
    ) -> None:
        network, copy = Counting(), Counting()
        copy.load_state_dict(network.state_dict())
        extract(files, network)
        extract(files, copy)
        assert copy.seen == 0

    @pytest.mark.parametrize("change", ["weights", "transform", "image", "touched", "order"])
    def test_what_makes_them_anew(self, files: list[Path], extract: Extract, change: str) -> None:
        network = Counting()
        extract(files, network)
        options: dict[str, object] = {}
        if change == "weights":
            with torch.no_grad():
                network.linear.bias[0] += 1e-3
        elif change == "transform":
            options["transform"] = ImageTransform(6, resize=7)
        elif change == "image":
            Image.new("RGB", (9, 9), "red").save(files[4])
        elif change == "touched":
            files[4].touch()
        else:
            files.reverse()
        data = extract(files, network, **options)
        assert network.seen == 14
        if change != "transform":
            assert torch.allclose(data.values, direct(network, files), atol=1e-5)

    def test_a_stopped_extraction_goes_on_where_it_was(
        self, files: list[Path], extract: Extract, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(features_module, "BLOCK", 2)
        network = Counting()
        network.stop_at = 4
        with pytest.raises(KeyboardInterrupt):
            extract(files, network)
        network.stop_at = None
        data = extract(files, network)
        assert network.seen == 7
        assert torch.allclose(data.values, direct(network, files), atol=1e-5)

    def test_one_changed_image_costs_one_block(
        self, files: list[Path], extract: Extract, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(features_module, "BLOCK", 2)
        network = Counting()
        extract(files, network)
        Image.new("RGB", (9, 9), "red").save(files[4])
        extract(files, network)
        assert network.seen == 7 + 2

    @pytest.mark.parametrize(
        "breakage", ["truncated", "flipped", "gone", "not json", "half a json", "of other images"]
    )
    def test_a_broken_cache_is_made_anew_and_that_is_said(
        self,
        files: list[Path],
        extract: Extract,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        breakage: str,
    ) -> None:
        network = Counting()
        expected = extract(files, network)
        description = next((tmp_path / "cache").glob("*.json"))
        tensors = description.with_suffix(".safetensors")
        if breakage == "truncated":
            tensors.write_bytes(tensors.read_bytes()[:-7])
        elif breakage == "flipped":
            content = bytearray(tensors.read_bytes())
            content[-1] ^= 1
            tensors.write_bytes(content)
        elif breakage == "gone":
            tensors.unlink()
        elif breakage == "not json":
            description.write_bytes(b"\x00\x01")
        elif breakage == "half a json":
            description.write_text(description.read_text()[:50])
        else:
            record = json.loads(description.read_text())
            record["unreadable"] = {"other.jpg": "?"}
            description.write_text(json.dumps(record))
        with caplog.at_level(logging.WARNING):
            data = extract(files, network)
        assert "computed anew" in caplog.text
        assert network.seen == 14
        assert data.values.equal(expected.values)
        caplog.clear()
        extract(files, network)
        assert network.seen == 14
        assert not caplog.text

    def test_half_written_files_do_not_count(
        self, files: list[Path], extract: Extract, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        network = Counting()
        extract(files, network)
        description = next((tmp_path / "cache").glob("*.json"))
        description.unlink()  # as if it had been stopped before the description
        (tmp_path / "cache" / f".{description.stem}.1").write_bytes(b"half")
        extract(files, network)
        assert network.seen == 14
        assert not caplog.text
        left = {path.suffix for path in (tmp_path / "cache").iterdir()}
        assert left == {".json", ".safetensors", ".1"}

    def test_a_folder_that_cannot_be_written_costs_no_features(
        self, files: list[Path], extract: Extract, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "cache").write_text("a file")
        data = extract(files, nn.Flatten())
        assert len(data.values) == 7
        assert "cannot be kept" in caplog.text

    def test_a_transform_without_a_name_is_not_kept(
        self, files: list[Path], extract: Extract, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = extract(files, nn.Flatten(), transform=lambda image: SMALL(image) * 2)
        assert torch.allclose(data.values, 2 * direct(nn.Flatten(), files))
        assert "not kept" in caplog.text
        assert not (tmp_path / "cache").exists()

    def test_where_it_lies(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert default_cache() == tmp_path / "pyro_vmtl" / "features"


class TestUnreadable:
    @pytest.fixture
    def broken(self, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        monkeypatch.setattr(features_module, "BLOCK", 2)
        for number in (2, 5):
            files[number].write_bytes(files[number].read_bytes()[:-150])
        return files

    def test_all_are_counted_without_more_features(
        self, broken: list[Path], extract: Extract, caplog: pytest.LogCaptureFixture
    ) -> None:
        network = Counting()
        for _ in range(2):
            with pytest.raises(InputError, match=r"2 of 7 images .*00003.jpg' .*00006.jpg' "):
                extract(broken, network)
        assert network.seen == 3  # two of the first block, one of the second
        assert "looking through the other images before stopping" in caplog.text

    def test_they_can_be_left_out(self, broken: list[Path], extract: Extract) -> None:
        network = Counting()
        for _ in range(2):
            data = extract(broken, network, unreadable="skip")
            assert data.rows.tolist() == [0, 1, 3, 4, 6]
            assert list(data.unreadable) == [str(broken[2]), str(broken[5])]
            whole = [file for number, file in enumerate(broken) if number not in (2, 5)]
            assert torch.allclose(data.values, direct(network, whole), atol=1e-5)
            network.seen = 5
        assert network.seen == 5

    def test_a_file_that_is_gone_may_come_back(self, files: list[Path], extract: Extract) -> None:
        content = files[3].read_bytes()
        files[3].unlink()
        assert len(extract(files, nn.Flatten(), unreadable="skip").values) == 6
        files[3].write_bytes(content)
        assert len(extract(files, nn.Flatten()).values) == 7


class TestNetworks:
    @pytest.mark.parametrize("name", sorted(NETWORKS))
    def test_no_weights_is_one_sentence_with_the_file(
        self, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        models = pytest.importorskip("torchvision.models")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        with pytest.raises(InputError) as caught:
            frozen_network(name)
        said = str(caught.value)
        assert NETWORKS[name].file in said
        assert str(tmp_path / "hub" / "checkpoints") in said
        weights = models.get_model_weights(name).IMAGENET1K_V1
        assert weights.url.endswith(f"/{NETWORKS[name].file}")
        assert weights.url in said

    def test_weights_where_torchvision_keeps_them(
        self,
        files: list[Path],
        extract: Extract,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        models = pytest.importorskip("torchvision.models")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        whole = models.resnet18(weights=None).eval()
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        torch.save(whole.state_dict(), tmp_path / "hub" / "checkpoints" / NETWORKS["resnet18"].file)
        state = torch.get_rng_state()
        network = frozen_network("resnet18")
        assert torch.get_rng_state().equal(state)
        transform = ImageTransform(32)
        data = extract(files, network, transform=transform)
        assert data.values.shape == (7, 512)
        with torch.no_grad():
            images = torch.stack([transform(Image.open(file)) for file in files])
            assert torch.allclose(whole.fc(data.values), whole(images), atol=1e-4)

    def test_weights_for_other_classes_do_as_well(self, tmp_path: Path) -> None:
        models = pytest.importorskip("torchvision.models")
        torch.save(models.resnet18(weights=None, num_classes=7).state_dict(), tmp_path / "own.pth")
        assert len(frozen_network("resnet18", tmp_path / "own.pth").key) == 64

    def test_the_penultimate_layer_of_vgg16(self) -> None:
        models = pytest.importorskip("torchvision.models")
        with torch.device("meta"):  # its weights alone would be half a gigabyte
            network = models.vgg16(weights=None).eval()
            names = set(network.state_dict())
            NETWORKS["vgg16"].cut(network)
            assert isinstance(network.classifier[-1], nn.ReLU)
            assert network(torch.empty(2, 3, 224, 224)).shape == (2, 4096)
        last = {name for name in names if name.startswith(NETWORKS["vgg16"].last)}
        assert last == {"classifier.6.weight", "classifier.6.bias"}
        assert set(network.state_dict()) == names - last

    def test_the_extra_is_named_where_torchvision_is_missing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("torchvision", "torchvision.models"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=r"torchvision.*expected the extra 'images'"):
            frozen_network("resnet18")

    def test_a_network_by_import_path(
        self, files: list[Path], extract: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "own_networks.py").write_text(
            "from torch import nn\n"
            "def flat(): return nn.Flatten()\n"
            "MADE = nn.Flatten()\n"
            "def count(): return 3\n"
            "NUMBER = 3\n"
            "def linear(): return nn.Sequential(nn.Flatten(), nn.Linear(108, 2))\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        for name in ("own_networks:flat", "own_networks:MADE", "torch.nn:Flatten"):
            data = extract(files, name)
            assert torch.allclose(data.values, direct(nn.Flatten(), files))
        known = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
        save_file(known.state_dict(), tmp_path / "w.safetensors")
        data = extract(files, "own_networks:linear", weights=tmp_path / "w.safetensors")
        assert torch.allclose(data.values, direct(known, files), atol=1e-5)
        for name, said in {
            "own_networks:absent": "cannot be imported",
            "no_such_module:f": "cannot be imported",
            "own_networks:NUMBER": "is a int",
            "own_networks:count": "gives a int",
            "alexnet": "expected one of 'vgg16', 'resnet18', 'resnet50'",
        }.items():
            with pytest.raises(InputError, match=said):
                frozen_network(name)

    def test_weights_that_will_not_do(self, tmp_path: Path) -> None:
        network = nn.Linear(3, 2)
        save_file(nn.Linear(4, 2).state_dict(), tmp_path / "other.safetensors")
        torch.save({"weight": network.weight.detach()}, tmp_path / "part.pth")
        torch.save([1, 2], tmp_path / "list.pth")
        torch.save(network, tmp_path / "pickled.pth")  # opening it would run code
        (tmp_path / "text.pth").write_text("not weights")
        (tmp_path / "text.safetensors").write_text("not weights")
        for file, said in {
            "other.safetensors": "do not fit the network 'Linear' .*size mismatch for weight",
            "part.pth": "do not fit .*Missing key",
            "list.pth": "something else than tensors",
            "pickled.pth": "cannot be read",
            "text.pth": "cannot be read",
            "text.safetensors": "cannot be read",
            "absent.pth": "there is no file",
        }.items():
            with pytest.raises(InputError, match=said):
                frozen_network(network, tmp_path / file)
        frozen = frozen_network(network)
        assert frozen_network(frozen) is frozen
        with pytest.raises(InputError, match="has its own"):
            frozen_network(frozen, tmp_path / "part.pth")
