"""Views are attention averages: of the same class, of one task, whatever the order of samples."""

import math

import pytest
import torch
from torch import Tensor

from pyro_vmtl.data import TaskBatches, TaskSet, attention_views
from pyro_vmtl.errors import InputError


def _tasks(is_classification: bool = True, seed: int = 0) -> TaskSet:
    generator = torch.Generator().manual_seed(seed)
    arrays = {}
    for t, size in enumerate((5, 7, 4)):
        x = torch.randn(size, 3, generator=generator)
        # Task 2 lacks class 1.
        y = torch.arange(size) % (2 if t < 2 else 1)
        arrays[f"task {t}"] = (x.numpy(), (y if is_classification else 0.5 * y).numpy())
    return TaskSet.from_arrays(arrays)


def _by_hand(x: Tensor, others: Tensor) -> Tensor:
    scores = [float(x @ o) / math.sqrt(float(x @ x) * float(o @ o)) for o in others]
    weights = [math.exp(s) / sum(math.exp(r) for r in scores) for s in scores]
    return torch.stack([w * o for w, o in zip(weights, others, strict=True)]).sum(0)


@pytest.mark.parametrize("is_classification", [True, False])
def test_every_view_is_the_average_by_hand(is_classification: bool) -> None:
    tasks = _tasks(is_classification)
    views = attention_views(tasks)
    assert views.x.shape == (16, 3, 3)
    for n in range(len(tasks)):
        for i in range(3):
            alike = tasks.task == i
            if is_classification:
                alike = alike & (tasks.y == tasks.y[n])
            assert bool(views.present[n, i]) == bool(alike.any())
            expected = _by_hand(tasks.x[n], tasks.x[alike]) if alike.any() else tasks.x[n]
            torch.testing.assert_close(views.x[n, i], expected, rtol=1e-5, atol=1e-6)


def test_an_unlabelled_sample_has_no_view_and_is_in_none() -> None:
    tasks = _tasks()
    y = tasks.y.clone()
    y[0] = -1
    unlabelled = TaskSet(tasks.names, tasks.x, y, tasks.task, tasks.classes, tasks.outputs)
    views = attention_views(unlabelled)
    assert not views.present[0].any()
    assert views.x[0].equal(tasks.x[0].expand(3, 3))
    rest = torch.arange(1, len(tasks))
    expected = attention_views(tasks.subset(rest))
    torch.testing.assert_close(views.x[rest], expected.x)
    assert views.present[rest].equal(expected.present)


def test_a_sample_of_zeros_looks_at_all_alike() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    arrays = {"a": (x[:1].numpy(), [0]), "b": (x[1:].numpy(), [0, 0])}
    views = attention_views(TaskSet.from_arrays(arrays, classes=["0", "1"]))
    torch.testing.assert_close(views.x[0, 1], torch.tensor([0.5, 1.5]))


def test_batches_bring_the_views_of_their_samples() -> None:
    tasks = _tasks()
    views = attention_views(tasks)
    for batch in TaskBatches(tasks, batch_size=2, views=views, seed=3):
        assert batch.views is not None
        assert batch.views.x.shape == (3, batch.num_samples, 3, 3)
        real = batch.present
        assert batch.views.x[real].equal(views.x[batch.index[real]])
        assert batch.views.present[real].equal(views.present[batch.index[real]])
        moved = batch.to("meta")
        assert moved.views is not None
        assert moved.views.x.is_meta
    assert next(iter(TaskBatches(tasks))).views is None


def test_more_views_than_memory_are_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks = _tasks()  # 16 samples of 3 numbers in 3 tasks: 576 bytes
    monkeypatch.setattr("pyro_vmtl.data.views._memory", lambda: 576)
    assert attention_views(tasks).x.nbytes == 576
    monkeypatch.setattr("pyro_vmtl.data.views._memory", lambda: 575)
    with pytest.raises(InputError, match=r"views of 16 samples of \[3\] through 3 tasks take"):
        attention_views(tasks)
