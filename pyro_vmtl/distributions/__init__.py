"""Priors pooled from other tasks' posteriors, their KL divergences, and the relatedness weights."""

from pyro_vmtl.distributions.gaussians import Gaussians, pairwise_kl, pairwise_log_density
from pyro_vmtl.distributions.kl import kl_or_estimate, relaxed_categorical_kl
from pyro_vmtl.distributions.mixture import KLBound, PosteriorMixture
from pyro_vmtl.distributions.pooling import geometric_pool, linear_pool, power_pool
from pyro_vmtl.distributions.relatedness import RelatednessGates, RelatednessWeights
from pyro_vmtl.distributions.relatives import Relatives
from pyro_vmtl.distributions.rows import RowGaussians

__all__ = [
    "Gaussians",
    "KLBound",
    "PosteriorMixture",
    "RelatednessGates",
    "RelatednessWeights",
    "Relatives",
    "RowGaussians",
    "geometric_pool",
    "kl_or_estimate",
    "linear_pool",
    "pairwise_kl",
    "pairwise_log_density",
    "power_pool",
    "relaxed_categorical_kl",
]
