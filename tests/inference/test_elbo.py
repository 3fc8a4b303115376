"""The ELBO and its parts, against the loss of Pyro and against linear algebra."""

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy.stats import multivariate_normal

from pyro_vmtl.data import Batch
from pyro_vmtl.inference import elbo_parts, task_losses
from pyro_vmtl.model import (
    MLP,
    SITES,
    VMTL,
    BayesianLinear,
    GaussianLikelihood,
    Geometric,
    Identity,
    Mixture,
    Nested,
    Power,
    Settings,
    Standard,
    assemble,
)

TASKS, SAMPLES, INPUTS = 3, 5, 4

MODELS = [
    Settings(Identity(), Standard(), classifier="mean_field"),
    Settings(MLP(3, hidden=(8,), dropout=0.3), Mixture(), classifier="mean_field"),
    Settings(
        MLP(3, hidden=(), stochastic=False),
        Power(),
        classifier="mean_field",
        empirical_bayes=True,
    ),
    Settings(
        BayesianLinear(3, per_task=True),
        Geometric(base=True),
        Mixture(base=True, spread="task"),
    ),
]


def _make(settings: Settings, num_tasks: int = TASKS) -> VMTL:
    vmtl = assemble(settings, num_tasks, 2, (INPUTS,), is_classification=True)
    with torch.no_grad():
        for parameter in vmtl.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    vmtl.update(_batch())  # so that there is something to lend, and evidence of weights
    return vmtl


def _batch() -> Batch:
    shape = (TASKS, SAMPLES)
    mask = torch.arange(SAMPLES) < torch.tensor([[2], [SAMPLES], [4]])
    scale = torch.where(mask, 1 + torch.rand(shape), 1.0)
    y = torch.randint(2, shape)
    return Batch(torch.randn(*shape, INPUTS), y, mask, scale, torch.zeros(shape).long())


class TestParts:
    @pytest.mark.parametrize("settings", MODELS)
    def test_add_up_to_the_analytic_elbo_draw_by_draw(self, settings: Settings) -> None:
        vmtl, batch = _make(settings).eval(), _batch()
        for seed in range(3):
            pyro.set_rng_seed(seed)
            parts = elbo_parts(vmtl, batch, num_particles=1)
            pyro.set_rng_seed(seed)
            loss = TraceMeanField_ELBO().loss(vmtl.model, vmtl.guide, batch)
            assert parts.elbo == pytest.approx(-loss, rel=1e-5)
            assert parts.elbo == pytest.approx(
                parts.expected_log_likelihood
                - parts.kl_weights
                - parts.kl_representations
                - parts.kl_relatedness
            )

    @pytest.mark.parametrize("settings", MODELS)
    def test_are_those_of_bayes_rule_whatever_training_does(self, settings: Settings) -> None:
        vmtl, batch = _make(settings).train(), _batch()
        pyro.set_rng_seed(0)
        parts = elbo_parts(vmtl, batch, num_particles=2)
        tempering = dict(zip(SITES, (0.1, 0.0), strict=True))
        vmtl.tempering.update(tempering)
        pyro.set_rng_seed(0)
        assert elbo_parts(vmtl, batch, num_particles=2) == parts
        assert vmtl.tempering == tempering
        assert all(module.training for module in vmtl.modules())

    def test_of_relatedness_are_zero_where_nothing_is_learned_of_it(self) -> None:
        shared = _make(MODELS[2])
        assert elbo_parts(shared, _batch()).kl_relatedness == 0
        untouched = assemble(MODELS[1], TASKS, 2, (INPUTS,), is_classification=True)
        kl = elbo_parts(untouched, _batch()).kl_relatedness
        assert kl == pytest.approx(0, abs=1e-6)

    def test_of_a_deterministic_encoder_have_no_kl_of_representations(self) -> None:
        for settings in (MODELS[0], MODELS[2]):
            assert elbo_parts(_make(settings), _batch()).kl_representations == 0


MORE_MODELS = [
    *MODELS,
    Settings(BayesianLinear(3), Nested(clusters=False)),
    Settings(BayesianLinear(3, prior="samples"), Nested()),
    Settings(MLP(3, stochastic=False), Standard(), classifier="point"),
    Settings(MLP(3, per_task=True), Mixture(), classifier="amortised"),
]


