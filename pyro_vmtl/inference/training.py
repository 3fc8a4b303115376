"""SVI as a Lightning module: the ELBO, schedules, a row of history an epoch."""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, TypeAlias, cast, get_args

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBOModule
from torch import Tensor

from pyro_vmtl.data import Batch, TaskBatches, TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.diagnostics import diagnose
from pyro_vmtl.inference.elbo import ELBOParts, elbo_parts, task_losses
from pyro_vmtl.inference.loss_weighting import LossRule, LossWeighting, loss_weighting
from pyro_vmtl.inference.predict import predict
from pyro_vmtl.inference.processes import noise_seed
from pyro_vmtl.inference.schedules import Constant, Decay, Ramp, Schedule
from pyro_vmtl.inference.weighting import (
    Aggregator,
    GradientWeighting,
    UncertaintyWeighting,
)
from pyro_vmtl.model import SITES, VMTL

__all__ = ["EPOCHS", "TrainingModule", "TrainingSettings"]

EPOCHS = 40
"""Of a fit in which gradients learn the weights, where nobody says."""

# Beside weights in closed form gradients have an encoder to learn, and the relatedness of pools
# that weigh lenders, whose logits have far to go.
_CLOSED_FORM: dict[str, Any] = {"epochs": 10}
_RATE_OF_CLASSES, _RATE_OF_NUMBERS = Ramp(0.003, 0.0001), Ramp(0.005, 0.0001)
_RELATEDNESS_RATE = 10.0
_MOST_HELD_OUT = 1024
_LEFT_OPEN = ("epochs", "learning_rate", "kl_representations")
# Weights of classes are 0 at first, and so is all gradient of the encoder but that of a KL: be it
# ever so small, Adam would take representations to their prior. Of numbers the KL keeps the encoder
# from fitting single targets, whose residuals would then understate the noise.
_KL_OF_CLASSES = Ramp(0.0, 0.003, since=0.2)
_KL_OF_NUMBERS = Ramp(0.003, 0.2, until=0.2)

