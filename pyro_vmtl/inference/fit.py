"""Fit a model to a task set: from data to a fitted model in one call."""

import contextlib
import inspect
import logging
import math
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import pyro
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    ProgressBar,
    RichProgressBar,
)
from lightning.pytorch.loggers import Logger

from pyro_vmtl.data import Batch, TableColumns, TaskBatches, TaskSet, attention_views
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.checkpoints import (
    WholeCheckpoints,
    check_checkpoint,
    origin,
    restore_best,
)
from pyro_vmtl.inference.choosing import alternative, are_binary, left_out_score, mean_difference
from pyro_vmtl.inference.diagnostics import diagnose, explain
from pyro_vmtl.inference.elbo import elbo_parts
from pyro_vmtl.inference.joining import add_tasks, forget_rows, forget_task
from pyro_vmtl.inference.noise import all_noise
from pyro_vmtl.inference.predict import Predictions, predict
from pyro_vmtl.inference.processes import in_parallel
from pyro_vmtl.inference.training import TrainingModule, TrainingSettings
from pyro_vmtl.model import (
    SITES,
    VMTL,
    Bernoulli,
    NegativeBinomial,
    Settings,
    assemble,
)
from pyro_vmtl.model.closed_form import conjugate_weights, nested_weights

__all__ = ["FittedVMTL", "build", "fit", "lacking_a_class"]

