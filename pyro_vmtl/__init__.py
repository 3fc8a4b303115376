"""Variational multi-task learning in Pyro: tasks lend each other their posteriors as priors."""

from importlib.metadata import PackageNotFoundError, version

from pyro_vmtl.data import (
    Batch,
    TaskBatches,
    TaskSet,
    TaskSplits,
    clusters,
    digit_domains,
    read_table,
    rotated_digits,
    split_tasks,
)
from pyro_vmtl.distributions import PosteriorMixture
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import (
    Constant,
    Decay,
    FittedVMTL,
    Predictions,
    Ramp,
    Schedule,
    TrainingSettings,
    build,
    elbo_parts,
    fit,
    load,
    predict,
    save,
)
from pyro_vmtl.inspection import relatedness, to_inference_data
from pyro_vmtl.model import (
    MLP,
    VMTL,
    Anchored,
    BayesianLinear,
    Clustered,
    DeterministicEncoder,
    Encoder,
    GaussianEncoder,
    Geometric,
    Hierarchical,
    Identity,
    Linear,
    Mixture,
    Pool,
    Power,
    Recursive,
    Settings,
    Standard,
)

__all__ = [
    "MLP",
    "VMTL",
    "Anchored",
    "Batch",
    "BayesianLinear",
    "Clustered",
    "Constant",
    "Decay",
    "DeterministicEncoder",
    "Encoder",
    "FittedVMTL",
    "GaussianEncoder",
    "Geometric",
    "Hierarchical",
    "Identity",
    "InputError",
    "Linear",
    "Mixture",
    "Pool",
    "PosteriorMixture",
    "Power",
    "Predictions",
    "Ramp",
    "Recursive",
    "Schedule",
    "Settings",
    "Standard",
    "TaskBatches",
    "TaskSet",
    "TaskSplits",
    "TrainingSettings",
    "build",
    "clusters",
    "digit_domains",
    "elbo_parts",
    "fit",
    "load",
    "predict",
    "read_table",
    "relatedness",
    "rotated_digits",
    "save",
    "split_tasks",
    "to_inference_data",
]

try:
    __version__ = version("pyro_vmtl")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"
