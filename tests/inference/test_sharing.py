"""Places that share evidence in place of rows come to what a fit of all rows says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.data import ColumnSums, TaskSet
from pyro_vmtl.data.clusters import Kind
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL
from pyro_vmtl.model import DeterministicEncoder, NestedWeights, Settings, mlp
from pyro_vmtl.model.priors.gibbs import State

KINDS: tuple[Kind, ...] = ("regression", "binary", "multiclass")
PLACES = ((0,), (1, 2), (3, 4, 5))  # tasks of the three places


@cache
def _drawn(kind: Kind) -> pv.TaskSplits:
    return pv.clusters(6, 2, samples=15, dimensions=2, kind=kind, test_samples=20, seed=3)


def _places(tasks: TaskSet) -> list[TaskSet]:
    return [tasks.select([tasks.names[t] for t in place]) for place in PLACES]


def _settings(kind: Kind) -> Settings:
    likelihood = pv.Gaussian() if kind == "regression" else pv.Categorical()
    return Settings(encoder=pv.Identity(standardise=True), likelihood=likelihood)


def _agreed(kind: Kind) -> FittedVMTL:
    return pv.agree(list(map(pv.summary, _places(_drawn(kind).train))), _settings(kind))


def _round(model: FittedVMTL, places: Sequence[TaskSet]) -> FittedVMTL:
    return pv.join([pv.evidence(rows, pv.request(model, rows.names)) for rows in places], model)


@cache
def _joined(kind: Kind) -> FittedVMTL:
    model = _agreed(kind)
    for _ in range(1 if kind == "regression" else 3):
        model = _round(model, _places(_drawn(kind).train))
    return model


@cache
def _fitted(kind: Kind) -> FittedVMTL:
    return pv.fit(
        _drawn(kind).train, settings=_settings(kind), accelerator="cpu", log_warnings=False
    )


def _weights(fitted: FittedVMTL) -> NestedWeights:
    weights = fitted.vmtl.classifier
    assert isinstance(weights, NestedWeights)
    return weights


def _away(one: FittedVMTL, other: FittedVMTL) -> Tensor:
    """Of posterior means, in posterior standard deviations."""
    a, b = _weights(one), _weights(other)
    return (a.loc - b.loc) / a.covariance.diagonal(dim1=-2, dim2=-1).sqrt()


def _of_two_draws(model: FittedVMTL) -> FittedVMTL:
    """In one of them all tasks are together, in the other apart."""
    weights = _weights(model)
    draws = State(**{name: value[:2] for name, value in vars(weights.draws).items()})
    assert draws.labels.amax(1).tolist() == [0, model.vmtl.num_tasks - 1]
    weights._take_draws(weights.chains, draws, model.vmtl.likelihood)
    return model


def _updated(model: FittedVMTL, tasks: TaskSet, steps: int) -> None:
    """The steps of a fit."""
    _weights(model).rate = 0.7
    for _ in range(steps):
        model.vmtl.update(tasks.dense())


class TestGivenPartitionAndScales:
    """Draws are held fixed: no sweep is made."""

    @pytest.fixture(autouse=True)
    def _no_sweeps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def find_posterior(
            self: NestedWeights, likelihood: pv.Likelihood, last: bool, held_out: object
        ) -> None:
            self._take_draws(self.chains, self.draws, likelihood)

        monkeypatch.setattr(NestedWeights, "find_posterior", find_posterior)

    @pytest.mark.parametrize(
        ("kind", "encoder"), [*((kind, "identity") for kind in KINDS), ("regression", "network")]
    )
    def test_the_posterior_is_that_of_all_rows(self, kind: Kind, encoder: str) -> None:
        train = _drawn(kind).train
        settings = _settings(kind)
        if encoder == "network":  # trained elsewhere, and fixed
            network = DeterministicEncoder(mlp((2,), (4,), 3), 3).requires_grad_(False).eval()
            settings = replace(settings, encoder=network, pool=pv.Nested())
        model = pv.agree(list(map(pv.summary, _places(train))), settings)
        model, whole = _of_two_draws(model), _of_two_draws(pv.agree([pv.summary(train)], settings))
        _updated(whole, train, 1 if kind == "regression" else 30)
        for _ in range(1 if kind == "regression" else 12):
            model = _round(model, _places(train))
        assert float(_away(whole, model).abs().max()) < 1e-4
        ratio = _weights(model).covariance / _weights(whole).covariance
        assert float((ratio.diagonal(dim1=-2, dim2=-1) - 1).abs().max()) < 1e-4
        if kind != "regression":
            assert model.history["moved"].iloc[-1] < 1e-4

    @pytest.mark.parametrize("likelihood", [pv.NegativeBinomial(), pv.StudentT(), pv.Ordinal()])
    def test_where_rounds_lead_a_step_of_all_rows_stays(self, likelihood: pv.model.Family) -> None:
        generator = torch.Generator().manual_seed(0)
        train = _drawn("multiclass" if likelihood.of_classes else "regression").train
        if isinstance(likelihood, pv.NegativeBinomial):
            mean = (0.3 * train.y).exp() * torch.rand(len(train), generator=generator) * 4
            train = replace(train, y=torch.poisson(mean, generator=generator))
        settings = Settings(encoder=pv.Identity(), likelihood=likelihood)
        told = train.y if isinstance(likelihood, pv.StudentT) else None
        model = _of_two_draws(
            pv.agree(list(map(pv.summary, _places(train))), settings, targets=told)
        )
        for _ in range(6):
            model = _round(model, _places(train))
        theta, loc = model.vmtl.likelihood.get_buffer("theta").clone(), _weights(model).loc
        _updated(model, train, 3)
        torch.testing.assert_close(
            model.vmtl.likelihood.get_buffer("theta"), theta, atol=2e-3, rtol=2e-3
        )
        torch.testing.assert_close(_weights(model).loc, loc, atol=1e-3, rtol=1e-3)


class TestAgainstAFit:
    def test_of_gaussian_rows_one_round_is_the_fit(self) -> None:
        """Even the draws: sites that agree but for rounding lead the chains alike."""
        joined, fitted = _joined("regression"), _fitted("regression")
        one, other = _weights(joined), _weights(fitted)
        assert one.draws.labels.equal(other.draws.labels)
        torch.testing.assert_close(one.loc, other.loc, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.draws.noise, other.draws.noise, atol=1e-5, rtol=1e-4)
        test = _drawn("regression").test
        torch.testing.assert_close(
            joined.predict(test).log_density, fitted.predict(test).log_density, atol=1e-4, rtol=1e-4
        )

    def test_of_classes_it_is_within_monte_carlo_error(self) -> None:
        """Two fits of different seeds differ by .1 or so in one of the means."""
        joined, fitted = _joined("binary"), _fitted("binary")
        assert float(_away(fitted, joined).square().mean().sqrt()) < 0.2
        test = _drawn("binary").test
        densities = [model.predict(test).log_density.mean() for model in (joined, fitted)]
        assert abs(float(densities[0] - densities[1])) < 0.02
        chances = [pv.relatedness(model)["probability"].to_numpy() for model in (joined, fitted)]
        assert np.abs(chances[0] - chances[1]).max() < 0.25
        assert joined.history["moved"].is_monotonic_decreasing

    @pytest.mark.parametrize("kind", ["regression", "binary"])
    def test_is_a_fitted_model_in_all_else(self, kind: Kind, tmp_path: Path) -> None:
        drawn, joined = _drawn(kind), _joined(kind)
        loaded = pv.load(pv.save(joined, tmp_path / "model"))
        assert loaded.predict(drawn.test, 20).mean.equal(joined.predict(drawn.test, 20).mean)
        assert loaded.notes == joined.notes
        assert len(joined.notes) == len(joined.history)
        left = joined.forget(joined.names[0])
        again = left.add_task(drawn.train.select(joined.names[:1]))
        assert again.names == (*joined.names[1:], joined.names[0])
        # A request of the loaded model is one of the saved model.
        rows = drawn.train.select(joined.names[:1])
        assert pv.request(loaded).digest == pv.request(joined).digest
        assert pv.evidence(rows, loaded).sites.shift.equal(pv.evidence(rows, joined).sites.shift)

    def test_rows_in_another_order_of_tasks_say_the_same(self) -> None:
        model, train = _joined("binary"), _drawn("binary").train
        ahead = pv.evidence(train, model)
        back = pv.evidence(train.select(train.names[::-1]), pv.request(model, train.names))
        torch.testing.assert_close(ahead.sites.precision, back.sites.precision.flip(0))
        one, other = pv.join([ahead], model), pv.join([back], model)
        torch.testing.assert_close(_weights(one).precision, _weights(other).precision)


def test_what_is_sent_is_sums_over_rows() -> None:
    """Of a regression X'X, X'y, y'y and n; and nothing of others goes with a request."""
    model, train = _agreed("regression"), _drawn("regression").train
    rows = train.select(train.names[:1])
    found = pv.evidence(rows, pv.request(model, rows.names)).sites
    x = train.x.double()
    x = torch.cat([(x - x.mean(0)) / x.std(0, correction=0), torch.ones(len(x), 1)], 1)
    y = ((train.y - train.y.double().mean()) / train.y.double().std(correction=0)).double()
    x, y = x[train.indices(rows.names[0])], y[train.indices(rows.names[0])]
    torch.testing.assert_close(found.precision[0, 0], x.T @ x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.shift[0, 0], x.T @ y, atol=1e-5, rtol=1e-5)
    assert found.squares is not None
    torch.testing.assert_close(found.squares[0, 0], y @ y, atol=1e-5, rtol=1e-5)
    assert found.counts.tolist() == [[len(x)]]
    message = pv.request(_joined("regression"), rows.names).message()
    assert all("draw" not in name and "noise" not in name for name in message.tensors)
    assert not any(name in str(message.description) for name in train.names[1:])
    assert message.tensors["classifier.precision"].shape[0] == 1


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_one_row_is_read_off_its_evidence(kind: Kind) -> None:
    """As docs/sharing.md says."""
    model = _agreed(kind)
    train = _drawn(kind).train
    one = train.subset(train.indices("task 0")[:1]).select(["task 0"])
    asked = pv.request(model, "task 0")
    sites = pv.evidence(one, asked).sites
    x = sites.precision[0, 0, -1, :-1] / sites.precision[0, 0, -1, -1]
    encoder = asked.vmtl.encoder
    x = x * encoder.get_buffer("scale") + encoder.get_buffer("loc")
    torch.testing.assert_close(x, one.x[0].double(), atol=1e-5, rtol=1e-5)
    if kind == "regression":
        likelihood = asked.vmtl.likelihood
        y = sites.shift[0, :, -1] * likelihood.get_buffer("target_scale")
        y = y + likelihood.get_buffer("target_loc")
        torch.testing.assert_close(y, one.y.double(), atol=1e-5, rtol=1e-5)


