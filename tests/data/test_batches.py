"""Training batches: unbiased, repeatable, dense, and only of labelled samples."""

from __future__ import annotations

from itertools import permutations
from math import ceil
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_vmtl.data import Batch, TaskBatches, TaskSet
from pyro_vmtl.errors import InputError

Way: TypeAlias = dict[str, Any]
"""The arguments of TaskBatches that say how to draw."""

quick = settings(deadline=None, max_examples=60)


def make(labels: list[list[int]], num_classes: int = 3, seed: int = 0) -> TaskSet:
    """A task per list of labels (-1 where missing), its rows scattered over the flat storage."""
    generator = torch.Generator().manual_seed(seed)
    flat = [(t, label) for t, row in enumerate(labels) for label in row]
    order = torch.randperm(len(flat), generator=generator).tolist()
    return TaskSet(
        names=tuple(f"task {t}" for t in range(len(labels))),
        x=torch.randn(len(flat), 2, generator=generator),
        y=torch.tensor([flat[i][1] for i in order], dtype=torch.int64),
        task=torch.tensor([flat[i][0] for i in order], dtype=torch.int64),
        classes=tuple(str(c) for c in range(num_classes)),
    )


def weighted_sum(batch: Batch) -> Tensor:
    """The estimate of every task's sum of x over its labelled samples, [T, 2]."""
    weight = batch.scale.double() * batch.mask
    return (weight.unsqueeze(-1) * batch.x.double()).sum(1)


def full_sum(tasks: TaskSet) -> Tensor:
    return torch.stack(
        [
            tasks.x[(tasks.task == t) & tasks.labelled].double().sum(0)
            for t in range(tasks.num_tasks)
        ]
    )


label_lists = st.lists(st.lists(st.integers(-1, 2), max_size=9), min_size=1, max_size=4).filter(
    lambda rows: any(label >= 0 for row in rows for label in row)
)
ways: st.SearchStrategy[Way] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"batch_size": st.integers(1, 10)}),
    st.fixed_dictionaries({"per_class": st.integers(1, 4)}),
)


class TestEveryBatch:
    @quick
    @given(labels=label_lists, way=ways, steps=st.none() | st.integers(1, 7))
    def test_is_dense_valid_and_of_constant_shape(
        self, labels: list[list[int]], way: Way, steps: int | None
    ) -> None:
        tasks = make(labels)
        batches = TaskBatches(tasks, steps_per_epoch=steps, **way)
        drawn = list(batches)
        assert len(drawn) == len(batches) == (steps or len(batches))
        for batch in drawn:
            shape = (tasks.num_tasks, batches.num_samples)
            assert batch.x.shape == (*shape, 2)
            for tensor in (batch.y, batch.mask, batch.scale, batch.index):
                assert tensor.shape == shape
            assert batch.mask.dtype == torch.bool
            assert batch.index.dtype == batch.y.dtype == torch.int64
            assert batch.scale.dtype == torch.float32

            assert batch.mask.equal(batch.present)  # training has labels throughout
            rows = batch.index[batch.mask]
            assert tasks.labelled[rows].all()
            assert len(set(rows.tolist())) == len(rows)  # without replacement
            assert batch.x[batch.mask].equal(tasks.x[rows])
            assert batch.y[batch.mask].equal(tasks.y[rows])
            task_of_row = torch.arange(tasks.num_tasks).unsqueeze(-1).expand(shape)
            assert task_of_row[batch.mask].equal(tasks.task[rows])
            # every task that has labels is in every batch
            assert batch.mask.any(1).equal(tasks.sizes > 0)

            assert (batch.y[~batch.mask] == 0).all()
            assert (batch.scale[~batch.mask] == 1).all()
            assert (batch.scale >= 1).all()
            real = {tuple(x.tolist()) for x in tasks.x}
            assert all(tuple(x.tolist()) in real for x in batch.x[~batch.mask])

    @quick
    @given(labels=label_lists, way=ways)
    def test_weighs_as_much_as_the_whole_task(self, labels: list[list[int]], way: Way) -> None:
        # The sum of 1 is estimated without any noise, as the sizes are settled beforehand.
        tasks = make(labels)
        for batch in TaskBatches(tasks, **way):
            assert torch.allclose((batch.scale * batch.mask).sum(1), tasks.sizes.float())

    @quick
    @given(labels=label_lists, m=st.integers(1, 4))
    def test_per_class_takes_the_same_of_every_class(self, labels: list[list[int]], m: int) -> None:
        tasks = make(labels)
        counts = tasks.class_counts
        batches = TaskBatches(tasks, per_class=m)
        assert len(batches) == ceil(int(counts.max()) / m)
        for batch in batches:
            for t, c in np.ndindex(*counts.shape):
                of_class = batch.mask[t] & (batch.y[t] == c)
                assert of_class.sum() == min(m, int(counts[t, c]))
                if of_class.any():
                    expected = torch.full((int(of_class.sum()),), counts[t, c] / of_class.sum())
                    assert batch.scale[t][of_class].equal(expected)

    @quick
    @given(labels=label_lists, size=st.integers(1, 10))
    def test_chunks_are_near_equal_and_cover_the_task(
        self, labels: list[list[int]], size: int
    ) -> None:
        tasks = make(labels)
        drawn = list(TaskBatches(tasks, batch_size=size))
        assert len(drawn) == ceil(int(tasks.sizes.max()) / size)
        for t, n in enumerate(tasks.sizes.tolist()):
            chunks = ceil(n / size)
            seen = [batch.index[t][batch.mask[t]].tolist() for batch in drawn[:chunks]]
            assert sorted(row for rows in seen for row in rows) == sorted(
                row for row in tasks.indices(t).tolist() if tasks.labelled[row]
            )
            if n:
                lengths = [len(rows) for rows in seen]
                assert max(lengths) <= size
                assert max(lengths) - min(lengths) <= 1


