"""What a configuration may name: the library's own parts, and what the command line allows.

Hydra makes whatever object a configuration names, from any module that Python can import: a
configuration of somebody else's would be a program of theirs. So the names in it are looked at
before anything is made of them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from pyro_vmtl.errors import InputError

__all__ = ["check_names_of_code", "checked_by_hydra", "named_by_the_user"]

_OURS = tuple(f"pyro_vmtl.{room}" for room in ("data", "distributions", "model", "inference"))
_HYDRAS = ("hydra._internal.core_plugins", "hydra_plugins")  # launchers and sweepers
_LOGGING = {
    *("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler"),
    *("logging.handlers.RotatingFileHandler", "logging.Formatter", "colorlog.ColoredFormatter"),
    *("ext://sys.stdout", "ext://sys.stderr"),
}
_TARGET = "_target_"
# Settings whose value may be the import path of a network, "package.module:factory".
_NETWORKS = ("features", "network", "_args_")
_IMPORT_PATH = re.compile(r"[^\W\d][\w.]*:[\w.]+")


def named_by_the_user(arguments: Sequence[str]) -> frozenset[str]:
    """Modules and objects that a command's arguments name: the user's own word, which counts.

    :param arguments: without the name of the command; ``allow=[my_module]`` allows whatever is in
        a module, and what an override names itself is allowed by that.
    """
    parser, names = OverridesParser.create(), set()
    for text in arguments:
        if text.startswith("-") or "=" not in text:
            continue
        try:
            override = parser.parse_override(text)
        except HydraException:
            continue  # which Hydra says in a moment, or it is no override
        key = override.get_key_element().lstrip("+~")
        if key.startswith("hydra."):
            names.add(".".join(key.split(".")[:3]))
        value = override.value()
        choices = value.list if isinstance(value, ChoiceSweep) else [value]
        for choice in choices:
            if key == "allow":
                names |= {str(name) for name in (choice if isinstance(choice, list) else [choice])}
            else:
                names |= set(_named(choice, key))
    return frozenset(names)


def _named(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, dict):
        for inner, one in value.items():
            yield from _named(one, str(inner))
    elif isinstance(value, list):
        for one in value:
            yield from _named(one, key)
    elif key.split(".")[-1] in (_TARGET, *_NETWORKS):
        yield str(value)


def check_names_of_code(config: Any, name: str, trusted: Collection[str] = ()) -> None:
    """Make sure that nothing is imported but this library and what the user allowed.

    :param config: plain data, or a part of a configuration.
    :param name: of the part.
    :param trusted: see :func:`named_by_the_user`.
    :raises InputError: names what is not allowed.
    """
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=True)
    for holder in _mappings(config):
        target = holder.get(_TARGET)
        if target is not None:
            _check(target, name, trusted)
        for key in _NETWORKS:
            values = holder.get(key)
            for value in values if isinstance(values, list) and key == "_args_" else [values]:
                if isinstance(value, str) and _IMPORT_PATH.fullmatch(value):
                    _check(value, name, trusted)


def _mappings(tree: Any) -> Iterator[dict[Any, Any]]:
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _mappings(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _mappings(value)


def _check(target: Any, part: str, trusted: Collection[str]) -> None:
    text = str(target)
    if _is_trusted(text, trusted) or _is_ours(text):
        return
    module = text.partition(":")[0] if ":" in text else text.rpartition(".")[0] or text
    raise InputError(
        f"the configuration of {part} names {text}, which is not of this library; expected a part "
        f"of pyro_vmtl or, if you trust what it does, allow=[{module}] on the command line"
    )


def _is_trusted(text: str, trusted: Collection[str]) -> bool:
    return any(text == name or text.startswith((f"{name}.", f"{name}:")) for name in trusted)


def _is_ours(text: str) -> bool:
    module, _, name = text.rpartition(".")
    if module != "pyro_vmtl" and not f"{module}.".startswith(tuple(f"{room}." for room in _OURS)):
        return False
    try:
        return name in importlib.import_module(module).__all__
    except (ImportError, AttributeError):
        return False


@contextmanager
def checked_by_hydra(trusted: Collection[str]) -> Iterator[None]:
    """Hydra's own settings are looked at as soon as they are composed, before Hydra acts on them.

    They can name callbacks, classes of loggers and variables of the environment.

    :param trusted: see :func:`named_by_the_user`.
    """
    load = ConfigLoaderImpl.load_configuration

    def checked(
        loader: ConfigLoaderImpl,
        config_name: str | None,
        overrides: list[str],
        *args: Any,
        **options: Any,
    ) -> DictConfig:
        _check_search_path(loader, config_name, trusted)
        config = load(loader, config_name, overrides, *args, **options)
        settings = OmegaConf.to_container(config.hydra, resolve=False)
        _check_hydra(settings, overrides, trusted)
        return config

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign]


def _check_search_path(
    loader: ConfigLoaderImpl, config_name: str | None, trusted: Collection[str]
) -> None:
    """Hydra imports the packages in which it looks for further files, ``pkg://package``."""
    found = None if config_name is None else loader.repository.load_config(config_name)
    places = None if found is None else OmegaConf.select(found.config, "hydra.searchpath")
    for place in [places] if isinstance(places, str) else places or ():
        scheme, _, package = str(place).partition("://")
        package = package.split("/")[0]
        if scheme == "pkg" and package.split(".")[0] != "pyro_vmtl":
            _check(package, "hydra.searchpath", trusted)


def _check_hydra(settings: Any, overrides: Sequence[str], trusted: Collection[str]) -> None:
    said = [*settings["overrides"]["task"], *settings["overrides"]["hydra"]]
    foreign = [text for text in said if text not in overrides]
    if foreign:
        raise InputError(
            f"the configuration passes {foreign[0]} off as an override; expected overrides on the "
            "command line alone"
        )
    allowed = (*trusted, *_HYDRAS)
    for holder in _mappings(settings):
        if _TARGET in holder and not _is_trusted(str(holder[_TARGET]), allowed):
            _check(holder[_TARGET], "hydra", trusted)
    for kind in ("job_logging", "hydra_logging"):
        for holder in _mappings(settings.get(kind)):
            for key, value in holder.items():
                code = key in ("()", "class") or str(value).startswith("ext://")
                if code and str(value) not in _LOGGING:
                    _check(value, "hydra", trusted)
    job = settings.get("job") or {}
    variables = set(job.get("env_set") or ()) - set(job.get("env_copy") or ())
    if variables and "hydra.job.env_set" not in trusted:
        raise InputError(
            f"the configuration sets variables of the environment, {sorted(variables)}; expected "
            "them on the command line, hydra.job.env_set.NAME=..., or in the shell"
        )
