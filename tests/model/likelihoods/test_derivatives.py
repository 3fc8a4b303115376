"""Slopes, curvatures and distributions of every likelihood, against autograd and each other."""

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vmtl.data import Batch, TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import (
    CategoricalLikelihood,
    Likelihood,
    NegativeBinomialLikelihood,
    OrdinalLikelihood,
    PoissonLikelihood,
    StudentTLikelihood,
)


class Gamma(Likelihood):
    """One of a user's own."""

    support = constraints.positive
    expects = "numbers above 0"

    def given(self, predictor: Tensor, variance: Tensor | None = None) -> dist.TorchDistribution:
        return dist.Gamma(3.0, 3 * (-predictor.squeeze(-1)).exp())


def targets_of(likelihood: Likelihood, shape: tuple[int, ...]) -> Tensor:
    if likelihood.num_classes:
        return torch.randint(likelihood.num_classes, shape)
    shape = shape if likelihood.num_outputs == 1 else (*shape, likelihood.num_outputs)
    if isinstance(likelihood, StudentTLikelihood):
        return 3 * torch.randn(shape, dtype=torch.float64) + 7
    return torch.randint(30, shape).double() + isinstance(likelihood, Gamma)


def learned(likelihood: Likelihood) -> tuple[Likelihood, Tensor]:
    """The likelihood after it has seen targets, ``[4, 6]``, and these."""
    targets = targets_of(likelihood, (4, 6))
    likelihood.learn_from(targets.flatten(0, 1))
    return likelihood, targets


def every() -> list[Likelihood]:
    return [
        *(StudentTLikelihood(1), StudentTLikelihood(2), StudentTLikelihood(2, degrees=3.0)),
        *(PoissonLikelihood(1), PoissonLikelihood(3)),
        *(NegativeBinomialLikelihood(1), NegativeBinomialLikelihood(2)),
        *(OrdinalLikelihood(2), OrdinalLikelihood(3), OrdinalLikelihood(6), Gamma()),
        CategoricalLikelihood(4, contrasts=True),
    ]


def name(likelihood: Likelihood) -> str:
    return f"{type(likelihood).__name__}-{likelihood.num_outputs}-{likelihood.num_classes}"


@pytest.mark.parametrize("likelihood", every(), ids=name)
def test_are_those_of_the_distribution(likelihood: Likelihood) -> None:
    likelihood, y = learned(likelihood)
    eta = torch.randn(5, 4, 6, likelihood.num_outputs, dtype=torch.float64).requires_grad_()
    log_p = likelihood.given(eta).log_prob(y)
    assert log_p.shape == (5, 4, 6)
    (slope,) = torch.autograd.grad(log_p.sum(), eta, create_graph=True)
    curvature = [
        -torch.autograd.grad(slope[..., k].sum(), eta, retain_graph=True)[0][..., k]
        for k in range(likelihood.num_outputs)
    ]
    targets = likelihood.standardised(y)
    found = likelihood.derivatives(eta.detach(), targets)
    joint = found[0].sum(-1) if likelihood.factorises else found[0]
    torch.testing.assert_close(joint, log_p.detach())
    torch.testing.assert_close(found[1], slope.detach())
    torch.testing.assert_close(found[2], torch.stack(curvature, -1).detach())
    for ours, general in zip(found, Likelihood.derivatives(likelihood, eta, targets), strict=True):
        torch.testing.assert_close(ours, general)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_ordered_classes_have_probabilities_that_move_up_with_eta(classes: int) -> None:
    likelihood, _ = learned(OrdinalLikelihood(classes))
    assert isinstance(likelihood, OrdinalLikelihood)
    assert likelihood.cut_points.shape == (classes - 1,)
    assert (likelihood.cut_points.diff() > 0).all()
    eta = torch.linspace(-30, 30, 50, dtype=torch.float64).view(1, 50, 1)
    law = likelihood.given(eta)
    assert isinstance(law, torch.distributions.Categorical)
    below = law.probs.cumsum(-1)[..., :-1]
    torch.testing.assert_close(below, (likelihood.cut_points - eta).sigmoid())
    assert law.logits.isfinite().all()


def test_cut_points_start_where_the_frequencies_are() -> None:
    likelihood = OrdinalLikelihood(4)
    likelihood.learn_from(torch.tensor([0] * 100 + [1] * 200 + [2] * 50 + [3] * 650))
    law = likelihood.given(torch.zeros(1, 1, 1, dtype=torch.float64))
    assert isinstance(law, torch.distributions.Categorical)
    expected = torch.tensor([0.1, 0.2, 0.05, 0.65], dtype=torch.float64)
    torch.testing.assert_close(law.probs.flatten(), expected, atol=2e-3, rtol=0)


def test_counts_are_centred_at_the_log_of_their_mean() -> None:
    y = torch.tensor([[10.0, 0.0], [30.0, 0.0]])
    for likelihood in (PoissonLikelihood(2), NegativeBinomialLikelihood(2)):
        likelihood.learn_from(y)
        mean = likelihood.given(torch.zeros(1, 1, 2, dtype=torch.float64)).mean.flatten()
        torch.testing.assert_close(mean, torch.tensor([20.0, 0.25], dtype=torch.float64))


def test_outliers_do_not_move_the_unit_of_targets() -> None:
    y = torch.randn(200) * 2 + 5
    clean, dirty = StudentTLikelihood(), StudentTLikelihood()
    clean.learn_from(y)
    dirty.learn_from(torch.cat([y, torch.full((10,), 1e6)]))
    for name in ("target_loc", "target_scale"):
        one, other = getattr(clean, name), getattr(dirty, name)
        torch.testing.assert_close(one, other, atol=0.4, rtol=0)


def test_targets_that_do_not_fit_are_named() -> None:
    def tasks(*values: float) -> TaskSet:
        x = torch.zeros(len(values), 2)
        return TaskSet.from_arrays({"a": (x, torch.ones(len(values))), "b": (x, list(values))})

    for value in (-1.0, 2.5):
        with pytest.raises(InputError, match=f"task 'b' has the target {value:g}, and the likel"):
            PoissonLikelihood().check(tasks(0.0, value))
    with pytest.raises(InputError, match="likelihood is Gamma; expected numbers above 0"):
        Gamma().check(tasks(1.0, 0.0))
    PoissonLikelihood().check(tasks(0.0, 7.0, float("nan")))  # one is missing
    Gamma().check(tasks(0.1, 7.0))


def test_padding_holds_a_target_that_fits() -> None:
    y = torch.tensor([[2.0, 0.0], [3.0, 4.0]])
    mask = torch.tensor([[True, False], [True, True]])
    batch = Batch(y[..., None], y, mask, torch.ones_like(y), torch.zeros_like(mask).long())
    filled = Gamma().filled(batch)
    assert filled[mask].equal(y[mask])
    assert (filled > 0).all()
    assert PoissonLikelihood().filled(batch).equal(y)
