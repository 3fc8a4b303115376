"""Lenders lend without gradient, and an anchor and its model train apart."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.model import (
    MLP,
    VMTL,
    Anchored,
    Architecture,
    BayesianLinear,
    Borrowing,
    Geometric,
    Identity,
    Lenders,
    Linear,
    Mixture,
    Pool,
    Power,
    Recursive,
    Settings,
    Standard,
    assemble,
)
from pyro_vmtl.model.lenders import Program

TASKS = 3
POOLS = [Mixture(spread="task"), Linear(base=True), Geometric(base=True), Power(spread="scalar")]
ENCODERS: list[Architecture] = [
    Identity(),
    MLP(5, hidden=(8,), dropout=0),
    MLP(5, hidden=(8,), dropout=0, stochastic=False),
    BayesianLinear(5),
    BayesianLinear(5, per_task=True),
]

every_pool = pytest.mark.parametrize("pool", POOLS, ids=repr)
every_encoder = pytest.mark.parametrize("encoder", ENCODERS, ids=repr)
every_elbo = pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])


def _make(encoder: Architecture, pool: Pool, lenders: type[Lenders]) -> VMTL:
    layered = isinstance(encoder, BayesianLinear) and encoder.per_task
    settings = Settings(encoder, pool, pool if layered else Standard(), lenders)
    vmtl = assemble(settings, TASKS, 2, (4,), is_classification=True)
    with torch.no_grad():
        for parameter in vmtl.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vmtl


def _batch() -> Batch:
    shape = (TASKS, 6)
    return Batch(
        torch.randn(*shape, 4),
        torch.randint(2, shape),
        torch.ones(shape, dtype=torch.bool),
        torch.ones(shape),
        torch.arange(TASKS * 6).reshape(shape),
    )


def _gradients(vmtl: VMTL, program: VMTL, kind: type[Trace_ELBO]) -> dict[str, Tensor | None]:
    torch.manual_seed(1)
    batch = _batch()
    loss = kind().differentiable_loss(program.model, program.guide, batch)
    names, parameters = zip(*vmtl.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


class Constant(Lenders):
    """Components that are plain numbers."""

    def __init__(self, vmtl: VMTL) -> None:
        super().__init__()
        self._weights = Gaussians(*(x.detach().clone() for x in vmtl.classifier.gaussians()))
        layer = vmtl.encoder.layer()
        self._layers = layer and Gaussians(*(x.detach().clone() for x in layer))

    def weights(self, vmtl: Program) -> Gaussians | None:
        return self._weights

    def layers(self, vmtl: Program) -> Gaussians | None:
        return self._layers


class TestRecursive:
    @every_pool
    @every_encoder
    @every_elbo
    def test_gradient_is_that_of_constant_components(
        self, pool: Pool, encoder: Architecture, kind: type[Trace_ELBO]
    ) -> None:
        vmtl = _make(encoder, pool, Recursive)
        assert isinstance(vmtl.lenders, Recursive)
        vmtl.lenders.advance()
        gradients = _gradients(vmtl, vmtl, kind)
        vmtl.lenders = Constant(vmtl)
        expected = _gradients(vmtl, vmtl, kind)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name])

    @every_pool
    def test_prior_depends_on_relatedness_and_spread_alone(self, pool: Pool) -> None:
        vmtl = _make(BayesianLinear(5, per_task=True), pool, Recursive)
        assert isinstance(vmtl.lenders, Recursive)
        vmtl.lenders.advance()
        layer = vmtl.encoder.layer()
        assert layer is not None
        total = torch.zeros(()).double()
        for site, borrowing in vmtl.borrowing.items():
            assert isinstance(borrowing, Borrowing)
            draw = borrowing.relatedness_posterior().rsample()
            prior = vmtl.weights_prior(draw) if site == "weights" else vmtl.layer_prior(layer, draw)
            total = total + prior.log_prob(torch.randn(TASKS, 1, *prior.event_shape)).sum()
        names, parameters = zip(*vmtl.named_parameters(), strict=True)
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        reached = {name for name, g in zip(names, gradients, strict=True) if g is not None}
        own = {name for name in names if name.startswith("borrowing.")}
        assert reached == own
        assert len(own) == 2 * (1 + (pool.spread is not None))


class TestAnchored:
    @every_pool
    @every_encoder
    @every_elbo
    def test_model_and_anchor_train_apart(
        self, pool: Pool, encoder: Architecture, kind: type[Trace_ELBO]
    ) -> None:
        vmtl = _make(encoder, pool, Anchored)
        main, anchor = vmtl.programs()
        assert main is vmtl
        of_main, of_anchor = _gradients(vmtl, main, kind), _gradients(vmtl, anchor, kind)
        for name in of_main:
            is_anchors = name.startswith("lenders.anchor.")
            assert (of_main[name] is None) == is_anchors, name
            assert (of_anchor[name] is None) == (not is_anchors), name

    @every_encoder
    def test_has_no_borrowing_of_its_own_and_lends_what_it_learns(
        self, encoder: Architecture
    ) -> None:
        vmtl = _make(encoder, Mixture(), Anchored)
        _, anchor = vmtl.programs()
        assert len(anchor.borrowing) == 0
        lent, own = vmtl.lenders.weights(vmtl), anchor.classifier.gaussians()
        assert lent is not None
        assert lent.loc.equal(own.loc)
        assert lent.scale.equal(own.scale)
        assert not lent.loc.requires_grad
        assert not lent.loc.equal(vmtl.classifier.gaussians().loc)

    def test_reads_the_encoder_of_the_model_unless_the_tasks_have_their_own(self) -> None:
        vmtl = assemble(Settings(MLP(5, dropout=0), lenders=Anchored), TASKS, 2, (4,), True)
        _, anchor = vmtl.programs()
        assert list(anchor.encoder.parameters()) == []
        x = torch.randn(TASKS, 2, 4)
        assert anchor.encoder(x).mean.equal(vmtl.encoder(x).mean)
        layers = Settings(
            BayesianLinear(5, per_task=True), representation_pool=Mixture(), lenders=Anchored
        )
        vmtl = assemble(layers, TASKS, 2, (4,), True)
        _, anchor = vmtl.programs()
        ours, theirs = vmtl.encoder.layer(), anchor.encoder.layer()
        assert ours is not None
        assert theirs is not None
        assert ours.loc is not theirs.loc
        # All layers start at equal means, so that the latent axes of model and anchor agree.
        assert (ours.loc == ours.loc[0]).all()
        assert ours.loc.equal(theirs.loc)

    @every_encoder
    def test_a_copy_of_the_model_has_an_anchor_of_its_own(self, encoder: Architecture) -> None:
        vmtl = _make(encoder, Mixture(), Anchored)
        twin = copy.deepcopy(vmtl)
        with torch.no_grad():
            for parameter in vmtl.parameters():
                parameter.add_(1)
        twin.tempering["weights"] = 0.5
        _, anchor = twin.programs()
        assert anchor.tempering["weights"] == 0.5
        assert vmtl.tempering["weights"] == 1.0
        for one, other in zip(vmtl.parameters(), twin.parameters(), strict=True):
            assert not one.equal(other)
        x = torch.randn(TASKS, 2, 4)
        if list(anchor.encoder.parameters()) == []:
            assert anchor.encoder(x).mean.equal(twin.encoder(x).mean)


class TestAnchorOfARegression:
    """The noise on targets is the main program's, which alone learns it."""

    @staticmethod
    def _make() -> tuple[VMTL, Batch]:
        settings = Settings(Identity(), Power(spread="scalar"), lenders=Anchored, bias=False)
        vmtl = assemble(settings, TASKS, 1, (4,), is_classification=False)
        batch = _batch()
        return vmtl, dataclasses.replace(batch, y=torch.randn(batch.y.shape))

    @pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
    def test_reads_the_noise_and_does_not_move_it(self, kind: type[Trace_ELBO]) -> None:
        vmtl, batch = self._make()
        anchor = vmtl.programs()[1]
        losses = []
        for noise in (-1.0, 1.0):
            with torch.no_grad():
                vmtl.get_parameter("likelihood.raw_noise").fill_(noise)
            torch.manual_seed(0)
            loss = kind().differentiable_loss(anchor.model, anchor.guide, batch)
            losses.append(loss.item())
            parameters = dict(vmtl.named_parameters())
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            moved = {name for name, x in zip(parameters, gradients, strict=True) if x is not None}
            assert moved == {"lenders.anchor.classifier.loc", "lenders.anchor.classifier.raw_scale"}
        assert losses[0] != losses[1]

    def test_a_model_with_a_noise_of_the_anchor_opens(self) -> None:
        vmtl, _ = self._make()
        state = vmtl.state_dict()
        assert not any("anchor.likelihood" in name for name in state)
        state["lenders.anchor.likelihood.raw_noise"] = torch.zeros(TASKS, 1, 1)
        vmtl.load_state_dict(state)


