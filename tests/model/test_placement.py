"""Everything lives where the module and the batch live: on the meta device nothing else mixes in.

The default device stays the CPU, so a tensor made without a thought of its device is caught.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vmtl.data import Batch
from pyro_vmtl.model import (
    VMTL,
    CategoricalLikelihood,
    Geometric,
    Identity,
    Mixture,
    Pool,
    PooledWeights,
    Power,
    Settings,
    Standard,
    assemble,
)

if TYPE_CHECKING:
    from tests.model.conftest import Case

pytestmark = pytest.mark.usefixtures("few_draws")


class OneDevice(TorchDispatchMode):
    """Raises where an operation mixes meta tensors with CPU tensors that are not scalars."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(x.is_meta for x in tensors):
            for x in tensors:
                if not x.is_meta and x.dim() > 0:
                    raise AssertionError(f"{func} got a {x.device} tensor of {list(x.shape)}")
        return func(*args, **(kwargs or {}))


def _evaluate(vmtl: VMTL, batch: Batch) -> None:
    """Every density, KL and gradient that an ELBO of the model takes."""
    total = torch.zeros((), device="meta")
    guide = poutine.trace(vmtl.guide).get_trace(batch)
    model = poutine.trace(poutine.replay(vmtl.model, trace=guide)).get_trace(batch)
    terms: list[Any] = [guide.log_prob_sum(), model.log_prob_sum()]
    for name in prune_subsample_sites(guide).stochastic_nodes:
        laws: list[Any] = [trace.nodes[name]["fn"] for trace in (guide, model)]
        if guide.nodes[name]["mask"] is not False:  # such a site contributes nothing
            terms.append(kl_divergence(*laws).sum())
    for term in terms:
        assert term.is_meta
        total = total + term
    if any(parameter.requires_grad for parameter in vmtl.parameters()):
        total.backward()


@pytest.fixture
def _no_validation() -> None:
    pyro.enable_validation(False)  # a check of values has to read them, and meta has none


@pytest.mark.usefixtures("_no_validation")
def test_nothing_is_made_elsewhere(case: Case) -> None:
    vmtl = case.vmtl.to("meta")
    batch = case.batch.to("meta")
    assert torch.empty(()).device.type == "cpu"
    with OneDevice():
        _evaluate(vmtl, batch)
        vmtl.update(batch)
    for parameter in vmtl.parameters():
        assert parameter.grad is None or parameter.grad.is_meta


@pytest.mark.usefixtures("_no_validation")
@pytest.mark.parametrize("is_classification", [True, False])
@pytest.mark.parametrize(
    "pool",
    [Standard(), Mixture(base=True, spread="task"), Geometric(base=True), Power(spread="scalar")],
    ids=repr,
)
def test_what_follows_from_sites_is_found_where_they_are(
    pool: Pool, is_classification: bool
) -> None:
    """An update sees nothing there; what comes after its first step has numbers for itself."""
    vmtl = assemble(Settings(Identity(), pool), 3, 3, (4,), is_classification).to("meta")
    assert isinstance(vmtl.classifier, PooledWeights)
    with OneDevice():
        vmtl.classifier.look(vmtl.likelihood, last=True)
        lent = vmtl.classifier.lent()
    assert all(part.is_meta for part in (*lent, *vmtl.buffers()))


class _Careless(CategoricalLikelihood):
    """Mixes in a tensor of the CPU in one of two ways that torch itself lets pass."""

    def __init__(self, how: str) -> None:
        super().__init__(2)
        self.how = how

    def forward(self, representations: Tensor, weights: Tensor) -> dist.TorchDistribution:
        logits = super().forward(representations, weights).logits
        if self.how == "matmul":
            logits = logits @ torch.eye(2)
        else:
            logits = logits.gather(-1, torch.zeros(logits.shape, dtype=torch.int64))
        return dist.Categorical(logits=logits)


@pytest.mark.usefixtures("_no_validation")
@pytest.mark.parametrize("how", ["matmul", "gather"])
def test_a_planted_mistake_is_caught(how: str) -> None:
    vmtl = assemble(Settings(Identity()), 3, 2, (4,), True)
    vmtl.likelihood = _Careless(how)
    shape = (3, 5)
    batch = Batch(
        torch.randn(*shape, 4),
        torch.zeros(shape, dtype=torch.int64),
        torch.ones(shape, dtype=torch.bool),
        torch.ones(shape),
        torch.zeros(shape, dtype=torch.int64),
    )
    with OneDevice(), pytest.raises(AssertionError, match="got a cpu tensor"):
        _evaluate(vmtl.to("meta"), batch.to("meta"))
