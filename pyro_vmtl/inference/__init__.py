"""Inference: schedules, training, prediction, metrics, and saved models."""

from pyro_vmtl.inference.diagnostics import diagnose, explain
from pyro_vmtl.inference.elbo import ELBOParts, elbo_parts
from pyro_vmtl.inference.fit import FittedVMTL, build, fit
from pyro_vmtl.inference.metrics import (
    calibration_range,
    classification_metrics,
    metrics_per_task,
    regression_metrics,
)
from pyro_vmtl.inference.predict import Predictions, predict
from pyro_vmtl.inference.saving import load, save
from pyro_vmtl.inference.schedules import Constant, Decay, Ramp, Schedule
from pyro_vmtl.inference.training import TrainingModule, TrainingSettings

__all__ = [
    "Constant",
    "Decay",
    "ELBOParts",
    "FittedVMTL",
    "Predictions",
    "Ramp",
    "Schedule",
    "TrainingModule",
    "TrainingSettings",
    "build",
    "calibration_range",
    "classification_metrics",
    "diagnose",
    "elbo_parts",
    "explain",
    "fit",
    "load",
    "metrics_per_task",
    "predict",
    "regression_metrics",
    "save",
]
