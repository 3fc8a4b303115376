"""``recipe=paper`` against the loss written out straight, with the same parameters and draws."""

import math
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vmtl.data import Batch, TaskBatches, attention_views
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import TrainingModule, build
from pyro_vmtl.model import (
    VMTL,
    BayesianLinearEncoder,
    GaussianEncoder,
    GaussianLikelihood,
    MeanFieldWeights,
)
from pyro_vmtl.runs import config_folder, read_plan
from pyro_vmtl.runs.configuration import Plan

ITERATION = 3_000


def _plan(data: str, *overrides: str) -> Plan:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose(
            "train",
            [f"data={data}", "recipe=paper", "model.encoder.latent_dim=6", *overrides],
        )
    return read_plan(config)


class _Draws(Messenger):
    """Every latent variable's first value: the guide's, which the model replays."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["value"] is not None:
            self.values.setdefault(msg["name"], msg["value"].detach())


def _kl(loc: Tensor, scale: Tensor, other_loc: Tensor, other_scale: Tensor) -> Tensor:
    """Of two diagonal Gaussians."""
    ratio = (scale / other_scale) ** 2
    return 0.5 * (ratio + ((loc - other_loc) / other_scale) ** 2 - 1 - ratio.log()).sum()


def _mixture_kl(own: tuple[Tensor, Tensor], lenders: list[tuple[float, Tensor, Tensor]]) -> Tensor:
    """The middle bound: minus the log of sum a_i exp(-KL(q, c_i)), weights made to sum to 1."""
    total = sum(weight for weight, *_ in lenders)
    terms = [math.log(weight / total) - _kl(*own, loc, scale) for weight, loc, scale in lenders]
    return -torch.stack(terms).logsumexp(0)


def _encoded(encoder: BayesianLinearEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Phi x for one input ``[D]``, locally reparameterised."""
    loc, scale = encoder.loc.detach().double()[0], encoder.scale.detach().double()[0]
    x = torch.cat([x.double(), torch.ones(1).double()])
    return x @ loc, (x.square() @ scale.square()).sqrt()


