"""What must not change an ELBO: the tasks' order, masked samples, and, on average, minibatches.

The latent sites are drawn by reparameterisation from noise given beforehand, so that two programs
can be compared draw by draw, in value and in gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, Literal

import pyro.distributions as dist
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vmtl.data import Batch, TaskBatches, TaskSet
from pyro_vmtl.distributions import RelatednessGates, RelatednessWeights, RowGaussians
from pyro_vmtl.model import (
    MLP,
    VMTL,
    Architecture,
    BayesianLinear,
    Borrowing,
    Geometric,
    Identity,
    Mixture,
    Pool,
    Power,
    Settings,
    Standard,
    assemble,
)

if TYPE_CHECKING:
    from pyro.poutine.runtime import Message

# Distinct, and none of them another size of a model below: a dimension of TASKS is the tasks'.
TASKS, SAMPLES, INPUTS, CLASSES = 3, 5, 4, 6


@dataclass
class Noise:
    """Standard noise of every latent site, the relatedness by component and not by slot."""

    weights: Tensor
    representations: Tensor
    gumbel: dict[str, Tensor]

    @classmethod
    def draw(cls, vmtl: VMTL, num_samples: int) -> Noise:
        tasks = vmtl.num_tasks
        uniform = torch.rand(2, tasks, tasks + 1).double()
        sites = ("weights", "representations")
        return cls(
            torch.randn(tasks, 1, *vmtl.classifier.event_shape).double(),
            torch.randn(tasks, num_samples, vmtl.encoder.latent_dim).double(),
            dict(zip(sites, -(-uniform.log()).log(), strict=True)),
        )


class FromNoise(Messenger):
    """Draws the latent sites of a guide from given noise, reparameterised."""

    def __init__(self, vmtl: VMTL, noise: Noise) -> None:
        super().__init__()
        self.vmtl = vmtl
        self.noise = noise

    def _pyro_sample(self, msg: Message[..., Any]) -> None:
        name, fn = str(msg["name"]), msg["fn"]
        if isinstance(fn, dist.Delta) or name in ("tasks", "samples"):
            return
        if isinstance(fn, RowGaussians):
            noise = getattr(self.noise, name).unsqueeze(-1)
            msg["value"] = fn.base_dist.loc + (fn.base_dist.scale_tril @ noise).squeeze(-1)
            return
        if isinstance(fn, dist.Independent):
            msg["value"] = fn.base_dist.loc + fn.base_dist.scale * getattr(self.noise, name)
            return
        site = name.removeprefix("relatedness_")
        noise = _slots(self.vmtl, site, self.noise.gumbel[site]).unsqueeze(1)
        if isinstance(fn, RelatednessWeights):
            msg["value"] = ((fn.logits + noise) / fn.temperature).softmax(-1)
        elif isinstance(fn, RelatednessGates):
            logistic = torch.special.logit((-(-noise).exp()).exp())  # Gumbel to uniform to logistic
            msg["value"] = ((fn.logits + logistic) / fn.temperature).sigmoid()
        else:
            raise AssertionError(f"{name} has the unexpected law {fn}")


def _borrowing(vmtl: VMTL, site: str) -> Borrowing:
    borrowing = vmtl.borrowing[site]
    assert isinstance(borrowing, Borrowing)
    return borrowing


def _slots(vmtl: VMTL, site: str, components: Tensor) -> Tensor:
    """``[T, T + 1]`` by component, the base last, to ``[T, L]`` by slot."""
    borrowing = _borrowing(vmtl, site)
    ordered = components
    if borrowing.pool.base:
        ordered = components.roll(1, -1)
    return ordered.gather(1, borrowing.lender_of_slot)


def _components(vmtl: VMTL, site: str, slots: Tensor) -> Tensor:
    """The inverse of :func:`_slots`."""
    borrowing = _borrowing(vmtl, site)
    components = slots.new_zeros(vmtl.num_tasks, vmtl.num_tasks + 1)
    components.scatter_(1, borrowing.lender_of_slot, slots)
    return components.roll(-1, -1) if borrowing.pool.base else components


def _make(
    encoder: Architecture,
    pool: Pool,
    is_classification: bool = True,
    classifier: Literal["mean_field", "conjugate"] = "mean_field",
    num_tasks: int = TASKS,
) -> VMTL:
    """A model in float64, dropout off, every parameter somewhere of its own."""
    layered = isinstance(encoder, BayesianLinear) and encoder.per_task
    choices = Settings(encoder, pool, pool if layered else Standard(), classifier)
    outputs = CLASSES if is_classification else 1
    vmtl = assemble(choices, num_tasks, outputs, (INPUTS,), is_classification).double().eval()
    with torch.no_grad():
        for parameter in vmtl.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    mask = torch.ones(num_tasks, SAMPLES, dtype=torch.bool)
    vmtl.update(_batch(mask, is_classification))  # there are posteriors to lend
    return vmtl


def _batch(mask: Tensor, is_classification: bool) -> Batch:
    shape = mask.shape
    y = torch.randint(CLASSES, shape) if is_classification else torch.randn(shape).double()
    scale = torch.where(mask, 1 + torch.rand(shape).double(), 1.0)
    index = torch.arange(mask.numel()).reshape(shape)
    return Batch(torch.randn(*shape, INPUTS).double(), y, mask, scale, index)


def _loss(vmtl: VMTL, batch: Batch, noise: Noise, kind: type[Trace_ELBO]) -> Tensor:
    loss = kind().differentiable_loss(vmtl.model, FromNoise(vmtl, noise)(vmtl.guide), batch)
    return loss.double()


def _gradients(vmtl: VMTL, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*vmtl.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return dict(zip(names, gradients, strict=True))


CASES: dict[str, tuple[Architecture, Pool, bool, Literal["mean_field", "conjugate"]]] = {
    "gaussian-mixture": (MLP(7, hidden=(8,)), Mixture(), True, "mean_field"),
    "gaussian-regression": (MLP(7, hidden=(8,)), Mixture(), False, "mean_field"),
    "deterministic-base": (
        MLP(7, hidden=(8,), stochastic=False),
        Mixture(base=True, spread="task"),
        True,
        "mean_field",
    ),
    "deterministic-regression": (
        MLP(7, hidden=(8,), stochastic=False, per_task=True),
        Geometric(base=True, spread="feature"),
        False,
        "mean_field",
    ),
    "per task-power": (
        MLP(7, hidden=(8,), per_task=True),
        Power(spread="task"),
        True,
        "mean_field",
    ),
    "layers": (BayesianLinear(7, per_task=True), Mixture(base=True), False, "mean_field"),
    "layers-power": (BayesianLinear(7, per_task=True), Power("task"), True, "mean_field"),
    "layer-samples": (BayesianLinear(7, prior="samples"), Power(), False, "mean_field"),
    "identity": (Identity(), Mixture(), True, "mean_field"),
    "conjugate-mixture": (
        MLP(7, hidden=(8,)),
        Mixture(base=True, spread="task"),
        True,
        "conjugate",
    ),
    "conjugate-power": (Identity(), Power(spread="task"), False, "conjugate"),
}
every_case = pytest.mark.parametrize("name", CASES)
every_elbo = pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])


class TestTheOrderOfTheTasks:
    @every_case
    @every_elbo
    @pytest.mark.parametrize("order", [[1, 2, 0], [2, 1, 0]])
    def test_does_not_matter(self, name: str, kind: type[Trace_ELBO], order: list[int]) -> None:
        _, _, is_classification, _ = CASES[name]
        one, two = _make(*CASES[name]), _make(*CASES[name])
        two.load_state_dict(_permuted(one, order))
        mask = torch.rand(TASKS, SAMPLES) < 0.7
        batch, noise = _batch(mask, is_classification), Noise.draw(one, SAMPLES)
        fields = (batch.x, batch.y, batch.mask, batch.scale, batch.index)
        other_batch = Batch(*(field[order] for field in fields))
        columns = [*order, TASKS]
        other_noise = Noise(
            noise.weights[order],
            noise.representations[order],
            {site: gumbel[order][:, columns] for site, gumbel in noise.gumbel.items()},
        )
        sites = _log_probs(one, batch, noise)
        others = _log_probs(two, other_batch, other_noise)
        assert sites.keys() == others.keys()
        for site in sites:
            ours, theirs = sites[site], others[site]
            if site != "layer_kl":  # a single number
                ours = ours[order]
            torch.testing.assert_close(ours, theirs)
        loss, other_loss = (
            _loss(one, batch, noise, kind),
            _loss(two, other_batch, other_noise, kind),
        )
        torch.testing.assert_close(loss, other_loss)
        expected = _permuted(one, order, _gradients(one, loss))
        for key, gradient in _gradients(two, other_loss).items():
            torch.testing.assert_close(gradient, expected[key])


def _permuted(
    vmtl: VMTL, order: list[int], values: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The state (or a gradient) of a model whose task i is task ``order[i]`` of this one."""
    values = vmtl.state_dict() if values is None else values
    permuted = {}
    for key, value in values.items():
        if key.endswith(".logits"):
            site = key.split(".")[-2]
            components = _components(vmtl, site, value)
            permuted[key] = _slots(vmtl, site, components[order][:, [*order, TASKS]])
        elif value.dim() > 0 and len(value) == TASKS:
            permuted[key] = value[order]
        else:
            permuted[key] = value
    return permuted


