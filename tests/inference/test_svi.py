"""Pyro's own ``SVI`` on the pair of programs trains them, and as well as ``fit`` does."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.data import Batch, TaskBatches, attention_views
from pyro_vmtl.inference import predict
from pyro_vmtl.model import (
    MLP,
    VMTL,
    Architecture,
    BayesianLinear,
    Geometric,
    Identity,
    Mixture,
    Nested,
    Pool,
    Power,
    Settings,
    Standard,
    assemble,
)

TASKS, INPUTS = 3, 4
BORROWING: list[Pool] = [Mixture(base=True, spread="task"), Geometric(), Power(spread="scalar")]
ENCODERS: list[Architecture] = [
    MLP(5, hidden=(8,)),
    MLP(5, hidden=(8,), stochastic=False, per_task=True),
    BayesianLinear(5, per_task=True),
]
MODELS: list[tuple[str, Pool, Architecture]] = [
    *product(["mean_field"], [Standard(), *BORROWING], [Identity(), *ENCODERS]),
    *product(["amortised"], [Standard(), *BORROWING], [MLP(5, hidden=(8,))]),
    # Beside weights in closed form the relatedness takes a gradient, and an encoder that learns.
    *product(["conjugate"], BORROWING, [Identity(), *ENCODERS]),
    *product(["conjugate"], [Standard(), Nested()], ENCODERS),
]


def _batch(is_classification: bool) -> Batch:
    shape = (TASKS, 6)
    y = torch.randint(3, shape) if is_classification else torch.randn(shape)
    ones = torch.ones(shape)
    return Batch(torch.randn(*shape, INPUTS), y, ones.bool(), ones, torch.zeros(shape).long())


def _parameters(vmtl: VMTL) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in vmtl.named_parameters()}


@pytest.mark.parametrize(
    ("model", "is_classification"), list(product(MODELS, [True, False])), ids=str
)
@pytest.mark.parametrize(
    "elbo",
    [
        TraceMeanField_ELBO(),
        Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=2),
    ],
)
def test_trains_as_a_torch_optimiser_does_every_parameter_with_a_gradient(
    model: tuple[Any, Pool, Architecture],
    is_classification: bool,
    elbo: Trace_ELBO,
) -> None:
    classifier, pool, encoder = model
    settings = Settings(encoder, pool, classifier=classifier)
    vmtl = assemble(settings, TASKS, 3 if is_classification else 1, (INPUTS,), is_classification)
    twin, batch, start = copy.deepcopy(vmtl), _batch(is_classification), _parameters(vmtl)
    pyro.set_rng_seed(0)
    svi = SVI(vmtl.model, vmtl.guide, Adam({"lr": 0.01}), elbo)
    for _ in range(3):
        svi.step(batch)
        vmtl.update(batch)
    pyro.set_rng_seed(0)
    optimiser = torch.optim.Adam(twin.parameters(), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        elbo.differentiable_loss(twin.model, twin.guide, batch).backward()
        optimiser.step()
        twin.update(batch)
    torch.testing.assert_close(_parameters(vmtl), _parameters(twin))
    moved = {name for name, value in _parameters(vmtl).items() if not value.equal(start[name])}
    # A class that every task has seen needs no stand-in for its mean.
    assert moved | {"classifier.absent"} == set(start) | {"classifier.absent"}


def test_leaves_alone_what_is_frozen() -> None:
    settings, batch = Settings(MLP(5), Standard(), classifier="mean_field"), _batch(True)
    vmtl = assemble(settings, TASKS, 3, (INPUTS,), True)
    vmtl.encoder.requires_grad_(False)
    start = _parameters(vmtl)
    SVI(vmtl.model, vmtl.guide, Adam({"lr": 0.01}), TraceMeanField_ELBO()).step(batch)
    moved = {name for name, value in _parameters(vmtl).items() if not value.equal(start[name])}
    assert moved == {"classifier.loc", "classifier.raw_scale"}


def test_of_two_models_trains_each_apart() -> None:
    settings, batch = Settings(MLP(5), Mixture(), classifier="mean_field"), _batch(True)
    one, other = (assemble(settings, TASKS, 3, (INPUTS,), True) for _ in range(2))
    start = _parameters(other)
    SVI(one.model, one.guide, Adam({"lr": 0.01}), TraceMeanField_ELBO()).step(batch)
    assert all(value.equal(start[name]) for name, value in _parameters(other).items())


@pytest.mark.parametrize("representation_pool", [Standard(), Mixture()], ids=str)
def test_reaches_the_test_density_of_fit(representation_pool: Pool) -> None:
    splits, steps, rate, seeds = pv.digit_domains(shots=2), 100, 0.005, (0, 1)
    tasks, encoder = splits.train, MLP(16, hidden=(32,))
    settings = Settings(encoder, Mixture(), representation_pool, classifier="mean_field")
    training = pv.TrainingSettings(
        epochs=1,
        steps_per_epoch=steps,
        learning_rate=pv.Constant(rate),
        scale_rate=1.0,
        temperature=pv.Constant(1.0),
        kl_weights=pv.Constant(0.03),
        kl_representations=pv.Constant(0.003),
    )
    scores: dict[str, float] = {"fit": 0.0, "svi": 0.0}
    for seed in seeds:
        fitted = pv.fit(tasks, None, settings, training, seed=seed, accelerator="cpu")
        pyro.set_rng_seed(seed)
        vmtl = pv.build(tasks, settings)
        vmtl.tempering.update(weights=0.03, representations=0.003)
        views = attention_views(tasks) if vmtl.needs_views else None
        svi = SVI(vmtl.model, vmtl.guide, Adam({"lr": rate}), TraceMeanField_ELBO())
        for batch in TaskBatches(tasks, steps_per_epoch=steps, views=views):
            svi.step(batch)
            vmtl.update(batch)
        for name, model in (("fit", fitted.vmtl), ("svi", vmtl)):
            nll = predict(model, splits.test, 100).metrics()["mean"]["nll"]
            assert nll is not None
            scores[name] += nll / len(seeds)
    assert scores["svi"] < 1.8  # a guess has 2.3
    # The two differ in rounding, and in what Adam's epsilon is beside a loss per sample.
    assert scores["svi"] == pytest.approx(scores["fit"], abs=0.005)


@pytest.mark.parametrize(
    ("pool", "encoder", "steps"),
    [
        (Nested(), Identity(), 20),
        (Nested(), MLP(6, hidden=(16,), dropout=0.0), 80),
        (Standard(), Identity(), 20),
        (Mixture(), Identity(), 80),
        (Mixture(), MLP(6, hidden=(16,), dropout=0.0), 80),
    ],
    ids=str,
)
def test_with_weights_in_closed_form_reaches_it_too(
    pool: Pool, encoder: Architecture, steps: int
) -> None:
    """Where nothing takes a gradient, ``update`` alone trains."""
    settings = Settings(encoder, pool, bias=False)
    training = pv.TrainingSettings(
        epochs=1,
        steps_per_epoch=steps,
        learning_rate=pv.Constant(0.005),
        scale_rate=1.0,
        temperature=pv.Constant(1.0),
        kl_weights=pv.Constant(1.0),
        kl_representations=pv.Constant(0.01),
    )
    scores, seeds = {"fit": 0.0, "svi": 0.0}, (0, 1)
    for seed in seeds:
        splits = pv.clusters(4, 2, samples=30, dimensions=6, test_samples=500, seed=seed)
        tasks = splits.train
        fitted = pv.fit(
            tasks, None, settings, training, seed=seed, accelerator="cpu", log_warnings=False
        )
        pyro.set_rng_seed(seed)
        vmtl = pv.build(tasks, settings)
        vmtl.tempering.update(weights=1.0, representations=0.01)
        svi = SVI(vmtl.model, vmtl.guide, Adam({"lr": 0.005}), TraceMeanField_ELBO())
        for batch in TaskBatches(tasks, steps_per_epoch=steps):
            svi.step(batch)
            vmtl.update(batch)
        vmtl.eval().update(tasks.dense(), last=True)
        for name, model in (("fit", fitted.vmtl), ("svi", vmtl)):
            nll = predict(model, splits.test, 100).metrics()["mean"]["nll"]
            assert nll is not None
            scores[name] += nll / len(seeds)
    assert scores["svi"] == pytest.approx(scores["fit"], abs=0.005)
