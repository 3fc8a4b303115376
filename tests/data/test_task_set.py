"""What a task set holds, how it is made from arrays, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError

NAN = float("nan")


def inputs(n: int, d: int = 3, start: float = 0.0) -> np.ndarray[Any, Any]:
    return start + np.arange(n * d, dtype=np.float64).reshape(n, d)


@pytest.fixture
def pets() -> TaskSet:
    """Two tasks of unequal size; the second lacks class "bird" and two labels."""
    return TaskSet.from_arrays(
        {
            "town": (inputs(3), ["dog", "cat", "bird"]),
            "farm": (inputs(5, start=100), ["cat", None, "dog", "dog", None]),
        }
    )


@pytest.fixture
def heights() -> TaskSet:
    return TaskSet.from_arrays(
        {
            "a": (inputs(2), [[1.0, 2.0], [3.0, NAN]]),
            "b": (inputs(3, start=50), [[4.0, 5.0], [6.0, 7.0], [8.0, 12.0]]),
        }
    )


class TestWhatItHolds:
    def test_classification(self, pets: TaskSet) -> None:
        assert pets.classes == ("bird", "cat", "dog")
        assert pets.outputs is None
        assert pets.y.tolist() == [2, 1, 0, 1, -1, 2, 2, -1]
        assert pets.task.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
        assert pets.x.dtype == torch.float32
        assert pets.x[3].tolist() == [100, 101, 102]
        assert (len(pets), pets.num_tasks, pets.num_classes, pets.num_outputs) == (8, 2, 3, 3)
        assert pets.is_classification
        assert pets.input_shape == (3,)
        assert pets.sizes.tolist() == [3, 3]
        assert pets.class_counts.tolist() == [[1, 1, 1], [0, 1, 2]]
        assert pets.labelled.tolist() == [True] * 4 + [False, True, True, False]

    def test_a_row_of_targets_with_a_gap_has_the_others(self, heights: TaskSet) -> None:
        assert not heights.is_classification
        assert heights.classes is None
        assert heights.outputs == ("y0", "y1")
        assert (heights.num_classes, heights.num_outputs) == (0, 2)
        assert heights.y.shape == (5, 2)
        assert heights.labelled.all()
        assert heights.known[:2].tolist() == [[True, True], [True, False]]
        assert heights.sizes.tolist() == [2, 3]
        assert heights.class_counts.shape == (2, 0)

    def test_scalar_targets_are_one_output_named_y(self) -> None:
        tasks = TaskSet.from_arrays({"a": (inputs(2), [0.5, NAN])})
        assert tasks.y.shape == (2,)
        assert (tasks.num_outputs, tasks.outputs) == (1, ("y",))
        assert tasks.labelled.tolist() == [True, False]

    def test_repr_tells_the_main_things(self, pets: TaskSet, heights: TaskSet) -> None:
        for part in ("2 tasks", "town", "8 samples (6 labelled)", "[3]", "3 classes", "bird"):
            assert part in repr(pets)
        assert "regression of y0, y1" in repr(heights)

    def test_describe(self, pets: TaskSet, heights: TaskSet) -> None:
        table = pets.describe()
        assert table.index.tolist() == ["town", "farm"]
        assert table.loc["farm"].to_dict() == {
            "samples": 5,
            "labelled": 3,
            "bird": 0,
            "cat": 1,
            "dog": 2,
        }
        table = heights.describe()
        assert table.loc["b", "mean y0"] == pytest.approx(6)
        assert table.loc["b", "sd y1"] == pytest.approx(np.std([5, 7, 12], ddof=1))
        assert table.loc["a", "mean y1"] == 2
        assert np.isnan(table.loc["a", "sd y1"])

    def test_describe_covers_a_task_without_labels(self) -> None:
        tasks = TaskSet.from_arrays({"a": (inputs(2), [0.5, 1.5]), "b": (inputs(2), None)})
        assert tasks.describe()["labelled"].tolist() == [2, 0]
        assert np.isnan(tasks.describe().loc["b", "mean y"])


class TestReading:
    @pytest.mark.parametrize(
        "labels",
        [
            [3, 7, 3],
            np.array([3, 7, 3], dtype=np.uint8),
            torch.tensor([3, 7, 3]),
            [torch.tensor(3), torch.tensor(7), torch.tensor(3)],
            pd.Series([3, 7, 3]),
            pd.Series([3, 7, 3], dtype="Int64"),
        ],
    )
    def test_integer_labels_are_the_values_of_the_classes(self, labels: Any) -> None:
        tasks = TaskSet.from_arrays({"a": (inputs(3), labels)})
        assert tasks.classes == ("3", "7")
        assert tasks.y.tolist() == [0, 1, 0]

    @pytest.mark.parametrize(
        "labels",
        [
            [4, -1, 12],
            [4, None, 12],
            [4, NAN, 12],
            np.array([4, -1, 12]),
            torch.tensor([4, -1, 12]),
            pd.Series([4, None, 12], dtype="Int64"),
            pd.Series([4, None, 12], dtype=object),
        ],
    )
    def test_missing_integer_labels(self, labels: Any) -> None:
        tasks = TaskSet.from_arrays({"a": (inputs(3), labels)})
        assert tasks.classes == ("4", "12")  # sorted as numbers
        assert tasks.y.tolist() == [0, -1, 1]

    @pytest.mark.parametrize(
        "labels",
        [
            ["no", None, "yes"],
            ["no", NAN, "yes"],
            pd.Series(["no", None, "yes"]),
            pd.Series(["no", pd.NA, "yes"], dtype="string"),
            pd.Series(["no", None, "yes"], dtype="category"),
        ],
    )
    def test_missing_text_labels(self, labels: Any) -> None:
        tasks = TaskSet.from_arrays({"a": (inputs(3), labels)})
        assert tasks.classes == ("no", "yes")
        assert tasks.y.tolist() == [0, -1, 1]

    def test_truth_values_are_classes(self) -> None:
        tasks = TaskSet.from_arrays({"a": (inputs(2), np.array([True, False]))})
        assert (tasks.classes, tasks.y.tolist()) == (("False", "True"), [1, 0])
        tasks = TaskSet.from_arrays({"a": (inputs(2), [True, None])}, classes=[True, False])
        assert (tasks.classes, tasks.y.tolist()) == (("True", "False"), [0, -1])

    def test_given_classes_keep_their_order(self) -> None:
        tasks = TaskSet.from_arrays({"a": (inputs(2), ["b", "a"])}, classes=["b", "c", "a"])
        assert (tasks.classes, tasks.y.tolist()) == (("b", "c", "a"), [0, 2])

    def test_integer_labels_of_integer_classes_are_values(self) -> None:
        for classes in ([7, 3, 5], ["7", "3", "5"]):
            tasks = TaskSet.from_arrays({"a": (inputs(3), [3, 7, -1])}, classes=classes)
            assert tasks.y.tolist() == [1, 0, -1]

    def test_integer_labels_of_named_classes_are_positions(self) -> None:
        tasks = TaskSet.from_arrays({"a": (inputs(3), [1, 0, -1])}, classes=["cat", "dog"])
        assert tasks.y.tolist() == [1, 0, -1]

    def test_minus_one_can_be_a_class_if_it_is_named(self) -> None:
        tasks = TaskSet.from_arrays({"a": (inputs(3), [1, None, -1])}, classes=[-1, 1])
        assert tasks.y.tolist() == [1, -1, 0]

    def test_whole_floats_are_labels_where_classes_are_meant(self) -> None:
        labels = [0.0, NAN, 2.0]
        for meant in ({"regression": False}, {"classes": [0, 2]}):
            tasks = TaskSet.from_arrays({"a": (inputs(3), labels)}, **meant)
            assert (tasks.classes, tasks.y.tolist()) == (("0", "2"), [0, -1, 1])
        assert not TaskSet.from_arrays({"a": (inputs(3), labels)}).is_classification

    def test_integers_can_be_targets_of_regression(self) -> None:
        tasks = TaskSet.from_arrays({"a": (inputs(3), [-1, 0, 5])}, regression=True)
        assert tasks.y.tolist() == [-1, 0, 5]
        assert tasks.labelled.all()
        mixed = TaskSet.from_arrays({"a": (inputs(2), [1, 2]), "b": (inputs(1), [0.5])})
        assert mixed.y.tolist() == [1, 2, 0.5]

    def test_the_classes_of_a_set_read_its_labels_again(self) -> None:
        for labels in (["b", "a"], [10, 9], [True, False]):
            tasks = TaskSet.from_arrays({"a": (inputs(2), labels)})
            again = TaskSet.from_arrays({"a": (inputs(2), labels)}, classes=tasks.classes)
            assert again.y.tolist() == tasks.y.tolist()

    def test_a_task_without_targets_takes_the_others_kind(self) -> None:
        x = inputs(2)
        labels = TaskSet.from_arrays({"a": (x, None), "b": (x, ["p", "q"])})
        assert labels.y.tolist() == [-1, -1, 0, 1]
        reals = TaskSet.from_arrays({"a": (x, [None, None]), "b": (x, [[1.0, 2.0], [3.0, 4.0]])})
        assert reals.y.shape == (4, 2)
        assert reals.labelled.tolist() == [False, False, True, True]

    def test_an_empty_task_is_kept(self) -> None:
        nothing: list[Any] = [([], []), (np.empty((0, 3)), None)]
        for empty in nothing:
            tasks = TaskSet.from_arrays({"a": empty, "b": (inputs(2), ["p", "q"])})
            assert tasks.sizes.tolist() == [0, 2]

    @pytest.mark.parametrize(
        "x",
        [
            [[1, 2], [3, 4]],
            torch.tensor([[1, 2], [3, 4]]),
            [torch.tensor([1, 2]), torch.tensor([3, 4])],
            [np.array([1, 2]), np.array([3, 4])],
            torch.tensor([[1, 2], [3, 4]], dtype=torch.bfloat16),
            torch.tensor([[1.0, 2], [3, 4]], requires_grad=True),
            pd.DataFrame({"u": [1, 3], "v": [2, 4]}),
            pd.DataFrame({"u": [1, 3], "v": [2.0, 4.0]}, dtype=object),
        ],
    )
    def test_inputs_of_any_container_become_float32(self, x: Any) -> None:
        tasks = TaskSet.from_arrays({"a": (x, ["p", "q"])})
        assert tasks.x.dtype == torch.float32
        assert tasks.x.tolist() == [[1, 2], [3, 4]]
        assert not tasks.x.requires_grad

    def test_images_keep_their_shape(self) -> None:
        tasks = TaskSet.from_arrays({"a": (np.zeros((2, 3, 8, 8)), ["p", "q"])})
        assert tasks.input_shape == (3, 8, 8)

    def test_the_set_does_not_share_memory_with_the_arrays(self) -> None:
        x = np.zeros((2, 3), dtype=np.float32)
        tasks = TaskSet.from_arrays({"a": (x, [0.0, 1.0])})
        x[:] = 1
        assert (tasks.x == 0).all()

    def test_truth_sources_and_outputs_travel_along(self) -> None:
        tasks = TaskSet.from_arrays(
            {"a": (inputs(2), [0.0, 1.0]), "b": (inputs(1), [2.0])},
            outputs=["angle"],
            truth=[4, 2],
            sources={"b": [9], "a": [5, 6]},
        )
        assert tasks.outputs == ("angle",)
        assert tasks.truth is not None
        assert tasks.truth.tolist() == [4, 2]
        assert tasks.sources is not None
        assert tasks.sources.tolist() == [5, 6, 9]


X2 = [[0.0, 1.0], [2.0, 3.0]]
PQ = ["p", "q"]


class TestRefusals:
    """Each bad input is one sentence that names the thing, the value and what was expected."""

    @pytest.mark.parametrize(
        ("tasks", "options", "words"),
        [
            ({}, {}, ["empty", "at least one task"]),
            ([(X2, PQ)], {}, ["given as list", "dictionary"]),
            (X2, {}, ["given as list", "dictionary"]),
            ({"a": (X2, PQ), "b": ([[0.0]], ["p"])}, {}, ["'b'", "[1]", "[2]", "'a'"]),
            ({"a": ([[0, 1], [NAN, 3]], PQ)}, {}, ["feature 0", "sample 1", "'a'", "nan"]),
            (
                {"a": (X2, PQ), "b": ([[0, 1], [1, float("-inf")]], PQ)},
                {},
                ["feature 1", "sample 1", "'b'", "-inf"],
            ),
            ({"a": ([[0, 1], [1, None]], PQ)}, {}, ["feature 1", "sample 1", "'a'", "nan"]),
            ({"a": ([[0, 1], [1, 1e300]], PQ)}, {}, ["feature 1", "sample 1", "inf", "float32"]),
            ({"a": (np.full((1, 2, 2), NAN), ["p"]), "b": ([], [])}, {"classes": PQ}, ["(0, 0)"]),
            ({"a": ([[0, "red"], [1, 2]], PQ)}, {}, ["feature 1", "sample 0", "'a'", "'red'"]),
            (
                {"a": (pd.DataFrame({"u": [1, 2], "v": [3, "x"]}), PQ)},
                {},
                ["feature 1", "sample 1", "'a'", "'x'"],
            ),
            ({"a": ([[0, 1], [1]], PQ)}, {}, ["inputs of task 'a'", "array", "one shape"]),
            ({"a": ([0.0, 1.0], PQ)}, {}, ["'a'", "[2]", "[samples, features]"]),
            ({"a": (np.zeros((2, 0)), PQ)}, {}, ["[2, 0]"]),
            ({"a": (np.zeros((2, 2), dtype=complex), PQ)}, {}, ["'a'", "complex"]),
            ({"a": (X2, ["p"])}, {}, ["'a'", "2 inputs", "1 targets"]),
            ({"a": np.zeros((2, 2))}, {}, ["'a'", "ndarray", "pair"]),
            ({"a": 5}, {}, ["'a'", "int", "pair"]),
            ({"a": (X2, ["p", "r"])}, {"classes": PQ}, ["sample 1", "'a'", "'r'", "'p', 'q'"]),
            ({"a": (X2, [0, 5])}, {"classes": PQ}, ["sample 1", "'a'", "5", "0 to 1"]),
            ({"a": (X2, [0, 5])}, {"classes": [0, 1]}, ["sample 1", "'a'", "5", "'0', '1'"]),
            ({"a": (X2, [0, -3])}, {}, ["-3", "negative"]),
            ({"a": (X2, [0, -3])}, {"classes": PQ}, ["sample 1", "-3"]),
            ({"a": (X2, [0.0, 0.5])}, {"regression": False}, ["sample 1", "'a'", "0.5", "whole"]),
            ({"a": (X2, ["p", "p"])}, {}, ["single class", "'p'", "at least two"]),
            ({"a": (X2, [1, -1])}, {}, ["single class", "'1'", "-1 marks a missing label"]),
            ({"a": (X2, ["p", "p"])}, {"classes": ["p"]}, ["single class", "'p'"]),
            ({"a": (X2, ["p", "p"])}, {"classes": ["p", "p"]}, ["'p'", "distinct"]),
            ({"a": (X2, PQ)}, {"classes": []}, ["no classes"]),
            ({"a": (X2, [None, None])}, {}, ["no task has a label"]),
            ({"a": (X2, PQ), "b": (X2, [0, 1])}, {}, ["'a'", "text", "'b'", "integers"]),
            ({"a": (X2, PQ), "b": (X2, [0.5, 1])}, {}, ["'a'", "'p'", "number"]),
            ({"a": (X2, ["p", 1])}, {}, ["'a'", "int, str"]),
            ({"a": (X2, [[0, 1], [1, 0]])}, {}, ["'a'", "[2, 2]", "classification"]),
            ({"a": (X2, [[[0.0]], [[1.0]]])}, {}, ["'a'", "[2, 1, 1]"]),
            ({"a": (X2, [1j, 2j])}, {}, ["'a'", "complex"]),
            ({"a": (X2, np.array([1j, 2j]))}, {}, ["'a'", "complex"]),
            ({"a": (X2, [[0.0], [1.0, 2.0]])}, {}, ["targets of task 'a'", "list"]),
            (
                {"a": ([torch.zeros(1), torch.zeros(2)], PQ)},
                {},
                ["inputs of task 'a'", "cannot be read"],
            ),
            (
                {"a": (X2, [0.0, 1.0]), "b": (X2, [[0.0, 1.0], [1.0, 2.0]])},
                {},
                ["target of task 'b'", "[2]", "[]", "'a'"],
            ),
            ({"a": (X2, [0.0, float("inf")])}, {}, ["target", "sample 1", "'a'", "inf"]),
            ({"a": (X2, PQ)}, {"regression": True}, ["sample 0", "'a'", "'p'", "number"]),
            ({"a": (X2, PQ)}, {"regression": True, "classes": PQ}, ["regression", "classes"]),
            ({1: (X2, PQ), "1": (X2, PQ)}, {}, ["two tasks", "'1'"]),
            ({" ": (X2, PQ)}, {}, ["' '", "not empty"]),
            ({"base": (X2, PQ)}, {}, ["'base'", "another name"]),
            ({"a": (X2, [0.0, 1.0])}, {"outputs": ["u", "v"]}, ["'u', 'v'", "1 distinct"]),
            ({"a": (X2, PQ)}, {"outputs": ["u"]}, ["'u'", "classes"]),
            ({"a": (X2, PQ)}, {"truth": [0, 1]}, ["2", "1, one per task"]),
            ({"a": (X2, PQ)}, {"truth": [0.5]}, ["truth", "float64", "integers"]),
            ({"a": (X2, PQ)}, {"sources": {"a": [1]}}, ["sources", "'a'", "[1]", "[2]"]),
            ({"a": (X2, PQ)}, {"sources": {"b": [1, 2]}}, ["'b'", "'a'"]),
        ],
    )
    def test_from_arrays(
        self, tasks: dict[str, Any], options: dict[str, Any], words: list[str]
    ) -> None:
        with pytest.raises(InputError) as caught:
            TaskSet.from_arrays(tasks, **options)
        message = str(caught.value)
        for word in words:
            assert word in message
        assert message.endswith(".")
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"x": torch.zeros(2, 2, dtype=torch.float64)}, ["float64", "float32"]),
            ({"y": torch.zeros(2)}, ["labels", "float32", "int64"]),
            ({"y": torch.tensor([0, 2])}, ["label", "sample 0", "'b'", "2", "0 to 1"]),
            ({"y": torch.tensor([0])}, ["2 inputs", "1 targets"]),
            ({"task": torch.tensor([0, 2])}, ["task number 2", "0 to 1"]),
            ({"names": ("a", "a")}, ["'a'", "once"]),
            ({"names": ()}, ["empty"]),
            ({"classes": ("p",)}, ["'p'", "two"]),
            ({"sources": torch.zeros(3, dtype=torch.int64)}, ["3 sources"]),
            ({"x": torch.zeros(2, 2, device="meta")}, ["meta", "one device"]),
        ],
    )
    def test_the_constructor_keeps_the_same_promises(
        self, changes: dict[str, Any], words: list[str]
    ) -> None:
        fields: dict[str, Any] = {
            "names": ("a", "b"),
            "x": torch.zeros(2, 2),
            "y": torch.tensor([0, 1]),
            "task": torch.tensor([0, 1]),
            "classes": ("p", "q"),
        }
        TaskSet(**fields)
        with pytest.raises(InputError) as caught:
            TaskSet(**(fields | changes))
        for word in words:
            assert word in str(caught.value)

    def test_a_sample_is_named_by_its_row_in_its_task(self) -> None:
        bad = inputs(5)
        bad[4, 2] = NAN
        with pytest.raises(InputError, match=r"feature 2 of sample 4 in task 'b'"):
            TaskSet.from_arrays({"a": (inputs(7), None), "b": (bad, [0.0] * 5)})

    def test_training_needs_a_label_in_every_task(self) -> None:
        tasks = TaskSet.from_arrays({"a": (X2, PQ), "b": (X2, None)})
        with pytest.raises(InputError, match=r"task 'b' has no labelled training sample; .*\.$"):
            tasks.check_training()

    def test_training_needs_every_class_in_some_task(self) -> None:
        tasks = TaskSet.from_arrays({"a": (X2, PQ)}, classes=["p", "q", "r"])
        with pytest.raises(InputError, match=r"class 'r' has no training sample in any .*\.$"):
            tasks.check_training()
        # A task that lacks a class is fine as long as another has it.
        TaskSet.from_arrays({"a": (X2, PQ), "b": (X2, ["p", "p"])}).check_training()

    def test_training_on_regression(self, heights: TaskSet) -> None:
        heights.check_training()
        with pytest.raises(InputError, match="'a'"):
            heights.subset(heights.task == 1).check_training()


class TestParts:
    def test_subset_keeps_every_task(self, pets: TaskSet) -> None:
        part = pets.subset(torch.tensor([6, 1]))
        assert part.names == pets.names
        assert part.task.tolist() == [1, 0]
        assert part.x.equal(pets.x[[6, 1]])
        assert pets.subset(pets.task == 0).sizes.tolist() == [3, 0]
        assert len(pets.subset(torch.tensor([]))) == 0

    @pytest.mark.parametrize(
        "index", [torch.tensor([8]), torch.tensor([-1]), torch.ones(3).bool(), torch.tensor([0.5])]
    )
    def test_subset_refuses_rows_that_do_not_exist(self, pets: TaskSet, index: Tensor) -> None:
        with pytest.raises(InputError, match="index"):
            pets.subset(index)

    def test_select_renumbers_the_tasks(self) -> None:
        tasks = TaskSet.from_arrays(
            {name: (inputs(n + 1, start=10 * n), [0.5] * (n + 1)) for n, name in enumerate("abc")},
            truth=[7, 8, 9],
            sources={name: [n] * (n + 1) for n, name in enumerate("abc")},
        )
        part = tasks.select(["c", "a"])
        assert part.names == ("c", "a")
        assert part.task.tolist() == [0, 0, 0, 1]
        assert part.x.equal(torch.cat([tasks.x[3:], tasks.x[:1]]))
        assert part.truth is not None
        assert part.truth.tolist() == [9, 7]
        assert part.sources is not None
        assert part.sources.tolist() == [2, 2, 2, 0]

    def test_select_keeps_the_classes(self, pets: TaskSet) -> None:
        assert pets.select(["farm"]).classes == pets.classes
        assert pets.select("farm").names == ("farm",)

    def test_select_refuses(self, pets: TaskSet) -> None:
        with pytest.raises(InputError, match=r"'city'.*'town', 'farm'"):
            pets.select(["city"])
        with pytest.raises(InputError, match="empty"):
            pets.select([])
        with pytest.raises(InputError, match="two tasks"):
            pets.select(["farm", "farm"])

    def test_indices_by_name_and_number(self, pets: TaskSet) -> None:
        assert pets.indices("farm").tolist() == pets.indices(1).tolist() == [3, 4, 5, 6, 7]
        with pytest.raises(InputError, match="number 2"):
            pets.indices(2)
        with pytest.raises(InputError, match="number -1"):
            pets.indices(-1)

    def test_to_another_device(self, pets: TaskSet) -> None:
        moved = pets.to("meta")
        assert moved.x.device.type == moved.y.device.type == moved.task.device.type == "meta"
        assert moved.num_outputs == 3
        assert "8 samples" in repr(moved)


class TestDense:
    def test_worked_example(self, pets: TaskSet) -> None:
        batch = pets.dense()
        assert (batch.num_tasks, batch.num_samples) == (2, 5)
        assert batch.index.tolist() == [[0, 1, 2, -1, -1], [3, 4, 5, 6, 7]]
        assert batch.present.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
        assert batch.mask.tolist() == [
            [True, True, True, False, False],
            [True, False, True, True, False],
        ]
        assert batch.y.tolist() == [[2, 1, 0, 0, 0], [1, 0, 2, 2, 0]]
        assert (batch.scale == 1).all()
        assert batch.x[0, 3].equal(pets.x[0])  # padding is a real sample

    def test_vector_targets(self, heights: TaskSet) -> None:
        batch = heights.dense()
        assert batch.y.tolist() == [[[1, 2], [3, 0], [0, 0]], [[4, 5], [6, 7], [8, 12]]]
        assert batch.mask.tolist() == [[True, True, False], [True, True, True]]
        assert batch.known is not None
        assert batch.known[0].tolist() == [[True, True], [True, False], [False, False]]
        assert batch.observed.equal(batch.known)
        assert batch.weight.equal(batch.known.double())
        assert heights.subset(torch.tensor([0, 2])).dense().known is None
        assert batch.to("meta").known is not None
        assert batch.present.tolist() == [[True, True, False], [True, True, True]]

    def test_without_any_sample(self, pets: TaskSet) -> None:
        batch = pets.subset(torch.tensor([])).dense()
        assert batch.x.shape == (2, 0, 3)
        assert batch.mask.shape == batch.y.shape == (2, 0)

    @settings(deadline=None)
    @given(st.data())
    def test_every_sample_is_there_once(self, data: st.DataObject) -> None:
        sizes = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
        task = data.draw(st.permutations([t for t, n in enumerate(sizes) for _ in range(n)]))
        n = len(task)
        y = data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n))
        tasks = TaskSet(
            names=tuple(f"task {t}" for t in range(len(sizes))),
            x=torch.arange(2 * n).float().reshape(n, 2),
            y=torch.tensor(y, dtype=torch.int64),
            task=torch.tensor(task, dtype=torch.int64),
            classes=("0", "1", "2"),
        )
        batch = tasks.dense()
        assert batch.num_samples == max(sizes)
        rows = batch.index[batch.present]
        assert sorted(rows.tolist()) == list(range(n))
        assert batch.x[batch.present].equal(tasks.x[rows])
        assert batch.mask[batch.present].equal(tasks.labelled[rows])
        assert not batch.mask[~batch.present].any()
        assert batch.y[batch.mask].equal(tasks.y[batch.index[batch.mask]])
        assert (batch.y[~batch.mask] == 0).all()
        for t in range(len(sizes)):
            assert batch.index[t][batch.present[t]].tolist() == tasks.indices(t).tolist()
