"""The mixture prior is the density it claims to be, whether or not its components are shared."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from pyro_vmtl.distributions import Gaussians, KLBound, PosteriorMixture


def _random(
    batch: tuple[int, ...], count: int, event: tuple[int, ...], is_shared: bool, seed: int
) -> tuple[Tensor, Gaussians]:
    """Log weights ``[*batch, C]`` and components, all float64."""
    generator = torch.Generator().manual_seed(seed)
    lead = () if is_shared else batch
    log_weights = torch.randn(*batch, count, generator=generator, dtype=torch.float64)
    loc = 2 * torch.randn(*lead, count, *event, generator=generator, dtype=torch.float64)
    scale = 0.2 + torch.rand(*lead, count, *event, generator=generator, dtype=torch.float64)
    return log_weights, Gaussians(loc, scale)


def _reference(log_weights: Tensor, components: Gaussians, event_dim: int) -> MixtureSameFamily:
    shape = (*log_weights.shape, *components.loc.shape[components.loc.dim() - event_dim :])
    normal = Normal(components.loc.expand(shape), components.scale.expand(shape))
    return MixtureSameFamily(Categorical(logits=log_weights), Independent(normal, event_dim))


batches = st.lists(st.integers(1, 3), max_size=2).map(tuple)
events = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)
shapes = {
    "batch": batches,
    "count": st.integers(1, 4),
    "event": events,
    "is_shared": st.booleans(),
    "seed": st.integers(0, 999),
}


@given(**shapes, sample=batches)
def test_density_and_moments_are_those_of_torch(
    batch: tuple[int, ...],
    count: int,
    event: tuple[int, ...],
    is_shared: bool,
    seed: int,
    sample: tuple[int, ...],
) -> None:
    log_weights, components = _random(batch, count, event, is_shared, seed)
    mixture = PosteriorMixture(log_weights, components, len(event))
    reference = _reference(log_weights, components, len(event))
    assert mixture.batch_shape == reference.batch_shape == batch
    assert mixture.event_shape == reference.event_shape == event
    value = reference.sample(torch.Size(sample))
    torch.testing.assert_close(mixture.log_prob(value), reference.log_prob(value))
    torch.testing.assert_close(mixture.mean, reference.mean)
    torch.testing.assert_close(mixture.variance, reference.variance)
    assert mixture.sample(torch.Size(sample)).shape == (*sample, *batch, *event)


@given(**shapes)
def test_expanding_repeats(
    batch: tuple[int, ...], count: int, event: tuple[int, ...], is_shared: bool, seed: int
) -> None:
    log_weights, components = _random(batch, count, event, is_shared, seed)
    mixture = PosteriorMixture(log_weights, components, len(event), kl_bound="convexity")
    wide = mixture.expand(torch.Size((4, *batch)))
    assert wide.batch_shape == (4, *batch)
    assert wide.event_shape == event
    assert wide.kl_bound == "convexity"
    value = wide.sample()
    assert value.shape == (4, *batch, *event)
    torch.testing.assert_close(wide.log_prob(value), mixture.log_prob(value))
    torch.testing.assert_close(wide.mean, mixture.mean.expand(4, *batch, *event))
    torch.testing.assert_close(wide.variance, mixture.variance.expand(4, *batch, *event))
    loc, scale = value, torch.full_like(value, 0.3)
    torch.testing.assert_close(wide.tight_bound(loc, scale), mixture.tight_bound(loc, scale))


@pytest.mark.parametrize("is_shared", [True, False])
def test_expanding_a_batch_dimension_of_one(is_shared: bool) -> None:
    log_weights, components = _random((2, 1), 3, (2, 2), is_shared, seed=1)
    mixture = PosteriorMixture(log_weights, components, 2)
    wide = mixture.expand(torch.Size((2, 5)))
    value = wide.sample(torch.Size((7,)))
    assert value.shape == (7, 2, 5, 2, 2)
    torch.testing.assert_close(wide.log_prob(value), mixture.log_prob(value))


def test_components_of_the_batch_broadcast_against_the_weights() -> None:
    log_weights, _ = _random((3, 1), 2, (2,), True, seed=2)
    _, components = _random((1, 4), 2, (2,), False, seed=3)
    mixture = PosteriorMixture(log_weights, components)
    assert mixture.batch_shape == (3, 4)
    value = mixture.sample()
    for t in range(3):
        for n in range(4):
            single = PosteriorMixture(
                log_weights[t, 0], Gaussians(components.loc[0, n], components.scale[0, n])
            )
            torch.testing.assert_close(mixture.log_prob(value)[t, n], single.log_prob(value[t, n]))


def test_to_event_sums_over_a_batch_dimension() -> None:
    log_weights, components = _random((3, 2), 4, (2,), True, seed=4)
    mixture = PosteriorMixture(log_weights, components)
    joint = mixture.to_event(1)
    assert joint.batch_shape == (3,)
    assert joint.event_shape == (2, 2)
    value = joint.sample()
    torch.testing.assert_close(joint.log_prob(value), mixture.log_prob(value).sum(-1))


@given(count=st.integers(1, 5), is_shared=st.booleans(), seed=st.integers(0, 999))
def test_density_integrates_to_one(count: int, is_shared: bool, seed: int) -> None:
    log_weights, components = _random((2,), count, (1,), is_shared, seed)
    mixture = PosteriorMixture(log_weights, components)
    grid = torch.linspace(-25, 25, 20_001, dtype=torch.float64)
    density = mixture.log_prob(grid[:, None, None].expand(-1, 2, 1)).exp()
    area = torch.trapezoid(density, grid, dim=0)
    torch.testing.assert_close(area, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("is_shared", [True, False])
def test_draws_have_the_mean_and_variance(is_shared: bool) -> None:
    log_weights, components = _random((2, 1), 3, (2, 2), is_shared, seed=5)
    mixture = PosteriorMixture(log_weights, components, 2)
    draws = mixture.sample(torch.Size((40_000,)))
    # Five standard errors.
    error = (mixture.variance / len(draws)).sqrt()
    assert ((draws.mean(0) - mixture.mean).abs() < 5 * error).all()
    squares = (draws - mixture.mean).square()
    error = squares.std(0) / len(draws) ** 0.5
    assert ((squares.mean(0) - mixture.variance).abs() < 5 * error).all()


def test_entries_of_one_draw_come_from_one_component() -> None:
    loc = torch.tensor([-100.0, 100.0]).reshape(2, 1, 1).expand(2, 3, 4)
    mixture = PosteriorMixture(torch.zeros(5, 1, 2), Gaussians(loc, torch.ones(2, 3, 4)), 2)
    signs = mixture.sample(torch.Size((50,))).sign().flatten(-2)
    assert (signs == signs[..., :1]).all()
    assert len(signs.unique()) == 2


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_component_without_weight_is_not_there(is_shared: bool) -> None:
    log_weights, components = _random((3,), 4, (2,), is_shared, seed=6)
    log_weights[:, 1] = -torch.inf
    log_weights.requires_grad_()
    components = Gaussians(components.loc.requires_grad_(), components.scale.requires_grad_())
    rest = torch.tensor([0, 2, 3])
    fewer = Gaussians(*(x.index_select(-2, rest) for x in components))
    mixture = PosteriorMixture(log_weights, components)
    smaller = PosteriorMixture(log_weights[:, rest], fewer)
    value, scale = torch.randn(3, 2).double(), torch.rand(3, 2).double() + 0.1
    ours = [mixture.log_prob(value), mixture.tight_bound(value, scale), mixture.mean]
    theirs = [smaller.log_prob(value), smaller.tight_bound(value, scale), smaller.mean]
    ours += [mixture.convexity_bound(value, scale), mixture.variance]
    theirs += [smaller.convexity_bound(value, scale), smaller.variance]
    parameters = (log_weights, *components)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
        gradients, expected = (
            torch.autograd.grad(x.sum(), parameters, retain_graph=True, materialize_grads=True)
            for x in (mine, other)
        )
        torch.testing.assert_close(gradients, expected)
    assert (mixture.responsibilities(value, scale)[:, 1] == 0).all()
    far = Gaussians(torch.tensor([[0.0], [1e6]]), torch.ones(2, 1))
    draws = PosteriorMixture(torch.tensor([0.0, -torch.inf]), far).sample(torch.Size((1000,)))
    assert draws.max() < 100


def _posteriors(mixture: PosteriorMixture, seed: int) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of one q for each of the batch."""
    generator = torch.Generator().manual_seed(seed)
    shape = mixture.batch_shape + mixture.event_shape
    loc = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return loc, 0.1 + torch.rand(shape, generator=generator, dtype=torch.float64)


