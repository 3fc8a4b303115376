"""Borrowing through hidden clusters: what is sampled, when, and what of it survives a restart."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from safetensors.torch import load_file, save_file
from torch import Tensor

from pyro_vmtl.data import Batch, clusters
from pyro_vmtl.distributions import Gaussians, Partitions, evidence_of, pooled_prior
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import TrainingSettings, fit, load, save
from pyro_vmtl.model import (
    MLP,
    VMTL,
    Anchored,
    BayesianLinear,
    Clustered,
    ClusteredBorrowing,
    Identity,
    Recursive,
    Settings,
    Standard,
    assemble,
)

TASKS, EVENT = 5, (2, 3)


def _borrowing(pool: Clustered | None = None, num_tasks: int = TASKS) -> ClusteredBorrowing:
    return ClusteredBorrowing(Clustered() if pool is None else pool, num_tasks, EVENT)


def _lenders(num_tasks: int = TASKS, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(2, *EVENT, generator=generator)
    loc = centres[torch.arange(num_tasks) % 2]
    loc = loc + 0.2 * torch.randn(loc.shape, generator=generator)
    return Gaussians(loc, torch.full(loc.shape, 0.2))


def _state(borrowing: ClusteredBorrowing) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in borrowing.state_dict().items()}


def _changed(borrowing: ClusteredBorrowing, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in _state(borrowing).items() if not value.equal(before[name])}


def _same(one: ClusteredBorrowing, other: ClusteredBorrowing) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(ours[k].equal(theirs[k]) for k in ours)


def _iterate(borrowing: ClusteredBorrowing, lenders: Gaussians) -> None:
    """What one training step does with it."""
    borrowing.update(lenders)


def _make(**choices: Any) -> VMTL:
    choices.setdefault("encoder", Identity())
    choices.setdefault("pool", Clustered())
    settings = Settings(lenders=Anchored, **choices)
    return assemble(settings, TASKS, 3, (4,), is_classification=True)


def _of(vmtl: VMTL, site: str = "weights") -> ClusteredBorrowing:
    borrowing = vmtl.borrowing[site]
    assert isinstance(borrowing, ClusteredBorrowing)
    return borrowing


def _batch(num_samples: int = 6) -> Batch:
    shape = (TASKS, num_samples)
    return Batch(
        torch.randn(*shape, 4),
        torch.randint(3, shape),
        torch.ones(shape, dtype=torch.bool),
        torch.ones(shape),
        torch.arange(TASKS * num_samples).reshape(shape),
    )


class TestRefresh:
    def test_nobody_borrows_before_the_lenders_have_been_seen(self) -> None:
        borrowing = _borrowing()
        prior = borrowing.prior(borrowing.relatedness_posterior().sample(), _lenders())
        assert prior.batch_shape == (TASKS, 1)
        assert prior.event_shape == EVENT
        assert prior.mean.abs().max() == 0
        assert prior.variance.equal(torch.ones(TASKS, 1, *EVENT))

    def test_pools_the_evidence_of_the_lenders_over_the_draws(self) -> None:
        borrowing, lenders = _borrowing(), _lenders()
        borrowing.update(lenders, last=True)
        expected = pooled_prior(evidence_of(lenders), borrowing.partitions)
        prior = borrowing.prior(borrowing.relatedness_posterior().sample(), lenders)
        loc = expected.loc.float().view(TASKS, 1, *EVENT)
        torch.testing.assert_close(prior.mean, loc)
        torch.testing.assert_close(prior.stddev, expected.scale.float().view_as(loc))
        rows = borrowing.probabilities()
        assert rows.shape == (TASKS, TASKS - 1)
        chance = borrowing.partitions.together().mean(0)
        for t in range(TASKS):
            others = [i for i in range(TASKS) if i != t]
            torch.testing.assert_close(rows[t], chance[t, others])

    def test_comes_once_in_a_while_and_goes_on_from_where_the_chains_stand(self) -> None:
        borrowing = _borrowing()
        for _ in range(2):
            before = _state(borrowing)
            for step in range(1, borrowing.refresh_every):
                _iterate(borrowing, _lenders(seed=step))
            assert _changed(borrowing, before) == {"steps"}
            _iterate(borrowing, _lenders(seed=99))
            assert {"steps", "labels", "prior_loc"} <= _changed(borrowing, before)

    def test_comes_once_more_at_the_end(self) -> None:
        borrowing = _borrowing()
        before = _state(borrowing)
        borrowing.update(_lenders(), last=True)
        assert {"steps", "labels", "prior_loc"} <= _changed(borrowing, before)

    def test_repeats_whatever_noise_there_was_before(self) -> None:
        one, other = _borrowing(), _borrowing()
        for step in range(60):
            _iterate(one, _lenders(seed=step))
        before = torch.get_rng_state()
        for step in range(60):
            torch.rand(3)
            _iterate(other, _lenders(seed=step))
        assert _same(one, other)
        torch.set_rng_state(before)
        expected = torch.rand(3)
        torch.set_rng_state(before)
        _borrowing().update(_lenders(), last=True)
        assert torch.rand(3).equal(expected), "it took noise that others draw from"

    def test_goes_on_after_a_restart_as_if_there_had_been_none(self) -> None:
        whole, resumed = _borrowing(), _borrowing()
        for step in range(30):
            _iterate(whole, _lenders(seed=step))
        resumed.load_state_dict(whole.state_dict())
        assert _same(whole, resumed)
        for borrowing in (whole, resumed):
            for step in range(30, 80):
                _iterate(borrowing, _lenders(seed=step))
        assert int(whole.steps) == 80
        assert _same(whole, resumed)

    def test_finds_the_relatives(self) -> None:
        borrowing = _borrowing(num_tasks=6)
        for _ in range(2 * borrowing.refresh_every):
            _iterate(borrowing, _lenders(6))
        chance = borrowing.by_component(borrowing.relatedness_posterior().mean).squeeze(1)
        same = (torch.arange(6)[:, None] - torch.arange(6)) % 2 == 0
        same.fill_diagonal_(False)
        assert chance[same].min() > 0.9
        assert chance[~same].max() < 0.1


class TestKnownPartition:
    def test_keeps_its_labels(self) -> None:
        known = [7, 2, 7, 7, 2]
        borrowing = _borrowing(Clustered(known=known))
        for step in range(51):
            _iterate(borrowing, _lenders(seed=step))
        assert (borrowing.labels == borrowing.labels[0]).all()
        same = torch.tensor(known)[:, None] == torch.tensor(known)
        assert borrowing.partitions.together()[0].equal(same.double())
        assert borrowing.spreads.unique().numel() >= 1
        assert borrowing.spread < 1

    def test_has_an_entry_for_each_task(self) -> None:
        with pytest.raises(InputError, match="clusters of 3 tasks; expected 5"):
            _borrowing(Clustered(known=[0, 0, 1]))

    @pytest.mark.parametrize("concentration", [0, -1.0, float("nan"), float("inf")])
    def test_concentration_is_positive(self, concentration: float) -> None:
        with pytest.raises(InputError, match=r"concentration is .*; expected above 0"):
            Clustered(concentration=concentration)


def test_lenders_whose_evidence_is_not_their_own_are_refused() -> None:
    settings = Settings(Identity(), Clustered(), lenders=Recursive)
    with pytest.raises(InputError, match="Recursive; expected lenders such as Anchored"):
        assemble(settings, TASKS, 3, (4,), is_classification=True)


class TestInAModel:
    @pytest.mark.parametrize("encoder", [Identity(), MLP(3), BayesianLinear(3)], ids=repr)
    @pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
    @pytest.mark.parametrize("num_particles", [1, 3])
    def test_trains_under_every_elbo_with_all_checks_on(
        self, encoder: Any, kind: type[Trace_ELBO], num_particles: int
    ) -> None:
        pyro.enable_validation(True)
        vmtl, batch = _make(encoder=encoder), _batch()
        elbo = kind(
            num_particles=num_particles,
            vectorize_particles=num_particles > 1,
            max_plate_nesting=2,
        )
        for _ in range(2):
            for program in vmtl.programs():
                loss = elbo.differentiable_loss(program.model, program.guide, batch)
                assert loss.isfinite()
                loss.backward()
            vmtl.update(batch)
        assert int(_of(vmtl).steps) == 2
        for name, parameter in vmtl.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_the_two_estimators_agree(self) -> None:
        """The prior is a Gaussian, and the relatedness is the same law in model and guide."""
        vmtl, batch = _make(initial_scale=0.4).train(), _batch()
        self._step(vmtl, batch)
        vmtl.eval()
        losses = {}
        for kind in (Trace_ELBO, TraceMeanField_ELBO):
            elbo = kind(num_particles=4000, vectorize_particles=True, max_plate_nesting=2)
            losses[kind] = elbo.loss(vmtl.model, vmtl.guide, batch)
        assert losses[Trace_ELBO] == pytest.approx(losses[TraceMeanField_ELBO], rel=0.02)

    def _step(self, vmtl: VMTL, batch: Batch) -> None:
        for program in vmtl.programs():
            TraceMeanField_ELBO().differentiable_loss(
                program.model, program.guide, batch
            ).backward()
        vmtl.update(batch, last=True)

    def test_relatedness_contributes_nothing(self) -> None:
        vmtl, batch = _make(), _batch()
        self._step(vmtl, batch)
        guide = poutine.trace(vmtl.guide).get_trace(batch)
        model = poutine.trace(poutine.replay(vmtl.model, trace=guide)).get_trace(batch)
        for trace in (guide, model):
            trace.compute_log_prob()
            assert trace.nodes["relatedness_weights"]["log_prob_sum"] == 0
            value = trace.nodes["relatedness_weights"]["value"]
            assert isinstance(value, Tensor)
            assert value.shape == (TASKS, 1, TASKS - 1)

    @pytest.mark.parametrize("is_parallel", [False, True])
    def test_a_draw_of_the_relatedness_is_one_partition(self, is_parallel: bool) -> None:
        vmtl, batch = _make(), _batch()
        self._step(vmtl, batch)
        predictive = Predictive(
            vmtl.model, guide=vmtl.guide, num_samples=7, parallel=is_parallel,
            return_sites=("relatedness_weights", "weights", "targets"),
        )  # fmt: skip
        draws = predictive(batch, observed=False)
        assert draws["targets"].shape == (7, *batch.y.shape)
        rows = draws["relatedness_weights"].reshape(7, TASKS, 1, TASKS - 1)
        together = _of(vmtl).by_component(rows, empty=1.0).squeeze(2)
        assert together.equal(together.mT)
        assert together.equal((together @ together > 0).double()), "friends of friends are friends"

    @pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
    def test_no_gradient_reaches_the_anchor_from_the_main_program_nor_back(
        self, kind: type[Trace_ELBO]
    ) -> None:
        vmtl, batch = _make(encoder=MLP(3)), _batch()
        self._step(vmtl, batch)
        names, parameters = zip(*vmtl.named_parameters(), strict=True)
        for program in vmtl.programs():
            loss = kind().differentiable_loss(program.model, program.guide, batch)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                is_anchors = name.startswith("lenders.anchor.")
                assert (gradient is not None) == (is_anchors == (program is not vmtl)), name

    def test_shows_the_borrowing_what_the_lenders_say(self) -> None:
        vmtl = _make()
        expected = copy.deepcopy(_of(vmtl))
        self._step(vmtl, _batch())
        expected.update(vmtl.lenders.weights(vmtl), vmtl.lenders.moments, last=True)
        assert _same(_of(vmtl), expected)

    def test_encoder_layers_cluster_as_well(self) -> None:
        vmtl, batch = _make(encoder=BayesianLinear(3, per_task=True), pool=Standard(),
                            representation_pool=Clustered()), _batch()  # fmt: skip
        self._step(vmtl, batch)
        borrowing = _of(vmtl, "representations")
        assert borrowing.prior_loc.shape == (TASKS, 5, 3)
        assert int(borrowing.steps) == 1

    def test_one_task_has_nobody_to_share_a_cluster_with(self) -> None:
        settings = Settings(Identity(), Clustered(), lenders=Anchored)
        vmtl = assemble(settings, 1, 3, (4,), is_classification=True)
        assert not vmtl.borrowing
        assert vmtl.programs() == [vmtl]


def test_says_which_clusters_are_known() -> None:
    assert repr(Clustered()) == "Clustered(concentration=1.0)"
    assert repr(Clustered(2.0, [0, 0, 1])) == "Clustered(concentration=2.0, known=[0, 0, 1])"


def test_lenders_that_have_diverged_are_not_looked_at() -> None:
    """The loss says it in a sentence at the end of the epoch; sampling would raise before."""
    borrowing = _borrowing()
    before = _state(borrowing)
    lenders = _lenders()
    lenders.loc[0, 0, 0] = torch.nan
    moments = torch.eye(EVENT[-1]).double().repeat(TASKS, 1, 1)
    borrowing.update(lenders, moments, last=True)
    assert _changed(borrowing, before) == {"steps"}


def test_permuted_tasks_have_the_permuted_prior() -> None:
    lenders, order = _lenders(), torch.tensor([3, 0, 4, 1, 2])
    partitions = Partitions.at_start(torch.tensor([[0, 1, 0, 2, 1], [0, 0, 1, 1, 0]]))
    pooled = pooled_prior(evidence_of(lenders), partitions)
    moved = pooled_prior(
        evidence_of(Gaussians(*(x[order] for x in lenders))),
        partitions._replace(labels=partitions.labels[:, order]),
    )
    for before, after in zip(pooled, moved, strict=True):
        torch.testing.assert_close(before[order], after)


SMALL = TrainingSettings(epochs=2, steps_per_epoch=15, validation_samples=4)


def test_a_saved_model_has_the_partitions_and_the_prior(tmp_path: Path) -> None:
    splits = clusters(4, 2, samples=10, dimensions=3, test_samples=20)
    settings = Settings(Identity(), Clustered(concentration=0.5), lenders=Anchored, bias=False)
    fitted = fit(splits.train, splits.validation, settings, SMALL, accelerator="cpu")
    loaded = load(save(fitted, tmp_path / "model"))
    assert isinstance(loaded.settings.pool, Clustered)
    assert loaded.settings.pool.concentration == 0.5
    ours, theirs = _of(fitted.vmtl), _of(loaded.vmtl)
    assert _same(ours, theirs)
    assert int(ours.steps) > 0
    assert ours.prior_loc.abs().max() > 0
    before, after = (f.predict(splits.test, 20).log_density for f in (fitted, loaded))
    assert before.equal(after)


def test_a_model_saved_by_an_earlier_version_opens_and_goes_on(tmp_path: Path) -> None:
    """It had 80 draws, s up to 1, neither tau nor kappa, no moments of features and no digest."""
    splits = clusters(4, 2, samples=10, dimensions=3, test_samples=20)
    settings = Settings(Identity(), Clustered(), lenders=Anchored, bias=False)
    fitted = fit(splits.train, None, settings, SMALL, accelerator="cpu")
    path = save(fitted, tmp_path / "model")
    tensors = load_file(path / "model.safetensors")
    site = "borrowing.weights."
    for name in ("scales", "factors", "of_chains"):
        del tensors[f"{site}{name}"]
    del tensors["lenders.second_moments"], tensors["lenders.observed"]
    tensors[f"{site}labels"] = torch.arange(4).repeat(80, 1)
    tensors[f"{site}spreads"] = torch.full((80,), 1.0).double()
    save_file(tensors, path / "model.safetensors")
    description = json.loads((path / "model.json").read_text())
    del description["digest"]  # nor a digest
    (path / "model.json").write_text(json.dumps(description))
    loaded = load(path)
    borrowing = _of(loaded.vmtl)
    assert borrowing.probabilities().abs().max() == 0  # all alone
    assert borrowing.scales.equal(torch.ones(80).double())
    assert borrowing.factors.equal(torch.ones(80).double())
    before, after = (f.predict(splits.test, 20).log_density for f in (fitted, loaded))
    assert before.equal(after)
    steps = int(borrowing.steps)
    fit(splits.train, None, settings, SMALL, vmtl=loaded.vmtl, accelerator="cpu")
    assert int(borrowing.steps) == steps + 30
    assert borrowing.labels.shape == _of(fitted.vmtl).labels.shape
    # Of another number of tasks it is no such model.
    tensors[f"{site}labels"] = torch.arange(5).repeat(80, 1)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(InputError, match=r"does not fit the model \(size mismatch .*labels"):
        load(path)


def test_a_resumed_run_ends_where_the_whole_run_ends(tmp_path: Path) -> None:
    splits = clusters(4, 2, samples=10, dimensions=3, test_samples=20)
    settings = Settings(Identity(), Clustered(), lenders=Anchored, bias=False)
    runs = []
    for name, epochs, resume in (
        ("whole", 4, None),
        ("half", 2, None),
        ("rest", 4, tmp_path / "half" / "last.ckpt"),
    ):
        fitted = fit(
            splits.train,
            None,
            settings,
            TrainingSettings(epochs=epochs, steps_per_epoch=15, patience=None),
            checkpoints=tmp_path / name,
            resume=resume,
            accelerator="cpu",
        )
        runs.append(_of(fitted.vmtl))
    whole, half, rest = runs
    assert _same(whole, rest)
    assert not _same(whole, half)
