"""The model and its guide as Pyro programs: sites, shapes, priors, and every ELBO."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from pyro_vmtl.data import Batch, Views
from pyro_vmtl.distributions import PosteriorMixture
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import (
    MLP,
    SITES,
    VMTL,
    BayesianLinear,
    Borrowing,
    ConjugateWeights,
    Geometric,
    Identity,
    Linear,
    Mixture,
    Nested,
    PerTask,
    Pool,
    Power,
    Settings,
    Standard,
    assemble,
)

if TYPE_CHECKING:
    from tests.model.conftest import Case

pytestmark = pytest.mark.usefixtures("few_draws")

OWN_SITES = {"relatedness_weights", "relatedness_representations", *SITES, "targets", "layer_kl"}


def _make(num_tasks: int, started: bool = True, **choices: Any) -> VMTL:
    paper: dict[str, Any] = {
        "encoder": MLP(3, hidden=(), dropout=0),
        "pool": Mixture(),
        "classifier": "mean_field",
    }
    vmtl = assemble(Settings(**(paper | choices)), num_tasks, 3, (4,), is_classification=True)
    vmtl.set_extra_state(torch.tensor(started))
    return vmtl


def _batch(num_tasks: int, num_samples: int = 5) -> Batch:
    shape = (num_tasks, num_samples)
    return Batch(
        torch.randn(*shape, 4),
        torch.randint(3, shape),
        torch.ones(shape, dtype=torch.bool),
        torch.ones(shape),
        torch.arange(num_tasks * num_samples).reshape(shape),
    )


def _sites(vmtl: VMTL, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sites of the guide and of the model replayed with its draws, with their densities."""
    guide = poutine.trace(vmtl.guide).get_trace(batch)
    model = poutine.trace(poutine.replay(vmtl.model, trace=guide)).get_trace(batch)
    model.compute_log_prob()
    guide.compute_log_prob()
    guide_sites, model_sites = (
        {name: trace.nodes[name] for name in trace.nodes if name in OWN_SITES}
        for trace in (guide, model)
    )
    return guide_sites, model_sites


def _borrowing(vmtl: VMTL) -> Borrowing:
    borrowing = vmtl.borrowing["weights"]
    assert isinstance(borrowing, Borrowing)
    return borrowing


class _FirstLender(Borrowing):
    """Every task borrows nearly all from its first lender, before and after the data."""

    learns = False

    def relatedness_posterior(self) -> Any:
        logits = torch.zeros(self.lender_of_slot.shape)
        logits[:, 0] = 20.0
        return self._distribution(logits)

    def relatedness_prior(self) -> Any:
        return self.relatedness_posterior()


class _OfTheFirst(Mixture):
    borrowing = _FirstLender


class TestAPoolWithABorrowingOfItsOwn:
    @pytest.mark.parametrize("classifier", ["mean_field", "conjugate"])
    def test_decides_from_whom_tasks_borrow(self, classifier: str) -> None:
        vmtl = _make(3, pool=_OfTheFirst(), classifier=classifier)
        batch = _batch(3)
        vmtl.update(batch)
        first = torch.tensor([1.0, 0.0])
        torch.testing.assert_close(_borrowing(vmtl).probabilities().float(), first.expand(3, 2))
        prior = vmtl.weights_prior(_borrowing(vmtl).relatedness_posterior().sample())
        lent = vmtl.classifier.lent().loc[[1, 0, 0]]
        unit = getattr(vmtl.classifier, "unit", 1.0)
        torch.testing.assert_close(prior.mean.squeeze(1).double(), (unit * lent).double())

    def test_is_a_prior_of_weights_alone(self) -> None:
        with pytest.raises(InputError, match="representation pool"):
            _make(3, representation_pool=_OfTheFirst())


