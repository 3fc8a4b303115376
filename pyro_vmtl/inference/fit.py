"""Fit a model to a task set: from data to a fitted model in one call."""

import contextlib
import logging
import math
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning
import pandas as pd
import pyro
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
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
from pyro_vmtl.inference.diagnostics import diagnose, explain
from pyro_vmtl.inference.elbo import elbo_parts
from pyro_vmtl.inference.predict import Predictions, predict
from pyro_vmtl.inference.processes import in_parallel
from pyro_vmtl.inference.training import TrainingModule, TrainingSettings
from pyro_vmtl.model import (
    SITES,
    VMTL,
    GaussianLikelihood,
    NestedWeights,
    Settings,
    assemble,
)

__all__ = ["FittedVMTL", "build", "fit"]

_UPDATES = 18  # conjugate steps before the last look

_log = logging.getLogger(__name__)

# What torch.load raises for a text, for half a file, for an empty one; then for other contents.
_UNREADABLE = (
    *(UnpicklingError, RuntimeError, EOFError, LookupError, ValueError),
    *(TypeError, AttributeError),
)


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
        if tasks.input_shape != self.input_shape:
            raise InputError(
                f"a sample has shape {list(tasks.input_shape)}; the model was trained on "
                f"{list(self.input_shape)}"
            )
        if tasks.classes != self.classes:
            raise InputError(
                f"the classes are {tasks.classes}; the model was trained on {self.classes}"
            )
        return predict(self.vmtl, tasks, num_samples, batch_size, seed)


