"""From a Hydra configuration to the objects of an experiment."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pyro_vmtl.data import TaskSplits
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import TrainingSettings
from pyro_vmtl.model import Architecture, Encoder, Settings
from pyro_vmtl.model.architectures import BESIDE_GRADIENTS
from pyro_vmtl.runs.refusals import sentence_of
from pyro_vmtl.runs.trust import check_names_of_code

__all__ = ["Plan", "config_folder", "read_plan", "repeatable"]

_TRAINING = {field.name for field in fields(TrainingSettings)}
# Arguments of `fit` that no configuration sets.
_SET_BY_COMMANDS = {
    *("tasks", "validation", "settings", "training", "vmtl", "seed", "checkpoints", "resume"),
    *("loggers", "callbacks", "on_epoch", "log_warnings"),
}
_REPEAT = """\
# The configuration of this run, resolved. To repeat the run into a new folder:
#   python -m pyro_vmtl.train --config-dir {folder} --config-name config
"""


def config_folder() -> Path:
    """Where the configs are: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


@dataclass(frozen=True)
class Plan:
    """What a configuration says, as objects.

    :ivar splits: training, validation and test tasks.
    :ivar settings: the model's structure.
    :ivar training: how to train it.
    :ivar trainer: further options of ``fit``: accelerator, devices and the like.
    """

    splits: TaskSplits
    settings: Settings
    training: TrainingSettings
    trainer: dict[str, Any]


def read_plan(config: DictConfig, trusted: Collection[str] = ()) -> Plan:
    """Make the objects that a configuration describes.

    :param trusted: modules and objects, beside this library's, that it may name; see
        :func:`pyro_vmtl.runs.trust.named_by_the_user`.
    :raises InputError: says what in it cannot be used.
    """
    if "lenders" in config:
        raise InputError(
            "the configuration has lenders, a setting of an earlier version; expected none "
            "(~lenders on the command line): tasks lend their posteriors where "
            "model.classifier=mean_field, and what their own data said where weights are in closed "
            "form"
        )
    model = _make(config.model, "model", trusted)
    model["encoder"] = _variant(model.get("encoder"), model.pop("encoder_variant", None) or {})
    known = {field.name for field in fields(Settings)} - {"pool", "representation_pool"}
    for name in sorted(set(model) - known):
        raise InputError(
            f"model has {name!r}; expected one of {', '.join(sorted(known))} or encoder_variant"
        )
    settings = Settings(
        **model,
        pool=None if config.get("pool") is None else _make(config.pool, "pool", trusted),
        representation_pool=_make(config.representation_pool, "representation_pool", trusted),
        likelihood=(
            None
            if config.get("likelihood") is None
            else _make(config.likelihood, "likelihood", trusted)
        ),
    )
    if "validation" in config.data and config.data.validation is None:  # of a table
        config.data.validation = 0 if settings.trains_no_encoder((1,), named=True) else 0.2
    splits = _make(config.data, "data", trusted)
    if not isinstance(splits, TaskSplits):
        raise InputError(
            f"data is a {type(splits).__name__}; expected the configuration of a task set with "
            "training, validation and test parts"
        )
    given = config.trainer.copy()  # what is written into the run folder stays as it is
    for name, value in config.trainer.items():
        if OmegaConf.is_dict(value) and value.get("value", 0) is None:  # left open
            given[name] = None
    trainer = _make(given, "trainer", trusted)
    for name in sorted(set(trainer) & _SET_BY_COMMANDS):
        raise InputError(
            f"trainer.{name} is set by the command; expected a setting of training, or an option "
            "of lightning.Trainer such as trainer.deterministic"
        )
    training = {k: trainer.pop(k) for k in list(trainer) if k in _TRAINING}
    return Plan(splits, settings, TrainingSettings(**training), trainer)


def _variant(encoder: Any, choices: dict[str, bool | None]) -> Any:
    """The encoder as a recipe wants it, whichever architecture was chosen."""
    unknown = sorted(set(choices) - {"per_task", "stochastic"})
    if unknown:
        raise InputError(
            f"encoder_variant has {unknown[0]!r}; expected per_task or stochastic, true or false"
        )
    if encoder is None:  # the data choose, unless a recipe wants a variant of the usual one
        return BESIDE_GRADIENTS.variant(**choices) if choices else None
    if isinstance(encoder, Architecture):
        return encoder.variant(**choices)
    # An encoder of the user's own stays as it is: it must be what is wanted already.
    stochastic = choices.get("stochastic")
    wanted = None
    if choices.get("per_task"):
        wanted = "an encoder for each task"
    elif isinstance(encoder, Encoder) and stochastic not in (None, encoder.has_density):
        wanted = f"{'uncertain' if stochastic else 'deterministic'} representations"
    if wanted is not None:
        raise InputError(
            f"the recipe wants {wanted}, and the encoder is a {type(encoder).__name__}; expected "
            "an architecture of the library such as MLP, or another recipe"
        )
    return encoder


def _make(config: DictConfig, name: str, trusted: Collection[str]) -> Any:
    try:
        check_names_of_code(config, name, trusted)
        made = instantiate(config, _convert_="all")
    except (InstantiationException, OmegaConfBaseException) as error:
        raise InputError(_sentence(error, name)) from error
    return made


def _sentence(error: Exception, name: str) -> str:
    """What the innermost of a chain of errors says; ours already say all that is needed."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
        if isinstance(cause, InputError):
            return str(cause)
    if isinstance(cause, MissingMandatoryValue):
        return sentence_of(cause)
    return f"the configuration of {name} cannot be used: {str(cause).splitlines()[0]}"


def repeatable(config: DictConfig, folder: Path, checkpoint: Path | None) -> str:
    """The text of ``config.yaml``: resolved, and complete enough to be run by itself.

    :param folder: of the run.
    :param checkpoint: that a repetition is to go on from.
    """
    data = OmegaConf.to_container(config, resolve=True)
    assert isinstance(data, dict)
    data["run_dir"] = data["resume"] = None  # a repetition goes into a folder of its own
    data["allow"] = []  # which is asked of whoever repeats the run
    data["ckpt_path"] = None if checkpoint is None else str(checkpoint)
    text = {
        "defaults": [
            {"override hydra/job_logging": "none"},
            {"override hydra/hydra_logging": "none"},
            "_self_",
        ],
        "hydra": {"output_subdir": None, "run": {"dir": "."}},
        **data,
    }
    return _REPEAT.format(folder=folder) + OmegaConf.to_yaml(OmegaConf.create(text))
