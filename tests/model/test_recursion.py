"""The paper's recursion: tasks lend their present posteriors, and no gradient passes through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro.distributions import TorchDistribution
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.model import (
    MLP,
    VMTL,
    Architecture,
    BayesianLinear,
    Borrowing,
    Geometric,
    Identity,
    Linear,
    Mixture,
    Pool,
    Power,
    Settings,
    Standard,
    assemble,
)

TASKS = 3
POOLS = [Mixture(spread="task"), Linear(base=True), Geometric(base=True), Power(spread="scalar")]
ENCODERS: list[Architecture] = [
    Identity(),
    MLP(5, hidden=(8,), dropout=0),
    MLP(5, hidden=(8,), dropout=0, stochastic=False),
    BayesianLinear(5),
    BayesianLinear(5, per_task=True),
]

every_pool = pytest.mark.parametrize("pool", POOLS, ids=repr)
every_encoder = pytest.mark.parametrize("encoder", ENCODERS, ids=repr)
every_classifier = pytest.mark.parametrize("classifier", ["mean_field", "amortised"])


def _make(encoder: Architecture, pool: Pool, classifier: Any) -> VMTL:
    """A model after its first iteration, every parameter somewhere of its own."""
    layered = isinstance(encoder, BayesianLinear) and encoder.per_task
    settings = Settings(encoder, pool, pool if layered else Standard(), classifier)
    vmtl = assemble(settings, TASKS, 2, (4,), is_classification=True)
    with torch.no_grad():
        for parameter in vmtl.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    vmtl.update(_batch())
    return vmtl


def _batch() -> Batch:
    shape = (TASKS, 6)
    return Batch(
        torch.randn(*shape, 4),
        torch.randint(2, shape),
        torch.ones(shape, dtype=torch.bool),
        torch.ones(shape),
        torch.arange(TASKS * 6).reshape(shape),
    )


def _gradients(vmtl: VMTL, kind: type[Trace_ELBO]) -> dict[str, Tensor | None]:
    torch.manual_seed(1)
    loss = kind().differentiable_loss(vmtl.model, vmtl.guide, _batch())
    names, parameters = zip(*vmtl.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def _numbers(gaussians: Gaussians) -> Gaussians:
    return Gaussians(*(torch.tensor(part.tolist()) for part in gaussians))


@every_pool
@every_encoder
@every_classifier
@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
def test_gradient_is_that_of_constant_components(
    pool: Pool,
    encoder: Architecture,
    classifier: str,
    kind: type[Trace_ELBO],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vmtl = _make(encoder, pool, classifier)
    gradients = _gradients(vmtl, kind)
    weights, layer = _numbers(vmtl.classifier.gaussians()), vmtl.encoder.layer()
    monkeypatch.setattr(vmtl.classifier, "lent", lambda: weights)
    if layer is not None:
        layers, prior = _numbers(layer), vmtl.layer_prior

        def prior_of_numbers(layer: Gaussians, draw: Tensor | None) -> TorchDistribution:
            return prior(layers, draw)

        monkeypatch.setattr(vmtl, "layer_prior", prior_of_numbers)
    expected = _gradients(vmtl, kind)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name])


@every_pool
@every_classifier
def test_prior_depends_on_relatedness_and_spread_alone(pool: Pool, classifier: str) -> None:
    vmtl = _make(BayesianLinear(5, per_task=True), pool, classifier)
    layer = vmtl.encoder.layer()
    assert layer is not None
    total = torch.zeros(()).double()
    for site, borrowing in vmtl.borrowing.items():
        assert isinstance(borrowing, Borrowing)
        draw = borrowing.relatedness_posterior().rsample()
        prior = vmtl.weights_prior(draw) if site == "weights" else vmtl.layer_prior(layer, draw)
        total = total + prior.log_prob(torch.randn(TASKS, 1, *prior.event_shape)).sum()
    names, parameters = zip(*vmtl.named_parameters(), strict=True)
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    reached = {name for name, g in zip(names, gradients, strict=True) if g is not None}
    own = {name for name in names if name.startswith("borrowing.")}
    assert reached == own
    assert len(own) == 2 * (1 + (pool.spread is not None))


@every_classifier
def test_what_is_lent_follows_the_posteriors(classifier: str) -> None:
    """The evidence that others gave a task comes back to them, as in the paper."""
    vmtl = _make(Identity(), Mixture(), classifier)
    draw = torch.full((TASKS, 1, TASKS - 1), 1 / (TASKS - 1)).double()
    before = vmtl.weights_prior(draw).mean
    with torch.no_grad():
        for parameter in vmtl.classifier.parameters():
            parameter.add_(0.1)
    others = vmtl.classifier.gaussians().loc
    expected = (others.sum(0) - others) / (TASKS - 1)
    torch.testing.assert_close(vmtl.weights_prior(draw).mean.squeeze(1), expected)
    assert not expected.allclose(before.squeeze(1))
