"""Pooled Gaussian priors: what T lenders N(m_i, V_i) say together, as one diagonal Gaussian.

All take weights ``[*batch, C]`` and components ``[C, *event]`` (shared) or ``[*batch, C, *event]``,
and return ``Normal(...).to_event(event_dim)`` with batch shape ``batch``. Sums over the components
are matrix products in float64: precisions of 1e6 and more meet means of order one.
"""

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vmtl.distributions.gaussians import Gaussians

__all__ = ["geometric_pool", "linear_pool", "power_pool"]


def _pool(weights: Tensor, values: Tensor, event_dim: int) -> Tensor:
    """``sum_i weights_i values_i``, ``[*batch, *event]`` in float64."""
    event = values.shape[values.dim() - event_dim :]
    flat = values.double().reshape(values.shape[: values.dim() - event_dim] + (-1,))
    weights = weights.double()
    if flat.dim() == 2:
        pooled = weights @ flat
    else:
        pooled = (weights.unsqueeze(-2) @ flat).squeeze(-2)
    return pooled.reshape(pooled.shape[:-1] + event)


def _normal(
    loc: Tensor, variance: Tensor, components: Gaussians, event_dim: int
) -> dist.Independent:
    dtype = components.loc.dtype
    return dist.Normal(loc.to(dtype), variance.sqrt().to(dtype)).to_event(event_dim)


def linear_pool(weights: Tensor, components: Gaussians, event_dim: int) -> dist.Independent:
    r"""The law of the weighted sum of independent draws, one from each lender.

    :math:`N(\sum_i a_i m_i, \sum_i a_i^2 V_i)`: what the authors' published code computes where the
    paper writes a mixture.
    """
    loc, scale = components
    variance = _pool(weights.square(), scale.double().square(), event_dim)
    return _normal(_pool(weights, loc, event_dim), variance, components, event_dim)


def geometric_pool(weights: Tensor, components: Gaussians, event_dim: int) -> dist.Independent:
    r"""The log-linear opinion pool, :math:`\propto \prod_i N(m_i, V_i)^{a_i}`.

    Precision :math:`\sum_i a_i / V_i`; mean, the precision-weighted average.
    """
    loc, scale = components
    precision = scale.double().square().reciprocal()
    total = _pool(weights, precision, event_dim)
    mean = _pool(weights, precision * loc, event_dim) / total
    return _normal(mean, total.reciprocal(), components, event_dim)


def power_pool(
    gates: Tensor, components: Gaussians, event_dim: int, spread: Tensor | float = 0.0
) -> dist.Independent:
    r"""N(0, I) times what each lender's data said, raised to a power (Ibrahim and Chen 2000).

    With :math:`\lambda_i = \max(1/\sigma_i^2 - 1, 0)` the precision that lender i's data added to
    N(0, I), and :math:`h_i = m_i / \sigma_i^2` (0 where :math:`\lambda_i` is 0), precision
    :math:`P = 1 + \sum_i r_i \lambda_i / (1 + s^2 \lambda_i)` and mean
    :math:`\sum_i r_i h_i / (1 + s^2 \lambda_i) / P`.

    :param gates: powers :math:`r_i` in [0, 1], ``[*batch, C]``.
    :param spread: :math:`s`, how far related tasks differ; broadcasts over the components.
    """
    loc, scale = components
    precision = scale.double().square().reciprocal()
    added = (precision - 1).clamp_min(0)
    evidence = torch.where(added > 0, loc * precision, torch.zeros_like(precision))
    discount = (
        1 + torch.as_tensor(spread, dtype=torch.float64, device=loc.device).square() * added
    ).reciprocal()
    total = 1 + _pool(gates, added * discount, event_dim)
    mean = _pool(gates, evidence * discount, event_dim) / total
    return _normal(mean, total.reciprocal(), components, event_dim)
