"""Settings as plain data, from which a saved model is built again."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator
from typing import Any

from pyro_vmtl.errors import InputError
from pyro_vmtl.model.architectures import Architecture
from pyro_vmtl.model.build import Settings
from pyro_vmtl.model.likelihoods import Family
from pyro_vmtl.model.pools import Pool
from pyro_vmtl.model.posteriors import Posterior

__all__ = ["from_plain", "to_plain"]

_BASES = (Architecture, Pool, Family, Posterior)
_OPEN = "default"  # what was left to the data
# What models that were saved before there was a choice have.
_EARLIER: dict[str, Any] = {"classifier": "mean_field", "likelihood": _OPEN}


def _parts(base: type[Any]) -> Iterator[type[Any]]:
    kinds: list[type[Any]] = base.__subclasses__()
    for kind in kinds:
        yield kind
        yield from _parts(kind)


def _name(kind: type) -> str:
    """The library's own parts go by their class, others by their module as well."""
    own = kind.__module__.split(".")[0] != __name__.split(".")[0]
    return f"{kind.__module__}.{kind.__qualname__}" if own else kind.__name__


def _known() -> dict[str, type]:
    """The parts of models that have been defined so far, the user's own among them, by name."""
    return {_name(kind): kind for base in _BASES for kind in _parts(base)}


def _options(part: object) -> dict[str, Any] | None:
    """What a part was made with: its attributes of the names of its arguments, where JSON has them.

    None for a part that keeps its arguments otherwise.
    """
    names = inspect.signature(type(part)).parameters
    try:
        options: dict[str, Any] = json.loads(json.dumps({n: getattr(part, n) for n in names}))
    except (AttributeError, TypeError, ValueError):
        return None
    return options


def to_plain(settings: Settings) -> dict[str, Any]:
    """The settings as JSON-able data; what cannot be written down is None.

    Pools, architectures, posteriors and families of likelihoods of the user's own are written down
    by module and class, if they keep what they were made with as attributes of the same names.
    """
    plain: dict[str, Any] = {}
    known = _known()
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        name = _name(type(value))
        if value is None:
            plain[field.name] = _OPEN
        elif isinstance(value, (bool, int, float, str)):
            plain[field.name] = value
        elif known.get(name) is type(value) and (options := _options(value)) is not None:
            plain[field.name] = {name: options}
        else:
            plain[field.name] = None
    return plain


def from_plain(plain: dict[str, Any], **own: Any) -> Settings:
    """The settings that :func:`to_plain` wrote.

    :param own: the user's own objects, for the entries that could not be written down.
    :raises InputError: names an entry that is missing or unknown, or whose class has not been
        imported.
    """
    values: dict[str, Any] = {}
    if "lenders" in plain:
        plain = _without_lenders(plain)
    fields = [field.name for field in dataclasses.fields(Settings)]
    for name in own:
        if name not in fields:
            raise InputError(f"a saved model has no {name}; expected one of {fields}")
    known = _known()
    for field in fields:
        if own.get(field) is not None:
            values[field] = own[field]
            continue
        value = plain.get(field, _EARLIER.get(field))
        if value == _OPEN:
            continue
        if value is None:
            raise InputError(
                f"the {field} of the saved model is its author's own; pass it as "
                f"load(path, {field}=...)"
            )
        if isinstance(value, dict):
            ((name, options),) = value.items()
            if name not in known:
                ours = [other for other in known if "." not in other]
                expected = (
                    f"that its module is imported first, or load(path, {field}=...)"
                    if "." in name
                    else f"one of {ours}"
                )
                raise InputError(f"the saved model's {field} is {name!r}; expected {expected}")
            value = known[name](**options)
        values[field] = value
    return Settings(**values)


def _without_lenders(plain: dict[str, Any]) -> dict[str, Any]:
    """Settings of an earlier version, in which lenders were chosen beside the classifier."""
    (pool,) = plain["pool"] if isinstance(plain.get("pool"), dict) else (_OPEN,)
    lends = pool not in ("Standard", "Nested", "Feedback")
    if lends and plain["lenders"] != {"Recursive": {}}:
        raise InputError(
            f"the saved model has the pool {pool}, which an earlier version learned by gradients "
            "beside a second program; expected a model of this version: fit it anew"
        )
    if plain.get("classifier", _OPEN) == _OPEN and pool not in ("Nested", "Feedback"):
        return plain | {"classifier": "mean_field"}
    return plain
