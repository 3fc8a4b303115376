"""A prior learned across tasks: the Gaussian it is with one component, and how it learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.functional import softplus

from pyro_vmtl.data import Batch, clusters
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import TrainingSettings, fit, load, save
from pyro_vmtl.model import VMTL, Hierarchical, Identity, LearnedPrior, Settings, assemble


def _prior(
    num_components: int, num_tasks: int = 4, event: tuple[int, ...] = (2, 3)
) -> LearnedPrior:
    prior = LearnedPrior(num_components, num_tasks, event).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return prior


def _make(num_components: int, num_tasks: int = 4) -> VMTL:
    settings = Settings(Identity(), Hierarchical(num_components))
    return assemble(settings, num_tasks, 3, (5,), is_classification=True)


def _batch(num_tasks: int = 4) -> Batch:
    shape = (num_tasks, 6)
    return Batch(
        torch.randn(*shape, 5),
        torch.randint(3, shape),
        torch.ones(shape, dtype=torch.bool),
        torch.ones(shape),
        torch.arange(num_tasks * 6).reshape(shape),
    )


@given(num_tasks=st.integers(1, 4), event=st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_one_component_is_a_gaussian(num_tasks: int, event: list[int]) -> None:
    prior = _prior(1, num_tasks, tuple(event))
    law = prior()
    assert law.batch_shape == (num_tasks, 1)
    assert law.event_shape == tuple(event)
    scale = softplus(prior.raw_scale).expand_as(prior.loc)
    gaussian = Independent(Normal(prior.loc.detach(), scale.detach()), len(event))
    shape = (num_tasks, 1, *event)
    value = torch.randn(shape).double()
    torch.testing.assert_close(law.log_prob(value), gaussian.log_prob(value))
    loc, sigma = torch.randn(shape).double(), torch.rand(shape).double() + 0.1
    posterior = Independent(Normal(loc, sigma), len(event))
    torch.testing.assert_close(kl_divergence(posterior, law), kl_divergence(posterior, gaussian))


@given(num_components=st.integers(1, 4))
def test_density_is_that_of_the_weighted_components(num_components: int) -> None:
    prior = _prior(num_components)
    value = torch.randn(4, 1, 2, 3).double()
    scale = softplus(prior.raw_scale).expand_as(prior.loc)
    weights = prior.logits.softmax(-1)
    expected = torch.zeros(4, 1).double()
    for k in range(num_components):
        component = Independent(Normal(prior.loc[k], scale[k]), 2)
        expected = expected + weights[k] * component.log_prob(value).exp()
    torch.testing.assert_close(prior().log_prob(value), expected.log())


def test_components_start_apart_and_one_starts_at_zero() -> None:
    assert LearnedPrior(1, 3, (2,)).loc.abs().max() == 0
    several = LearnedPrior(3, 3, (2,))
    distances = torch.cdist(several.loc, several.loc) + torch.eye(3)
    assert distances.min() > 0


def test_a_pool_needs_a_component() -> None:
    with pytest.raises(InputError, match="num_components is 0; expected at least 1"):
        Hierarchical(0)


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("num_components", [1, 3])
@pytest.mark.parametrize("num_tasks", [1, 4])
def test_its_parameters_learn_from_the_tasks(
    kind: type[Trace_ELBO], num_components: int, num_tasks: int
) -> None:
    vmtl, batch = _make(num_components, num_tasks), _batch(num_tasks)
    assert not vmtl.borrowing, "nobody lends"
    elbo = kind(num_particles=2, vectorize_particles=True, max_plate_nesting=2)
    elbo.differentiable_loss(vmtl.model, vmtl.guide, batch).backward()
    assert isinstance(vmtl.learned_prior, LearnedPrior)
    for name, parameter in vmtl.learned_prior.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A single component's weight is 1 whatever its logit.
        assert (parameter.grad.abs().sum() > 0).item() == (name != "logits" or num_components > 1)


def test_learned_mean_and_variance_are_those_that_maximise_the_elbo() -> None:
    """Given the posteriors the optimum is closed: the mean of means, and their whole variance."""
    vmtl, batch = _make(1), _batch()
    loc, scale = (x.detach() for x in vmtl.classifier.gaussians())
    prior = vmtl.learned_prior
    assert isinstance(prior, LearnedPrior)
    mean = loc.mean(0)
    variance = (scale.square() + (loc - mean).square()).mean()
    with torch.no_grad():
        prior.loc.copy_(mean.unsqueeze(0))
        prior.raw_scale.fill_(math.log(math.expm1(float(variance.sqrt()))))
    TraceMeanField_ELBO().differentiable_loss(vmtl.model, vmtl.guide, batch).backward()
    for parameter in (prior.loc, prior.raw_scale):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-2


@pytest.mark.parametrize("num_components", [1, 2])
def test_is_saved_and_loaded(tmp_path: Path, num_components: int) -> None:
    splits = clusters(4, 2, samples=10, dimensions=3, test_samples=20)
    settings = Settings(Identity(), Hierarchical(num_components), bias=False)
    training = TrainingSettings(epochs=2, steps_per_epoch=15, validation_samples=4)
    fitted = fit(splits.train, splits.validation, settings, training, accelerator="cpu")
    loaded = load(save(fitted, tmp_path / "model"))
    assert isinstance(loaded.settings.pool, Hierarchical)
    assert loaded.settings.pool.num_components == num_components
    ours, theirs = (f.vmtl.learned_prior for f in (fitted, loaded))
    assert isinstance(ours, LearnedPrior)
    assert isinstance(theirs, LearnedPrior)
    assert ours.loc.equal(theirs.loc)
    assert ours.logits.equal(theirs.logits)
    assert ours.loc.abs().max() > 0
    before, after = (f.predict(splits.test, 20).log_density for f in (fitted, loaded))
    assert before.equal(after)
