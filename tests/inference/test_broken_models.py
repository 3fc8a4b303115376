"""Whatever is wrong with the folder of a model is said in one sentence."""

import copy
import json
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyro_vmtl.data import TaskSet, TaskSplits, clusters
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import TrainingSettings, fit, load, save
from pyro_vmtl.model import MLP, Identity, Mixture, Nested, Settings

TRAINING = TrainingSettings(epochs=1, steps_per_epoch=2, validation_samples=2)
KINDS: list[Any] = [None, True, -1, 0, 2.5, 10**13, "x", "", [], ["x"], [1], {}, {"x": 1}, [[]]]
_Change = Callable[[Any, Any], None]
MODELS = {
    "mean_field": Settings(MLP(3, hidden=(4,)), Mixture(), classifier="mean_field"),
    "mixture": Settings(Identity(), Mixture(spread="task")),
    "nested": Settings(Identity(), Nested()),
}


@pytest.fixture(scope="module")
def splits() -> TaskSplits:
    return clusters(3, 2, samples=8, dimensions=3, test_samples=6, seed=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, splits: TaskSplits) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = {
        name: save(fit(splits.train, None, settings, TRAINING), folder / name)
        for name, settings in MODELS.items()
    }
    regression = clusters(3, 2, samples=8, dimensions=3, kind="regression", seed=1).train
    made["regression"] = save(
        fit(regression, None, MODELS["mixture"], TRAINING), folder / "regression"
    )
    return made


def _copied(model: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(model, target))


def _opens_or_says_why(folder: Path, tasks: TaskSet) -> bool:
    """Whether it opens; then it predicts, or says why not."""
    said = None
    try:
        load(folder).predict(tasks, 3)
    except InputError as error:
        said = str(error)
    assert said is None or (said.strip() and "\n" not in said)
    return said is None


def _places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every entry of nested dictionaries and lists."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in pairs:
        yield (*at, key)
        if isinstance(value, (dict, list)):
            yield from _places(value, (*at, key))


def _replace(value: Any, inside: Any, key: Any) -> None:
    inside[key] = value


def _changed(tree: Any, place: tuple[Any, ...], change: _Change) -> Any:
    tree = copy.deepcopy(tree)
    inside = tree
    for key in place[:-1]:
        inside = inside[key]
    change(inside, place[-1])
    return tree


@pytest.mark.parametrize("name", [*MODELS, "regression"])
def test_a_description_with_an_entry_missing_or_of_another_kind(
    models: dict[str, Path], splits: TaskSplits, tmp_path: Path, name: str
) -> None:
    folder = _copied(models[name], tmp_path / "model")
    description = json.loads((folder / "model.json").read_text())
    generator = random.Random(0)
    for place in _places(description):
        changes: list[_Change] = [lambda inside, key: inside.pop(key)]
        changes += [partial(_replace, value) for value in generator.sample(KINDS, 5)]
        changed = [_changed(description, place, change) for change in changes]
        for one in changed:
            (folder / "model.json").write_text(json.dumps(one))
            _opens_or_says_why(folder, splits.test)
    for key in ("format", "settings", "names", "input_shape", "tempering", "warnings"):
        without = {k: v for k, v in description.items() if k != key}
        (folder / "model.json").write_text(json.dumps(without))
        assert not _opens_or_says_why(folder, splits.test)


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_file_that_is_cut_or_overwritten(
    models: dict[str, Path], splits: TaskSplits, tmp_path: Path, file: str
) -> None:
    folder = _copied(models["mean_field"], tmp_path / "model")
    whole = (folder / file).read_bytes()
    generator = random.Random(0)
    broken = [b"", b"\x00" * 40, b"{}", b"[]", b"null", b"\xff\xfe" + whole, b"[" * 100_000]
    broken += [whole[: generator.randrange(len(whole) - 2)] for _ in range(30)]
    if file == "model.safetensors":
        for _ in range(30):
            place = generator.randrange(len(whole))
            broken.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for contents in broken:
        (folder / file).write_bytes(contents)
        assert not _opens_or_says_why(folder, splits.test), contents[:40]
    (folder / file).unlink()
    (folder / file).mkdir()
    with pytest.raises(InputError, match=f"has no {file}"):
        load(folder)


@pytest.mark.parametrize("is_of_an_earlier_version", [False, True])
def test_tensors_of_another_shape_or_kind(
    models: dict[str, Path], splits: TaskSplits, tmp_path: Path, is_of_an_earlier_version: bool
) -> None:
    """Earlier versions wrote no digest: there the tensors themselves must tell."""
    for name, model in models.items():
        folder = _copied(model, tmp_path / "model")
        if is_of_an_earlier_version:
            description = json.loads((folder / "model.json").read_text())
            del description["digest"]
            (folder / "model.json").write_text(json.dumps(description))
            assert _opens_or_says_why(folder, splits.test) or name == "regression"
        tensors = load_file(folder / "model.safetensors")
        for key, value in tensors.items():
            other_kind = value.long() if value.is_floating_point() else value.double()
            for other in (None, torch.zeros(2, 3, 1, 5, dtype=value.dtype), other_kind):
                changed = {k: v for k, v in tensors.items() if k != key}
                if other is not None:
                    changed[key] = other
                save_file(changed, folder / "model.safetensors")
                opens = _opens_or_says_why(folder, splits.test)
                # What earlier versions did not have, they may lack.
                assert not opens or (is_of_an_earlier_version and other is None), (name, key)


def test_files_of_different_models(
    models: dict[str, Path], splits: TaskSplits, tmp_path: Path
) -> None:
    other = fit(splits.train, None, MODELS["mean_field"], TRAINING, seed=1)
    others = {**models, "another seed": save(other, tmp_path / "another")}
    for name, model in others.items():
        if name == "mean_field":
            continue
        folder = _copied(models["mean_field"], tmp_path / "model")
        shutil.copy(model / "model.safetensors", folder)
        with pytest.raises(InputError, match="is not the file that was saved with the description"):
            load(folder)


def test_what_is_handed_in_must_be_a_choice(models: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="a saved model has no enocder; expected one of"):
        load(models["mixture"], enocder=Identity())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027])
def test_files_are_as_open_as_others(models: dict[str, Path], tmp_path: Path, umask: int) -> None:
    fitted = load(models["mixture"])
    before = os.umask(umask)
    try:
        folder = save(fitted, tmp_path / "model")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask
