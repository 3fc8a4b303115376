"""Samples that have some of their outputs, and outputs that are 0 or 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import Predictions, build, classification_metrics, regression_metrics
from pyro_vmtl.inference.cavities import left_out_densities
from pyro_vmtl.inspection import calibration_table, interval_coverage, pit_values
from pyro_vmtl.model import VMTL, Family, Identity, NestedWeights, Settings
from pyro_vmtl.model.likelihoods import BernoulliLikelihood, CategoricalLikelihood
from pyro_vmtl.model.priors import nested

NAN = float("nan")
LIKELIHOODS = (pv.Gaussian(), pv.StudentT(), pv.NegativeBinomial(), pv.Bernoulli())


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_BURN_IN": 2, "_ROUND": 4, "_ROUNDS": 1}.items():
        monkeypatch.setattr(nested, name, value)


def _tasks(likelihood: Family, seed: int = 0) -> TaskSet:
    """Three tasks with two outputs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(36, 2, generator=generator)
    y = torch.randn(36, 2, generator=generator) + x
    if isinstance(likelihood, pv.NegativeBinomial):
        y = torch.poisson(y.exp(), generator)
    if isinstance(likelihood, pv.Bernoulli):
        y = (y > 0).float()
    return TaskSet(("a", "b", "c"), x, y, torch.arange(36) // 12, classes=None)


def _cut(tasks: TaskSet) -> TaskSet:
    """The same with two samples in place of each: one has the first output, one the second."""
    y = tasks.y.repeat_interleave(2, 0)
    y[::2, 1] = NAN
    y[1::2, 0] = NAN
    x, task = (part.repeat_interleave(2, 0) for part in (tasks.x, tasks.task))
    return TaskSet(tasks.names, x, y, task, classes=None, outputs=tasks.outputs)


def _built(tasks: TaskSet, likelihood: Family, pool: pv.Pool | None = None) -> VMTL:
    torch.manual_seed(0)
    return build(tasks, Settings(Identity(), pool=pool, likelihood=likelihood))


def _sites(vmtl: VMTL) -> tuple[Tensor, ...]:
    weights = vmtl.classifier
    assert isinstance(weights, NestedWeights)
    evidence = weights.evidence
    squares = evidence.counts if evidence.squares is None else evidence.squares
    return evidence.precision, evidence.shift, evidence.counts, squares


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
class TestSamplesCutByOutputAre:
    """As much as the whole samples say."""

    def test_the_same_evidence(self, likelihood: Family) -> None:
        tasks = _tasks(likelihood)
        whole, cut = _built(tasks, likelihood), _built(_cut(tasks), likelihood)
        for _ in range(3):
            whole.update(tasks.dense())
            cut.update(_cut(tasks).dense())
        for one, other in zip(_sites(whole), _sites(cut), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        if getattr(whole.likelihood, "theta", None) is not None:
            torch.testing.assert_close(whole.likelihood.theta, cut.likelihood.theta)

    def test_as_likely_when_left_out(self, likelihood: Family) -> None:
        """Given a draw, outputs are independent: that of a sample is that of its parts."""
        tasks = _tasks(likelihood)
        vmtl = _built(tasks, likelihood)
        for last in (False, True):
            vmtl.update(tasks.dense(), last)
        whole = left_out_densities(vmtl, tasks.dense())
        parts = left_out_densities(vmtl, _cut(tasks).dense())
        torch.testing.assert_close(whole, parts.unflatten(2, (-1, 2)).sum(-1))

    def test_what_a_model_forgets_and_learns(self, likelihood: Family) -> None:
        tasks = _tasks(likelihood)
        new = TaskSet(("d",), tasks.x[:5], tasks.y[:5], torch.zeros(5).long(), classes=None)
        fitted = pv.fit(tasks, settings=Settings(likelihood=likelihood), log_warnings=False)
        whole, parts = fitted.add_task(new), fitted.add_task(_cut(new))
        for one, other in zip(_sites(whole.vmtl), _sites(parts.vmtl), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        rows = tasks.subset(torch.tensor([0, 13, 14]))
        whole, parts = fitted.forget(rows), fitted.forget(_cut(rows))
        for one, other in zip(_sites(whole.vmtl), _sites(parts.vmtl), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("likelihood", [pv.Gaussian(), pv.Bernoulli()])
def test_samples_cut_by_output_have_the_elbo_of_whole_ones(likelihood: Family) -> None:
    tasks = _tasks(likelihood)
    vmtl = _built(tasks, likelihood, pv.Mixture())
    losses = []
    for batch in (tasks.dense(), _cut(tasks).dense()):
        torch.manual_seed(1)
        losses.append(Trace_ELBO().loss(vmtl.model, vmtl.guide, batch))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_density_of_the_outputs_that_are_known_integrates_to_one() -> None:
    tasks = _tasks(pv.Gaussian())
    fitted = pv.fit(_cut(tasks), log_warnings=False)
    grid = torch.linspace(-12, 12, 601)
    y = torch.stack([torch.full_like(grid, NAN), grid], -1)
    asked = TaskSet(
        tasks.names, tasks.x[:1].expand(601, 2), y, torch.zeros(601).long(), classes=None
    )
    density = fitted.predict(asked).log_density.exp()
    assert float(density.sum() * (grid[1] - grid[0])) == pytest.approx(1, abs=0.01)


def test_scores_are_of_the_outputs_that_are_known() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, y = torch.randn(20, 2, generator=generator), torch.randn(20, 2, generator=generator)
    draws = mean + torch.randn(50, 20, 2, generator=generator)
    y[:8, 0] = NAN
    y[8:13, 1] = NAN
    log_density = torch.zeros(20)
    found = regression_metrics(mean, log_density, draws, y)
    parts, counts = [], []
    for k in range(2):
        known = ~y[:, k].isnan()
        counts.append(int(known.sum()))
        parts.append(
            regression_metrics(mean[known, k], log_density[known], draws[:, known, k], y[known, k])
        )
    for name in ("crps", "coverage_90"):
        assert found[name] == pytest.approx(
            np.average([part[name] for part in parts], weights=counts)
        )
    assert found["nmse"] == pytest.approx(np.mean([part["nmse"] for part in parts]))
    squares = [part["rmse"] ** 2 for part in parts]
    assert found["rmse"] ** 2 == pytest.approx(np.average(squares, weights=counts))
    tasks = TaskSet(("a",), torch.zeros(20, 1), y, torch.zeros(20).long(), classes=None)
    predictions = Predictions(tasks, mean, log_density, mean, mean, mean, draws)
    assert len(pit_values(predictions)) == sum(counts)
    table = interval_coverage(predictions, [0.9])
    assert table.loc[0, "samples"] == sum(counts)
    assert table.loc[0, "coverage"] == pytest.approx(found["coverage_90"])
    with pytest.raises(InputError, match="NaN throughout"):
        regression_metrics(mean, log_density, draws, torch.full_like(y, NAN))


def test_an_output_that_no_sample_has_is_refused() -> None:
    tasks = _tasks(pv.Gaussian())
    y = tasks.y.clone()
    y[:, 1] = NAN
    tasks = TaskSet(tasks.names, tasks.x, y, tasks.task, classes=None)
    with pytest.raises(InputError, match="output 'y1' is known in no training sample"):
        pv.fit(tasks)


class TestBernoulli:
    def test_one_output_is_two_classes(self) -> None:
        generator = torch.Generator().manual_seed(0)
        loc = 2 * torch.randn(2, 5, 1, generator=generator).double()
        variance = torch.rand(2, 5, 1, generator=generator).double() + 0.1
        y = torch.randint(2, (2, 5), generator=generator)
        events, classes = BernoulliLikelihood(), CategoricalLikelihood(2)
        ours = events.sites(loc, variance, events.standardised(y.float()))
        for one, other in zip(ours, classes.sites(loc, variance, y), strict=True):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(
            events.given(loc).log_prob(y.double()), classes.given(loc).log_prob(y)
        )

    def test_is_what_several_outputs_of_0_and_1_have(self) -> None:
        tasks = _cut(_tasks(pv.Bernoulli()))
        fitted = pv.fit(tasks, log_warnings=False)
        assert fitted.settings.likelihood == pv.Bernoulli()
        assert fitted.notes == (
            "The likelihood is Bernoulli: all 2 outputs are 0 or 1 (likelihood=... decides).",
        )
        numbers = pv.fit(tasks, settings=Settings(likelihood=pv.Gaussian()), log_warnings=False)
        assert not numbers.predict(tasks).is_binary
        with pytest.raises(InputError, match="0 or 1, several at once, which have no temperature"):
            pv.scale_temperature(fitted, tasks)

    def test_predictions_of_every_output_are_those_of_classes(self) -> None:
        tasks = _cut(_tasks(pv.Bernoulli()))
        predictions = pv.fit(tasks, log_warnings=False).predict(tasks)
        known = ~tasks.y.isnan()
        chance = predictions.mean[known]
        expected = classification_metrics(
            torch.stack([1 - chance, chance], -1), tasks.y[known].long()
        )
        classes = predictions.by_output()
        assert len(classes.tasks) == 2 * len(tasks)
        table = calibration_table(classes, draws=10).loc["all tasks"]
        assert table["ece"] == pytest.approx(expected["ece"])
        assert table["samples"] == len(tasks)
        assert -float(predictions.log_density.mean()) == pytest.approx(expected["nll"], abs=1e-5)
        frame = predictions.frame()
        assert np.allclose(frame["probability y1"], predictions.mean[:, 1])
        assert (frame["prediction y0"] == (frame["probability y0"] > 0.5)).all()
        chance = predictions.mean
        torch.testing.assert_close(predictions.sd, (chance * (1 - chance)).sqrt())
        with pytest.raises(InputError, match="which have no intervals"):
            predictions.interval()
        with pytest.raises(InputError, match=r"expected predictions.by_output\(\)"):
            calibration_table(predictions)
        with pytest.raises(InputError, match="classes, which have no deviations"):
            assert classes.sd is None
        with pytest.raises(InputError, match="expected those of Bernoulli outputs"):
            classes.by_output()