def _bound(mixture: PosteriorMixture, loc: Tensor, scale: Tensor) -> Tensor:
    law = Independent(Normal(loc, scale), len(mixture.event_shape))
    return kl_divergence(law, mixture)


def _gaussian(mixture: PosteriorMixture, loc: Tensor, scale: Tensor) -> Independent[Normal]:
    """The Gaussian that stands in place of the mixture at q."""
    precision, shift = mixture.natural(loc, scale)
    return Independent(Normal(shift / precision, precision.rsqrt()), len(mixture.event_shape))


@pytest.mark.parametrize("kl_bound", ["tight", "convexity"])
@given(**shapes)
def test_the_bound_has_the_slopes_of_a_kl_to_one_gaussian(
    kl_bound: KLBound,
    batch: tuple[int, ...],
    count: int,
    event: tuple[int, ...],
    is_shared: bool,
    seed: int,
) -> None:
    log_weights, components = _random(batch, count, event, is_shared, seed)
    mixture = PosteriorMixture(log_weights, components, len(event), kl_bound)
    loc, scale = (part.requires_grad_() for part in _posteriors(mixture, seed))
    p = _gaussian(mixture, loc.detach(), scale.detach())
    assert p.mean.dtype == torch.float64
    assert p.mean.shape == (*batch, *event)
    kl = kl_divergence(Independent(Normal(loc, scale), len(event)), p)
    slopes, expected = (
        torch.autograd.grad(total.sum(), (loc, scale))
        for total in (_bound(mixture, loc, scale), kl)
    )
    torch.testing.assert_close(slopes, expected)


