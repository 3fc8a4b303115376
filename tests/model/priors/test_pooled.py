"""Weights in closed form under pools: exact algebra, optima found by gradients, and fits."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_vmtl as pv
from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import Gaussians, RowGaussians
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import (
    VMTL,
    Borrowing,
    CategoricalLikelihood,
    Family,
    GaussianLikelihood,
    Geometric,
    Identity,
    Linear,
    Mixture,
    Nested,
    NestedWeights,
    Pool,
    PooledWeights,
    Power,
    Settings,
    Standard,
    assemble,
)
from pyro_vmtl.model.priors import pooled

T, INPUTS = 3, 2
SIZES = (4, 9, 6)
GAUSSIAN = [
    Linear(),
    Linear(base=True, spread="task"),
    Geometric(base=True),
    Geometric(spread="feature"),
    Power(),
    Power(spread="scalar"),
]
MIXTURES = [
    Mixture(),
    Mixture(base=True),
    Mixture(spread="task"),
    Mixture(base=True, kl_bound="convexity"),
]


class UnitNoise(GaussianLikelihood):
    """Noise is known to have the variance 1."""

    has_noise = False

    def __init__(self, num_tasks: int, num_outputs: int = 1) -> None:
        super().__init__(num_tasks, num_outputs, initial_noise=1.0, learned=False)


def _batch(outputs: int = 1, seed: int = 0) -> Batch:
    """Three tasks of different sizes; the first two have much the same weights."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(SIZES)) < torch.tensor(SIZES).unsqueeze(-1)
    x = torch.randn(*mask.shape, INPUTS, generator=generator)
    weights = torch.randn(T, INPUTS + 1, outputs, generator=generator)
    weights[1] = weights[0] + 0.1
    y = x @ weights[:, :-1] + weights[:, -1:]
    y = y + torch.randn(y.shape, generator=generator)
    index = torch.arange(mask.numel()).view(mask.shape)
    y = y.squeeze(-1) if outputs == 1 else y
    return Batch(x, y, mask, torch.ones(mask.shape), index)


def _changed(batch: Batch, task: int) -> Batch:
    """The same with other data of one task."""
    x, y = batch.x.clone(), batch.y.clone()
    x[task], y[task] = x[task] - 1, 3 - y[task]
    return Batch(x, y, batch.mask, batch.scale, batch.index)


def _make(
    pool: Pool,
    outputs: int = 1,
    likelihood: pv.Likelihood | Family | None = None,
    num_tasks: int = T,
) -> VMTL:
    """A model whose relatedness is somewhere of its own; the noise is known, unless said."""
    likelihood = UnitNoise(num_tasks, outputs) if likelihood is None else likelihood
    settings = Settings(Identity(), pool, likelihood=likelihood)
    vmtl = assemble(settings, num_tasks, outputs, (INPUTS,), is_classification=False)
    with torch.no_grad():
        for parameter in vmtl.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return vmtl


def _weights(vmtl: VMTL) -> PooledWeights:
    assert isinstance(vmtl.classifier, PooledWeights)
    return vmtl.classifier


def _borrowing(vmtl: VMTL) -> Borrowing:
    borrowing = vmtl.borrowing["weights"]
    assert isinstance(borrowing, Borrowing)
    return borrowing


def _scale(weights: PooledWeights) -> Tensor:
    return weights.covariance.diagonal(dim1=-2, dim2=-1).sqrt()


def _features(batch: Batch, task: int) -> Tensor:
    x = batch.x[task][batch.mask[task]].double()
    return torch.cat([x, torch.ones_like(x[:, :1])], -1)