def _straight(vmtl: VMTL, batch: Batch, dropped: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """The loss, a task, a draw and a sample at a time, in float64."""
    assert isinstance(vmtl.encoder, BayesianLinearEncoder)
    assert batch.views is not None
    f_w = 4e-6 * (ITERATION // 10)
    loc, scale = (p.detach().double() for p in vmtl.classifier.gaussians())
    num_tasks, is_classification = vmtl.num_tasks, vmtl.likelihood.num_classes > 0
    particles = draws["weights"].shape[0]
    total = torch.zeros((), dtype=torch.float64)
    for s in range(particles):
        alpha, beta = (
            draws[f"relatedness_{site}"].double().expand(particles, -1, -1, -1)[s, :, 0]
            for site in ("weights", "representations")
        )
        for t in range(num_tasks):
            others = [i for i in range(num_tasks) if i != t]
            lenders = [(float(a), loc[i], scale[i]) for a, i in zip(alpha[t], others, strict=True)]
            total = total + f_w * _mixture_kl((loc[t], scale[t]), lenders)
            samples = batch.mask[t].nonzero().squeeze(-1).tolist()
            for n in samples:
                seen = [
                    (float(b), *_encoded(vmtl.encoder, batch.views.x[t, n, i]))
                    for b, i in zip(beta[t], others, strict=True)
                    if batch.views.present[t, n, i]
                ]
                seen = seen or [(1.0, torch.zeros(6).double(), torch.ones(6).double())]
                own = _encoded(vmtl.encoder, dropped[t, n])
                total = total + 1e-7 * _mixture_kl(own, seen) / len(samples)
                z = draws["representations"].expand(particles, -1, -1, -1)[s, t, n].double()
                w = draws["weights"][s, t, 0].double()
                out = w @ torch.cat([z, torch.ones(1).double()])
                if is_classification:
                    loss = out.logsumexp(0) - out[batch.y[t, n]]
                else:
                    assert isinstance(vmtl.likelihood, GaussianLikelihood)
                    noise = vmtl.likelihood.noise[t].detach().double()[0]
                    error = (batch.y[t, n].double() - out) / noise
                    loss = (0.5 * error**2 + noise.log() + 0.5 * math.log(2 * math.pi)).sum()
                total = total + loss / len(samples)
    return total / particles


@pytest.mark.parametrize(("data", "particles"), [("digit_domains", 2), ("rotated_digits", 3)])
def test_one_iteration_is_the_loss_written_out(
    data: str, particles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(data, "data.shots=1", f"trainer.num_particles={particles}")
    train = plan.splits.train
    if data == "digit_domains":  # a class that one task lacks
        train = train.subset((~((train.task == 1) & (train.y == 3))).nonzero().squeeze(-1))
    torch.manual_seed(0)
    vmtl = build(train, plan.settings)
    with torch.no_grad():  # tasks and scales that differ
        for parameter in vmtl.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    batches = TaskBatches(
        train,
        per_class=plan.training.per_class if train.is_classification else None,
        views=attention_views(train),
        steps_per_epoch=plan.training.steps_per_epoch,
    )
    module = TrainingModule(vmtl, batches, plan.training)
    assert module.total_steps == 15_000
    monkeypatch.setattr(TrainingModule, "global_step", ITERATION)
    batch = next(iter(batches))
    vmtl.update(batch)  # there has been an iteration: tasks lend their posteriors
    module.train()
    module.on_train_batch_start(batch, 0)
    inputs: list[Tensor] = []
    assert isinstance(vmtl.encoder, BayesianLinearEncoder)
    vmtl.encoder.dropout.register_forward_hook(lambda _module, _x, out: inputs.append(out))
    with _Draws() as draws:
        loss = module.training_step(batch, 0)
    assert inputs[0].eq(0).double().mean() > 0.6, "no dropout"
    expected = _straight(vmtl, batch, inputs[0].detach(), draws.values)
    assert loss.item() == pytest.approx(float(expected), rel=1e-5)


def test_its_schedules_are_the_published_ones() -> None:
    training = _plan("digit_domains").training
    assert training.learning_rate is not None
    assert training.kl_representations is not None
    total = 15_000
    for iteration in (0, 2_999, 3_000, 8_999, 14_999):
        assert training.learning_rate(iteration, total) == pytest.approx(
            1e-4 * 0.5 ** (iteration // 3_000)
        )
        assert training.kl_weights(iteration, total) == pytest.approx(4e-6 * (iteration // 10))
        temperature = 1.0
        for step in range(1_000, iteration + 1, 1_000):
            temperature = max(0.5, temperature * math.exp(-3e-5 * step))
        assert training.temperature(iteration, total) == pytest.approx(temperature)
    assert training.kl_representations(0, total) == 1e-7
    assert (training.num_particles, training.per_class, training.weight_decay) == (10, 4, 5e-4)


def test_its_settings_are_the_published_ones() -> None:
    settings = _plan("digit_domains", "model.encoder.latent_dim=512").settings
    vmtl = build(_plan("digit_domains").splits.train, settings)
    assert isinstance(vmtl.encoder, BayesianLinearEncoder)
    assert vmtl.encoder.latent_dim == 512
    assert vmtl.encoder.dropout.p == 0.7
    assert isinstance(vmtl.classifier, MeanFieldWeights)
    for raw in (vmtl.encoder.raw_scale, vmtl.classifier.raw_scale):
        torch.testing.assert_close(raw, torch.full_like(raw, -3), rtol=0, atol=1e-3)
    assert all(borrowing.empirical_bayes for borrowing in vmtl.borrowing.values())
    assert set(vmtl.borrowing) == {"weights", "representations"}


def test_its_priors_go_with_another_encoder() -> None:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", ["recipe=paper", "model=mlp", "data.shots=1"])
    plan = read_plan(config)
    vmtl = build(plan.splits.train, plan.settings)
    assert isinstance(vmtl.encoder, GaussianEncoder)
    assert set(vmtl.borrowing) == {"weights", "representations"}
    assert vmtl.needs_views


@pytest.mark.parametrize("recipe", ["paper", "vmtl", "vmtl_linear"])
def test_without_representations_of_their_own_there_is_nothing_to_mix(recipe: str) -> None:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", [f"recipe={recipe}", "model=identity", "data.shots=1"])
    plan = read_plan(config)
    with pytest.raises(InputError, match="expected Gaussian representations"):
        build(plan.splits.train, plan.settings)
