"""Splits share nothing, keep the strata's proportions, and leave something to train on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_vmtl.data import TaskSet, TaskSplits, shift_categories, split_tasks
from pyro_vmtl.data.splits import draw_missing_classes
from pyro_vmtl.errors import InputError


def make(labels: list[list[int]], sources: list[int] | None = None) -> TaskSet:
    """The x of a sample is its row in the flat storage, to know it again."""
    flat = [label for row in labels for label in row]
    return TaskSet(
        names=tuple(f"task {t}" for t in range(len(labels))),
        x=torch.arange(len(flat)).float().unsqueeze(-1),
        y=torch.tensor(flat, dtype=torch.int64),
        task=torch.tensor([t for t, row in enumerate(labels) for _ in row], dtype=torch.int64),
        classes=("0", "1", "2"),
        sources=None if sources is None else torch.tensor(sources, dtype=torch.int64),
    )


def rows(tasks: TaskSet) -> list[int]:
    return tasks.x[:, 0].long().tolist()


def check_partition(tasks: TaskSet, splits: TaskSplits) -> None:
    assert sorted(rows(splits.train) + rows(splits.validation) + rows(splits.test)) == rows(tasks)
    for part in splits:
        assert part.names == tasks.names
        assert part.classes == tasks.classes
        at = torch.tensor(rows(part), dtype=torch.int64)
        assert part.task.equal(tasks.task[at])
        assert part.y.equal(tasks.y[at])


def check_training_comes_first(tasks: TaskSet, train: TaskSet) -> None:
    assert ((train.sizes > 0) == (tasks.sizes > 0)).all()
    assert ((train.class_counts.sum(0) > 0) == (tasks.class_counts.sum(0) > 0)).all()


label_lists = st.lists(st.lists(st.integers(-1, 2), max_size=12), min_size=1, max_size=4)
parts = st.one_of(st.floats(0, 0.49), st.integers(0, 15))


class TestAnySplit:
    @settings(deadline=None)
    @given(labels=label_lists, validation=parts, test=parts, seed=st.integers(0, 9))
    def test_is_a_partition_that_can_be_trained_on(
        self, labels: list[list[int]], validation: float | int, test: float | int, seed: int
    ) -> None:
        tasks = make(labels)
        splits = split_tasks(tasks, validation, test, seed)
        check_partition(tasks, splits)
        check_training_comes_first(tasks, splits.train)
        assert splits.validation.labelled.all()
        assert splits.test.labelled.all()

    @settings(deadline=None)
    @given(labels=label_lists, data=st.data(), validation=parts, test=parts, seed=st.integers(0, 9))
    def test_keeps_the_samples_of_a_source_together(
        self,
        labels: list[list[int]],
        data: st.DataObject,
        validation: float | int,
        test: float | int,
        seed: int,
    ) -> None:
        n = sum(len(row) for row in labels)
        sources = data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
        tasks = make(labels, sources)
        splits = split_tasks(tasks, validation, test, seed)
        check_partition(tasks, splits)
        check_training_comes_first(tasks, splits.train)
        seen = [set(part.sources.tolist()) for part in splits if part.sources is not None]
        assert not seen[0] & seen[1]
        assert not seen[0] & seen[2]
        assert not seen[1] & seen[2]

    def test_is_repeated_by_its_seed_and_by_no_other(self) -> None:
        tasks = make([[0, 1, 2] * 10, [0, 1] * 9])
        split = [rows(part) for part in split_tasks(tasks, seed=4)]
        assert split == [rows(part) for part in split_tasks(tasks, seed=4)]
        assert split != [rows(part) for part in split_tasks(tasks, seed=5)]

    def test_carries_truth_and_sources(self) -> None:
        tasks = TaskSet.from_arrays(
            {"a": (np.arange(10.0)[:, None], np.arange(10.0))},
            truth=[3],
            sources={"a": range(100, 110)},
        )
        for part in split_tasks(tasks):
            assert part.truth is not None
            assert part.truth.tolist() == [3]
            assert part.sources is not None
            assert part.sources.tolist() == [100 + row for row in rows(part)]


class TestStrata:
    @settings(deadline=None, max_examples=40)
    @given(
        # enough of each class that none has to give a sample back to training
        counts=st.lists(
            st.lists(st.just(0) | st.integers(8, 30), min_size=3, max_size=3),
            min_size=1,
            max_size=3,
        ),
        seed=st.integers(0, 99),
    )
    def test_every_class_of_every_task_has_its_share(
        self, counts: list[list[int]], seed: int
    ) -> None:
        tasks = make([[c for c, n in enumerate(row) for _ in range(n)] for row in counts])
        splits = split_tasks(tasks, validation=0.25, test=0.25, seed=seed)
        asked = 0.25 * torch.tensor(counts)
        for part in (splits.validation, splits.test):
            assert ((part.sizes - asked.sum(1)).abs() <= 0.5).all()
        # A class's share of a total that is rounded (by up to 1/2) is itself rounded (by less
        # than 1); validation is drawn from what test has left, and inherits a third of its error.
        assert ((splits.test.class_counts - asked).abs() < 1.5).all()
        assert ((splits.validation.class_counts - asked).abs() < 2.5).all()

    def test_round_numbers_come_out_exactly(self) -> None:
        tasks = make([[0] * 20 + [1] * 40 + [2] * 10, [1] * 30])
        splits = split_tasks(tasks, validation=0.2, test=0.1, seed=1)
        assert splits.test.class_counts.tolist() == [[2, 4, 1], [0, 3, 0]]
        assert splits.validation.sizes.tolist() == [14, 6]
        splits = split_tasks(tasks, validation=7, test=14, seed=1)
        assert splits.test.class_counts.tolist() == [[4, 8, 2], [0, 14, 0]]
        assert splits.validation.class_counts.tolist() == [[2, 4, 1], [0, 7, 0]]

    @pytest.mark.parametrize("seed", range(5))
    def test_regression_is_spread_over_the_quantiles_of_the_target(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        y = np.exp(generator.normal(size=100))
        tasks = TaskSet.from_arrays({"a": (np.arange(100.0)[:, None], y)})
        splits = split_tasks(tasks, validation=0.2, test=0.2, seed=seed)
        tenth = np.argsort(np.argsort(y)) // 10  # the decile of every sample
        assert np.bincount(tenth[rows(splits.test)], minlength=10).tolist() == [2] * 10
        in_validation = np.bincount(tenth[rows(splits.validation)], minlength=10)
        assert in_validation.min() >= 1
        assert in_validation.max() <= 3

    def test_vector_targets_with_gaps(self) -> None:
        y = np.stack([np.arange(30.0), 100 - np.arange(30.0) * 3], axis=1)
        y[3, 1] = np.nan
        tasks = TaskSet.from_arrays({"a": (np.arange(30.0)[:, None], y), "b": ([[99.0]], None)})
        splits = split_tasks(tasks, validation=5, test=5)
        assert [len(part) for part in splits] == [21, 5, 5]
        assert 3 in rows(splits.train)
        assert 99 in rows(splits.train)

    def test_every_sample_has_the_same_chance(self) -> None:
        tasks = make([[0] * 7 + [1] * 5])
        times = np.zeros(12)
        for seed in range(800):
            times[rows(split_tasks(tasks, validation=0, test=3, seed=seed).test)] += 1
        assert np.abs(times / 800 - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 800)


class TestHowMany:
    def test_an_integer_is_a_number_per_task(self) -> None:
        splits = split_tasks(make([[0, 1, 2] * 10, [0, 1] * 5]), validation=3, test=4)
        assert splits.validation.sizes.tolist() == [3, 3]
        assert splits.test.sizes.tolist() == [4, 4]

    def test_more_than_there_is_leaves_one_for_training(self) -> None:
        splits = split_tasks(make([[0] * 6, [0, 0], [0]]), validation=50, test=50)
        assert splits.train.sizes.tolist() == [1, 1, 1]
        assert splits.test.sizes.tolist() == [3, 1, 0]

    def test_nothing_can_be_asked_for(self) -> None:
        for none in (0, 0.0):
            splits = split_tasks(make([[0, 1, 2]]), validation=none, test=none)
            assert [len(part) for part in splits] == [3, 0, 0]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"validation": 1.0}, ["validation is 1.0", "[0, 1)"]),
            ({"test": -0.1}, ["test is -0.1"]),
            ({"test": -1}, ["test is -1"]),
            ({"validation": True}, ["validation is True"]),
            ({"validation": float("nan")}, ["validation is nan"]),
            ({"validation": 0.5, "test": 0.5}, ["validation=0.5", "test=0.5", "less than 1"]),
            ({"seed": -1}, ["seed is -1"]),
        ],
    )
    def test_refusals(self, options: dict[str, Any], words: list[str]) -> None:
        with pytest.raises(InputError) as caught:
            split_tasks(make([[0, 1]]), **options)
        for word in words:
            assert word in str(caught.value)


class TestCategoryShift:
    @settings(deadline=None)
    @given(data=st.data(), share=st.floats(0, 0.99), seed=st.integers(0, 9))
    def test_every_task_loses_its_share_and_no_class_is_lost_to_all(
        self, data: st.DataObject, share: float, seed: int
    ) -> None:
        num_tasks, num_classes = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 9))
        row = st.lists(st.integers(0, 2), min_size=num_classes, max_size=num_classes)
        counts = np.array(data.draw(st.lists(row, min_size=num_tasks, max_size=num_tasks)))
        present = counts > 0
        try:
            missing = draw_missing_classes(counts, share, seed)
        except InputError:
            # Were every class in every task, this many places would do for all of them.
            assert not present.all() or share > 1 - 1 / num_tasks
            return
        assert not (missing & ~present).any()
        assert missing.sum(1).tolist() == [int(share * n + 1e-9) for n in present.sum(1)]
        assert ((present & ~missing).any(0) == present.any(0)).all()

    def test_classes_can_be_dealt_out_to_one_task_each(self) -> None:
        missing = draw_missing_classes(np.ones((4, 20)), 0.75, 0)
        assert ((~missing).sum(0) == 1).all()
        assert ((~missing).sum(1) == 5).all()
        # 65 is no multiple of 4: rounding down leaves room for all, as in Office-Home.
        assert draw_missing_classes(np.ones((4, 65)), 0.75, 0).sum(1).tolist() == [48] * 4

    def test_the_seed_and_the_classes_decide_not_the_number_of_samples(self) -> None:
        one, many, other = (
            draw_missing_classes(np.full((4, 10), n), 0.5, seed)
            for n, seed in ((1, 3), (7, 3), (1, 4))
        )
        assert (one == many).all()
        assert (one != other).any()

    def test_each_class_is_as_likely_to_be_lost(self) -> None:
        lost = np.mean([draw_missing_classes(np.ones((4, 5)), 0.4, s) for s in range(1000)], 0)
        assert np.abs(lost - 0.4).max() < 0.08  # 5 standard errors

    def test_training_and_validation_lose_the_same_classes_and_the_test_part_none(self) -> None:
        tasks = make([[0, 1, 2, -1] * 10] * 4)
        splits = split_tasks(tasks)
        train, validation, test = shift_categories(splits, 0.4, seed=1)
        assert test is splits.test
        assert ((train.class_counts > 0) == (validation.class_counts > 0)).all()
        assert (train.class_counts > 0).sum(1).tolist() == [2] * 4
        kept = train.class_counts > 0
        assert train.class_counts.equal(splits.train.class_counts * kept)
        assert (~train.labelled).sum() == (~splits.train.labelled).sum()

    @pytest.mark.parametrize("share", [-0.1, 1, 1.0, True, "half", float("nan")])
    def test_a_share_out_of_range(self, share: float) -> None:
        splits = split_tasks(make([[0, 1, 2] * 10] * 2))
        with pytest.raises(InputError, match=r"category_shift is .*; expected a share"):
            shift_categories(splits, share)

    def test_a_share_that_leaves_a_class_in_no_task(self) -> None:
        splits = split_tasks(make([[0, 1, 2] * 10] * 2))
        with pytest.raises(InputError, match="the 2 tasks no place for each of the 3 classes"):
            shift_categories(splits, 0.9)
        alone = split_tasks(make([[0] * 10, [0, 1, 2] * 10]))  # only one task has 1 and 2
        with pytest.raises(InputError, match=r"category_shift is 0\.7"):
            shift_categories(alone, 0.7)
        shift_categories(alone, 0.4)

    def test_numbers_have_no_classes(self) -> None:
        tasks = TaskSet.from_arrays({"a": (np.arange(10.0)[:, None], np.arange(10.0))})
        with pytest.raises(InputError, match="the targets are numbers; expected classes"):
            shift_categories(split_tasks(tasks), 0.3)
