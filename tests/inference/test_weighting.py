"""Tasks weighed against each other: by a learned variance, and by their gradients."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, get_args

import lightning
import pytest
import torch
from torch import Tensor, nn

from pyro_vmtl.data import Batch, TaskBatches, TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import (
    GradientWeighting,
    Ramp,
    TrainingModule,
    TrainingSettings,
    UncertaintyWeighting,
    fit,
    shared_parameters,
    task_losses,
)
from pyro_vmtl.inference.loss_weighting import LossRule, loss_weighting
from pyro_vmtl.inference.training import TaskWeighting
from pyro_vmtl.inference.weighting import Aggregator
from pyro_vmtl.model import (
    MLP,
    VMTL,
    AmortisedWeights,
    Architecture,
    BayesianLinear,
    ConjugateWeights,
    Identity,
    Mixture,
    Nested,
    Pool,
    Settings,
    Standard,
    assemble,
)

AGGREGATORS: tuple[Aggregator, ...] = get_args(Aggregator)
BASIC = Settings(MLP(5, hidden=(8,), dropout=0, stochastic=False), Standard(), classifier="point")


def _tasks(is_classification: bool = True) -> TaskSet:
    y = torch.randint(3, (24,))
    y[:3] = torch.arange(3)
    return TaskSet(
        names=("a", "b", "c"),
        x=torch.randn(24, 4),
        y=y if is_classification else torch.randn(24),
        task=torch.arange(24) % 3,
        classes=("no", "yes", "so") if is_classification else None,
    )


def _vmtl(settings: Settings = BASIC, is_classification: bool = True) -> VMTL:
    return assemble(settings, 3, 3 if is_classification else 1, (4,), is_classification)


def _names(vmtl: VMTL, parameters: list[Any]) -> set[str]:
    ids = {id(parameter) for parameter in parameters}
    return {name for name, parameter in vmtl.named_parameters() if id(parameter) in ids}


class TestUncertainty:
    def test_divides_samples_by_the_variance_of_their_task(self) -> None:
        weighting, batch = UncertaintyWeighting(3), _tasks().dense()
        with torch.no_grad():
            weighting.log_variance.copy_(torch.tensor([0.0, 2.0, 0.5]).log())
        weighed, _ = weighting(batch)
        torch.testing.assert_close(weighed.scale[1], batch.scale[1] / 2)
        torch.testing.assert_close(weighed.scale[2], batch.scale[2] * 2)
        torch.testing.assert_close(weighting.weights()[1:], torch.tensor([0.5, 2.0]))

    def test_costs_half_a_log_variance_a_sample(self) -> None:
        weighting, batch = UncertaintyWeighting(3), _tasks().dense()
        batch.mask[0, :3] = False
        batch.scale = torch.full_like(batch.scale, 2.0)
        with torch.no_grad():
            weighting.log_variance.copy_(torch.tensor([0.3, -0.2, 1.0]))
        _, cost = weighting(batch)
        # 2 * (8 - 3), 2 * 8, 2 * 8 samples
        assert cost.item() == pytest.approx(0.5 * (10 * 0.3 - 16 * 0.2 + 16 * 1.0))

    def test_is_least_where_the_variance_is_twice_the_mean_loss(self) -> None:
        vmtl, batch = _vmtl(), _tasks().dense()
        vmtl.tempering["weights"] = 0.0  # what is divided are the samples alone
        losses, weighting = task_losses(vmtl, batch).detach(), UncertaintyWeighting(3)
        with torch.no_grad():
            weighting.log_variance.copy_((2 * losses / 8).log())
        weighed, cost = weighting(batch)
        (task_losses(vmtl, weighed).sum() + cost).backward()
        assert weighting.log_variance.grad is not None
        assert weighting.log_variance.grad.abs().max() < 1e-5

    def test_is_learned_in_training_and_shown(self) -> None:
        settings = TrainingSettings(epochs=2, steps_per_epoch=5, task_weighting="uncertainty")
        tasks = _tasks()
        fitted = fit(tasks, settings=BASIC, training=settings, validate=True)
        weights = fitted.history[[f"task_weight_{name}" for name in tasks.names]].to_numpy()
        assert (weights > 0).all()
        assert (weights != 1).all()
        # It belongs to training: the fitted model is one like any other.
        assert set(fitted.vmtl.state_dict()) == set(_vmtl().state_dict())

    def test_starts_as_no_weighting(self) -> None:
        batch, losses = _tasks().dense(), []
        vmtl = _vmtl()
        for weighting in (None, "uncertainty"):
            module = _module(vmtl, TrainingSettings(task_weighting=weighting))
            losses.append(module.training_step(batch, 0).item())
        assert losses[0] == pytest.approx(losses[1])

    def test_of_a_regression_is_the_noise_of_the_likelihood(self) -> None:
        module = _module(
            _vmtl(is_classification=False),
            TrainingSettings(task_weighting="uncertainty"),
            _tasks(is_classification=False),
        )
        assert module.uncertainty is None


def _module(vmtl: VMTL, settings: TrainingSettings, tasks: TaskSet | None = None) -> TrainingModule:
    tasks = _tasks() if tasks is None else tasks
    return TrainingModule(vmtl, TaskBatches(tasks, steps_per_epoch=5), settings)


class TestSharedParameters:
    @pytest.mark.parametrize(
        ("settings", "shared"),
        [
            (BASIC, {"encoder.network.2", "encoder.network.5"}),
            (Settings(Identity(), Standard(), classifier="mean_field"), set()),
            (Settings(MLP(5, hidden=(8,), per_task=True), Standard()), set()),
            (Settings(BayesianLinear(5), Standard()), {"encoder"}),
            (Settings(BayesianLinear(5, per_task=True), Standard()), set()),
            (Settings(Identity(), Nested()), set()),
            (Settings(Identity(), Mixture()), set()),
            (Settings(Identity(), Mixture(spread="task")), {"borrowing.weights"}),
            (
                Settings(Identity(), Standard(), classifier="amortised"),
                {"classifier", "classifier.network.2", "classifier.network.5"},
            ),
        ],
    )
    def test_are_what_more_than_one_loss_depends_on(
        self, settings: Settings, shared: set[str]
    ) -> None:
        vmtl = _vmtl(settings)
        found = _names(vmtl, shared_parameters(vmtl))
        assert {name.rpartition(".")[0] for name in found} == shared

    @pytest.mark.parametrize("says_so", [False, True])
    def test_are_not_those_of_a_part_that_calls_them_single_tasks(self, says_so: bool) -> None:
        class Scaled(nn.Module):
            """An encoder of the user's own, with a scale for each task."""

            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones(3, 1, 1))

        class Declared(Scaled):
            def of_single_tasks(self) -> Iterable[nn.Parameter]:
                return (self.scale,)

        vmtl = _vmtl(Settings(MLP(5, hidden=(8,)), Standard(), classifier="mean_field"))
        before = len(shared_parameters(vmtl))
        vmtl.encoder.add_module("own", Declared() if says_so else Scaled())
        assert len(shared_parameters(vmtl)) == before + (not says_so)

    @pytest.mark.parametrize("is_classification", [True, False])
    @pytest.mark.parametrize(
        ("encoder", "pool", "classifier"),
        [
            (MLP(5, hidden=(8,)), Mixture(spread="feature"), "mean_field"),
            (MLP(5, hidden=(8,)), Mixture(spread="feature"), "conjugate"),
            (MLP(5, hidden=(8,), per_task=True), Nested(), "conjugate"),
            (BayesianLinear(5), Standard(), "mean_field"),
        ],
        ids=str,
    )
    def test_others_matter_to_one_task_only(
        self, encoder: Architecture, pool: Pool, classifier: Any, is_classification: bool
    ) -> None:
        vmtl = _vmtl(Settings(encoder, pool, classifier=classifier), is_classification)
        ours = {id(parameter) for parameter in shared_parameters(vmtl)}
        own = [parameter for parameter in vmtl.parameters() if id(parameter) not in ours]
        batch = _tasks(is_classification).dense()
        vmtl.update(batch)  # from here on tasks lend
        losses = task_losses(vmtl, batch)
        assert own
        for t in range(3):
            gradients = torch.autograd.grad(
                losses[t], own, retain_graph=True, materialize_grads=True
            )
            for gradient in gradients:  # the first dimension is that of tasks
                others = [s for s in range(3) if s != t]
                assert gradient[others].abs().max() == 0
                assert gradient[t].abs().max() > 0


