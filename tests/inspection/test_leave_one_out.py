"""A training sample taken out: what is left, against linear algebra and against refitting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import pyro_vmtl as pv
from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.cavities import settled
from pyro_vmtl.inspection import leave_one_out
from pyro_vmtl.model import GaussianLikelihood, NestedWeights, with_bias
from pyro_vmtl.model.priors.conditionals import posterior
from pyro_vmtl.model.priors.gibbs import State


def tasks(is_classification: bool, samples: int = 12, seed: int = 0) -> TaskSet:
    """Tasks a and b are alike, and c and d."""
    generator = np.random.default_rng(seed)
    pairs = {}
    for name in "abcd":
        x = generator.normal(size=(samples, 2))
        eta = x @ (np.array([1.5, -1]) * (1 if name in "ab" else -1))
        noise = (generator.logistic if is_classification else generator.normal)(size=samples)
        pairs[name] = (
            x,
            np.where(eta + noise > 0, "yes", "no") if is_classification else eta + noise,
        )
    return TaskSet.from_arrays(pairs)


@pytest.fixture(scope="module")
def regression() -> tuple[pv.FittedVMTL, TaskSet]:
    train = tasks(is_classification=False)
    return pv.fit(train, log_warnings=False), train


def test_given_a_draw_it_is_a_subtraction(regression: tuple[pv.FittedVMTL, TaskSet]) -> None:
    fitted, train = regression
    weights, likelihood = fitted.vmtl.classifier, fitted.vmtl.likelihood
    assert isinstance(weights, NestedWeights)
    assert isinstance(likelihood, GaussianLikelihood)
    kept = {name: getattr(weights, f"draw_{name}") for name in State.__dataclass_fields__}
    try:
        for name, value in kept.items():
            setattr(weights, f"draw_{name}", value[:1])
        found = leave_one_out(fitted.vmtl, train)
        x = fitted.vmtl.encoder(train.x[None]).mean[0].double()
        features = with_bias(x, weights.event_shape[-1])
        y = likelihood.standardised(train.y.unsqueeze(0))[0, :, 0]
        for row in (0, 7, 20, 47):
            task, phi = int(train.task[row]), features[row]
            evidence = weights.evidence
            precision, shift = evidence.precision.clone(), evidence.shift.clone()
            precision[task, 0] -= phi.outer(phi)
            shift[task, 0] -= y[row] * phi
            left = replace(evidence, precision=precision, shift=shift)
            moments = posterior(left, weights.prior, weights.draws)
            mean = phi @ moments.loc[0, task, 0]
            variance = phi @ moments.covariance[0, task, 0] @ phi + weights.draws.noise[0, task, 0]
            law = torch.distributions.Normal(mean, variance.sqrt())
            expected = law.log_prob(y[row]) - likelihood.target_scale.log()[0]
            assert found.log_density[row] == pytest.approx(float(expected), abs=1e-5)
    finally:
        for name, value in kept.items():
            setattr(weights, f"draw_{name}", value)


@pytest.mark.parametrize("pool", [pv.Nested(), pv.Standard()], ids=repr)
@pytest.mark.parametrize("is_classification", [False, True])
def test_it_is_what_a_fit_without_the_sample_says(is_classification: bool, pool: pv.Pool) -> None:
    train, training = tasks(is_classification), pv.TrainingSettings(epochs=2, steps_per_epoch=40)

    def fit(tasks: TaskSet, seed: int) -> pv.FittedVMTL:
        settings = pv.Settings(pool=pool)
        return pv.fit(tasks, None, settings, training, seed=seed, log_warnings=False)

    fitted = fit(train, 0)
    found = leave_one_out(fitted.vmtl, train)
    inside = fitted.predict(train).log_density.double().numpy()
    assert found.log_density.mean() < inside.mean() - 0.05  # it costs not to have seen the sample
    rows, expected = np.arange(0, 48, 12), []
    for row in rows:
        y = train.y.clone()
        y[row] = -1 if is_classification else torch.nan
        refitted = fit(replace(train, y=y), 1)
        expected.append(float(refitted.predict(train).log_density[row]))
    # Both have a Monte Carlo error of some hundredths.
    assert np.abs(found.log_density[rows] - expected).max() < 0.12
    assert abs((found.log_density[rows] - expected).mean()) < 0.06


def test_samples_without_a_label_have_none(regression: tuple[pv.FittedVMTL, TaskSet]) -> None:
    fitted, train = regression
    y = train.y.clone()
    y[3] = torch.nan
    found = leave_one_out(fitted.vmtl, replace(train, y=y))
    assert np.isnan(found.log_density).nonzero()[0].tolist() == [3]
    assert np.isnan(found.k).nonzero()[0].tolist() == [3]


def test_a_lender_taken_out_is_missed_by_its_relative(
    regression: tuple[pv.FittedVMTL, TaskSet],
) -> None:
    fitted, train = regression
    whole, batch = leave_one_out(fitted.vmtl, train).log_density, train.dense()
    for lender, relative in ((0, 1), (2, 3)):
        without = leave_one_out(settled(fitted.vmtl, batch, lender), train).log_density
        lost = [float((whole - without)[train.task == t].mean()) for t in range(4)]
        assert max(range(4), key=lambda t: -1 if t == lender else lost[t]) == relative
        assert lost[relative] > 0


def test_what_it_needs() -> None:
    train = tasks(is_classification=True)
    for choices in ({"pool": pv.Standard(), "classifier": "mean_field"}, {"pool": pv.Mixture()}):
        vmtl = pv.build(train, encoder=pv.Identity(), **choices)
        with pytest.raises(InputError, match="expected the pool Nested or Standard"):
            leave_one_out(vmtl, train)
    vmtl = pv.build(train)
    with pytest.raises(InputError, match="the training set has 2 tasks"):
        leave_one_out(vmtl, train.select(["a", "b"]))
