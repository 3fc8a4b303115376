"""The nested prior in a model: exact algebra, units, masks, saving, and predictions by sampling."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

import pyro_vmtl as pv
from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL, predict
from pyro_vmtl.model import (
    MLP,
    VMTL,
    CategoricalLikelihood,
    GaussianLikelihood,
    Identity,
    Mixture,
    NestedWeights,
    PrincipalComponents,
    PrincipalComponentsEncoder,
    Settings,
    Standard,
)
from pyro_vmtl.model.priors.nested import Deviation, Nested, NestedBorrowing

Array = npt.NDArray[Any]

SIZES = (7, 12, 4, 9)


def _tasks(kind: str, sizes: Sequence[int] = SIZES, seed: int = 0, features: int = 2) -> TaskSet:
    """Two clusters of tasks; regression, or so many classes."""
    generator = np.random.default_rng(seed)
    classes = {"regression": 1, "two classes": 2, "three classes": 3}[kind]
    centres = generator.normal(size=(2, features + 1, classes))
    parts: dict[str, tuple[Array, Array]] = {}
    for t, size in enumerate(sizes):
        x = generator.normal(size=(size, features))
        weights = centres[t % 2] + 0.3 * generator.normal(size=centres.shape[1:])
        eta = np.c_[x, np.ones(size)] @ weights
        if kind == "regression":
            y = eta[:, 0] + 0.5 * generator.normal(size=size)
        else:
            y = (2 * eta + generator.gumbel(size=eta.shape)).argmax(-1)
            y[:classes] = np.arange(classes)  # every class everywhere
        parts[f"task {t}"] = (x, y)
    return TaskSet.from_arrays(parts)


def _fit(tasks: TaskSet, settings: Settings | None = None, seed: int = 0) -> FittedVMTL:
    return pv.fit(tasks, settings=settings, seed=seed, accelerator="cpu", log_warnings=False)


def _weights(fitted: FittedVMTL | VMTL) -> NestedWeights:
    weights = (fitted.vmtl if isinstance(fitted, FittedVMTL) else fitted).classifier
    assert isinstance(weights, NestedWeights)
    return weights


def _borrowing(fitted: FittedVMTL) -> NestedBorrowing:
    borrowing = fitted.vmtl.borrowing["weights"]
    assert isinstance(borrowing, NestedBorrowing)
    return borrowing


@cache
def _fitted(kind: str) -> tuple[TaskSet, FittedVMTL]:
    tasks = _tasks(kind)
    return tasks, _fit(tasks)


@pytest.fixture(params=["regression", "two classes", "three classes"])
def fitted(request: pytest.FixtureRequest) -> tuple[TaskSet, FittedVMTL]:
    return _fitted(request.param)


class TestPrograms:
    def test_change_nothing(self, fitted: tuple[TaskSet, FittedVMTL]) -> None:
        tasks, model = fitted
        vmtl, batch = model.vmtl, tasks.dense()
        before = {name: buffer.clone() for name, buffer in vmtl.named_buffers()}
        store = set(pyro.get_param_store())
        guide = poutine.trace(vmtl.guide).get_trace(batch)
        poutine.trace(poutine.replay(vmtl.model, trace=guide)).get_trace(batch)
        Predictive(vmtl.model, guide=vmtl.guide, num_samples=3)(batch, observed=False)
        pv.elbo_parts(vmtl, batch, num_particles=2)
        vmtl.classifier()
        predict(vmtl, tasks)
        for name, buffer in vmtl.named_buffers():
            assert buffer.equal(before[name]), name
        assert set(pyro.get_param_store()) == store

    def test_weights_given_relatedness_are_site_times_cavity(
        self, fitted: tuple[TaskSet, FittedVMTL]
    ) -> None:
        """log q(w | draw) - log p(w | draw) - h w + w Lambda w / 2 is one number for all w."""
        _, model = fitted
        weights = _weights(model)
        draw = weights.relatedness().sample()
        posterior, prior = weights(draw), model.vmtl.weights_prior(draw)
        assert posterior.batch_shape == prior.batch_shape == (len(SIZES), 1)
        assert posterior.event_shape == prior.event_shape == weights.event_shape
        values = posterior.sample(torch.Size([20])) + torch.randn(20, 1, 1, 1, 1)
        w = values.squeeze(2).double()
        noise = weights._noise(draw)
        site = torch.einsum("stki,tki->stk", w, weights.shift) / noise
        site -= torch.einsum("stki,tkij,stkj->stk", w, weights.precision, w) / noise / 2
        rest = (posterior.log_prob(values) - prior.log_prob(values)).squeeze(-1) - site.sum(-1)
        torch.testing.assert_close(rest, rest[:1].expand_as(rest), atol=1e-5, rtol=1e-6)


class TestUpdate:
    @pytest.mark.parametrize("kind", ["regression", "two classes"])
    def test_moves_what_is_to_move_and_leaves_the_callers_noise(self, kind: str) -> None:
        tasks = _tasks(kind)
        vmtl = pv.build(tasks)
        before = {name: value.clone() for name, value in vmtl.named_buffers()}
        noise = torch.get_rng_state()
        vmtl.update(tasks.dense())
        assert torch.get_rng_state().equal(noise)
        moved = {name for name, value in vmtl.named_buffers() if not value.equal(before[name])}
        names = ("precision", "shift", "counts", "loc", "covariance", "steps", "draw_cluster")
        assert moved >= {f"classifier.{name}" for name in names}
        kept = ("encoder.", "likelihood.target", "classifier.seed", "classifier.groups")
        assert not [name for name in moved if name.startswith(kept)]

    @pytest.mark.parametrize("dropout", [0.0, 0.5])
    def test_sees_what_training_sees(self, dropout: float) -> None:
        tasks = _tasks("two classes")
        encoder = MLP(3, hidden=(4,), dropout=dropout, stochastic=False)
        one = pv.build(tasks, encoder=encoder, pool=Nested()).train()
        other = copy.deepcopy(one).eval()
        for vmtl in (one, other):
            vmtl.update(tasks.dense())
        assert _weights(one).precision.equal(_weights(other).precision) == (dropout == 0)
        assert all(parameter.grad is None for parameter in one.parameters())
        assert one.encoder.training

    def test_waits_where_an_encoder_learns(self) -> None:
        tasks = _tasks("two classes")
        vmtl = pv.build(tasks, encoder=MLP(3, hidden=(4,), stochastic=False), pool=Nested())
        vmtl.update(tasks.dense())
        first = _weights(vmtl).precision.clone()
        for _ in range(9):
            vmtl.update(tasks.dense())
        assert _weights(vmtl).precision.equal(first)
        vmtl.update(tasks.dense())
        assert not _weights(vmtl).precision.equal(first)

    def test_is_asked_for_anew_after_it_has_moved(self) -> None:
        tasks = _tasks("two classes")
        vmtl = pv.build(tasks)
        vmtl.update(tasks.dense())
        draw = _weights(vmtl).relatedness().sample()
        before = vmtl.weights_prior(draw).mean
        assert vmtl.weights_prior(draw).mean.equal(before)
        _weights(vmtl).shift.mul_(2)
        assert not vmtl.weights_prior(draw).mean.equal(before)


class TestHeldOut:
    """Two tasks that training makes alike, and held-out samples that differ."""

    @staticmethod
    def _parts(sign: float, seed: int, size: int = 60, noise: float = 0.3) -> TaskSet:
        generator = np.random.default_rng(seed)
        parts = {}
        for t in range(8):
            x = generator.normal(size=(size, 2))
            slope = np.array([1.5, 1.0]) * (sign if t % 2 else 1.0)
            parts[f"task {t}"] = (x, x @ slope + noise * generator.normal(size=size))
        return TaskSet.from_arrays(parts)

    def _updated(self, held_out: TaskSet | None, learns: bool = True) -> VMTL:
        torch.manual_seed(0)
        tasks = self._parts(1.0, 0)
        vmtl = pv.build(tasks, encoder=Identity(), pool=Nested())
        weights = _weights(vmtl)
        weights.learns = learns
        batch = None if held_out is None else held_out.dense()
        for number in range(8):
            vmtl.update(tasks.dense(), number == 7, batch)
        return vmtl

    @staticmethod
    def _chance(vmtl: VMTL) -> float:
        borrowing = vmtl.borrowing["weights"]
        assert isinstance(borrowing, NestedBorrowing)
        return float(borrowing.probabilities()[0, 0])  # of the first task and the second

    def test_is_heard_by_the_partition_and_not_by_the_weights(self) -> None:
        alone, heard = self._updated(None), self._updated(self._parts(-1.0, 1, 200))
        assert self._chance(alone) > 0.8
        assert self._chance(heard) < 0.1
        # The held-out slopes of the second task are the training ones with the other sign.
        torch.testing.assert_close(
            _weights(heard).loc[1, 0], _weights(alone).loc[1, 0], atol=0.1, rtol=0
        )
        for name in ("precision", "shift", "squares", "counts"):
            ours, theirs = (_weights(vmtl).get_buffer(name) for vmtl in (heard, alone))
            torch.testing.assert_close(ours, theirs)

    def test_is_not_heard_by_the_noise(self) -> None:
        alone, heard = self._updated(None), self._updated(self._parts(1.0, 1, 200, noise=3.0))
        ratio = _weights(heard).draws.noise.mean(0) / _weights(alone).draws.noise.mean(0)
        assert 0.7 < ratio.min() <= ratio.max() < 1.4

    def test_is_for_encoders_that_learn(self) -> None:
        one, other = self._updated(None, learns=False), self._updated(self._parts(-1.0, 1), False)
        assert _weights(one).loc.equal(_weights(other).loc)

    def test_samples_part_tasks_that_label_two_digits_differently(self) -> None:
        """Training makes an encoder under which all tasks could share their weights."""
        splits = pv.relabelled_digits(shots=3, exchanged=2, seed=20)
        training = pv.TrainingSettings(epochs=4)
        fitted = pv.fit(splits.train, splits.validation, None, training, seed=20)
        own, other = _chances(fitted, splits.train)
        assert own.min() > 0.8
        assert other.max() < 0.2

    def test_samples_are_not_needed_to_part_tasks_that_label_half_of_the_digits_differently(
        self,
    ) -> None:
        splits = pv.relabelled_digits(shots=3, exchanged=5, seed=20)
        training = pv.TrainingSettings(epochs=4)
        fitted = pv.fit(splits.train, None, None, training, seed=20, log_warnings=False)
        own, other = _chances(fitted, splits.train)
        assert own.min() > 0.8
        assert other.max() < 0.2


def _chances(fitted: FittedVMTL, tasks: TaskSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Of pairs that are related, and of the others."""
    chance, truth = _borrowing(fitted).probabilities(), tasks.truth
    assert truth is not None
    count = len(truth)
    own = torch.stack([truth[torch.arange(count) != t] == truth[t] for t in range(count)])
    return chance[own], chance[~own]