class TestUnbiased:
    @quick
    @given(chunks=st.integers(1, 5), size=st.integers(1, 4), seed=st.integers(0, 99))
    def test_equal_chunks_average_to_the_sum_in_one_pass(
        self, chunks: int, size: int, seed: int
    ) -> None:
        tasks = make([[0, 1, -1] + [2] * (chunks * size - 2)] if chunks * size > 1 else [[0]])
        estimates = [weighted_sum(b) for b in TaskBatches(tasks, batch_size=size, seed=seed)]
        assert torch.allclose(torch.stack(estimates).mean(0), full_sum(tasks))

    @pytest.mark.parametrize("way", [{"batch_size": 2}, {"batch_size": 3}, {"per_class": 2}])
    def test_every_step_exactly_over_all_permutations(
        self, way: Way, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Random keys in each of the 5! orders, in place of random ones: 5 samples in chunks of
        # 2, 2, 1 or 3, 2, or two at a time.
        tasks = make([[1] * 5, [-1]])
        steps = 2
        estimates: list[list[Tensor]] = [[] for _ in range(steps)]
        for order in permutations(range(5)):

            class Keys:
                def random(self, size: int, order: tuple[int, ...] = order) -> Any:
                    assert size == 5
                    return np.array(order)

            monkeypatch.setattr(np.random, "default_rng", lambda *_, keys=Keys: keys())
            batches = TaskBatches(tasks, steps_per_epoch=steps, **way)
            for step, batch in enumerate(batches):
                estimates[step].append(weighted_sum(batch))
        for of_step in estimates:
            assert len(of_step) == 120
            assert torch.allclose(torch.stack(of_step).mean(0), full_sum(tasks))

    @pytest.mark.parametrize("way", [{"batch_size": 4}, {"per_class": 2}])
    def test_every_sample_at_every_step_over_many_epochs(self, way: Way) -> None:
        # 1 / scale is the probability of inclusion, also after a task started anew.
        tasks = make([[0] * 5 + [1] * 3, [0, 1, 1, -1, 2], [2]], seed=3)
        batches = TaskBatches(tasks, steps_per_epoch=4, **way)
        epochs = 1500
        total = torch.zeros(4, len(tasks))
        for epoch in range(epochs):
            batches.set_epoch(epoch)
            for step, batch in enumerate(batches):
                total[step][batch.index[batch.mask]] += batch.scale[batch.mask]
        mean = total[:, tasks.labelled] / epochs
        # scale <= 2.5 here, so that the standard error of a mean is at most 0.032
        assert (mean - 1).abs().max() < 5 * 0.032
        assert (total[:, ~tasks.labelled] == 0).all()


class TestOrder:
    labels = [[0, 1, 2] * 5, [0, 1, 1, 2, -1], [2, 2, 1, 0, 0, 0, 1]]

    @staticmethod
    def order(batches: TaskBatches) -> list[list[list[int]]]:
        return [batch.index.tolist() for batch in batches]

    @pytest.mark.parametrize("way", [{"batch_size": 4}, {"per_class": 2}])
    def test_is_a_function_of_seed_rank_and_epoch(self, way: Way) -> None:
        tasks = make(self.labels)

        def order(seed: int, rank: int, epoch: int) -> list[list[list[int]]]:
            batches = TaskBatches(tasks, seed=seed, rank=rank, **way)
            batches.set_epoch(epoch)
            return self.order(batches)

        reference = order(1, 2, 3)
        assert order(1, 2, 3) == reference
        for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0), (2, 1, 3), (3, 2, 1)):
            assert order(*other) != reference

    def test_each_process_of_several_has_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tasks = make(self.labels)
        batches = TaskBatches(tasks, batch_size=4)  # made before the processes know each other
        first, second = (TaskBatches(tasks, batch_size=4, rank=rank) for rank in (0, 1))
        assert self.order(batches) == self.order(first)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
        assert self.order(batches) == self.order(second) != self.order(first)

    def test_does_not_depend_on_what_was_drawn_before(self) -> None:
        resumed = TaskBatches(make(self.labels), batch_size=4)
        resumed.set_epoch(5)
        ran_on = TaskBatches(make(self.labels), batch_size=4)
        for epoch in range(6):
            ran_on.set_epoch(epoch)
            next(iter(ran_on))  # not even read to its end
            torch.rand(7)  # nor on the global generator
            order = self.order(ran_on)
        assert order == self.order(resumed) == self.order(resumed)

    def test_two_iterations_at_once_do_not_disturb_each_other(self) -> None:
        batches = TaskBatches(make(self.labels), batch_size=2)
        alone = self.order(batches)
        both = [(a.index.tolist(), b.index.tolist()) for a, b in zip(batches, batches, strict=True)]
        assert both == [(index, index) for index in alone]

    def test_a_small_task_starts_anew_in_another_order(self) -> None:
        tasks = make([[0] * 24, [1] * 6])
        passes: list[list[int]] = []
        for step, batch in enumerate(TaskBatches(tasks, batch_size=3)):
            if step % 2 == 0:
                passes.append([])
            passes[-1] += batch.index[1][batch.mask[1]].tolist()
        assert len(passes) == 4
        assert all(sorted(rows) == tasks.indices(1).tolist() for rows in passes)
        assert len({tuple(rows) for rows in passes}) > 1

    def test_permuting_the_tasks_permutes_a_full_batch(self) -> None:
        tasks = make(self.labels)
        names = [tasks.names[t] for t in (2, 0, 1)]
        permuted = tasks.select(names)
        (whole,), (other,) = TaskBatches(tasks), TaskBatches(permuted)
        for name in ("x", "y", "mask", "scale"):
            assert getattr(other, name).equal(getattr(whole, name)[[2, 0, 1]])

    @pytest.mark.parametrize("way", [{"batch_size": 4}, {"per_class": 2}])
    def test_permuting_the_tasks_permutes_sizes_and_scales(self, way: Way) -> None:
        tasks = make(self.labels)
        names = [tasks.names[t] for t in (2, 0, 1)]
        steps = zip(TaskBatches(tasks, **way), TaskBatches(tasks.select(names), **way), strict=True)
        for batch, other in steps:
            assert other.mask.equal(batch.mask[[2, 0, 1]])
            assert other.scale.equal(batch.scale[[2, 0, 1]])

    def test_a_lightning_trainer_sets_the_epoch(self) -> None:
        lightning = pytest.importorskip("lightning")
        epochs: list[int] = []

        class Recorder(TaskBatches):
            def set_epoch(self, epoch: int) -> None:
                epochs.append(epoch)
                super().set_epoch(epoch)

        class Model(lightning.LightningModule):  # type: ignore[name-defined]
            seen: list[list[list[int]]] = []

            def __init__(self) -> None:
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(2))

            def training_step(self, batch: Batch) -> Tensor:
                assert isinstance(batch, Batch)
                self.seen.append(batch.index.tolist())
                return (batch.x * self.weight).sum()

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        batches = Recorder(make(self.labels), batch_size=8)
        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Model(), batches)
        assert epochs == [0, 1, 2]
        expected = []
        for epoch in range(3):
            batches.set_epoch(epoch)
            expected += self.order(batches)
        assert Model.seen == expected


