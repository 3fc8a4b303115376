r"""All-pairs Kullback-Leibler divergences and log densities of diagonal Gaussians.

For :math:`q = N(\mu, \mathrm{diag}\,\sigma^2)` and components
:math:`c_i = N(m_i, \mathrm{diag}\,V_i)`

.. math::
    KL(q\,\|\,c_i) = \tfrac12 \sum_p \Big[\log V_{ip} - \log \sigma_p^2
        + (\sigma_p^2 + \mu_p^2) / V_{ip} - 2 \mu_p m_{ip} / V_{ip} + m_{ip}^2 / V_{ip} - 1\Big],

and every term that couples the two is a matrix product: no loop over pairs, no ``[T, T, P]`` array.
The products cancel badly in float32 (at scale 1e-3 a KL that is zero came out in the hundreds),
so they are taken in float64 and around the components' mean.
"""

import math
from typing import NamedTuple

from torch import Tensor

__all__ = ["Gaussians", "pairwise_kl", "pairwise_log_density"]


class Gaussians(NamedTuple):
    """Diagonal Gaussian components.

    :ivar loc: means, ``[*batch, C, *event]``; without ``batch``, all share the C components.
    :ivar scale: standard deviations, the same shape.
    """

    loc: Tensor
    scale: Tensor

    def detach(self) -> "Gaussians":
        """The same components without gradient."""
        return Gaussians(self.loc.detach(), self.scale.detach())

    def flatten(self, event_dim: int) -> "Gaussians":
        """The components with their event flattened: ``[*batch, C, P]``."""
        return Gaussians(_flatten(self.loc, event_dim), _flatten(self.scale, event_dim))


def _flatten(x: Tensor, event_dim: int) -> Tensor:
    return x.reshape(x.shape[: x.dim() - event_dim] + (-1,))


def _products(rows: Tensor, components: Tensor) -> Tensor:
    """``[*B, P]`` with ``[C, P]`` or ``[*B, C, P]`` to ``[*B, C]``."""
    if components.dim() == 2:
        return rows @ components.mT  # one matrix product, whatever the batch shape
    return (components @ rows.unsqueeze(-1)).squeeze(-1)


def _quadratic(square: Tensor, value: Tensor, components: Gaussians) -> Tensor:
    """``sum_p (square - 2 value m + m^2) / V`` for every pair, all float64 and centred."""
    precision = components.scale.square().reciprocal()
    weighted = components.loc * precision
    return (
        _products(square, precision)
        - 2 * _products(value, weighted)
        + (components.loc * weighted).sum(-1)
    )


def _centred(value: Tensor, components: Gaussians) -> tuple[Tensor, Gaussians]:
    loc, scale = components.loc.double(), components.scale.double()
    centre = loc.mean(-2, keepdim=True)
    return value.double() - centre.squeeze(-2), Gaussians(loc - centre, scale)


def pairwise_kl(loc: Tensor, scale: Tensor, components: Gaussians) -> Tensor:
    """KL(q || c_i) of every Gaussian q to every component, float64, never negative.

    :param loc: means of q, ``[*B, P]``.
    :param scale: standard deviations of q, ``[*B, P]``.
    :param components: ``[C, P]``, shared by all q, or ``[*B, C, P]``.
    :return: ``[*B, C]``.
    """
    loc, components = _centred(loc, components)
    variance = scale.double().square()
    quadratic = _quadratic(variance + loc.square(), loc, components)
    logs = 2 * components.scale.log().sum(-1) - variance.log().sum(-1, keepdim=True)
    # What rounding is left at float64 is of the order 1e-9; a KL below zero would be a lie.
    return (0.5 * (logs + quadratic - loc.shape[-1])).clamp_min(0)


def pairwise_log_density(value: Tensor, components: Gaussians) -> Tensor:
    """log c_i(value) of every value under every component, float64.

    :param value: ``[*B, P]``.
    :param components: ``[C, P]``, shared by all values, or ``[*B, C, P]``.
    :return: ``[*B, C]``.
    """
    value, components = _centred(value, components)
    quadratic = _quadratic(value.square(), value, components)
    normaliser = 2 * components.scale.log().sum(-1) + value.shape[-1] * math.log(2 * math.pi)
    return -0.5 * (normaliser + quadratic)
