"""Influence beside an encoder that was trained: held fixed, and where it goes without a lender."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import Constant, TrainingSettings, following
from pyro_vmtl.inference.cavities import held_out_densities, settled
from pyro_vmtl.inspection import influence_matrix
from pyro_vmtl.model import VMTL, NestedWeights, with_bias
from pyro_vmtl.model.priors import nested
from pyro_vmtl.model.priors.conditionals import averaged
from pyro_vmtl.model.priors.gibbs import mean_variance, spread, thinned

TASKS, FEATURES = 5, 4


def _world(seed: int) -> tuple[pv.TaskSet, pv.TaskSet]:
    """Tasks in two clusters, linear in two features that all share."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(FEATURES, 2))
    centres = 2 * generator.normal(size=(2, 2))
    parts: tuple[dict[str, tuple[np.ndarray, np.ndarray]], ...] = ({}, {})
    for t in range(TASKS):
        w = centres[t % 2] + 0.3 * generator.normal(size=2)
        for part, count in zip(parts, (25, 200), strict=True):
            x = generator.normal(size=(count, FEATURES))
            y = np.tanh(x @ shared) @ w + 0.4 * generator.normal(size=count)
            part[f"task {t}"] = (x, y)
    train, test = (pv.TaskSet.from_arrays(part, regression=True) for part in parts)
    return train, test


@pytest.fixture(scope="module")
def learned() -> tuple[pv.FittedVMTL, pv.TaskSet, pv.TaskSet]:
    train, test = _world(0)
    settings = pv.Settings(
        pv.MLP(2, hidden=(), dropout=0.0, stochastic=False), pv.Nested(), likelihood=pv.Gaussian()
    )
    training = TrainingSettings(epochs=8, learning_rate=Constant(0.02), patience=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nested, "_ROUND", 5)
        patch.setattr(nested, "_ROUNDS", 1)
        fitted = pv.fit(train, None, settings, training, log_warnings=False)
    weights = fitted.vmtl.classifier
    assert isinstance(weights, NestedWeights)
    for name, values in vars(thinned(weights.draws, 5)).items():
        setattr(weights, f"draw_{name}", values.clone())
    weights.loc, weights.covariance = averaged(weights.by_draw())
    return fitted, train, test


def _log_density(vmtl: VMTL, train: pv.TaskSet, gone: int | None) -> Tensor:
    """log p(y | x, draw) as one Gaussian of all targets, over the draws; it takes gradients."""
    weights = vmtl.classifier
    assert isinstance(weights, NestedWeights)
    prior, draws = weights.prior, weights.draws
    stays = train.task != (-1 if gone is None else gone)
    x = train.x.double()
    phi = with_bias(vmtl.encoder(x[None]).mean[0], weights.event_shape[-1])[stays]
    y = vmtl.likelihood.standardised(train.y.unsqueeze(0))[0, :, 0].double()[stays]
    task = train.task[stays]
    out = []
    for s in range(len(draws.labels)):
        label = draws.labels[s][task]
        kernel = (phi * mean_variance(prior, draws)[s, 0]) @ phi.T
        kernel = kernel + (label[:, None] == label) * (draws.cluster[s] * phi @ phi.T)
        own = spread(draws.deviation, prior.groups)[s]
        kernel = kernel + (task[:, None] == task) * ((phi * own) @ phi.T)
        kernel = kernel + draws.noise[s, task, 0].diag()
        law = torch.distributions.MultivariateNormal(torch.zeros_like(y), kernel)
        out.append(law.log_prob(y))
    return torch.stack(out).mean()


