"""``resume=RUN``: the configuration of a run and its last checkpoint, in one word."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_vmtl.errors import InputError
from pyro_vmtl.runs.folder import RunFolder

__all__ = ["with_configuration_of_run"]

_WORD = "resume="
_OTHERS = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "ckpt_path=")


def with_configuration_of_run(arguments: Sequence[str]) -> list[str]:
    """A command's arguments, with the configuration of the run that ``resume=`` names.

    :param arguments: without the name of the command.
    :raises InputError: where there is no such run, or another configuration is asked for as well.
    """
    values = [text.removeprefix(_WORD) for text in arguments if text.startswith(_WORD)]
    run = values[-1].strip("'\"") if values else ""
    if run in ("", "null"):
        return list(arguments)
    others = [text for text in arguments if not text.startswith(_WORD)]
    for text in others:
        if text.startswith(_OTHERS) or text in ("--multirun", "-m"):
            raise InputError(
                f"resume={run} was given with {text}; expected one of them: resume takes the "
                "configuration and the last checkpoint of the run"
            )
    folder = RunFolder.existing(run)
    quoted = str(run).replace("\\", "\\\\").replace("'", "\\'")
    # With ++, as the configurations of earlier versions have no such setting.
    chosen = ["--config-dir", str(folder.path.absolute()), "--config-name", "config"]
    return [*chosen, f"++resume='{quoted}'", *others]
