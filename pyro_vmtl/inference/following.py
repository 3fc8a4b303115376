r"""Where a small encoder goes when a task's data are taken out, without training it again.

Given partition and scales as drawn, and the factors of all samples, the evidence is a smooth
function of the encoder's parameters with the gradient of the ELBO. Where that of all data is
highest it is not without one of the tasks, and Newton's method finds the way between, with
conjugate gradients in place of the Hessian's inverse: what influence functions do in one step (for
tasks Tu, Liu, Ma, Tang, 2025), in several, between which factors are found anew.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from pyro_vmtl.data import Batch
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.cavities import factors, settled
from pyro_vmtl.model import VMTL, evaluating, with_bias
from pyro_vmtl.model.closed_form import nested_weights
from pyro_vmtl.model.priors.conditionals import log_evidence
from pyro_vmtl.model.priors.gibbs import Evidence, thinned

__all__ = ["MOST_PARAMETERS", "check_small", "followed"]

MOST_PARAMETERS = 5000
"""Of an encoder that can be followed."""

_DRAWS = 20  # of partition and scales, over which evidence is averaged
_ROUNDS = 6  # of Newton's method, each with factors of its own
_STEPS = 3  # in a round
_NEAR = 0.01  # what the way from the trained encoder costs, as a share of the mean curvature
_AT_REST = 1e-3  # relative to how far the encoder has gone

_Vector = npt.NDArray[np.float64]


def check_small(encoder: nn.Module) -> None:
    """Make sure that an encoder can be followed.

    :raises InputError: where it has no parameters that are learned, or too many.
    """
    count = sum(p.numel() for p in _parameters(encoder))
    if not count:
        raise InputError("the encoder learns nothing that could follow; expected encoder='fixed'")
    if count > MOST_PARAMETERS:
        raise InputError(
            f"the encoder has {count} parameters, and following it needs a small one; expected at "
            f"most {MOST_PARAMETERS}, or encoder='fixed'"
        )


def followed(
    vmtl: VMTL, batch: Batch, without: int | None = None, trained: VMTL | None = None
) -> VMTL:
    """A model with its encoder where it comes to rest, with all data or without those of a task.

    Training stops somewhere near: what a task is worth is the difference between two that rest.

    :param vmtl: a fitted model, which stays as it is. Its encoder is a function of the inputs.
    :param batch: all training samples.
    :param without: the position of a task whose data are taken out, or None.
    :param trained: as training left it, which the encoder stays near; ``vmtl``, where None.
    """
    out = settled(vmtl, batch, without)
    out.encoder.double()
    batch = dataclasses.replace(batch, x=batch.x.double())
    start = _vector(_parameters((trained or vmtl).encoder)).astype(np.float64)
    here = _vector(_parameters(out.encoder))
    near: float | None = None
    for _ in range(_ROUNDS):
        loss = _Loss(out, batch, without, start)
        near = loss.near = _NEAR * loss.mean_curvature() if near is None else near
        options = {"maxiter": _STEPS, "gtol": 1e-6}
        there = minimize(
            loss.value, here, jac=True, hessp=loss.curved, method="trust-ncg", options=options
        ).x
        moved, here = np.linalg.norm(there - here), there
        _put(_parameters(out.encoder), here)
        out = settled(out, batch, without)
        if moved <= _AT_REST * (1e-3 + np.linalg.norm(here - start)):
            break
    out.encoder.float()
    return out


class _Loss:
    """The negative log evidence, and what the way costs, as a function of an encoder's parameters.

    :ivar near: the cost of the way is half of this times its square.
    """

    def __init__(self, vmtl: VMTL, batch: Batch, without: int | None, start: _Vector) -> None:
        weights = nested_weights(vmtl)
        told, kept = factors(vmtl, batch), batch.observed.double()
        if without is not None:
            kept[without] = 0.0
        self._x, self._weights, self._start = batch.x, weights, start
        self._shift, self._precision = kept * told.shift, kept * told.precision
        self._draws = thinned(weights.draws, _DRAWS)
        self._encoder = copy.deepcopy(vmtl.encoder)
        self._at = start
        self._slopes: tuple[Tensor, ...] = ()
        self._loss = float("nan")
        self.near = 0.0
        self._go(start)

    def _go(self, at: _Vector) -> None:
        parameters, weights = _parameters(self._encoder), self._weights
        _put(parameters, at)
        with evaluating(self._encoder):
            phi = with_bias(self._encoder(self._x).mean, weights.event_shape[-1])
        precision = torch.einsum("tbk,tbi,tbj->tkij", self._precision, phi, phi)
        sites = Evidence(precision, self._shift.mT @ phi, weights.counts)
        loss = -log_evidence(sites, weights.prior, self._draws).mean()
        self._slopes = torch.autograd.grad(loss, parameters, create_graph=True)
        self._at, self._loss = at.copy(), float(loss.detach())

    def value(self, at: _Vector) -> tuple[float, _Vector]:
        """The loss and its gradient."""
        if not np.array_equal(at, self._at):
            self._go(at)
        way = at - self._start
        cost = self.near / 2 * float(way @ way)
        return self._loss + cost, _vector(self._slopes) + self.near * way

    def curved(self, at: _Vector, direction: _Vector) -> _Vector:
        """The Hessian times a direction."""
        if not np.array_equal(at, self._at):
            self._go(at)
        parameters = _parameters(self._encoder)
        parts = _like(parameters, direction)
        inner = torch.stack([(s * d).sum() for s, d in zip(self._slopes, parts, strict=True)]).sum()
        found = torch.autograd.grad(inner, parameters, retain_graph=True)
        return _vector(found) + self.near * direction

    def mean_curvature(self) -> float:
        """The mean of the Hessian's diagonal at the start, by Hutchinson's estimate."""
        size = len(self._start)
        probes = np.random.default_rng(0).choice([-1.0, 1.0], (8, size))
        found = [probe @ self.curved(self._start, probe) / size for probe in probes]
        return max(1e-8, float(np.mean(found)))


def _parameters(encoder: nn.Module) -> list[nn.Parameter]:
    return [p for p in encoder.parameters() if p.requires_grad]


def _vector(parts: Iterable[Tensor]) -> _Vector:
    found: _Vector = torch.cat([p.detach().flatten() for p in parts]).cpu().numpy().copy()
    return found


def _like(parameters: list[nn.Parameter], vector: _Vector) -> list[Tensor]:
    flat = torch.as_tensor(vector, device=parameters[0].device)
    parts = flat.split([p.numel() for p in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]


@torch.no_grad()
def _put(parameters: list[nn.Parameter], vector: _Vector) -> None:
    for parameter, values in zip(parameters, _like(parameters, vector), strict=True):
        parameter.copy_(values)
