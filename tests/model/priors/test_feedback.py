"""Feedback between outputs: what is heard, through which gates, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import elbo_parts
from pyro_vmtl.inspection import relatedness
from pyro_vmtl.model import FeedbackBorrowing, FeedbackWeights, StackedEncoder

ALONE = [1e-3]  # maps of next to nothing
INPUTS = 6
CODE = torch.tensor([2, 0, 1])


def _tasks(sizes: tuple[int, ...], seed: int = 0, noise: tuple[int, ...] = ()) -> pv.TaskSet:
    """Three classes by the angle of a point in the plane, and four inputs that say nothing.

    Task 0 has another code than the others.

    :param noise: tasks whose labels are dealt out at random.
    """
    generator = torch.Generator().manual_seed(seed)
    task = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    x = torch.randn(len(task), INPUTS, generator=generator)
    angle = torch.atan2(x[:, 0], x[:, 1]) + torch.pi
    y = (1.5 * angle / torch.pi).long().clamp_max(2)
    y = torch.where(task == 0, CODE[y], y)
    for t in noise:
        rows = (task == t).nonzero().squeeze(-1)
        y[rows] = torch.randint(3, (len(rows),), generator=generator)
    names = tuple(f"task {t}" for t in range(len(sizes)))
    return pv.TaskSet(names=names, x=x, y=y, task=task, classes=("a", "b", "c"))


def _fit(tasks: pv.TaskSet, **choices: Any) -> pv.FittedVMTL:
    settings = pv.Settings(encoder=pv.Identity(), pool=pv.Feedback(**choices))
    return pv.fit(tasks, settings=settings, log_warnings=False)


def _weights(fitted: pv.FittedVMTL) -> FeedbackWeights:
    assert isinstance(fitted.vmtl.classifier, FeedbackWeights)
    return fitted.vmtl.classifier


@pytest.fixture(scope="module")
def fitted() -> pv.FittedVMTL:
    return _fit(_tasks((12, 150, 150)))


def test_a_task_of_another_code_hears_and_finds_the_code(fitted: pv.FittedVMTL) -> None:
    test = _tasks((400, 400, 400), seed=1)
    tasks = _tasks((12, 150, 150))
    alone = _fit(tasks, map_scales=ALONE)
    nll = [-float(f.predict(test).log_density[:400].mean()) for f in (fitted, alone)]
    assert nll[0] < nll[1] - 0.2
    maps = pv.output_maps(fitted)
    assert maps.shape == (3, 3, 3, 3)
    assert (maps[0, 1:].sum(0).argmax(0) == CODE.numpy()).all()
    assert abs(maps.sum(-1)).max() < 1e-9
    assert (maps[range(3), range(3)] == 0).all()


def test_gates_of_random_labels_close(fitted: pv.FittedVMTL) -> None:
    gates = _weights(_fit(_tasks((150, 150, 150), noise=(1,)))).open
    assert gates[0, 0] < 0.5  # from 1, whose labels are random, to 0
    assert gates[0, 1] > 0.9  # from 2 to 0
    assert float(_weights(fitted).open[0].max()) > 0.7


def test_without_lenders_it_is_a_fit_of_every_task_alone() -> None:
    tasks = _tasks((20, 30, 25))
    one = _weights(_fit(tasks, own_scale=1.0, map_scales=ALONE))
    settings = pv.Settings(
        encoder=pv.Identity(), pool=pv.Nested(mean=False, clusters=False, deviation="fixed")
    )
    other = pv.fit(tasks, settings=settings, log_warnings=False).vmtl.classifier.gaussians()
    own = [*range(INPUTS), -1]
    assert torch.allclose(one.gaussians().loc[..., own], other.loc, atol=0.01)
    assert torch.allclose(one.gaussians().scale[..., own], other.scale, atol=0.01)


def test_evidence_is_that_of_all_weights_integrated_out(fitted: pv.FittedVMTL) -> None:
    weights = _weights(fitted)
    gates = torch.tensor([[True, False], [True, True], [False, False]])
    square = torch.tensor([5.6**2, 9.0], dtype=torch.float64)
    ways = torch.stack([gates, torch.zeros_like(gates)])
    sites = weights._of_maps()
    evidence = weights._log_evidence(*sites, ways, square)
    expected = []
    for way, s2 in zip(ways, square, strict=True):
        variance = weights._variances(way, s2)[:, weights.get_buffer("groups")]  # [T, q]
        inner = weights.precision + variance.reciprocal()[:, None].diag_embed()
        fit = (weights.shift * torch.linalg.solve(inner, weights.shift)).sum((-2, -1))
        size = inner.logdet().sum(-1) + weights.shift.shape[1] * variance.log().sum(-1)
        expected.append(0.5 * (fit - size))
    difference = evidence[0] - evidence[1]
    assert torch.allclose(difference, expected[0] - expected[1])


def test_model_and_guide_know_gates(fitted: pv.FittedVMTL) -> None:
    vmtl, tasks = fitted.vmtl, _tasks((12, 150, 150))
    borrowing = vmtl.borrowing["weights"]
    assert isinstance(borrowing, FeedbackBorrowing)
    assert vmtl.pool.kind == "gates"
    assert borrowing.chance_before_data() == 0.5
    parts = elbo_parts(vmtl, tasks.dense(), 2)
    prior, posterior = (dist.Bernoulli(p) for p in (torch.tensor(0.5), _weights(fitted).open))
    kl = torch.distributions.kl_divergence(posterior, prior).sum()
    assert parts.kl_relatedness == pytest.approx(float(kl), abs=1e-4)
    assert parts.kl_weights > 0
    shut = vmtl.weights_prior(torch.zeros(3, 1, 2, dtype=torch.float64))
    assert (shut.variance[..., INPUTS:-1] < 1e-5).all()
    assert torch.allclose(shut.variance[..., :INPUTS], torch.tensor(4.0, dtype=torch.float64))


def test_no_task_hears_its_own_classifier(fitted: pv.FittedVMTL) -> None:
    encoder = fitted.vmtl.encoder
    assert isinstance(encoder, StackedEncoder)
    x = torch.randn(3, 5, INPUTS)

    def features() -> Tensor:
        return encoder(x).mean

    before, kept = features(), encoder.loc.clone()
    try:
        encoder.loc[0] += 1.0
        after = features()
    finally:
        encoder.loc.copy_(kept)
    assert (after[0] == before[0]).all()
    assert (after[1:] != before[1:]).any()


def test_classifiers_see_the_rows_of_their_task_alone() -> None:
    tasks = _tasks((20, 30, 25))
    y = tasks.y.clone()
    y[tasks.indices(2)] = 0
    other = pv.TaskSet(names=tasks.names, x=tasks.x, y=y, task=tasks.task, classes=tasks.classes)
    one, two = (
        pv.build(t, encoder=pv.Identity(), pool=pv.Feedback()).encoder for t in (tasks, other)
    )
    assert isinstance(one, StackedEncoder)
    assert isinstance(two, StackedEncoder)
    assert torch.equal(one.loc[:2], two.loc[:2])
    assert not torch.equal(one.loc[2], two.loc[2])


def test_is_saved_and_told_like_any_other(fitted: pv.FittedVMTL, tmp_path: Path) -> None:
    test = _tasks((5, 5, 5), seed=1)
    loaded = pv.load(pv.save(fitted, tmp_path / "model"))
    assert torch.equal(loaded.predict(test).mean, fitted.predict(test).mean)
    table = relatedness(loaded)
    assert len(table) == 6
    assert set(table["kind"]) == {"gates"}
    assert (table["before_data"] == 0.5).all()


def test_of_two_classes_and_of_one_task() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 2, generator=generator)
    y = (x[:, 0] * x[:, 1].abs() > 0).long()
    data = {"one": (x[:20], 1 - y[:20]), "two": (x[20:], y[20:])}
    tasks = pv.TaskSet.from_arrays(data, classes=("no", "yes"))
    maps = pv.output_maps(_fit(tasks))
    assert (maps[0, 1].argmax(0) == [1, 0]).all()
    alone = _fit(tasks.select(["one"]))
    assert pv.output_maps(alone).shape == (1, 1, 2, 2)
    assert float(alone.predict(tasks.select(["one"])).log_density.mean()) > -0.6


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"own_scale": 0.0}, "own_scale is 0.0; expected a number above 0"),
        ({"map_scales": []}, r"map_scales are \[\]; expected numbers above 0"),
        ({"map_scales": [1.0, -2.0]}, "expected numbers above 0"),
    ],
)
def test_scales_that_are_none_are_refused(choices: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        pv.Feedback(**choices)


def test_what_does_not_go_with_it_is_refused(fitted: pv.FittedVMTL) -> None:
    tasks = _tasks((5, 5, 5))
    numbers = pv.TaskSet.from_arrays({"a": (tasks.x[:5], tasks.x[:5, 0])}, regression=True)
    with pytest.raises(InputError, match="likelihood is Gaussian; expected classes without an"):
        pv.build(numbers, pool=pv.Feedback())
    with pytest.raises(InputError, match=r"encoder is a MLP, .* fixed before: Identity\(\)"):
        pv.build(tasks, encoder=pv.MLP(), pool=pv.Feedback())
    with pytest.raises(InputError, match="the pool Feedback; expected Nested"):
        fitted.forget("task 1")
    with pytest.raises(InputError, match="expected a model with the pool Nested"):
        pv.influence(fitted, tasks)
