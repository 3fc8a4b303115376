"""Pools are the laws they are named for, worked out by brute force."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Distribution, Normal

from pyro_vmtl.distributions import Gaussians, geometric_pool, linear_pool, power_pool

Pool: TypeAlias = Callable[[Tensor, Gaussians, int], Distribution]

pools: list[Pool] = [linear_pool, geometric_pool, power_pool]


def _random(
    batch: tuple[int, ...], count: int, event: tuple[int, ...], is_shared: bool, seed: int
) -> tuple[Tensor, Gaussians]:
    """Weights ``[*batch, C]`` that sum to 1, and components sharper than N(0, I), float64."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(*batch, count, generator=generator, dtype=torch.float64).softmax(-1)
    shape = (*(() if is_shared else batch), count, *event)
    loc = torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = 0.05 + 0.9 * torch.rand(shape, generator=generator, dtype=torch.float64)
    return weights, Gaussians(loc, scale)


def _each(components: Gaussians, batch: tuple[int, ...], event: tuple[int, ...]) -> list[Normal]:
    """The components one by one, each ``[*batch, *event]``."""
    axis = components.loc.dim() - len(event) - 1
    size = (*batch, *event)
    return [
        Normal(components.loc.select(axis, i).expand(size), components.scale.select(axis, i))
        for i in range(components.loc.shape[axis])
    ]


shapes = {
    "batch": st.lists(st.integers(1, 3), max_size=2).map(tuple),
    "count": st.integers(1, 4),
    "event": st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple),
    "is_shared": st.booleans(),
    "seed": st.integers(0, 999),
}


def _columns(weights: Tensor, event: tuple[int, ...]) -> list[Tensor]:
    """The weights one by one, each broadcasting against ``[*batch, *event]``."""
    return [w.reshape(*w.shape, *(1 for _ in event)) for w in weights.unbind(-1)]


@given(**shapes)
def test_linear_is_the_law_of_the_weighted_sum(
    batch: tuple[int, ...], count: int, event: tuple[int, ...], is_shared: bool, seed: int
) -> None:
    weights, components = _random(batch, count, event, is_shared, seed)
    pool = linear_pool(weights, components, len(event))
    assert pool.batch_shape == batch
    assert pool.event_shape == event
    terms = list(zip(_columns(weights, event), _each(components, batch, event), strict=True))
    mean = torch.stack([a * c.mean for a, c in terms]).sum(0)
    variance = torch.stack([a**2 * c.variance for a, c in terms]).sum(0)
    torch.testing.assert_close(pool.mean, mean)
    torch.testing.assert_close(pool.variance, variance)


@given(**shapes)
def test_geometric_is_the_product_of_powers(
    batch: tuple[int, ...], count: int, event: tuple[int, ...], is_shared: bool, seed: int
) -> None:
    weights, components = _random(batch, count, event, is_shared, seed)
    pool = geometric_pool(weights, components, len(event))
    assert pool.batch_shape == batch
    assert pool.event_shape == event
    dims = tuple(range(-len(event), 0))

    def unnormalised(x: Tensor) -> Tensor:
        terms = zip(weights.unbind(-1), _each(components, batch, event), strict=True)
        return torch.stack([a * c.log_prob(x).sum(dims) for a, c in terms]).sum(0)

    x, y = (torch.randn(*batch, *event).double() for _ in range(2))
    torch.testing.assert_close(
        pool.log_prob(x) - pool.log_prob(y), unnormalised(x) - unnormalised(y)
    )


@given(**shapes, spread=st.sampled_from([0.0, 0.2, 1.0]), seed_of_gates=st.integers(0, 99))
def test_power_is_the_standard_normal_times_powers_of_what_each_lender_saw(
    batch: tuple[int, ...],
    count: int,
    event: tuple[int, ...],
    is_shared: bool,
    seed: int,
    spread: float,
    seed_of_gates: int,
) -> None:
    _, components = _random(batch, count, event, is_shared, seed)
    generator = torch.Generator().manual_seed(seed_of_gates)
    gates = torch.rand(*batch, count, generator=generator, dtype=torch.float64)
    pool = power_pool(gates, components, len(event), spread)
    assert pool.batch_shape == batch
    assert pool.event_shape == event
    dims = tuple(range(-len(event), 0))

    def unnormalised(x: Tensor) -> Tensor:
        total = Normal(0.0, 1.0).log_prob(x).sum(dims)
        for r, c in zip(gates.unbind(-1), _each(components, batch, event), strict=True):
            # The lender's posterior over N(0, I) is, in w, a Gaussian bump: its data's likelihood.
            # A task that differs from the lender by N(0, s^2) sees it widened by s^2.
            variance = 1 / (1 / c.variance - 1)
            centre = c.mean / c.variance * variance
            total = total + (r * _bump(x, centre, variance + spread**2, dims))
        return total

    x, y = (torch.randn(*batch, *event).double() for _ in range(2))
    torch.testing.assert_close(
        pool.log_prob(x) - pool.log_prob(y), unnormalised(x) - unnormalised(y)
    )


