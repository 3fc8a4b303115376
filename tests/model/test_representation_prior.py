"""The prior of representations: a mixture over tasks of the sample as seen through them."""

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_vmtl.data import Batch, Views
from pyro_vmtl.distributions import Gaussians, PosteriorMixture
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import (
    MLP,
    VMTL,
    Borrowing,
    Feedback,
    Geometric,
    Identity,
    Linear,
    Mixture,
    Nested,
    Pool,
    Power,
    Settings,
    Standard,
    assemble,
)

T, B, D, Z = 4, 3, 5, 2


def _make(pool: Pool, per_task: bool = False) -> VMTL:
    encoder = MLP(Z, hidden=(6,), dropout=0.5, per_task=per_task)
    settings = Settings(encoder, Standard(), pool, "mean_field")
    vmtl = assemble(settings, T, 3, (D,), is_classification=True)
    vmtl.set_extra_state(torch.tensor(True))
    return vmtl


def _batch(present: Tensor | None = None) -> Batch:
    shape = (T, B)
    present = torch.ones(*shape, T, dtype=torch.bool) if present is None else present
    return Batch(
        torch.randn(*shape, D),
        torch.randint(3, shape),
        torch.ones(shape, dtype=torch.bool),
        torch.ones(shape),
        torch.zeros(shape, dtype=torch.int64),
        views=Views(torch.randn(*shape, T, D), present),
    )


def _weights(draw: Tensor, t: int) -> list[float]:
    """Of the T components, 0 for the task itself."""
    others = draw[t, 0].tolist()
    return [*others[:t], 0.0, *others[t:]]


