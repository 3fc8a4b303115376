"""What a task's representation and weights say about its targets."""

import pyro.distributions as dist
import torch
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
    """

    num_outputs: int
    num_classes: int = 0

    def forward(self, representations: Tensor, weights: Tensor) -> dist.TorchDistribution:
        """The distribution of the targets, batch shape ``[..., T, B]``."""
        raise NotImplementedError


class CategoricalLikelihood(Likelihood):
    """Categorical(logits = w z + b) over the classes.

    Two classes need one row of weights, K = 1, the first class's logit being 0: with two rows, each
    N(0, I), their difference would have twice the prior variance of a logistic regression's.

    :param num_classes: C; K is C, or 1 for two classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_outputs = 1 if num_classes == 2 else num_classes

    def forward(self, representations: Tensor, weights: Tensor) -> dist.TorchDistribution:
        logits = linear_predictor(representations, weights)
        if self.num_outputs == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], -1)
        return dist.Categorical(logits=logits)


class GaussianLikelihood(Likelihood):
    """Normal(w z + b, s_t) with a learned noise scale for every task and output.

    :param num_tasks: T.
    :param num_outputs: K; 1 for scalar targets, which then have no event dimension.
    :param initial_noise: s_t at the start, in the unit of the targets.
    """

    def __init__(self, num_tasks: int, num_outputs: int = 1, initial_noise: float = 0.5) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        start = float(torch.tensor(initial_noise).expm1().log())
        self.raw_noise = nn.Parameter(torch.full((num_tasks, 1, num_outputs), start))

    @property
    def noise(self) -> Tensor:
        """s_t, ``[T, 1, K]``, in the unit of the targets."""
        # A noise of zero on a task fitted exactly would make the density infinite.
        return softplus(self.raw_noise) + 1e-4

    def forward(self, representations: Tensor, weights: Tensor) -> dist.TorchDistribution:
        loc = linear_predictor(representations, weights)
        scale = self.noise.expand_as(loc)
        if self.num_outputs == 1:
            return dist.Normal(loc.squeeze(-1), scale.squeeze(-1))
        return dist.Normal(loc, scale).to_event(1)
