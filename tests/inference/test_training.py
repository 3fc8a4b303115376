"""The training module: every parameter learns, once, and schedules reach the model."""

import math
from itertools import product
from typing import Any

import pytest
import torch

from pyro_vmtl.data import Batch, TaskBatches, TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import Constant, Decay, Ramp, TrainingModule, TrainingSettings
from pyro_vmtl.model import (
    MLP,
    SITES,
    Architecture,
    BayesianLinear,
    Geometric,
    Identity,
    Linear,
    Mixture,
    Nested,
    Pool,
    Power,
    Settings,
    Standard,
    assemble,
)

TASKS, INPUTS = 3, 4
POOLS: list[Pool] = [
    Standard(),
    Mixture(spread="task"),
    Linear(base=True),
    Geometric(base=True, spread="feature"),
    Power(spread="scalar"),
]
CLASSIFIERS: list[Any] = ["mean_field", "conjugate"]
ENCODERS: list[Architecture] = [
    Identity(),
    MLP(5, hidden=(8,)),
    MLP(5, hidden=(8,), stochastic=False, per_task=True),
    BayesianLinear(5),
    BayesianLinear(5, prior="samples"),
    BayesianLinear(5, per_task=True),
]


def _tasks(is_classification: bool) -> TaskSet:
    count = 12
    return TaskSet(
        names=("a", "b", "c"),
        x=torch.randn(count, INPUTS),
        y=torch.arange(count) // 3 % 2 if is_classification else torch.randn(count),
        task=torch.arange(count) % TASKS,
        classes=("no", "yes") if is_classification else None,
    )


def _module(
    settings: Settings, training: TrainingSettings | None = None, is_classification: bool = True
) -> tuple[TrainingModule, Batch]:
    tasks = _tasks(is_classification)
    vmtl = assemble(settings, TASKS, tasks.num_outputs, (INPUTS,), is_classification)
    training = TrainingSettings(epochs=2, steps_per_epoch=5) if training is None else training
    batches = TaskBatches(tasks, steps_per_epoch=training.steps_per_epoch)
    return TrainingModule(vmtl, batches, training), tasks.dense()


class TestEveryParameter:
    @pytest.mark.parametrize(
        ("pool", "classifier", "encoder", "is_classification"),
        [
            model
            for model in product(POOLS, CLASSIFIERS, ENCODERS, [True, False])
            if model[0].borrows or model[1:3] != ("conjugate", ENCODERS[0])  # which has none
        ],
        ids=str,
    )
    def test_learns_and_is_in_the_optimiser_once(
        self, pool: Pool, classifier: Any, encoder: Architecture, is_classification: bool
    ) -> None:
        layered = isinstance(encoder, BayesianLinear) and encoder.per_task
        settings = Settings(encoder, pool, Mixture() if layered else Standard(), classifier)
        estimator: Any = "analytic" if is_classification else "sampled"
        # A KL weight of 0 would leave nothing to learn of who lends layers.
        training = TrainingSettings(estimator=estimator, kl_representations=Constant(0.003))
        module, batch = _module(settings, training, is_classification)
        for step in range(2):  # tasks have nothing to lend in the first step
            module.zero_grad()
            module.on_train_batch_start(batch, step)
            loss = module.training_step(batch, step)
            loss.backward()
            module.on_train_batch_end(loss, batch, step)
        for name, parameter in module.vmtl.named_parameters():
            assert parameter.requires_grad, name
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name
        groups = module.configure_optimizers()["optimizer"].param_groups
        optimised = [id(parameter) for group in groups for parameter in group["params"]]
        assert len(optimised) == len(set(optimised))
        assert set(optimised) == {id(p) for p in module.vmtl.parameters()}

    @pytest.mark.parametrize(("rate", "memory"), [(1.0, 0.999), (10.0, 0.99), (300.0, 0.9)])
    def test_standard_deviations_learn_faster_and_forget_faster(
        self, rate: float, memory: float
    ) -> None:
        settings = Settings(BayesianLinear(5), Mixture(), classifier="mean_field")
        module, _ = _module(settings, TrainingSettings(scale_rate=rate))
        rest, scales = module.configure_optimizers()["optimizer"].param_groups
        names = {id(parameter): name for name, parameter in module.vmtl.named_parameters()}
        found = {names[id(parameter)].rpartition(".")[2] for parameter in scales["params"]}
        assert "raw_scale" in found
        assert found <= {"raw_scale", "raw_noise"}
        assert not any(names[id(p)].endswith(("raw_scale", "raw_noise")) for p in rest["params"])
        assert scales["lr"] / rest["lr"] == pytest.approx(rate)
        assert scales["betas"] == pytest.approx((0.9, memory))
        assert rest["betas"] == (0.9, 0.999)

    @pytest.mark.parametrize("classifier", CLASSIFIERS)
    def test_relatedness_beside_weights_in_closed_form_learns_ten_times_as_fast(
        self, classifier: Any
    ) -> None:
        encoder = BayesianLinear(5, per_task=True)
        settings = Settings(encoder, Mixture(spread="task"), Mixture(), classifier)
        module, _ = _module(settings)
        groups = module.configure_optimizers()["optimizer"].param_groups
        rates = {id(p): group["lr"] / groups[0]["lr"] for group in groups for p in group["params"]}
        found = [rates[id(parameter)] for parameter in module.vmtl.borrowing.parameters()]
        expected = 10.0 if classifier == "conjugate" else 1.0
        assert found == pytest.approx([expected] * 3)  # a spread, and the logits of two sites
        assert rates[id(module.vmtl.get_parameter("encoder.loc"))] == 1.0

    def test_is_saved_with_the_module(self) -> None:
        module, _ = _module(Settings(BayesianLinear(5, per_task=True), Mixture(), Mixture()))
        saved = module.state_dict()
        for name, value in module.vmtl.state_dict().items():
            assert saved[f"elbo.vmtl.{name}"].equal(value)
        assert len(saved) == len(module.vmtl.state_dict())