TaskWeighting: TypeAlias = Literal["uncertainty"] | Aggregator | LossRule
"""A way to weigh tasks, by name."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    The defaults were chosen on the validation data of the built-in digits, for learned encoders:
    a tempered posterior. Without an encoder (``Identity``), set the KL weights to 1, Bayes' rule.
    What is None is decided by the model that is trained, see :meth:`beside`.

    :ivar epochs: at most so many; None, 10 beside weights in closed form and else 40.
    :ivar steps_per_epoch: optimiser steps between two looks at the validation data; None, as many
        as it takes to see the largest task once.
    :ivar batch_size: samples per task and step; None, all.
    :ivar per_class: samples per task, class and step: class-balanced batches. A regression has no
        classes and passes it over.
    :ivar learning_rate: of Adam, as a schedule; None, beside weights in closed form a straight
        line to .0001, from .003 for classes and from .005 for numbers, where the relatedness learns
        ten times as fast, and else .003 throughout.
    :ivar scale_rate: how many times as fast standard deviations learn, of the weights' and layers'
        posteriors and of the noise on targets. Adam moves every parameter by at most the learning
        rate a step; a scale that starts at 1 needs hundreds of steps of 0.003 to say what data have
        said. Its gradient falls by orders of magnitude on the way: Adam's memory of squares is
        shortened by the same factor, from 1,000 steps to no less than 10.
    :ivar weight_decay: of Adam (added to the gradient, as the paper does).
    :ivar gradient_clip: largest norm of the gradient; None, no clipping.
    :ivar loss: ``"elbo"``, the tempered ELBO, in which every sample counts alike; or
        ``"task_means"``, as the paper's authors have it: of each task the mean over its samples in
        the batch plus the KL of its weights, not divided by their number, so that every task counts
        alike. The ELBO that is logged is the same in both.
    :ivar task_weighting: how tasks are weighed against each other: None, not at all;
        ``"uncertainty"``, by a learned variance
        (:class:`pyro_vmtl.inference.UncertaintyWeighting`); or by their gradients of what they
        share (:class:`pyro_vmtl.inference.GradientWeighting`): ``"upgrad"``, ``"pcgrad"``,
        ``"cagrad"``, ``"nashmtl"`` or ``"imtlg"``, which need the extra ``gradients``.
    :ivar num_particles: draws of the latent variables per step.
    :ivar estimator: ``"analytic"`` takes the analytic KLs (for a mixture the pool's bound),
        ``"sampled"`` the exact densities at the draws.
    :ivar temperature: of the relaxed relatedness.
    :ivar kl_weights: KL weight of ``weights`` and their relatedness; 1 is Bayes' rule, and what
        weights in closed form have whatever is said here.
    :ivar kl_representations: the same for ``representations``. It limits what they say about the
        input beyond what the targets ask for (the information bottleneck of Alemi, Fischer, Dillon
        and Murphy, ICLR 2017). None, beside weights in closed form and Gaussian representations,
        of classes 0 for the first fifth of training and then up to .003, of numbers up to .2 over
        the first fifth; else .003.
    :ivar patience: epochs without a better validation density after which training stops; None,
        never.
    :ivar validation_samples: posterior draws for a look at the validation data.
    """

    epochs: int | None = None
    steps_per_epoch: int | None = 50
    batch_size: int | None = None
    per_class: int | None = None
    learning_rate: Schedule | None = None
    scale_rate: float = 10.0
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    loss: Literal["elbo", "task_means"] = "elbo"
    task_weighting: TaskWeighting | None = None
    num_particles: int = 1
    estimator: Literal["analytic", "sampled"] = "analytic"
    temperature: Schedule = field(default_factory=lambda: Decay(1.0, 0.5))
    kl_weights: Schedule = field(default_factory=lambda: Constant(0.03))
    kl_representations: Schedule | None = None
    patience: int | None = 10
    validation_samples: int = 50

    def __post_init__(self) -> None:
        for name in ("num_particles", "validation_samples"):
            self._check_whole(name)
        for name in ("epochs", "steps_per_epoch", "batch_size", "per_class", "patience"):
            if getattr(self, name) is not None:
                self._check_whole(name)
        for name in ("temperature", "kl_weights"):
            self._check_schedule(name)
        for name in ("learning_rate", "kl_representations"):
            if getattr(self, name) is not None:
                self._check_schedule(name)
        self._check_above("scale_rate", 0)
        self._check_above("weight_decay", 0, included=True)
        if self.gradient_clip is not None:
            self._check_above("gradient_clip", 0)
        if self.loss not in ("elbo", "task_means"):
            raise InputError(f"loss is {self.loss!r}; expected 'elbo' or 'task_means'")
        if self.estimator not in ("analytic", "sampled"):
            raise InputError(f"estimator is {self.estimator!r}; expected 'analytic' or 'sampled'")
        self._check_task_weighting()

    def beside(self, vmtl: VMTL) -> "DecidedSettings":
        """The settings with what was left open decided for this model."""
        decided: dict[str, Any] = {}
        if vmtl.classifier.is_conjugate:
            decided |= _CLOSED_FORM
            of_numbers = not vmtl.likelihood.num_classes
            decided["learning_rate"] = _RATE_OF_NUMBERS if of_numbers else _RATE_OF_CLASSES
            of_samples = vmtl.encoder.has_density and of_numbers
            decided["kl_representations"] = _KL_OF_NUMBERS if of_samples else _KL_OF_CLASSES
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if value is not None or entry.name not in _LEFT_OPEN:
                decided[entry.name] = value
        return DecidedSettings(**decided)

    def _check_task_weighting(self) -> None:
        weighting = self.task_weighting
        by_name = (*get_args(Aggregator), *get_args(LossRule))
        if weighting not in (None, "uncertainty", *by_name):
            raise InputError(
                f"task_weighting is {weighting!r}; expected None, 'uncertainty' or one of "
                f"{list(by_name)}"
            )
        if weighting != "uncertainty" and weighting is not None and self.estimator != "analytic":
            raise InputError(
                f"task_weighting is {weighting!r} and estimator is {self.estimator!r}; expected "
                "'analytic', from which each task's part of the ELBO is taken"
            )

    def _check_whole(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} is {value!r}; expected a whole number of at least 1")

    def _check_above(self, name: str, bound: float, included: bool = False) -> None:
        value = getattr(self, name)
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not (value > bound or (included and value == bound)):
            words = "of at least" if included else "above"
            raise InputError(f"{name} is {value!r}; expected a number {words} {bound:g}")

    def _check_schedule(self, name: str) -> None:
        schedule = getattr(self, name)
        if not isinstance(schedule, Schedule):
            raise InputError(
                f"{name} is {schedule!r}; expected a schedule such as Constant({schedule!r}), on "
                f"the command line trainer.{name}.value={schedule}"
            )
        may_be_zero = name.startswith("kl_")
        for value in (schedule(0, 100), schedule(100, 100)):
            if not math.isfinite(value) or value < 0 or (value == 0 and not may_be_zero):
                bound = "at least 0" if may_be_zero else "above 0"
                raise InputError(f"{name} reaches {value}; expected values {bound}")


