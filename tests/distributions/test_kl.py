"""The registered KL divergences: bounds that bound, and exact ones that are exact."""

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Independent, Laplace, Normal, kl_divergence

from pyro_vmtl.distributions import (
    Gaussians,
    KLBound,
    PosteriorMixture,
    RelatednessGates,
    RelatednessWeights,
    kl_or_estimate,
    relaxed_categorical_kl,
)


def _random(
    batch: tuple[int, ...], count: int, event: tuple[int, ...], seed: int
) -> tuple[Independent[Normal], Tensor, Gaussians]:
    """q, log weights and shared components, all float64."""
    generator = torch.Generator().manual_seed(seed)
    log_weights = 2 * torch.randn(*batch, count, generator=generator, dtype=torch.float64)
    loc = 2 * torch.randn(count, *event, generator=generator, dtype=torch.float64)
    scale = 0.2 + torch.rand(count, *event, generator=generator, dtype=torch.float64)
    mean = 2 * torch.randn(*batch, *event, generator=generator, dtype=torch.float64)
    std = 0.2 + torch.rand(*batch, *event, generator=generator, dtype=torch.float64)
    q = Independent(Normal(mean, std), len(event))
    return q, log_weights, Gaussians(loc, scale)


def _bounds(
    q: Independent[Normal], log_weights: Tensor, components: Gaussians
) -> tuple[Tensor, Tensor, PosteriorMixture]:
    p = PosteriorMixture(log_weights, components, len(q.event_shape))
    loc, scale = q.base_dist.loc, q.base_dist.scale
    return p.tight_bound(loc, scale), p.convexity_bound(loc, scale), p


class TestMixture:
    @given(count=st.integers(1, 5), seed=st.integers(0, 999))
    def test_exact_below_tight_below_convexity(self, count: int, seed: int) -> None:
        q, log_weights, components = _random((3,), count, (1,), seed)
        tight, convexity, p = _bounds(q, log_weights, components)
        x = torch.linspace(-20, 20, 20_001, dtype=torch.float64)[:, None, None].expand(-1, 3, 1)
        log_q = q.log_prob(x)
        exact = torch.trapezoid(log_q.exp() * (log_q - p.log_prob(x)), x[:, 0, 0], dim=0)
        assert (exact <= tight + 1e-6).all()
        assert (tight <= convexity + 1e-9).all()
        if count == 1:
            torch.testing.assert_close(exact, tight, rtol=1e-5, atol=1e-6)

    @given(
        count=st.integers(1, 5),
        event=st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple),
        seed=st.integers(0, 999),
    )
    def test_tight_below_convexity_in_any_shape(
        self, count: int, event: tuple[int, ...], seed: int
    ) -> None:
        tight, convexity, _ = _bounds(*_random((2, 1), count, event, seed))
        assert tight.shape == (2, 1)
        assert (tight <= convexity + 1e-9).all()

    def test_exact_below_tight_in_many_dimensions(self) -> None:
        q, log_weights, components = _random((2,), 4, (3, 2), seed=3)
        tight, _, p = _bounds(q, log_weights, components)
        x = q.sample(torch.Size((20_000,)))
        ratio = q.log_prob(x) - p.log_prob(x)
        exact, error = ratio.mean(0), ratio.std(0) / len(x) ** 0.5
        assert (exact - 5 * error < tight).all()

    @given(seed=st.integers(0, 999))
    def test_one_component_leaves_nothing_to_bound(self, seed: int) -> None:
        q, log_weights, components = _random((2,), 1, (2, 3), seed)
        tight, convexity, _ = _bounds(q, log_weights, components)
        exact = kl_divergence(q, Independent(Normal(*components), 2).expand(torch.Size((2,))))
        torch.testing.assert_close(tight, exact)
        torch.testing.assert_close(convexity, exact)

    @given(seed=st.integers(0, 999))
    def test_equal_components_leave_nothing_to_bound(self, seed: int) -> None:
        q, log_weights, components = _random((2,), 1, (3,), seed)
        exact = _bounds(q, log_weights, components)[0]
        twice = Gaussians(*(x.repeat(2, 1) for x in components))
        tight, convexity, _ = _bounds(q, torch.tensor([[0.0, 1.0], [2.0, 0.0]]).double(), twice)
        torch.testing.assert_close(tight, exact)
        torch.testing.assert_close(convexity, exact)

    @pytest.mark.parametrize("bound", ["tight", "convexity"])
    def test_dispatch(self, bound: KLBound) -> None:
        q, log_weights, components = _random((2, 1), 3, (2, 2), seed=4)
        tight, convexity, _ = _bounds(q, log_weights, components)
        p = PosteriorMixture(log_weights, components, 2, kl_bound=bound)
        expected = tight if bound == "tight" else convexity
        torch.testing.assert_close(kl_divergence(q, p), expected)
        pyro_q = dist.Normal(q.base_dist.loc, q.base_dist.scale).to_event(2)
        torch.testing.assert_close(kl_divergence(pyro_q, p), expected)
        wide = torch.Size((3, 2, 1))
        torch.testing.assert_close(
            kl_divergence(q.expand(wide), p.expand(wide)), expected.expand(wide)
        )

    def test_what_has_no_bound_is_left_to_sampling(self) -> None:
        _, log_weights, components = _random((2, 1), 3, (2, 2), seed=5)
        p = PosteriorMixture(log_weights, components, 2)
        zero, one = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
        for q in (Independent(Laplace(zero, one), 2), Independent(Normal(zero, one), 3)):
            with pytest.raises(NotImplementedError):
                kl_divergence(q, p)

    @given(seed=st.integers(0, 999))
    def test_responsibilities_are_the_gradient_of_the_tight_bound(self, seed: int) -> None:
        q, log_weights, components = _random((3,), 4, (2,), seed)
        tight, _, p = _bounds(q, log_weights, components)
        loc, scale = q.base_dist.loc, q.base_dist.scale
        kls = p.pairwise_kl(loc, scale).detach().requires_grad_()
        bound = -(log_weights.softmax(-1) * (-kls).exp()).sum(-1).log()
        torch.testing.assert_close(bound, tight)
        (gradient,) = torch.autograd.grad(bound.sum(), kls)
        responsibilities = p.responsibilities(loc, scale)
        torch.testing.assert_close(responsibilities, gradient)
        torch.testing.assert_close(responsibilities.sum(-1), torch.ones(3).double())