class TestTheEndOfTraining:
    """Sites beside an encoder that has learned, over the noise of its dropout."""

    @staticmethod
    def _sites(seed: int, *, last: bool, of_numbers: bool) -> Tensor:
        torch.manual_seed(0)
        encoder = MLP(3, hidden=(16,), dropout=0.3, stochastic=False)
        settings = Settings(encoder, Standard())
        vmtl = assemble(settings, 2, 1 if of_numbers else 3, (4,), not of_numbers)
        batch = _batch(2, 40)
        if of_numbers:
            y = batch.x[..., 0]
            vmtl.likelihood.learn_from(y.flatten())
            batch = replace(batch, y=y)
        weights = vmtl.classifier
        assert isinstance(weights, ConjugateWeights)
        weights.seed.fill_(seed)
        vmtl.train()
        vmtl.update(batch, last=last)
        return weights.precision.clone()

    def test_averages_sites_over_it(self) -> None:
        spreads = [
            torch.stack([self._sites(s, last=last, of_numbers=False) for s in range(8)]).std(0)
            for last in (False, True)
        ]
        assert spreads[1].mean() < 0.5 * spreads[0].mean()
        assert spreads[1].mean() > 0  # dropout is on

    @pytest.mark.parametrize("dropout", [0.0, 0.3])
    def test_runs_an_encoder_without_noise_once(self, dropout: float) -> None:
        settings = Settings(MLP(3, hidden=(16,), dropout=dropout), Standard())
        vmtl = assemble(settings, 2, 3, (4,), is_classification=True)
        runs: list[int] = []
        vmtl.encoder.register_forward_hook(lambda *_: runs.append(1))
        vmtl.update(_batch(2), last=True)
        assert (len(runs) == 1) == (dropout == 0)

    @pytest.mark.parametrize(("dropout", "dropped"), [(0.1, 0.2), (0.3, 0.3)])
    @pytest.mark.parametrize("per_task", [False, True])
    def test_drops_a_fifth_at_least(self, dropout: float, dropped: float, per_task: bool) -> None:
        encoder = MLP(3, hidden=(16,), dropout=dropout, stochastic=False, per_task=per_task)
        vmtl = assemble(Settings(encoder, Standard()), 2, 3, (4,), is_classification=True)
        seen: list[float] = []
        network = next(vmtl.encoder.children())
        skeleton = network.skeleton if isinstance(network, PerTask) else network
        parts = [part for part in skeleton.modules() if isinstance(part, nn.Dropout)]
        vmtl.encoder.register_forward_hook(lambda *_: seen.extend(part.p for part in parts))
        vmtl.update(_batch(2))
        assert set(seen) == {dropout}
        seen.clear()
        vmtl.update(_batch(2), last=True)
        assert set(seen) == {dropped}
        assert {part.p for part in parts} == {dropout}

    def test_does_not_take_it_for_noise_of_targets(self) -> None:
        one, two = (self._sites(seed, last=True, of_numbers=True) for seed in (0, 1))
        torch.testing.assert_close(one, two, atol=0, rtol=0)
        during = [self._sites(seed, last=False, of_numbers=True) for seed in (0, 1)]
        assert not during[0].allclose(during[1])


