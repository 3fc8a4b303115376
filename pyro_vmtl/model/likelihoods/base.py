"""What a task's representation and weights say about its targets: the contract, and what is shared.

A likelihood owns its target: the values that fit, the link, the factor by which a target enters the
posterior of weights, the parameters that are not weights, and the predictive distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import transform_to
from torch.distributions.constraints import Constraint

from pyro_vmtl.data import Batch, TargetSums, TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.parts import Part

__all__ = [
    "Family",
    "Likelihood",
    "OutputwiseLikelihood",
    "Site",
    "linear_predictor",
    "of_known",
    "quadrature",
    "with_bias",
]

_STEPS = 10
_NODES = 41  # of the trapezoidal rule for one output
_NORMALS = 64  # quasi-random normals for several
_LEAST_VARIANCE = 1e-8
_MOST = 1 - 1e-6  # of what is known of eta, the share that a single target may say
_FIRST_STEPS = 20  # Newton steps of at most 1 towards the mode of a target's own factor
_FIRST_VARIANCE = 9.0  # of eta then
_OWN_NODES = 7  # Gauss-Hermite, for the parameters of a likelihood
_OWN_STEPS = 3

Site = tuple[Tensor, Tensor]
"""The shift and the precision of Gaussian factors, ``[T, B, K]`` each."""


def linear_predictor(representations: Tensor, weights: Tensor) -> Tensor:
    """w_t z_tn + b_t.

    :param representations: z, ``[..., T, B, d_z]``.
    :param weights: ``[..., T, 1, K, d_z]``, or ``d_z + 1`` with the bias as last column.
    :return: ``[..., T, B, K]``.
    """
    weights = weights.squeeze(-3)
    representations = representations.to(weights.dtype)
    features = representations.shape[-1]
    out = representations @ weights[..., :features].mT
    if weights.shape[-1] > features:
        out = out + weights[..., features].unsqueeze(-2)
    return out


def of_known(law: dist.TorchDistribution, known: Tensor | None) -> dist.TorchDistribution:
    """The distribution of the outputs that are known.

    :param law: of all outputs, batch shape ``[..., T, B]``.
    :param known: ``[T, B, K]`` bool, or None where a sample has all outputs or none.
    :raises InputError: for outputs that are not independent given the weights.
    """
    if known is None:
        return law
    if not isinstance(law, dist.Independent):
        raise InputError(
            "some samples have some of their outputs alone, and the likelihood is of all outputs "
            "together; expected a likelihood of independent outputs, such as Gaussian, or samples "
            "with all outputs"
        )
    some: dist.TorchDistribution = law.base_dist.mask(known).to_event(1)
    return some


def with_bias(representations: Tensor, columns: int) -> Tensor:
    """What weights with so many columns are applied to, ``[..., columns]``: z, and 1 for a bias."""
    if columns == representations.shape[-1]:
        return representations
    return torch.cat([representations, torch.ones_like(representations[..., :1])], -1)


class Family(Part):
    """Settings of a likelihood; calling them with the shape of the data makes one.

    :cvar of_classes: whether the targets are classes.
    :cvar needs_closed_form: whether it is for weights in closed form alone.
    """

    of_classes: ClassVar[bool] = False
    needs_closed_form: ClassVar[bool] = True

    def __call__(self, num_tasks: int, num_outputs: int, conjugate: bool) -> Likelihood:
        """A new likelihood.

        :param num_tasks: T.
        :param num_outputs: classes, or regression outputs.
        :param conjugate: whether the weights are in closed form.
        """
        raise NotImplementedError


class Likelihood(nn.Module):
    """p(y | z, w); subclass it to bring your own.

    Where weights are in closed form, :meth:`given` is all that one output needs: derivatives come
    from autograd, and the factors of the targets from expectation propagation. A likelihood with
    parameters of its own registers them as the buffer ``theta``, ``[P]`` float64, without
    constraints, and reads them in :meth:`given`: :meth:`update` maximises the expected
    log-likelihood in them.

    Example::

        class Exponential(pv.Likelihood):
            support = constraints.nonnegative
            expects = "numbers of at least 0"

            def given(self, predictor, variance=None):
                return dist.Exponential((-predictor.squeeze(-1)).exp())

        fitted = pv.fit(tasks, settings=pv.Settings(likelihood=Exponential()))

    :ivar num_outputs: K, the rows of each task's weights.
    :ivar num_classes: C, or 0 in a regression.
    :cvar has_noise: whether there is a noise scale that is inferred with the weights.
    :cvar sites_are_exact: whether one conjugate step with the rate 1 is exact.
    :cvar factorises: whether outputs are independent given eta, so that :meth:`log_density` has one
        for each.
    :cvar is_binary: whether every output is 0 or 1, and its mean a chance.
    :cvar support: the values of a target that fit; None, all.
    :cvar expects: the same in words.
    """

    num_outputs: int = 1
    num_classes: int = 0
    has_noise: ClassVar[bool] = False
    sites_are_exact: ClassVar[bool] = False
    factorises: ClassVar[bool] = False
    is_binary: ClassVar[bool] = False
    support: ClassVar[Constraint | None] = None
    expects: ClassVar[str] = "real numbers"

    def forward(self, representations: Tensor, weights: Tensor) -> dist.TorchDistribution:
        """The distribution of the targets, batch shape ``[..., T, B]``."""
        return self.given(linear_predictor(representations, weights))

    def given(self, predictor: Tensor, variance: Tensor | None = None) -> dist.TorchDistribution:
        """The distribution of the targets given eta = w z + b, batch shape ``[..., T, B]``.

        :param predictor: eta, ``[..., T, B, K]``.
        :param variance: of eta, likewise, where a likelihood can integrate over it in closed form.
        """
        raise NotImplementedError

    # Targets

    def check(self, tasks: TaskSet) -> None:
        """Make sure that the labelled targets fit.

        :raises InputError: names the first value that does not, and its task.
        """
        if self.support is None or tasks.y.is_meta:
            return
        fits = self.support.check(tasks.y.double()).view_as(tasks.known)
        wrong = (tasks.known & ~fits).nonzero()
        if len(wrong):
            row, output = wrong[0].tolist()
            value = float(tasks.y[row].reshape(-1)[output])
            name = type(self).__name__.removesuffix("Likelihood")
            raise InputError(
                f"task {tasks.names[int(tasks.task[row])]!r} has the target {value:g}, and the "
                f"likelihood is {name}; expected {self.expects}"
            )

    def of_single_tasks(self) -> Iterable[nn.Parameter]:
        """The parameters of which every task has its own."""
        return ()

    def class_weights(self, weights: Tensor) -> Tensor:
        """Weights with a row for each class or output, from those of the linear predictor.

        :param weights: ``[..., K, q]``.
        """
        return weights

    def filled(self, batch: Batch) -> Tensor:
        """The targets, with a value that fits where there is none, ``[T, B]`` or ``[T, B, K]``."""
        targets = batch.y
        zero = targets.new_zeros(())
        if self.support is None or bool(self.support.check(zero)):
            return targets  # as in batches
        observed = batch.observed if targets.dim() == 3 else batch.mask
        return torch.where(observed, targets, transform_to(self.support)(zero))

    def learn_from(self, targets: Tensor, centre: bool = True) -> None:
        """Take the unit of the targets, or where they lie, from those of training.

        :param targets: labelled ones, ``[N]`` or ``[N, K]``; NaN where an output is not known.
        :param centre: whether their mean is taken out; without a bias it should not be.
        """

    def learn_from_sums(self, sums: TargetSums, centre: bool = True) -> None:
        """The same as :meth:`learn_from`, where nothing but sums over the targets is known.

        :param sums: over labelled targets.
        :param centre: as there.
        :raises InputError: where :meth:`learn_from` takes more than sums.
        """
        if type(self).learn_from is not Likelihood.learn_from:
            name = type(self).__name__.removesuffix("Likelihood")
            raise InputError(
                f"the likelihood is {name}, whose unit of the targets is no function of sums over "
                "rows; expected targets to take it from, such as public ones"
            )

    def standardised(self, targets: Tensor) -> Tensor:
        """Targets as :meth:`sites` takes them, ``[T, B]`` or ``[T, B, K]``."""
        return targets

    def take_noise(self, noise: Tensor) -> None:
        """Take a noise scale that was inferred with the weights, where there is one."""

    # What a target says of eta

    def log_density(self, predictor: Tensor, targets: Tensor) -> Tensor:
        """log p(y | eta), ``[..., T, B]``; with K more where :attr:`factorises`.

        :param predictor: eta, ``[..., T, B, K]`` float64.
        :param targets: of :meth:`standardised`.
        """
        out: Tensor = self.given(predictor).log_prob(targets)
        return out

    def derivatives(self, predictor: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log p(y | eta), its slopes, and its curvatures of every output by itself.

        Here by autograd; override it where there are formulae.

        :param predictor: eta, ``[..., T, B, K]`` float64.
        :param targets: of :meth:`standardised`.
        :return: :meth:`log_density`, and d log p / d eta and -d^2 log p / d eta^2,
            ``[..., T, B, K]``.
        """
        with torch.enable_grad():
            eta = predictor.detach().requires_grad_()
            log_p = self.log_density(eta, targets)
            (slope,) = torch.autograd.grad(log_p.sum(), eta, create_graph=True)
            curvature = torch.zeros_like(predictor)
            if slope.requires_grad:  # else the log density is linear
                parts = [slope] if self.factorises else slope.unbind(-1)
                rows = [torch.autograd.grad(p.sum(), eta, retain_graph=True)[0] for p in parts]
                own = [row[..., k] for k, row in enumerate(rows)]
                curvature = -rows[0] if self.factorises else -torch.stack(own, -1)
        return log_p.detach(), slope.detach(), curvature

    def first_sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What every target says of eta before anything is known of it: a start for :meth:`sites`.

        It is Laplace's approximation of p(y | eta) N(eta; 0, 9), the normal taken out again. With
        slopes that grow without bounds, as those of counts do, a step from eta = 0 would overshoot.

        :param loc: ``[T, B, K]`` float64; ``variance``: likewise.
        :param targets: of :meth:`standardised`.
        :return: slope and curvature of the factor at loc, ``[T, B, K]`` each.
        """
        eta = torch.zeros_like(loc)
        for _ in range(_FIRST_STEPS):
            _, slope, curvature = self.derivatives(eta, targets)
            step = slope - eta / _FIRST_VARIANCE
            eta = eta + (step / (curvature.clamp_min(0) + 1 / _FIRST_VARIANCE)).clamp(-1, 1)
        _, slope, curvature = self.derivatives(eta, targets)
        curvature = curvature.clamp_min(0)
        return slope + curvature * (eta - loc), curvature

    def sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What every target says of eta, where all data together say N(loc, variance).

        Of one output, or of each where they are independent, it is the Gaussian factor of
        expectation propagation (Minka, UAI 2001): with p(y | eta) in its place, mean and variance
        of eta stay as they are. What takes the factor out of N(loc, variance) is the tilt
        exp(linear z + square z^2 / 2), in standard units z, with which p(y | eta) has the mean 0
        and the variance 1; Newton steps find it. Where log p is not concave, a factor that would
        have a negative precision has the precision 0, and keeps the mean alone.

        Of several outputs it is the expected slope and curvature (Khan and Lin, AISTATS 2017), for
        which fewer nodes do. They make effects, and the scales inferred from them, smaller than
        they are, the more so the fewer samples a task has.

        :param loc: ``[T, B, K]`` float64; ``variance``: likewise.
        :param targets: of :meth:`standardised`.
        :return: slope and curvature of the factor at loc, ``[T, B, K]`` each.
        """
        joint = loc.shape[-1] > 1 and not self.factorises
        rule = quadrature(loc.shape[-1] if joint else 1)
        nodes, log_shares = (part.to(loc.device) for part in rule)
        z, log_shares = nodes[:, None, None], log_shares[:, None, None]
        variance = variance.clamp_min(_LEAST_VARIANCE)
        scale = variance.sqrt()
        log_p, slope, curvature = self.derivatives(loc + scale * z, targets)
        shares = log_shares.exp().unsqueeze(-1)
        slope, curvature = (shares * slope).sum(0), (shares * curvature).sum(0)
        if joint:
            return slope, curvature
        linear, square = (-scale * slope).clamp(-8, 8), (variance * curvature).clamp(0, 0.9)
        log_p = log_shares.unsqueeze(-1) + (log_p if self.factorises else log_p.unsqueeze(-1))
        for _ in range(_STEPS):
            w = (log_p + linear * z + 0.5 * square * z.square()).softmax(0)  # [Q, T, B, K]
            m1, m2, m3, m4 = ((w * z**power).sum(0) for power in (1, 2, 3, 4))
            away, wide = m1, 0.5 * (m2 - 1)
            h11, h12, h22 = m2 - m1.square(), 0.5 * (m3 - m1 * m2), 0.25 * (m4 - m2.square())
            determinant = (h11 * h22 - h12.square()).clamp_min(1e-12)
            step = ((h11 * wide - h12 * away) / determinant).clamp(-0.3, 0.3)
            moved = (square - step).clamp(0, _MOST)
            # The step in the mean that goes with what is left of that in the variance.
            linear = linear - ((away + h12 * (moved - square)) / h11.clamp_min(1e-9)).clamp(-2, 2)
            square = moved
        # A target that says more than all data together do: before they have settled.
        narrow = (square >= _MOST) & (m2 < 1)
        square = torch.where(narrow, 1 / m2.clamp_min(0.1), square)
        return -linear / scale, square / variance

    # Parameters that are not weights

    def log_prior(self, theta: Tensor) -> Tensor:
        """The log density of the parameters ``theta``, a scalar; flat by default."""
        return theta.new_zeros(())

    @torch.no_grad()
    def update(
        self, loc: Tensor, variance: Tensor, targets: Tensor, weight: Tensor, rate: float = 1.0
    ) -> None:
        """Move the parameters ``theta``, where there are some, by a few Newton steps.

        They maximise sum_n c_n E_q[log p(y_n | eta_n, theta)] + log p(theta): the maximisation of
        EM, the expectation being that under the posterior of weights.

        :param loc: of eta under q, ``[T, B, K]`` float64; ``variance``: likewise.
        :param targets: of :meth:`standardised`.
        :param weight: c, ``[T, B, K]``, or ``[T, B, 1]`` for all outputs: 0 where there is none.
        :param rate: the share of the way that the parameters go.
        """
        start = getattr(self, "theta", None)
        if not isinstance(start, Tensor) or not start.numel():
            return
        expected = self._expectation(loc, variance, targets, weight)
        theta = _maximised(lambda theta: expected(theta) + self.log_prior(theta), start)
        self.theta = start.lerp(theta, rate)

    @torch.no_grad()
    def slopes(
        self, loc: Tensor, variance: Tensor, targets: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """What rows say of the parameters ``theta``: sums over rows, which :meth:`move` takes.

        :param loc: as in :meth:`update`, and so are the other arguments.
        :return: the slope ``[P]`` and the Hessian ``[P, P]`` of their expected log-likelihood, or
            None where there are no parameters.
        """
        start = getattr(self, "theta", None)
        if not isinstance(start, Tensor) or not start.numel():
            return None
        _, slope, hessian = _at(self._expectation(loc, variance, targets, weight), start)
        self.theta = start
        return slope, hessian

    @torch.no_grad()
    def move(self, slope: Tensor, hessian: Tensor, rate: float = 1.0) -> None:
        """A Newton step of the parameters ``theta`` of at most 1.

        :param slope: of :meth:`slopes`, summed over all rows; ``hessian``: likewise.
        :param rate: the share of the step that is made.
        """
        start: Tensor = self.get_buffer("theta")
        _, of_prior, bend = _at(
            lambda theta: self.log_prior(theta) + 0 * theta.square().sum(), start
        )
        self.theta = start + rate * _newton(slope + of_prior, hessian + bend)

    def _expectation(
        self, loc: Tensor, variance: Tensor, targets: Tensor, weight: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """The expected log-likelihood of rows as a function of theta, which it leaves there."""
        nodes, log_shares = _own_quadrature(1 if self.factorises else loc.shape[-1])
        z = nodes.to(loc.device)[:, None, None]
        share = weight * log_shares.to(loc.device)[:, None, None, None].exp()  # [Q, T, B, K]
        eta = loc + variance.sqrt() * z

        def objective(theta: Tensor) -> Tensor:
            self.theta = theta
            log_p = self.log_density(eta, targets)
            log_p = log_p if self.factorises else log_p.unsqueeze(-1)
            return (share * log_p).sum()

        return objective

    # Predictions

    def components(
        self, loc: Tensor, variance: Tensor, noise: Tensor
    ) -> tuple[dist.TorchDistribution, dist.TorchDistribution | None]:
        """The predictive distribution as a mixture of S components, ``[S, T, B]``.

        Here eta is drawn: a Latin hypercube over draws, so that of each output every share of its
        Gaussian comes once.

        :param loc: of eta given each of S draws of partition and scales, ``[S, T, B, K]``;
            ``variance``: likewise.
        :param noise: the variance that was drawn with it, ``[S, T, 1, K]``.
        :return: the components, and the same with eta known where they integrate over it.
        """
        count = len(loc)
        ranks = torch.stack([torch.randperm(count) for _ in range(loc.shape[-1])], -1)
        nodes = torch.special.ndtri((ranks.double() + 0.5) / count).to(loc.device)
        return self.given(loc + variance.sqrt() * nodes[:, None, None]), None

    def log_predictive(
        self, loc: Tensor, variance: Tensor, targets: Tensor, noise: Tensor, site: Site
    ) -> Tensor:
        """log E[p(y | eta)] with eta ~ N(loc, variance), in the targets' own unit.

        ``[T, B, K]``, of each output, where they are independent given eta; else ``[T, B, 1]``.

        :param loc: ``[T, B, K]`` float64; ``variance``: likewise, above 0.
        :param targets: of :meth:`standardised`.
        :param noise: a variance that was inferred with the weights, ``[T, 1, K]``.
        :param site: the shift and the precision of the targets' factors, ``[T, B, K]`` each: nodes
            lie where N(loc, variance) times these do.
        """
        joint = loc.shape[-1] > 1 and not self.factorises
        rule = quadrature(loc.shape[-1] if joint else 1)
        nodes, log_shares = (part.to(loc.device)[:, None, None] for part in rule)
        if joint:
            log_p = self.log_density(loc + variance.sqrt() * nodes, targets)
            return (log_p + log_shares).logsumexp(0).unsqueeze(-1)
        shift, precision = site
        among = 1 / (1 / variance + precision)
        middle, scale = among * (loc / variance + shift), among.sqrt()
        eta = middle + scale * nodes
        log_p = self.log_density(eta, targets)
        log_p = log_p if self.factorises else log_p.unsqueeze(-1)
        log_p = log_p + dist.Normal(loc, variance.sqrt()).log_prob(eta)
        step = scale * float(nodes[1] - nodes[0])
        return log_p.logsumexp(0) + step.log()


class OutputwiseLikelihood(Likelihood):
    """Targets whose K outputs are independent given eta: a regression of another kind of numbers.

    A subclass says what one output's distribution is. Buffers that differ between outputs are
    ``[K]``.

    :param num_outputs: K; 1 for scalar targets, which then have no event dimension.
    """

    factorises = True

    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def distribution(self, predictor: Tensor) -> dist.TorchDistribution:
        """Of every output by itself, batch shape that of ``predictor``, ``[..., K]``."""
        raise NotImplementedError

    def given(self, predictor: Tensor, variance: Tensor | None = None) -> dist.TorchDistribution:
        if self.num_outputs == 1:
            return self.distribution(predictor.squeeze(-1))
        law: dist.TorchDistribution = self.distribution(predictor).to_event(1)
        return law

    def standardised(self, targets: Tensor) -> Tensor:
        targets = targets.double()
        return targets.unsqueeze(-1) if self.num_outputs == 1 else targets

    def log_density(self, predictor: Tensor, targets: Tensor) -> Tensor:
        out: Tensor = self.distribution(predictor).log_prob(targets)
        return out


@cache
def quadrature(outputs: int) -> tuple[Tensor, Tensor]:
    """Nodes for expectations over N(0, I), ``[Q, K]``, and the logarithms of their shares."""
    if outputs == 1:
        nodes = torch.linspace(-8, 8, _NODES, dtype=torch.float64)
        return nodes.unsqueeze(-1), (-0.5 * nodes.square()).log_softmax(0)
    sobol = torch.quasirandom.SobolEngine(outputs, scramble=True, seed=0)
    uniform = sobol.draw(_NORMALS, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    shares = torch.full((_NORMALS,), -math.log(_NORMALS), dtype=torch.float64)
    return torch.special.ndtri(uniform), shares


@cache
def _own_quadrature(outputs: int) -> tuple[Tensor, Tensor]:
    """The same with fewer nodes, for smooth functions that are not narrow."""
    if outputs > 1:
        return quadrature(outputs)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_OWN_NODES)
    return torch.from_numpy(nodes).unsqueeze(-1), torch.from_numpy(weights / weights.sum()).log()


def _maximised(objective: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Where Newton steps of at most 1 lead, each halved until the objective grows.

    :param theta: where they start, ``[P]``; few: the Hessian is made row by row.
    """
    for _ in range(_OWN_STEPS):
        value, slope, hessian = _at(objective, theta)
        step = _newton(slope, hessian)
        for _ in range(8):
            if bool(objective(theta + step) >= value):
                theta = theta + step
                break
            step = step / 2
        else:
            break
    return theta


def _at(objective: Callable[[Tensor], Tensor], theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, slope ``[P]`` and Hessian ``[P, P]``."""
    with torch.enable_grad():
        at = theta.detach().requires_grad_()
        value = objective(at)
        (slope,) = torch.autograd.grad(value, at, create_graph=True)
        rows = [torch.autograd.grad(entry, at, retain_graph=True)[0] for entry in slope]
    return value.detach(), slope.detach(), torch.stack(rows)


def _newton(slope: Tensor, hessian: Tensor) -> Tensor:
    """A step towards a maximum, of at most 1."""
    # Minus the Hessian, its eigenvalues made positive: steps go up wherever they start.
    sizes, axes = torch.linalg.eigh(-hessian)
    step = axes @ ((axes.mT @ slope) / sizes.abs().clamp_min(1e-6))
    return step / step.abs().max().clamp_min(1)  # shorter, and not bent: bent it may lead down