class TestFullBatch:
    @pytest.mark.parametrize("way", [{}, {"batch_size": 9}, {"per_class": 9}])
    def test_is_the_very_same_object_each_step(self, way: Way) -> None:
        batches = TaskBatches(make([[0, 1, 2], [0, 0, -1]]), steps_per_epoch=3, **way)
        first, second, third = batches
        assert first is second is third is next(iter(batches))
        assert (first.scale == 1).all()

    def test_holds_every_labelled_sample_once(self) -> None:
        tasks = make([[0, 1, 2], [0, 0, -1], [-1]])
        batches = TaskBatches(tasks)
        assert len(batches) == 1
        (batch,) = batches
        assert sorted(batch.index[batch.mask].tolist()) == tasks.labelled.nonzero()[:, 0].tolist()
        assert batch.num_samples == 3
        assert weighted_sum(batch).equal(full_sum(tasks))

    def test_regression_with_vector_targets_and_gaps(self) -> None:
        nan = float("nan")
        tasks = TaskSet.from_arrays(
            {"a": ([[1.0], [2.0]], [[1.0, nan], [3.0, 4.0]]), "b": ([[5.0]], [[6.0, 7.0]])}
        )
        (batch,) = TaskBatches(tasks)
        assert batch.y.tolist() == [[[1, 0], [3, 4]], [[6, 7], [0, 0]]]
        assert batch.mask.tolist() == [[True, True], [True, False]]
        assert batch.known is not None
        assert batch.known[0].tolist() == [[True, False], [True, True]]


