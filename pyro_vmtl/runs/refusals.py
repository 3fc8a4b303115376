"""How a command ends that cannot do what was asked: with one sentence, and exit code 2."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from pyro_vmtl.errors import InputError
from pyro_vmtl.runs.screen import plain_console

__all__ = [
    "ArgumentParser",
    "check_flags",
    "ending_in_a_sentence",
    "sentence_of",
    "wants_traceback",
]

_HYDRA = "HYDRA_FULL_ERROR"
_OURS = "PYRO_VMTL_SENTENCES"
# Lines by which Hydra says where it looked, and what else it could do.
_ASIDES = ("Config search path", "provider=", "See http", "To append to your default list")


class ArgumentParser(argparse.ArgumentParser):
    """That of Python, which says in one sentence what it does not understand."""

    def error(self, message: str) -> NoReturn:
        """End the program, without the usage that comes first elsewhere: ``--help`` shows it."""
        said = " ".join(message.split())
        self.exit(2, f"Error: {said}; expected what `{self.prog} --help` lists\n")


def check_flags(arguments: Sequence[str]) -> None:
    """Make sure that Hydra understands the flags of a command, such as ``--config-dir``.

    :param arguments: without the name of the command.
    :raises InputError: for one that it does not, which Hydra itself would answer with its usage.
    """

    def refuse(message: str) -> NoReturn:
        said = " ".join(message.split())
        raise InputError(f"{said}; expected key=value, or one of the flags of --hydra-help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args(list(arguments))


def wants_traceback() -> bool:
    """Whether the user asked to see where errors come from: ``HYDRA_FULL_ERROR=1``."""
    return os.environ.get(_HYDRA) == "1" and _OURS not in os.environ


@contextmanager
def ending_in_a_sentence(*further: type[Exception]) -> Iterator[None]:
    """What the user has to put right is said in one sentence, and ends the program with 2.

    :param further: errors that say themselves what it is, beside :class:`InputError` and those of
        a configuration that Hydra cannot compose.
    """
    kinds: tuple[type[Exception], ...] = (InputError, HydraException, OmegaConfBaseException)
    asked = os.environ.get(_HYDRA)
    # Hydra would print its own account of an error and end the program; so it raises the error.
    # The second variable keeps apart who asked, in processes that are started meanwhile as well.
    if asked != "1":
        os.environ[_HYDRA] = os.environ[_OURS] = "1"
    try:
        yield
    except Exception as error:
        if not isinstance(error, (*kinds, *further)) and not _raised_by_hydra(error):
            raise
        if wants_traceback():
            traceback.print_exc()
        console = plain_console(stderr=True, soft_wrap=True, highlight=False)
        rank = os.environ.get("LOCAL_RANK", "0")  # of several processes that train one model
        start = "Error" if rank == "0" else f"Error in process {rank}"
        said = re.sub(r"\s*[\r\n]+\s*", " ", sentence_of(error).strip())
        console.print(f"{start}: {said}")
        sys.exit(2)
    finally:
        if asked != "1":
            os.environ.pop(_OURS)
            os.environ.pop(_HYDRA)
            if asked is not None:
                os.environ[_HYDRA] = asked


def sentence_of(error: BaseException) -> str:
    """What an error says, in one line: the thing, the value, and what was expected.

    :param error: of this library, or of Hydra and OmegaConf, whose accounts have several lines.
    """
    cause = error.__cause__
    if isinstance(error, MissingConfigException):
        return _no_such_option(error)
    if isinstance(error, OverrideParseException):
        reason = str(error.message).splitlines()[0].removeprefix(_parsing(error)).strip(" :")
        return (
            f"{error.override} cannot be read ({reason or 'it has no value'}); expected key=value, "
            "a value with blanks or signs in quotes of its own: 'key=\"a value\"'"
        )
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value; expected one, {error.full_key}=..."
    if isinstance(error, HydraException) and isinstance(
        cause, (ConfigAttributeError, ConfigKeyError)
    ):
        return _no_such_setting(error, cause)
    several = re.match(r"Ambiguous value for argument '(.*)'", str(error))
    if several:
        key, _, values = several[1].partition("=")
        return (
            f"{several[1]} gives {key} several values; expected one, {key}=[{values}] for a list, "
            "or --multirun before it for a run with each"
        )
    if isinstance(error, OSError) and error.errno is not None:
        where = "" if error.filename is None else f", {error.filename}"
        return (
            f"a file cannot be read or written ({os.strerror(error.errno)}{where}); expected room "
            "for it, and permission"
        )
    if type(error) in (AssertionError, AttributeError, TypeError):
        return (
            f"Hydra cannot use the arguments ({type(error).__name__}: {error}); expected key=value "
            "with values as the configuration has them"
        )
    lines = [line.strip() for line in str(error).splitlines()]
    if isinstance(cause, OmegaConfBaseException):
        lines += str(cause).splitlines()[:1]
    said = [line for line in lines if line and not line.startswith(_ASIDES)]
    return " ".join(said) if isinstance(error, HydraException) else (said or [repr(error)])[0]


def _raised_by_hydra(error: BaseException) -> bool:
    """Of some overrides, such as pool=3, Hydra complains as a program does of a bug."""
    if type(error) not in (AssertionError, AttributeError, TypeError, ValueError):
        return False
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and str(last.tb_frame.f_globals.get("__name__")).startswith("hydra.")


def _parsing(error: OverrideParseException) -> str:
    return f"Error parsing override '{error.override}'"


def _no_such_option(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if not group or error.options is None:
        return (
            f"there is no configuration {name!r}; expected --config-name to be the name of a YAML "
            "file, without its ending, in the folder of --config-dir"
        )
    return f"there is no {group} {name!r}; expected one of {', '.join(sorted(error.options))}"


def _no_such_setting(error: HydraException, cause: ConfigAttributeError | ConfigKeyError) -> str:
    key, parent = str(cause.full_key), cause.parent_node
    found = re.search(r"use \+(.*)", str(error))
    override = found[1] if found else key
    settings = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
    start, _, last = key.rpartition(".")
    near = difflib.get_close_matches(last, settings, 1)
    prefix = f"{start}." if start else ""
    if near:
        return f"there is no setting {key} ({override}); expected {prefix}{near[0]}"
    shown = [prefix + name for name in settings if not name.startswith("_") and name != "hydra"]
    expected = f"one of {', '.join(shown)}" if shown else "another"
    return f"there is no setting {key} ({override}); expected {expected}, or +{override} to add one"
