"""Tasks that join a fitted model, and leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vmtl as pv
from pyro_vmtl.data import TaskSet
from pyro_vmtl.data.clusters import Kind
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL, TrainingSettings
from pyro_vmtl.inspection import relatedness_matrix
from pyro_vmtl.model import MLP, Identity, Nested, NestedWeights, Settings
from pyro_vmtl.model.priors.conditionals import bases
from pyro_vmtl.model.priors.gibbs import spread
from pyro_vmtl.model.priors.joining import candidates

KINDS: tuple[Kind, ...] = get_args(Kind)
SEEDS = (0, 1)  # five more in benchmarks/new_tasks.py
OLD = 8  # the next two are of the third cluster and of the first


@cache
def _drawn(kind: Kind, seed: int = 0) -> tuple[TaskSet, TaskSet]:
    """Training and test rows of ten tasks in three clusters."""
    drawn = pv.clusters(10, dimensions=3, kind=kind, samples=30, test_samples=200, seed=seed)
    return drawn.train, drawn.test


def _rows(tasks: TaskSet, names: Sequence[str], count: int) -> TaskSet:
    """The first rows of some tasks."""
    index = [tasks.indices(name)[:count] for name in names]
    return tasks.subset(torch.cat(index)).select(names)


def _fit(tasks: TaskSet, pool: pv.Pool | None = None, seed: int = 0) -> FittedVMTL:
    settings = Settings(encoder=Identity(standardise=True), pool=pool)
    return pv.fit(tasks, settings=settings, seed=seed, accelerator="cpu", log_warnings=False)


@cache
def _fitted(kind: Kind, seed: int = 0) -> FittedVMTL:
    train, _ = _drawn(kind, seed)
    return _fit(train.select(train.names[:OLD]), seed=seed)


@cache
def _joined(kind: Kind, count: int, seed: int = 0) -> FittedVMTL:
    train, _ = _drawn(kind, seed)
    return _fitted(kind, seed).add_task(_rows(train, train.names[OLD:], count))


def _weights(fitted: FittedVMTL) -> NestedWeights:
    weights = fitted.vmtl.classifier
    assert isinstance(weights, NestedWeights)
    return weights


def _density(fitted: FittedVMTL, tasks: TaskSet, names: Sequence[str]) -> float:
    tasks = tasks.select(fitted.names)
    log_density = fitted.predict(tasks).log_density
    return float(torch.cat([log_density[tasks.indices(name)] for name in names]).mean())


class TestAddTask:
    @pytest.mark.parametrize("kind", KINDS)
    def test_leaves_the_old_model_and_the_callers_noise(self, kind: Kind) -> None:
        train, _ = _drawn(kind)
        old = _fitted(kind)
        before = {name: value.clone() for name, value in old.vmtl.state_dict().items()}
        noise = torch.get_rng_state()
        new = old.add_task(_rows(train, train.names[OLD:], 5))
        assert torch.get_rng_state().equal(noise)
        assert not new.vmtl.training
        for name, value in old.vmtl.state_dict().items():
            assert value.equal(before[name]), name
        assert new.names == train.names
        assert new.history.equals(old.history)
        assert (new.settings, new.classes, new.columns) == (old.settings, old.classes, old.columns)
        # Partition and scales of the old tasks are those of the draws, in their order.
        ours, theirs = _weights(new).draws, _weights(old).draws
        assert ours.labels[:, :OLD].equal(theirs.labels)
        assert ours.noise[:, :OLD].equal(theirs.noise)
        for name in ("deviation", "shared", "deviation_spread", "cluster", "mean", "noise_spread"):
            assert getattr(ours, name).equal(getattr(theirs, name)), name

    @pytest.mark.parametrize("kind", KINDS)
    def test_repeats_with_its_seed(self, kind: Kind) -> None:
        train, _ = _drawn(kind)
        few = _rows(train, train.names[OLD:], 3)
        one, two, other = (_fitted(kind).add_task(few, seed=seed) for seed in (0, 0, 1))
        for name, value in one.vmtl.state_dict().items():
            assert value.equal(two.vmtl.state_dict()[name]), name
        assert not _weights(one).draws.labels.equal(_weights(other).draws.labels)

    @pytest.mark.parametrize("kind", ["binary", "regression"])
    @pytest.mark.parametrize("count", [2, 8, 30])
    def test_predicts_as_a_new_fit_does(self, kind: Kind, count: int) -> None:
        """The mean over two worlds; two fits of different seeds differ by about .01."""
        with_rows, without, refits = [], [], []
        for seed in SEEDS:
            train, test = _drawn(kind, seed)
            new = train.names[OLD:]
            index = [train.indices(name) for name in train.names[:OLD]]
            index += [train.indices(name)[:count] for name in new]
            refits.append(_density(_fit(train.subset(torch.cat(index)), seed=seed), test, new))
            with_rows.append(_density(_joined(kind, count, seed), test, new))
            without.append(_density(_joined(kind, 0, seed), test, new))
        assert np.mean(with_rows) > np.mean(refits) - 0.03
        if kind == "regression":  # labels of so few features and tasks tell little
            assert np.mean(with_rows) > np.mean(without) + 0.2

    @pytest.mark.parametrize("kind", ["binary", "regression"])
    def test_with_many_rows_finds_the_cluster(self, kind: Kind) -> None:
        train = pv.clusters(8, 2, 30, 10, spread=0.1, kind=kind).train
        known, new = train.select(train.names[:6]), train.select(train.names[6:])
        chance = relatedness_matrix(pv.relatedness(_fit(known).add_task(new))).to_numpy()
        assert min(chance[6, [0, 2, 4]].min(), chance[7, [1, 3, 5]].min()) > 0.85
        assert max(chance[6, [1, 3, 5]].max(), chance[7, [0, 2, 4]].max()) < 0.15

    def test_fits_rows_that_no_other_task_is_like(self) -> None:
        """It opens a cluster of its own."""
        train, _ = _drawn("regression")
        own = _rows(train, train.names[OLD : OLD + 1], 30)
        weights = torch.tensor([4.0, -4.0, 4.0])
        joined = _fitted("regression").add_task(replace(own, y=own.x @ weights))
        labels = _weights(joined).draws.labels
        assert (labels[:, -1:] == labels[:, :-1]).any(-1).double().mean() < 0.05

    def test_joins_by_itself_or_after_others(self) -> None:
        """One after the other is the same as two calls, but for the draws."""
        train, test = _drawn("binary")
        one, two = train.names[OLD:]
        both = _joined("binary", 30)
        turns = (
            _fitted("binary").add_task(_rows(train, [one], 30)).add_task(_rows(train, [two], 30))
        )
        assert turns.names == both.names
        torch.testing.assert_close(
            turns.predict(test).mean, both.predict(test).mean, atol=0.05, rtol=0
        )


class TestWithoutRows:
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_not_much_worse_than_a_guess(self, kind: Kind) -> None:
        """A coin, the classes' shares, or the normal of all old targets."""
        found, guess = [], []
        for seed in SEEDS:
            train, test = _drawn(kind, seed)
            new, known = train.names[OLD:], train.select(train.names[:OLD])
            found.append(_density(_joined(kind, 0, seed), test, new))
            y = test.select(new).y
            if kind == "regression":
                guess.append(
                    float(
                        torch.distributions.Normal(known.y.mean(), known.y.std()).log_prob(y).mean()
                    )
                )
            else:
                shares = known.class_counts.sum(0) / len(known)
                guess.append(float(shares[y].log().mean()))
        assert np.isfinite(found).all()
        assert np.mean(found) > np.mean(guess) - 0.1

    def test_mean_and_variance_are_those_of_the_population(self) -> None:
        """In closed form, over every cluster of every draw, by its chance before data."""
        train, test = _drawn("regression")
        old, new = _fitted("regression"), _joined("regression", 0)
        weights = _weights(old)
        there = candidates(weights.evidence, weights.prior, weights.draws)
        exists = there.log_prior.isfinite()
        share = there.log_prior.exp()[exists] / len(exists)
        base = bases(weights.evidence, weights.prior, weights.draws)
        asked = test.select(train.names[OLD:])
        z = old.vmtl.encoder(asked.x.unsqueeze(0)).mean[0].double()
        phi = torch.cat([z, torch.ones_like(z[:, :1])], 1)
        mean = base.loc[exists][:, 0] @ phi.mT  # [H, N]
        own = spread(weights.draws.deviation, weights.prior.groups)[exists.nonzero()[:, 0]]
        covariance = base.covariance[exists][:, 0] + own.diag_embed()
        variance = ((phi @ covariance) * phi).sum(-1)
        noise = (there.log_noise + 0.5 * there.noise_spread).exp()[exists.nonzero()[:, 0]]
        expected = share @ mean
        second = share @ (variance + mean.square() + noise.unsqueeze(-1)) - expected.square()
        likelihood = old.vmtl.likelihood
        assert isinstance(likelihood, pv.model.GaussianLikelihood)
        loc, scale = likelihood.target_loc, likelihood.target_scale
        told = new.predict(test)
        rows = torch.cat([test.indices(name) for name in train.names[OLD:]])
        # A cluster a draw: a share of 200 of them is known to about .03.
        torch.testing.assert_close(
            told.mean[rows].double(), loc + scale * expected, atol=0.1 * float(scale), rtol=0
        )
        torch.testing.assert_close(told.total[rows].double(), scale**2 * second, atol=0, rtol=0.15)

    @pytest.mark.parametrize("kind", KINDS)
    def test_leaves_what_is_said_of_the_others(self, kind: Kind) -> None:
        train, test = _drawn(kind)
        asked = test.select(train.names[:OLD])
        before = _weights(_fitted(kind)).by_draw()
        after = _weights(_joined(kind, 0)).by_draw()
        for one, other in zip(before, after, strict=True):
            torch.testing.assert_close(other[:, :OLD], one, atol=1e-10, rtol=1e-10)
        assert _fitted(kind).predict(asked).mean.isfinite().all()

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("count", [0, 3])
    def test_is_read_from_arrays(self, kind: Kind, count: int) -> None:
        """No sample at all, or none with a label."""
        fitted = _fitted(kind)
        arrays = {"west": (np.zeros((count, 3)), None)}
        none = TaskSet.from_arrays(arrays, fitted.classes, regression=fitted.classes is None)
        draws = _weights(fitted.add_task(none)).draws
        assert draws.labels.equal(_weights(_joined(kind, 0)).draws.labels[:, : OLD + 1])

    def test_says_so(self) -> None:
        train, _ = _drawn("binary")
        sentences = _joined("binary", 0).warnings
        assert sum("has no labelled sample" in told for told in sentences) == 2
        assert repr(train.names[-1]) in sentences[-1]
        one = _rows(train, train.names[-1:], 1)
        (told,) = set(_fitted("binary").add_task(one).warnings) - set(_fitted("binary").warnings)
        assert "has no training sample of the class" in told


