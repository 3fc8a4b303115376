"""Gaussians with correlated rows, and their KL divergences."""

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vmtl.distributions import Gaussians, PosteriorMixture, RowGaussians

BATCH, ROWS, COLUMNS = 3, 2, 4


def _rows(correlated: bool = True) -> RowGaussians:
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(BATCH, ROWS, COLUMNS, generator=generator).double()
    root = 0.5 * torch.randn(BATCH, ROWS, COLUMNS, COLUMNS, generator=generator).double()
    covariance = root @ root.mT + 0.2 * torch.eye(COLUMNS)
    if not correlated:
        covariance = covariance.diagonal(dim1=-2, dim2=-1).diag_embed()
    return RowGaussians(dist.MultivariateNormal(loc, covariance), 1)


def _normal() -> dist.TorchDistribution:
    loc = torch.linspace(-1, 1, ROWS * COLUMNS).double().view(ROWS, COLUMNS)
    law: dist.TorchDistribution = dist.Normal(loc, loc.abs() + 0.5).to_event(2)
    return law


def _mixture(bound: str = "tight") -> PosteriorMixture:
    parts = Gaussians(torch.randn(3, ROWS, COLUMNS).double(), torch.rand(3, ROWS, COLUMNS) + 0.5)
    weights = torch.tensor([0.5, 0.3, 0.2]).double()
    return PosteriorMixture(weights.log(), parts, 2, bound)  # type: ignore[arg-type]


def _estimated(q: RowGaussians, p: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    """KL(q || p) by draws, and its standard error."""
    draws = q.sample(torch.Size([40_000]))
    ratio = q.log_prob(draws) - p.log_prob(draws)
    return ratio.mean(0), ratio.std(0) / len(ratio) ** 0.5


def test_kl_to_a_factorised_gaussian_is_that_of_draws() -> None:
    torch.manual_seed(0)
    q, p = _rows(), _normal()
    mean, error = _estimated(q, p)
    kl = kl_divergence(q, p)
    assert kl.shape == (BATCH,)
    assert ((kl - mean).abs() < 4 * error).all()


@pytest.mark.parametrize("bound", ["tight", "convexity"])
def test_kl_to_a_mixture_is_an_upper_bound(bound: str) -> None:
    torch.manual_seed(0)
    q, p = _rows(), _mixture(bound)
    mean, error = _estimated(q, p)
    assert (kl_divergence(q, p) > mean - 4 * error).all()


def test_kl_to_a_mixture_of_one_is_exact() -> None:
    loc, scale = _normal().base_dist.loc, _normal().base_dist.scale
    one = PosteriorMixture(torch.zeros(1), Gaussians(loc[None], scale[None]), event_dim=2)
    torch.testing.assert_close(kl_divergence(_rows(), one), kl_divergence(_rows(), _normal()))


def test_without_correlations_is_factorised() -> None:
    q = _rows(correlated=False)
    assert q.total_correlation.abs().max() < 1e-12
    factorised = dist.Normal(*q.marginals).to_event(2)
    torch.testing.assert_close(kl_divergence(q, _normal()), kl_divergence(factorised, _normal()))


def test_kl_passes_gradients() -> None:
    root = torch.eye(COLUMNS).expand(ROWS, -1, -1).clone().requires_grad_()
    loc = torch.ones(ROWS, COLUMNS, requires_grad=True)
    q = RowGaussians(dist.MultivariateNormal(loc, scale_tril=root), 1)
    for p in (dist.Normal(torch.zeros(ROWS, COLUMNS), 2.0).to_event(2), _mixture()):
        gradients = torch.autograd.grad(kl_divergence(q, p).sum(), (loc, root))
        assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_expands_like_other_distributions() -> None:
    q = _rows().expand(torch.Size([5, BATCH]))
    assert isinstance(q, RowGaussians)
    assert q.batch_shape == (5, BATCH)
    assert q.event_shape == (ROWS, COLUMNS)
    torch.testing.assert_close(kl_divergence(q, _normal())[0], kl_divergence(_rows(), _normal()))


def test_another_shape_has_no_formula() -> None:
    with pytest.raises(NotImplementedError):
        kl_divergence(_rows(), dist.Normal(torch.zeros(COLUMNS), 1.0).to_event(1))
