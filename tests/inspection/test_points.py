"""Of a fit with point estimates everything can be looked at, and nothing claims an uncertainty."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyro_vmtl as pv
from pyro_vmtl.inference import diagnose
from pyro_vmtl.inspection.comparison import compare
from pyro_vmtl.inspection.export import leave_one_out
from pyro_vmtl.inspection.training import kl_per_task

Fit = tuple[pv.FittedVMTL, pv.TaskSplits]


@pytest.fixture(params=["classification", "regression"])
def points(request: pytest.FixtureRequest) -> Fit:
    """Two epochs of basic multi-task learning, at KL weights of 1."""
    regression = request.param == "regression"
    splits = pv.rotated_digits(shots=1) if regression else pv.digit_domains(shots=1)
    encoder = pv.MLP(5, hidden=(), stochastic=False)
    settings = pv.Settings(encoder, pv.Standard(), classifier="point")
    training = pv.TrainingSettings(
        epochs=2, steps_per_epoch=2, validation_samples=2, kl_weights=pv.Constant(1.0)
    )
    return pv.fit(splits.train, splits.validation, settings, training), splits


def test_the_likelihood_is_all_that_is_uncertain(points: Fit) -> None:
    fitted, splits = points
    predictions = fitted.predict(splits.test, 20)
    assert predictions.epistemic.abs().max() < 1e-6
    torch.testing.assert_close(predictions.total, predictions.aleatoric)


def test_every_draw_is_the_same(points: Fit) -> None:
    fitted, splits = points
    data = pv.to_inference_data(fitted, splits.test, 6, sites=["weights"], prior_samples=2)
    weights = data.posterior["weights"].to_numpy()
    assert (weights == weights[:, :1]).all()
    loc = fitted.vmtl.classifier.gaussians().loc.detach().numpy()
    np.testing.assert_array_equal(weights[0, 0], loc)


def test_leave_one_out_is_not_for_points(points: Fit) -> None:
    fitted, splits = points
    loo = leave_one_out(fitted)
    assert loo["loo_valid"] == 0
    assert "point estimates" in loo["loo_note"]
    assert "tempered" not in loo["loo_note"]
    table = compare({"bmtl": fitted}, splits.validation, splits.train, 20)
    assert table["loo"].isna().all()
    assert table["loo_unavailable"].str.contains("point estimates").all()


def test_diagnostics_say_nothing_of_evidence(points: Fit) -> None:
    fitted, splits = points
    numbers = diagnose(fitted.vmtl, splits.train.dense())
    assert numbers["weights_scale"] == 0
    assert not any(name.endswith("_evidence") for name in numbers)
    assert all(np.isfinite(value) for value in numbers.values())
    assert not any("narrow" in sentence for sentence in fitted.warnings)


def test_the_cost_of_a_task_is_minus_the_log_density_of_its_prior(points: Fit) -> None:
    fitted, splits = points
    loc = fitted.vmtl.classifier.gaussians().loc.detach().double()
    expected = 0.5 * (loc.square() + np.log(2 * np.pi)).sum((1, 2))
    costs = kl_per_task(fitted)["weights"].to_numpy()
    np.testing.assert_allclose(costs, expected.numpy(), rtol=1e-5)
    parts = pv.elbo_parts(fitted.vmtl, splits.train.dense(), 1)
    assert parts.kl_weights == pytest.approx(float(expected.sum()), rel=1e-5)


def test_nobody_borrows(points: Fit) -> None:
    assert pv.relatedness(points[0]).empty
