"""What is left out is gone from one side, and without a label on the other."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inspection.out_of_distribution import (
    leave_out_class,
    leave_out_task,
    out_of_distribution_auroc,
    out_of_distribution_table,
)

MakePredictions = Callable[..., Predictions]


def small_set() -> TaskSet:
    return TaskSet(
        ("left", "right"),
        torch.arange(6.0)[:, None],
        torch.tensor([0, 1, 2, 2, -1, 0]),
        torch.tensor([0, 0, 0, 1, 1, 1]),
        ("a", "b", "c"),
    )


def test_a_class_left_out_is_nowhere_inside() -> None:
    inside, outside = leave_out_class(small_set(), "b")
    assert inside.classes == outside.classes == ("a", "c")
    assert inside.y.tolist() == [0, 1, 1, -1, 0]
    assert inside.x[:, 0].tolist() == [0, 2, 3, 4, 5]
    assert outside.x[:, 0].tolist() == [1]
    assert not outside.labelled.any()


def test_a_task_left_out_is_seen_through_the_others() -> None:
    tasks = small_set()
    three = replace(tasks, names=("left", "right", "new"), task=torch.tensor([0, 0, 1, 1, 2, 2]))
    inside, outside = leave_out_task(three, "left")
    assert inside.names == outside.names == ("right", "new")
    assert inside.x[:, 0].tolist() == [2, 3, 4, 5]
    assert outside.x[:, 0].tolist() == [0, 1, 0, 1]
    assert outside.task.tolist() == [0, 0, 1, 1]
    assert not outside.labelled.any()
    _, once = leave_out_task(three, "left", seen_as="new")
    assert once.task.tolist() == [1, 1]
    assert once.x[:, 0].tolist() == [0, 1]


def test_a_regression_can_leave_out_a_task() -> None:
    y = torch.randn(4, 2)
    tasks = TaskSet(("a", "b"), torch.randn(4, 3), y, torch.tensor([0, 0, 1, 1]), None)
    inside, outside = leave_out_task(tasks, "a")
    assert torch.equal(inside.y, y[2:])
    assert outside.y.isnan().all()


def test_auroc_is_the_chance_that_outside_is_less_certain(
    make_predictions: MakePredictions,
) -> None:
    inside = make_predictions(1, samples=3)
    outside = make_predictions(1, samples=2)
    inside = replace(inside, epistemic=torch.tensor([0.1, 0.2, 0.5]))
    outside = replace(outside, epistemic=torch.tensor([0.3, 0.5]))
    # .3 beats two of three; .5 beats two and ties with one.
    assert out_of_distribution_auroc(inside, outside) == pytest.approx(4.5 / 6)
    assert out_of_distribution_auroc(outside, inside) == pytest.approx(1.5 / 6)
    table = out_of_distribution_table(inside, outside)
    assert table.loc["epistemic", "auroc"] == pytest.approx(4.5 / 6)
    assert table.loc["epistemic", "mean_outside"] == pytest.approx(0.4)


def test_what_cannot_be_left_out_is_named() -> None:
    tasks = small_set()
    with pytest.raises(InputError, match="no class 'z'"):
        leave_out_class(tasks, "z")
    with pytest.raises(InputError, match="no task 'z'"):
        leave_out_task(tasks, "z")
    with pytest.raises(InputError, match="another task"):
        leave_out_task(tasks, "left", seen_as="left")
    with pytest.raises(InputError, match="another task"):
        leave_out_task(tasks.select(["left"]), "left")
    two = replace(tasks, y=tasks.y.clamp_max(1), classes=("a", "b"))
    with pytest.raises(InputError, match="at least three"):
        leave_out_class(two, "a")
