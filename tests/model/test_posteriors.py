"""The weights' posteriors: where they start, and that a point with a KL weight is MAP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy.stats import norm
from torch import Tensor

from pyro_vmtl.data import Batch
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import (
    VMTL,
    Identity,
    MeanFieldWeights,
    Mixture,
    PointWeights,
    Pool,
    Power,
    Settings,
    Standard,
    assemble,
)


def test_starts_at_the_scale_and_jitter_it_is_given() -> None:
    posterior = MeanFieldWeights(5, 20, 40, initial_scale=0.03, initial_jitter=0.2)
    torch.testing.assert_close(posterior.scale, torch.full((5, 20, 41), 0.03))
    for made in (posterior, PointWeights(5, 20, 40, initial_jitter=0.2)):
        assert abs(made.loc.std() - 0.2) < 0.01
    assert MeanFieldWeights(2, 2, 2, initial_jitter=0).loc.abs().max() == 0


def test_is_one_gaussian_a_task_with_the_bias_as_last_column() -> None:
    posterior = MeanFieldWeights(3, 2, 4)
    law = posterior()
    assert law.batch_shape == (3, 1)
    assert law.event_shape == posterior.event_shape == (2, 5)
    loc, scale = posterior.gaussians()
    assert law.mean.squeeze(1).equal(loc)
    assert law.stddev.squeeze(1).equal(scale)
    assert MeanFieldWeights(3, 2, 4, bias=False).event_shape == (2, 4)


def test_lends_itself_without_gradient() -> None:
    posterior = MeanFieldWeights(3, 2, 4)
    lent = posterior.lent()
    for ours, own in zip(lent, posterior.gaussians(), strict=True):
        assert ours.equal(own)
        assert not ours.requires_grad


NOISE = 0.5


def _regression(tempering: float) -> tuple[VMTL, Batch]:
    """Two tasks, z = x of three inputs, one output, no bias."""
    settings = Settings(Identity(), Standard(), classifier="point", bias=False)
    vmtl = assemble(settings, 2, 1, (3,), is_classification=False).double()
    with torch.no_grad():
        vmtl.get_parameter("likelihood.raw_noise").fill_(np.log(np.expm1(NOISE - 1e-4)))
    vmtl.tempering["weights"] = tempering
    x, y = torch.randn(2, 7, 3).double(), torch.randn(2, 7).double()
    mask = torch.arange(7) < torch.tensor([[7], [5]])
    ones = torch.ones(2, 7).double()
    return vmtl, Batch(x, y, mask, ones, torch.zeros(2, 7).long())


def _ridge(batch: Batch, tempering: float) -> Tensor:
    """The maximum of log N(y; X w, s^2) - tempering w'w / 2, ``[T, 3]``, by normal equations."""
    solutions = []
    for x, y, mask in zip(batch.x, batch.y, batch.mask, strict=True):
        x, y = x[mask], y[mask]
        gram = x.mT @ x / NOISE**2 + tempering * torch.eye(3).double()
        solutions.append(torch.linalg.solve(gram, x.mT @ y / NOISE**2))
    return torch.stack(solutions)


class TestPoints:
    @pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
    @pytest.mark.parametrize("tempering", [1.0, 0.1, 0.0])
    def test_are_map_or_with_no_kl_maximum_likelihood(self, kind: Any, tempering: float) -> None:
        vmtl, batch = _regression(tempering)
        loc = vmtl.get_parameter("classifier.loc")
        with torch.no_grad():
            loc.copy_(_ridge(batch, tempering).unsqueeze(1))
        # The objective is strictly convex in the weights: where its slope is 0 is its minimum.
        kind().differentiable_loss(vmtl.model, vmtl.guide, batch).backward()
        assert loc.grad is not None
        assert loc.grad.abs().max() < 1e-9

    def test_have_the_log_joint_density_as_their_elbo(self) -> None:
        vmtl, batch = _regression(1.0)
        w = vmtl.get_parameter("classifier.loc").detach()
        predicted = (batch.x @ w.mT).squeeze(-1)
        density = norm.logpdf(batch.y, predicted, NOISE)[batch.mask].sum() + norm.logpdf(w).sum()
        loss = TraceMeanField_ELBO().loss(vmtl.model, vmtl.guide, batch)
        assert loss == pytest.approx(-density, rel=1e-9)

    def test_are_the_same_in_every_draw(self) -> None:
        posterior = PointWeights(3, 2, 4)
        law = posterior()
        assert law.batch_shape == (3, 1)
        assert law.event_shape == posterior.event_shape == (2, 5)
        assert law.sample(torch.Size([4])).equal(posterior.loc.unsqueeze(1).expand(4, 3, 1, 2, 5))
        assert posterior.gaussians().scale.abs().max() == 0

    @pytest.mark.parametrize("pool", [Mixture(), Power()], ids=repr)
    def test_lend_to_nobody(self, pool: Pool) -> None:
        with pytest.raises(InputError, match="point estimates") as error:
            assemble(Settings(Identity(), pool, classifier="point"), 3, 2, (4,), True)
        assert "\n" not in str(error.value)

    def test_of_one_task_are_refused_alike(self) -> None:
        settings = Settings(Identity(), Mixture(), classifier="point")
        with pytest.raises(InputError, match="expected the pool Standard"):
            assemble(settings, 1, 2, (4,), True)
