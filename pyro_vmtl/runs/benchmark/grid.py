"""The grid of a benchmark: which methods on which data, at which sizes, from which seeds."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pyro_vmtl.errors import InputError
from pyro_vmtl.runs.refusals import sentence_of

__all__ = ["Cell", "Dataset", "Grid", "Method", "Size", "fingerprint", "quoted", "read_grid"]

Size = int | float | str
"""How much training data, as the axis counts it; empty without an axis."""

# What says where a run goes and what it shows, not what it computes.
_NO_MATTER = ("allow", "baselines", "ckpt_path", "experiment", "recipe", "resume", "run_dir")
_NO_MATTER_IN_TRAINER = ("progress_bar", "tensorboard")


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    :ivar name: as tables show it.
    :ivar overrides: of the training configuration.
    """

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """Tasks, and how much of them to train on.

    :ivar name: as tables show it.
    :ivar overrides: of the training configuration.
    :ivar axis: the setting that says how much training data there is, or None.
    :ivar sizes: its values; one empty text without an axis.
    """

    name: str
    overrides: tuple[str, ...]
    axis: str | None
    sizes: tuple[Size, ...]


@dataclass(frozen=True)
class Cell:
    """One fit.

    :ivar dataset: the name of its data.
    :ivar axis: the setting of the training size, or None.
    :ivar size: its value.
    :ivar method: the name of its method.
    :ivar seed: of data, start and noise.
    :ivar overrides: all of them, such that the training command repeats the fit.
    :ivar fingerprint: of the resolved configuration.
    """

    dataset: str
    axis: str | None
    size: Size
    method: str
    seed: int
    overrides: tuple[str, ...]
    fingerprint: str

    @property
    def title(self) -> str:
        """What a person calls it."""
        size = f" {self.axis}={self.size}" if self.axis else ""
        return f"{self.dataset}{size} {self.method} seed={self.seed}"

    @property
    def file(self) -> str:
        """Where its result stands in the benchmark's folder."""
        readable = re.sub(r"[^\w.=-]+", "-", self.title.replace(" ", "_"))
        return f"cells/{readable[:120]}_{self.fingerprint}.json"


@dataclass(frozen=True)
class Grid:
    """All cells of a benchmark.

    :ivar methods: rows of the tables.
    :ivar datasets: each with its training sizes.
    :ivar seeds: of every method, data set and size.
    :ivar shared: overrides that every cell has.
    :ivar cells: in the order in which they are computed: a seed of everything before the next.
    """

    methods: tuple[Method, ...]
    datasets: tuple[Dataset, ...]
    seeds: tuple[int, ...]
    shared: tuple[str, ...]
    cells: tuple[Cell, ...]


def fingerprint(config: DictConfig) -> str:
    """Twelve hexadecimal digits that differ where two training configurations compute otherwise.

    Where a run is written and what it shows while it trains do not count.

    :param config: a composed training configuration.
    :raises InputError: where a value is missing or cannot be resolved.
    """
    kept = [str(key) for key in config if key not in _NO_MATTER]
    try:
        data = OmegaConf.to_container(
            OmegaConf.masked_copy(config, kept), resolve=True, throw_on_missing=True
        )
    except MissingMandatoryValue as error:
        raise InputError(f"{error.full_key} has no value; expected one") from error
    except OmegaConfBaseException as error:
        raise InputError(str(error).splitlines()[0]) from error
    assert isinstance(data, dict)
    if isinstance(data.get("trainer"), dict):
        for key in _NO_MATTER_IN_TRAINER:
            data["trainer"].pop(key, None)
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_grid(config: DictConfig) -> Grid:
    """The grid that a benchmark's configuration describes.

    Every cell's training configuration is composed, so that a name or setting that does not exist
    is found before anything is computed. Hydra must be initialised on the configs.

    :param config: of ``configs/benchmark.yaml``.
    :raises InputError: says what in it cannot be used.
    """
    methods = _methods(_plain(config, "methods"))
    axis = _axis(_plain(config, "axis"), "axis")
    sizes = _plain(config, "sizes")
    datasets = tuple(
        _dataset(entry, axis, sizes) for entry in _list(_plain(config, "datasets"), "datasets")
    )
    _distinct([dataset.name for dataset in datasets], "datasets")
    seeds = tuple(_seed(seed) for seed in _list(_plain(config, "seeds"), "seeds"))
    _distinct(seeds, "seeds")
    shared = _overrides(_plain(config, "overrides"), "overrides")
    by_seed: dict[int, list[Cell]] = {seed: [] for seed in seeds}
    for dataset in datasets:
        for size in dataset.sizes:
            sized = (f"{dataset.axis}={_written(size)}",) if dataset.axis else ()
            for method in methods:
                chosen = (*dataset.overrides, *method.overrides, *sized, *shared)
                title = " ".join((dataset.name, *sized, method.name))
                for seed, mark in zip(seeds, _fingerprints(chosen, seeds, title), strict=True):
                    overrides = (*chosen, f"seed={seed}")
                    cell = Cell(
                        dataset.name, dataset.axis, size, method.name, seed, overrides, mark
                    )
                    by_seed[seed].append(cell)
    cells = tuple(cell for seed in seeds for cell in by_seed[seed])
    return Grid(methods, datasets, seeds, shared, cells)


