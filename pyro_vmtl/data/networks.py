"""Pretrained networks without their last layer, whose features are used as they are."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pyro_vmtl.data.extras import import_torchvision
from pyro_vmtl.errors import InputError

__all__ = ["NETWORKS", "FrozenNetwork", "frozen_network"]


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network that is not trained any more.

    :param name: what it is called in logs and caches.
    :param module: maps images ``[n, 3, H, W]`` to features ``[n, ...]``, which are flattened.
    :param key: a digest of its architecture and weights.
    """

    name: str
    module: nn.Module
    key: str


@dataclass(frozen=True)
class _Pretrained:
    """A network of torchvision.

    :param file: the file that its weights are distributed in.
    :param last: the name of its last layer, left out, in that file.
    :param cut: takes what follows the penultimate activations off a network.
    """

    file: str
    last: str
    cut: Callable[[Any], None]


def _cut_vgg(network: Any) -> None:
    network.classifier = network.classifier[:5]  # Linear, ReLU, Dropout, Linear, ReLU


def _cut_resnet(network: Any) -> None:
    network.fc = nn.Identity()


NETWORKS = {
    "vgg16": _Pretrained("vgg16-397923af.pth", "classifier.6.", _cut_vgg),
    "resnet18": _Pretrained("resnet18-f37072fd.pth", "fc.", _cut_resnet),
    "resnet50": _Pretrained("resnet50-0676ba61.pth", "fc.", _cut_resnet),
}
"""The networks known by name: 4096 features (VGG-16, as in Shen et al. 2021), 512, and 2048."""

_WEIGHTS_URL = "https://download.pytorch.org/models/"


def frozen_network(
    network: str | nn.Module | FrozenNetwork, weights: str | Path | None = None
) -> FrozenNetwork:
    """A network by name, by import path, or as it is.

    ``"vgg16"``, ``"resnet18"`` and ``"resnet50"`` are torchvision's, up to their penultimate
    activations (the last ReLU of VGG's classifier, the average pool of a ResNet), with the weights
    of ``weights`` or, by default, of the file in which PyTorch distributes those for ImageNet,
    where torchvision keeps it (``~/.cache/torch/hub/checkpoints``, or under ``TORCH_HOME``).
    Nothing is downloaded. ``"package.module:factory"`` imports ``factory`` and, unless it is a
    module already, calls it without arguments.

    :param weights: a file of weights, read as data only: ``.safetensors``, or a PyTorch file of a
        state dict.
    :raises InputError: for a network or weights that are not there, or that do not fit.
    """
    if isinstance(network, FrozenNetwork):
        if weights is not None:
            raise InputError(
                f"weights='{weights}' are given for the frozen network {network.name!r}; "
                "expected none, as it has its own."
            )
        return network
    if isinstance(network, nn.Module):
        name, module = type(network).__name__, network
        if weights is not None:
            _load(module, _read_weights(Path(weights).expanduser()), str(weights), name)
    elif network in NETWORKS:
        name, module = network, _pretrained(network, weights)
    elif isinstance(network, str) and ":" in network:
        name, module = network, _imported(network)
        if weights is not None:
            _load(module, _read_weights(Path(weights).expanduser()), str(weights), name)
    else:
        raise InputError(
            f"the network is {network!r}; expected one of {', '.join(map(repr, NETWORKS))}, "
            "'package.module:factory', or a torch.nn.Module."
        )
    return FrozenNetwork(name, module, _digest(module))


def _pretrained(name: str, weights: str | Path | None) -> nn.Module:
    models = import_torchvision("models", f"the network {name!r}")
    known = NETWORKS[name]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if weights is None and not (folder / known.file).is_file():
        raise InputError(
            f"there are no weights for the network {name!r}; expected {known.file}, as from "
            f"{_WEIGHTS_URL}{known.file}, in '{folder}', or weights=/path/to/{known.file}."
        )
    file = folder / known.file if weights is None else Path(weights).expanduser()
    state = _read_weights(file)
    # On the meta device: no time and no random numbers go into weights that are replaced at once.
    with torch.device("meta"):
        module: nn.Module = getattr(models, name)(weights=None)
    known.cut(module)
    kept = {key: value for key, value in state.items() if not key.startswith(known.last)}
    _load(module, kept, str(file), name, assign=True)
    return module


def _read_weights(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError(f"there is no file of weights '{file}'; expected one that exists.")
    try:
        if file.suffix == ".safetensors":
            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a broken file can raise any error at all
        first = str(error).strip().split("\n")[0]
        raise InputError(
            f"the weights '{file}' cannot be read ({first}); expected a state dict of tensors, "
            "saved by torch.save or as safetensors, and whole."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(
            f"the weights '{file}' hold something else than tensors by name; expected a state dict."
        )
    return state


def _load(
    module: nn.Module, state: dict[str, Tensor], file: str, name: str, assign: bool = False
) -> None:
    try:
        module.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        reason = (lines or [str(error)])[0].rstrip(". ")
        shown = reason if len(reason) <= 200 else f"{reason[:200]} ..."
        raise InputError(
            f"the weights '{file}' do not fit the network {name!r} ({shown}); "
            "expected its own state dict."
        ) from error


def _imported(path: str) -> nn.Module:
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"the network {path!r} cannot be imported ({error}); expected "
            "'package.module:factory' where factory() gives a torch.nn.Module."
        ) from error
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise InputError(
                f"{path!r} is a {type(found).__name__}; expected a torch.nn.Module or a function "
                "without arguments that gives one."
            )
        found = found()
    if not isinstance(found, nn.Module):
        raise InputError(f"{path!r} gives a {type(found).__name__}; expected a torch.nn.Module.")
    return found


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256(f"{type(module).__qualname__}\n{module!r}".encode())
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):  # a module may keep extra state of any kind
            digest.update(f"{name} {tensor!r}".encode())
            continue
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