@pytest.mark.parametrize("kl_bound", ["tight", "convexity"])
@given(**shapes)
def test_of_the_convexity_bound_that_gaussian_is_its_minimum_and_of_the_tight_one_it_goes_down(
    kl_bound: KLBound,
    batch: tuple[int, ...],
    count: int,
    event: tuple[int, ...],
    is_shared: bool,
    seed: int,
) -> None:
    log_weights, components = _random(batch, count, event, is_shared, seed)
    mixture = PosteriorMixture(log_weights, components, len(event), kl_bound)
    q = _posteriors(mixture, seed)
    p = _gaussian(mixture, *q)
    bound = _bound(mixture, p.mean, p.stddev)
    assert (bound <= _bound(mixture, *q) + 1e-9).all()
    again = _gaussian(mixture, p.mean, p.stddev)
    if kl_bound == "convexity":  # the Gaussian is the same wherever q is
        torch.testing.assert_close(again.mean, p.mean)
        torch.testing.assert_close(again.stddev, p.stddev)
    else:
        assert (_bound(mixture, again.mean, again.stddev) <= bound + 1e-9).all()


@pytest.mark.parametrize("is_shared", [True, False])
def test_far_from_all_but_one_component_that_gaussian_is_the_component(is_shared: bool) -> None:
    log_weights, components = _random((2,), 3, (2, 2), is_shared, seed=9)
    components.loc[..., 1, :, :] += 1e3
    mixture = PosteriorMixture(log_weights, components, 2)
    loc, scale = (part[..., 1, :, :].expand(2, 2, 2) for part in components)
    p = _gaussian(mixture, loc, scale)
    torch.testing.assert_close(p.mean, loc)
    torch.testing.assert_close(p.stddev, scale)