def build(tasks: TaskSet, settings: Settings | None = None, **choices: Any) -> VMTL:
    """A new model for a task set.

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
    settings = settings.for_data(tasks.input_shape, named=tasks.columns is not None)
    vmtl = assemble(
        settings,
        tasks.num_tasks,
        tasks.num_outputs,
        tasks.input_shape,
        tasks.is_classification,
    )
    encoder, likelihood = vmtl.encoder, vmtl.likelihood
    encoder.learn_from(tasks.x, centre=settings.bias)
    if isinstance(likelihood, GaussianLikelihood) and not likelihood.learned:
        likelihood.standardise_by(tasks.y[tasks.labelled], centre=settings.bias)
    return vmtl


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
    :param seed: on the CPU the same seed gives the same fit.
    :param accelerator: ``"auto"`` (CUDA where there is one, else CPU), ``"cpu"``, ``"cuda"``.
    :param checkpoints: a folder for Lightning checkpoints; None keeps none.
    :param resume: a checkpoint to go on from.
    :param loggers: Lightning loggers.
    :param callbacks: further Lightning callbacks.
    :param on_epoch: called with the history after each epoch.
    :param progress_bar: whether to show one.
    :param validate: whether Pyro checks every distribution and shape, at the cost of speed.
    :param log_warnings: whether what to know before trusting the fit is logged; it is in
        ``FittedVMTL.warnings`` either way.
    :param trainer_options: go to ``lightning.Trainer``.
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
    settings = settings.for_data(tasks.input_shape, named=tasks.columns is not None)
    _check_validation(tasks, validation)
    if validation is not None and not bool(validation.labelled.any()):
        validation = None
    pyro.set_rng_seed(seed)
    if vmtl is None:
        vmtl = build(tasks, settings)
    if not vmtl.training:  # the trainer leaves modes as they are, and fits end in evaluation mode
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
    with ExitStack() as stack:
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
        if in_parallel(options):
            # A KL weight of 0 takes a term out of the loss, and parameters of a prior with it.
            options.setdefault("strategy", "ddp_find_unused_parameters_true")
        try:
            trainer = lightning.Trainer(
                accelerator=_accelerator(accelerator),
                max_epochs=training.epochs,
                # Where the module optimises by itself it clips by itself, and the trainer would
                # refuse.
                gradient_clip_val=training.gradient_clip if module.automatic_optimization else None,
                logger=list(loggers) or False,
                callbacks=[*monitoring, *further],
                enable_progress_bar=progress_bar,
                enable_model_summary=False,
                **options,
            )
        except MisconfigurationException as error:
            raise InputError(
                f"the trainer refuses its options {options} ({str(error).splitlines()[0]})"
            ) from error
        if not any(parameter.requires_grad for parameter in vmtl.parameters()):
            return _without_gradients(
                *(vmtl, tasks, validation, settings, training),
                *(accelerator, resume, on_epoch, log_warnings),
            )
        _run(trainer, module, batches, resume)
        if validation is not None:
            _restore_best(keep, resume)
            best = torch.load(keep.best_model_path, map_location="cpu", weights_only=True)
            module.load_state_dict(best["state_dict"])
    # What training tempers is part of what was fitted; the model is left as at its last step.
    vmtl.eval()
    batch = tasks.dense().to(vmtl.device)
    if vmtl.classifier.is_conjugate:
        vmtl.update(batch, last=True)
    return _fitted(vmtl, tasks, settings, module.history, batch, _kept_early(module), log_warnings)


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
) -> FittedVMTL:
    """A fit in which nothing takes a gradient: updates alone, all data at once, no optimiser."""
    if resume is not None:
        raise InputError(
            f"resume is {str(resume)!r}, and nothing in this model takes a gradient: it is fitted "
            "in seconds and leaves no checkpoints; expected none"
        )
    device = torch.device(_accelerator(accelerator))
    batch = tasks.dense().to(device)
    vmtl = vmtl.to(device).eval()
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
    return _fitted(vmtl, tasks, settings, history, batch, [], log_warnings)


def _fitted(
    vmtl: VMTL,
    tasks: TaskSet,
    settings: Settings,
    history: list[dict[str, float]],
    batch: Batch,
    sentences: list[str],
    log_warnings: bool,
) -> FittedVMTL:
    sentences = [*explain(diagnose(vmtl, batch), vmtl), *vmtl.encoder.sentences(), *sentences]
    if isinstance(vmtl.classifier, NestedWeights):
        sentences += vmtl.classifier.sentences()
    else:
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


def _check_kind(name: str, given: object, kind: type) -> None:
    if not isinstance(given, kind):
        raise InputError(f"{name} is a {type(given).__name__}; expected a {kind.__name__}")


def _check_options(options: dict[str, Any]) -> None:
    for kind, argument in ((TrainingSettings, "training"), (Settings, "settings")):
        for name in sorted({field.name for field in fields(kind)} & options.keys()):
            raise InputError(
                f"fit was given {name}; expected it as {argument}={kind.__name__}({name}=...)"
            )


def _in_another_unit(tasks: TaskSet) -> list[str]:
    """A sentence for every regression output that priors of order 1 do not reach."""
    if tasks.is_classification:
        return []
    targets = tasks.y[tasks.labelled].reshape(-1, tasks.num_outputs).double()
    sizes = targets.square().mean(0).sqrt().tolist()
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
        keep = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True)
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
        _check_checkpoint(Path(resume), module)
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


def _restore_best(keep: ModelCheckpoint, resume: Path | None) -> None:
    """Keep the best epoch of the run that was resumed, where none since was better.

    The trainer does not look for it when the checkpoints go into another folder.
    """
    if resume is None:
        return
    saved = torch.load(resume, map_location="cpu", weights_only=True)
    state = saved.get("callbacks", {}).get(keep.state_key, {})
    score, path = state.get("best_model_score"), Path(resume).parent / "best.ckpt"
    ours = Path(keep.best_model_path) if keep.best_model_path else None
    if score is None or not path.is_file() or (ours is not None and ours.samefile(path)):
        return
    if keep.best_model_score is None or score <= keep.best_model_score.cpu():
        target = Path(str(keep.dirpath)) / "best.ckpt"
        draft = target.with_name(f".best-{os.getpid()}.ckpt")  # one for each process
        shutil.copyfile(path, draft)
        draft.replace(target)
        keep.best_model_path, keep.best_model_score = str(target), score


def _check_checkpoint(path: Path, module: TrainingModule) -> None:
    """Make sure, before anything is changed, that the model can go on from this file."""
    if not path.is_file():
        raise InputError(f"the checkpoint {path} is not a file; expected one to resume from")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found = {name: list(value.shape) for name, value in saved["state_dict"].items()}
    except _UNREADABLE as error:
        raise InputError(
            f"the file {path} cannot be read as a checkpoint; expected one that training wrote"
        ) from error
    ours = {name: list(value.shape) for name, value in module.state_dict().items()}
    for name in ours | found:
        if ours.get(name) != found.get(name):
            raise InputError(
                f"the checkpoint {path} does not fit this model: {name} is "
                f"{found.get(name, 'missing')} there and {ours.get(name, 'missing')} here; "
                "expected one from a run with the same data shapes and model settings"
            )
    optimizer = module.configure_optimizers()["optimizer"]
    groups = [len(group["params"]) for group in optimizer.param_groups]
    for state in saved.get("optimizer_states", ()):
        found_groups = [len(group["params"]) for group in state["param_groups"]]
        if found_groups != groups:
            raise InputError(
                f"the checkpoint {path} does not fit this version: its optimiser has groups of "
                f"{found_groups} parameters, and this one of {groups}; expected a checkpoint of "
                "the same version, or a new run"
            )
    made = int(saved.get("epoch", -1)) + 1
    if made > module.settings.epochs:
        raise InputError(
            f"epochs is {module.settings.epochs}, and the checkpoint {path} comes from epoch "
            f"{made}; expected the number that training is to end with, at least {made}"
        )
