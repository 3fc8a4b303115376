"""Programs change nothing: what moves besides gradients moves in ``update``."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_vmtl.model import (
    AmortisedWeights,
    Borrowing,
    FeedbackWeights,
    NestedWeights,
    PooledWeights,
)

if TYPE_CHECKING:
    from tests.model.conftest import Case

pytestmark = pytest.mark.usefixtures("few_draws")

# Of a posterior in closed form, besides the chains and the draws.
CONJUGATE = ("precision", "shift", "counts", "loc", "covariance", "steps")


def _state(module: nn.Module) -> dict[str, Any]:
    """All tensors and all that parts remember as plain values."""
    plain = {
        f"{name}.{attribute}": copy.copy(value)
        for name, part in module.named_modules()
        for attribute, value in vars(part).items()
        if isinstance(value, (bool, int, float, str)) or attribute == "tempering"
    }
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return plain | {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _changed(module: nn.Module, before: dict[str, Any]) -> set[str]:
    after = _state(module)
    assert after.keys() == before.keys()
    return {
        name
        for name, value in before.items()
        if not (value.equal(after[name]) if isinstance(value, Tensor) else value == after[name])
    }


@pytest.mark.parametrize("is_training", [True, False])
def test_running_a_program_changes_nothing(case: Case, is_training: bool) -> None:
    vmtl, batch = case.vmtl.train(is_training), case.batch
    vmtl.update(batch, last=True)
    before, store = _state(vmtl), set(pyro.get_param_store())
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO(num_particles=2)):
        loss = elbo.differentiable_loss(vmtl.model, vmtl.guide, batch)
        assert loss.requires_grad == bool(list(vmtl.parameters()))
        if loss.requires_grad:
            loss.backward()
    with torch.no_grad():
        guide = poutine.trace(vmtl.guide).get_trace(batch)
        poutine.trace(poutine.replay(vmtl.model, trace=guide)).get_trace(batch)
        TraceMeanField_ELBO().loss(vmtl.model, vmtl.guide, batch)
    Predictive(vmtl.model, guide=vmtl.guide, num_samples=2)(batch, observed=False)
    assert _changed(vmtl, before) == set()
    assert set(pyro.get_param_store()) == store


def test_update_moves_what_is_to_move_and_no_parameter(case: Case) -> None:
    vmtl, batch = case.vmtl, case.batch
    moving: set[str] = set()
    if isinstance(vmtl.classifier, AmortisedWeights):
        moving |= {"classifier.sums", "classifier.counts"}
    if vmtl.classifier.is_conjugate:
        moving |= {f"classifier.{name}" for name in CONJUGATE}
        if isinstance(vmtl.classifier, NestedWeights):
            moving |= {"classifier.effective"}
        if isinstance(vmtl.classifier, FeedbackWeights):
            moving -= {"classifier.effective"}
        if vmtl.likelihood.has_noise:
            moving |= {"classifier.squares", "likelihood.raw_noise"}
            if isinstance(vmtl.classifier, PooledWeights):
                moving |= {"classifier.noise"}
        if isinstance(vmtl.classifier, PooledWeights):
            moving |= {"classifier.unit"}
            if vmtl.classifier.alone is not None:  # which lends, and moves nothing else
                own = {name for name in moving if name.startswith("classifier.")}
                moving |= {name.replace("classifier.", "classifier.alone.") for name in own}
    before, noise = _state(vmtl), torch.get_rng_state()
    vmtl.update(batch, last=True)
    # What is drawn may be what it was.
    changed = {
        name
        for name in _changed(vmtl, before)
        if not name.startswith(("classifier.chain_", "classifier.draw_", "classifier.partitions"))
    }
    assert changed == moving
    assert torch.get_rng_state().equal(noise)
    assert all(parameter.grad is None for parameter in vmtl.parameters())


def test_update_moves_alike_in_training_and_in_evaluation(case: Case) -> None:
    one, other = case.vmtl.train(), copy.deepcopy(case.vmtl).eval()
    one.update(case.batch, last=True)
    with torch.no_grad():
        other.update(case.batch, last=True)
    changed = _changed(other.train(), _state(one))
    if case.vmtl.classifier.is_conjugate:  # sites average over dropout, where there is some
        changed = {name for name in changed if not name.startswith(("classifier.", "likelihood."))}
    assert changed == set()


def test_update_is_the_first_iteration_whose_posteriors_are_lent(case: Case) -> None:
    vmtl, batch = case.vmtl, case.batch
    if "weights" not in vmtl.borrowing or isinstance(vmtl.classifier, NestedWeights):
        return
    vmtl.set_extra_state(torch.tensor(False))
    borrowing = vmtl.borrowing["weights"]
    assert isinstance(borrowing, Borrowing)
    draw = borrowing.relatedness_posterior().sample()

    def is_pooled() -> bool:
        """Whether the prior is that of the lenders: all of it, mean and variance."""
        prior = vmtl.weights_prior(draw)
        expected = borrowing.prior(draw, vmtl.classifier.lent())
        unit = getattr(vmtl.classifier, "unit", torch.tensor(1.0))  # in which they lend
        return prior.mean.allclose(unit * expected.mean) and prior.variance.allclose(
            unit.square() * expected.variance
        )

    # What is in closed form lends what the data have said so far, which is nothing.
    assert is_pooled() == vmtl.classifier.is_conjugate
    vmtl.update(batch)
    assert is_pooled()
