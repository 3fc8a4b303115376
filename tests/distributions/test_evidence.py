"""Evidence on weights: what few samples measure of many weights, against dense algebra."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_vmtl.distributions import Evidence
from pyro_vmtl.distributions.evidence import Blocks, blocks_of, log_evidence, of_centre

shapes = {
    "num_tasks": st.integers(1, 4),
    "outputs": st.integers(1, 3),
    "size": st.integers(1, 5),
    "samples": st.integers(1, 8),
    "seed": st.integers(0, 999),
}


def _case(
    num_tasks: int, outputs: int, size: int, samples: int, seed: int
) -> tuple[Evidence, Tensor]:
    """Evidence on weights of ``[T, outputs, size]``, and moments of features of so many samples."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_tasks, samples, size, generator=generator).double()
    precision = 0.5 + 3 * torch.rand(num_tasks, outputs * size, generator=generator).double()
    shift = 2 * torch.randn(num_tasks, outputs * size, generator=generator).double()
    return Evidence(shift, precision), features.mT @ features / samples


def _fisher(evidence: Evidence, moments: Tensor, task: int, output: int) -> Tensor:
    """diag(lambda)^1/2 R diag(lambda)^1/2 of the features' correlations R, ``[q, q]``."""
    size = moments.shape[-1]
    root = evidence.precision[task, output * size : (output + 1) * size].sqrt()
    deviation = moments[task].diagonal().sqrt()
    return torch.outer(root / deviation, root / deviation) * moments[task]


def _dense(blocks: Blocks) -> tuple[Tensor, Tensor]:
    """The blocks' shifts and precision matrices in directions that all tasks share."""
    return blocks.to_common(blocks.shift, blocks.precision)


class TestBlocks:
    @given(**shapes)
    def test_precisions_are_spread_over_what_the_features_span(
        self, num_tasks: int, outputs: int, size: int, samples: int, seed: int
    ) -> None:
        evidence, moments = _case(num_tasks, outputs, size, samples, seed)
        blocks = blocks_of(evidence, moments)
        _, precision = _dense(blocks)
        for task in range(num_tasks):
            for output in range(outputs):
                expected = torch.linalg.eigvalsh(_fisher(evidence, moments, task, output))
                ours = torch.linalg.eigvalsh(precision[task, output])
                assert (ours > 1e-6).sum() <= min(samples, size)
                # What is left out is less than 0.05 in any direction, of all tasks and of one.
                ours = torch.nn.functional.pad(ours, (len(expected) - len(ours), 0))
                torch.testing.assert_close(ours, expected, rtol=0, atol=0.1)

    @given(**shapes)
    def test_estimates_are_those_of_the_posterior_where_something_was_measured(
        self, num_tasks: int, outputs: int, size: int, samples: int, seed: int
    ) -> None:
        """N(0, I) times the evidence has the posterior's mean, seen along measured directions."""
        evidence, moments = _case(num_tasks, outputs, size, samples, seed)
        mean = (evidence.shift / (1 + evidence.precision)).view(num_tasks, outputs, size)
        blocks = blocks_of(evidence, moments)
        said = blocks.precision > 0
        ours = torch.where(said, blocks.shift / (1 + blocks.precision), 0.0).square().sum((1, 2))
        whole = mean.square().sum((1, 2))
        assert (ours <= whole * (1 + 1e-9)).all()
        if samples > 2 * size:
            fisher = [
                _fisher(evidence, moments, t, k) for t in range(num_tasks) for k in range(outputs)
            ]
            if min(float(torch.linalg.eigvalsh(x)[0]) for x in fisher) > 0.06:
                torch.testing.assert_close(ours, whole)

    def test_uncorrelated_features_measure_each_weight_by_itself(self) -> None:
        evidence, _ = _case(3, 2, 4, 5, seed=0)
        uncorrelated = torch.diag_embed(torch.tensor([[1.0, 4.0, 0.25, 9.0]] * 3)).double()
        values = [torch.tensor([x], dtype=torch.float64) for x in (0.3, 0.5, 2.0)]
        results = []
        for moments in (None, uncorrelated):
            blocks = blocks_of(evidence, moments)
            shift, precision, constant = of_centre(blocks.shift, blocks.precision, *values)
            results.append((log_evidence(*blocks.to_common(shift, precision)), constant))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)

    def test_of_many_directions_keeps_those_that_say_most(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evidence, moments = _case(2, 1, 5, 8, seed=1)
        fisher = sum(_fisher(evidence, moments, t, 0) for t in range(2))
        assert isinstance(fisher, Tensor)
        monkeypatch.setattr("pyro_vmtl.distributions.evidence._NUMBERS", 2 * 1 * 3 * 3)
        _, precision = _dense(blocks_of(evidence, moments))
        assert precision.shape == (2, 1, 3, 3)
        expected = torch.linalg.eigvalsh(fisher)[-3:]
        torch.testing.assert_close(torch.linalg.eigvalsh(precision.sum((0, 1))), expected)

    def test_features_that_are_always_zero_and_no_evidence_at_all(self) -> None:
        evidence, moments = _case(2, 1, 3, 6, seed=2)
        moments[:, 1] = moments[:, :, 1] = 0
        for said in (evidence, Evidence(*(torch.zeros_like(x) for x in evidence))):
            for x in _dense(blocks_of(said, moments)):
                assert x.isfinite().all()


class TestLogEvidence:
    @given(seed=st.integers(0, 99))
    @settings(max_examples=10)
    def test_is_the_integral(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        shift = torch.randn(2, generator=generator).double()
        root = torch.randn(2, 2, generator=generator).double()
        precision = root @ root.mT
        axis = torch.linspace(-9, 9, 361, dtype=torch.float64)
        points = torch.cartesian_prod(axis, axis)
        exponent = points @ shift - 0.5 * ((points @ precision) * points).sum(-1)
        density = exponent - 0.5 * points.square().sum(-1) - math.log(2 * math.pi)
        integral = density.logsumexp(0) + 2 * math.log(float(axis[1] - axis[0]))
        ours = log_evidence(shift.unsqueeze(0), precision.unsqueeze(0))
        assert ours.item() == pytest.approx(integral.item(), abs=1e-6)

    def test_adds_up_over_blocks_of_any_size(self) -> None:
        shift = torch.tensor([[0.5, -1.0], [2.0, 0.3]]).double()
        precision = torch.tensor([[1.0, 0.2], [3.0, 0.7]]).double()
        alone = log_evidence(shift.flatten()[:, None], precision.flatten()[:, None, None])
        together = log_evidence(shift, torch.diag_embed(precision))
        assert together.item() == pytest.approx(alone.item())
        expected = sum(
            0.5 * (h * h / (1 + v) - np.log1p(v))
            for h, v in zip(shift.flatten().tolist(), precision.flatten().tolist(), strict=True)
        )
        assert alone.item() == pytest.approx(expected)