def _alike() -> Batch:
    """Three tasks with the same samples."""
    x, y = torch.randn(1, 6, 4).expand(3, -1, -1), torch.randint(3, (1, 6)).expand(3, -1)
    return Batch(
        x, y, torch.ones(3, 6).bool(), torch.ones(3, 6), torch.zeros(3, 6, dtype=torch.int64)
    )


def _plain(vmtl: VMTL, batch: Batch) -> dict[str, Tensor]:
    """The gradient of the sum of the losses."""
    vmtl.zero_grad()
    task_losses(vmtl, batch).sum().backward()
    return {n: p.grad.clone() for n, p in vmtl.named_parameters() if p.grad is not None}


def _weighed(vmtl: VMTL, batch: Batch, name: Aggregator) -> tuple[dict[str, Tensor], Tensor]:
    vmtl.zero_grad()
    weighting = GradientWeighting(name, 3)
    weighting.backward(task_losses(vmtl, batch), vmtl)
    gradients = {n: p.grad.clone() for n, p in vmtl.named_parameters() if p.grad is not None}
    return gradients, weighting.weights()


def _jacobian(vmtl: VMTL, batch: Batch) -> Tensor:
    """Every task's gradient of what is shared, ``[T, P]``."""
    losses, rows = task_losses(vmtl, batch), []
    for loss in losses:
        gradients = torch.autograd.grad(loss, shared_parameters(vmtl), retain_graph=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


def _shared(vmtl: VMTL, gradients: dict[str, Tensor]) -> Tensor:
    names = _names(vmtl, shared_parameters(vmtl))
    return torch.cat([gradients[n].flatten() for n, _ in vmtl.named_parameters() if n in names])


@pytest.fixture
def torchjd() -> Any:
    """The extra, without which there is nothing to test."""
    return pytest.importorskip("torchjd")


@pytest.mark.usefixtures("torchjd")
class TestGradients:
    @pytest.mark.parametrize(
        ("name", "factor"), [("upgrad", 1.0), ("pcgrad", 1.0), ("cagrad", 1.5), ("imtlg", 1.0)]
    )
    def test_of_tasks_that_agree_are_summed(self, name: Aggregator, factor: float) -> None:
        vmtl, batch = _vmtl(), _alike()
        with torch.no_grad():
            loc = vmtl.get_parameter("classifier.loc")
            loc.copy_(loc[:1].expand_as(loc))
        plain, (weighed, _) = _plain(vmtl, batch), _weighed(vmtl, batch, name)
        torch.testing.assert_close(
            _shared(vmtl, weighed), factor * _shared(vmtl, plain), rtol=1e-2, atol=1e-4
        )

    @pytest.mark.parametrize("name", AGGREGATORS)
    def test_of_what_tasks_have_for_themselves_are_as_ever(self, name: Aggregator) -> None:
        vmtl, batch = _vmtl(), _tasks().dense()
        plain, (weighed, weights) = _plain(vmtl, batch), _weighed(vmtl, batch, name)
        assert set(plain) == set(weighed)
        torch.testing.assert_close(weighed["classifier.loc"], plain["classifier.loc"])
        assert not _shared(vmtl, weighed).allclose(_shared(vmtl, plain))
        # What is shown as weights are what the gradients were multiplied with.
        expected = weights.to(torch.float32) @ _jacobian(vmtl, batch)
        torch.testing.assert_close(_shared(vmtl, weighed), expected, rtol=1e-3, atol=1e-4)

    def test_of_upgrad_harm_no_task(self) -> None:
        for _ in range(5):
            vmtl, batch = _vmtl(), _tasks().dense()
            direction = _shared(vmtl, _weighed(vmtl, batch, "upgrad")[0])
            jacobian = _jacobian(vmtl, batch)
            slack = 1e-3 * jacobian.norm(dim=1) * direction.norm()
            assert (jacobian @ direction >= -slack).all()

    def test_of_pcgrad_lose_what_conflicts(self) -> None:
        """Two tasks: each gradient less its part along the other, where they conflict."""
        weighting = GradientWeighting("pcgrad", 2)
        parameter = torch.nn.Parameter(torch.zeros(2))
        one, two = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 2.0])
        module = torch.nn.ParameterList([parameter])
        weighting.backward(torch.stack([one @ parameter, two @ parameter]), module)  # type: ignore[arg-type]
        # g1 - (g1 g2 / |g2|^2) g2 = (1, 0) + (-1, 2) / 5, and g2 - (g1 g2 / |g1|^2) g1 = (0, 2)
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, torch.tensor([0.8, 0.4 + 2.0]))

    def test_of_imtlg_go_equally_far_along_every_gradient(self) -> None:
        vmtl, batch = _vmtl(), _tasks().dense()
        direction = _shared(vmtl, _weighed(vmtl, batch, "imtlg")[0])
        jacobian = _jacobian(vmtl, batch)
        along = (jacobian @ direction) / jacobian.norm(dim=1)
        torch.testing.assert_close(along, along.mean().expand(3), rtol=1e-2, atol=1e-3)

    def test_of_nashmtl_are_where_nobody_bargains_further(self) -> None:
        """The gains J J' a are the inverses of the weights, up to one factor."""
        vmtl, batch = _vmtl(), _tasks().dense()
        _, weights = _weighed(vmtl, batch, "nashmtl")
        jacobian = _jacobian(vmtl, batch)
        products = weights.to(torch.float32) * (jacobian @ jacobian.mT @ weights.to(torch.float32))
        torch.testing.assert_close(products / products.mean(), torch.ones(3), rtol=0.1, atol=0)

    def test_of_fairgrad_solve_its_equation(self) -> None:
        """G d = d^(-1/alpha), for gradients (-4, 1, 1) and (6, 1, 1)."""
        weighting = GradientWeighting("fairgrad", 2)
        parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        rows = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
        module = torch.nn.ParameterList([parameter])
        weighting.backward(rows @ parameter, module)  # type: ignore[arg-type]
        d = weighting.weights()
        torch.testing.assert_close(rows @ rows.mT @ d, d**-0.5, rtol=1e-6, atol=1e-6)
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, d @ rows)

    @pytest.mark.parametrize("name", AGGREGATORS)
    @pytest.mark.parametrize(
        "settings",
        [
            Settings(Identity(), Standard(), classifier="point"),
            Settings(MLP(5, hidden=(8,)), Mixture()),
            Settings(MLP(5, hidden=(8,)), Mixture(), classifier="amortised"),
            Settings(MLP(5, hidden=(8,), per_task=True), Nested()),
            Settings(BayesianLinear(5), Standard(), classifier="mean_field"),
        ],
        ids=str,
    )
    def test_train_any_model(self, name: Aggregator, settings: Settings) -> None:
        training = TrainingSettings(epochs=1, steps_per_epoch=2, task_weighting=name)
        vmtl = _vmtl(settings)
        before = {n: p.detach().clone() for n, p in vmtl.named_parameters()}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fitted = fit(_tasks(), settings=settings, training=training, vmtl=vmtl, validate=True)
        assert fitted.history["loss"].notna().all()
        for parameter_name, parameter in vmtl.named_parameters():
            assert parameter.isfinite().all()
            assert not parameter.equal(before[parameter_name]), parameter_name

    @pytest.mark.parametrize("name", [None, "uncertainty", "upgrad"])
    @pytest.mark.parametrize("classifier", ["amortised", "conjugate"])
    def test_of_several_draws_make_one_iteration(
        self, name: TaskWeighting | None, classifier: Any
    ) -> None:
        """Class means move, and sites are looked at again, by iterations and not by draws."""
        encoder = MLP(5, hidden=(8,), dropout=0)
        settings = Settings(encoder, Mixture(), classifier=classifier)
        tasks, seen = _tasks(), []
        for num_particles in (1, 3):
            training = TrainingSettings(
                epochs=2, steps_per_epoch=3, task_weighting=name, num_particles=num_particles
            )
            vmtl = _vmtl(settings)
            fit(tasks, settings=settings, training=training, vmtl=vmtl, log_warnings=False)
            if isinstance(vmtl.classifier, ConjugateWeights):
                assert int(vmtl.classifier.steps) == 6 + 20  # and those that close the fit
            assert isinstance(vmtl.classifier, (AmortisedWeights, ConjugateWeights))
            seen.append(vmtl.classifier.counts.clone())
        torch.testing.assert_close(seen[0], seen[1])

    def test_that_are_not_finite_end_training_with_a_sentence(self) -> None:
        training = TrainingSettings(epochs=1, steps_per_epoch=2, task_weighting="upgrad")
        vmtl = _vmtl()
        with torch.no_grad():
            vmtl.get_parameter("classifier.loc").fill_(torch.nan)
        with pytest.raises(InputError, match="the loss is nan in epoch 0"):
            fit(_tasks(), settings=BASIC, training=training, vmtl=vmtl)


