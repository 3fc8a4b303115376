"""Every kind of model there is, small, with a batch whose tasks differ in size."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest
import torch

from pyro_vmtl.data import Batch
from pyro_vmtl.model import (
    MLP,
    VMTL,
    Anchored,
    Architecture,
    BayesianLinear,
    Geometric,
    Identity,
    Lenders,
    Linear,
    Mixture,
    Pool,
    Power,
    Recursive,
    Settings,
    Standard,
    assemble,
)

# Distinct, so that no shape fits by accident.
TASKS, SAMPLES, INPUTS, CLASSES, OUTPUTS = 3, 5, 4, 2, 6

POOLS: dict[str, Pool] = {
    "standard": Standard(),
    "mixture": Mixture(),
    "mixture, base, spread": Mixture(base=True, spread="task", kl_bound="convexity"),
    "linear, base": Linear(base=True),
    "geometric, base, spread": Geometric(base=True, spread="feature"),
    "power, spread": Power(spread="scalar"),
}
LENDERS: dict[str, type[Lenders]] = {"recursive": Recursive, "anchored": Anchored}
ENCODERS: dict[str, Architecture] = {
    "identity": Identity(),
    "gaussian": MLP(7, hidden=(8,), dropout=0.2),
    "deterministic": MLP(7, hidden=(8,), dropout=0.2, stochastic=False),
    "per task": MLP(7, hidden=(8,), dropout=0.2, per_task=True),
    "layer": BayesianLinear(7, dropout=0.2),
    "layer, samples": BayesianLinear(7, prior="samples"),
    "layers": BayesianLinear(7, per_task=True),
}
KINDS = ("classification", "regression", "regression of vectors")


@dataclass(frozen=True)
class Case:
    """A model and a batch that fits it."""

    vmtl: VMTL
    batch: Batch


def _cases() -> Iterator[tuple[str, str, str, str]]:
    for pool, lenders, encoder, kind in product(POOLS, LENDERS, ENCODERS, KINDS[:2]):
        if POOLS[pool].borrows or lenders == "recursive":
            yield pool, lenders, encoder, kind
    yield "mixture", "anchored", "gaussian", KINDS[2]
    yield "power, spread", "recursive", "layers", KINDS[2]


@pytest.fixture(params=_cases(), ids=lambda case: "-".join(case))
def case(request: pytest.FixtureRequest) -> Case:
    """All pools, lenders, encoders and targets; recursive lenders have something to lend."""
    pool, lenders, encoder, kind = request.param
    # Where tasks have layers of their own they borrow those as well.
    layer_pool = POOLS[pool] if encoder == "layers" else Standard()
    settings = Settings(
        ENCODERS[encoder], POOLS[pool], layer_pool, LENDERS[lenders], empirical_bayes=False
    )
    is_classification = kind == "classification"
    outputs = {"classification": CLASSES, "regression": 1}.get(kind, OUTPUTS)
    vmtl = assemble(settings, TASKS, outputs, (INPUTS,), is_classification)
    if isinstance(vmtl.lenders, Recursive):
        vmtl.lenders.advance()
    shape = (TASKS, SAMPLES)
    y = {
        "classification": torch.randint(CLASSES, shape),
        "regression": torch.randn(shape),
        "regression of vectors": torch.randn(*shape, OUTPUTS),
    }[kind]
    mask = torch.arange(SAMPLES) < torch.tensor([[2], [SAMPLES], [4]])
    scale = torch.where(mask, 1 + torch.rand(shape), 1.0)
    batch = Batch(torch.randn(*shape, INPUTS), y, mask, scale, torch.full(shape, -1))
    return Case(vmtl, batch)