class TestTaskLosses:
    @pytest.mark.parametrize("settings", MORE_MODELS)
    @pytest.mark.parametrize("tempering", [1.0, 0.1, 0.0])
    @pytest.mark.parametrize("num_particles", [1, 3])
    def test_sum_to_the_analytic_loss_of_pyro_with_its_gradient(
        self, settings: Settings, tempering: float, num_particles: int
    ) -> None:
        vmtl, batch = _make(settings), _batch()
        vmtl.tempering.update(weights=tempering, representations=0.5 * tempering)
        losses, gradients = [], []
        for seed in range(2):
            for ours in (True, False):
                vmtl.zero_grad()
                pyro.set_rng_seed(seed)
                if ours:
                    loss = task_losses(vmtl, batch, num_particles).sum()
                else:
                    elbo = TraceMeanField_ELBO(
                        num_particles=num_particles,
                        vectorize_particles=num_particles > 1,
                        max_plate_nesting=2,
                    )
                    loss = elbo.differentiable_loss(vmtl.model, vmtl.guide, batch)
                loss.backward()
                losses.append(loss.item())
                found = [p.grad for p in vmtl.parameters() if p.grad is not None]
                gradients.append(torch.cat([gradient.flatten() for gradient in found]))
        assert losses[::2] == pytest.approx(losses[1::2], rel=1e-5)
        for one, two in zip(gradients[::2], gradients[1::2], strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)

    def test_are_each_those_of_its_own_samples(self) -> None:
        settings = Settings(MLP(3, dropout=0), Standard(), classifier="mean_field")
        vmtl, batch = _make(settings), _batch()
        pyro.set_rng_seed(0)
        before = task_losses(vmtl, batch)
        batch.x[1] += 1
        pyro.set_rng_seed(0)
        after = task_losses(vmtl, batch)
        assert (before != after).tolist() == [False, True, False]

    def test_average_over_draws(self) -> None:
        """Draws are independent: several together have the mean of one, and their share of its
        variance."""
        vmtl, batch = _make(MODELS[1]).eval(), _batch()
        with torch.no_grad():
            one, three = (
                torch.stack([task_losses(vmtl, batch, count) for _ in range(600)])
                for count in (1, 3)
            )
        error = (one.var(0) / 600 + three.var(0) / 600).sqrt()
        assert ((one.mean(0) - three.mean(0)).abs() < 5 * error).all()
        assert (three.var(0) / one.var(0)).mean().item() == pytest.approx(1 / 3, rel=0.3)


class TestVariationalBasicMultiTaskLearning:
    """VBMTL: N(0, I), one encoder for all tasks; the same loss in a straight line of arithmetic."""

    def test_has_the_loss_of_a_straight_line_computation(self) -> None:
        num_classes, latent = 3, 4
        settings = Settings(
            MLP(latent, hidden=(8,), dropout=0), Standard(), classifier="mean_field"
        )
        vmtl = assemble(settings, TASKS, num_classes, (INPUTS,), is_classification=True)
        batch = _batch()
        batch.y = torch.randint(num_classes, batch.y.shape)
        vmtl.tempering.update(weights=0.3, representations=0.01)
        guide = poutine.trace(vmtl.guide).get_trace(batch)
        same_draws: Any = poutine.replay(vmtl.guide, trace=guide)
        loss = TraceMeanField_ELBO().loss(vmtl.model, same_draws, batch)

        parameters = {name: p.detach().double() for name, p in vmtl.named_parameters()}
        first, second = (
            [parameters[f"encoder.network.{n}.{part}"] for part in ("weight", "bias")]
            for n in (2, 5)
        )
        mu, rho = parameters["classifier.loc"], parameters["classifier.raw_scale"]
        sigma = rho.exp().log1p()
        draws: Any = [guide.nodes[site]["value"] for site in SITES]
        w, z = (draw.detach().double() for draw in draws)

        expected = 0.0
        for t in range(TASKS):
            expected += 0.3 * float(
                0.5 * (sigma[t] ** 2 + mu[t] ** 2 - 1 - 2 * sigma[t].log()).sum()
            )
            for n in range(SAMPLES):
                if not batch.mask[t, n]:
                    continue
                hidden = (first[0] @ batch.x[t, n].double() + first[1]).clamp_min(0)
                out = second[0] @ hidden + second[1]
                # An encoder's scale starts at 0.1, and has a floor.
                scale = (out[latent:] + np.log(np.expm1(0.1))).exp().log1p() + 1e-4
                kl = 0.5 * (scale**2 + out[:latent] ** 2 - 1 - 2 * scale.log()).sum()
                logits = w[t, 0, :, :-1] @ z[t, n] + w[t, 0, :, -1]
                density = logits[batch.y[t, n]] - logits.exp().sum().log()
                expected += float(batch.scale[t, n]) * float(0.01 * kl - density)
        assert loss == pytest.approx(expected, rel=1e-5)