class TestWeightingLosses:
    @pytest.mark.parametrize("name", get_args(LossRule))
    def test_of_equal_losses_is_none(self, name: LossRule) -> None:
        weighting = loss_weighting(name, torch.tensor([4, 8, 12]), _vmtl())
        weights = weighting.weigh(torch.full((3,), 0.7).double())
        torch.testing.assert_close(weights / weights.sum(), torch.full((3,), 1 / 3).double())

    @pytest.mark.parametrize("name", get_args(LossRule))
    def test_is_the_gradient_of_the_weighted_sum(self, name: LossRule) -> None:
        vmtl, batch = _vmtl(), _tasks().dense()
        weighting = loss_weighting(name, torch.tensor([8, 8, 8]), vmtl)
        for _ in range(3):
            vmtl.zero_grad()
            losses = task_losses(vmtl, batch).double() / 24
            weighting.backward(losses, vmtl)
            weighting.look_back(0.9 * losses)
        weights = weighting.weights()
        assert float(weights.sum()) == pytest.approx(3)
        gradient = {n: p.grad for n, p in vmtl.named_parameters() if p.grad is not None}
        vmtl.zero_grad()
        (weights @ (task_losses(vmtl, batch).double() / 24)).backward()
        for parameter_name, parameter in vmtl.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(gradient[parameter_name], parameter.grad)

    def test_of_balanced_is_the_slope_of_the_exponential(self) -> None:
        losses = torch.tensor([0.2, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
        losses.exp().sum().backward()
        weights = loss_weighting("balanced", torch.ones(3), _vmtl()).weigh(losses.detach())
        assert losses.grad is not None
        torch.testing.assert_close(weights / weights.sum(), losses.grad / losses.grad.sum())

    def test_of_famo_follows_losses_that_fall_slowly(self) -> None:
        weighting = loss_weighting("famo", torch.ones(2), _vmtl())
        for _ in range(20):
            weights = weighting.weigh(torch.tensor([1.0, 1.0]).double())
            weighting.look_back(torch.tensor([0.5, 0.25]))  # shares of a half: 1 and .5
        assert weights[0] > weights[1]

    def test_of_go4align_gives_a_group_one_weight(self) -> None:
        weighting = loss_weighting("go4align", torch.ones(4), _vmtl())
        losses = torch.tensor([0.5, 0.52, 2.0, 2.1], dtype=torch.float64)
        weights = weighting.weigh(losses)
        record = (-0.1 * losses).exp()
        indicator = losses.mean() / losses * record * 4 / record.sum()
        centres = indicator.view(2, 2).mean(1).repeat_interleave(2)
        torch.testing.assert_close(weights, centres)

    @pytest.mark.parametrize("name", get_args(LossRule))
    def test_trains(self, name: LossRule) -> None:
        training = TrainingSettings(epochs=2, steps_per_epoch=3, task_weighting=name)
        fitted = fit(_tasks(), settings=BASIC, training=training, validate=True)
        weights = fitted.history[[f"task_weight_{n}" for n in "abc"]].to_numpy()
        assert weights.sum(1) == pytest.approx([3, 3])
        assert (weights[-1] != 1).any()

    @pytest.mark.parametrize("name", ["famo", "go4align"])
    def test_needs_losses_above_0(self, name: TaskWeighting) -> None:
        training = TrainingSettings(task_weighting=name)
        with pytest.raises(InputError, match="needs losses above 0"):
            fit(_tasks(is_classification=False), settings=BASIC, training=training)


class _Watch(lightning.Callback):
    """The learning rate, and the norm of the gradient, as the optimiser meets them."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.norms: list[float] = []

    def on_before_optimizer_step(
        self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat(gradients).norm()))


@pytest.mark.usefixtures("torchjd")
@pytest.mark.parametrize("name", [None, "pcgrad"])
def test_the_learning_rate_and_clipping_are_those_of_any_training(name: Any) -> None:
    training = TrainingSettings(
        epochs=2,
        steps_per_epoch=3,
        task_weighting=name,
        learning_rate=Ramp(0.01, 0.001),
        gradient_clip=0.01,
    )
    watch = _Watch()
    fitted = fit(_tasks(), settings=BASIC, training=training, callbacks=[watch])
    assert watch.rates == pytest.approx([0.01 - 0.0015 * step for step in range(6)])
    if name is not None:  # the trainer clips later than callbacks look
        assert max(watch.norms) <= 0.01 * (1 + 1e-3)
    assert fitted.history["step"].tolist() == [3, 6]


@pytest.mark.usefixtures("torchjd")
def test_weighing_gradients_takes_one_process() -> None:
    class Trainer:
        """Two processes."""

        world_size = 2

    module = _module(_vmtl(), TrainingSettings(task_weighting="upgrad"))
    trainer: Any = Trainer()
    module.trainer = trainer
    with pytest.raises(InputError, match="2 processes; expected one"):
        module.on_fit_start()


class TestRefusals:
    def test_of_a_missing_extra_name_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchjd", None)
        with pytest.raises(InputError, match=r"pip install 'pyro_vmtl\[gradients\]'") as error:
            GradientWeighting("upgrad", 3)
        assert "\n" not in str(error.value)

    @pytest.mark.usefixtures("torchjd")
    @pytest.mark.parametrize(
        ("name", "package"), [("upgrad", "quadprog"), ("cagrad", "cvxpy"), ("nashmtl", "ecos")]
    )
    def test_of_a_missing_solver_name_it(
        self, monkeypatch: pytest.MonkeyPatch, name: Aggregator, package: str
    ) -> None:
        monkeypatch.setattr(
            "torchjd._mixins.find_spec", lambda name: None if name == package else find_spec(name)
        )
        with pytest.raises(InputError, match=rf"{package}.*pyro_vmtl\[gradients\]"):
            GradientWeighting(name, 3)

    @pytest.mark.parametrize(
        ("choices", "says"),
        [
            (
                {"task_weighting": "equal"},
                "task_weighting is 'equal'; expected None, 'uncertainty'",
            ),
            (
                {"task_weighting": "upgrad", "estimator": "sampled"},
                "task_weighting is 'upgrad' and estimator is 'sampled'",
            ),
        ],
    )
    def test_of_settings_say_what_was_expected(self, choices: Any, says: str) -> None:
        with pytest.raises(InputError, match=says):
            TrainingSettings(**choices)

    def test_of_an_unknown_aggregator_list_the_known(self) -> None:
        with pytest.raises(InputError, match="'mgda'; expected one of"):
            GradientWeighting("mgda", 3)  # type: ignore[arg-type]
