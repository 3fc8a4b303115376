"""Evidence is 1 where all data were counted once, and knows what was dropped out and tempered."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pyro_vmtl.data import Batch
from pyro_vmtl.inference import times_counted
from pyro_vmtl.inference.counted_evidence import _curvatures
from pyro_vmtl.model import (
    MLP,
    VMTL,
    BayesianLinear,
    DeterministicEncoder,
    Identity,
    Mixture,
    Nested,
    PerTask,
    Pool,
    Settings,
    Standard,
    assemble,
)

NOISE = 0.5


def _set(program: VMTL, loc: Tensor, scale: Tensor, of: str = "classifier") -> None:
    """Put a posterior somewhere."""
    shape = program.get_parameter(f"{of}.loc").shape
    with torch.no_grad():
        program.get_parameter(f"{of}.loc").copy_(loc.expand(shape))
        # The inverse of softplus, which keeps small scales.
        raw = scale + (-(-scale).expm1()).log()
        program.get_parameter(f"{of}.raw_scale").copy_(raw.expand(shape))


def _batch(x: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> Batch:
    mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    y = torch.zeros(mask.shape).long() if y is None else y
    return Batch(x, y, mask, torch.ones(mask.shape), torch.zeros(mask.shape).long())


def _regression(
    num_tasks: int,
    pool: Pool | None = None,
    bias: bool = False,
    classifier: Any = "mean_field",
) -> tuple[VMTL, Batch]:
    """Linear-Gaussian tasks: the mean-field optimum is known, 1 + the sum of x^2 / s^2."""
    pool = Standard() if pool is None else pool
    settings = Settings(Identity(), pool, classifier=classifier, bias=bias, initial_noise=NOISE)
    vmtl = assemble(settings, num_tasks, 1, (3,), is_classification=False)
    x = torch.randn(num_tasks, 20, 3)
    mask = torch.rand(num_tasks, 20) < 0.7
    mask[:, 0] = True
    return vmtl, _batch(x, torch.randn(mask.shape), mask)


def _own(batch: Batch, bias: bool = False) -> Tensor:
    """What each task's data add to the precision of its weights, ``[T, 1, d]``."""
    features = batch.x
    if bias:
        features = torch.cat([features, torch.ones_like(features[..., :1])], -1)
    counted = batch.mask.unsqueeze(-1) * features.square()
    return counted.sum(1, keepdim=True) / (NOISE + 1e-4) ** 2


class TestOfWeights:
    @pytest.mark.parametrize(
        ("num_tasks", "pool"), [(1, Standard()), (4, Standard()), (4, Mixture())], ids=str
    )
    @pytest.mark.parametrize("kl_weight", [1.0, 0.1])
    @pytest.mark.parametrize("bias", [False, True])
    def test_is_one_over_the_tasks_where_each_counts_its_own_data_once(
        self, num_tasks: int, pool: Pool, kl_weight: float, bias: bool
    ) -> None:
        vmtl, batch = _regression(num_tasks, pool, bias)
        vmtl.tempering["weights"] = kl_weight
        own = _own(batch, bias) / kl_weight
        _set(vmtl, torch.zeros(1), (1 + own).rsqrt())
        assert times_counted(vmtl, batch) == {
            "weights_evidence": pytest.approx(1 / num_tasks, rel=1e-4)
        }
        _set(vmtl, torch.zeros(1), (1 + own.sum(0, keepdim=True)).rsqrt())
        assert times_counted(vmtl, batch)["weights_evidence"] == pytest.approx(1, rel=1e-4)

    def test_of_a_classifier_is_that_of_its_mean_curvature(self) -> None:
        vmtl = assemble(
            Settings(Identity(), Standard(), classifier="mean_field", bias=False), 2, 2, (3,), True
        )
        x = torch.randn(2, 400, 3)
        # At weights of 0 every probability is 1/2, and the curvature 1/4.
        own = 0.25 * x.square().sum(1, keepdim=True)
        _set(vmtl, torch.zeros(1), (1 + own).rsqrt())
        assert times_counted(vmtl, _batch(x))["weights_evidence"] == pytest.approx(0.5, rel=0.05)

    def test_scales_a_minibatch_up_to_the_whole(self) -> None:
        vmtl, batch = _regression(2)
        whole = times_counted(vmtl, batch)["weights_evidence"]
        batch.scale = torch.full_like(batch.scale, 4.0)
        assert times_counted(vmtl, batch)["weights_evidence"] == pytest.approx(whole / 4, rel=1e-4)

    def test_is_left_out_where_it_means_nothing(self) -> None:
        vmtl, batch = _regression(2)
        vmtl.tempering["weights"] = 0.0
        assert times_counted(vmtl, batch) == {}
        vmtl.tempering["weights"] = 1.0
        batch.mask = torch.zeros_like(batch.mask)
        assert times_counted(vmtl, batch) == {}
        point = assemble(Settings(Identity(), Standard(), classifier="point"), 2, 2, (3,), True)
        assert times_counted(point, _batch(torch.randn(2, 4, 3))) == {}

    @pytest.mark.parametrize("pool", [Standard(), Mixture(), Nested()], ids=str)
    def test_is_left_out_where_closed_forms_count_data_once(self, pool: Pool) -> None:
        vmtl, batch = _regression(2, pool, classifier="conjugate")
        vmtl.update(batch)
        assert times_counted(vmtl, batch) == {}


