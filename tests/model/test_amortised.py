"""Amortised classifiers: class means that are what they say, and weights that follow them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.data import Batch
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import (
    MLP,
    VMTL,
    AmortisedWeights,
    Architecture,
    BayesianLinear,
    Identity,
    Mixture,
    Pool,
    Power,
    Settings,
    Standard,
    assemble,
)

TASKS, INPUTS = 3, 4


def _batch(y: Tensor, x: Tensor | None = None, mask: Tensor | None = None) -> Batch:
    shape = y.shape[:2]
    x = torch.randn(*shape, INPUTS) if x is None else x
    mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    return Batch(x, y, mask, torch.ones(shape), torch.zeros(shape).long())


def _make(
    num_classes: int,
    pool: Pool | None = None,
    encoder: Architecture | None = None,
) -> VMTL:
    encoder = Identity() if encoder is None else encoder
    pool = Standard() if pool is None else pool
    settings = Settings(encoder, pool, classifier="amortised")
    outputs = num_classes or 2
    return assemble(settings, TASKS, outputs, (INPUTS,), num_classes > 0)


def _classifier(vmtl: VMTL) -> AmortisedWeights:
    assert isinstance(vmtl.classifier, AmortisedWeights)
    return vmtl.classifier


def _train_once(vmtl: VMTL, batch: Batch) -> None:
    TraceMeanField_ELBO().differentiable_loss(vmtl.model, vmtl.guide, batch).backward()
    vmtl.update(batch)


class TestShapes:
    @given(
        tasks=st.integers(1, 4),
        classes=st.integers(2, 5),
        features=st.integers(1, 6),
        bias=st.booleans(),
    )
    def test_of_a_classification_have_a_row_a_class_or_one_for_two(
        self, tasks: int, classes: int, features: int, bias: bool
    ) -> None:
        rows = 1 if classes == 2 else classes
        posterior = AmortisedWeights(tasks, rows, features, classes, bias)
        assert posterior.contexts().shape == (tasks, rows, features)
        loc, scale = posterior.gaussians()
        assert loc.shape == scale.shape == (tasks, rows, features + bias)
        assert posterior.event_shape == (rows, features + bias)
        assert posterior().batch_shape == (tasks, 1)

    @given(tasks=st.integers(1, 4), outputs=st.integers(1, 5), features=st.integers(1, 6))
    def test_of_a_regression_have_all_rows_from_one_context(
        self, tasks: int, outputs: int, features: int
    ) -> None:
        posterior = AmortisedWeights(tasks, outputs, features)
        assert posterior.contexts().shape == (tasks, 1, features)
        assert posterior.gaussians().loc.shape == (tasks, outputs, features + 1)

    def test_start_at_the_scale_that_is_given(self) -> None:
        posterior = AmortisedWeights(TASKS, 5, 6, 5, initial_scale=0.03)
        torch.testing.assert_close(posterior.gaussians().scale, torch.full((TASKS, 5, 7), 0.03))


class TestClassMeans:
    def test_of_whole_batches_are_exact_from_the_first_step_on(self) -> None:
        y = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0], [1, 0, 2, 2, 2]])
        vmtl, batch = _make(3), _batch(y)
        expected = torch.stack(
            [torch.stack([batch.x[t][y[t] == c].mean(0) for c in range(3)]) for t in range(TASKS)]
        )
        for _ in range(3):
            _train_once(vmtl, batch)
            torch.testing.assert_close(_classifier(vmtl).contexts(), expected)

    def test_of_minibatches_weigh_recent_ones_more(self) -> None:
        posterior = AmortisedWeights(1, 1, 1, decay=0.5)
        for value in (1.0, 2.0, 4.0):
            posterior.observe(_batch(torch.zeros(1, 1)), torch.full((1, 1, 1), value))
        # 1/4, 1/2 and 1 of the newest, over their sum
        expected = (0.25 * 1 + 0.5 * 2 + 1 * 4) / 1.75
        assert posterior.contexts().item() == pytest.approx(expected)

    def test_weigh_samples_by_how_many_they_stand_for(self) -> None:
        posterior = AmortisedWeights(1, 1, 1, decay=0.9)
        batch = _batch(torch.zeros(1, 2))
        batch.scale = torch.tensor([[3.0, 1.0]])
        posterior.observe(batch, torch.tensor([[[1.0], [5.0]]]))
        assert posterior.contexts().item() == pytest.approx((3 * 1 + 5) / 4)

    def test_of_a_masked_sample_are_those_without_it(self) -> None:
        y = torch.randint(3, (TASKS, 6))
        mask = torch.arange(6) < torch.tensor([[6], [3], [4]])
        features = torch.randn(TASKS, 6, 2)
        one, two = (AmortisedWeights(TASKS, 3, 2, 3) for _ in range(2))
        two.load_state_dict(one.state_dict())
        one.observe(_batch(y, mask=mask), features)
        two.observe(_batch(torch.where(mask, y, 0), mask=mask), features * mask.unsqueeze(-1))
        assert one.contexts().equal(two.contexts())

    def test_of_a_class_that_is_not_in_the_batch_stay(self) -> None:
        posterior = AmortisedWeights(1, 3, 2, 3)
        posterior.observe(_batch(torch.tensor([[0, 1, 2]])), torch.randn(1, 3, 2))
        before = posterior.contexts().clone()
        for _ in range(2000):  # longer than a fading count would last in float32
            posterior.observe(_batch(torch.tensor([[0, 0, 2]])), torch.randn(1, 3, 2))
        after = posterior.contexts()
        torch.testing.assert_close(after[:, 1], before[:, 1])
        assert not after[:, 0].allclose(before[:, 0])

    def test_let_no_gradient_into_the_encoder(self) -> None:
        vmtl = _make(3, encoder=MLP(5, hidden=(), stochastic=False))
        batch = _batch(torch.randint(3, (TASKS, 6)))
        _train_once(vmtl, batch)
        contexts = _classifier(vmtl).contexts().sum()
        used = torch.autograd.grad(contexts, [*vmtl.encoder.parameters()], allow_unused=True)
        assert all(gradient is None for gradient in used)


class TestAbsentClass:
    def test_has_a_learned_vector_in_place_of_its_mean(self) -> None:
        vmtl = _make(3)
        classifier = _classifier(vmtl)
        with torch.no_grad():
            classifier.absent.normal_()
        y = torch.tensor([[0, 1, 2, 0], [0, 1, 1, 1], [2, 2, 2, 2]])
        batch = _batch(y)
        _train_once(vmtl, batch)
        contexts = classifier.contexts()
        present = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 1]]).bool()
        assert contexts[~present].equal(classifier.absent.expand(3, -1))
        assert not (contexts[present] == classifier.absent).any()
        vmtl.zero_grad()
        _train_once(vmtl, batch)
        gradient = classifier.absent.grad
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0

    def test_gives_all_tasks_without_it_the_same_row(self) -> None:
        vmtl = _make(3)
        _train_once(vmtl, _batch(torch.tensor([[0, 1, 1], [1, 0, 1], [0, 2, 1]])))
        loc = _classifier(vmtl).gaussians().loc
        torch.testing.assert_close(loc[0, 2], loc[1, 2])
        assert not loc[0, 2].allclose(loc[2, 2])


class TestTwoClasses:
    def test_have_the_difference_of_their_means(self) -> None:
        vmtl, y = _make(2), torch.tensor([[0, 1, 1], [1, 0, 1], [0, 0, 1]])
        batch = _batch(y)
        _train_once(vmtl, batch)
        expected = torch.stack(
            [batch.x[t][y[t] == 1].mean(0) - batch.x[t][y[t] == 0].mean(0) for t in range(TASKS)]
        )
        torch.testing.assert_close(_classifier(vmtl).contexts().squeeze(1), expected)

    def test_of_which_one_is_missing_have_the_learned_vector(self) -> None:
        vmtl = _make(2)
        classifier = _classifier(vmtl)
        with torch.no_grad():
            classifier.absent.normal_()
        _train_once(vmtl, _batch(torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 0]])))
        contexts = classifier.contexts().squeeze(1)
        assert contexts[1].equal(classifier.absent)
        assert contexts[2].equal(classifier.absent)
        assert not contexts[0].equal(classifier.absent)

    def test_are_refused_with_two_rows(self) -> None:
        with pytest.raises(InputError, match="2 classes have 2 rows"):
            AmortisedWeights(3, 2, 4, num_classes=2)


def test_the_context_of_a_regression_is_the_mean_of_the_task() -> None:
    vmtl, batch = _make(0), _batch(torch.randn(TASKS, 5, 2))
    _train_once(vmtl, batch)
    torch.testing.assert_close(_classifier(vmtl).contexts().squeeze(1), batch.x.mean(1))


def test_permuting_tasks_permutes_their_weights() -> None:
    order = torch.tensor([2, 0, 1])
    y, features = torch.randint(3, (TASKS, 6)), torch.randn(TASKS, 6, 2)
    one, two = (AmortisedWeights(TASKS, 3, 2, 3) for _ in range(2))
    two.load_state_dict(one.state_dict())
    one.observe(_batch(y), features)
    two.observe(_batch(y[order]), features[order])
    for before, after in zip(one.gaussians(), two.gaussians(), strict=True):
        torch.testing.assert_close(before[order], after)


@pytest.mark.parametrize(
    "encoder",
    [Identity(), MLP(5), BayesianLinear(5), BayesianLinear(5, per_task=True)],
    ids=repr,
)
@pytest.mark.parametrize("pool", [Mixture(), Power()], ids=repr)
def test_an_iteration_moves_the_means_and_gives_every_parameter_a_gradient(
    encoder: Architecture, pool: Pool
) -> None:
    vmtl = _make(3, pool, encoder)
    batch = _batch(torch.randint(3, (TASKS, 6)))
    for _ in range(2):  # without lenders, and with those of the first iteration
        vmtl.zero_grad()
        _train_once(vmtl, batch)
        assert _classifier(vmtl).counts.sum() > 0
        for name, parameter in vmtl.classifier.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_survives_saving(tmp_path: Path, kind: str) -> None:
    splits = pv.digit_domains(shots=1) if kind == "classification" else pv.rotated_digits(shots=1)
    settings = pv.Settings(MLP(6, hidden=()), pv.Mixture(), classifier="amortised")
    training = pv.TrainingSettings(epochs=2, steps_per_epoch=2, validation_samples=2)
    fitted = pv.fit(splits.train, splits.validation, settings, training, log_warnings=False)
    loaded = pv.load(pv.save(fitted, tmp_path / "model"))
    assert loaded.settings.classifier == "amortised"
    assert _classifier(loaded.vmtl).counts.equal(_classifier(fitted.vmtl).counts)
    before, after = (f.predict(splits.test, 5).log_density for f in (fitted, loaded))
    assert before.equal(after)
    # The means are part of what was learned: other ones predict otherwise.
    other = copy.deepcopy(fitted)
    _classifier(other.vmtl).sums.mul_(-5)
    assert not other.predict(splits.test, 5).log_density.allclose(before)


def test_a_decay_of_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"decay is 1\.0"):
        AmortisedWeights(3, 3, 4, 3, decay=1.0)
