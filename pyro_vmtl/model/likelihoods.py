"""What a task's representation and weights say about its targets."""

import math
from functools import cache

import pyro.distributions as dist
import torch
from scipy.linalg import helmert
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

__all__ = [
    "CategoricalLikelihood",
    "GaussianLikelihood",
    "Likelihood",
    "linear_predictor",
    "with_bias",
]


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


def with_bias(representations: Tensor, columns: int) -> Tensor:
    """What weights with so many columns are applied to, ``[..., columns]``: z, and 1 for a bias."""
    if columns == representations.shape[-1]:
        return representations
    return torch.cat([representations, torch.ones_like(representations[..., :1])], -1)


class Likelihood(nn.Module):
    """p(y | z, w); subclass it to bring your own.

    :ivar num_outputs: K, the rows of each task's weights.
    :ivar num_classes: C, or 0 in a regression.
    :cvar has_noise: whether there is a noise scale that is inferred with the weights.
    :cvar sites_are_exact: whether one conjugate step with the rate 1 is exact.
    """

    num_outputs: int
    num_classes: int = 0
    has_noise = False
    sites_are_exact = False

    def forward(self, representations: Tensor, weights: Tensor) -> dist.TorchDistribution:
        """The distribution of the targets, batch shape ``[..., T, B]``."""
        return self.given(linear_predictor(representations, weights))

    def given(self, predictor: Tensor, variance: Tensor | None = None) -> dist.TorchDistribution:
        """The distribution of the targets given eta = w z + b, batch shape ``[..., T, B]``.

        :param predictor: eta, ``[..., T, B, K]``.
        :param variance: of eta, likewise, where a likelihood can integrate over it in closed form.
        """
        raise NotImplementedError

    def standardised(self, targets: Tensor) -> Tensor:
        """Targets as :meth:`sites` takes them, ``[T, B]`` or ``[T, B, K]``."""
        return targets

    def take_noise(self, noise: Tensor) -> None:
        """Take a noise scale that was inferred with the weights, where there is one."""

    def derivatives(self, predictor: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log p(y | eta), its slopes, and its curvatures of every output by itself.

        :param predictor: eta, ``[..., T, B, K]`` float64.
        :param targets: of :meth:`standardised`.
        :return: log p, ``[..., T, B]``, and d log p / d eta and -d^2 log p / d eta^2, with K more.
        """
        raise NotImplementedError

    def sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What every target says of eta, where all data together say N(loc, variance).

        Of one output it is the Gaussian factor of expectation propagation (Minka, UAI 2001): with
        p(y | eta) in its place, mean and variance of eta stay as they are. What takes the factor
        out of N(loc, variance) is the tilt exp(linear z + square z^2 / 2), in standard units z,
        with which p(y | eta) has the mean 0 and the variance 1; Newton steps find it.

        Of several outputs it is the expected slope and curvature (Khan and Lin, AISTATS 2017), for
        which fewer nodes do. They make effects, and the scales inferred from them, smaller than
        they are, the more so the fewer samples a task has.

        :param loc: ``[T, B, K]`` float64; ``variance``: likewise.
        :param targets: of :meth:`standardised`.
        :return: slope and curvature of the factor at loc, ``[T, B, K]`` each.
        """
        nodes, log_shares = (part.to(loc.device) for part in _quadrature(loc.shape[-1]))
        z, log_shares = nodes[:, None, None], log_shares[:, None, None]
        variance = variance.clamp_min(1e-6)
        scale = variance.sqrt()
        log_p, slope, curvature = self.derivatives(loc + scale * z, targets)
        shares = log_shares.exp().unsqueeze(-1)
        slope, curvature = (shares * slope).sum(0), (shares * curvature).sum(0)
        if loc.shape[-1] > 1:
            return slope, curvature
        linear, square = -scale * slope, (variance * curvature).clamp(0, 0.9)
        log_p = (log_shares + log_p).unsqueeze(-1)
        for _ in range(_STEPS):
            w = (log_p + linear * z + 0.5 * square * z.square()).softmax(0)  # [Q, T, B, 1]
            m1, m2, m3, m4 = ((w * z**power).sum(0) for power in (1, 2, 3, 4))
            away, wide = m1, 0.5 * (m2 - 1)
            h11, h12, h22 = m2 - m1.square(), 0.5 * (m3 - m1 * m2), 0.25 * (m4 - m2.square())
            determinant = (h11 * h22 - h12.square()).clamp_min(1e-12)
            linear = linear - ((h22 * away - h12 * wide) / determinant).clamp(-2, 2)
            square = square - ((h11 * wide - h12 * away) / determinant).clamp(-0.3, 0.3)
            square = square.clamp(0, 0.98)
        return -linear / scale, square / variance


_STEPS = 10
_NODES = 41  # of the trapezoidal rule for one output
_NORMALS = 64  # quasi-random normals for several


@cache
def _quadrature(outputs: int) -> tuple[Tensor, Tensor]:
    """Nodes for expectations over N(0, I), ``[Q, K]``, and the logarithms of their shares."""
    if outputs == 1:
        nodes = torch.linspace(-8, 8, _NODES, dtype=torch.float64)
        return nodes.unsqueeze(-1), (-0.5 * nodes.square()).log_softmax(0)
    sobol = torch.quasirandom.SobolEngine(outputs, scramble=True, seed=0)
    uniform = sobol.draw(_NORMALS, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    shares = torch.full((_NORMALS,), -math.log(_NORMALS), dtype=torch.float64)
    return torch.special.ndtri(uniform), shares


def _contrasts(num_classes: int) -> Tensor:
    """Orthonormal contrasts of C classes, ``[C, C - 1]`` float64: columns of a Helmert matrix."""
    return torch.from_numpy(helmert(num_classes).T.copy())


class CategoricalLikelihood(Likelihood):
    """Categorical(logits = w z + b) over the classes.

    Two classes need one row of weights, K = 1, the first class's logit being 0: with two rows, each
    N(0, I), their difference would have twice the prior variance of a logistic regression's. In the
    same way C classes have C - 1 contrasts: in the direction that is left, in which all logits grow
    alike, data say nothing, and all tasks agree.

    :param num_classes: C.
    :param contrasts: whether the weights are those of orthonormal contrasts, K = C - 1, or of the
        classes, K = C (the paper). Two classes have one row either way.
    """

    def __init__(self, num_classes: int, contrasts: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.contrasts = contrasts and num_classes > 2
        self.num_outputs = (
            1 if num_classes == 2 else num_classes - 1 if self.contrasts else num_classes
        )
        if self.contrasts:
            directions = _contrasts(num_classes)
            self.register_buffer("directions", directions, persistent=False)

    def given(self, predictor: Tensor, variance: Tensor | None = None) -> dist.TorchDistribution:
        if self.num_outputs == 1:
            predictor = torch.cat([torch.zeros_like(predictor), predictor], -1)
        elif self.contrasts:
            predictor = predictor @ self._directions.to(predictor.dtype).T
        return dist.Categorical(logits=predictor)

    @property
    def _directions(self) -> Tensor:
        assert isinstance(self.directions, Tensor)
        return self.directions

    def class_weights(self, weights: Tensor) -> Tensor:
        """Weights of the classes, ``[..., C, q]``, from those of contrasts, ``[..., C - 1, q]``."""
        if not self.contrasts:
            return weights
        return self._directions.to(weights.dtype) @ weights

    def derivatives(self, predictor: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.num_outputs == 1:
            predictor = predictor.squeeze(-1)
            chance = predictor.sigmoid()
            log_p = logsigmoid(torch.where(targets > 0, predictor, -predictor))
            slope, curvature = targets - chance, chance * (1 - chance)
            return log_p, slope.unsqueeze(-1), curvature.unsqueeze(-1)
        directions = self._directions
        log_chances = (predictor @ directions.T).log_softmax(-1)
        chances = log_chances.exp()
        expected = chances @ directions
        index = targets.expand(log_chances.shape[:-1]).unsqueeze(-1)
        curvature = chances @ directions.square() - expected.square()
        return log_chances.gather(-1, index).squeeze(-1), directions[targets] - expected, curvature


class GaussianLikelihood(Likelihood):
    """Normal(w z + b, s_t) with a noise scale for every task and output.

    :param num_tasks: T.
    :param num_outputs: K; 1 for scalar targets, which then have no event dimension.
    :param initial_noise: s_t at the start, in the unit of the targets.
    :param learned: whether the noise is a parameter that a gradient moves; else it is inferred with
        the weights and put here by :meth:`take_noise`, and targets are standardised inside by what
        :meth:`standardise_by` was told.

    :ivar target_loc: what is subtracted from the targets inside, ``[K]`` float64; ``target_scale``:
        what they are divided by then. Distributions are in the targets' own unit.
    """

    has_noise = True
    sites_are_exact = True
    target_loc: Tensor
    target_scale: Tensor

    def __init__(
        self,
        num_tasks: int,
        num_outputs: int = 1,
        initial_noise: float = 0.5,
        learned: bool = True,
    ) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        start = float(torch.tensor(initial_noise).expm1().log())
        raw = torch.full((num_tasks, 1, num_outputs), start)
        if learned:
            self.raw_noise = nn.Parameter(raw)
        else:
            self.register_buffer("raw_noise", raw.double())
            self.register_buffer("target_loc", torch.zeros(num_outputs, dtype=torch.float64))
            self.register_buffer("target_scale", torch.ones(num_outputs, dtype=torch.float64))
        self.learned = learned

    @property
    def noise(self) -> Tensor:
        """s_t, ``[T, 1, K]``, in the unit of the targets."""
        # A noise of zero on a task fitted exactly would make the density infinite.
        noise = softplus(self.raw_noise) + 1e-4
        return noise if self.learned else noise * self.target_scale

    def take_noise(self, noise: Tensor) -> None:
        """Put an inferred noise scale in its place, ``[T, K]``, of the standardised targets."""
        raw = (noise - 1e-4).clamp_min(1e-6)
        self.raw_noise.copy_((raw + (-(-raw).expm1()).log()).unsqueeze(1))

    def standardise_by(self, targets: Tensor, centre: bool = True) -> None:
        """Take the mean and the standard deviation of these targets, ``[N]`` or ``[N, K]``.

        :param centre: whether the mean is subtracted; without a bias it should not be.
        """
        targets = targets.double().reshape(-1, self.num_outputs)
        scale = targets.std(0, correction=0)
        if centre:
            self.target_loc.copy_(targets.mean(0))
        self.target_scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))

    def standardised(self, targets: Tensor) -> Tensor:
        targets = targets.double()
        if self.num_outputs == 1:
            targets = targets.unsqueeze(-1)
        return (targets - self.target_loc) / self.target_scale

    def given(
        self, predictor: Tensor, variance: Tensor | None = None, noise: Tensor | None = None
    ) -> dist.TorchDistribution:
        """See :class:`Likelihood`.

        :param noise: variances of the standardised targets that take the place of the likelihood's
            own, broadcasting over ``predictor``.
        """
        scale = self.noise
        if not self.learned:
            predictor = self.target_loc + self.target_scale * predictor
            if noise is not None:
                scale = noise.sqrt() * self.target_scale
        if variance is not None:
            scale = (scale.square() + variance * self.target_scale.square()).sqrt()
        return self._normal(predictor, scale)

    def forward(self, representations: Tensor, weights: Tensor) -> dist.TorchDistribution:
        law = self.given(linear_predictor(representations, weights))
        loc, scale = law.mean, law.variance.sqrt()
        if self.num_outputs == 1:
            loc, scale = loc.unsqueeze(-1), scale.unsqueeze(-1)
        # Weights in closed form are in float64, and targets are not.
        return self._normal(loc.to(representations.dtype), scale.to(representations.dtype))

    def _normal(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        scale = scale.expand_as(loc)
        if self.num_outputs == 1:
            return dist.Normal(loc.squeeze(-1), scale.squeeze(-1))
        return dist.Normal(loc, scale).to_event(1)

    def sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of a noise of 1: that of the data divides them where it is known."""
        return targets - loc, torch.ones_like(loc)