class TestTables:
    @staticmethod
    def _table() -> pd.DataFrame:
        generator = np.random.default_rng(0)
        age = generator.normal(60, 10, 90).round(1)
        age[::17] = np.nan
        return pd.DataFrame(
            {
                "clinic": np.repeat(["north", "south", "west"], 30),
                "age": age,
                "smokes": generator.choice([0, 1], 90),
                "stage": generator.choice(["I", "II", "III"], 90),
                "ill": generator.choice(["no", "yes"], 90),
            }
        )

    def test_are_standardised_by_all_rows_through_files(self, tmp_path: Path) -> None:
        """Every place reads its own table; files are all that it sends."""
        table = self._table()
        clinics = table["clinic"].unique()
        for clinic, own in table.groupby("clinic"):
            own.to_csv(tmp_path / f"{clinic}.csv", index=False)
            pv.summary(tmp_path / f"{clinic}.csv", "clinic", "ill", classes=["no", "yes"]).save(
                tmp_path / f"{clinic}.summary"
            )
        model = pv.agree([pv.TaskSummary.load(tmp_path / f"{c}.summary") for c in clinics])
        whole = pv.read_table(table, "clinic", "ill")
        assert model.columns is not None
        assert whole.columns is not None
        assert model.columns.inputs == whole.columns.inputs
        for ours, theirs in zip(model.columns.features, whole.columns.features, strict=True):
            assert ours.mean == pytest.approx(theirs.mean)
            assert ours.deviation == pytest.approx(theirs.deviation)
            assert (ours.levels, ours.gaps) == (theirs.levels, theirs.gaps)
            assert ours.shares == pytest.approx(theirs.shares)
        answers = []
        for clinic in clinics:
            pv.request(model, clinic).save(tmp_path / f"{clinic}.request")
            asked = pv.TaskRequest.load(tmp_path / f"{clinic}.request")
            rows = pv.read_rows(tmp_path / f"{clinic}.csv", like=asked)
            pv.evidence(rows, asked).save(tmp_path / f"{clinic}.evidence")
            answers.append(pv.TaskEvidence.load(tmp_path / f"{clinic}.evidence"))
        joined = pv.join(answers, model)
        sizes = [(tmp_path / f"{clinic}.evidence").stat().st_size for clinic in clinics]
        assert joined.history["bytes"].tolist() == [sum(sizes)]
        told = joined.predict(pv.read_rows(table, like=joined))
        assert told.frame()["prediction"].isin(["no", "yes"]).all()
        with pytest.raises(InputError, match="the rows were standardised otherwise"):
            pv.evidence(whole, model)
        with pytest.raises(InputError, match=r"'south' has no labelled row"):
            pv.evidence(pv.read_rows(tmp_path / "north.csv", like=model), model)

    def test_text_that_names_its_row_is_not_sent(self) -> None:
        table = self._table().assign(patient=[f"patient {n}" for n in range(90)])
        with pytest.raises(
            InputError,
            match=r"'patient' of .* has 90 distinct texts in 90 rows, which would be sent",
        ):
            pv.summary(table, "clinic", "ill")
        assert pv.summary(table, "clinic", "ill", leave_out=["patient"]).names[0] == "north"

    def test_columns_and_kinds_have_to_agree(self) -> None:
        table = self._table()
        north, south = (table[table["clinic"] == name] for name in ("north", "south"))
        one = pv.summary(north, "clinic", "ill")
        with pytest.raises(InputError, match=r"'south' has the columns .* expected those of"):
            pv.agree([one, pv.summary(south.drop(columns="age"), "clinic", "ill")])
        with pytest.raises(InputError, match=r"'stage' is of the kind text .* number"):
            pv.agree([one, pv.summary(south.assign(stage=2.5), "clinic", "ill")])
        with pytest.raises(InputError, match="a task set of arrays"):
            pv.summary(pv.read_table(table, "clinic", "ill"))


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_sums_of_parts_are_those_of_the_whole(parts: int) -> None:
    values = np.random.default_rng(parts).normal(1e6, 1, 40)
    values[::7] = np.nan
    merged = ColumnSums.merged(
        [ColumnSums.of_numbers("x", part) for part in np.array_split(values, parts)]
    )
    assert (merged.rows, merged.missing) == (40, 6)
    assert merged.mean == pytest.approx(np.nanmean(values), rel=1e-15)
    assert merged.variance == pytest.approx(np.nanvar(values), rel=1e-9)
    constant = [ColumnSums.of_numbers("x", np.full(n, 0.1)) for n in range(1, parts + 1)]
    assert ColumnSums.merged(constant).variance == 0