# The options of lightning.Trainer, and those that are not the user's to set.
_TRAINER = set(inspect.signature(lightning.Trainer).parameters)
_SET_BY_FIT = {
    *("accelerator", "max_epochs", "gradient_clip_val", "logger", "callbacks"),
    *("enable_progress_bar", "enable_model_summary", "model_registry"),
}
_UPDATES = 18  # conjugate steps before the last look

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FittedVMTL:
    """A trained model with the names its users gave.

    :ivar vmtl: the model, in evaluation mode.
    :ivar settings: its structure.
    :ivar names: of the T tasks.
    :ivar classes: of the classes, or None in a regression.
    :ivar outputs: of the regression outputs, or None.
    :ivar input_shape: of one sample.
    :ivar history: a row an epoch: ELBO and its parts, schedules, diagnostics, validation metrics.
    :ivar warnings: what a reader should know before trusting it, in sentences.
    :ivar columns: of the table that it was trained on, or None; see :func:`pyro_vmtl.read_rows`.
    :ivar notes: what was decided by the data, and why, in sentences.
    """

    vmtl: VMTL
    settings: Settings
    names: tuple[str, ...]
    classes: tuple[str, ...] | None
    outputs: tuple[str, ...] | None
    input_shape: tuple[int, ...]
    history: pd.DataFrame
    warnings: tuple[str, ...] = ()
    columns: TableColumns | None = None
    notes: tuple[str, ...] = ()

    def predict(
        self,
        tasks: TaskSet,
        num_samples: int = 200,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> Predictions:
        """Posterior-predictive distributions; see :func:`pyro_vmtl.predict`."""
        _check_kind("what to predict", tasks, TaskSet)
        if tasks.names != self.names:
            raise InputError(
                f"the task set has the tasks {list(tasks.names)}; the model was trained on "
                f"{list(self.names)}"
            )
        self._check_samples(tasks)
        return predict(self.vmtl, tasks, num_samples, batch_size, seed)

    def add_task(self, tasks: TaskSet, seed: int = 0) -> "FittedVMTL":
        """A model that knows further tasks as well, without a new fit; this one stays as it is.

        For the pool :class:`pyro_vmtl.Nested`. In every draw of partition and scales that the fit
        kept, a new task is dealt to one of the clusters or to one of its own, by the prior of
        partitions and by what its rows say; in a regression its noise is drawn likewise. A task
        without a labelled row is predicted as one that is drawn from the same population.

        What the fit has settled stays: the encoder, the unit of the targets, scales, and who of
        the other tasks are together. Where new tasks are many, or unlike all others, fit anew.

        Example::

            rows = pv.TaskSet.from_arrays({"west": (x, y)}, classes=fitted.classes)
            fitted = fitted.add_task(rows)

        Rows of the table that the model was trained on are read for a new task by ``read_rows(rows,
        like=dataclasses.replace(fitted, names=("west",)))``.

        :param tasks: the new tasks alone, with the classes or outputs of this model.
        :param seed: of the draws; where tasks are many, they join one after the other.
        :return: the model of all tasks, the new ones last.
        :raises InputError: for tasks that do not fit the model, or a model that no task can join.
        """
        _check_kind("the set of new tasks", tasks, TaskSet)
        known = [name for name in tasks.names if name in self.names]
        if known:
            raise InputError(
                f"the model knows the task {known[0]!r} already; expected new tasks alone"
            )
        self._check_samples(tasks)
        if tasks.outputs != self.outputs:
            raise InputError(
                f"the outputs are {tasks.outputs}; the model was trained on {self.outputs}"
            )
        if tasks.columns not in (None, self.columns):
            raise InputError(
                "the new tasks were read from other columns than those that the model was trained "
                "on, or standardised otherwise; expected tasks of read_rows(..., like=...)"
            )
        sizes = tasks.sizes.tolist()
        sentences = [
            f"The task {name!r} has no labelled sample: it is predicted as a task of which nothing "
            "is known but that it is drawn from the same population as the others."
            for name, size in zip(tasks.names, sizes, strict=True)
            if not size
        ]
        seen = [name for name, size in zip(tasks.names, sizes, strict=True) if size]
        sentences += lacking_a_class(tasks.select(seen)) if seen else []
        return replace(
            self,
            vmtl=add_tasks(self.vmtl, self.settings, tasks, seed),
            names=self.names + tasks.names,
            warnings=(*self.warnings, *sentences),
        )

    def forget(
        self, what: str | TaskSet, rest: TaskSet | None = None, seed: int = 0
    ) -> "FittedVMTL":
        """A model without one of the tasks, or some rows, and without a new fit.

        For the pool :class:`pyro_vmtl.Nested`; this model stays as it is. What the rows said of
        weights is taken out, and the posterior is computed again. What they have settled before
        stays: the encoder, the unit of the targets, scales, and which tasks are together; where
        the likelihood is not Gaussian, also what the other rows were taken to say beside them. With
        the ``rest`` of the rows, partition, scales and what each row says are inferred anew, from
        where they stand; then the encoder and the unit of the targets alone have seen what is
        forgotten.

        Example::

            fitted = fitted.forget("west")
            fitted = fitted.forget(tasks.subset([3, 17]))  # of the tasks that were fitted

        :param what: the name of a task, or rows of training, as they were read for it.
        :param rest: all rows that stay, as they were read for training.
        :param seed: of the noise with ``rest``.
        :raises InputError: for a task that the model does not know, the only one, rows that were
            not among its own, or a model that nothing can leave.
        """
        if isinstance(what, TaskSet):
            if what.names != self.names:
                raise InputError(
                    f"the rows have the tasks {list(what.names)}; the model was trained on "
                    f"{list(self.names)}"
                )
            self._check_samples(what)
            vmtl = forget_rows(self.vmtl, self.settings, what)
            return _settled(replace(self, vmtl=vmtl), rest, seed)
        if what not in self.names:
            raise InputError(f"there is no task {what!r}; expected one of {list(self.names)}")
        vmtl, settings = forget_task(
            self.vmtl, self.settings, self.input_shape, self.names.index(what)
        )
        left = replace(
            self,
            vmtl=vmtl,
            settings=settings,
            names=tuple(name for name in self.names if name != what),
            warnings=tuple(told for told in self.warnings if repr(what) not in told),
        )
        return _settled(left, rest, seed)

    def _check_samples(self, tasks: TaskSet) -> None:
        if tasks.input_shape != self.input_shape:
            raise InputError(
                f"a sample has shape {list(tasks.input_shape)}; the model was trained on "
                f"{list(self.input_shape)}"
            )
        if tasks.classes != self.classes:
            raise InputError(
                f"the classes are {tasks.classes}; the model was trained on {self.classes}"
            )


def _settled(fitted: FittedVMTL, rest: TaskSet | None, seed: int) -> FittedVMTL:
    """The very model, its updates run again on all its rows where these are given."""
    if rest is None:
        return fitted
    _check_kind("the rest of the rows", rest, TaskSet)
    if rest.names != fitted.names:
        raise InputError(
            f"the rest of the rows has the tasks {list(rest.names)}; expected those that stay, "
            f"{list(fitted.names)}"
        )
    rest.check_training()
    with all_noise(seed):
        batch = rest.dense().to(fitted.vmtl.device)
        _update(fitted.vmtl, rest, batch, None, TrainingSettings())
    return fitted


def build(tasks: TaskSet, settings: Settings | None = None, **choices: Any) -> VMTL:
    """A new model for a task set; its start is drawn from torch's generator, as modules do.

    Example::

        vmtl = build(tasks, encoder=MLP(latent_dim=32), pool=Mixture())

    :param tasks: gives the numbers of tasks and classes or outputs, and the input shape.
    :param settings: all choices at once; or
    :param choices: the fields of :class:`pyro_vmtl.Settings`, by name.
    """
    if settings is None:
        settings = Settings(**choices)
    elif choices:
        raise InputError(
            f"build was given settings and also {sorted(choices)}; expected one or the other"
        )
    settings, _ = _decided(settings, tasks)
    vmtl = assemble(
        settings,
        tasks.num_tasks,
        tasks.num_outputs,
        tasks.input_shape,
        tasks.is_classification,
    )
    encoder, likelihood = vmtl.encoder, vmtl.likelihood
    encoder.learn_from(tasks.x, centre=settings.bias)
    likelihood.check(tasks)
    likelihood.learn_from(tasks.y[tasks.labelled], centre=settings.bias)
    encoder.learn_targets(tasks, likelihood)
    return vmtl


def _decided(settings: Settings, tasks: TaskSet) -> tuple[Settings, tuple[str, ...]]:
    """The settings with what was left open decided, and what to say of it."""
    notes: tuple[str, ...] = ()
    if settings.likelihood is None and are_binary(tasks):
        settings = replace(settings, likelihood=Bernoulli())
        notes = (
            f"The likelihood is Bernoulli: all {tasks.num_outputs} outputs are 0 or 1 "
            "(likelihood=... decides).",
        )
    return _for_data(settings, tasks), notes


def _for_data(settings: Settings, tasks: TaskSet) -> Settings:
    named = tasks.columns is not None
    return settings.for_data(tasks.input_shape, named, tasks.is_classification)


def fit(
    tasks: TaskSet,
    validation: TaskSet | None = None,
    settings: Settings | None = None,
    training: TrainingSettings | None = None,
    *,
    vmtl: VMTL | None = None,
    seed: int = 0,
    accelerator: str = "auto",
    checkpoints: Path | None = None,
    resume: Path | None = None,
    loggers: Iterable[Logger] = (),
    callbacks: Iterable[Callback] = (),
    on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
    progress_bar: bool = False,
    validate: bool = False,
    log_warnings: bool = True,
    **trainer_options: Any,
) -> FittedVMTL:
    """Train on all tasks together and keep the epoch that predicts validation data best.

    :param tasks: training samples; each task needs one, and each class one in some task.
    :param validation: labelled samples of the same tasks, by whose predictive density the epoch is
        chosen and training stopped; without them the last epoch is kept.
    :param settings: the model's structure.
    :param training: how to train it.
    :param vmtl: a model to train in place of a new one (``settings`` must describe it).
    :param seed: on the CPU the same seed gives the same fit; the generators of torch, NumPy and
        Python are left as they were.
    :param accelerator: ``"auto"`` (CUDA where there is one, else CPU), ``"cpu"``, ``"cuda"``.
    :param checkpoints: a folder for Lightning checkpoints; None keeps none.
    :param resume: a checkpoint to go on from, of the same data, settings and seed.
    :param loggers: Lightning loggers.
    :param callbacks: further Lightning callbacks.
    :param on_epoch: called with the history after each epoch.
    :param progress_bar: whether to show one.
    :param validate: whether Pyro checks every distribution and shape, at the cost of speed.
    :param log_warnings: whether what to know before trusting the fit is logged; it is in
        ``FittedVMTL.warnings`` either way.
    :param trainer_options: go to ``lightning.Trainer``.
    :return: the fitted model, on the CPU wherever it was trained; ``fitted.vmtl.to("cuda")`` takes
        it, and all predictions from it, to another device.
    """
    settings = Settings() if settings is None else settings
    training = TrainingSettings() if training is None else training
    _check_kind("the training data", tasks, TaskSet)
    if validation is not None:
        _check_kind("the validation data", validation, TaskSet)
    _check_kind("settings", settings, Settings)
    _check_kind("training", training, TrainingSettings)
    _check_options(trainer_options)
    tasks.check_training()
    notes: tuple[str, ...] = ()
    if vmtl is None:
        settings, notes = _decided(settings, tasks)
    settings = _for_data(settings, tasks)
    _check_validation(tasks, validation)
    if validation is not None and not bool(validation.labelled.any()):
        validation = None
    with all_noise(seed), ExitStack() as stack:
        is_new = vmtl is None
        if vmtl is None:
            vmtl = build(tasks, settings)
        if vmtl.classifier.is_conjugate and training.kl_weights != TrainingSettings().kl_weights:
            notes += (
                f"kl_weights={training.kl_weights} has no effect: weights in closed form know "
                "Bayes' rule alone (classifier='mean_field' is tempered).",
            )
        for given in (tasks, validation):
            if given is not None:
                vmtl.likelihood.check(given)
        # The trainer leaves modes as they are, and fits end in evaluation mode.
        if not vmtl.training:
            vmtl.train()
        batches = TaskBatches(
            tasks,
            batch_size=training.batch_size,
            per_class=training.per_class if tasks.is_classification else None,
            steps_per_epoch=training.steps_per_epoch,
            seed=seed,
            views=attention_views(tasks) if vmtl.needs_views else None,
        )
        module = TrainingModule(vmtl, batches, training, validation, on_epoch)
        module.origin = origin(tasks, validation, settings, seed)
        if checkpoints is None:
            checkpoints = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keep, monitoring = _monitoring(checkpoints, validation is not None, training.patience)
        further = list(callbacks)
        if progress_bar and not any(isinstance(callback, ProgressBar) for callback in further):
            further.append(_Progress())
        stack.enter_context(_quiet())
        # Pyro's checks of every distribution cost a third of a step; tests switch them on.
        stack.enter_context(pyro.validation_enabled(validate))
        options = {"devices": 1, "log_every_n_steps": 1, **trainer_options}
        options["plugins"] = [WholeCheckpoints(), *_listed(options.get("plugins"))]
        if in_parallel(options):
            # A KL weight of 0 takes a term out of the loss, and parameters of a prior with it.
            options.setdefault("strategy", "ddp_find_unused_parameters_true")
        try:
            trainer = lightning.Trainer(
                accelerator=_accelerator(accelerator),
                max_epochs=module.settings.epochs,
                # Where the module optimises by itself it clips by itself, and the trainer would
                # refuse.
                gradient_clip_val=training.gradient_clip if module.automatic_optimization else None,
                logger=list(loggers) or False,
                callbacks=[*monitoring, *further],
                enable_progress_bar=progress_bar,
                enable_model_summary=False,
                **options,
            )
        except Exception as error:  # it has one of its own, and raises many others
            raise InputError(
                f"the trainer refuses its options {trainer_options} ({str(error).splitlines()[0]})"
            ) from error
        if not any(parameter.requires_grad for parameter in vmtl.parameters()):
            return _without_gradients(
                vmtl,
                tasks,
                validation,
                settings,
                training,
                accelerator=accelerator,
                resume=resume,
                on_epoch=on_epoch,
                log_warnings=log_warnings,
                seed=seed,
                notes=notes,
                choose=is_new and settings.likelihood is None and vmtl.classifier.shares_weights,
            )
        _run(trainer, module, batches, resume)
        if validation is not None:
            restore_best(keep, resume)
            best = torch.load(keep.best_model_path, map_location="cpu", weights_only=True)
            module.load_state_dict(best["state_dict"])
        # What training tempers is part of what was fitted; the model is left as at its last step.
        batch = tasks.dense().to(vmtl.device)
        if vmtl.classifier.is_conjugate:  # before dropout is off: sites average over its noise
            held_out = module.held_out
            vmtl.update(batch, True, None if held_out is None else held_out.to(vmtl.device))
        vmtl.eval()
        said = _kept_early(module) + ([] if validation is not None else _unchecked(vmtl))
        return _fitted(vmtl, tasks, settings, module.history, batch, said, log_warnings, notes)


def _without_gradients(
    vmtl: VMTL,
    tasks: TaskSet,
    validation: TaskSet | None,
    settings: Settings,
    training: TrainingSettings,
    accelerator: str,
    resume: Path | None,
    on_epoch: Callable[[list[dict[str, float]]], None] | None,
    log_warnings: bool,
    seed: int,
    notes: tuple[str, ...],
    choose: bool,
) -> FittedVMTL:
    """A fit in which nothing takes a gradient: updates alone, all data at once, no optimiser.

    :param choose: whether the likelihood was left open, so that the data choose it.
    """
    if resume is not None:
        raise InputError(
            f"resume is {str(resume)!r}, and nothing in this model takes a gradient: it is fitted "
            "in seconds and leaves no checkpoints; expected none"
        )
    device = torch.device(_accelerator(accelerator))
    batch = tasks.dense().to(device)
    vmtl = vmtl.to(device)
    history = _update(vmtl, tasks, batch, validation, training, on_epoch)
    vmtl, on_cpu = vmtl.cpu(), tasks.dense()
    choice = alternative(vmtl, tasks) if choose else None
    if choice is None:
        return _fitted(vmtl, tasks, settings, history, on_cpu, [], log_warnings, notes)
    likelihood, why = choice
    usual = settings.likelihood_of(tasks.is_classification)
    settings = replace(settings, likelihood=usual)
    other_settings = replace(settings, likelihood=likelihood)
    with all_noise(seed):  # as if it had been asked for
        other = build(tasks, other_settings).to(device)
        other_history = _update(other, tasks, batch, validation, training)
        other = other.cpu()
    whole = isinstance(likelihood, NegativeBinomial)
    scores = (left_out_score(model, tasks, whole) for model in (other, vmtl))
    gain, se = mean_difference(*scores)
    # Whole numbers are counts unless the rows say clearly that they are not.
    taken = gain > (-2 * se if whole else 0)
    name, default = type(likelihood).__name__, type(usual).__name__
    way = "higher" if gain > 0 else "lower"
    note = (
        f"The likelihood is {name if taken else default}: {why}, and a row that is left out has a "
        f"log density {way} by {abs(gain):.3f} ± {se:.3f} with {name} than with {default} "
        "(likelihood=... decides)."
    )
    if taken:
        vmtl, settings, history = other, other_settings, other_history
        if on_epoch is not None:
            on_epoch(history)
    return _fitted(vmtl, tasks, settings, history, on_cpu, [], log_warnings, (note,))


def _update(
    vmtl: VMTL,
    tasks: TaskSet,
    batch: Batch,
    validation: TaskSet | None,
    training: TrainingSettings,
    on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
) -> list[dict[str, float]]:
    """Conjugate steps until sites have settled, and what came of each."""
    # Of an encoder that has learned sites average over the noise, as when training ends.
    vmtl.train(conjugate_weights(vmtl).learns)
    count = 1 if vmtl.likelihood.sites_are_exact else _UPDATES
    history: list[dict[str, float]] = []
    for step in range(count + 1):
        started = time.perf_counter()
        vmtl.update(batch, last=step == count)
        row: dict[str, float] = {"epoch": step, "step": step + 1}
        parts = elbo_parts(vmtl, batch, num_particles=1)
        row |= {"loss": -parts.elbo / max(1, int(tasks.labelled.sum()))}
        row |= {"elbo": parts.elbo, **vars(parts), "temperature": 1.0}
        row |= {f"kl_weight_of_{site}": 1.0 for site in SITES}
        row |= diagnose(vmtl, batch)
        if validation is not None:
            scores = predict(vmtl, validation, training.validation_samples).metrics()
            row |= {f"validation_{k}": v for k, v in scores["mean"].items() if v is not None}
        row["seconds"] = time.perf_counter() - started
        history.append(row)
        if on_epoch is not None:
            on_epoch(history)
    vmtl.eval()
    return history


def _fitted(
    vmtl: VMTL,
    tasks: TaskSet,
    settings: Settings,
    history: list[dict[str, float]],
    batch: Batch,
    sentences: list[str],
    log_warnings: bool,
    notes: tuple[str, ...] = (),
) -> FittedVMTL:
    sentences = [*explain(diagnose(vmtl, batch), vmtl), *vmtl.encoder.sentences(), *sentences]
    sentences += [*lacking_a_class(tasks), *vmtl.classifier.sentences()]
    if not vmtl.classifier.is_conjugate:
        sentences += _in_another_unit(tasks)
    if log_warnings:
        for sentence in sentences:
            _log.warning(sentence)
    return FittedVMTL(
        vmtl,
        settings,
        tasks.names,
        tasks.classes,
        tasks.outputs,
        tasks.input_shape,
        pd.DataFrame(history),
        tuple(sentences),
        tasks.columns,
        notes,
    )


def _kept_early(module: TrainingModule) -> list[str]:
    """A sentence where validation data chose an epoch in which little can have been learned."""
    scores = [row.get("validation_nll", -math.inf) for row in module.history]
    kept = min(range(len(scores)), key=scores.__getitem__, default=0)
    if not module.vmtl.borrowing or kept > 1 or len(scores) < 5 or math.isinf(scores[kept]):
        return []
    steps = int(module.history[kept]["step"])
    return [
        f"Validation data chose epoch {kept} of {len(scores)}, after {steps} steps, when "
        "relatedness has had little time to form. Where validation samples are few that may be "
        "chance: compare with the last epoch (train without validation data), or learn more slowly "
        "(trainer.learning_rate.value)."
    ]


def _unchecked(vmtl: VMTL) -> list[str]:
    """Sentences on what is inferred beside an encoder that has seen the same targets."""
    learns = any(parameter.requires_grad for parameter in vmtl.encoder.parameters())
    if not (learns and vmtl.classifier.is_conjugate):
        return []
    said = []
    if conjugate_weights(vmtl).infers_noise:
        said.append(
            "The noise of the targets is inferred from samples that the encoder was trained on, "
            "and no validation data said when to stop: where targets are noisy and samples few, "
            "intervals are too narrow. Pass validation data, and look at the coverage of their "
            "intervals."
        )
    if vmtl.classifier.shares_weights and nested_weights(vmtl).finds_partitions:
        said.append(
            "Without validation data relatedness is judged by the principal components of the "
            "inputs, since the encoder has seen the training samples: tasks whose inputs differ "
            "may be called unrelated, although they are alike in what the encoder makes of them. "
            "Pass validation data, by which it is judged then."
        )
    elif "weights" in vmtl.borrowing and vmtl.pool.kind != "clusters":
        said.append(
            "Relatedness is inferred from samples that the encoder was trained on: tasks that "
            "label a few classes differently may be called related with a chance near 1. The pool "
            "Nested judges it by validation data."
        )
    return said


def _check_kind(name: str, given: object, kind: type) -> None:
    if not isinstance(given, kind):
        raise InputError(f"{name} is a {type(given).__name__}; expected a {kind.__name__}")


def _check_options(options: dict[str, Any]) -> None:
    for kind, argument in ((TrainingSettings, "training"), (Settings, "settings")):
        for name in sorted({field.name for field in fields(kind)} & options.keys()):
            raise InputError(
                f"fit was given {name}; expected it as {argument}={kind.__name__}({name}=...)"
            )
    for name in sorted(options):
        if name in _SET_BY_FIT or name not in _TRAINER:
            expected = ", ".join(sorted(_TRAINER - _SET_BY_FIT))
            why = "which it sets by itself" if name in _TRAINER else "which no trainer has"
            raise InputError(f"fit was given {name}, {why}; expected one of {expected}")


def lacking_a_class(tasks: TaskSet) -> list[str]:
    """A sentence where a task has no training sample of a class that others have."""
    if not tasks.is_classification:
        return []
    lacking = (tasks.class_counts == 0).any(1).nonzero().squeeze(-1).tolist()
    if not lacking:
        return []
    task = lacking[0]
    missing = int((tasks.class_counts[task] == 0).nonzero()[0])
    assert tasks.classes is not None
    others = len(lacking) - 1
    further = f" (of the other tasks {others} lack one as well)" if others else ""
    return [
        f"The task {tasks.names[task]!r} has no training sample of the class "
        f"{tasks.classes[missing]!r}{further}: what the model says of it there rests on the other "
        "tasks alone."
    ]


def _in_another_unit(tasks: TaskSet) -> list[str]:
    """A sentence for every regression output that priors of order 1 do not reach."""
    if tasks.is_classification:
        return []
    targets = tasks.y[tasks.labelled].reshape(-1, tasks.num_outputs).double()
    sizes = targets.square().nanmean(0).sqrt().tolist()
    return [
        f"The targets {name!r} have a root mean square of {size:.3g}, and the priors of weights "
        "and noise are of order 1: predictions and intervals will be off. Subtract the mean of the "
        "training targets and divide by their standard deviation."
        for name, size in zip(tasks.outputs or (), sizes, strict=True)
        if not 0.01 < size < 10
    ]


def _check_validation(tasks: TaskSet, validation: TaskSet | None) -> None:
    if validation is None:
        return
    for thing in ("names", "classes", "input_shape"):
        ours, theirs = getattr(tasks, thing), getattr(validation, thing)
        if ours != theirs:
            raise InputError(
                f"the validation set has {thing} {theirs}; expected those of training, {ours}"
            )


def _listed(plugins: Any) -> list[Any]:
    return plugins if isinstance(plugins, list) else [] if plugins is None else [plugins]


def _accelerator(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "mps":
        raise InputError(
            "accelerator is 'mps', which has no float64, in which KLs between tasks are computed; "
            "expected 'cpu' or 'cuda'"
        )
    if name not in ("cpu", "cuda", "gpu"):
        raise InputError(f"accelerator is {name!r}; expected 'auto', 'cpu' or 'cuda'")
    if name != "cpu" and not torch.cuda.is_available():
        raise InputError(
            f"accelerator is {name!r}, and PyTorch finds no CUDA device here; expected 'cpu', or "
            "'auto' to take what there is"
        )
    return name


def _monitoring(
    folder: Path, has_validation: bool, patience: int | None
) -> tuple[ModelCheckpoint, list[Callback]]:
    if not has_validation:
        keep = ModelCheckpoint(
            folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
        )
        return keep, [keep]
    keep = ModelCheckpoint(
        folder,
        filename="best",
        monitor="validation_nll",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    # Lightning's own `save_last` saves only where the epoch is the best as well.
    last = ModelCheckpoint(
        folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    callbacks: list[Callback] = [keep, last]
    if patience is not None:
        stop = EarlyStopping("validation_nll", patience=patience, check_on_train_epoch_end=True)
        callbacks.append(stop)
    return keep, callbacks


class _Progress(RichProgressBar):
    """The trainer's, but that it counts epochs as people do: "Epoch 3/3" is the last of three."""

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        bar = self.train_progress_bar_id
        if self.progress is not None and bar is not None:
            counted = f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self.progress.update(bar, description=counted)
            self.refresh()


def _quiet() -> ExitStack:
    """Without the trainer's greetings and its advice about loaders, which are not ours to heed."""
    stack = ExitStack()
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    stack.callback(logger.setLevel, level)
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", "Encountered NaN: loss")  # the epoch ends with a sentence
    return stack


def _run(
    trainer: lightning.Trainer,
    module: TrainingModule,
    batches: TaskBatches,
    resume: Path | None,
) -> None:
    if resume is not None:
        check_checkpoint(Path(resume), module)
    with _interruptible(trainer):
        trainer.fit(
            module,
            train_dataloaders=batches,
            ckpt_path=resume,
            weights_only=None if resume is None else True,
        )


@contextlib.contextmanager
def _interruptible(trainer: lightning.Trainer) -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt, as everywhere in Python, and works again afterwards.

    The trainer answers it by ending the process, and leaves the signal ignored.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if is_main else None
    try:
        yield
    except SystemExit as error:
        if trainer.interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
