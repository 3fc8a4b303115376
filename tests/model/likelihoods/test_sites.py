"""Factors of targets against dense sums: what a target says of eta, whatever the rest says."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_vmtl.model import (
    Likelihood,
    NegativeBinomialLikelihood,
    OrdinalLikelihood,
    PoissonLikelihood,
    StudentTLikelihood,
)

GRID = torch.linspace(-14, 14, 40_001, dtype=torch.float64)


def tilted(likelihood: Likelihood, y: Tensor, loc: float, variance: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of N(loc, variance) times p(y | eta), normalised, by a sum over a grid."""
    eta = loc + GRID * variance**0.5
    log_p = likelihood.given(eta.view(1, -1, 1)).log_prob(y)
    share = (log_p.flatten() - 0.5 * GRID.square()).softmax(0)
    mean = (share * eta).sum()
    return mean, (share * (eta - mean).square()).sum()


def likelihoods(mean: float = 5.0) -> list[Likelihood]:
    made: list[Likelihood] = [
        *(PoissonLikelihood(), NegativeBinomialLikelihood(), OrdinalLikelihood(4)),
    ]
    for likelihood in made[:2]:
        likelihood.learn_from(torch.full((10,), mean))
    return made


@given(
    kind=st.integers(0, 2),
    target=st.integers(0, 3),
    size=st.sampled_from([1.0, 30.0, 3000.0]),
    loc=st.floats(-1.5, 1.5),
    scale=st.floats(0.1, 1.5),
)
@settings(max_examples=60)
def test_with_the_factor_the_rest_is_what_it_was(
    kind: int, target: int, size: float, loc: float, scale: float
) -> None:
    """The posterior over the factor is the Gaussian that the target was multiplied with."""
    likelihood = likelihoods(size)[kind]
    # Counts of 0 and about the mean, its half and its double.
    count = round(size * (0, 0.5, 1, 2)[target])
    y = torch.tensor([[target if likelihood.num_classes else float(count)]])
    mean, variance = (part.view(1, 1, 1) for part in tilted(likelihood, y, loc, scale**2))
    assume(abs(float(mean) - loc) < 9 * scale)  # within the grid of this test
    slope, curvature = likelihood.sites(mean, variance, likelihood.standardised(y))
    left = 1 / variance - curvature
    torch.testing.assert_close(
        left * scale**2, torch.ones_like(left), atol=0.02, rtol=0.0
    )  # of the rest's precision, however little that is beside the target's
    rest = (mean / variance - (slope + curvature * mean)) / left
    torch.testing.assert_close(rest, torch.full_like(rest, loc), atol=0.02 * scale, rtol=0)


@pytest.mark.parametrize("away", [0.0, 0.5, 1.0, 3.0, 30.0])
def test_of_a_target_with_outliers_keeps_the_mean(away: float) -> None:
    likelihood = StudentTLikelihood(degrees=3.0)
    y = torch.tensor([[away]])
    mean, variance = (part.view(1, 1, 1) for part in tilted(likelihood, y, 0.0, 0.3**2))
    slope, curvature = likelihood.sites(mean, variance, likelihood.standardised(y))
    assert float(curvature) >= 0
    left = 1 / variance - curvature
    rest = (mean / variance - (slope + curvature * mean)) / left
    if float(variance) < 0.3**2:  # it says something of eta
        torch.testing.assert_close(left * 0.3**2, torch.ones_like(left), atol=1e-3, rtol=0)
        torch.testing.assert_close(rest, torch.zeros_like(rest), atol=1e-3, rtol=0)
    else:
        assert float(curvature) == 0
        assert abs(float(slope)) < 2  # an outlier hardly pulls


@pytest.mark.parametrize("size", [1.0, 100.0, 1e5])
def test_the_first_are_where_the_target_is(size: float) -> None:
    likelihood = PoissonLikelihood()
    likelihood.learn_from(torch.full((3,), size))
    y = size * torch.tensor([[0.5, 1.0, 4.0]])
    loc = torch.zeros(1, 3, 1, dtype=torch.float64)
    slope, curvature = likelihood.first_sites(loc, loc, likelihood.standardised(y))
    middle = (loc + slope / curvature).flatten()
    torch.testing.assert_close(middle, torch.tensor([0.5, 1, 4]).double().log(), atol=0.5, rtol=0)