@dataclass(frozen=True)
class DecidedSettings(TrainingSettings):
    """Settings of which nothing is left open; defaults are for weights that gradients learn."""

    epochs: int = EPOCHS
    learning_rate: Schedule = field(default_factory=lambda: Constant(0.003))
    kl_representations: Schedule = field(default_factory=lambda: Constant(0.003))


class TrainingModule(lightning.LightningModule):
    """Trains a model by SVI.

    :param vmtl: the model.
    :param batches: training batches.
    :param settings: how to train.
    :param validation: labelled samples to look at after each epoch, or None.
    :param on_epoch: called with the history so far after each epoch.
    """

    def __init__(
        self,
        vmtl: VMTL,
        batches: TaskBatches,
        settings: TrainingSettings,
        validation: TaskSet | None = None,
        on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
    ) -> None:
        super().__init__()
        estimators = {"analytic": TraceMeanField_ELBO, "sampled": Trace_ELBO}
        estimator = estimators[settings.estimator](
            num_particles=settings.num_particles,
            vectorize_particles=settings.num_particles > 1,
            max_plate_nesting=2,
        )
        # Programs are bound methods, in which ELBOModule sees no parameters: hand it the module.
        self.elbo = ELBOModule(vmtl.model, vmtl.guide, estimator)  # type: ignore[arg-type]
        self.elbo.vmtl = vmtl
        self.settings = settings = settings.beside(vmtl)
        self.batches = batches
        self.history: list[dict[str, float]] = []
        self.origin: dict[str, str] | None = None  # of data and model; a checkpoint says it too
        self.uncertainty: UncertaintyWeighting | None = None
        self._weighting: GradientWeighting | LossWeighting | None = None
        if vmtl.num_tasks > 1:  # there is something to weigh
            self._add_task_weighting(vmtl, settings.task_weighting)
        self._validation = validation
        self._on_epoch = on_epoch
        self._num_labelled = float(batches.tasks.sizes.sum())
        self._mean_size = self._num_labelled / vmtl.num_tasks
        self._epoch_loss = torch.zeros(())
        self._last_batch: Batch | None = None
        self._held_out: Batch | None = None
        self._started_at = time.perf_counter()
        self._random_state: Tensor | None = None
        self._random_state_of_device: Tensor | None = None

    def _add_task_weighting(self, vmtl: VMTL, name: TaskWeighting | None) -> None:
        if name == "uncertainty":
            # A Gaussian likelihood has a learned variance for each task already.
            if vmtl.likelihood.num_classes:
                self.uncertainty = UncertaintyWeighting(vmtl.num_tasks)
        elif name is not None:
            sizes = self.batches.tasks.sizes
            if self.settings.loss == "task_means":
                sizes = torch.ones_like(sizes)
            self._weighting = (
                GradientWeighting(cast("Aggregator", name), vmtl.num_tasks)
                if name in get_args(Aggregator)
                else loss_weighting(cast("LossRule", name), sizes, vmtl)
            )
            self.automatic_optimization = False

    @property
    def vmtl(self) -> VMTL:
        """The model in training."""
        model: VMTL = self.elbo.vmtl  # type: ignore[assignment]
        return model

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run, for the schedules."""
        return self.settings.epochs * len(self.batches)

    def configure_optimizers(self) -> Any:
        scales = self.vmtl.scale_parameters()
        conjugate = self.vmtl.classifier.is_conjugate
        relatedness = list(self.vmtl.borrowing.parameters()) if conjugate else []
        theirs = {id(parameter) for parameter in (*scales, *relatedness)}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in theirs]
        groups: list[dict[str, Any]] = [{"params": rest, "lr": 1.0}]
        if relatedness:
            groups.append({"params": relatedness, "lr": _RELATEDNESS_RATE})
        if scales:
            # Gradients of scales fall by orders of magnitude, and Adam divides by what it remembers
            # of them: what learns faster has to forget faster.
            rate = self.settings.scale_rate
            forgetful = (0.9, max(0.9, 1 - 0.001 * rate))  # (0.9, 0.999), Adam's own, at rate 1
            groups.append({"params": scales, "lr": rate, "betas": forgetful})
        optimizer = torch.optim.Adam(groups, weight_decay=self.settings.weight_decay)
        schedule = self.settings.learning_rate
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: schedule(step, self.total_steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_fit_start(self) -> None:
        if self._weighting is not None and self.trainer.world_size > 1:
            raise InputError(
                f"task_weighting is {self.settings.task_weighting!r} and training runs in "
                f"{self.trainer.world_size} processes; expected one, which sees every gradient"
            )

    def on_train_start(self) -> None:
        for stopping in self.trainer.early_stopping_callbacks:
            # A resumed run whose patience is out has ended.
            if isinstance(stopping, EarlyStopping) and stopping.wait_count >= stopping.patience:
                self.trainer.should_stop = True
        if self._random_state is not None:  # a resumed run goes on with the noise it would have had
            torch.set_rng_state(self._random_state)
            if self._random_state_of_device is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(self._random_state_of_device, self.device)
            self._random_state = None

    def on_train_epoch_start(self) -> None:
        if self.global_rank > 0:  # the first process draws what it would draw by itself
            torch.manual_seed(noise_seed(self.batches.seed, self.global_rank, self.current_epoch))
        self._epoch_loss = torch.zeros((), device=self.device)
        self._started_at = time.perf_counter()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        step, total, settings = self.global_step, self.total_steps, self.settings
        self.vmtl.set_temperature(settings.temperature(step, total))
        # Of a mean over a task's samples, a KL that is paid once is a larger share than of their
        # sum, of which a KL weight is told.
        factor = self._mean_size if settings.loss == "task_means" else 1.0
        of_representations = factor if self.vmtl.encoder.layer() is not None else 1.0
        conjugate = self.vmtl.classifier.is_conjugate  # it knows Bayes' rule alone
        self.vmtl.tempering.update(
            weights=1.0 if conjugate else settings.kl_weights(step, total) * factor,
            representations=settings.kl_representations(step, total) * of_representations,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self._scaled_losses(batch)
        loss = losses.sum()
        if self._weighting is not None:
            self._step(self._weighting, losses)
            if self._weighting.looks_back:
                self._weighting.look_back(self._scaled_losses(batch))
            loss = loss.detach()
        self._epoch_loss = self._epoch_loss + loss.detach()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        try:
            self.vmtl.update(batch, held_out=self.held_out)
        except (RuntimeError, ValueError):  # numbers that are not finite have no closed form
            self._finite_parts(batch, num_particles=1)
            raise
        self._last_batch = batch

    @property
    def held_out(self) -> Batch | None:
        """The validation samples that :meth:`VMTL.update` hears, some thousand at most."""
        if self._held_out is None and self._validation is not None:
            rows = self._validation.labelled.nonzero().squeeze(1)
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
            some = self._validation.subset(rows[order.to(rows.device)[:_MOST_HELD_OUT]])
            self._held_out = some.dense().to(self.vmtl.device)
        return self._held_out

    def _finite_parts(self, batch: Batch, num_particles: int) -> ELBOParts:
        parts = elbo_parts(self.vmtl, batch, num_particles)
        if not math.isfinite(parts.elbo):
            raise InputError(
                f"the ELBO is {parts.elbo} in epoch {self.current_epoch}; expected a finite one: "
                "lower the learning rate or clip gradients (gradient_clip)"
            )
        return parts

    def _of_equal_tasks(self, batch: Batch) -> Batch:
        """The batch with every task counting alike, as one of mean size."""
        count = batch.mask.sum(1, keepdim=True).clamp_min(1)
        scale = (self._mean_size / count).to(batch.scale.dtype).expand_as(batch.scale)
        return dataclasses.replace(batch, scale=scale)

    def _scaled_losses(self, batch: Batch) -> Tensor:
        if self.settings.loss == "task_means":
            return self._losses(self._of_equal_tasks(batch)) / self._mean_size
        return self._losses(batch) / self._num_labelled

    def _losses(self, batch: Batch) -> Tensor:
        """Minus the tempered ELBO; of each task, ``[T]``, to weigh tasks."""
        if self._weighting is not None:
            return task_losses(self.vmtl, batch, self.settings.num_particles).double()
        cost: Tensor | float = 0.0
        if self.uncertainty is not None:
            batch, cost = self.uncertainty(batch)
        loss: Tensor = self.elbo(batch) + cost
        return loss

    def _step(self, weighting: GradientWeighting | LossWeighting, losses: Tensor) -> None:
        """What the trainer does where it optimises by itself."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        weighting.backward(losses, self.vmtl)
        if self.settings.gradient_clip is not None:
            self.clip_gradients(optimizer, self.settings.gradient_clip, "norm")
        optimizer.step()
        scheduler: Any = self.lr_schedulers()
        scheduler.step()

    def on_train_epoch_end(self) -> None:
        assert self._last_batch is not None
        if not bool(torch.isfinite(self._epoch_loss)):
            raise InputError(
                f"the loss is {float(self._epoch_loss)} in epoch {self.current_epoch}; expected a "
                "finite one: lower the learning rate or clip gradients (gradient_clip)"
            )
        row: dict[str, float] = {"epoch": self.current_epoch, "step": self.global_step}
        row["loss"] = float(self._epoch_loss) / len(self.batches)
        # The last step of an epoch has no later loss.
        parts = self._finite_parts(self._last_batch, num_particles=4)
        row |= {"elbo": parts.elbo, **vars(parts)}
        settings = self.settings
        row["temperature"] = settings.temperature(self.global_step, self.total_steps)
        row |= {f"kl_weight_of_{site}": self.vmtl.tempering[site] for site in SITES}
        row |= diagnose(self.vmtl, self._last_batch)
        weighting = self.uncertainty or self._weighting
        if weighting is not None:
            names, weights = self.batches.tasks.names, weighting.weights().tolist()
            row |= {f"task_weight_{name}": w for name, w in zip(names, weights, strict=True)}
        if self._validation is not None:
            scores = predict(self.vmtl, self._validation, settings.validation_samples).metrics()
            row |= {f"validation_{k}": v for k, v in scores["mean"].items() if v is not None}
        shown = {"elbo", "validation_nll"}  # in the progress bar
        for name, value in row.items():
            if name not in ("epoch", "step"):
                self.log(name, value, prog_bar=name in shown)
        row["seconds"] = time.perf_counter() - self._started_at
        self.history.append(row)
        if self._on_epoch is not None and self.trainer.is_global_zero:
            self._on_epoch(self.history)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["origin"] = self.origin
        checkpoint["tempering"] = dict(self.vmtl.tempering)
        checkpoint["random_state"] = torch.get_rng_state()
        if self.device.type == "cuda":
            checkpoint["random_state_of_device"] = torch.cuda.get_rng_state(self.device)
        checkpoint["gradient_weighting"] = self._gradient_weighting

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # The trainer counts the steps of one kind of optimisation: schedules would start anew.
        saved = checkpoint.get("gradient_weighting", self._gradient_weighting)
        if (saved is None) != (self._gradient_weighting is None):
            raise InputError(
                f"task_weighting is {self.settings.task_weighting!r}, and the checkpoint comes "
                f"from training with {saved!r}; expected gradients to be weighed in both or in "
                "neither"
            )
        self.history = list(checkpoint["history"])
        self.vmtl.tempering.update(checkpoint["tempering"])  # no step may be left to set it
        self._random_state = checkpoint["random_state"]
        self._random_state_of_device = checkpoint.get("random_state_of_device")
        self._keep_settings(checkpoint)

    @property
    def _gradient_weighting(self) -> str | None:
        return None if self._weighting is None else self.settings.task_weighting

    def _keep_settings(self, checkpoint: dict[str, Any]) -> None:
        """Put the settings of this run in the place of those of the run that is resumed.

        Beside what was learned, the states of optimiser, scheduler and early stopping hold learning
        rates, weight decay and patience; all else is asked of the settings at every step.
        """
        groups = self.configure_optimizers()["optimizer"].state_dict()["param_groups"]
        for group in groups:
            rate = self.settings.learning_rate(checkpoint["global_step"], self.total_steps)
            group["lr"] = rate * group["initial_lr"]
        for state in checkpoint["optimizer_states"]:
            state["param_groups"] = groups
        for state in checkpoint["lr_schedulers"]:
            state["base_lrs"] = [group["initial_lr"] for group in groups]
        if self._trainer is not None:  # a module can be loaded without one
            for callback in self.trainer.early_stopping_callbacks:
                stopping = checkpoint.get("callbacks", {}).get(callback.state_key, {})
                stopping["patience"] = callback.patience