class TestTheStart:
    """Beside an encoder that learns, partitions start from what principal components say."""

    @staticmethod
    def _built(
        sign: float = -1.0, of_all: float = 1.0, pool: Nested | None = None
    ) -> tuple[TaskSet, VMTL]:
        torch.manual_seed(0)
        generator = np.random.default_rng(0)
        parts = {}
        for t in range(4):
            x = generator.normal(size=(40, 2))
            slope = of_all * np.array([2.0, 1.0]) * (sign if t % 2 else 1.0)
            parts[f"task {t}"] = (x, x @ slope + 0.3 * generator.normal(size=40))
        tasks = TaskSet.from_arrays(parts)
        encoder = MLP(2, hidden=(4,), dropout=0.0, stochastic=False)
        return tasks, pv.build(tasks, encoder=encoder, pool=pool or Nested())

    @staticmethod
    def _partitions(vmtl: VMTL) -> set[tuple[int, ...]]:
        return {tuple(labels) for labels in _weights(vmtl).partitions.tolist()}

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_is_what_the_inputs_say(self, sign: float) -> None:
        tasks, vmtl = self._built(sign)
        assert self._partitions(vmtl) == {(0, 0, 0, 0), (0, 1, 2, 3)}
        vmtl.update(tasks.dense())
        found = torch.tensor(sorted(self._partitions(vmtl)))
        apart = (found[:, ::2, None] != found[:, None, 1::2]).double().mean()
        assert (apart == 1) == (sign < 0)

    def test_leaves_the_likelihood_and_the_callers_noise(self) -> None:
        tasks, vmtl = self._built()
        noise, before = torch.get_rng_state(), copy.deepcopy(vmtl.likelihood.state_dict())
        _weights(vmtl).start(tasks.dense(), vmtl.likelihood, None)
        assert torch.get_rng_state().equal(noise)
        after = vmtl.likelihood.state_dict()
        assert all(after[name].equal(before[name]) for name in before)

    def test_is_kept_until_held_out_samples_are_heard(self) -> None:
        tasks, vmtl = self._built()
        weights, batch = _weights(vmtl), tasks.dense()
        vmtl.update(batch, held_out=batch)
        apart = torch.arange(4).expand(3, 4).clone()
        weights.partitions = apart
        for steps, held_out, stay in (
            (20, batch, True),
            (20, None, True),
            (60, batch, False),
            (60, None, True),
        ):
            weights.chains.labels.zero_()
            weights.steps.fill_(steps)
            vmtl.update(batch, held_out=held_out)
            assert bool((weights.draws.labels == apart[0]).all()) == stay, (steps, stay)

    def test_is_stated_no_surer_in_training_than_there_are_chains(self) -> None:
        tasks, vmtl = self._built()
        vmtl.update(tasks.dense())  # which counts hundreds of effective draws
        borrowing = vmtl.borrowing["weights"]
        assert isinstance(borrowing, NestedBorrowing)
        assert float(_weights(vmtl).effective) > 100
        assert float(borrowing.probabilities().min()) == pytest.approx(0.5 / 9)
        vmtl.update(tasks.dense(), True)
        assert float(borrowing.probabilities().min()) < 0.5 / 100

    def test_stands_afterwards_for_what_held_out_samples_have_said(self) -> None:
        tasks, vmtl = self._built()
        batch = tasks.dense()
        vmtl.update(batch)
        vmtl.update(batch, True, batch)
        weights = _weights(vmtl)
        assert weights.partitions.equal(weights.draws.labels)

    def test_is_for_partitions_that_are_to_be_found_beside_an_encoder(self) -> None:
        _, vmtl = self._built(pool=Nested(known=[0, 1, 0, 1]))
        tasks, fixed = self._built(pool=Nested(clusters=False))
        identity = pv.build(tasks, encoder=Identity(), pool=Nested())
        for one in (vmtl, fixed, identity):
            before = _weights(one).partitions.clone()
            one.update(tasks.dense())
            assert _weights(one).partitions.equal(before)

    def test_takes_inputs_that_are_many(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(12, 3, 50, 50, generator=generator)
        y = torch.arange(12) % 2
        tasks = TaskSet.from_arrays({f"task {t}": (x[t::3], y[t::3]) for t in range(3)})
        vmtl = pv.build(tasks, encoder=MLP(3, hidden=(4,), stochastic=False), pool=Nested())
        vmtl.update(tasks.dense())
        assert len(_weights(vmtl).partitions) > 8

    def test_is_loaded_from_a_model_that_was_saved_without(self) -> None:
        tasks, vmtl = self._built()
        batch = tasks.dense()
        vmtl.update(batch, True, batch)
        state = vmtl.state_dict()
        del state["classifier.partitions"]
        _, other = self._built()
        other.load_state_dict(state)
        assert _weights(other).partitions.equal(_weights(vmtl).draws.labels)


class TestRegression:
    KNOWN = (0, 1, 0, 1)

    def test_weights_are_those_of_exact_algebra(self) -> None:
        """Given each draw of the scales: w and y are one Gaussian, conditioned in data space."""
        tasks = _tasks("regression")
        model = _fit(tasks, Settings(pool=Nested(known=self.KNOWN)))
        weights = _weights(model)
        draws, (loc, covariance) = weights.draws, weights.by_draw()
        assert (draws.labels == torch.tensor(self.KNOWN)).all()
        x = tasks.x.double().numpy()
        phi = np.c_[(x - x.mean(0)) / x.std(0), np.ones(len(x))]
        y = tasks.y.double().numpy()
        y = (y - y.mean()) / y.std()
        task, num_tasks, q = tasks.task.numpy(), tasks.num_tasks, phi.shape[1]
        rows = np.zeros((len(x), num_tasks, q))
        rows[np.arange(len(x)), task] = phi
        design = rows.reshape(len(x), -1)
        same = np.equal.outer(self.KNOWN, self.KNOWN)
        for s in range(0, len(loc), 37):
            of_mean = np.diag([*[float(draws.mean[s, ...])] * (q - 1), 4.0])
            prior = np.kron(np.ones((num_tasks, num_tasks)), of_mean)
            prior += np.kron(same, float(draws.cluster[s]) * np.eye(q))
            prior += np.kron(np.eye(num_tasks), np.diag(draws.deviation[s].numpy()))
            noise = draws.noise[s, :, 0].numpy()[task]
            gain = prior @ design.T @ np.linalg.inv(design @ prior @ design.T + np.diag(noise))
            mean = (gain @ y).reshape(num_tasks, q)
            after = (prior - gain @ design @ prior).reshape(num_tasks, q, num_tasks, q)
            np.testing.assert_allclose(loc[s, :, 0], mean, atol=1e-6)
            for t in range(num_tasks):
                np.testing.assert_allclose(covariance[s, t, 0], after[t, :, t], atol=1e-6)

    def test_mean_and_uncertainty_are_those_of_drawn_weights(self) -> None:
        tasks, model = _fitted("regression")
        likelihood = model.vmtl.likelihood
        assert isinstance(likelihood, GaussianLikelihood)
        batch = tasks.dense()
        z = model.vmtl.encoder(batch.x).mean
        w = model.vmtl.classifier().sample(torch.Size([4000])).squeeze(2)
        eta = (w[..., :-1] @ z.double().mT + w[..., -1:]).squeeze(-2)[:, batch.mask]
        scale = float(likelihood.target_scale)
        out = model.predict(tasks)
        mean = float(likelihood.target_loc) + scale * eta.mean(0)
        order = batch.index[batch.mask]
        torch.testing.assert_close(out.mean[order].double(), mean, atol=0.05 * scale, rtol=0)
        variance = scale**2 * eta.var(0)
        torch.testing.assert_close(out.epistemic[order].double(), variance, atol=0, rtol=0.3)
        torch.testing.assert_close(out.total, out.aleatoric + out.epistemic)

    def test_targets_in_another_unit_have_the_same_predictions_in_it(self) -> None:
        tasks, model = _fitted("regression")
        moved = replace(tasks, y=1000 * tasks.y + 5e4)
        one, other = model.predict(tasks), _fit(moved).predict(moved)
        scale = 1000 * float(tasks.y.std())
        torch.testing.assert_close(
            other.mean, 1000 * one.mean + 5e4, atol=0.05 * scale, rtol=0, check_dtype=False
        )
        torch.testing.assert_close(other.total, 1e6 * one.total, atol=0, rtol=0.2)
        shift = other.log_density - one.log_density + np.log(1000)
        assert shift.abs().max() < 0.2

    def test_noise_differs_between_tasks_that_have_data_for_it(self) -> None:
        tasks = _tasks("regression", (60, 60))
        quiet = tasks.task == 0
        noise = torch.randn(len(tasks), generator=torch.Generator().manual_seed(0))
        y = tasks.x.sum(-1) + torch.where(quiet, 0.1, 1.5) * noise
        model = _fit(replace(tasks, y=y))
        likelihood = model.vmtl.likelihood
        assert isinstance(likelihood, GaussianLikelihood)
        found = likelihood.noise.flatten()
        assert 0.07 < found[0] < 0.15
        assert 1.1 < found[1] < 2


class TestClasses:
    @pytest.mark.parametrize("kind", ["two classes", "three classes"])
    def test_probabilities_are_those_of_drawn_weights(self, kind: str) -> None:
        tasks, model = _fitted(kind)
        batch = tasks.dense()
        with torch.no_grad():
            z = model.vmtl.encoder(batch.x).mean
            w = model.vmtl.classifier().sample(torch.Size([4000]))
            law = model.vmtl.likelihood(z, w)
            assert isinstance(law, torch.distributions.Categorical)
            probs = law.probs.mean(0)[batch.mask]
        out = model.predict(tasks).mean[batch.index[batch.mask]]
        torch.testing.assert_close(out, probs, atol=0.025, rtol=0, check_dtype=False)

    def test_no_class_is_the_first(self) -> None:
        tasks, model = _fitted("three classes")
        order = torch.tensor([2, 0, 1])
        one = model.predict(tasks).mean
        other = _fit(replace(tasks, y=order[tasks.y])).predict(tasks).mean
        torch.testing.assert_close(other[:, order], one, atol=0.05, rtol=0)

    def test_class_weights_are_those_of_all_classes(self) -> None:
        tasks = _tasks("three classes")
        vmtl = pv.build(tasks)
        assert vmtl.classifier.event_shape == (2, 3)
        w = torch.randn(4, 1, 2, 3)
        assert isinstance(vmtl.likelihood, CategoricalLikelihood)
        each = vmtl.likelihood.class_weights(w)
        assert each.shape == (4, 1, 3, 3)
        torch.testing.assert_close(each.sum(-2), torch.zeros(4, 1, 3), atol=1e-6, rtol=0)

    def test_wide_rows_are_not_fitted_to_the_last_digit(self, tmp_path: Path) -> None:
        """120 correlated columns, 20 rows a task: better than a coin on rows not seen."""
        generator = np.random.default_rng(0)
        loadings, along = generator.normal(size=(5, 120)), generator.normal(size=5)
        parts: list[dict[str, tuple[Array, Array]]] = [{}, {}]
        for t in range(6):
            own = along + 0.3 * generator.normal(size=5)
            for part, size in zip(parts, (20, 200), strict=True):
                factors = generator.normal(size=(size, 5))
                x = factors @ loadings + generator.normal(size=(size, 120))
                y = factors @ own + generator.logistic(size=size) > 0
                part[f"task {t}"] = (x, y.astype(int))
        train, test = (TaskSet.from_arrays(part) for part in parts)
        model = _fit(train, Settings(PrincipalComponents(20)))
        assert isinstance(model.vmtl.encoder, PrincipalComponentsEncoder)
        assert float(model.predict(test).log_density.mean()) > -0.6
        assert float(_weights(model).loc.abs().max()) < 5
        assert "Of 120 inputs the model sees 20 principal components" in " ".join(model.warnings)
        pv.save(model, tmp_path / "model")
        loaded = pv.load(tmp_path / "model")
        assert loaded.predict(test).mean.equal(model.predict(test).mean)

    def test_so_many_that_covariances_would_take_hours_are_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pyro_vmtl.model.priors.nested._MOST_WORK", 1e5)
        likelihood = CategoricalLikelihood(3, contrasts=True)
        with pytest.raises(InputError, match="take hours; expected at most 11 representations, or"):
            NestedWeights(Nested(), 3, likelihood, latent_dim=12)
        NestedWeights(Nested(), 3, likelihood, latent_dim=11)


class TestData:
    @pytest.mark.parametrize("kind", ["regression", "two classes", "three classes"])
    def test_a_sample_without_a_label_is_as_good_as_none(self, kind: str) -> None:
        tasks = _tasks(kind)
        gone = torch.tensor([5, 12, 30])
        y = tasks.y.clone()
        y[gone] = torch.nan if kind == "regression" else -1
        rest = torch.tensor([n for n in range(len(tasks)) if n not in gone.tolist()])
        found = []
        for these in (replace(tasks, y=y), tasks.subset(rest)):
            pyro.set_rng_seed(0)
            vmtl = pv.build(these, encoder=Identity(), pool=Nested())
            for _ in range(3):
                vmtl.update(these.dense())
            found.append(dict(vmtl.named_buffers()))
        for name, value in found[0].items():
            torch.testing.assert_close(value, found[1][name])

    @pytest.mark.parametrize("kind", ["regression", "two classes"])
    def test_features_in_another_unit_have_the_same_predictions(self, kind: str) -> None:
        tasks, model = _fitted(kind)
        moved = replace(tasks, x=100 * tasks.x + 7)
        one, other = model.predict(tasks).mean, _fit(moved).predict(moved).mean
        torch.testing.assert_close(other, one, atol=0.05 * float(one.std()), rtol=0)

    @pytest.mark.parametrize("kind", ["regression", "two classes", "three classes"])
    def test_one_task_is_enough(self, kind: str) -> None:
        tasks = _tasks(kind, (15,))
        model = _fit(tasks)
        out = model.predict(tasks)
        assert out.mean.isfinite().all()
        assert out.log_density.mean() > {"regression": -1.5, "two classes": -0.6}.get(kind, -1.0)
        assert _weights(model).draws.labels.eq(0).all()


class TestParts:
    def test_known_clusters_stay(self) -> None:
        known = [0, 0, 1, 1]
        model = _fit(_tasks("two classes"), Settings(pool=Nested(known=known)))
        assert _borrowing(model).labels.eq(torch.tensor(known)).all()

    def test_known_clusters_are_those_of_all_tasks(self) -> None:
        with pytest.raises(InputError, match="clusters of 3 tasks; expected 4"):
            _fit(_tasks("two classes"), Settings(pool=Nested(known=[0, 0, 1])))

    @pytest.mark.parametrize("kind", ["regression", "two classes", "three classes"])
    def test_complete_pooling_says_the_same_of_all_tasks(self, kind: str) -> None:
        tasks = _tasks(kind)
        model = _fit(tasks, Settings(pool=Nested(clusters=False, deviation="none")))
        x = tasks.x[:5].repeat(4, 1)
        asked = replace(
            tasks, x=x, y=tasks.y[:5].repeat(4), task=torch.arange(4).repeat_interleave(5)
        )
        mean = model.predict(asked).mean
        if kind == "regression":
            mean = mean.unsqueeze(-1)
        by_task = mean.view(4, 5, -1)
        torch.testing.assert_close(by_task, by_task[:1].expand_as(by_task), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("deviation", ["features", "shared", "intercept", "none", "fixed"])
    @pytest.mark.parametrize(("mean", "clusters"), [(True, False), (False, True), (False, False)])
    def test_can_be_left_out(self, deviation: Deviation, mean: bool, clusters: bool) -> None:
        tasks = _tasks("regression", (5, 6, 4))
        if not (mean or clusters) and deviation in ("none", "intercept"):
            with pytest.raises(InputError, match="no mean, no clusters and the deviation"):
                Nested(mean, clusters, deviation)
            return
        vmtl = pv.build(tasks, pool=Nested(mean, clusters, deviation))
        batch = tasks.dense()
        for _ in range(2):
            vmtl.update(batch)
        assert ("weights" in vmtl.borrowing) == clusters
        assert predict(vmtl, tasks).mean.isfinite().all()
        pv.elbo_parts(vmtl, batch, num_particles=1)

    def test_one_task_has_no_clusters_to_vary_by(self) -> None:
        tasks = _tasks("regression", (8,))
        with pytest.raises(InputError, match="a single task has no clusters"):
            pv.build(tasks, pool=Nested(mean=False, deviation="none"))


class TestSettings:
    def test_choose_by_the_data(self) -> None:
        table = Settings().for_data((50,), named=True)
        assert table.encoder == Identity()  # a table's inputs are prepared by its columns
        assert Settings().for_data((50,)).encoder == Identity(standardise=True)
        assert Settings().for_data((51,), named=True).encoder == PrincipalComponents(50)
        assert isinstance(table.pool, Nested)
        assert table.classifier == "conjugate"
        assert isinstance(Settings().for_data((50,)).pool, Nested)
        digits = Settings().for_data((64,), is_classification=True)
        assert digits.encoder == MLP(latent_dim=16, hidden=(512,), dropout=0.1, stochastic=False)
        assert isinstance(digits.pool, Nested)
        digits = Settings().for_data((64,))
        assert digits.encoder == MLP(latent_dim=16)
        assert isinstance(digits.pool, Nested)
        assert isinstance(Settings().for_data((3, 8, 8)).encoder, MLP)
        own = Settings(MLP()).for_data((64,))
        assert isinstance(own.pool, Nested)
        assert own.classifier == "conjugate"

    def test_beside_weights_that_gradients_move_choose_what_they_go_with(self) -> None:
        for chosen, pool in (
            (Settings(classifier="mean_field"), Mixture),
            (Settings(classifier="amortised"), Mixture),
            (Settings(classifier="point"), Standard),
        ):
            settings = chosen.for_data((4,))
            assert type(settings.pool) is pool
            assert settings.encoder == MLP(64)

    def test_keep_what_was_chosen(self) -> None:
        assert Settings(MLP(), Nested()).for_data((64,)).classifier == "conjugate"
        assert isinstance(Settings(Identity()).for_data((64,)).pool, Nested)
        pooled = Settings(pool=Mixture()).for_data((4,))
        assert isinstance(pooled.pool, Mixture)
        assert pooled.classifier == "conjugate"
        assert pooled.encoder == Identity(standardise=True)

    @pytest.mark.parametrize("classifier", ["mean_field", "amortised", "point"])
    def test_refuse_what_does_not_fit(self, classifier: Any) -> None:
        settings = Settings(pool=Nested(), classifier=classifier)
        with pytest.raises(InputError, match="the pool Nested; expected 'conjugate', or another"):
            settings.for_data((4,))

    def test_say_whether_an_encoder_is_trained(self) -> None:
        assert Settings().trains_no_encoder((4,))
        assert Settings(pool=Mixture()).trains_no_encoder((4,))
        assert not Settings().trains_no_encoder((64,))
        assert not Settings(MLP(), Nested()).trains_no_encoder((4,))
        assert not Settings(Identity(), classifier="mean_field").trains_no_encoder((4,))


class TestFit:
    def test_without_gradients_keeps_names_and_history(
        self, fitted: tuple[TaskSet, FittedVMTL]
    ) -> None:
        tasks, model = fitted
        assert model.names == tasks.names
        assert model.classes == tasks.classes
        assert not list(model.vmtl.parameters())
        assert not model.vmtl.training
        # One conjugate step is exact in a regression; then comes the last look.
        assert len(model.history) == (2 if tasks.classes is None else 19)
        assert model.history[["loss", "elbo", "seconds"]].notna().all(axis=None)

    def test_has_nothing_to_resume(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="takes a gradient"):
            pv.fit(_tasks("regression"), resume=tmp_path / "last.ckpt", accelerator="cpu")

    def test_repeats_with_its_seed(self) -> None:
        tasks, one = _fitted("two classes")
        two, other = (_fit(tasks, seed=seed) for seed in (0, 1))
        for name, value in one.vmtl.state_dict().items():
            assert value.equal(two.vmtl.state_dict()[name]), name
        assert not _weights(one).loc.equal(_weights(other).loc)
        means = [model.predict(tasks).mean for model in (one, two, other)]
        assert means[0].equal(means[1])
        torch.testing.assert_close(means[0], means[2], atol=0.05, rtol=0)

    def test_is_the_same_when_saved_and_loaded(
        self, fitted: tuple[TaskSet, FittedVMTL], tmp_path: Path
    ) -> None:
        tasks, model = fitted
        loaded = pv.load(pv.save(model, tmp_path / "model"))
        assert loaded.names == model.names
        one, two = model.predict(tasks), loaded.predict(tasks)
        for name in ("mean", "log_density", "total", "aleatoric", "epistemic"):
            assert getattr(one, name).equal(getattr(two, name)), name
        assert _borrowing(model).probabilities().equal(_borrowing(loaded).probabilities())

    def test_trains_an_encoder_below(self) -> None:
        tasks = _tasks("two classes")
        training = pv.TrainingSettings(epochs=2, steps_per_epoch=2)
        settings = Settings(MLP(3, hidden=(4,)), Nested())
        model = pv.fit(tasks, None, settings, training, accelerator="cpu", log_warnings=False)
        assert len(model.history) == 2
        assert len(_weights(model).draws.labels) > 100
        assert model.predict(tasks).mean.isfinite().all()
