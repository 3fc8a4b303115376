"""Temperature scaling in a run: both scores, as they were and scaled, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyro_vmtl.data import TaskSplits
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL, Predictions, ScaledVMTL, scale_temperature

__all__ = ["ScaledRun", "check_scaling", "scale_run"]

_CHOICES = (False, True, "per_task")


@dataclass(frozen=True)
class ScaledRun:
    """What scaling gave.

    :ivar model: the model with its temperatures.
    :ivar test: its predictions of the test data.
    :ivar entry: for ``metrics.json``: ``temperatures`` by task, the metrics ``before`` and
        ``after``, each of ``test`` and ``validation``, and ``warnings``.
    """

    model: ScaledVMTL
    test: Predictions
    entry: dict[str, Any]


def check_scaling(choice: Any, splits: TaskSplits) -> None:
    """Make sure, before anything is trained, that scaling can be done.

    :param choice: the value of ``temperature_scaling``.
    :raises InputError: if it is no choice, or there are no labelled validation samples.
    """
    # 1 == True, so a number is told apart by its type.
    if not isinstance(choice, (bool, str)) or choice not in _CHOICES:
        raise InputError(
            f"temperature_scaling is {choice!r}; expected true (one temperature), per_task or false"
        )
    if choice and not bool(splits.validation.labelled.any()):
        raise InputError(
            f"temperature_scaling is {choice!r}, and the validation data have no labelled sample; "
            "expected some to fit a temperature to"
        )


def scale_run(
    fitted: FittedVMTL,
    splits: TaskSplits,
    before: dict[str, Predictions],
    choice: bool | str,
    num_samples: int,
    seed: int,
) -> ScaledRun:
    """Fit temperatures to the validation data, and score with and without them.

    :param before: the model's own predictions, of ``test`` and ``validation``.
    :param choice: true, or ``"per_task"``.
    :param num_samples: posterior draws, and
    :param seed: theirs, as in the predictions before.
    """
    model = scale_temperature(
        fitted,
        splits.validation,
        per_task=choice == "per_task",
        num_samples=num_samples,
        seed=seed,
    )
    after = {
        part: model.predict(predictions.tasks, num_samples, seed=seed)
        for part, predictions in before.items()
    }
    train = splits.train
    entry = {
        "temperatures": model.frame().set_index("task").to_dict("index"),
        "before": {part: predictions.metrics(train) for part, predictions in before.items()},
        "after": {part: predictions.metrics(train) for part, predictions in after.items()},
        "warnings": list(model.scaling_warnings),
    }
    return ScaledRun(model, after["test"], entry)
