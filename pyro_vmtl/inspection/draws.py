"""Draws of the relatedness from a fitted model, laid out by the names of the tasks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_vmtl.distributions import (
    PosteriorMixture,
    RelatednessGates,
    RelatednessWeights,
)
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inference.noise import fixed_noise
from pyro_vmtl.model import VMTL, Borrowing

__all__ = [
    "BASE",
    "borrowing_of",
    "by_name",
    "is_relaxation",
    "other_names",
    "relatedness_draws",
    "relatedness_probabilities",
    "responsibility_draws",
]

BASE = "base"
"""The name of N(0, I) among the lenders."""

_Array = npt.NDArray[np.float64]


def borrowing_of(vmtl: VMTL, site: str) -> Borrowing:
    """The relatedness of one of the sites that borrow."""
    borrowing = vmtl.borrowing[site]
    assert isinstance(borrowing, Borrowing)
    return borrowing


def other_names(fitted: FittedVMTL, site: str) -> tuple[str, ...]:
    """The names of a site's lenders: the T tasks, then ``base`` where the pool has it."""
    return fitted.names + ((BASE,) if borrowing_of(fitted.vmtl, site).pool.base else ())


def by_name(borrowing: Borrowing, slots: Tensor) -> Tensor:
    """Relatedness ``[..., T, 1, L]`` to ``[..., T, C]``: the tasks, base last; NaN for itself."""
    return _base_last(borrowing, borrowing.by_component(slots.double(), empty=torch.nan))


def _base_last(borrowing: Borrowing, components: Tensor) -> Tensor:
    shifted = components.roll(-1, -1) if borrowing.pool.base else components
    return shifted.squeeze(-2)


def _array(values: Tensor) -> _Array:
    array: _Array = values.double().cpu().numpy()
    return array


@torch.no_grad()
def relatedness_probabilities(vmtl: VMTL, site: str) -> _Array:
    """The chance that each lender is picked, that its gate is open, or that two share a cluster.

    :return: ``[T, T]``, or ``[T, T + 1]`` with base last; NaN for the task itself.
    """
    borrowing = borrowing_of(vmtl, site)
    return _array(by_name(borrowing, borrowing.probabilities().unsqueeze(-2)))


def is_relaxation(vmtl: VMTL, site: str) -> bool:
    """Whether draws of a site's relatedness differ by the noise of a relaxation alone.

    Where model and guide share their logits, these are point estimates.
    """
    borrowing = borrowing_of(vmtl, site)
    law = borrowing.relatedness_posterior()
    return borrowing.empirical_bayes and isinstance(law, (RelatednessGates, RelatednessWeights))


@torch.no_grad()
def relatedness_draws(vmtl: VMTL, site: str, num_samples: int = 1000, seed: int = 0) -> _Array:
    """Draws from the guide's relatedness of a site.

    :param num_samples: S.
    :return: ``[S, T, T]``, or ``[S, T, T + 1]`` with base last; NaN for the task itself.
    """
    borrowing = borrowing_of(vmtl, site)
    return _array(by_name(borrowing, _draw(borrowing, num_samples, seed)))


def _draw(borrowing: Borrowing, num_samples: int, seed: int) -> Tensor:
    posterior = borrowing.relatedness_posterior()
    with fixed_noise(seed, borrowing.temperature.device):
        draws: Tensor = posterior.sample(torch.Size([num_samples]))
    return draws


@torch.no_grad()
def responsibility_draws(
    vmtl: VMTL, site: str, num_samples: int = 1000, seed: int = 0
) -> _Array | None:
    r"""Which lenders the prior at a task's posterior really came from, for every draw of weights.

    :math:`r_{ti} \propto \alpha_{ti} e^{-KL(q_t \| c_i)}` (Hershey and Olsen 2007) for the draws of
    :func:`relatedness_draws` with the same arguments.

    :return: ``[S, T, T]``, or ``[S, T, T + 1]`` with base last, NaN for the task itself; None
        where the site's prior is not one mixture of the tasks' posteriors.
    """
    borrowing = borrowing_of(vmtl, site)
    draws = _draw(borrowing, num_samples, seed)
    if site == "weights":
        posterior = vmtl.classifier.gaussians()
        prior = vmtl.weights_prior(draws)
    else:
        layer = vmtl.encoder.layer()
        if layer is None:  # every sample has a prior, and responsibilities, of its own
            return None
        posterior = layer
        prior = vmtl.layer_prior(layer, draws)
    if not isinstance(prior, PosteriorMixture):
        return None
    responsibilities = prior.responsibilities(
        posterior.loc.unsqueeze(1), posterior.scale.unsqueeze(1)
    )
    values = _array(_base_last(borrowing, responsibilities)).copy()
    itself = np.arange(vmtl.num_tasks)
    values[:, itself, itself] = np.nan
    return values
