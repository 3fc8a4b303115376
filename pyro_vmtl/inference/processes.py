"""One fit in several processes: each draws batches and noise of its own.

A step takes the mean of their gradients: as many draws more as there are processes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["in_parallel", "noise_seed"]


def in_parallel(trainer: Mapping[str, Any]) -> bool:
    """Whether the trainer's options may ask for more than one process.

    :param trainer: the options, of which ``devices`` and ``num_nodes`` count.
    """
    devices = trainer.get("devices", 1)
    if isinstance(devices, (list, tuple)):  # which ones, and not how many
        devices = len(devices)
    return str(devices) != "1" or str(trainer.get("num_nodes", 1)) != "1"


def noise_seed(seed: int, rank: int, epoch: int) -> int:
    """Of the noise that a process draws in an epoch.

    Anew in each epoch, so that a resumed run repeats: a checkpoint has the first process's noise.

    :param seed: of the fit.
    :param rank: of the process.
    """
    return int(np.random.SeedSequence((seed, rank, epoch)).generate_state(1)[0])