@pytest.mark.parametrize("is_shared", [True, False])
def test_gradients(is_shared: bool) -> None:
    log_weights, components = _random((2,), 3, (2, 2), is_shared, seed=7)
    value, scale = torch.randn(2, 2, 2).double(), 0.1 + torch.rand(2, 2, 2).double()

    def mixture(log_weights: Tensor, loc: Tensor, std: Tensor) -> PosteriorMixture:
        return PosteriorMixture(log_weights, Gaussians(loc, std), 2)

    parameters = [x.requires_grad_() for x in (log_weights, *components)]
    at = [x.requires_grad_() for x in (value, scale)]
    check = torch.autograd.gradcheck
    assert check(lambda v, *rest: mixture(*rest).log_prob(v), (at[0], *parameters))
    assert check(lambda m, s, *rest: mixture(*rest).tight_bound(m, s), (*at, *parameters))
    assert check(lambda m, s, *rest: mixture(*rest).convexity_bound(m, s), (*at, *parameters))
    assert check(lambda *rest: mixture(*rest).mean, parameters)
    assert check(lambda *rest: mixture(*rest).variance, parameters)


def test_the_weights_are_normalised() -> None:
    log_weights, components = _random((2,), 3, (2,), True, seed=8)
    value = torch.randn(2, 2).double()
    torch.testing.assert_close(
        PosteriorMixture(log_weights + 7, components).log_prob(value),
        PosteriorMixture(log_weights, components).log_prob(value),
    )


def test_densities_stay_finite_far_out_and_at_tiny_scales() -> None:
    loc = torch.randn(11, 10, 20)
    mixture = PosteriorMixture(
        torch.zeros(12, 1, 11), Gaussians(loc, torch.full_like(loc, 1e-3)), 2
    )
    value = torch.randn(12, 1, 10, 20, requires_grad=True)
    density = mixture.log_prob(value).sum()
    assert density.isfinite()
    (gradient,) = torch.autograd.grad(density, value)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("log_weights", "loc", "scale", "options", "says"),
    [
        ((2, 3), (4, 2), (4, 2), {}, "4 components"),
        ((2, 4), (4, 2), (4, 3), {}, r"\(4, 2\) and scale \(4, 3\)"),
        ((2, 4), (4,), (4,), {}, "event dimensions"),
        ((2, 4), (4, 2), (4, 2), {"event_dim": 0}, "event dimensions"),
        ((2, 4), (4, 2), (4, 2), {"event_dim": 2}, "event dimensions"),
        ((2, 4), (4, 2), (4, 2), {"kl_bound": "loose"}, "'loose'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    log_weights: tuple[int, ...],
    loc: tuple[int, ...],
    scale: tuple[int, ...],
    options: dict[str, Any],
    says: str,
) -> None:
    with pytest.raises(ValueError, match=says):
        PosteriorMixture(
            torch.zeros(log_weights), Gaussians(torch.zeros(loc), torch.ones(scale)), **options
        )


@pytest.mark.parametrize("weight", [float("nan"), -float("inf")])
def test_weights_that_are_none_are_refused(weight: float) -> None:
    components = Gaussians(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="log_weights"):
        PosteriorMixture(torch.full((2,), weight), components)


def test_a_value_of_another_shape_is_refused() -> None:
    mixture = PosteriorMixture(torch.zeros(2), Gaussians(torch.zeros(2, 3), torch.ones(2, 3)))
    with pytest.raises(ValueError, match="event"):
        mixture.log_prob(torch.zeros(2))
    with pytest.raises(ValueError, match="support"):
        mixture.log_prob(torch.tensor([0.0, float("nan"), 0.0]))