class TestRefusals:
    def test_evidence_that_does_not_fit_the_model(self) -> None:
        model, places = _joined("binary"), _places(_drawn("binary").train)
        parts = [pv.evidence(rows, model) for rows in places]
        with pytest.raises(InputError, match="no evidence of the task 'task 0'"):
            pv.join(parts[1:], model)
        with pytest.raises(InputError, match="of the task 'task 0' twice"):
            pv.join([parts[0], *parts], model)
        with pytest.raises(InputError, match=r"answers another model .* another round"):
            pv.join(parts, _agreed("binary"))
        with pytest.raises(InputError, match="of other settings"):
            pv.join(
                parts, replace(model, settings=replace(model.settings, pool=pv.Nested(gamma=2)))
            )
        sites = parts[0].sites
        fewer = replace(
            parts[0],
            sites=replace(
                sites, shift=sites.shift[..., 1:], precision=sites.precision[..., 1:, 1:]
            ),
        )
        with pytest.raises(InputError, match=r"1 rows of 2 weights.*; expected 1 of 3"):
            pv.join([fewer, *parts[1:]], model)
        wrong = replace(parts[0], sites=replace(sites, precision=-sites.precision))
        with pytest.raises(InputError, match="'task 0' has a precision with eigenvalues below 0"):
            pv.join([wrong, *parts[1:]], model)

    def test_rows_that_do_not_fit_what_asks(self) -> None:
        model, train = _joined("binary"), _drawn("binary").train
        asked = pv.request(model, "task 0")
        with pytest.raises(InputError, match="there is no task 'task 1'; expected some of"):
            pv.evidence(train, asked)
        own = train.select(["task 0"])
        with pytest.raises(InputError, match="'task 0' has no labelled row"):
            pv.evidence(replace(own, y=torch.full_like(own.y, -1)), asked)
        with pytest.raises(InputError, match=r"the input_shape \(1,\)"):
            pv.evidence(replace(own, x=own.x[:, :1]), asked)
        with pytest.raises(InputError, match="the rows have the classes"):
            pv.evidence(replace(own, classes=("no", "yes")), asked)

    def test_what_cannot_be_agreed_on(self) -> None:
        train = _drawn("binary").train
        summaries = list(map(pv.summary, _places(train)))
        with pytest.raises(InputError, match="two summaries have a task 'task 0'"):
            pv.agree([summaries[0], *summaries])
        with pytest.raises(InputError, match="rows of all places would have to train"):
            pv.agree(summaries, Settings(encoder=pv.MLP()))
        with pytest.raises(InputError, match="takes more from the inputs than their means"):
            pv.agree(summaries, Settings(encoder=pv.PrincipalComponents(1)))
        with pytest.raises(InputError, match="expected Nested"):
            pv.agree(summaries, Settings(encoder=pv.Identity(), pool=pv.Standard()))
        reals = list(map(pv.summary, _places(_drawn("regression").train)))
        with pytest.raises(InputError, match="StudentT, whose unit of the targets is no function"):
            pv.agree(reals, Settings(likelihood=pv.StudentT()))
        with pytest.raises(InputError, match=r"'task 1' has the classes None; expected those of"):
            pv.agree([summaries[0], reals[1]])
        with pytest.raises(InputError, match="there is no summary"):
            pv.agree([])

    @pytest.mark.parametrize("harm", ["cut", "other", "format", "changed", "text"])
    def test_files_that_are_not_what_they_should_be(self, tmp_path: Path, harm: str) -> None:
        model, train = _joined("binary"), _drawn("binary").train
        path = pv.evidence(train, model).save(tmp_path / "north")
        packed = path.read_bytes()
        if harm == "other":
            pv.summary(train).save(path)
        else:
            spoilt = {
                "cut": packed[:-10],
                "format": packed.replace(b'"format":"1"', b'"format":"9"'),
                "changed": packed[:-3] + bytes([packed[-3] ^ 1]) + packed[-2:],
                "text": b"not a message",
            }[harm]
            assert spoilt != packed
            path.write_bytes(spoilt)
        said = {"other": "a message of the kind 'summary'", "format": "has format 9"}
        with pytest.raises(
            InputError, match=said.get(harm, "is no message of the kind 'evidence'")
        ):
            pv.TaskEvidence.load(path)