class TestWithDropout:
    def test_is_that_of_the_data_as_training_shows_them(self) -> None:
        """What dropout keeps it enlarges: E[z^2] = x^2 / (1 - p)."""
        share, x = 0.4, torch.randn(2, 2000, 3)
        settings = Settings(
            DeterministicEncoder(nn.Sequential(nn.Dropout(share)), 3),
            Standard(),
            classifier="mean_field",
            bias=False,
            initial_noise=NOISE,
        )
        vmtl = assemble(settings, 2, 1, (3,), is_classification=False)
        batch = _batch(x, torch.randn(2, 2000))
        _set(vmtl, torch.zeros(1), (1 + _own(batch) / (1 - share)).rsqrt())
        for mode in (True, False):
            numbers = times_counted(vmtl.train(mode), batch)
            assert numbers["weights_evidence"] == pytest.approx(0.5, rel=0.03)

    @pytest.mark.parametrize("is_training", [True, False])
    def test_leaves_the_model_as_it_was(self, is_training: bool) -> None:
        def network() -> nn.Module:
            return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))

        for encoder in (
            DeterministicEncoder(network(), 4),
            DeterministicEncoder(PerTask(network, 2), 4),
            MLP(4, hidden=(5,), dropout=0.5, per_task=True),
        ):
            settings = Settings(encoder, Mixture(), classifier="mean_field")
            vmtl = assemble(settings, 2, 2, (3,), True)
            vmtl.train(is_training)
            before = copy.deepcopy(vmtl.state_dict())
            batch = _batch(torch.randn(2, 9, 3))
            torch.manual_seed(3)
            first = vmtl.encoder(batch.x).mean
            vmtl.load_state_dict(before)
            times_counted(vmtl, batch)
            assert all(value.equal(before[name]) for name, value in vmtl.state_dict().items())
            assert all(part.training == is_training for part in vmtl.modules())
            torch.manual_seed(3)
            torch.testing.assert_close(vmtl.encoder(batch.x).mean, first)


class TestOfLayers:
    """z = Phi x: given the weights, y = w Phi x + noise is linear in Phi."""

    @staticmethod
    def _model(dropout: float = 0.0) -> tuple[VMTL, Batch, Tensor]:
        encoder = BayesianLinear(2, per_task=True, dropout=dropout)
        settings = Settings(
            encoder, Standard(), Mixture(), "mean_field", bias=False, initial_noise=NOISE
        )
        vmtl = assemble(settings, 3, 1, (4,), is_classification=False)
        batch = _batch(torch.randn(3, 1500, 4), torch.randn(3, 1500))
        weights = torch.tensor([0.3, -2.0])
        _set(vmtl, weights, torch.tensor(1e-4))
        inputs = torch.cat([batch.x.square() / (1 - dropout), torch.ones(3, 1500, 1)], -1)
        own = inputs.sum(1).unsqueeze(-1) * weights.square() / (NOISE + 1e-4) ** 2
        return vmtl, batch, own  # [T, inputs + 1, d_z]

    @pytest.mark.parametrize("dropout", [0.0, 0.4])
    @pytest.mark.parametrize("kl_weight", [1.0, 0.1])
    def test_is_one_where_data_were_counted_once(self, dropout: float, kl_weight: float) -> None:
        vmtl, batch, own = self._model(dropout)
        vmtl.tempering["representations"] = kl_weight
        own = own / kl_weight
        _set(vmtl, torch.zeros(1), (1 + own.sum(0, keepdim=True)).rsqrt(), "encoder")
        numbers = times_counted(vmtl, batch)
        assert numbers["layers_evidence"] == pytest.approx(1, rel=0.03)

    def test_is_there_only_where_tasks_have_layers_of_their_own(self) -> None:
        vmtl, batch, own = self._model()
        _set(vmtl, torch.zeros(1), (1 + own).rsqrt(), "encoder")
        numbers = times_counted(vmtl, batch)
        assert numbers["layers_evidence"] == pytest.approx(1 / 3, rel=0.03)
        assert set(numbers) == {"weights_evidence", "layers_evidence"}
        settings = Settings(BayesianLinear(2), Standard(), classifier="mean_field")
        shared = assemble(settings, 3, 2, (4,), True)
        assert set(times_counted(shared, _batch(torch.randn(3, 5, 4)))) == {"weights_evidence"}


@given(
    num_classes=st.integers(1, 4),
    latent=st.integers(1, 3),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_curvatures_are_second_derivatives(
    num_classes: int, latent: int, bias: bool, seed: int
) -> None:
    """Of minus the log-likelihood, whatever the target; 1 class stands for a regression."""
    torch.manual_seed(seed)
    is_classification = num_classes > 1
    settings = Settings(Identity(), Standard(), classifier="mean_field", bias=bias)
    vmtl = assemble(settings, 1, num_classes, (latent,), is_classification)
    vmtl = vmtl.double()
    w = 10 * vmtl.classifier().sample()
    z = torch.randn(1, 1, latent, dtype=torch.float64)

    def loss(z: Tensor, w: Tensor) -> Tensor:
        target = torch.zeros(1, 1).long() if is_classification else torch.zeros(1, 1)
        return -vmtl.likelihood(z, w).log_prob(target).sum()

    hessian = torch.autograd.functional.hessian(loss, (z, w))
    observed = torch.ones(1, 1, 1, dtype=torch.bool)
    found = _curvatures(vmtl, observed, z, w)
    assert found is not None
    if not is_classification:
        unknown = _curvatures(vmtl, ~observed, z, w)
        assert unknown is not None
        assert not any(part.any() for part in unknown)
    of_outputs, of_representations = found
    in_z = hessian[0][0].reshape(latent, latent).diagonal()
    torch.testing.assert_close(of_representations.flatten(), in_z)
    features = torch.cat([z.flatten(), torch.ones(int(bias), dtype=z.dtype)])
    in_w = hessian[1][1].reshape(w.numel(), w.numel()).diagonal().view(w.shape[-2:])
    torch.testing.assert_close(of_outputs.view(-1, 1) * features.square(), in_w)