@pytest.mark.parametrize("per_task", [False, True])
def test_mixes_the_sample_as_each_task_sees_it(per_task: bool) -> None:
    vmtl, batch = _make(Mixture(), per_task).eval(), _batch()
    draw = torch.rand(T, 1, T - 1).double()
    draw = draw / draw.sum(-1, keepdim=True)
    prior = vmtl.representations_prior(batch, draw)
    value = torch.randn(T, B, Z)
    density = prior.log_prob(value)
    assert density.shape == (T, B)
    assert batch.views is not None
    for t in range(T):
        for n in range(B):
            terms = []
            for i, weight in enumerate(_weights(draw, t)):
                # Task i's encoder looks at what the sample is through task i.
                x = batch.x.clone()
                x[i, 0] = batch.views.x[t, n, i]
                law = vmtl.encoder(x).base_dist
                component = dist.Normal(law.loc[i, 0], law.scale[i, 0]).to_event(1)
                if i != t:
                    terms.append(math.log(weight) + component.log_prob(value[t, n]).double())
            expected = torch.stack(terms).logsumexp(0)
            torch.testing.assert_close(density[t, n].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", [Mixture(), Mixture(base=True), Linear(), Geometric()], ids=repr)
def test_a_task_without_the_class_drops_out(pool: Pool) -> None:
    """The prior is that of the others with their weights made to sum to 1."""
    present = torch.ones(T, B, T, dtype=torch.bool)
    present[0, 1, 2] = False
    vmtl, batch = _make(pool).eval(), _batch(present)
    base = int(pool.base)
    draw = torch.rand(T, 1, T - 1 + base).double()
    draw = draw / draw.sum(-1, keepdim=True)
    without = draw.clone()
    slot = 1 + base  # of task 2 among the lenders of task 0
    without[0, 0, slot] = 1e-300
    without = without / without.sum(-1, keepdim=True)
    dropped = vmtl.representations_prior(batch, draw)
    value = torch.randn(T, B, Z)
    assert batch.views is not None
    batch.views.present.fill_(True)
    expected = vmtl.representations_prior(batch, without).log_prob(value)
    whole = vmtl.representations_prior(batch, draw).log_prob(value)
    found = dropped.log_prob(value)
    torch.testing.assert_close(found[0, 1], expected[0, 1])
    assert not torch.isclose(found[0, 1], whole[0, 1])
    others = torch.ones(T, B, dtype=torch.bool)
    others[0, 1] = False
    torch.testing.assert_close(found[others], whole[others])


EVERY_POOL = [
    Mixture(),
    Mixture(spread="task"),
    Linear(),
    Linear(base=True, spread="scalar"),
    Geometric(spread="feature"),
    Power(),
    Power(spread="task"),
]


@pytest.mark.parametrize("pool", EVERY_POOL, ids=repr)
def test_where_no_task_lacks_the_class_nobody_drops_out(pool: Pool) -> None:
    borrowing = Borrowing(pool, T, (Z,))
    lenders = Gaussians(torch.randn(T, B, T, Z), 0.1 + 0.3 * torch.rand(T, B, T, Z))
    draw = borrowing.relatedness_posterior().sample()
    present = torch.ones(T, B, T, dtype=torch.bool)
    value = torch.randn(T, B, Z)
    expected = borrowing.prior(draw, lenders).log_prob(value)
    torch.testing.assert_close(borrowing.prior(draw, lenders, present).log_prob(value), expected)


@pytest.mark.parametrize("spread", [None, "task"])
def test_the_gate_of_a_task_without_the_class_is_closed(spread: Any) -> None:
    borrowing = Borrowing(Power(spread), T, (Z,))
    lenders = Gaussians(torch.randn(T, B, T, Z), 0.1 + 0.3 * torch.rand(T, B, T, Z))
    draw = borrowing.relatedness_posterior().sample()
    present = torch.ones(T, B, T, dtype=torch.bool)
    present[0, 1, 2] = False
    closed = draw.clone()
    closed[0, 0, 1] = 0  # task 2 among the lenders of task 0
    value = torch.randn(T, B, Z)
    found = borrowing.prior(draw, lenders, present).log_prob(value)
    torch.testing.assert_close(found[0, 1], borrowing.prior(closed, lenders).log_prob(value)[0, 1])


@pytest.mark.parametrize(
    "pool", [*EVERY_POOL, Mixture(base=True), Mixture(base=True, spread="task")], ids=repr
)
def test_a_sample_that_nobody_has_a_view_of_has_a_standard_normal(pool: Pool) -> None:
    present = torch.ones(T, B, T, dtype=torch.bool)
    present[1, 2] = torch.arange(T) == 1  # its own view does not count
    vmtl, batch = _make(pool).eval(), _batch(present)
    draw = torch.full((T, 1, T - 1 + int(pool.base)), 1 / (T - 1 + int(pool.base))).double()
    prior = vmtl.representations_prior(batch, draw)
    value = torch.randn(T, B, Z)
    expected = dist.Normal(0, 1).expand([Z]).to_event(1).log_prob(value[1, 2])
    found = prior.log_prob(value)[1, 2]
    torch.testing.assert_close(found.float(), expected)


def test_nothing_is_lent_before_the_first_iteration_nor_without_views() -> None:
    vmtl, batch = _make(Mixture()), _batch()
    draw = torch.full((T, 1, T - 1), 1 / (T - 1)).double()
    assert isinstance(vmtl.representations_prior(batch, draw), PosteriorMixture)
    fresh = assemble(vmtl_settings(), T, 3, (D,), is_classification=True)
    assert fresh.representations_prior(batch, draw).mean.abs().max() == 0
    batch.views = None
    assert vmtl.representations_prior(batch, draw).mean.abs().max() == 0


def vmtl_settings() -> Settings:
    return Settings(MLP(Z, hidden=(6,)), Standard(), Mixture(), "mean_field")


def test_what_is_lent_has_neither_gradient_nor_dropout_noise() -> None:
    vmtl, batch = _make(Mixture()).train(), _batch()
    draw = torch.full((T, 1, T - 1), 1 / (T - 1)).double()
    priors = [vmtl.representations_prior(batch, draw) for _ in range(2)]
    one, two = (prior.components.loc for prior in priors if isinstance(prior, PosteriorMixture))
    assert one.shape == (T, B, T, Z)
    assert one.equal(two)
    assert not one.requires_grad
    assert vmtl.encoder.training


@pytest.mark.parametrize(
    ("encoder", "pool", "sentence"),
    [
        (MLP(Z), Nested(), "a prior of weights; expected Standard, Mixture"),
        (MLP(Z), Feedback(), "a prior of weights; expected Standard, Mixture"),
        (Identity(), Mixture(), "expected Gaussian representations"),
        (MLP(Z, stochastic=False), Mixture(), "no Bayesian layer"),
    ],
)
@pytest.mark.parametrize("classifier", ["conjugate", "mean_field"])
def test_what_cannot_be_pooled_is_refused(
    encoder: MLP | Identity, pool: Pool, classifier: Any, sentence: str
) -> None:
    settings = Settings(encoder, Standard(), pool, classifier)
    with pytest.raises(InputError, match=sentence):
        assemble(settings, T, 3, (D,), is_classification=True)