class TestMoments:
    def test_are_an_average_over_iterations_of_what_the_weights_were_applied_to(self) -> None:
        settings = Settings(Identity(), Power(spread="scalar"), lenders=Anchored)
        vmtl = assemble(settings, TASKS, 2, (4,), is_classification=True).train()
        expected = None
        for count in (6, 3):  # the last samples of the second batch do not count
            batch = _batch()
            batch.mask[:, count:] = False
            vmtl.update(batch)
            x = torch.cat([batch.x, torch.ones(TASKS, 6, 1)], -1)[:, :count]
            moments = x.mT @ x / count
            expected = moments if expected is None else 0.9 * expected + 0.1 * moments
        assert expected is not None
        assert vmtl.lenders.moments is not None
        torch.testing.assert_close(vmtl.lenders.moments, expected)

    def test_go_with_the_model_and_may_be_missing(self) -> None:
        settings = Settings(Identity(), Power(spread="scalar"), lenders=Anchored)
        one, other = (
            assemble(settings, TASKS, 2, (4,), is_classification=True).train() for _ in range(2)
        )
        one.update(_batch())
        state = one.state_dict()
        other.load_state_dict(state)
        assert one.lenders.moments is not None
        assert other.lenders.moments is not None
        assert other.lenders.moments.equal(one.lenders.moments)
        for name in ("second_moments", "observed"):  # as in models of earlier versions
            del state[f"lenders.{name}"]
        fresh = assemble(settings, TASKS, 2, (4,), is_classification=True)
        fresh.load_state_dict(state)
        batch = _batch()
        for vmtl in (fresh, one):
            vmtl.update(batch)
        x = torch.cat([batch.x, torch.ones(TASKS, 6, 1)], -1)
        torch.testing.assert_close(fresh.lenders.moments, x.mT @ x / 6)  # the first batch's
        torch.testing.assert_close(
            one.lenders.moments, 0.9 * other.lenders.moments + 0.1 * x.mT @ x / 6
        )
