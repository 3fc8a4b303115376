"""Priors pooled from other tasks' posteriors, their KL divergences, and the relatedness weights."""

from pyro_vmtl.distributions.evidence import Evidence, evidence_of
from pyro_vmtl.distributions.gaussians import Gaussians, pairwise_kl, pairwise_log_density
from pyro_vmtl.distributions.kl import kl_or_estimate, relaxed_categorical_kl
from pyro_vmtl.distributions.mixture import KLBound, PosteriorMixture
from pyro_vmtl.distributions.partition import (
    FACTORS,
    SCALES,
    SPREADS,
    Partitions,
    Relatives,
    chance_of_relatives,
    pooled_prior,
    sample_partitions,
)
from pyro_vmtl.distributions.pooling import geometric_pool, linear_pool, power_pool
from pyro_vmtl.distributions.relatedness import RelatednessGates, RelatednessWeights

__all__ = [
    "FACTORS",
    "SCALES",
    "SPREADS",
    "Evidence",
    "Gaussians",
    "KLBound",
    "Partitions",
    "PosteriorMixture",
    "RelatednessGates",
    "RelatednessWeights",
    "Relatives",
    "chance_of_relatives",
    "evidence_of",
    "geometric_pool",
    "kl_or_estimate",
    "linear_pool",
    "pairwise_kl",
    "pairwise_log_density",
    "pooled_prior",
    "power_pool",
    "relaxed_categorical_kl",
    "sample_partitions",
]
