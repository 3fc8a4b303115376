"""What a likelihood hands on to the sites: expected slopes and curvatures."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_vmtl.model import CategoricalLikelihood, GaussianLikelihood

DRAWS = 40_000


def _by_autograd(
    likelihood: CategoricalLikelihood, loc: Tensor, variance: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """By Monte Carlo over eta, slope and curvature from PyTorch's derivatives of log p."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(DRAWS // 2, *loc.shape, generator=generator, dtype=torch.float64)
    eta = (loc + variance.sqrt() * torch.cat([noise, -noise])).requires_grad_()
    log_p = likelihood.given(eta).log_prob(targets).sum()
    (slope,) = torch.autograd.grad(log_p, eta, create_graph=True)
    curvature = [
        -torch.autograd.grad(slope[..., k].sum(), eta, retain_graph=True)[0][..., k]
        for k in range(loc.shape[-1])
    ]
    return slope.detach().mean(0), torch.stack(curvature, -1).mean(0)


@pytest.mark.parametrize(
    ("classes", "spread", "bound"),
    [
        (2, 0.0, 1e-6),
        (2, 0.5, 5e-3),
        (2, 3.0, 1e-2),
        (3, 0.0, 1e-6),
        (3, 0.5, 0.01),
        (3, 2.0, 0.03),
    ],
)
def test_expected_slope_and_curvature_of_classes(classes: int, spread: float, bound: float) -> None:
    likelihood = CategoricalLikelihood(classes, contrasts=True)
    shape = (2, 4, classes - 1)
    generator = torch.Generator().manual_seed(1)
    loc = 1.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    variance = (spread * torch.rand(shape, generator=generator, dtype=torch.float64)).square()
    targets = torch.randint(classes, shape[:2], generator=generator)
    found = likelihood.sites(loc, variance, targets)
    expected = _by_autograd(likelihood, loc, variance, targets)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=bound, rtol=0)
    assert (found[1] > 0).all()


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
    torch.testing.assert_close(total, torch.zeros_like(total))


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