def _bump(x: Tensor, centre: Tensor, variance: Tensor, dims: tuple[int, ...]) -> Tensor:
    return -(0.5 * (x - centre).square() / variance).sum(dims)


def test_power_by_hand() -> None:
    # sigma 1/2: lambda 3, h 4; sigma 1/3: lambda 8, h -9; sigma 2 adds nothing.
    components = Gaussians(
        torch.tensor([[1.0], [-1.0], [5.0]]), torch.tensor([[1 / 2], [1 / 3], [2.0]])
    )
    gates = torch.tensor([0.5, 0.25, 1.0])
    pool = power_pool(gates, components, 1)
    precision = 1 + 0.5 * 3 + 0.25 * 8
    torch.testing.assert_close(pool.variance, torch.tensor([1 / precision]))
    torch.testing.assert_close(pool.mean, torch.tensor([(0.5 * 4 - 0.25 * 9) / precision]))
    # with s = 1: 3 / 4 and 8 / 9, 4 / 4 and -9 / 9
    pool = power_pool(gates, components, 1, 1.0)
    precision = 1 + 0.5 * 3 / 4 + 0.25 * 8 / 9
    torch.testing.assert_close(pool.variance, torch.tensor([1 / precision]))
    torch.testing.assert_close(pool.mean, torch.tensor([(0.5 - 0.25) / precision]))


@pytest.mark.parametrize("pool", pools)
@given(count=st.integers(1, 4), chosen=st.integers(0, 3), seed=st.integers(0, 999))
def test_one_lender_with_all_the_weight_is_the_prior(
    pool: Pool, count: int, chosen: int, seed: int
) -> None:
    chosen = chosen % count
    _, components = _random((), count, (2, 3), True, seed)
    weights = torch.zeros(5, 1, count)
    weights[..., chosen] = 1
    prior = pool(weights, components, 2)
    expected = torch.Size((5, 1, 2, 3))
    torch.testing.assert_close(prior.mean, components.loc[chosen].expand(expected))
    torch.testing.assert_close(prior.stddev, components.scale[chosen].expand(expected))


@pytest.mark.parametrize("pool", pools)
@given(seed=st.integers(0, 999))
def test_the_order_of_the_lenders_does_not_matter(pool: Pool, seed: int) -> None:
    weights, components = _random((2,), 4, (3,), False, seed)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    shuffled = Gaussians(*(x[:, order] for x in components))
    one, two = pool(weights, components, 1), pool(weights[:, order], shuffled, 1)
    torch.testing.assert_close(one.mean, two.mean)
    torch.testing.assert_close(one.variance, two.variance)


def test_closed_gates_leave_the_standard_normal() -> None:
    _, components = _random((), 4, (2, 3), True, seed=1)
    prior = power_pool(torch.zeros(5, 1, 4), components, 2)
    assert prior.mean.equal(torch.zeros(5, 1, 2, 3).double())
    assert prior.stddev.equal(torch.ones(5, 1, 2, 3).double())


def test_lenders_that_know_nothing_leave_the_standard_normal() -> None:
    wide = Gaussians(torch.randn(4, 3), torch.full((4, 3), 1.5))
    prior = power_pool(torch.ones(2, 4), wide, 1)
    assert prior.mean.equal(torch.zeros(2, 3))
    assert prior.stddev.equal(torch.ones(2, 3))


def test_the_spread_discounts_evidence_until_nothing_is_left() -> None:
    _, components = _random((), 4, (3,), True, seed=2)
    gates = torch.rand(5, 4).double()
    spreads = [0.0, 0.01, 0.1, 1.0, 10.0]
    scales = torch.stack([power_pool(gates, components, 1, s).stddev for s in spreads])
    assert (scales.diff(dim=0) > 0).all()
    nothing = power_pool(gates, components, 1, 1e6)
    torch.testing.assert_close(nothing.stddev, torch.ones(5, 3).double())
    torch.testing.assert_close(nothing.mean, torch.zeros(5, 3).double())
    each = power_pool(gates, components, 1, torch.full((4, 1), 0.1))
    torch.testing.assert_close(each.stddev, scales[2])


@pytest.mark.parametrize("pool", pools)
@pytest.mark.parametrize("is_shared", [True, False])
def test_gradients(pool: Pool, is_shared: bool) -> None:
    weights, components = _random((2,), 3, (2,), is_shared, seed=3)

    def moments(weights: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        prior = pool(weights, Gaussians(loc, scale), 1)
        return prior.mean, prior.stddev

    inputs = [x.requires_grad_() for x in (weights, *components)]
    assert torch.autograd.gradcheck(moments, inputs)


@pytest.mark.parametrize("pool", pools)
def test_sharp_lenders_in_float32(pool: Pool) -> None:
    scale = torch.full((12, 50), 1e-3)
    loc = torch.randn(12, 50)
    weights = torch.full((1, 12), 1 / 12)
    prior = pool(weights, Gaussians(loc, scale), 1)
    exact = pool(weights, Gaussians(loc.double(), scale.double()), 1)
    assert prior.mean.dtype == torch.float32
    torch.testing.assert_close(prior.mean, exact.mean.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prior.stddev, exact.stddev.float(), rtol=1e-5, atol=0)