def test_a_deterministic_site_costs_nothing() -> None:
    value = torch.randn(3, 2, 4, requires_grad=True)
    q, p = dist.Delta(value, event_dim=1), dist.Delta(value.detach() + 1, event_dim=1)
    assert kl_divergence(q, p).equal(torch.zeros(3, 2))


def _logits(batch: int, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(batch, count, generator=generator, dtype=torch.float64)


relatedness = pytest.mark.parametrize("kind", [RelatednessWeights, RelatednessGates])


class TestRelatedness:
    @relatedness
    @pytest.mark.parametrize("temperature", [0.3, 1.0])
    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_is_what_sampling_says(
        self,
        kind: type[RelatednessWeights] | type[RelatednessGates],
        temperature: float,
        count: int,
    ) -> None:
        at = torch.tensor(temperature, dtype=torch.float64)
        q, p = kind(at, logits=_logits(2, count, 1)), kind(at, logits=_logits(2, count, 2))
        draws = q.sample(torch.Size((40_000,)))
        ratio = q.log_prob(draws) - p.log_prob(draws)
        error = 5 * ratio.std(0) / len(draws) ** 0.5 + 1e-6
        assert ((ratio.mean(0) - kl_divergence(q, p)).abs() < error).all()

    @relatedness
    @given(count=st.integers(1, 12), seed=st.integers(0, 999), shift=st.floats(-3, 3))
    def test_is_never_negative_and_zero_for_equal_logits(
        self,
        kind: type[RelatednessWeights] | type[RelatednessGates],
        count: int,
        seed: int,
        shift: float,
    ) -> None:
        at = torch.tensor(0.5, dtype=torch.float64)
        one, two = _logits(3, count, seed), _logits(3, count, seed + 1)
        q = kind(at, logits=one)
        assert (kl_divergence(q, kind(at, logits=two)) >= 0).all()
        zero = torch.zeros(3, dtype=torch.float64)
        same = kl_divergence(q, kind(at, logits=one.clone()))
        torch.testing.assert_close(same, zero, rtol=0, atol=1e-6)
        if kind is RelatednessWeights:  # whose logits mean the same after a shift
            same = kl_divergence(q, kind(at, logits=one + shift))
            torch.testing.assert_close(same, zero, rtol=0, atol=1e-6)

    @given(seed=st.integers(0, 999))
    def test_of_two_lenders_is_that_of_one_gate(self, seed: int) -> None:
        one, two = _logits(4, 2, seed), _logits(4, 2, seed + 1)
        odds = [(logits[:, :1] - logits[:, 1:]) for logits in (one, two)]
        at = torch.tensor(0.5, dtype=torch.float64)
        gates = kl_divergence(*(RelatednessGates(at, logits=d) for d in odds))
        torch.testing.assert_close(relaxed_categorical_kl(one, two), gates, rtol=1e-6, atol=1e-6)

    def test_of_one_lender_is_zero(self) -> None:
        zero = torch.zeros(4, dtype=torch.float64)
        kl = relaxed_categorical_kl(_logits(4, 1, 0), _logits(4, 1, 1))
        torch.testing.assert_close(kl, zero, rtol=0, atol=1e-6)

    def test_of_gates_joins_its_series_smoothly(self) -> None:
        at = torch.tensor(0.5, dtype=torch.float64)
        d = torch.logspace(-6, 1, 200, dtype=torch.float64).unsqueeze(-1)
        kl = kl_divergence(RelatednessGates(at, d), RelatednessGates(at, torch.zeros_like(d)))
        assert (kl.diff() > 0).all()
        # Near zero it is a sixth of the squared difference, on either side of the seam.
        small = d.squeeze(-1) < 0.02
        ratio = (kl / d.squeeze(-1).square())[small]
        torch.testing.assert_close(ratio, torch.full_like(ratio, 1 / 6), rtol=1e-5, atol=0)

    def test_gradients(self) -> None:
        one, two = _logits(2, 4, 1).requires_grad_(), _logits(2, 4, 2).requires_grad_()
        at = torch.tensor(0.5, dtype=torch.float64)
        check = torch.autograd.gradcheck
        assert check(relaxed_categorical_kl, (one, two))
        assert check(
            lambda q, p: kl_divergence(RelatednessGates(at, q), RelatednessGates(at, p)),
            (one, two),
        )

    @relatedness
    def test_stays_finite_with_its_gradient_for_logits_far_apart(
        self, kind: type[RelatednessWeights] | type[RelatednessGates]
    ) -> None:
        at = torch.tensor(0.1)
        logits = torch.tensor([[0.0, 0.0, 0.0], [60.0, 0.0, -60.0]], requires_grad=True)
        kl = kl_divergence(kind(at, logits=logits), kind(at, logits=torch.zeros(2, 3)))
        assert kl.isfinite().all()
        (gradient,) = torch.autograd.grad(kl.sum(), logits)
        assert gradient.isfinite().all()

    @relatedness
    def test_of_two_temperatures_is_left_to_sampling(
        self, kind: type[RelatednessWeights] | type[RelatednessGates]
    ) -> None:
        q = kind(torch.tensor(0.5), logits=torch.zeros(3))
        with pytest.raises(NotImplementedError):
            kl_divergence(q, kind(torch.tensor(0.6), logits=torch.zeros(3)))


class TestKLOrEstimate:
    def test_is_the_formula_where_there_is_one(self) -> None:
        q, p = Normal(torch.tensor(0.3), 0.7), Normal(torch.tensor(-1.0), 1.2)
        assert kl_or_estimate(q, p, torch.tensor(5.0)).equal(kl_divergence(q, p))

    def test_is_right_on_average_where_there_is_none(self) -> None:
        q = Normal(torch.full((40000,), 0.4, dtype=torch.float64), 0.6)
        p = torch.distributions.StudentT(4.0, torch.tensor(-0.5, dtype=torch.float64), 0.8)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found = kl_or_estimate(q, p)
        grid = torch.linspace(-6, 7, 4001, dtype=torch.float64)
        one = Normal(torch.tensor(0.4, dtype=torch.float64), 0.6)
        log_q = one.log_prob(grid)
        expected = torch.trapezoid(log_q.exp() * (log_q - p.log_prob(grid)), grid)
        error = found.std() / len(found) ** 0.5
        assert abs(found.mean() - expected) < 4 * error
        assert error < 0.01

    def test_takes_the_draw_that_it_is_given(self) -> None:
        q, p = Normal(torch.tensor(0.0), 1.0), torch.distributions.StudentT(3.0)
        draw = torch.tensor(1.5)
        expected = q.log_prob(draw) - p.log_prob(draw)
        assert kl_or_estimate(q, p, draw).equal(expected)