def _fingerprints(overrides: Sequence[str], seeds: Sequence[int], title: str) -> list[str]:
    """Of one choice at several seeds; composed once, since composing is what takes time."""
    try:
        composed = compose("train", list(overrides))
        marks = []
        for seed in seeds:
            composed.seed = seed
            marks.append(fingerprint(composed))
    except (HydraException, InputError, OmegaConfBaseException) as error:
        shown = shlex.join(overrides)
        reason = sentence_of(error)
        raise InputError(f"{title} cannot be trained (train {shown}): {reason}") from error
    return marks


def _methods(given: Any) -> tuple[Method, ...]:
    recipes = _options("recipe")
    methods = []
    for entry in recipes if given is None else _list(given, "methods"):
        if isinstance(entry, dict):
            for name, overrides in entry.items():
                methods.append(Method(str(name), _overrides(overrides, f"the method {name}")))
        elif entry in recipes:
            methods.append(Method(entry, (f"recipe={entry}",)))
        else:
            raise InputError(
                f"methods has {entry!r}; expected a recipe, one of {', '.join(recipes)}, or "
                "{name: {setting: value}}"
            )
    _distinct([method.name for method in methods], "methods")
    return tuple(methods)


def _dataset(entry: Any, axis: str | None, sizes: Any) -> Dataset:
    known = ("data", "name", "axis", "sizes", "overrides")
    if isinstance(entry, str):
        entry = {"data": entry}
    if not isinstance(entry, dict) or "data" not in entry or not set(entry) <= set(known):
        raise InputError(
            f"datasets has {entry!r}; expected a name such as digit_domains, or {{data: name}} "
            f"with any of {', '.join(known[1:])}"
        )
    options = _options("data")
    if entry["data"] not in options:
        raise InputError(f"datasets has {entry['data']!r}; expected one of {', '.join(options)}")
    name = str(entry.get("name", entry["data"]))
    axis = _axis(entry.get("axis", axis), f"the axis of {name}")
    values: list[Any] = [""] if axis is None else _list(entry.get("sizes", sizes), "sizes")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise InputError(f"sizes has {value!r}; expected numbers")
    _distinct(values, "sizes")
    overrides = _overrides(entry.get("overrides", []), f"the overrides of {name}")
    return Dataset(name, (f"data={entry['data']}", *overrides), axis, tuple(values))


def _options(group: str) -> list[str]:
    found = GlobalHydra.instance().config_loader().get_group_options(group)
    # What everything is compared with comes first.
    return sorted(found, key=lambda name: (name != "default", name))


def _plain(config: DictConfig, key: str) -> Any:
    try:
        value = OmegaConf.to_container(config, resolve=True)[key]  # type: ignore[index, call-overload]
    except OmegaConfBaseException as error:
        raise InputError(str(error).splitlines()[0]) from error
    return value


def _list(given: Any, name: str) -> list[Any]:
    values = given if isinstance(given, list) else [given]
    if not values or any(value is None for value in values):
        raise InputError(f"{name} is {given!r}; expected a list with at least one entry")
    return values


def _overrides(given: Any, name: str) -> tuple[str, ...]:
    """Texts as on the command line, or a mapping from settings to values, or a list of either."""
    texts: list[str] = []
    for entry in given if isinstance(given, list) else [] if given is None else [given]:
        if isinstance(entry, dict):
            texts += [f"{key}={_written(value)}" for key, value in entry.items()]
        elif isinstance(entry, str) and "=" in entry:
            texts.append(entry)
        else:
            raise InputError(
                f"{name} has {entry!r}; expected overrides of the training command, such as "
                "{trainer.epochs: 5}"
            )
    return tuple(texts)


def _written(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_written(entry)}' for key, entry in value.items())}}}"
    text = str(value)
    return text if re.fullmatch(r"[\w./@+-]+", text) else quoted(text)


def quoted(text: str) -> str:
    """Text as a value of Hydra's override grammar, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _axis(given: Any, name: str) -> str | None:
    if given is not None and not isinstance(given, str):
        raise InputError(f"{name} is {given!r}; expected a setting such as data.shots, or null")
    return given


def _seed(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise InputError(f"seeds has {given!r}; expected whole numbers of at least 0")
    return given


def _distinct(values: Sequence[object], name: str) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise InputError(f"{name} has {value!r} twice; expected each once")
