"""Relatives: rows of drawn partitions, as a distribution that Pyro can sample."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyro_vmtl.distributions import Relatives

LABELS = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 2, 3], [0, 0, 1, 1]])
OTHERS = torch.tensor([[i for i in range(4) if i != t] for t in range(4)])


def _rows(labels: Tensor) -> Tensor:
    """Which others share each task's cluster, ``[S, T, T - 1]``."""
    together = (labels.unsqueeze(-1) == labels.unsqueeze(-2)).double()
    return together.gather(-1, OTHERS.expand(len(labels), -1, -1))


@given(lead=st.lists(st.integers(1, 3), max_size=2), sample=st.lists(st.integers(1, 3), max_size=2))
def test_have_the_shapes_that_pyro_expects(lead: list[int], sample: list[int]) -> None:
    law = Relatives(LABELS)
    assert law.batch_shape == (4, 1)
    assert law.event_shape == (3,)
    expanded = law.expand(torch.Size([*lead, 4, 1]))
    assert isinstance(expanded, Relatives)
    assert expanded.batch_shape == (*lead, 4, 1)
    assert expanded.mean.shape == (*lead, 4, 1, 3)
    draw = expanded.rsample(torch.Size(sample))
    assert draw.shape == (*sample, *lead, 4, 1, 3)
    assert expanded.support.check(draw).all()
    assert expanded.log_prob(draw).shape == (*sample, *lead, 4, 1)


def test_a_draw_is_one_partition_for_all_tasks() -> None:
    partitions = {tuple(row.flatten().tolist()) for row in _rows(LABELS)}
    draws = Relatives(LABELS).expand(torch.Size([50, 4, 1])).rsample(torch.Size([4]))
    seen = {tuple(draw.flatten().tolist()) for draw in draws.reshape(200, -1)}
    assert seen == partitions


def test_draws_come_as_often_as_their_partitions() -> None:
    law = Relatives(LABELS)
    draws = law.sample(torch.Size([8000]))
    torch.testing.assert_close(draws.mean(0), law.mean, rtol=0, atol=0.03)
    assert law.mean[0, 0].equal(torch.tensor([0.75, 0.25, 0.0]).double())
    assert law.mean.squeeze(1).equal(_rows(LABELS).mean(0))
    assert law.probs.equal(law.mean)


def test_names_of_clusters_do_not_matter() -> None:
    names = torch.tensor([2, 3, 0, 1])
    assert Relatives(names[LABELS]).mean.equal(Relatives(LABELS).mean)


def test_density_is_the_share_of_draws_with_a_row() -> None:
    law = Relatives(LABELS)
    value = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 1], [1, 1, 1]]).double().unsqueeze(1)
    expected = torch.tensor([0.5, 0.5, 0.5, 0.0]).double().log().unsqueeze(1)
    assert law.log_prob(value).equal(expected)
    # Over all rows that there are the shares sum to 1.
    rows = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)
    total = law.log_prob(rows[:, None, None].expand(-1, 4, 1, -1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))