def _regression(
    batch: Batch, task: int, variance: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Mean and precision given a task's data, by normal equations.

    :param variance: of the noise, ``[K]``.
    :param scale: of slopes; that of the bias is 1.
    """
    prior = torch.tensor([scale, scale, 1.0]).double().square().reciprocal().diag()
    phi = _features(batch, task)
    y = batch.y[task][batch.mask[task]].double().view(len(phi), -1)
    means, precisions = [], []
    for k, noise in enumerate(variance):
        precision = phi.mT @ phi / noise + prior
        means.append(torch.linalg.solve(precision, phi.mT @ y[:, k] / noise))
        precisions.append(precision)
    return torch.stack(means), torch.stack(precisions)


@pytest.fixture
def known_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights have the scale 1, and it is known."""
    monkeypatch.setattr(PooledWeights, "_unit", lambda weights: weights.unit)


def _marginal(precision: Tensor) -> Tensor:
    """Variances of every entry by itself."""
    return precision.inverse().diagonal(dim1=-2, dim2=-1)


@pytest.mark.usefixtures("known_scale")
class TestUnderTheStandardNormal:
    @pytest.mark.parametrize("outputs", [1, 3])
    def test_is_the_posterior_of_a_linear_regression(self, outputs: int) -> None:
        vmtl, batch = _make(Standard(), outputs), _batch(outputs)
        vmtl.update(batch)
        weights = _weights(vmtl)
        law = weights()
        assert law.batch_shape == (T, 1)
        for task in range(T):
            mean, precision = _regression(batch, task, torch.ones(outputs).double())
            torch.testing.assert_close(weights.loc[task], mean)
            torch.testing.assert_close(weights.covariance[task], precision.inverse())
            torch.testing.assert_close(law.variance[task, 0], _marginal(precision))

    def test_lends_what_it_is(self) -> None:
        vmtl = _make(Standard())
        vmtl.update(_batch())
        weights = _weights(vmtl)
        lent = weights.lent()
        torch.testing.assert_close(lent.loc, weights.loc)
        torch.testing.assert_close(lent.scale, _scale(weights))

    def test_is_what_a_single_task_has_with_every_pool(self) -> None:
        batch = _batch()
        fields = (batch.x, batch.y, batch.mask, batch.scale, batch.index)
        alone = Batch(*(field[:1] for field in fields))
        for pool in (Standard(), Mixture(), Geometric(base=True), Power()):
            vmtl = _make(pool, num_tasks=1)
            vmtl.update(alone, last=True)
            mean, _ = _regression(batch, 0, torch.ones(1).double())
            torch.testing.assert_close(_weights(vmtl).loc[0], mean)

    def test_knows_nothing_before_there_are_data(self) -> None:
        lent = _weights(_make(Mixture())).lent()
        assert lent.loc.eq(0).all()
        assert lent.scale.eq(1).all()


@pytest.mark.usefixtures("known_scale")
@pytest.mark.parametrize("pool", [*GAUSSIAN, *MIXTURES], ids=repr)
class TestEvidenceIsTheTasksOwn:
    @pytest.mark.parametrize("last", [False, True])
    def test_what_a_task_lends_depends_on_its_own_data_alone(self, pool: Pool, last: bool) -> None:
        vmtl = _make(pool)
        twin = copy.deepcopy(vmtl)
        vmtl.update(_batch(), last)
        twin.update(_changed(_batch(), 1), last)
        for ours, theirs in zip(_weights(vmtl).lent(), _weights(twin).lent(), strict=True):
            assert ours[[0, 2]].equal(theirs[[0, 2]])
            assert not ours[1].allclose(theirs[1])
        mean, precision = _regression(_batch(), 0, torch.ones(1).double())
        lent = _weights(vmtl).lent()
        torch.testing.assert_close(lent.loc[0], mean)
        torch.testing.assert_close(lent.scale[0], _marginal(precision).sqrt())

    def test_a_tasks_prior_does_not_depend_on_its_own_data(self, pool: Pool) -> None:
        vmtl = _make(pool)
        twin = copy.deepcopy(vmtl)
        vmtl.update(_batch(), last=True)
        twin.update(_changed(_batch(), 1), last=True)
        draw = _borrowing(vmtl).relatedness_posterior().sample()
        ours, theirs = (model.weights_prior(draw) for model in (vmtl, twin))
        torch.testing.assert_close(ours.mean[1], theirs.mean[1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours.variance[1], theirs.variance[1], rtol=1e-12, atol=0)
        assert not ours.mean[0].allclose(theirs.mean[0])

    def test_is_lent_once_however_often_tasks_lend(self, pool: Pool) -> None:
        """A row of two classes says at most 1/4 of its predictor, as a precision."""
        tasks = _tasks("two classes", 12)
        vmtl = pv.build(tasks, encoder=Identity(), pool=pool)
        batch = tasks.dense()
        for _ in range(30):
            vmtl.update(batch)
        said = torch.stack([_features(batch, t).square().sum(0) for t in range(T)]).unsqueeze(1)
        precision = _weights(vmtl).lent().scale.square().reciprocal()
        assert (precision > 1).all()
        assert (precision <= 1 + 0.25 * said + 1e-4).all()


def _objective(vmtl: VMTL, priors: dist.TorchDistribution) -> Callable[[Tensor, Tensor], Tensor]:
    """Minus the ELBO of q(w), ``[T, K, q]``, but for a constant, by the registered KLs.

    :param priors: one for each draw, batch shape ``[S, T, 1]``.
    """
    weights = _weights(vmtl)

    def loss(loc: Tensor, root: Tensor) -> Tensor:
        seen = weights.precision @ loc.unsqueeze(-1)
        expected = (loc * (weights.shift - 0.5 * seen.squeeze(-1))).sum()
        expected -= 0.5 * (weights.precision * (root @ root.mT)).sum()
        rows = dist.MultivariateNormal(loc.unsqueeze(1), scale_tril=root.unsqueeze(1))
        return kl_divergence(RowGaussians(rows, 1), priors).mean(0).sum() - expected

    return loss


def _optimum(
    loss: Callable[[Tensor, Tensor], Tensor], loc: Tensor, root: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and covariance where gradients lead from here."""
    tril = dist.transforms.LowerCholeskyTransform()
    loc, free = loc.clone().requires_grad_(), tril.inv(root).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [loc, free],
        max_iter=1000,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(loc, tril(free))
        value.backward()
        return value

    optimiser.step(closure)
    found = tril(free.detach())
    return loc.detach(), found @ found.mT


@pytest.mark.parametrize("outputs", [1, 2])
class TestAgainstGradients:
    def _fitted(
        self, pool: Pool, outputs: int, draws: int, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[VMTL, Callable[[Tensor, Tensor], Tensor]]:
        """A model that has settled, and the loss under the draws of relatedness that it had."""
        monkeypatch.setattr(pooled, "_DRAWS", draws)
        monkeypatch.setattr(pooled, "_ROUNDS", 300)
        vmtl = _make(pool, outputs)
        vmtl.update(_batch(outputs), last=True)
        weights = _weights(vmtl)
        with weights.own_noise():
            law = _borrowing(vmtl).relatedness_posterior()
            draw = law.sample(torch.Size([draws]))
        with torch.no_grad():
            priors = vmtl.weights_prior(draw)
        assert priors.batch_shape == (draws, T, 1)
        return vmtl, _objective(vmtl, priors)

    @pytest.mark.parametrize("pool", GAUSSIAN, ids=repr)
    @pytest.mark.parametrize("draws", [1, 5])
    def test_of_gaussian_pools_is_the_minimum_of_the_expected_kl(
        self, pool: Pool, outputs: int, draws: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vmtl, loss = self._fitted(pool, outputs, draws, monkeypatch)
        weights = _weights(vmtl)
        start = torch.zeros_like(weights.loc), torch.ones_like(weights.loc).diag_embed()
        loc, covariance = _optimum(loss, *start)
        torch.testing.assert_close(weights.loc, loc, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(weights.covariance, covariance, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("pool", MIXTURES, ids=repr)
    @pytest.mark.parametrize("draws", [1, 5])
    def test_of_mixtures_is_a_minimum_of_the_bound(
        self, pool: Pool, outputs: int, draws: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vmtl, loss = self._fitted(pool, outputs, draws, monkeypatch)
        weights = _weights(vmtl)
        at = weights.loc, torch.linalg.cholesky(weights.covariance)
        away = at[0] + 0.05 * torch.randn_like(at[0]), 1.1 * at[1]
        assert loss(*away) > loss(*at)
        loc, covariance = _optimum(loss, *away)
        torch.testing.assert_close(at[0], loc, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(weights.covariance, covariance, rtol=1e-4, atol=1e-4)


def _spread_of(phi: Tensor, covariance: Tensor) -> Tensor:
    """The variance of every row's predictor."""
    return ((phi @ covariance) * phi).sum(-1)


class TestNoise:
    @staticmethod
    def _tasks(size: int, noise: tuple[float, ...]) -> pv.TaskSet:
        generator = torch.Generator().manual_seed(0)
        parts = {}
        for t, sd in enumerate(noise):
            x = torch.randn(size, INPUTS, generator=generator)
            y = x @ torch.tensor([1.0, -0.5]) + 2 + sd * torch.randn(size, generator=generator)
            parts[f"task {t}"] = (x, y)
        return pv.TaskSet.from_arrays(parts)

    @pytest.mark.parametrize("pool", [Standard(), Mixture(), Power()], ids=repr)
    def test_of_many_samples_is_near_the_truth(self, pool: Pool) -> None:
        truth = (0.2, 0.5, 1.0)
        vmtl = pv.build(self._tasks(2000, truth), encoder=Identity(), pool=pool)
        vmtl.update(self._tasks(2000, truth).dense(), last=True)
        likelihood = vmtl.likelihood
        assert isinstance(likelihood, GaussianLikelihood)
        torch.testing.assert_close(
            likelihood.noise.flatten(), torch.tensor(truth).double(), rtol=0.05, atol=0
        )

    def test_given_the_noise_the_mean_is_that_of_a_linear_regression(self) -> None:
        tasks = self._tasks(30, (0.3, 1.0))
        vmtl = pv.build(tasks, encoder=Identity(), pool=Standard())
        batch = tasks.dense()
        vmtl.update(batch, last=True)
        weights = _weights(vmtl)
        targets = vmtl.likelihood.standardised(batch.y)
        fields = (batch.x, targets.squeeze(-1), batch.mask, batch.scale, batch.index)
        for task in range(2):
            mean, precision = _regression(
                Batch(*fields), task, weights.noise[task], float(weights.unit[0])
            )
            torch.testing.assert_close(weights.loc[task], mean, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(weights.covariance[task], precision.inverse())
            # It is the mean of expected squared residuals, and of two more samples of all tasks.
            phi, y = _features(batch, task), fields[1][task]
            expected = (y - phi @ mean[0]).square() + _spread_of(phi, weights.covariance[task, 0])
            others = [
                (fields[1][t] - _features(batch, t) @ weights.loc[t, 0]).square()
                + _spread_of(_features(batch, t), weights.covariance[t, 0])
                for t in range(2)
            ]
            everywhere = torch.cat(others).mean()
            noise = (expected.sum() + 2 * everywhere) / (30 + 2)
            torch.testing.assert_close(weights.noise[task, 0], noise)

    def test_of_a_task_without_samples_is_that_of_all(self) -> None:
        tasks = self._tasks(40, (0.5, 0.5, 0.5))
        vmtl = pv.build(tasks, encoder=Identity(), pool=Mixture())
        batch = tasks.dense()
        batch.mask[2] = False
        vmtl.update(batch, last=True)
        noise = _weights(vmtl).noise.squeeze(-1)
        assert noise[:2].min() <= noise[2] <= noise[:2].max()
        lent = _weights(vmtl).lent()
        assert lent.loc[2].eq(0).all()
        assert lent.scale[2].eq(1).all()

    @given(factor=st.floats(0.01, 100), shift=st.floats(-100, 100))
    def test_has_the_unit_of_the_targets(self, factor: float, shift: float) -> None:
        tasks = self._tasks(20, (0.3, 1.0))
        moved = dataclasses.replace(tasks, y=factor * tasks.y + shift)
        noises = []
        for given_tasks in (tasks, moved):
            vmtl = pv.build(given_tasks, encoder=Identity(), pool=Standard())
            vmtl.update(given_tasks.dense(), last=True)
            assert isinstance(vmtl.likelihood, GaussianLikelihood)
            noises.append(vmtl.likelihood.noise)
        torch.testing.assert_close(noises[1], factor * noises[0], rtol=1e-3, atol=0)


class Heavy(Pool):
    """A pool of the user's own, with heavier tails than weights in closed form can have."""

    def prior(
        self, weights: Tensor, lenders: Gaussians, spread: Tensor | None, event_dim: int
    ) -> dist.TorchDistribution:
        loc = torch.tensordot(weights, lenders.loc, 1)
        law: dist.TorchDistribution = dist.Laplace(loc, torch.ones_like(loc)).to_event(event_dim)
        return law


class Mean(Pool):
    """A pool of the user's own: the mean of the lenders, with a variance of 1."""

    def prior(
        self, weights: Tensor, lenders: Gaussians, spread: Tensor | None, event_dim: int
    ) -> dist.TorchDistribution:
        loc = torch.tensordot(weights, lenders.loc, 1)
        law: dist.TorchDistribution = dist.Normal(loc, torch.ones_like(loc)).to_event(event_dim)
        return law


class TestAPoolOfTheUsersOwn:
    @pytest.mark.usefixtures("known_scale")
    def test_that_gives_gaussians_has_a_closed_form(self) -> None:
        vmtl = _make(Mean(), num_tasks=2)
        batch = _batch()
        fields = (batch.x, batch.y, batch.mask, batch.scale, batch.index)
        vmtl.update(Batch(*(field[:2] for field in fields)), last=True)
        weights = _weights(vmtl)
        lent = weights.lent()
        for task in range(2):  # there is one lender, which has all the weight
            phi = _features(batch, task)
            residual = batch.y[task][batch.mask[task]].double() - phi @ lent.loc[1 - task, 0]
            precision = phi.mT @ phi + torch.eye(INPUTS + 1).double()
            mean = lent.loc[1 - task, 0] + torch.linalg.solve(precision, phi.mT @ residual)
            torch.testing.assert_close(weights.loc[task, 0], mean)

    def test_that_gives_another_distribution_is_refused_in_a_sentence(self) -> None:
        vmtl = _make(Heavy())
        with pytest.raises(
            InputError, match=r"gives a Laplace, .*classifier='mean_field'"
        ) as error:
            vmtl.update(_batch())
        assert "\n" not in str(error.value)


COUNTS: dict[str, Callable[[Tensor], Tensor]] = {
    "poisson": lambda eta: torch.poisson(eta.exp()),
    "negative binomial": lambda eta: torch.poisson(eta.exp()),
    "student t": lambda eta: eta + 0.3 * torch.randn_like(eta),
    "ordinal": lambda eta: torch.bucketize(eta, torch.tensor([-1.0, 1.0])),
    "two classes": lambda eta: (eta + 0.3 * torch.randn_like(eta) > 0).long(),
    "three classes": lambda eta: torch.bucketize(eta, torch.tensor([-1.0, 1.0])),
    "binary": lambda eta: (torch.stack([eta, -eta], -1) > 0).float(),
    "feedback": lambda eta: (torch.stack([eta, -eta], -1) > 0).float(),
}
LIKELIHOODS: dict[str, Family | None] = {
    "poisson": pv.Poisson(),
    "negative binomial": pv.NegativeBinomial(),
    "student t": pv.StudentT(),
    "ordinal": pv.Ordinal(),
    "two classes": None,
    "three classes": None,
    "binary": pv.Bernoulli(),
    "feedback": pv.FeedbackBernoulli(),
}


def _tasks(kind: str, size: int, seed: int = 0) -> pv.TaskSet:
    torch.manual_seed(seed)
    parts = {}
    for t in range(T):
        x = torch.randn(size, INPUTS)
        parts[f"task {t}"] = (x, COUNTS[kind](1.5 * x @ torch.tensor([1.0, 0.2 * t])))
    regression = kind not in ("ordinal", "two classes", "three classes")
    return pv.TaskSet.from_arrays(parts, regression=regression)


TRAINING = pv.TrainingSettings(epochs=2, steps_per_epoch=20)


def _fit(tasks: pv.TaskSet, pool: Pool, likelihood: Family | None = None) -> pv.FittedVMTL:
    settings = Settings(Identity(), pool, likelihood=likelihood)
    return pv.fit(
        tasks, settings=settings, training=TRAINING, accelerator="cpu", log_warnings=False
    )


class TestSize:
    @pytest.mark.parametrize(
        ("kind", "pool"), [(PooledWeights, Mixture()), (NestedWeights, Nested())]
    )
    def test_sites_beyond_memory_are_refused_with_how_many_representations_there_may_be(
        self, kind: type[PooledWeights | NestedWeights], pool: Pool
    ) -> None:
        tasks = 500 if kind is PooledWeights else 200_000  # a sweep of Nested is refused before
        likelihood = CategoricalLikelihood(3, contrasts=True)
        with pytest.raises(InputError, match=r"expected at most \d+ representations") as caught:
            kind(pool, tasks, likelihood, 400 if kind is PooledWeights else 16)  # type: ignore[arg-type]
        (most,) = re.findall(r"latent_dim=(\d+)", str(caught.value))
        assert tasks * 2 * (int(most) + 1) ** 2 <= 2**26 < tasks * 2 * (int(most) + 2) ** 2


class TestScale:
    def test_is_where_the_evidence_of_tasks_by_themselves_is_greatest(self) -> None:
        """But for the two entries' worth of 1 that it is drawn to."""
        tasks, true = 40, 0.3
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(tasks, 8, INPUTS, generator=generator).double()
        w = true * torch.randn(tasks, INPUTS, 1, generator=generator).double()
        y = (x @ w).squeeze(-1) + torch.randn(tasks, 8, generator=generator)
        ones = torch.ones(y.shape)
        batch = Batch(x.float(), y.float(), ones.bool(), ones, torch.arange(y.numel()).view_as(y))
        vmtl = _make(Mixture(), num_tasks=tasks)
        for _ in range(30):
            vmtl.update(batch, last=True)
        weights = _weights(vmtl)
        assert weights.alone is not None

        def loss(scale: Tensor) -> Tensor:
            """Minus the log evidence, and the prior that EM has drawn the scale by."""
            prior = torch.cat([scale.square().expand(INPUTS), torch.ones(1).double()])
            phi = torch.cat([x, torch.ones_like(x[..., :1])], -1)
            total = (phi * prior) @ phi.mT + torch.eye(8).double()
            law = torch.distributions.MultivariateNormal(torch.zeros(8).double(), total)
            return -law.log_prob(y.float().double()).sum() + 2 * scale.log() + 1 / scale.square()

        at = weights.unit[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(at), at, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, at)
        assert curvature > 0
        assert abs(slope) < 1e-3 * curvature * at
        assert 0.2 < at < 0.6
        assert weights.unit.equal(weights.alone.unit)
        assert weights.unit[-1] == 1

    def test_is_that_of_the_prior_and_of_what_is_lent(self) -> None:
        vmtl = _make(Geometric())
        for _ in range(5):
            vmtl.update(_batch(), last=True)
        weights = _weights(vmtl)
        alone = weights.alone
        assert alone is not None
        assert abs(float(weights.unit[0]) - 1) > 0.1
        lent = weights.lent()
        torch.testing.assert_close(lent.loc * weights.unit, alone.loc)
        torch.testing.assert_close(lent.scale * weights.unit, _scale(alone))
        draw = torch.tensor([[1.0, 0.0]] * T).unsqueeze(1).double()  # of the first of the others
        prior = vmtl.weights_prior(draw)
        torch.testing.assert_close(prior.mean.squeeze(1), alone.loc[[1, 0, 0]])
        torch.testing.assert_close(prior.variance.sqrt().squeeze(1), _scale(alone)[[1, 0, 0]])

    def test_does_not_collapse_where_inputs_say_nothing(self) -> None:
        vmtl = _make(Standard())
        batch = _batch()
        nothing = Batch(batch.x, 0 * batch.y, batch.mask, batch.scale, batch.index)
        for _ in range(50):
            vmtl.update(nothing, last=True)
        assert _weights(vmtl).unit[0] > 0.3


class TestFits:
    def test_lend_what_never_hears_the_others(self) -> None:
        """Of two classes too, whose sites are taken where the posterior is."""
        tasks = _tasks("two classes", 12)
        batch = tasks.dense()
        lent = []
        for pool in (Mixture(), Power(), Geometric(base=True)):
            vmtl = pv.build(tasks, encoder=Identity(), pool=pool)
            for _ in range(30):
                vmtl.update(batch)
            lent.append(_weights(vmtl).lent())
            assert not _weights(vmtl).loc.allclose(lent[-1].loc, atol=0.05)
        for other in lent[1:]:
            torch.testing.assert_close(other.loc, lent[0].loc)
            torch.testing.assert_close(other.scale, lent[0].scale)

    @pytest.mark.parametrize("kind", LIKELIHOODS)
    def test_of_every_likelihood_learn_what_inputs_say(self, kind: str) -> None:
        fitted = _fit(_tasks(kind, 30), Mixture(), LIKELIHOODS[kind])
        assert isinstance(fitted.vmtl.classifier, PooledWeights)
        test = _tasks(kind, 100, seed=1)
        moved = dataclasses.replace(test, x=test.x.roll(1, 0))  # the inputs of other samples
        right, wrong = (fitted.predict(rows).log_density.mean() for rows in (test, moved))
        assert right > wrong + 0.2

    @pytest.mark.parametrize("pool", [Standard(), Power(), Linear(), Geometric()], ids=repr)
    def test_of_counts_go_with_every_pool(self, pool: Pool) -> None:
        fitted = _fit(_tasks("poisson", 20), pool, pv.Poisson())
        assert fitted.predict(_tasks("poisson", 20, seed=1)).log_density.isfinite().all()

    def test_move_the_relatedness_towards_relatives(self) -> None:
        generator = torch.Generator().manual_seed(0)
        parts = {}
        for t in range(4):  # 0 and 1 have the weights that 2 and 3 have not
            x = torch.randn(20, 6, generator=generator)
            eta = (2 * (t < 2) - 1) * x @ torch.linspace(-1, 1, 6)
            parts[str(t)] = (x, eta + 0.5 * torch.randn(20, generator=generator))
        training = pv.TrainingSettings(
            epochs=4, steps_per_epoch=50, learning_rate=pv.Constant(0.02)
        )
        fitted = pv.fit(
            pv.TaskSet.from_arrays(parts),
            settings=Settings(Identity(), Mixture()),
            training=training,
            accelerator="cpu",
            log_warnings=False,
        )
        chance = _borrowing(fitted.vmtl).probabilities()
        assert chance[0, 0] > 0.5  # of 1, for 0
        assert chance[3, 2] > 0.5  # of 2, for 3

    def test_are_the_same_when_saved_and_loaded(self, tmp_path: Path) -> None:
        tasks = _tasks("student t", 20)
        fitted = _fit(tasks, Mixture(base=True, spread="task"))
        loaded = pv.load(pv.save(fitted, tmp_path / "model"))
        ours, theirs = fitted.vmtl.state_dict(), loaded.vmtl.state_dict()
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert value.equal(theirs[name]), name
        assert fitted.predict(tasks).log_density.equal(loaded.predict(tasks).log_density)
        # What is looked for anew is found where it was.
        weights = _weights(loaded.vmtl)
        before = weights.loc.clone()
        weights.look(loaded.vmtl.likelihood, last=True)
        torch.testing.assert_close(weights.loc, before, atol=0.05, rtol=0)

    def test_repeat_with_their_seed(self) -> None:
        tasks = _tasks("two classes", 20)
        one, two = (_fit(tasks, Mixture()) for _ in range(2))
        for name, value in one.vmtl.state_dict().items():
            assert value.equal(two.vmtl.state_dict()[name]), name


def test_a_copy_borrows_by_a_relatedness_of_its_own() -> None:
    vmtl = _make(Mixture())
    vmtl.update(_batch(), last=True)
    twin, again = copy.deepcopy(vmtl), copy.deepcopy(vmtl)
    before = _weights(vmtl).loc.clone()
    with torch.no_grad():
        _borrowing(twin).logits.copy_(torch.tensor([[-9.0, 9.0]] * T))
    for model in (vmtl, twin, again):
        _weights(model).look(model.likelihood, last=True)
    assert _weights(vmtl).loc.equal(_weights(again).loc)
    assert not _weights(twin).loc.allclose(before, atol=0.01)


def test_a_state_that_is_loaded_is_looked_at_alike() -> None:
    one, two = _make(Mixture(spread="task")), _make(Mixture(spread="task"))
    one.update(_batch())
    two.load_state_dict(one.state_dict())
    for vmtl in (one, two):
        _weights(vmtl).look(vmtl.likelihood, last=True)
    assert _weights(one).loc.equal(_weights(two).loc)
    assert _weights(one).covariance.equal(_weights(two).covariance)


@pytest.mark.parametrize("pool", [Standard(), *GAUSSIAN, *MIXTURES], ids=repr)
def test_a_look_has_no_gradient_and_leaves_the_callers_noise(pool: Pool) -> None:
    vmtl = _make(pool, likelihood=pv.Gaussian())
    noise = torch.get_rng_state()
    vmtl.update(_batch())
    _weights(vmtl).look(vmtl.likelihood, last=True)
    assert torch.get_rng_state().equal(noise)
    for buffer in vmtl.buffers():
        assert not buffer.requires_grad
    assert not any(part.requires_grad for part in _weights(vmtl).lent())
