"""Inference: schedules, training, prediction, metrics, and saved models."""

from pyro_vmtl.inference.counted_evidence import times_counted
from pyro_vmtl.inference.diagnostics import diagnose, explain
from pyro_vmtl.inference.elbo import ELBOParts, elbo_parts, task_losses
from pyro_vmtl.inference.exchange import TaskEvidence, TaskRequest
from pyro_vmtl.inference.fit import FittedVMTL, build, fit
from pyro_vmtl.inference.metrics import (
    calibration_range,
    category_shift_metrics,
    classification_metrics,
    metrics_per_task,
    regression_metrics,
)
from pyro_vmtl.inference.predict import Predictions, predict
from pyro_vmtl.inference.processes import in_parallel
from pyro_vmtl.inference.saving import load, save
from pyro_vmtl.inference.schedules import (
    Annealing,
    Constant,
    Decay,
    Ramp,
    Schedule,
    Stairs,
)
from pyro_vmtl.inference.sharing import agree, evidence, join, request
from pyro_vmtl.inference.temperature_scaling import ScaledVMTL, scale_temperature
from pyro_vmtl.inference.training import TrainingModule, TrainingSettings
from pyro_vmtl.inference.weighting import (
    GradientWeighting,
    UncertaintyWeighting,
    shared_parameters,
)

__all__ = [
    "Annealing",
    "Constant",
    "Decay",
    "ELBOParts",
    "FittedVMTL",
    "GradientWeighting",
    "Predictions",
    "Ramp",
    "ScaledVMTL",
    "Schedule",
    "Stairs",
    "TaskEvidence",
    "TaskRequest",
    "TrainingModule",
    "TrainingSettings",
    "UncertaintyWeighting",
    "agree",
    "build",
    "calibration_range",
    "category_shift_metrics",
    "classification_metrics",
    "diagnose",
    "elbo_parts",
    "evidence",
    "explain",
    "fit",
    "in_parallel",
    "join",
    "load",
    "metrics_per_task",
    "predict",
    "regression_metrics",
    "request",
    "save",
    "scale_temperature",
    "shared_parameters",
    "task_losses",
    "times_counted",
]