@pytest.mark.parametrize("variance", [1e-4, 0.1, 2.0])
def test_a_left_out_target_has_the_density_of_a_dense_sum(variance: float) -> None:
    for likelihood in (*likelihoods(200.0), StudentTLikelihood()):
        y = torch.tensor([[2 if likelihood.num_classes else 150.0]])
        if isinstance(likelihood, StudentTLikelihood):
            y = torch.tensor([[0.7]])
        targets = likelihood.standardised(y)
        mean, within = (part.view(1, 1, 1) for part in tilted(likelihood, y, 0.1, variance))
        slope, precision = likelihood.sites(mean, within, targets)
        loc = torch.full((1, 1, 1), 0.1, dtype=torch.float64)
        wide, noise = torch.full_like(loc, variance), torch.ones_like(loc)
        site = (slope + precision * mean, precision)
        found = likelihood.log_predictive(loc, wide, targets, noise, site)
        eta = 0.1 + GRID * variance**0.5
        log_p = likelihood.given(eta.view(1, -1, 1)).log_prob(y).flatten()
        expected = (log_p + (-0.5 * GRID.square()).log_softmax(0)).logsumexp(0)
        assert float(found) == pytest.approx(float(expected), abs=0.01)


def test_of_several_outputs_are_those_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(20, (3, 4, 2), generator=generator).float()
    loc = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    variance = torch.full_like(loc, 0.05)
    both = NegativeBinomialLikelihood(2)
    both.learn_from(y.flatten(0, 1))
    found = both.sites(loc, variance, both.standardised(y))
    for k in range(2):
        one = NegativeBinomialLikelihood(1)
        one.learn_from(y[..., k].flatten())
        alone = one.sites(loc[..., k : k + 1], variance[..., :1], one.standardised(y[..., k]))
        for pair, single in zip(found, alone, strict=True):
            torch.testing.assert_close(pair[..., k : k + 1], single)


@pytest.mark.parametrize("size", [0.7, 3.0, 20.0])
def test_the_size_of_a_negative_binomial_is_learned(size: float) -> None:
    likelihood = NegativeBinomialLikelihood()
    eta = torch.randn(10, 400, 1, dtype=torch.float64)
    logits = (eta.squeeze(-1) + 2) - torch.tensor(size).log()
    y = torch.distributions.NegativeBinomial(size, logits=logits).sample()
    likelihood.offset.fill_(2.0)
    targets, weight = likelihood.standardised(y), torch.ones(10, 400, 1).double()
    for _ in range(4):
        likelihood.update(eta, torch.zeros_like(eta), targets, weight)
    assert float(likelihood.size) == pytest.approx(size, rel=0.15)


def test_scale_and_degrees_of_freedom_are_learned() -> None:
    likelihood = StudentTLikelihood()
    eta = torch.randn(10, 1000, 1, dtype=torch.float64)
    y = eta.squeeze(-1) + 0.3 * torch.distributions.StudentT(4.0).sample((10, 1000))
    weight = torch.ones(10, 1000, 1).double()
    for _ in range(5):
        likelihood.update(eta, torch.zeros_like(eta), likelihood.standardised(y), weight)
    assert float(likelihood.scale) == pytest.approx(0.3, rel=0.1)
    assert 3 < float(likelihood.degrees) < 5.5


def test_cut_points_are_learned_and_padding_is_not_seen() -> None:
    likelihood = OrdinalLikelihood(4)
    eta = 2 * torch.randn(10, 500, 1, dtype=torch.float64)
    noise = torch.rand(10, 500, 1, dtype=torch.float64).logit()
    y = torch.bucketize((eta + noise).squeeze(-1), torch.tensor([-2.0, 0.0, 0.5]).double())
    weight = torch.ones(10, 500, 1).double()
    weight[:, 400:] = 0
    y[:, 400:] = 0
    for _ in range(5):
        likelihood.update(eta, torch.zeros_like(eta), y, weight)
    expected = torch.tensor([2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(likelihood.cut_points.diff(), expected, atol=0.15, rtol=0)