class TestForget:
    @pytest.mark.parametrize("kind", KINDS)
    def test_takes_back_what_a_new_task_said(self, kind: Kind) -> None:
        train, test = _drawn(kind)
        forgotten = _joined(kind, 8)
        for name in train.names[OLD:]:
            forgotten = forgotten.forget(name)
        old = _fitted(kind)
        assert forgotten.names == old.names
        assert forgotten.warnings == old.warnings
        asked = test.select(old.names)
        one, other = old.predict(asked), forgotten.predict(asked)
        for name in ("mean", "log_density", "total"):
            torch.testing.assert_close(
                getattr(one, name), getattr(other, name), atol=1e-8, rtol=1e-8
            )
        for name, value in old.vmtl.state_dict().items():
            torch.testing.assert_close(
                forgotten.vmtl.state_dict()[name], value, atol=1e-8, rtol=1e-8
            )

    @pytest.mark.parametrize("kind", KINDS)
    def test_predicts_the_others_as_a_fit_without_it(self, kind: Kind) -> None:
        train, test = _drawn(kind)
        gone, *rest = train.names[:OLD]
        forgotten = _fitted(kind).forget(gone)
        refit = _fit(train.select(rest))
        assert forgotten.names == tuple(rest)
        assert abs(_density(forgotten, test, rest) - _density(refit, test, rest)) < 0.02

    @pytest.mark.parametrize("kind", KINDS)
    def test_rows_are_as_if_they_had_not_been_there(self, kind: Kind) -> None:
        train, test = _drawn(kind)
        train = train.select(train.names[:OLD])
        gone = torch.cat([train.indices(name)[:20] for name in train.names[:2]])
        rest = torch.from_numpy(np.setdiff1d(np.arange(len(train)), gone))
        fitted = _fitted(kind)
        forgotten = fitted.forget(train.subset(gone))
        refit = _fit(train.subset(rest))
        assert _weights(forgotten).counts.tolist() == _weights(refit).counts.tolist()
        one, other = (_density(model, test, train.names[:2]) for model in (forgotten, refit))
        assert abs(one - other) < 0.05
        assert one < _density(fitted, test, train.names[:2]) - 0.01
        again = fitted.forget(train.subset(gone), rest=train.subset(rest))
        assert abs(_density(again, test, train.names[:2]) - other) < 0.02
        if kind != "regression":  # what the other rows were taken to say has changed
            loc, covariance = _weights(refit).loc, _weights(refit).covariance
            sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
            away = [((_weights(f).loc - loc) / sd).abs().mean() for f in (again, forgotten)]
            assert away[0] < min(0.1, float(away[1]))
        else:  # every row said what it says
            nothing = _weights(fitted.forget(train))
            assert float(nothing.precision.abs().max()) < 1e-8
            assert float(nothing.shift.abs().max()) < 1e-8
        with pytest.raises(InputError, match="was not trained on these rows"):
            forgotten.forget(train.subset(gone))
        with pytest.raises(InputError, match="the rows have the tasks"):
            fitted.forget(train.select(train.names[:2]))
        with pytest.raises(InputError, match="expected those that stay"):
            fitted.forget(train.names[0], rest=train)

    def test_one_task_may_remain_and_others_join_it(self) -> None:
        train, test = _drawn("regression")
        fitted = _fitted("regression")
        first, second, *rest = fitted.names
        for name in rest:
            fitted = fitted.forget(name)
        expected = _weights(fitted).by_draw().loc[:, 0]
        lone = fitted.forget(second)
        assert lone.names == (first,)
        assert "weights" not in lone.vmtl.borrowing
        asked = test.select([first])
        assert float(lone.predict(asked).log_density.mean()) > -2
        back = lone.add_task(_rows(train, [second], 30))
        assert back.names == (first, second)
        # Where the clusters are those that were drawn, so are the weights.
        same = (_weights(back).draws.labels == _weights(fitted).draws.labels).all(-1)
        same &= (
            torch.isclose(_weights(back).draws.noise, _weights(fitted).draws.noise).all(-1).all(-1)
        )
        torch.testing.assert_close(_weights(back).by_draw().loc[same, 0], expected[same])
        with pytest.raises(InputError, match="has a single task; expected another that remains"):
            lone.forget(first)

    def test_keeps_the_clusters_that_were_known(self, tmp_path: Path) -> None:
        train, test = _drawn("regression")
        names = train.names[:4]
        pool = Nested(known=[0, 1, 0, 1])
        fitted = _fit(train.select(names), pool)
        forgotten = fitted.forget(names[1])
        assert pool.known == (0, 1, 0, 1)
        assert _weights(forgotten).draws.labels.eq(torch.tensor([0, 0, 1])).all()
        loaded = pv.load(pv.save(forgotten, tmp_path / "model"))
        assert isinstance(loaded.settings.pool, Nested)
        assert loaded.settings.pool.known == (0, 0, 1)
        asked = test.select(forgotten.names)
        assert loaded.predict(asked).mean.equal(forgotten.predict(asked).mean)