class TestDevice:
    def test_to_the_same_device_is_the_same_object(self) -> None:
        (batch,) = TaskBatches(make([[0, 1]]))
        assert batch.to("cpu") is batch

    @pytest.mark.parametrize("way", [{}, {"batch_size": 1}])
    def test_batches_go_where_they_are_told(self, way: Way) -> None:
        tasks = make([[0, 1]])
        for batch in TaskBatches(tasks, device="meta", **way):
            for name in ("x", "y", "mask", "scale", "index"):
                assert getattr(batch, name).device.type == "meta"
        assert tasks.dense(device="meta").x.device.type == "meta"
        assert tasks.x.device.type == "cpu"


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"batch_size": 2, "per_class": 2}, ["batch_size=2", "per_class=2", "one of them"]),
            ({"batch_size": 0}, ["batch_size is 0", "at least 1"]),
            ({"batch_size": 2.5}, ["batch_size is 2.5", "integer"]),
            ({"batch_size": True}, ["batch_size is True"]),
            ({"per_class": -1}, ["per_class is -1", "at least 1"]),
            ({"steps_per_epoch": 0}, ["steps_per_epoch is 0"]),
            ({"seed": -1}, ["seed is -1"]),
            ({"rank": -1}, ["rank is -1"]),
        ],
    )
    def test_numbers(self, options: dict[str, Any], words: list[str]) -> None:
        with pytest.raises(InputError) as caught:
            TaskBatches(make([[0, 1]]), **options)
        for word in words:
            assert word in str(caught.value)

    def test_per_class_without_classes(self) -> None:
        tasks = TaskSet.from_arrays({"a": ([[1.0]], [2.0])})
        with pytest.raises(InputError, match="per_class=2 was given for regression"):
            TaskBatches(tasks, per_class=2)

    def test_nothing_to_train_on(self) -> None:
        with pytest.raises(InputError, match="none of the 2 samples has a label"):
            TaskBatches(make([[-1], [-1]]))

    def test_negative_epoch(self) -> None:
        with pytest.raises(InputError, match="epoch is -1"):
            TaskBatches(make([[0]])).set_epoch(-1)