def _refitted(vmtl: VMTL, train: pv.TaskSet, gone: int | None) -> VMTL:
    """The encoder of the highest density, partition and scales given, by a quasi-Newton method."""
    out = copy.deepcopy(vmtl)
    out.encoder.double()
    parameters = list(out.encoder.parameters())
    optimiser = torch.optim.LBFGS(parameters, max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -_log_density(out, train, gone)
        loss.backward()
        return loss

    optimiser.step(closure)
    out.encoder.float()
    return settled(out, train.dense(), gone)


def test_encoders_follow_as_if_fitted_again(
    learned: tuple[pv.FittedVMTL, pv.TaskSet, pv.TaskSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not so those that are held fixed."""
    fitted, train, test = learned
    monkeypatch.setattr(following, "_NEAR", 1e-4)
    tables = {
        kind: influence_matrix(
            pv.influence(fitted, train, test, kinds=["without"], encoder=kind), "without"
        ).to_numpy()
        for kind in ("fixed", "followed")
    }
    batch = test.dense()

    def means(vmtl: VMTL) -> np.ndarray:
        densities = held_out_densities(vmtl, batch)
        return (densities.logsumexp(0) - np.log(len(densities))).mean(1).numpy()

    rested = _refitted(fitted.vmtl, train, None)
    expected = np.array(
        [means(rested) - means(_refitted(rested, train, j)) for j in range(TASKS)]
    ).T
    off = ~np.eye(TASKS, dtype=bool)
    assert np.corrcoef(tables["followed"][off], expected[off])[0, 1] > 0.98
    assert np.corrcoef(tables["fixed"][off], expected[off])[0, 1] < 0.9
    error = {kind: np.abs(table[off] - expected[off]).mean() for kind, table in tables.items()}
    assert error["followed"] < error["fixed"] / 3


def test_the_slope_of_the_evidence_is_that_of_the_density(
    learned: tuple[pv.FittedVMTL, pv.TaskSet, pv.TaskSet],
) -> None:
    fitted, train, _ = learned
    vmtl = copy.deepcopy(fitted.vmtl)
    vmtl.encoder.double()
    batch = train.dense()
    batch = replace(batch, x=batch.x.double())
    start = following._vector(vmtl.encoder.parameters())
    for gone in (None, 2):
        loss = following._Loss(vmtl, batch, gone, start)
        _, slope = loss.value(start)
        found = torch.autograd.grad(
            _log_density(vmtl, train, gone), list(vmtl.encoder.parameters())
        )
        np.testing.assert_allclose(-slope, following._vector(found), rtol=1e-6, atol=1e-8)
        direction, step = np.linspace(-1, 1, len(start)), 1e-5
        ends = [loss.value(start + sign * step * direction)[1] for sign in (1, -1)]
        curved = loss.curved(start, direction)
        np.testing.assert_allclose(curved, (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-5)


def test_a_model_stays_as_it_is(learned: tuple[pv.FittedVMTL, pv.TaskSet, pv.TaskSet]) -> None:
    fitted, train, test = learned
    before = copy.deepcopy(fitted.vmtl.state_dict())
    pv.influence(fitted, train, test, kinds=["without"], encoder="followed")
    pv.set_gains(fitted, train, [train.names[:2]], test)
    pv.row_influence(fitted, train, train.names[0], train.names[1], test)
    after = fitted.vmtl.state_dict()
    assert all(value.equal(after[name]) for name, value in before.items())


def test_what_a_trained_encoder_needs(
    learned: tuple[pv.FittedVMTL, pv.TaskSet, pv.TaskSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, train, test = learned
    with pytest.raises(InputError, match="expected held-out samples"):
        pv.influence(fitted, train)
    with pytest.raises(InputError, match="gains need weights in closed form"):
        pv.gains(fitted, train, test)
    with pytest.raises(InputError, match="encoder is 'free'; expected 'fixed' or 'followed'"):
        pv.influence(fitted, train, test, encoder="free")  # type: ignore[arg-type]
    monkeypatch.setattr(following, "MOST_PARAMETERS", 3)
    with pytest.raises(InputError, match=r"has 10 parameters.* expected at most 3"):
        pv.influence(fitted, train, test, encoder="followed")
    settings = pv.Settings(pv.MLP(2, hidden=()), pv.Nested())
    drawn = pv.fit(train, None, settings, TrainingSettings(epochs=1, steps_per_epoch=2))
    with pytest.raises(InputError, match=r"function of its inputs \(stochastic=False\)"):
        pv.influence(drawn, train, test)
    fixed = pv.fit(train, log_warnings=False)
    with pytest.raises(InputError, match="nothing that could follow"):
        pv.influence(fixed, train, test, encoder="followed")
