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
    Anchored,
    Architecture,
    BayesianLinear,
    Clustered,
    Feedback,
    Geometric,
    Hierarchical,
    Identity,
    Lenders,
    Linear,
    Mixture,
    Nested,
    Pool,
    Power,
    PrincipalComponents,
    Recursive,
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
    "clustered": Clustered(),
    "hierarchical": Hierarchical(num_components=2),
}
NESTED: dict[str, Pool] = {
    "nested": Nested(),
    "nested, no clusters": Nested(clusters=False, deviation="shared"),
    "nested, alone": Nested(mean=False, clusters=False, deviation="fixed"),
}
FEEDBACK: dict[str, Pool] = {"feedback": Feedback()}
LENDERS: dict[str, type[Lenders]] = {"recursive": Recursive, "anchored": Anchored}
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


def _cases() -> Iterator[tuple[str, str, str, str, Classifier]]:
    """Every pool with every encoder, recursive and anchored: one of them in classification, the
    other in regression, turn about. And every other classifier with every encoder, and the nested
    prior with every encoder, and with every kind of targets."""
    for case in _of_mean_field():
        yield *case, "mean_field"
    kinds = cycle(KINDS)
    for encoder in ENCODERS:
        yield "standard", "recursive", encoder, next(kinds), "point"
    lent = cycle(
        (pool, lenders)
        for pool, lenders in product(POOLS, LENDERS)
        if lenders == "anchored" or not POOLS[pool].needs_own_evidence
    )
    for encoder in [*ENCODERS, *ENCODERS]:
        yield *next(lent), encoder, next(kinds), "amortised"
    parts = cycle(NESTED)
    for encoder, kind in [
        *product(["identity"], KINDS),
        *zip(ENCODERS, cycle(KINDS), strict=False),
    ]:
        yield next(parts), "recursive", encoder, kind, "conjugate"
    for encoder, kind in (("components", "classification"), ("identity", "two classes")):
        yield "feedback", "recursive", encoder, kind, "conjugate"


def _of_mean_field() -> Iterator[tuple[str, str, str, str]]:
    for (p, pool), (i, lenders), (e, encoder) in product(
        enumerate(POOLS), enumerate(LENDERS), enumerate(ENCODERS)
    ):
        # Without borrowing the lenders make no difference, and some pools need anchored ones.
        needs = {"recursive"} if not POOLS[pool].borrows else set(LENDERS)
        if POOLS[pool].needs_own_evidence:
            needs = {"anchored"}
        if lenders in needs:
            yield pool, lenders, encoder, ("classification", "regression")[(p + i + e) % 2]
    yield "standard", "recursive", "identity", "regression"
    yield "standard", "recursive", "gaussian", "classification"
    yield "mixture", "anchored", "gaussian", "regression of vectors"
    yield "power, spread", "recursive", "layers", "regression of vectors"
    yield "mixture", "recursive", "gaussian", "two classes"
    yield "geometric, base, spread", "anchored", "layers", "two classes"


@pytest.fixture(params=_cases(), ids=lambda case: "-".join(case))
def case(request: pytest.FixtureRequest) -> Case:
    """All pools, lenders, encoders, targets and classifiers; recursive lenders have something to
    lend."""
    pool, lenders, encoder, kind, classifier = request.param
    # Where tasks have layers of their own, or samples views through tasks, they borrow those too.
    lent = {"layers", "gaussian", "per task", "layer, samples"}
    prior = (POOLS | NESTED | FEEDBACK)[pool]
    if prior.needs_own_evidence:
        lent = {"layers"}
    borrows = pool in POOLS and prior.borrows and encoder in lent
    settings = Settings(
        ENCODERS[encoder],
        prior,
        prior if borrows else Standard(),
        LENDERS[lenders],
        classifier,
    )
    is_classification, outputs = KINDS[kind]
    vmtl = assemble(settings, TASKS, outputs, (INPUTS,), is_classification)
    if isinstance(vmtl.lenders, Recursive):
        vmtl.lenders.advance()
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