class TestEveryModel:
    def test_runs_under_every_elbo_with_all_checks_on(self, case: Case) -> None:
        vmtl, batch = case.vmtl, case.batch
        elbos = [
            kind(num_particles=n, vectorize_particles=n > 1, max_plate_nesting=2)
            for kind in (Trace_ELBO, TraceMeanField_ELBO)
            for n in (1, 2)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for elbo in elbos:
                loss = elbo.differentiable_loss(vmtl.model, vmtl.guide, batch)
                assert loss.shape == ()
                assert loss.isfinite()
                assert loss.requires_grad == bool(list(vmtl.parameters()))
                if loss.requires_grad:
                    loss.backward()
        for name, parameter in vmtl.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_has_the_sites_of_the_design(self, case: Case) -> None:
        vmtl, batch = case.vmtl, case.batch
        guide, model = _sites(vmtl, batch)
        stated = {"representations"} if vmtl.encoder.is_function else set()
        assert set(guide) == set(model) - {"targets", "layer_kl"} - stated
        tasks, samples = batch.mask.shape
        shapes = {
            "weights": (tasks, 1, *vmtl.classifier.event_shape),
            "representations": (tasks, samples, vmtl.encoder.latent_dim),
            "targets": tuple(batch.y.shape),
        }
        for site, borrowing in vmtl.borrowing.items():
            assert isinstance(borrowing, Borrowing)
            lenders = tasks - 1 + int(borrowing.pool.base)
            shapes[f"relatedness_{site}"] = (tasks, 1, lenders)
        assert set(model) - {"layer_kl"} == set(shapes)
        assert ("layer_kl" in model) == (vmtl.encoder.layer() is not None)
        for name, shape in shapes.items():
            assert model[name]["value"].shape == shape
            if name in guide:
                assert guide[name]["value"].shape == shape
        # The mask and the scale touch the samples only; relatedness that is the same law in model
        # and guide is masked as a whole.
        shared = {f"relatedness_{s}" for s, b in vmtl.borrowing.items() if b.empirical_bayes}
        for name in set(shapes) - {"representations", "targets"}:
            for trace in (guide, model):
                assert trace[name]["mask"] is (False if name in shared else None)
                assert trace[name]["scale"] == 1.0

    @pytest.mark.parametrize("is_parallel", [False, True])
    def test_draws_from_prior_and_posterior(self, case: Case, is_parallel: bool) -> None:
        vmtl, batch = case.vmtl.eval(), case.batch
        for guide in (None, vmtl.guide):
            predictive = Predictive(
                vmtl.model,
                guide=guide,
                num_samples=3,
                parallel=is_parallel,
                return_sites=("weights", "representations", "targets"),
            )
            draws = predictive(batch, observed=False)
            assert draws["targets"].shape == (3, *batch.y.shape)
            assert draws["targets"].dtype == batch.y.dtype
            assert draws["weights"].shape[-2:] == vmtl.classifier.event_shape
            assert all(value.isfinite().all() for value in draws.values())


class TestNumberOfTasks:
    @pytest.mark.parametrize("classifier", ["conjugate", "mean_field"])
    @pytest.mark.parametrize("pool", [Standard(), Mixture(base=True), Power()])
    def test_one_task_has_nobody_to_borrow_from(self, pool: Pool, classifier: str) -> None:
        vmtl = _make(
            1,
            pool=pool,
            representation_pool=pool,
            encoder=BayesianLinear(3, per_task=True),
            classifier=classifier,
        )
        _, model = _sites(vmtl, _batch(1))
        assert set(model) == {*SITES, "targets", "layer_kl"}
        prior = model["weights"]["fn"]
        assert isinstance(prior.base_dist, Normal)
        shape = (1, 1, *vmtl.classifier.event_shape)
        assert prior.mean.equal(torch.zeros(shape))
        assert prior.variance.equal(torch.ones(shape))

    @pytest.mark.parametrize("pool", [Mixture(), Linear(), Geometric()])
    def test_two_tasks_lend_to_each_other_whole(self, pool: Pool) -> None:
        vmtl = _make(2, pool=pool)
        _, model = _sites(vmtl, _batch(2))
        assert model["relatedness_weights"]["value"].equal(torch.ones(2, 1, 1).double())
        assert model["relatedness_weights"]["log_prob"].equal(torch.zeros(2, 1).double())
        prior = model["weights"]["fn"]
        loc, scale = vmtl.classifier.gaussians()
        other = torch.tensor([1, 0])
        torch.testing.assert_close(prior.mean.squeeze(1), loc[other])
        torch.testing.assert_close(prior.variance.squeeze(1), scale[other].square())


class TestPrior:
    def test_of_a_mixture_is_made_of_the_other_tasks_posteriors(self) -> None:
        vmtl = _make(3)
        _, model = _sites(vmtl, _batch(3))
        prior = model["weights"]["fn"]
        assert isinstance(prior, PosteriorMixture)
        draw = model["relatedness_weights"]["value"].squeeze(1)
        alpha = torch.zeros(3, 3)
        for t, others in enumerate(([1, 2], [0, 2], [0, 1])):
            for slot, i in enumerate(others):
                alpha[t, i] = draw[t, slot]
        torch.testing.assert_close(prior.log_weights.exp().squeeze(1).float(), alpha)
        assert prior.components.loc.equal(vmtl.classifier.gaussians().loc)
        assert prior.components.scale.equal(vmtl.classifier.gaussians().scale)

    def test_with_a_base_has_the_standard_normal_as_its_first_component(self) -> None:
        vmtl = _make(3, pool=Mixture(base=True, spread="task"))
        _, model = _sites(vmtl, _batch(3))
        prior = model["weights"]["fn"]
        draw = model["relatedness_weights"]["value"].squeeze(1)
        torch.testing.assert_close(prior.log_weights.exp()[:, 0, 0], draw[:, 0])
        assert prior.components.loc[0].equal(torch.zeros(3, 4))
        assert prior.components.scale[0].equal(torch.ones(3, 4))
        spread = _borrowing(vmtl).spread
        assert isinstance(spread, Tensor)
        variance = vmtl.classifier.gaussians().scale.square() + spread.square()
        torch.testing.assert_close(prior.components.scale[1:].square(), variance)

    @pytest.mark.parametrize("num_particles", [1, 2])
    @pytest.mark.parametrize("is_vectorised", [False, True])
    def test_is_the_standard_normal_in_the_first_iteration_and_the_lenders_after(
        self, num_particles: int, is_vectorised: bool
    ) -> None:
        vmtl, batch = _make(3, started=False), _batch(3)
        elbo = TraceMeanField_ELBO(
            num_particles=num_particles, vectorize_particles=is_vectorised and num_particles > 1
        )
        priors: list[object] = []

        def model(batch: Batch) -> Tensor:
            with poutine.trace() as handler:
                targets = vmtl.model(batch)
            priors.append(handler.trace.nodes["weights"]["fn"])
            return targets

        elbo.differentiable_loss(model, vmtl.guide, batch).backward()
        vmtl.update(batch)
        for prior in priors:
            assert isinstance(prior, Independent)
            assert prior.mean.abs().max() == 0
            assert (prior.variance - 1).abs().max() == 0
        priors.clear()
        elbo.differentiable_loss(model, vmtl.guide, batch).backward()
        for prior in priors:
            assert isinstance(prior, PosteriorMixture)

    def test_of_the_lenders_survives_saving(self) -> None:
        vmtl, fresh = _make(3), _make(3, started=False)
        fresh.load_state_dict(vmtl.state_dict())
        _, model = _sites(fresh, _batch(3))
        assert isinstance(model["weights"]["fn"], PosteriorMixture)

    def test_of_a_shared_layer_is_paid_once_and_not_per_sample(self) -> None:
        vmtl = _make(3, encoder=BayesianLinear(3))
        kls = [
            _sites(vmtl, _batch(3, num_samples))[1]["layer_kl"]["log_prob_sum"]
            for num_samples in (1, 7)
        ]
        layer = vmtl.encoder.layer()
        assert layer is not None
        q, p = Normal(layer.loc, layer.scale), Normal(0.0, 1.0)
        expected = torch.distributions.kl_divergence(q, p).sum()
        for kl in kls:
            torch.testing.assert_close(-kl, expected)

    def test_of_layers_is_pooled_from_the_other_tasks_layers(self) -> None:
        encoder = BayesianLinear(3, per_task=True)
        vmtl = _make(2, encoder=encoder, representation_pool=Mixture())
        encoder_layer = vmtl.encoder.layer()
        assert encoder_layer is not None
        with torch.no_grad():
            encoder_layer.loc.add_(torch.randn_like(encoder_layer.loc))
        _, model = _sites(vmtl, _batch(2))
        q = [Normal(encoder_layer.loc[t], encoder_layer.scale[t]) for t in range(2)]
        kl = torch.distributions.kl_divergence
        expected = kl(q[0], q[1]).sum() + kl(q[1], q[0]).sum()
        actual = -model["layer_kl"]["log_prob_sum"]
        torch.testing.assert_close(actual.float(), expected)

    def test_layers_are_borrowed_only_where_each_task_has_one(self) -> None:
        for encoder in (MLP(3, stochastic=False), BayesianLinear(3)):
            with pytest.raises(InputError, match="layer for each of the 3 tasks"):
                _make(3, encoder=encoder, representation_pool=Mixture())


class TestTempering:
    @pytest.mark.parametrize("site", SITES)
    @pytest.mark.parametrize("encoder", [MLP(3, hidden=()), BayesianLinear(3, per_task=True)])
    def test_scales_the_site_and_its_relatedness(
        self, site: str, encoder: MLP | BayesianLinear
    ) -> None:
        layered = isinstance(encoder, BayesianLinear)
        vmtl = _make(3, encoder=encoder, representation_pool=Mixture() if layered else Standard())
        batch = _batch(3)
        with torch.no_grad():
            _borrowing(vmtl).logits.add_(torch.randn(3, 2))
        touched = {site, f"relatedness_{site}"} | ({"layer_kl"} if site == SITES[1] else set())
        log_probs = {}
        for weight in (1.0, 0.25, 0.0):
            pyro.set_rng_seed(0)
            vmtl.tempering[site] = weight
            log_probs[weight] = [
                {name: site["log_prob_sum"].detach() for name, site in trace.items()}
                for trace in _sites(vmtl, batch)
            ]
        for plain, quarter, nothing in zip(*log_probs.values(), strict=True):
            for name in plain:
                factor = 0.25 if name in touched else 1.0
                torch.testing.assert_close(quarter[name], factor * plain[name])
                factor = 0.0 if name in touched else 1.0
                torch.testing.assert_close(nothing[name], factor * plain[name])

    @pytest.mark.parametrize("pool", [Mixture(), Power(), Nested()], ids=repr)
    def test_does_not_touch_weights_in_closed_form(self, pool: Pool) -> None:
        vmtl, batch = _make(3, pool=pool, classifier="conjugate"), _batch(3)
        vmtl.update(batch)
        densities = []
        for weight in (1.0, 0.25, 0.0):
            pyro.set_rng_seed(0)
            vmtl.tempering["weights"] = weight
            guide, model = _sites(vmtl, batch)
            sites = [trace[name] for trace in (guide, model) for name in trace]
            densities.append(torch.stack([site["log_prob_sum"].double() for site in sites]))
        assert densities[1].equal(densities[0])
        assert densities[2].equal(densities[0])

    def test_with_zero_leaves_the_likelihood_alone(self) -> None:
        vmtl, batch = _make(3), _batch(3)
        vmtl.tempering.update(dict.fromkeys(SITES, 0.0))
        for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
            pyro.set_rng_seed(0)
            loss = elbo.differentiable_loss(vmtl.model, vmtl.guide, batch)
            pyro.set_rng_seed(0)
            _, model = _sites(vmtl, batch)
            expected = model["targets"]["log_prob_sum"]
            torch.testing.assert_close(-loss, expected, check_dtype=False)
            gradients = torch.autograd.grad(loss, _borrowing(vmtl).logits, materialize_grads=True)
            assert gradients[0].abs().max() == 0

    def test_is_off_inside_untempered_and_back_after(self) -> None:
        vmtl, batch = _make(3), _batch(3)

        def densities() -> list[Tensor]:
            pyro.set_rng_seed(0)
            return [site["log_prob_sum"].detach() for site in _sites(vmtl, batch)[0].values()]

        plain = densities()
        vmtl.tempering.update(weights=0.5, representations=0.0)
        tempered = densities()
        assert not torch.stack(tempered).equal(torch.stack(plain))
        with vmtl.untempered():
            assert torch.stack(densities()).equal(torch.stack(plain))
        assert torch.stack(densities()).equal(torch.stack(tempered))
        with pytest.raises(RuntimeError, match="inside"), vmtl.untempered():
            raise RuntimeError("inside")
        assert torch.stack(densities()).equal(torch.stack(tempered))


class TestRelatedness:
    @pytest.mark.parametrize("pool", [Mixture(), Power()])
    def test_with_shared_logits_contributes_exactly_nothing(self, pool: Pool) -> None:
        vmtl = _make(3, pool=pool, empirical_bayes=True)
        with torch.no_grad():
            _borrowing(vmtl).logits.add_(torch.randn(3, 2))
        vmtl.set_temperature(0.1)
        for trace in _sites(vmtl, _batch(3)):
            assert trace["relatedness_weights"]["log_prob_sum"] == 0

    @pytest.mark.parametrize("pool", [Mixture(), Mixture(base=True), Power()])
    def test_stays_finite_at_a_low_temperature_with_many_tasks(self, pool: Pool) -> None:
        vmtl = _make(12, pool=pool)
        with torch.no_grad():
            _borrowing(vmtl).logits.mul_(0).add_(5 * torch.randn_like(_borrowing(vmtl).logits))
        vmtl.set_temperature(0.1)
        for kind in (Trace_ELBO, TraceMeanField_ELBO):
            elbo = kind(num_particles=200, vectorize_particles=True, max_plate_nesting=2)
            loss = elbo.differentiable_loss(vmtl.model, vmtl.guide, _batch(12, 2))
            assert loss.isfinite()
            vmtl.zero_grad()
            loss.backward()
            for name, parameter in vmtl.named_parameters():
                assert parameter.grad is not None
                assert parameter.grad.isfinite().all(), name


def _estimates(kind: type[Trace_ELBO], vmtl: VMTL, batch: Batch) -> Tensor:
    elbo = kind(num_particles=200, vectorize_particles=True, max_plate_nesting=2)
    return torch.tensor([elbo.loss(vmtl.model, vmtl.guide, batch) for _ in range(20)])


class TestEstimators:
    @pytest.mark.parametrize(
        ("pool", "encoder"),
        [
            (Standard(), MLP(3, hidden=())),
            (Standard(), BayesianLinear(3)),
            (Linear(), MLP(3, hidden=(), stochastic=False)),
            (Power(spread="scalar"), Identity()),
        ],
    )
    def test_agree_where_the_kls_are_exact(self, pool: Pool, encoder: Any) -> None:
        vmtl, batch = _make(3, pool=pool, encoder=encoder), _batch(3)
        sampled, analytic = (_estimates(k, vmtl, batch) for k in (Trace_ELBO, TraceMeanField_ELBO))
        error = (sampled.var() / len(sampled) + analytic.var() / len(analytic)).sqrt()
        assert abs(sampled.mean() - analytic.mean()) < 5 * error

    def test_of_a_mixture_bound_each_other(self) -> None:
        batch = _batch(3)
        vmtl = _make(3, pool=Mixture(kl_bound="convexity"), initial_scale=0.5)
        loose = _estimates(TraceMeanField_ELBO, vmtl, batch)
        _borrowing(vmtl).pool = Mixture(kl_bound="tight")
        tight = _estimates(TraceMeanField_ELBO, vmtl, batch)
        exact = _estimates(Trace_ELBO, vmtl, batch)
        error = 5 * (tight.var() / len(tight)).sqrt()
        assert exact.mean() < tight.mean() + error
        assert tight.mean() < loose.mean() + error


@pytest.mark.parametrize("encoder", [Identity(), MLP(3, hidden=(4,))], ids=str)
def test_linear_and_mixture_agree_where_one_lender_has_all_the_weight(
    encoder: Identity | MLP,
) -> None:
    """What the authors' code computes, and what the paper writes, differ in the mixing alone."""
    losses: list[float] = []
    unequal: list[float] = []
    for pool in (Mixture(), Linear()):
        torch.manual_seed(3)
        views = Standard() if isinstance(encoder, Identity) else pool
        vmtl = _make(
            4, encoder=encoder, pool=pool, representation_pool=views, initial_scale=0.5
        ).eval()
        batch = _batch(4)
        if not isinstance(encoder, Identity):
            present = torch.ones(4, 5, 4, dtype=torch.bool)
            batch.views = Views(batch.x.unsqueeze(2) + 0.3 * torch.randn(4, 5, 4, 4), present)
        with torch.no_grad():
            loc = vmtl.classifier.gaussians().loc
            loc.add_(torch.randn_like(loc))
        for all_of_it, found in ((300.0, losses), (0.0, unequal)):
            for borrowing in vmtl.borrowing.values():
                assert isinstance(borrowing, Borrowing)
                with torch.no_grad():
                    borrowing.logits.zero_()
                    borrowing.logits[:, 1] = all_of_it
            torch.manual_seed(4)
            found.append(TraceMeanField_ELBO().loss(vmtl.model, vmtl.guide, batch))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert unequal[0] != pytest.approx(unequal[1], rel=1e-3)
