"""What a task's representation and weights say about its targets."""

import numpy as np
import pyro.distributions as dist
import torch
from scipy.linalg import helmert
from torch import Tensor, nn
from torch.nn.functional import softplus

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

    def sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The expected slope and curvature of log p(y | eta), eta ~ N(loc, variance).

        :param loc: ``[T, B, K]`` float64; ``variance``: likewise.
        :param targets: of :meth:`standardised`.
        :return: E[d log p / d eta] and E[-d^2 log p / d eta^2], ``[T, B, K]`` each.
        """
        raise NotImplementedError


_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
_NORMALS = 64  # quasi-random normals for the expectations of several logits


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
            noise = torch.quasirandom.SobolEngine(num_classes - 1, scramble=True, seed=0)
            uniform = noise.draw(_NORMALS, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
            normals = torch.special.ndtri(uniform)
            self.register_buffer("normals", normals, persistent=False)

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

    def sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if self.num_outputs == 1:
            nodes = torch.as_tensor(_NODES, dtype=loc.dtype, device=loc.device)
            shares = torch.as_tensor(_NODE_WEIGHTS, dtype=loc.dtype, device=loc.device)
            shares = shares / shares.sum()
            chance = (loc.unsqueeze(-1) + variance.sqrt().unsqueeze(-1) * nodes).sigmoid()
            slope = targets.unsqueeze(-1) - chance @ shares
            return slope, (chance * (1 - chance)) @ shares
        directions, normals = self._directions, self.normals
        assert isinstance(normals, Tensor)
        eta = loc + variance.sqrt() * normals[:, None, None]  # [Q, T, B, K]
        chances = (eta @ directions.T).softmax(-1)
        truth = torch.nn.functional.one_hot(targets, self.num_classes).to(loc.dtype)
        slope = (truth - chances.mean(0)) @ directions
        curvature = chances @ directions.square() - (chances @ directions).square()
        return slope, curvature.mean(0)


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
        scale = scale.expand_as(predictor)
        if self.num_outputs == 1:
            return dist.Normal(predictor.squeeze(-1), scale.squeeze(-1))
        return dist.Normal(predictor, scale).to_event(1)

    def sites(self, loc: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of a noise of 1: that of the data divides them where it is known."""
        return targets - loc, torch.ones_like(loc)
