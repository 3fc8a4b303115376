"""Relatedness weights and gates: torch's densities where those are finite, finite everywhere."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Independent, RelaxedBernoulli, RelaxedOneHotCategorical

from pyro_vmtl.distributions import RelatednessGates, RelatednessWeights

kinds = pytest.mark.parametrize("kind", [RelatednessWeights, RelatednessGates])
Kind = type[RelatednessWeights] | type[RelatednessGates]


def _logits(batch: tuple[int, ...], count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*batch, count, generator=generator, dtype=torch.float64)


shapes = {
    "batch": st.lists(st.integers(1, 3), max_size=2).map(tuple),
    "count": st.integers(2, 6),
    "seed": st.integers(0, 999),
    "temperature": st.floats(0.3, 3),
}


@given(**shapes)
def test_the_density_of_weights_is_that_of_torch(
    batch: tuple[int, ...], count: int, seed: int, temperature: float
) -> None:
    at, logits = torch.tensor(temperature, dtype=torch.float64), _logits(batch, count, seed)
    reference = RelaxedOneHotCategorical(at, logits=logits, validate_args=False)
    draws = reference.sample(torch.Size((5,)))
    expected = reference.log_prob(draws)
    is_inside = (draws > 1e-300).all(-1) & expected.isfinite()
    ours = RelatednessWeights(at, logits=logits).log_prob(draws)
    torch.testing.assert_close(ours[is_inside], expected[is_inside])
    assert is_inside.any()


@given(**shapes)
def test_the_density_of_gates_is_that_of_torch(
    batch: tuple[int, ...], count: int, seed: int, temperature: float
) -> None:
    at, logits = torch.tensor(temperature, dtype=torch.float64), _logits(batch, count, seed)
    reference = Independent(RelaxedBernoulli(at, logits=logits), 1)
    draws = reference.sample(torch.Size((5,)))
    expected = reference.log_prob(draws)
    # Within 1e-9 of 1 the digits of 1 - value are gone, for torch as for us.
    is_inside = ((draws > 1e-300) & (draws < 1 - 1e-9)).all(-1) & expected.isfinite()
    ours = RelatednessGates(at, logits=logits).log_prob(draws)
    torch.testing.assert_close(ours[is_inside], expected[is_inside], rtol=1e-5, atol=1e-5)


@kinds
@pytest.mark.parametrize("spread_of_logits", [0.0, 3.0])
def test_everything_is_finite_at_temperature_01_in_float32(
    kind: Kind, spread_of_logits: float
) -> None:
    logits = (spread_of_logits * torch.randn(12, 1, 11)).requires_grad_()
    temperature = torch.tensor(0.1)
    law = kind(temperature, logits=logits)
    assert law.log_prob(law.sample(torch.Size((2000,)))).isfinite().all()
    draws = law.rsample(torch.Size((2000,)))
    assert draws.dtype == torch.float32
    assert (draws > 0).all()
    assert (draws < 1).all() if kind is RelatednessGates else (draws <= 1).all()
    density = law.log_prob(draws)  # under validation: the draws are in the support
    assert density.isfinite().all()
    for total in (density.sum(), draws.log().sum()):
        (gradient,) = torch.autograd.grad(total, logits, retain_graph=True)
        assert gradient.isfinite().all()
    other = kind(temperature, logits=torch.zeros(12, 1, 11)).log_prob(draws)
    assert other.isfinite().all()
    (gradient,) = torch.autograd.grad((density - other).mean(), logits)
    assert gradient.isfinite().all()


@kinds
def test_the_edges_of_the_support_have_finite_densities(kind: Kind) -> None:
    law = kind(torch.tensor(0.1), logits=torch.zeros(3))
    edge = torch.eye(3).requires_grad_()
    density = law.log_prob(edge)
    assert density.isfinite().all()
    (gradient,) = torch.autograd.grad(density.sum(), edge)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_weights_sum_to_one(temperature: float) -> None:
    law = RelatednessWeights(torch.tensor(temperature), logits=torch.randn(4, 1, 6))
    total = law.sample(torch.Size((1000,))).sum(-1)
    torch.testing.assert_close(total, torch.ones(1000, 4, 1), rtol=0, atol=1e-6)


def test_a_lender_is_the_largest_as_often_as_its_probability() -> None:
    law = RelatednessWeights(torch.tensor(0.5), logits=torch.randn(3, 1, 4))
    winners = law.sample(torch.Size((20_000,))).argmax(-1)
    shares = torch.nn.functional.one_hot(winners, 4).double().mean(0)
    probs = law.probs.double()
    assert ((shares - probs).abs() < 5 * (probs * (1 - probs) / 20_000).sqrt()).all()


def test_a_gate_is_open_as_often_as_its_probability() -> None:
    law = RelatednessGates(torch.tensor(0.5), logits=torch.randn(3, 1, 4))
    shares = (law.sample(torch.Size((20_000,))) > 0.5).double().mean(0)
    probs = law.probs.double()
    assert ((shares - probs).abs() < 5 * (probs * (1 - probs) / 20_000).sqrt()).all()


def test_the_only_lender_has_all_the_weight() -> None:
    law = RelatednessWeights(torch.tensor(0.1), logits=torch.randn(2, 1, 1))
    draws = law.rsample(torch.Size((10,)))
    assert draws.equal(torch.ones(10, 2, 1, 1))
    assert law.log_prob(draws).equal(torch.zeros(10, 2, 1))


@kinds
@given(seed=st.integers(0, 99))
def test_expanding_repeats(kind: Kind, seed: int) -> None:
    at = torch.tensor(0.7, dtype=torch.float64)
    law = kind(at, logits=_logits((3, 1), 4, seed))
    wide = law.expand(torch.Size((2, 3, 5)))
    assert type(wide) is kind
    assert wide.batch_shape == (2, 3, 5)
    assert wide.event_shape == (4,)
    draws = wide.rsample()
    assert draws.shape == (2, 3, 5, 4)
    torch.testing.assert_close(wide.log_prob(draws), law.log_prob(draws))
    assert wide.to_event(1).log_prob(draws).shape == (2, 3)


@kinds
def test_a_reparameterised_draw_moves_with_the_logits(kind: Kind) -> None:
    logits = torch.zeros(4, requires_grad=True)
    draw = kind(torch.tensor(0.7), logits=logits).rsample()
    (gradient,) = torch.autograd.grad(draw[0], logits)
    assert gradient[0] > 0
