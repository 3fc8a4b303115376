"""Looking at a model changes no part's mode: not of the model, nor of what its user has frozen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pyro_vmtl.data import Batch, TaskSet, Views
from pyro_vmtl.distributions import PosteriorMixture
from pyro_vmtl.inference import diagnose, elbo_parts, predict
from pyro_vmtl.model import (
    MLP,
    VMTL,
    GaussianEncoder,
    Mixture,
    PerTask,
    Settings,
    assemble,
    evaluating,
)

TASKS, INPUTS = 3, 4


def _modes(module: nn.Module) -> dict[str, bool]:
    return {name: part.training for name, part in module.named_modules()}


def _with_a_frozen_part() -> VMTL:
    """The batch norm of a pretrained network is to stay as it is, and the rest learns."""
    network = nn.Sequential(nn.Linear(INPUTS, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 6))
    network[1].eval()
    settings = Settings(GaussianEncoder(network, 3), Mixture(), Mixture(), "mean_field")
    vmtl = assemble(settings, TASKS, 2, (INPUTS,), is_classification=True)
    vmtl.set_extra_state(torch.tensor(True))
    return vmtl


def _tasks() -> TaskSet:
    return TaskSet(
        tuple("abc"), torch.randn(12, INPUTS), torch.arange(12) // 3 % 2, torch.arange(12) % TASKS,
        ("no", "yes"),
    )  # fmt: skip


def _lend_views(vmtl: VMTL, tasks: TaskSet) -> None:
    batch = tasks.dense()
    shape = (*batch.mask.shape, TASKS)
    batch.views = Views(torch.randn(*shape, INPUTS), torch.ones(shape, dtype=torch.bool))
    draw = torch.full((TASKS, 1, TASKS - 1), 1 / (TASKS - 1)).double()
    assert isinstance(vmtl.representations_prior(batch, draw), PosteriorMixture)


def _predict(vmtl: VMTL, tasks: TaskSet) -> None:
    predict(vmtl, tasks, num_samples=2)


def _diagnose(vmtl: VMTL, tasks: TaskSet) -> None:
    diagnose(vmtl, tasks.dense())


def _take_the_elbo_apart(vmtl: VMTL, tasks: TaskSet) -> None:
    elbo_parts(vmtl, tasks.dense(), num_particles=1)


@pytest.mark.parametrize("look", [_lend_views, _predict, _diagnose, _take_the_elbo_apart])
@pytest.mark.parametrize("is_training", [True, False])
def test_every_part_keeps_its_mode(
    look: Callable[[VMTL, TaskSet], None], is_training: bool
) -> None:
    vmtl = _with_a_frozen_part()
    if not is_training:
        vmtl.eval()
    before = _modes(vmtl)
    assert vmtl.encoder.training == is_training
    assert not before["encoder.network.1"]
    look(vmtl, _tasks())
    assert _modes(vmtl) == before


def test_inside_every_part_evaluates_and_after_an_error_as_before() -> None:
    vmtl = _with_a_frozen_part()
    before = _modes(vmtl)
    with evaluating(vmtl):
        assert not any(_modes(vmtl).values())
    assert _modes(vmtl) == before
    with pytest.raises(RuntimeError, match="inside"), evaluating(vmtl):
        raise RuntimeError("inside")
    assert _modes(vmtl) == before


def test_networks_of_the_tasks_drop_out_again() -> None:
    """A network a task is run through a skeleton, which is no part that could be listed."""
    vmtl = assemble(Settings(MLP(3, dropout=0.5, per_task=True)), TASKS, 2, (INPUTS,), True)
    assert any(isinstance(part, PerTask) for part in vmtl.modules())
    x = torch.randn(TASKS, 6, INPUTS)

    def encode() -> Tensor:
        return vmtl.encoder(x).mean.detach()

    with evaluating(vmtl):
        assert encode().equal(encode())
    assert not encode().equal(encode())


def test_a_frozen_batch_norm_is_not_moved_by_lending() -> None:
    vmtl = _with_a_frozen_part()
    norm = vmtl.get_submodule("encoder.network.1")
    assert isinstance(norm, nn.BatchNorm1d)
    tasks = _tasks()
    batch: Batch = tasks.dense()
    _lend_views(vmtl, tasks)
    vmtl.encoder(batch.x)
    assert norm.num_batches_tracked == 0
