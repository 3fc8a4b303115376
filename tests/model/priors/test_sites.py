"""What a likelihood hands on to the sites: slopes and curvatures of the targets' factors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_vmtl.model import CategoricalLikelihood, GaussianLikelihood


def _law(likelihood: CategoricalLikelihood, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances of eta, ``[2, 4, K]``, and targets."""
    shape = (2, 4, likelihood.num_outputs)
    generator = torch.Generator().manual_seed(1)
    loc = 1.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    factor = 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(likelihood.num_classes, shape[:2], generator=generator)
    return loc, (spread * factor).square(), targets


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_are_slope_and_curvature_where_eta_is_known(classes: int) -> None:
    likelihood = CategoricalLikelihood(classes, contrasts=True)
    loc, variance, targets = _law(likelihood, 0.0)
    eta = loc.clone().requires_grad_()
    log_p = likelihood.given(eta).log_prob(targets)
    (slope,) = torch.autograd.grad(log_p.sum(), eta, create_graph=True)
    curvature = [
        -torch.autograd.grad(slope[..., k].sum(), eta, retain_graph=True)[0][..., k]
        for k in range(loc.shape[-1])
    ]
    expected = log_p, slope, torch.stack(curvature, -1)
    for one, other in zip(likelihood.derivatives(loc, targets), expected, strict=True):
        torch.testing.assert_close(one, other.detach())
    for one, other in zip(likelihood.sites(loc, variance, targets), expected[1:], strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("spread", "bound"), [(0.5, 1e-4), (1.5, 1e-4), (2.0, 1e-3)])
def test_of_two_classes_keep_mean_and_variance_with_the_target_in_their_place(
    spread: float, bound: float
) -> None:
    """By sums over a grid of eta: the site taken out of N(loc, variance), and p(y | eta) put in."""
    likelihood = CategoricalLikelihood(2)
    loc, variance, targets = _law(likelihood, spread)
    slope, curvature = likelihood.sites(loc, variance, targets)
    z = torch.linspace(-9, 9, 400, dtype=torch.float64)[:, None, None, None]
    away = variance.sqrt() * z
    log_density = likelihood.given(loc + away).log_prob(targets).unsqueeze(-1)
    log_density = log_density - 0.5 * z.square() - slope * away + 0.5 * curvature * away.square()
    shares = log_density.softmax(0)
    mean = (shares * z).sum(0)
    left = (shares * z.square()).sum(0) - mean.square()
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=bound, rtol=0)
    torch.testing.assert_close(left, torch.ones_like(left), atol=2 * bound, rtol=0)
    assert (curvature > 0).all()


@pytest.mark.parametrize(("spread", "bound"), [(0.5, 0.01), (2.0, 0.03)])
def test_of_three_classes_are_expected_slope_and_curvature(spread: float, bound: float) -> None:
    likelihood = CategoricalLikelihood(3, contrasts=True)
    loc, variance, targets = _law(likelihood, spread)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, *loc.shape, generator=generator, dtype=torch.float64)
    eta = loc + variance.sqrt() * torch.cat([noise, -noise])
    _, *expected = likelihood.derivatives(eta, targets)
    for one, other in zip(likelihood.sites(loc, variance, targets), expected, strict=True):
        torch.testing.assert_close(one, other.mean(0), atol=bound, rtol=0)


@given(spread=st.floats(0.01, 10), loc=st.floats(-20, 20), target=st.integers(0, 1))
@settings(max_examples=50)
def test_say_no_more_than_the_likelihood_can(spread: float, loc: float, target: int) -> None:
    """A logistic likelihood has slopes within 1 and curvatures of at most 1 / 4."""
    likelihood = CategoricalLikelihood(2)
    place = torch.full((1, 1, 1), loc, dtype=torch.float64)
    slope, curvature = likelihood.sites(
        place, torch.full_like(place, spread**2), torch.tensor([[target]])
    )
    assert 0 <= float(curvature) <= 0.25 + 1e-6
    assert 0 <= float(slope) * (2 * target - 1) <= 1


@given(classes=st.integers(3, 6), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_slopes_point_from_what_is_expected_to_what_is(classes: int, seed: int) -> None:
    """Averaged over classes as probable as the model has them, slopes are 0 where eta is known."""
    likelihood = CategoricalLikelihood(classes, contrasts=True)
    loc = torch.randn(1, 1, classes - 1, generator=torch.Generator().manual_seed(seed)).double()
    law = likelihood.given(loc)
    assert isinstance(law, torch.distributions.Categorical)
    everything = torch.arange(classes).view(1, -1)
    slope, _ = likelihood.sites(loc.expand(1, classes, -1), torch.zeros(1, classes, 1), everything)
    total = (law.probs.squeeze(1).unsqueeze(-1) * slope).sum(1)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-3, rtol=0)


@given(classes=st.integers(3, 8))
@settings(max_examples=6)
def test_contrasts_are_orthonormal_and_leave_out_what_all_classes_share(classes: int) -> None:
    likelihood = CategoricalLikelihood(classes, contrasts=True)
    assert likelihood.num_outputs == classes - 1
    directions = likelihood.class_weights(torch.eye(classes - 1, dtype=torch.float64))
    assert directions.shape == (classes, classes - 1)
    eye = torch.eye(classes - 1, dtype=torch.float64)
    torch.testing.assert_close(directions.mT @ directions, eye, atol=1e-12, rtol=0)
    torch.testing.assert_close(directions.sum(0), eye[0] * 0, atol=1e-12, rtol=0)


def test_two_classes_have_one_row_with_contrasts_or_without() -> None:
    for contrasts in (True, False):
        likelihood = CategoricalLikelihood(2, contrasts)
        assert likelihood.num_outputs == 1
        weights = torch.randn(3, 1, 1, 4)
        assert likelihood.class_weights(weights).equal(weights)


def test_a_regression_has_the_site_of_a_noise_of_one() -> None:
    likelihood = GaussianLikelihood(2, 1, learned=False)
    y = torch.randn(2, 5) * 3 + 7
    likelihood.standardise_by(y.flatten())
    targets = likelihood.standardised(y)
    assert targets.shape == (2, 5, 1)
    assert float(targets.mean()) == pytest.approx(0, abs=1e-6)
    assert float(targets.std(correction=0)) == pytest.approx(1)
    loc = torch.randn(2, 5, 1).double()
    slope, curvature = likelihood.sites(loc, loc.square(), targets)
    torch.testing.assert_close(slope, targets - loc)
    assert curvature.eq(1).all()


def test_an_inferred_noise_is_in_the_unit_of_the_targets() -> None:
    likelihood = GaussianLikelihood(3, 2, learned=False)
    y = torch.randn(20, 2) * torch.tensor([3.0, 0.1]) + 7
    likelihood.standardise_by(y)
    noise = torch.rand(3, 2).double() + 0.05
    likelihood.take_noise(noise)
    expected = noise.unsqueeze(1) * y.double().std(0, correction=0)
    torch.testing.assert_close(likelihood.noise, expected, rtol=1e-6, atol=0)
    variance = torch.rand(3, 4, 2).double()
    law = likelihood.given(torch.zeros(3, 4, 2).double(), variance)
    scale = likelihood.target_scale
    torch.testing.assert_close(law.variance, expected.square() + variance * scale.square())
