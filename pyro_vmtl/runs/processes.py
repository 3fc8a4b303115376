"""A run in several processes: the first one writes, the others only train along.

The trainer starts them by running the command again, once for each further device, and tells each
its rank. Every process draws batches and noise of its own, and a step takes the mean of their
gradients: as many draws more as there are processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from pyro_vmtl.errors import InputError

__all__ = ["OwnNoise", "in_parallel", "is_first_process", "refuse_parallel"]


def in_parallel(trainer: Mapping[str, Any]) -> bool:
    """Whether the trainer's options may ask for more than one process.

    :param trainer: the options, of which ``devices`` and ``num_nodes`` count.
    """
    devices = trainer.get("devices", 1)
    if isinstance(devices, (list, tuple)):  # which ones, and not how many
        devices = len(devices)
    return str(devices) != "1" or str(trainer.get("num_nodes", 1)) != "1"


def is_first_process(trainer: Mapping[str, Any]) -> bool:
    """Whether this process is the one that writes.

    Only where several are asked for: on a cluster, runs that have nothing to do with each other may
    have ranks.

    :param trainer: see :func:`in_parallel`.
    """
    return not in_parallel(trainer) or getattr(rank_zero_only, "rank", 0) == 0


def refuse_parallel(trainer: Mapping[str, Any], what: str) -> None:
    """Make sure that a command with several fits is not run again as a whole for each device.

    :param trainer: see :func:`in_parallel`.
    :param what: has the fits.
    :raises InputError: where the options ask for more than one process.
    """
    if in_parallel(trainer):
        devices = trainer.get("devices", 1)
        raise InputError(
            f"trainer.devices is {devices} in {what}, of which each process would make all fits; "
            "expected 1 there, and more in single runs of pyro_vmtl.train"
        )


class OwnNoise(Callback):
    """Each process draws noise of its own; the first, what it would have drawn by itself.

    :param seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        # Anew in each epoch, so that a resumed run repeats: a checkpoint has the first one's noise.
        if trainer.global_rank > 0:
            parts = (self.seed, trainer.global_rank, trainer.current_epoch)
            torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))
