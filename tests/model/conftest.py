"""Every kind of model there is, small, with a batch whose tasks differ in size."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, product
from typing import Literal, TypeAlias

import pytest
import torch

from pyro_vmtl.data import Batch, Views
from pyro_vmtl.model import (
    MLP,
    VMTL,
    Architecture,
    BayesianLinear,
    Feedback,
    Geometric,
    Identity,
    Linear,
    Mixture,
    Nested,
    Pool,
    Power,
    PrincipalComponents,
    Settings,
    Standard,
    assemble,
)
from pyro_vmtl.model.priors import nested

# Distinct, so that no shape fits by accident.
TASKS, SAMPLES, INPUTS, OUTPUTS = 3, 5, 4, 6

POOLS: dict[str, Pool] = {
    "standard": Standard(),
    "mixture": Mixture(),
    "mixture, base, spread": Mixture(base=True, spread="task", kl_bound="convexity"),
    "linear, base": Linear(base=True),
    "geometric, base, spread": Geometric(base=True, spread="feature"),
    "power, spread": Power(spread="scalar"),
}
NESTED: dict[str, Pool] = {
    "nested": Nested(),
    "nested, no clusters": Nested(clusters=False, deviation="shared"),
    "nested, alone": Nested(mean=False, clusters=False, deviation="fixed"),
}
FEEDBACK: dict[str, Pool] = {"feedback": Feedback()}
ENCODERS: dict[str, Architecture] = {
    "identity": Identity(),
    "components": PrincipalComponents(3),
    "gaussian": MLP(7, hidden=(8,), dropout=0.2),
    "deterministic": MLP(7, hidden=(8,), dropout=0.2, stochastic=False),
    "per task": MLP(7, hidden=(8,), dropout=0.2, per_task=True),
    "layer": BayesianLinear(7, dropout=0.2),
    "layer, samples": BayesianLinear(7, prior="samples"),
    "layers": BayesianLinear(7, per_task=True),
}
KINDS: dict[str, tuple[bool, int]] = {  # whether it is classification, and how many classes
    "classification": (True, OUTPUTS),
    "regression": (False, 1),
    "two classes": (True, 2),
    "regression of vectors": (False, OUTPUTS),
}
Classifier: TypeAlias = Literal["conjugate", "mean_field", "point", "amortised"]


@dataclass(frozen=True)
class Case:
    """A model and a batch that fits it, with views of its samples through every task."""

    vmtl: VMTL
    batch: Batch


def _cases() -> Iterator[tuple[str, str, str, Classifier]]:
    """Every pool with every encoder, in closed form and with free parameters: one of them in
    classification, the other in regression, turn about. And every other classifier with every
    encoder, and the nested prior with every encoder, and with every kind of targets."""
    yield from _of_pools()
    kinds = cycle(KINDS)
    for encoder in ENCODERS:
        yield "standard", encoder, next(kinds), "point"
    pools = cycle(POOLS)
    for encoder in [*ENCODERS, *ENCODERS]:
        yield next(pools), encoder, next(kinds), "amortised"
    parts = cycle(NESTED)
    for encoder, kind in [
        *product(["identity"], KINDS),
        *zip(ENCODERS, cycle(KINDS), strict=False),
    ]:
        yield next(parts), encoder, kind, "conjugate"
    for encoder, kind in (("components", "classification"), ("identity", "two classes")):
        yield "feedback", encoder, kind, "conjugate"


def _of_pools() -> Iterator[tuple[str, str, str, Classifier]]:
    classifiers: tuple[Classifier, ...] = ("conjugate", "mean_field")
    for (p, pool), (c, classifier), (e, encoder) in product(
        enumerate(POOLS), enumerate(classifiers), enumerate(ENCODERS)
    ):
        yield pool, encoder, ("classification", "regression")[(p + c + e) % 2], classifier
    yield "mixture", "gaussian", "regression of vectors", "conjugate"
    yield "geometric, base, spread", "layers", "two classes", "conjugate"
    yield "standard", "identity", "regression", "mean_field"
    yield "standard", "gaussian", "classification", "mean_field"
    yield "power, spread", "layers", "regression of vectors", "mean_field"
    yield "mixture", "gaussian", "two classes", "mean_field"


@pytest.fixture(params=_cases(), ids=lambda case: "-".join(case))
def case(request: pytest.FixtureRequest) -> Case:
    """All pools, encoders, targets and classifiers; there has been an iteration whose posteriors
    tasks can lend each other."""
    pool, encoder, kind, classifier = request.param
    # Where tasks have layers of their own, or samples views through tasks, they borrow those too.
    lent = {"layers", "gaussian", "per task", "layer, samples"}
    prior = (POOLS | NESTED | FEEDBACK)[pool]
    borrows = pool in POOLS and prior.borrows and encoder in lent
    settings = Settings(
        ENCODERS[encoder],
        prior,
        prior if borrows else Standard(),
        classifier,
    )
    is_classification, outputs = KINDS[kind]
    vmtl = assemble(settings, TASKS, outputs, (INPUTS,), is_classification)
    vmtl.set_extra_state(torch.tensor(True))
    shape = (TASKS, SAMPLES)
    vector = (OUTPUTS,) if kind == "regression of vectors" else ()
    y = torch.randint(outputs, shape) if is_classification else torch.randn(*shape, *vector)
    mask = torch.arange(SAMPLES) < torch.tensor([[2], [SAMPLES], [4]])
    scale = torch.where(mask, 1 + torch.rand(shape), 1.0)
    present = torch.rand(*shape, TASKS) < 0.7
    present[0, 0] = False  # a sample that nobody has a view of
    views = Views(torch.randn(*shape, TASKS, INPUTS), present)
    batch = Batch(torch.randn(*shape, INPUTS), y, mask, scale, torch.full(shape, -1), views=views)
    return Case(vmtl, batch)


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not matter how well the posterior is known."""
    monkeypatch.setattr(nested, "_ROUND", 10)
    monkeypatch.setattr(nested, "_ROUNDS", 1)