class TestWhatFollows:
    @pytest.mark.parametrize("kind", KINDS)
    def test_saved_and_loaded_it_is_the_same(self, kind: Kind, tmp_path: Path) -> None:
        _, test = _drawn(kind)
        for number, fitted in enumerate((_joined(kind, 8), _joined(kind, 8).forget("task 2"))):
            asked = test.select(fitted.names)
            loaded = pv.load(pv.save(fitted, tmp_path / str(number)))
            assert loaded.names == fitted.names
            assert loaded.warnings == fitted.warnings
            assert loaded.predict(asked).mean.equal(fitted.predict(asked).mean)
            pd.testing.assert_frame_equal(pv.relatedness(loaded), pv.relatedness(fitted))
            for name, value in fitted.vmtl.state_dict().items():
                assert value.equal(loaded.vmtl.state_dict()[name]), name

    @pytest.mark.parametrize("kind", ["binary", "regression"])
    def test_can_be_looked_at(self, kind: Kind) -> None:
        train, test = _drawn(kind)
        fitted = _joined(kind, 8)
        table = pv.relatedness(fitted)
        assert set(table["task"]) == set(train.names)
        assert table["probability"].between(0, 1).all()
        assert pv.partitions(fitted)["probability"].sum() == pytest.approx(1)
        data = pv.to_inference_data(fitted, test, num_samples=20)
        assert list(data.posterior["task"].to_numpy()) == list(train.names)
        frame = fitted.predict(test).frame()
        assert set(frame["task"]) == set(train.names)
        parts = pv.elbo_parts(fitted.vmtl, train.dense(), num_particles=1)
        assert np.isfinite(parts.elbo)

    @pytest.mark.parametrize("kind", KINDS)
    def test_goes_on_with_updates(self, kind: Kind) -> None:
        """The chains stand where a task joined, and move on from there."""
        train, test = _drawn(kind)
        fitted = _fitted(kind).add_task(_rows(train, train.names[OLD:], 30))
        before = _density(fitted, test, train.names)
        fitted.vmtl.update(train.dense(), last=True)
        assert _density(fitted, test, train.names) == pytest.approx(before, abs=0.05)

    def test_knows_the_columns_of_its_table(self) -> None:
        generator = np.random.default_rng(0)
        rows = 90
        frame = pd.DataFrame(
            {
                "clinic": generator.choice(["north", "south", "west"], rows),
                "age": generator.normal(60, 10, rows),
                "year": generator.integers(1990, 2020, rows).astype(float),
            }
        )
        frame["stay"] = (frame["age"] - 60) / 10 + generator.normal(0, 0.3, rows)
        is_new = frame["clinic"] == "west"
        tasks = pv.read_table(frame[~is_new], "clinic", "stay", features=["age", "year"])
        fitted = _fit(tasks)
        west = pv.read_rows(frame[is_new], like=replace(fitted, names=("west",)))
        joined = fitted.add_task(west)
        assert joined.columns == fitted.columns
        told = joined.predict(pv.read_rows(frame, like=joined)).frame()
        away = told["prediction"] - told["target"]
        assert away[told["task"] == "west"].std() < 0.5
        other = pv.read_table(frame[is_new], "clinic", "stay", features=["age", "year"])
        with pytest.raises(InputError, match="other columns than those"):
            fitted.add_task(other)

    def test_of_several_outputs(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(80, 3, generator=generator)
        y = x @ torch.randn(3, 2, generator=generator) + 0.3 * torch.randn(
            80, 2, generator=generator
        )
        tasks = TaskSet(tuple("abcd"), x, y, torch.arange(4).repeat_interleave(20), None)
        fitted = _fit(tasks.select(list("abc")))
        for count in (0, 20):
            joined = fitted.add_task(_rows(tasks, ["d"], count))
            assert joined.predict(tasks).mean.shape == (80, 2)
            assert _weights(joined).draws.noise.shape[1:] == (4, 2)
        assert _density(joined, tasks, ["d"]) > _density(
            fitted.add_task(_rows(tasks, ["d"], 0)), tasks, ["d"]
        )

    @pytest.mark.parametrize("stochastic", [True, False])
    def test_with_a_trained_encoder(self, stochastic: bool) -> None:
        train, test = _drawn("binary")
        settings = Settings(MLP(3, hidden=(8,), stochastic=stochastic), Nested())
        training = TrainingSettings(epochs=2, steps_per_epoch=5)
        known = train.select(train.names[:OLD])
        fitted = pv.fit(known, None, settings, training, accelerator="cpu", log_warnings=False)
        joined = fitted.add_task(_rows(train, train.names[OLD:], 10))
        for name, value in fitted.vmtl.encoder.state_dict().items():
            assert value.equal(joined.vmtl.encoder.state_dict()[name]), name
        assert joined.vmtl.tempering == fitted.vmtl.tempering
        assert joined.predict(test).mean.isfinite().all()

    def test_without_clusters_or_without_a_bias(self) -> None:
        train, test = _drawn("regression")
        known, few = train.select(train.names[:OLD]), _rows(train, train.names[OLD:], 5)
        for pool in (Nested(clusters=False), Nested(mean=False), Nested(False, False, "fixed")):
            settings = Settings(Identity(), pool, bias=False)
            fitted = pv.fit(known, settings=settings, accelerator="cpu", log_warnings=False)
            joined = fitted.add_task(few)
            assert joined.predict(test).mean.isfinite().all()
            assert ("weights" in joined.vmtl.borrowing) == pool.clusters


class TestRefusals:
    @staticmethod
    def _few(kind: Kind = "binary", name: str = "new") -> TaskSet:
        return replace(_rows(_drawn(kind)[0], ["task 8"], 4), names=(name,))

    def test_tasks_that_are_known(self) -> None:
        with pytest.raises(InputError, match="knows the task 'task 3' already; expected new tasks"):
            _fitted("binary").add_task(self._few(name="task 3"))

    def test_tasks_of_other_data(self) -> None:
        few, fitted = self._few(), _fitted("binary")
        with pytest.raises(InputError, match=r"a sample has shape \[2\]; the model was trained on"):
            fitted.add_task(replace(few, x=few.x[:, :2]))
        with pytest.raises(InputError, match=r"the classes are \('no', 'yes'\)"):
            fitted.add_task(replace(few, classes=("no", "yes")))
        with pytest.raises(InputError, match="the classes are None"):
            fitted.add_task(self._few("regression"))
        other = replace(self._few("regression"), outputs=("height",))
        with pytest.raises(InputError, match=r"the outputs are \('height',\); the model was"):
            _fitted("regression").add_task(other)
        with pytest.raises(InputError, match="the set of new tasks is a dict; expected a TaskSet"):
            fitted.add_task({"new": few})  # type: ignore[arg-type]

    def test_seeds_that_are_none(self) -> None:
        with pytest.raises(InputError, match="seed is -1; expected a whole number"):
            _fitted("binary").add_task(self._few(), seed=-1)

    def test_clusters_that_are_known(self) -> None:
        train, _ = _drawn("regression")
        fitted = _fit(train.select(train.names[:3]), Nested(known=[0, 1, 0]))
        with pytest.raises(InputError, match=r"the pool's known is \[0, 1, 0\].*known=None"):
            fitted.add_task(self._few("regression"))

    def test_a_model_of_one_task(self) -> None:
        train, _ = _drawn("regression")
        fitted = _fit(train.select(train.names[:1]))
        with pytest.raises(
            InputError, match=r"fitted to one task.*expected one that was fitted to"
        ):
            fitted.add_task(self._few("regression"))

    def test_a_task_that_is_not_there(self) -> None:
        with pytest.raises(InputError, match=r"no task 'new'; expected one of \['task 0'"):
            _fitted("binary").forget("new")

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            (Settings(Identity(), pv.Mixture()), "the pool Mixture; expected Nested"),
            (Settings(MLP(2, (4,), per_task=True), Nested()), "an encoder for each task"),
            (
                Settings(MLP(2, (4,)), Nested(), pv.Mixture()),
                r"the representation pool Mixture, .* expected Standard",
            ),
        ],
    )
    def test_models_that_no_task_can_join_or_leave(self, settings: Settings, match: str) -> None:
        train, _ = _drawn("binary")
        training = TrainingSettings(epochs=1, steps_per_epoch=1)
        known = train.select(train.names[:3])
        fitted = pv.fit(known, None, settings, training, accelerator="cpu", log_warnings=False)
        with pytest.raises(InputError, match=f"the model has {match}"):
            fitted.add_task(self._few())
        with pytest.raises(InputError, match=f"the model has {match}"):
            fitted.forget("task 0")
