"""Priors of partitions: which tasks share a cluster, before any data."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["canonical", "chance_together", "log_new_cluster", "nearest_to_all", "together"]

_MOST = 1000  # components summed over; the prior of their number has decayed long before


@lru_cache(maxsize=64)
def log_new_cluster(num_tasks: int, gamma: float, expected: float) -> Tensor:
    r"""How a mixture of finite mixtures weighs opening one more cluster.

    The number of components K has the prior :math:`p(K) \propto (1 - 1/e)^{K - 1}` with the mean
    ``expected`` = e, the components' weights are Dirichlet(gamma). A task then joins an occupied
    cluster of n others with weight :math:`n + \gamma`, and a new one, where k are occupied, with
    weight :math:`\gamma V_T(k + 1) / V_T(k)`, where

    .. math::
        V_T(k) = \sum_{K \ge k} \frac{K!}{(K - k)!} \frac{\Gamma(\gamma K)}{\Gamma(\gamma K + T)}
        p(K)

    (Miller and Harrison, Mixture models with a prior on the number of components, JASA 2018,
    equations 3.1 to 3.5).

    :return: ``[T + 1]`` float64, the logarithm of the new cluster's weight by k; with k = 0 it is 0
        (a first task has no choice), and with k = T there is nobody left to open one.
    """
    components = torch.arange(1, _MOST + 1, dtype=torch.float64)
    log_prior = (components - 1) * math.log1p(-1 / expected)
    log_prior = log_prior - log_prior.logsumexp(0)
    occupied = torch.arange(1, num_tasks + 2, dtype=torch.float64).unsqueeze(-1)
    possible = components >= occupied
    ways = (components + 1).lgamma() - ((components - occupied).clamp_min(0) + 1).lgamma()
    rising = (gamma * components).lgamma() - (gamma * components + num_tasks).lgamma()
    terms = torch.where(possible, ways + rising + log_prior, -torch.inf)
    log_v = terms.logsumexp(-1)  # [T + 1], of k = 1, ..., T + 1
    new = (math.log(gamma) + log_v.diff()).nan_to_num(-torch.inf)
    return torch.cat([new.new_zeros(1), new])


def canonical(labels: Tensor) -> Tensor:
    """Labels that number the clusters by their first task: equal partitions get equal labels.

    :param labels: ``[..., T]`` int64.
    :return: ``[..., T]`` int64, 0 for the cluster of the first task.
    """
    same = together(labels)
    first = same.to(torch.uint8).argmax(-1)  # the first task of each task's cluster
    opens = first == torch.arange(labels.shape[-1], device=labels.device)
    return (opens.cumsum(-1) - 1).gather(-1, first)


def together(labels: Tensor) -> Tensor:
    """Whether two tasks share a cluster, ``[..., T, T]`` bool.

    :param labels: ``[..., T]``.
    """
    return labels.unsqueeze(-1) == labels.unsqueeze(-2)


def nearest_to_all(labels: Tensor) -> Tensor:
    """The draw whose pairs are nearest to the chances of all draws, by least squares.

    Dahl, Model-based clustering for expression data via a Dirichlet process mixture model (2006).

    :param labels: of draws, ``[S, T]`` int64.
    :return: ``[T]`` int64.
    """
    chance = together(labels).double().mean(0)
    return min(labels, key=lambda draw: float((together(draw).double() - chance).square().sum()))


def chance_together(num_tasks: int, gamma: float, expected: float) -> float:
    """The chance before any data that two of T tasks share a cluster.

    Two tasks of a mixture of K components share one with the chance (gamma + 1) / (gamma K + 1).
    """
    components = torch.arange(1, _MOST + 1, dtype=torch.float64)
    prior = ((components - 1) * math.log1p(-1 / expected)).softmax(0)
    return float((prior * (gamma + 1) / (gamma * components + 1)).sum())
