"""All-pairs KLs and densities agree with torch pair by pair, and survive tiny scales."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from pyro_vmtl.distributions import Gaussians, pairwise_kl, pairwise_log_density


def _normal(loc: Tensor, scale: Tensor) -> Independent[Normal]:
    return Independent(Normal(loc.double(), scale.double()), 1)


def _random(*shape: int, generator: torch.Generator) -> Gaussians:
    loc = 3 * torch.randn(shape, generator=generator)
    return Gaussians(loc, 0.05 + 2 * torch.rand(shape, generator=generator))


sizes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6))


@given(sizes=sizes, is_shared=st.booleans(), seed=st.integers(0, 999))
def test_every_pair_is_what_torch_says(
    sizes: tuple[int, int, int], is_shared: bool, seed: int
) -> None:
    rows, count, width = sizes
    generator = torch.Generator().manual_seed(seed)
    q = _random(rows, width, generator=generator)
    lead = () if is_shared else (rows,)
    components = _random(*lead, count, width, generator=generator)
    value = torch.randn(rows, width, generator=generator)
    kls = pairwise_kl(q.loc, q.scale, components)
    densities = pairwise_log_density(value, components)
    assert kls.shape == densities.shape == (rows, count)
    for n in range(rows):
        for i in range(count):
            at = (i,) if is_shared else (n, i)
            component = _normal(components.loc[at], components.scale[at])
            expected = kl_divergence(_normal(q.loc[n], q.scale[n]), component)
            torch.testing.assert_close(kls[n, i], expected)
            torch.testing.assert_close(densities[n, i], component.log_prob(value[n].double()))


@given(seed=st.integers(0, 999))
def test_leading_dimensions_broadcast(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = _random(2, 3, 1, 4, generator=generator)
    components = _random(3, 1, 5, 4, generator=generator)
    kls = pairwise_kl(q.loc, q.scale, components)
    assert kls.shape == (2, 3, 1, 5)
    for particle in range(2):
        single = pairwise_kl(q.loc[particle], q.scale[particle], components)
        torch.testing.assert_close(kls[particle], single)


@pytest.mark.parametrize("spread_of_means", [0.0, 1e-3, 1.0, 100.0])
def test_no_kl_is_negative_at_scale_1e_3_in_200_dimensions(spread_of_means: float) -> None:
    loc = 5 + spread_of_means * torch.randn(12, 200)
    scale = torch.full((12, 200), 1e-3)
    kls = pairwise_kl(loc, scale, Gaussians(loc, scale))
    assert kls.dtype == torch.float64
    assert (kls >= 0).all()
    assert kls.diagonal().max() < 1e-2 * max(spread_of_means**2, 1e-4)
    # Between two tasks of equal scale the KL is half the squared distance in standard deviations.
    distance = (loc.double().unsqueeze(1) - loc.double()) / scale[0, 0].double()
    torch.testing.assert_close(kls, 0.5 * distance.square().sum(-1), rtol=1e-9, atol=1e-2)


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    q, components = _random(3, 4, generator=generator), _random(2, 4, generator=generator)
    inputs = tuple(x.double().requires_grad_() for x in (*q, *components))

    def kls(loc: Tensor, scale: Tensor, m: Tensor, s: Tensor) -> Tensor:
        return pairwise_kl(loc, scale, Gaussians(m, s))

    def densities(value: Tensor, m: Tensor, s: Tensor) -> Tensor:
        return pairwise_log_density(value, Gaussians(m, s))

    assert torch.autograd.gradcheck(kls, inputs)
    assert torch.autograd.gradcheck(densities, (inputs[0], *inputs[2:]))


def test_flatten_and_detach_change_nothing_else() -> None:
    components = Gaussians(torch.randn(3, 2, 5, requires_grad=True), torch.rand(3, 2, 5))
    assert components.flatten(2).loc.equal(components.loc.reshape(3, 10))
    assert components.flatten(1).loc.equal(components.loc)
    assert not components.detach().loc.requires_grad
    assert components.detach().scale.equal(components.scale)
