"""SVI as a Lightning module: the ELBO of every program, schedules, a row of history an epoch."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBOModule
from torch import Tensor

from pyro_vmtl.data import Batch, TaskBatches, TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.diagnostics import diagnose
from pyro_vmtl.inference.elbo import elbo_parts
from pyro_vmtl.inference.predict import predict
from pyro_vmtl.inference.schedules import Constant, Decay, Schedule
from pyro_vmtl.model import SITES, VMTL

__all__ = ["TrainingModule", "TrainingSettings"]


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    The defaults were chosen on the validation data of the built-in digits, for learned encoders:
    a tempered posterior. Without an encoder (``Identity``), set the KL weights to 1, Bayes' rule.

    :ivar epochs: at most so many.
    :ivar steps_per_epoch: optimiser steps between two looks at the validation data; None, as many
        as it takes to see the largest task once.
    :ivar batch_size: samples per task and step; None, all.
    :ivar per_class: samples per task, class and step: class-balanced batches.
    :ivar learning_rate: of Adam, as a schedule.
    :ivar weight_decay: of Adam (added to the gradient, as the paper does).
    :ivar gradient_clip: largest norm of the gradient; None, no clipping.
    :ivar num_particles: draws of the latent variables per step.
    :ivar estimator: ``"analytic"`` takes the analytic KLs (for a mixture the pool's bound),
        ``"sampled"`` the exact densities at the draws.
    :ivar temperature: of the relaxed relatedness.
    :ivar kl_weights: KL weight of ``weights`` and their relatedness; 1 is Bayes' rule.
    :ivar kl_representations: the same for ``representations``.
    :ivar patience: epochs without a better validation density after which training stops; None,
        never.
    :ivar validation_samples: posterior draws for a look at the validation data.
    """

    epochs: int = 40
    steps_per_epoch: int | None = 50
    batch_size: int | None = None
    per_class: int | None = None
    learning_rate: Schedule = field(default_factory=lambda: Constant(0.003))
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    num_particles: int = 1
    estimator: Literal["analytic", "sampled"] = "analytic"
    temperature: Schedule = field(default_factory=lambda: Decay(1.0, 0.5))
    kl_weights: Schedule = field(default_factory=lambda: Constant(0.03))
    kl_representations: Schedule = field(default_factory=lambda: Constant(0.003))
    patience: int | None = 10
    validation_samples: int = 50

    def __post_init__(self) -> None:
        for name in ("epochs", "num_particles", "validation_samples"):
            self._check_whole(name)
        for name in ("steps_per_epoch", "batch_size", "per_class", "patience"):
            if getattr(self, name) is not None:
                self._check_whole(name)
        for name in ("learning_rate", "temperature", "kl_weights", "kl_representations"):
            self._check_schedule(name)
        if self.estimator not in ("analytic", "sampled"):
            raise InputError(f"estimator is {self.estimator!r}; expected 'analytic' or 'sampled'")

    def _check_whole(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} is {value!r}; expected a whole number of at least 1")

    def _check_schedule(self, name: str) -> None:
        schedule = getattr(self, name)
        if not isinstance(schedule, Schedule):
            raise InputError(
                f"{name} is {schedule!r}; expected a schedule such as Constant({schedule!r})"
            )
        may_be_zero = name.startswith("kl_")
        for value in (schedule(0, 100), schedule(100, 100)):
            if value < 0 or (value == 0 and not may_be_zero):
                bound = "at least 0" if may_be_zero else "above 0"
                raise InputError(f"{name} reaches {value}; expected values {bound}")


class TrainingModule(lightning.LightningModule):
    """Trains a model, and what its lenders train beside it, by SVI.

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
        estimator = estimators[settings.estimator](num_particles=settings.num_particles)
        # Programs are bound methods, in which ELBOModule sees no parameters: hand it the module.
        self.elbo, *others = (
            ELBOModule(program.model, program.guide, estimator)  # type: ignore[arg-type]
            for program in vmtl.programs()
        )
        self.elbo.vmtl = vmtl
        # Their parameters are in the model already, so they are not registered a second time.
        self._others = tuple(others)
        self.settings = settings
        self.batches = batches
        self.history: list[dict[str, float]] = []
        self._validation = validation
        self._on_epoch = on_epoch
        self._num_labelled = float(batches.tasks.sizes.sum())
        self._epoch_loss = torch.zeros(())
        self._last_batch: Batch | None = None
        self._started_at = time.perf_counter()
        self._random_state: Tensor | None = None

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
        optimizer = torch.optim.Adam(
            self.parameters(), lr=1.0, weight_decay=self.settings.weight_decay
        )
        schedule = self.settings.learning_rate
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: schedule(step, self.total_steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_start(self) -> None:
        if self._random_state is not None:  # a resumed run goes on with the noise it would have had
            torch.set_rng_state(self._random_state)
            self._random_state = None

    def on_train_epoch_start(self) -> None:
        self._epoch_loss = torch.zeros((), device=self.device)
        self._started_at = time.perf_counter()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        step, total, settings = self.global_step, self.total_steps, self.settings
        self.vmtl.set_temperature(settings.temperature(step, total))
        for site, schedule in zip(
            SITES, (settings.kl_weights, settings.kl_representations), strict=True
        ):
            self.vmtl.tempering[site] = schedule(step, total)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss: Tensor = self.elbo(batch)
        for other in self._others:
            loss = loss + other(batch)
        loss = loss / self._num_labelled
        self._epoch_loss = self._epoch_loss + loss.detach()
        self._last_batch = batch
        return loss

    def on_train_epoch_end(self) -> None:
        assert self._last_batch is not None
        if not bool(torch.isfinite(self._epoch_loss)):
            raise InputError(
                f"the loss is {float(self._epoch_loss)} in epoch {self.current_epoch}; expected a "
                "finite one: lower the learning rate or clip gradients (gradient_clip)"
            )
        row: dict[str, float] = {"epoch": self.current_epoch, "step": self.global_step}
        row["loss"] = float(self._epoch_loss) / len(self.batches)
        parts = elbo_parts(self.vmtl, self._last_batch, num_particles=4)
        row |= {"elbo": parts.elbo, **vars(parts)}
        settings = self.settings
        row["temperature"] = settings.temperature(self.global_step, self.total_steps)
        row |= {f"kl_weight_of_{site}": self.vmtl.tempering[site] for site in SITES}
        row |= diagnose(self.vmtl, self._last_batch)
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
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint["history"])
        self._random_state = checkpoint["random_state"]
