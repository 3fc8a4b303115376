"""Several processes that train one model."""

import pytest
import torch

from pyro_vmtl.data import TaskBatches, clusters
from pyro_vmtl.inference import TrainingModule, TrainingSettings
from pyro_vmtl.model import Identity, Settings, assemble


def drawn(monkeypatch: pytest.MonkeyPatch, seed: int, rank: int, epoch: int) -> float:
    """What a process draws first in an epoch."""
    tasks = clusters(2, 1, samples=4, dimensions=2, test_samples=2).train
    vmtl = assemble(Settings(Identity()), 2, 1, (2,), is_classification=True)
    module = TrainingModule(vmtl, TaskBatches(tasks, seed=seed), TrainingSettings())
    monkeypatch.setattr(TrainingModule, "global_rank", rank)
    monkeypatch.setattr(TrainingModule, "current_epoch", epoch)
    torch.manual_seed(5)
    module.on_train_epoch_start()
    return float(torch.rand(()))


def test_noise_is_a_function_of_seed_process_and_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3)]
    first = [drawn(monkeypatch, *case) for case in cases]
    assert first == [drawn(monkeypatch, *case) for case in cases]
    assert len(set(first)) == 4


def test_the_first_process_draws_what_it_would_draw_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    untouched = float(torch.rand((), generator=torch.Generator().manual_seed(5)))
    assert drawn(monkeypatch, 0, 0, 2) == drawn(monkeypatch, 3, 0, 1) == untouched
