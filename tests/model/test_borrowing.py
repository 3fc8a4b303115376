"""Relatedness: which slot is which lender, and what it starts from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import Borrowing, Geometric, Linear, Mixture, Pool, Power


@given(tasks=st.integers(2, 6), base=st.booleans(), lead=st.lists(st.integers(1, 3), max_size=1))
def test_a_slot_is_another_task_and_never_the_task_itself(
    tasks: int, base: bool, lead: list[int]
) -> None:
    borrowing = Borrowing(Mixture(base=base), tasks, (2, 3))
    lenders = tasks - 1 + int(base)
    assert borrowing.logits.shape == (tasks, lenders)
    slots = torch.rand(*lead, tasks, 1, lenders)
    by_component = borrowing.by_component(slots)
    assert by_component.shape == (*lead, tasks, 1, tasks + int(base))
    for t in range(tasks):
        components = [i for i in range(tasks + int(base)) if i != t + int(base)]
        assert by_component[..., t, 0, components].equal(slots[..., t, 0, :])
        assert (by_component[..., t, 0, t + int(base)] == 0).all()
    empty = borrowing.by_component(slots, empty=-torch.inf)
    own = torch.arange(tasks)
    assert (empty[..., own, 0, own + int(base)] == -torch.inf).all()


@given(tasks=st.integers(2, 6), base=st.booleans())
def test_relatedness_starts_uniform(tasks: int, base: bool) -> None:
    borrowing = Borrowing(Mixture(base=base), tasks, (2,))
    lenders = tasks - 1 + int(base)
    expected = torch.full((tasks, lenders), 1 / lenders, dtype=torch.float64)
    torch.testing.assert_close(borrowing.probabilities(), expected)
    gates = Borrowing(Power(), tasks, (2,)).probabilities()
    torch.testing.assert_close(gates, torch.full((tasks, tasks - 1), 0.5).double())


@pytest.mark.parametrize("pool", [Mixture(), Power()])
def test_the_prior_of_relatedness_is_uniform_unless_shared(pool: Pool) -> None:
    for is_shared in (False, True):
        borrowing = Borrowing(pool, 3, (2,), empirical_bayes=is_shared)
        with torch.no_grad():
            borrowing.logits.add_(torch.randn(3, 2))
        posterior = borrowing.relatedness_posterior()
        prior = borrowing.relatedness_prior()
        assert prior.batch_shape == posterior.batch_shape == (3, 1)
        expected = borrowing.probabilities() if is_shared else torch.full((3, 2), 0.5).double()
        torch.testing.assert_close(prior.probs.squeeze(1), expected)


@pytest.mark.parametrize("pool", [Mixture, Linear, Geometric, Power])
@pytest.mark.parametrize(
    ("spread", "shape"), [("scalar", (1, 1, 1)), ("task", (4, 1, 1)), ("feature", (1, 2, 3))]
)
def test_the_spread_widens_the_prior(
    pool: type[Mixture | Linear | Geometric | Power], spread: str, shape: tuple[int, ...]
) -> None:
    borrowing = Borrowing(pool(spread=spread), 4, (2, 3), initial_spread=0.5)  # type: ignore[arg-type]
    assert borrowing.spread is not None
    torch.testing.assert_close(borrowing.spread, torch.full(shape, 0.5))
    plain = Borrowing(pool(), 4, (2, 3))
    assert plain.spread is None
    lenders = Gaussians(torch.randn(4, 2, 3), torch.full((4, 2, 3), 0.2))
    draw = borrowing.relatedness_posterior().sample()
    wide, narrow = borrowing.prior(draw, lenders), plain.prior(draw, lenders)
    assert wide.batch_shape == (4, 1)
    assert wide.event_shape == (2, 3)
    assert (wide.variance > narrow.variance).all()


def test_a_pool_with_an_unknown_spread_is_refused() -> None:
    with pytest.raises(InputError, match="'wide'"):
        Mixture(spread="wide")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'loose'"):
        Mixture(kl_bound="loose")  # type: ignore[arg-type]


def test_components_may_differ_by_sample() -> None:
    # As the attention view has it: every sample of every task sees lenders of its own.
    borrowing = Borrowing(Mixture(base=True), 3, (5,))
    lenders = Gaussians(torch.randn(3, 4, 3, 5), torch.rand(3, 4, 3, 5) + 0.1)
    draw = borrowing.relatedness_posterior().sample()
    prior = borrowing.prior(draw, lenders)
    assert prior.batch_shape == (3, 4)
    value = torch.randn(3, 4, 5)
    log_prob = prior.log_prob(value)
    for t in range(3):
        for n in range(4):
            shared = Gaussians(lenders.loc[t, n], lenders.scale[t, n])
            expected = borrowing.prior(draw, shared).log_prob(value[:, n : n + 1])[t, 0]
            torch.testing.assert_close(log_prob[t, n], expected)
