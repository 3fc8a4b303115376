"""From a plan to a fit and its predictions: the part that every command shares."""

from importlib.metadata import version
from platform import python_version
from typing import Any

import pyro_vmtl
from pyro_vmtl.inference import FittedVMTL, Predictions, fit
from pyro_vmtl.runs.configuration import Plan

__all__ = ["fit_plan", "predict_held_out", "versions"]

_PACKAGES = ("torch", "pyro-ppl", "lightning", "numpy", "arviz")


def fit_plan(plan: Plan, seed: int, **options: Any) -> FittedVMTL:
    """Train what a plan describes.

    :param plan: data, structure and training.
    :param seed: of start and noise.
    :param options: further ones of :func:`pyro_vmtl.fit`; they take the place of the plan's.
    """
    planned = {key: value for key, value in plan.trainer.items() if key != "tensorboard"}
    options = {**planned, **options}
    return fit(
        plan.splits.train,
        plan.splits.validation,
        plan.settings,
        plan.training,
        seed=seed,
        **options,
    )


def predict_held_out(
    fitted: FittedVMTL, plan: Plan, num_samples: int, seed: int
) -> dict[str, Predictions]:
    """Look at the test part, once, and at the validation part, where it has labels.

    :param fitted: what :func:`fit_plan` made of the plan.
    :param plan: its data.
    :param num_samples: posterior draws.
    :param seed: of the draws.
    :return: of ``test`` and ``validation``.
    """
    looks = {"test": fitted.predict(plan.splits.test, num_samples, seed=seed)}
    if bool(plan.splits.validation.labelled.any()):
        looks["validation"] = fitted.predict(plan.splits.validation, num_samples, seed=seed)
    return looks


def versions() -> dict[str, str]:
    """Of Python, this library and what its numbers depend on."""
    ours = {"python": python_version(), "pyro_vmtl": pyro_vmtl.__version__}
    return ours | {package: version(package) for package in _PACKAGES}
