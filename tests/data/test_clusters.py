"""The synthetic tasks follow the law that their docstring states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vmtl.data import cluster_weights, clusters
from pyro_vmtl.errors import InputError


class TestTruth:
    def test_tasks_are_dealt_evenly_and_outliers_stand_alone(self) -> None:
        truth = clusters(num_tasks=11, num_clusters=3, outliers=2).train.truth
        assert truth is not None
        counts = truth.bincount()
        assert counts.tolist() == [3, 3, 3, 1, 1]
        assert truth[-2:].tolist() == [3, 4]

    def test_as_many_clusters_as_tasks_are_unrelated(self) -> None:
        truth = clusters(num_tasks=5, num_clusters=5).train.truth
        assert truth is not None
        assert len(torch.unique(truth)) == 5

    def test_every_part_knows_it(self) -> None:
        for part in clusters():
            assert part.truth is not None
            assert part.truth.tolist() == [t % 3 for t in range(12)]

    def test_weights_gather_in_their_clusters(self) -> None:
        weights, truth = cluster_weights(num_tasks=60, dimensions=500, spread=0.3)
        assert weights.shape == (60, 1, 500)
        for cluster in range(3):
            own = weights[truth == cluster]
            assert own.std(0).square().mean().sqrt() == pytest.approx(0.3, rel=0.05)
        centres = torch.stack([weights[truth == c].mean(0) for c in range(3)])
        assert centres.std() == pytest.approx(1, rel=0.1)

    def test_without_spread_relatives_are_equal(self) -> None:
        weights, truth = cluster_weights(kind="multiclass", spread=0)
        assert weights.shape == (12, 3, 20)
        assert weights[truth == 1].eq(weights[1]).all()
        assert not weights[0].equal(weights[1])


class TestSamples:
    @pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
    def test_sizes_names_and_shapes(self, kind: Any) -> None:
        splits = clusters(4, 2, samples=7, dimensions=5, test_samples=9, kind=kind, num_classes=4)
        for part, size in zip(splits, (7, 7, 9), strict=True):
            assert part.names == ("task 0", "task 1", "task 2", "task 3")
            assert part.sizes.tolist() == [size] * 4
            assert part.input_shape == (5,)
            assert part.num_outputs == {"binary": 2, "multiclass": 4, "regression": 1}[kind]
        assert clusters(samples=7, validation_samples=3).validation.sizes.tolist() == [3] * 12
        assert len(clusters(validation_samples=0).validation) == 0

    def test_no_sample_is_in_two_parts(self) -> None:
        splits = clusters(samples=5, test_samples=8)
        ids = torch.cat([part.sources for part in splits if part.sources is not None])
        assert len(torch.unique(ids)) == len(ids) == sum(len(part) for part in splits)
        x = torch.cat([part.x for part in splits])
        assert len(torch.unique(x, dim=0)) == len(x)

    def test_the_same_seed_gives_the_same_set(self) -> None:
        for part, again in zip(clusters(seed=3), clusters(seed=3), strict=True):
            assert part.x.equal(again.x)
            assert part.y.equal(again.y)
        assert not clusters(seed=3).train.x.equal(clusters(seed=4).train.x)

    def test_what_is_tested_on_does_not_change_what_is_trained_on(self) -> None:
        one, other = clusters(test_samples=10), clusters(test_samples=20, validation_samples=3)
        assert one.train.x.equal(other.train.x)
        assert one.train.y.equal(other.train.y)
        more = clusters(samples=80)  # more samples of the same tasks
        assert more.test.y.equal(clusters(samples=40).test.y)

    def test_inputs_are_standard_normal(self) -> None:
        x = clusters(test_samples=1000).test.x
        assert x.mean().abs() < 0.01
        assert x.std() == pytest.approx(1, abs=0.01)


class TestLaw:
    def test_binary_labels_follow_the_sigmoid(self) -> None:
        test = clusters(num_tasks=3, samples=2, test_samples=20_000).test
        weights, _ = cluster_weights(num_tasks=3)
        p = torch.einsum("nd,nd->n", test.x.double(), weights[test.task, 0]).sigmoid()
        for low in (0.0, 0.1, 0.5, 0.8):  # calibrated wherever one looks
            at = (p >= low) & (p < low + 0.2)
            error = (p[at] * (1 - p[at])).sum().sqrt() / at.sum()
            assert (test.y[at].double().mean() - p[at].mean()).abs() < 4 * error

    def test_labels_of_several_classes_follow_the_softmax(self) -> None:
        kind: Any = "multiclass"
        test = clusters(num_tasks=2, num_clusters=2, kind=kind, test_samples=20_000).test
        weights, _ = cluster_weights(num_tasks=2, num_clusters=2, kind=kind)
        p = torch.einsum("nd,nkd->nk", test.x.double(), weights[test.task]).softmax(-1)
        residual = torch.nn.functional.one_hot(test.y, 3) - p
        error = (p * (1 - p)).sum(0).sqrt()
        assert (residual.sum(0).abs() < 4 * error).all()
        # and the residual does not depend on the input
        slope = residual.T @ test.x.double()
        bound = (p * (1 - p)).T @ test.x.double().square()
        assert (slope.abs() < 5 * bound.sqrt()).all()

    @pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
    def test_regression_has_the_noise_it_says(self, noise: float) -> None:
        test = clusters(kind="regression", noise=noise).test
        weights, _ = cluster_weights(kind="regression")
        residual = test.y - torch.einsum("nd,nd->n", test.x.double(), weights[test.task, 0])
        assert residual.std() == pytest.approx(noise, rel=0.05, abs=1e-5)
        assert residual.mean().abs() < 0.1 * noise + 1e-5


class TestSmallTrainingSets:
    @settings(deadline=None, max_examples=40)
    @given(
        num_tasks=st.integers(1, 4),
        num_classes=st.integers(2, 6),
        extra=st.integers(0, 1),
        dimensions=st.integers(1, 3),
        seed=st.integers(0, 99),
    )
    def test_every_class_occurs(
        self, num_tasks: int, num_classes: int, extra: int, dimensions: int, seed: int
    ) -> None:
        train = clusters(
            num_tasks=num_tasks,
            num_clusters=1,
            samples=-(-num_classes // num_tasks) + extra,
            dimensions=dimensions,
            kind="multiclass",
            num_classes=num_classes,
            test_samples=1,
            seed=seed,
        ).train
        train.check_training()

    @pytest.mark.parametrize("seed", range(10))
    def test_two_samples_of_one_binary_task(self, seed: int) -> None:
        train = clusters(1, 1, samples=2, dimensions=1, test_samples=1, seed=seed).train
        assert sorted(train.y.tolist()) == [0, 1]


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"num_tasks": 0}, ["num_tasks is 0"]),
            ({"num_clusters": 13}, ["num_clusters is 13", "12 tasks", "at most 12"]),
            ({"outliers": 10}, ["num_clusters is 3", "10 of them outliers", "at most 2"]),
            ({"outliers": -1}, ["outliers is -1"]),
            ({"samples": 0}, ["samples is 0"]),
            ({"dimensions": 2.5}, ["dimensions is 2.5"]),
            ({"spread": -0.1}, ["spread is -0.1"]),
            ({"spread": float("nan")}, ["spread is nan"]),
            ({"noise": -1}, ["noise is -1"]),
            ({"kind": "ordinal"}, ["'ordinal'", "'binary', 'multiclass' or 'regression'"]),
            ({"kind": "multiclass", "num_classes": 1}, ["num_classes is 1"]),
            (
                {"kind": "multiclass", "num_classes": 30, "samples": 2},
                ["samples is 2", "at least 3", "30 classes"],
            ),
            ({"test_samples": -1}, ["test_samples is -1"]),
            ({"validation_samples": -1}, ["validation_samples is -1"]),
            ({"seed": -1}, ["seed is -1"]),
        ],
    )
    def test_each_is_a_sentence(self, options: dict[str, Any], words: list[str]) -> None:
        with pytest.raises(InputError) as caught:
            clusters(**options)
        for word in words:
            assert word in str(caught.value)