def _log_probs(vmtl: VMTL, batch: Batch, noise: Noise) -> dict[str, Tensor]:
    guide = poutine.trace(FromNoise(vmtl, noise)(vmtl.guide)).get_trace(batch)
    model = poutine.trace(poutine.replay(vmtl.model, trace=guide)).get_trace(batch)
    log_probs = {}
    for which, trace in (("guide ", guide), ("", model)):
        trace.compute_log_prob()
        for name in [*trace.stochastic_nodes, *trace.observation_nodes]:
            site: Any = trace.nodes[name]
            if name not in ("tasks", "samples"):
                log_probs[which + name] = site["log_prob"]
    return log_probs


class TestAMaskedSample:
    @every_case
    @every_elbo
    @settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(seed=st.integers(0, 999))
    def test_is_as_good_as_removed(self, name: str, kind: type[Trace_ELBO], seed: int) -> None:
        _, _, is_classification, _ = CASES[name]
        torch.manual_seed(seed)
        vmtl = _make(*CASES[name])
        mask = torch.rand(TASKS, SAMPLES) < 0.6
        batch, noise = _batch(mask, is_classification), Noise.draw(vmtl, SAMPLES)
        # The samples that count, moved to the front, and no others; a task may have none left.
        width = max(1, int(mask.sum(1).max()))
        front = mask.int().argsort(dim=1, descending=True, stable=True)[:, :width]

        def pick(values: Tensor) -> Tensor:
            index = front.reshape(*front.shape, *(1 for _ in values.shape[2:]))
            return values.gather(1, index.expand(*front.shape, *values.shape[2:]))

        fewer = Batch(*(pick(x) for x in (batch.x, batch.y, mask, batch.scale, batch.index)))
        filler = _batch(fewer.mask, is_classification)  # what pads a task is of no consequence
        fewer.x[~fewer.mask] = filler.x[~fewer.mask]
        fewer.y[~fewer.mask] = filler.y[~fewer.mask]
        fewer_noise = Noise(noise.weights, pick(noise.representations), noise.gumbel)

        loss, other = _loss(vmtl, batch, noise, kind), _loss(vmtl, fewer, fewer_noise, kind)
        torch.testing.assert_close(loss, other)
        gradients, others = _gradients(vmtl, loss), _gradients(vmtl, other)
        for key, gradient in gradients.items():
            torch.testing.assert_close(gradient, others[key])

    @every_elbo
    def test_is_told_from_one_that_counts(self, kind: type[Trace_ELBO]) -> None:
        vmtl = _make(MLP(7, hidden=(8,)), Mixture())
        batch = _batch(torch.ones(TASKS, SAMPLES, dtype=torch.bool), True)
        noise = Noise.draw(vmtl, SAMPLES)
        loss = _loss(vmtl, batch, noise, kind)
        batch.mask[1, 2] = False
        assert abs(_loss(vmtl, batch, noise, kind) - loss) > 1e-3