class TestTheLoss:
    @pytest.mark.parametrize("classifier", CLASSIFIERS)
    def test_is_the_elbo_per_labelled_sample(self, classifier: Any) -> None:
        module, batch = _module(Settings(MLP(5), Mixture(), classifier=classifier))
        module.vmtl.update(batch)
        torch.manual_seed(1)
        loss = module.training_step(batch, 0)
        torch.manual_seed(1)
        elbo: Any = module.elbo.elbo
        expected = elbo.differentiable_loss(module.vmtl.model, module.vmtl.guide, batch)
        torch.testing.assert_close(loss, expected / int(batch.mask.sum()))

    @pytest.mark.parametrize(
        "encoder",
        [
            MLP(5, hidden=(8,)),
            MLP(5, hidden=(8,), stochastic=False),
            BayesianLinear(5),
            BayesianLinear(5, prior="samples"),
            BayesianLinear(5, per_task=True),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("is_weighed", [False, True])
    @pytest.mark.parametrize(("classifier", "weight"), [("mean_field", 0.02 * 4), ("conjugate", 1)])
    def test_of_means_is_the_elbo_with_the_kl_weights_that_are_set(
        self, encoder: Architecture, is_weighed: bool, classifier: Any, weight: float
    ) -> None:
        """In tasks of equal size both losses count samples alike; the KL weights that a step has,
        and that diagnostics and tables read off, are those of a sum over samples."""
        own = isinstance(encoder, BayesianLinear) and encoder.per_task
        settings = Settings(encoder, Mixture(), Mixture() if own else Standard(), classifier)
        training = TrainingSettings(
            epochs=2,
            steps_per_epoch=5,
            loss="task_means",
            kl_weights=Constant(0.02),
            kl_representations=Constant(0.01),
            task_weighting="uncertainty" if is_weighed else None,
        )
        module, batch = _module(settings, training)
        module.vmtl.update(batch)
        module.on_train_batch_start(batch, 0)
        assert module.vmtl.tempering["weights"] == pytest.approx(weight)
        torch.manual_seed(1)
        means = module.training_step(batch, 0)
        torch.manual_seed(1)
        elbo: Any = module.elbo.elbo
        expected = elbo.differentiable_loss(module.vmtl.model, module.vmtl.guide, batch)
        torch.testing.assert_close(means, expected / 4)  # 4 samples a task

    def test_goes_down(self) -> None:
        module, batch = _module(Settings(Identity(), Standard(), classifier="mean_field"))
        optimiser = torch.optim.Adam(module.parameters(), lr=0.05)
        losses = []
        for step in range(150):
            optimiser.zero_grad()
            loss = module.training_step(batch, step)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


class TestSchedules:
    @pytest.mark.parametrize("classifier", CLASSIFIERS)
    def test_set_the_temperature_and_the_kl_weights(self, classifier: Any) -> None:
        """That of weights in closed form, which know Bayes' rule alone, stays 1."""
        training = TrainingSettings(
            epochs=2,
            steps_per_epoch=5,
            temperature=Decay(1.0, 0.25),
            kl_weights=Ramp(0.0, 1.0),
            kl_representations=Constant(0.01),
        )
        layers = Settings(BayesianLinear(5, per_task=True), Mixture(), Mixture(), classifier)
        module, batch = _module(layers, training)
        assert module.total_steps == 10
        for step, temperature, weight in ((0, 1.0, 0.0), (5, 0.5, 0.5), (10, 0.25, 1.0)):
            _at_step(module, step, batch)
            for borrowing in module.vmtl.borrowing.values():
                assert float(borrowing.temperature) == pytest.approx(temperature)  # type: ignore[arg-type]
            of_weights = 1.0 if classifier == "conjugate" else weight
            assert module.vmtl.tempering == pytest.approx(
                dict(zip(SITES, (of_weights, 0.01), strict=True))
            )

    def test_set_the_learning_rate(self) -> None:
        training = TrainingSettings(epochs=2, steps_per_epoch=5, learning_rate=Ramp(0.1, 0.01))
        module, _ = _module(Settings(Identity()), training)
        configured = module.configure_optimizers()
        optimiser, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        rates = []
        for _ in range(11):
            rates.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            scheduler.step()
        assert rates == pytest.approx([0.1 - 0.009 * i for i in range(11)])
        assert configured["lr_scheduler"]["interval"] == "step"


def _at_step(module: TrainingModule, step: int, batch: Batch) -> None:
    """What the trainer does before a step, as if ``step`` steps had been made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "global_step", step)
        module.on_train_batch_start(batch, 0)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"num_particles": 0}, "num_particles is 0"),
        ({"validation_samples": -1}, "validation_samples is -1"),
        ({"estimator": "exact"}, "'exact'"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; expected a number of at least 0"),
        ({"gradient_clip": 0}, "gradient_clip is 0; expected a number above 0"),
        ({"scale_rate": "fast"}, "scale_rate is 'fast'; expected a number above 0"),
        ({"learning_rate": 0.01}, r"Constant\(0.01\), .* trainer.learning_rate.value=0.01"),
        ({"kl_weights": Constant(math.nan)}, "kl_weights reaches nan; expected values at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(choices: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TrainingSettings(**choices)


class TestWhatIsLeftOpen:
    @pytest.mark.parametrize("is_classification", [True, False])
    def test_beside_weights_in_closed_form(self, is_classification: bool) -> None:
        settings = Settings(MLP(5, hidden=(8,)), Nested())
        module, batch = _module(settings, TrainingSettings(steps_per_epoch=4), is_classification)
        assert module.settings.epochs == 10
        assert module.total_steps == 40
        rate = module.settings.learning_rate
        start = 0.003 if is_classification else 0.005
        assert [rate(0, 40), rate(40, 40)] == pytest.approx([start, 0.0001])
        _at_step(module, 40, batch)
        reached = module.vmtl.tempering["representations"]
        assert reached == pytest.approx(0.003 if is_classification else 0.2)
        if is_classification:  # while the weights are 0, nothing but a KL would have a gradient
            assert bool((module.vmtl.classifier.gaussians().loc == 0).all())
            for step in range(8):
                _at_step(module, step, batch)
                assert module.vmtl.tempering["representations"] == 0

    def test_beside_weights_that_gradients_learn(self) -> None:
        settings = Settings(MLP(5, hidden=(8,)), Standard(), classifier="mean_field")
        module, _ = _module(settings, TrainingSettings())
        assert module.settings.epochs == 40
        assert module.settings.learning_rate == Constant(0.003)
        assert module.settings.kl_representations == Constant(0.003)

    def test_what_was_chosen_stays(self) -> None:
        chosen = TrainingSettings(
            epochs=3,
            learning_rate=Constant(0.1),
            kl_representations=Constant(0.4),
            patience=None,
            gradient_clip=1.0,
        )
        module, _ = _module(Settings(MLP(5, hidden=(8,)), Nested()), chosen)
        for name, value in vars(chosen).items():
            assert getattr(module.settings, name) == value, name
