"""Noise from a seed, and the caller's own as it was; one thread at a time.

Pyro's stack of handlers and the generators of torch, NumPy and Python belong to the whole process.
Two threads that ran a program of Pyro's at once would write into each other's traces, so whatever
runs one here waits for its turn.
"""

import contextlib
import threading
from collections.abc import Iterator
from numbers import Integral

import pyro
import torch

from pyro_vmtl.errors import InputError

__all__ = ["all_noise", "fixed_noise", "turn"]

turn = threading.RLock()
"""Held by the thread that runs a program of Pyro's or has set a generator."""


@contextlib.contextmanager
def fixed_noise(seed: int, device: torch.device) -> Iterator[None]:
    """The same draws of torch for the same seed; afterwards its generators are as they were.

    :param seed: of torch's generators.
    :param device: where the draws are made.
    :raises InputError: for a seed that they cannot have.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not -(2**63) <= seed < 2**64:
        raise InputError(f"seed is {seed!r}; expected a whole number of 64 bits")
    devices = [device] if device.type == "cuda" else []
    with turn, torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(seed))
        yield


@contextlib.contextmanager
def all_noise(seed: int) -> Iterator[None]:
    """The same draws of torch, NumPy and Python for the same seed; afterwards all as they were.

    :param seed: of their global generators.
    :raises InputError: for a seed that they cannot have.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32:
        raise InputError(f"seed is {seed!r}; expected a whole number from 0 to {2**32 - 1}")
    with turn:
        state = pyro.util.get_rng_state()
        on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        try:
            pyro.set_rng_seed(int(seed))
            yield
        finally:
            pyro.util.set_rng_state(state)
            if on_devices is None:  # they start from the seed that torch has, once they are used
                torch.cuda.manual_seed_all(torch.initial_seed())
            else:
                torch.cuda.set_rng_state_all(on_devices)