def _linear_model(x: np.ndarray[Any, Any], noise: float) -> VMTL:
    """One output, z = x, no bias: w_t ~ N(0, I), y ~ N(w_t x, noise^2)."""
    settings = Settings(Identity(), Standard(), classifier="mean_field", bias=False)
    vmtl = assemble(settings, len(x), 1, x.shape[2:], is_classification=False).double()
    likelihood = vmtl.likelihood
    assert isinstance(likelihood, GaussianLikelihood)
    with torch.no_grad():
        likelihood.raw_noise.fill_(np.log(np.expm1(noise - 1e-4)))
    return vmtl


def _set_posterior(vmtl: VMTL, mean: np.ndarray[Any, Any], sd: np.ndarray[Any, Any]) -> None:
    classifier: Any = vmtl.classifier
    with torch.no_grad():
        classifier.loc.copy_(torch.from_numpy(mean).unsqueeze(1))
        classifier.raw_scale.copy_(torch.from_numpy(np.log(np.expm1(sd))).unsqueeze(1))


def _as_batch(
    x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]
) -> Batch:
    ones = torch.ones(mask.shape, dtype=torch.float64)
    inputs, targets, counts = (torch.from_numpy(a) for a in (x, y, mask))
    return Batch(inputs, targets, counts, ones, torch.zeros(mask.shape).long())


class TestLinearGaussian:
    def test_parts_are_those_of_a_straight_line_computation(self) -> None:
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((1, 6, 3)), rng.standard_normal((1, 6))
        mask, noise = np.ones((1, 6), dtype=bool), 0.7
        mean, sd = rng.standard_normal((1, 3)), 0.1 + rng.random((1, 3))
        vmtl = _linear_model(x, noise)
        _set_posterior(vmtl, mean, sd)

        residuals = y - x @ mean[0]
        variances = x**2 @ sd[0] ** 2
        log_likelihood = (
            -0.5 * ((residuals**2 + variances) / noise**2 + np.log(2 * np.pi * noise**2))
        ).sum()
        kl = 0.5 * (sd**2 + mean**2 - 1 - 2 * np.log(sd)).sum()

        batch = _as_batch(x, y, mask)
        estimates = [elbo_parts(vmtl, batch, num_particles=50) for _ in range(20)]
        for parts in estimates:
            assert parts.kl_weights == pytest.approx(kl)
            assert parts.kl_representations == parts.kl_relatedness == 0
        likelihoods = np.array([parts.expected_log_likelihood for parts in estimates])
        error = likelihoods.std(ddof=1) / np.sqrt(len(likelihoods))
        assert abs(likelihoods.mean() - log_likelihood) < 5 * error
        elbos = np.array([parts.elbo for parts in estimates])
        assert abs(elbos.mean() - (log_likelihood - kl)) < 5 * error

    def test_the_true_posterior_has_the_evidence_as_its_elbo_at_every_draw(self) -> None:
        # Inputs along the axes make the posterior diagonal, so that the guide can be exact; then
        # log p(y, w) - log q(w) is log p(y) whatever the draw of w. Tasks differ in size.
        rng = np.random.default_rng(1)
        tasks, samples, inputs, noise = 3, 7, 4, 0.6
        axes = np.eye(inputs)[rng.integers(inputs, size=(tasks, samples))]
        x = axes * rng.standard_normal((tasks, samples, 1))
        y = rng.standard_normal((tasks, samples))
        mask = np.arange(samples) < np.array([[7], [3], [1]])
        precision = 1 + (x**2 * mask[..., None]).sum(1) / noise**2
        mean = (x * (y * mask)[..., None]).sum(1) / noise**2 / precision
        evidence = sum(
            multivariate_normal.logpdf(
                y[t, mask[t]],
                cov=x[t, mask[t]] @ x[t, mask[t]].T + noise**2 * np.eye(mask[t].sum()),
            )
            for t in range(tasks)
        )
        vmtl = _linear_model(x, noise)
        _set_posterior(vmtl, mean, precision**-0.5)
        batch = _as_batch(x, y, mask)
        for _ in range(5):
            loss = Trace_ELBO().loss(vmtl.model, vmtl.guide, batch)
            assert -loss == pytest.approx(evidence, rel=1e-6)
        # Any other posterior has less.
        _set_posterior(vmtl, mean + 0.3, precision**-0.5)
        elbo = elbo_parts(vmtl, batch, num_particles=200).elbo
        assert elbo < evidence
