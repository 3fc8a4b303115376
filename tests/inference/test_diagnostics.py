"""Diagnostics: a collapsed representation is noticed, and one that informs is left in peace."""

import math

import pytest
import torch
from torch import Tensor, nn

from pyro_vmtl.data import Batch
from pyro_vmtl.inference import diagnose, explain
from pyro_vmtl.model import MLP, VMTL, GaussianEncoder, Settings, assemble


class _Channel(nn.Module):
    """Means ``signal`` times the input, raw scales 0."""

    def __init__(self, signal: float) -> None:
        super().__init__()
        self.signal = signal

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.signal * x, torch.zeros_like(x)], -1)


def _model(signal: float) -> VMTL:
    encoder = GaussianEncoder(_Channel(signal), 2, initial_scale=0.5)
    return assemble(Settings(encoder), 3, 2, (2,), is_classification=True)


def _batch(x: Tensor, mask: Tensor) -> Batch:
    return Batch(x, mask.long(), mask, torch.ones(mask.shape), torch.zeros(mask.shape).long())


@pytest.mark.parametrize("signal", [0.01, 1.0, 30.0])
def test_information_is_the_capacity_of_a_gaussian_channel(signal: float) -> None:
    x, mask = torch.randn(3, 50, 2), torch.rand(3, 50) < 0.6
    numbers = diagnose(_model(signal), _batch(x, mask))
    ratio = signal**2 * x[mask].var(0, correction=0) / 0.5**2
    expected = 0.5 * ratio.log1p().sum()
    assert numbers["representations_information"] == pytest.approx(float(expected), rel=1e-3)
    assert numbers["representations_scale"] == pytest.approx(0.5, rel=1e-3)


def test_a_collapse_is_put_into_a_sentence_and_nothing_else_is() -> None:
    x, mask = torch.randn(3, 50, 2), torch.ones(3, 50, dtype=torch.bool)
    (sentence,) = explain(diagnose(_model(0.01), _batch(x, mask)))
    assert "0.000 nats" in sentence
    assert "collapsed" in sentence
    assert explain(diagnose(_model(1.0), _batch(x, mask))) == []


def test_a_deterministic_encoder_has_nothing_to_collapse() -> None:
    vmtl = assemble(Settings(MLP(5, stochastic=False), initial_scale=0.07), 3, 2, (2,), True)
    mask = torch.ones(3, 4, dtype=torch.bool)
    numbers = diagnose(vmtl.train(), _batch(torch.randn(3, 4, 2), mask))
    assert not any(name.startswith("representations") for name in numbers)
    assert numbers["weights_scale"] == pytest.approx(0.07)
    assert all(math.isfinite(value) for value in numbers.values())
    assert explain(numbers) == []
    assert all(module.training for module in vmtl.modules())