def _task_set(sizes: list[int], is_classification: bool) -> TaskSet:
    total = sum(sizes)
    y = torch.randint(CLASSES, (total,)) if is_classification else torch.randn(total)
    return TaskSet(
        names=tuple(f"task {t}" for t in range(len(sizes))),
        x=torch.randn(total, INPUTS),
        y=y,
        task=torch.repeat_interleave(torch.tensor(sizes)),
        classes=tuple(str(c) for c in range(CLASSES)) if is_classification else None,
    )


class TestMinibatches:
    @staticmethod
    def _estimate(
        vmtl: VMTL, batches: list[Batch], noise: Noise, by_row: Tensor, kind: type[Trace_ELBO]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss and gradient, each sample of the set with noise of its own."""
        losses = []
        for batch in batches:
            precise = Batch(
                batch.x.double(),
                batch.y if batch.y.dtype == torch.int64 else batch.y.double(),
                batch.mask,
                batch.scale.double(),
                batch.index,
            )
            mine = Noise(noise.weights, by_row[batch.index], noise.gumbel)
            losses.append(_loss(vmtl, precise, mine, kind))
        loss = torch.stack(losses).mean()
        return loss, _gradients(vmtl, loss)

    def _check(
        self, name: str, tasks: TaskSet, batches: list[Batch], kind: type[Trace_ELBO]
    ) -> None:
        vmtl = _make(*CASES[name], num_tasks=tasks.num_tasks)
        noise = Noise.draw(vmtl, 1)
        by_row = torch.randn(len(tasks), vmtl.encoder.latent_dim).double()
        full, gradient = self._estimate(vmtl, [tasks.dense()], noise, by_row, kind)
        mean, mean_gradient = self._estimate(vmtl, batches, noise, by_row, kind)
        torch.testing.assert_close(mean, full)
        for key, value in gradient.items():
            torch.testing.assert_close(mean_gradient[key], value)

    @pytest.mark.parametrize("name", ["gaussian-mixture", "gaussian-regression", "layers-power"])
    @every_elbo
    def test_average_to_the_whole_over_all_subsets(self, name: str, kind: type[Trace_ELBO]) -> None:
        sizes, chosen = [4, 3], [2, 1]
        tasks = _task_set(sizes, is_classification=CASES[name][2])
        subsets = [
            list(combinations(tasks.indices(t).tolist(), chosen[t])) for t in range(len(sizes))
        ]
        batches = []
        for rows in product(*subsets):
            batch = tasks.subset(torch.tensor([row for task in rows for row in task])).dense()
            index = torch.tensor([[*task, *([-1] * (2 - len(task)))] for task in rows])
            scale = torch.tensor([[4 / 2] * 2, [3 / 1] * 2])
            batches.append(Batch(batch.x, batch.y, batch.mask, scale, index))
        assert len(batches) == 6 * 3
        self._check(name, tasks, batches, kind)

    @pytest.mark.parametrize(
        ("name", "way"),
        [
            ("gaussian-mixture", {"batch_size": 2}),
            ("gaussian-mixture", {"per_class": 1}),
            ("gaussian-regression", {"batch_size": 2}),
        ],
    )
    @every_elbo
    def test_average_to_the_whole_over_one_pass(
        self, name: str, way: dict[str, int], kind: type[Trace_ELBO]
    ) -> None:
        tasks = _task_set([4, 4], is_classification=CASES[name][2])
        if "per_class" in way:  # two of each class in every task: chunks of equal size
            tasks.y.copy_(torch.arange(8) % 2)
        batches = list(TaskBatches(tasks, way.get("batch_size"), way.get("per_class")))
        assert len(batches) == 2
        self._check(name, tasks, batches, kind)
