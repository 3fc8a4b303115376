"""What every test starts from: one thread, one seed, Pyro's own checks switched on."""

import os
from collections.abc import Iterator

# Figures are drawn without a screen; said before anything imports matplotlib.
os.environ.setdefault("MPLBACKEND", "Agg")

import pyro
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import settings

# No deadline: how long a shape takes on a shared machine is not a truth about the code.
settings.register_profile("pyro_vmtl", deadline=None)
# Elsewhere than at a desk the examples are the same every time, so that a red run can be repeated.
settings.register_profile(
    "repeatable", settings.get_profile("pyro_vmtl"), derandomize=True, print_blob=True
)
settings.load_profile("repeatable" if os.environ.get("CI") else "pyro_vmtl")

# Tests run in several processes side by side; more threads would only fight over the cores, and
# sums split over threads round differently.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded_and_validated() -> None:
    """Python's, NumPy's and torch's generators at one seed, and Pyro validating every site."""
    pyro.set_rng_seed(0)
    pyro.enable_validation(True)


@pytest.fixture(autouse=True)
def _fresh_hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()
