"""The guide's posterior of weights beside NUTS on the model itself, without an encoder."""

from __future__ import annotations

import pyro
import pytest
from pyro import poutine
from pyro.infer import MCMC, NUTS
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.data import Batch
from pyro_vmtl.model import VMTL, GaussianLikelihood, NestedWeights
from pyro_vmtl.model.priors.conditionals import averaged
from pyro_vmtl.model.priors.gibbs import State

DRAWS, WARMUP = 2000, 200


def _fitted(pool: pv.Pool, kind: str) -> tuple[VMTL, Batch]:
    train = pv.clusters(6, 2, samples=15, dimensions=3, kind=kind, seed=30).train  # type: ignore[arg-type]
    settings = pv.Settings(encoder=pv.Identity(), pool=pool)
    fitted = pv.fit(train, settings=settings, accelerator="cpu", log_warnings=False)
    return fitted.vmtl, train.dense()


def _settle_on_one_draw(vmtl: VMTL, batch: Batch) -> None:
    """Keep one draw of partition and scales, and move the sites to where they rest given it."""
    weights, likelihood = vmtl.classifier, vmtl.likelihood
    assert isinstance(weights, NestedWeights)
    one = State(**{name: part[:1].clone() for name, part in vars(weights.draws).items()})
    for name, part in vars(one).items():
        setattr(weights, f"draw_{name}", part)
    if isinstance(likelihood, GaussianLikelihood):
        likelihood.take_noise(one.noise[0].sqrt())
    for _ in range(100):
        weights.loc, weights.covariance = averaged(weights.by_draw())
        weights.move(weights.seen(batch, vmtl.encoder(batch.x), likelihood), 0.3)


def _by_nuts(vmtl: VMTL, batch: Batch, draw: Tensor | None) -> Tensor:
    """Draws of the weights, ``[S, T, 1, K, q]``, given the relatedness."""
    given = {} if draw is None else {"relatedness_weights": draw}
    pyro.set_rng_seed(0)
    kernel = NUTS(
        poutine.condition(vmtl.model, given),
        jit_compile=True,
        ignore_jit_warnings=True,
        max_tree_depth=6,
    )
    mcmc = MCMC(kernel, num_samples=DRAWS, warmup_steps=WARMUP, disable_progbar=True)
    mcmc.run(batch)
    draws: Tensor = mcmc.get_samples()["weights"]
    return draws


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
@pytest.mark.parametrize("kind", ["binary", "regression"])
@pytest.mark.parametrize("pool", [pv.Standard(), pv.Nested()], ids=lambda pool: type(pool).__name__)
def test_means_and_scales_are_those_of_nuts(pool: pv.Pool, kind: str) -> None:
    vmtl, batch = _fitted(pool, kind)
    draw = None
    if isinstance(pool, pv.Nested):
        _settle_on_one_draw(vmtl, batch)
        borrowing = vmtl.borrowing["weights"]
        draw = borrowing.relatedness_posterior().sample()  # type: ignore[operator]
    posterior = vmtl.classifier(draw)
    found = _by_nuts(vmtl, batch, draw)
    away = (posterior.mean - found.mean(0)) / found.std(0)
    assert away.square().mean().sqrt() < 0.05
    assert away.abs().max() < 0.15
    ratio = posterior.variance.sqrt() / found.std(0)
    assert 0.9 < ratio.min() <= ratio.max() < 1.1
