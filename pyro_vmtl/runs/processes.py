"""A run in several processes: the first one writes, the others only train along.

The trainer starts them by running the command again, once for each further device, and tells each
its rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import in_parallel

__all__ = ["is_first_process", "refuse_parallel"]


def is_first_process(trainer: Mapping[str, Any]) -> bool:
    """Whether this process is the one that writes.

    Only where several are asked for: on a cluster, runs that have nothing to do with each other may
    have ranks.

    :param trainer: see :func:`pyro_vmtl.inference.in_parallel`.
    """
    return not in_parallel(trainer) or getattr(rank_zero_only, "rank", 0) == 0


def refuse_parallel(trainer: Mapping[str, Any], what: str) -> None:
    """Make sure that a command with several fits is not run again as a whole for each device.

    :param trainer: see :func:`pyro_vmtl.inference.in_parallel`.
    :param what: has the fits.
    :raises InputError: where the options ask for more than one process.
    """
    if in_parallel(trainer):
        devices = trainer.get("devices", 1)
        raise InputError(
            f"trainer.devices is {devices} in {what}, of which each process would make all fits; "
            "expected 1 there, and more in single runs of pyro_vmtl.train"
        )
