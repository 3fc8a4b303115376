"""Variational posteriors of the tasks' weights."""

from collections.abc import Iterable
from typing import ClassVar, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.model.encoders import Encoder
from pyro_vmtl.model.likelihoods import Likelihood
from pyro_vmtl.model.parts import Part

__all__ = ["Lending", "MeanFieldWeights", "PointWeights", "Posterior", "WeightsPosterior"]


class Lending(Protocol):
    """By what relatedness tasks borrow: what weights in closed form need to know of it."""

    def relatedness_posterior(self) -> dist.TorchDistribution:
        """q(alpha), batch shape ``[T, 1]``."""

    def prior(self, draw: Tensor, lent: Gaussians) -> dist.TorchDistribution:
        """The prior that lenders make, given a draw of the relatedness."""


class WeightsPosterior(nn.Module):
    """q(w_t) of every task; subclass it to bring your own.

    :ivar event_shape: ``[K, d_z + 1]``, the bias as last column (``d_z`` without a bias).
    :cvar is_point: whether it is a point estimate, of which nothing can be said about uncertainty.
    :cvar is_conjugate: whether it moves by conjugate steps and takes no gradient
        (:class:`pyro_vmtl.model.ConjugateWeights`); what tasks lend is then their own evidence.
    :cvar shares_weights: whether what tasks lend each other is evidence about weights, so that a
        task or a row joins and leaves by linear algebra.
    :cvar draws_scales: whether the prior is one of many draws, each given all data.
    """

    event_shape: torch.Size
    is_point: ClassVar[bool] = False
    is_conjugate: ClassVar[bool] = False
    shares_weights: ClassVar[bool] = False
    draws_scales: ClassVar[bool] = False

    def gaussians(self) -> Gaussians:
        """The T posteriors, ``[T, K, d_z + 1]``."""
        raise NotImplementedError

    def sentences(self) -> list[str]:
        """What a reader should know of the inference of these weights."""
        return []

    def bind(self, lending: Lending) -> None:
        """Say by what relatedness these tasks borrow: called once, where they do."""

    def weights_prior(self, draw: Tensor | None) -> dist.TorchDistribution | None:
        """p(w | draw), batch shape ``[..., T, 1]``, where it is a matter of these weights.

        None: it is what the pool makes of what tasks lend.

        :param draw: of ``relatedness_weights``, ``[..., T, 1, L]``, or None.
        """
        return None

    def update(
        self,
        batch: Batch,
        encoder: Encoder,
        likelihood: Likelihood,
        last: bool = False,
        held_out: Batch | None = None,
    ) -> None:
        """Move what moves besides gradients: called once an iteration, without gradients.

        :param batch: the batch of the iteration, with a scale that makes it stand for all data.
        :param encoder: q(z | x), in the mode in which it is used.
        :param likelihood: p(y | z, w); what it owns beside gradients may move as well.
        :param last: whether training ends here, so that it may take longer.
        :param held_out: samples that an encoder does not learn from, nor the weights.
        """

    def of_single_tasks(self) -> Iterable[nn.Parameter]:
        """The parameters of which every task has its own."""
        return ()

    def lent(self) -> Gaussians:
        """What tasks lend each other, without gradient: these posteriors, as in the paper.

        Each task's evidence then comes back to it through the others, so that posteriors shrink and
        drift: this is here to reproduce the paper, not to trust an interval.
        """
        return self.gaussians().detach()

    def forward(self, draw: Tensor | None = None) -> dist.TorchDistribution:
        """q(w), batch shape ``[T, 1]``, event shape ``[K, d_z + 1]``.

        :param draw: of ``relatedness_weights``, for a posterior that depends on it.
        """
        loc, scale = self.gaussians()
        return dist.Normal(loc.unsqueeze(1), scale.unsqueeze(1)).to_event(2)


class Posterior(Part):
    """Settings of a posterior of weights of your own; calling them makes one.

    A saved model writes them down by module and class, if they keep what they were made with as
    attributes of the same names.

    Example::

        class Shared(WeightsPosterior):  # the same Gaussian for every task
            def __init__(self, num_tasks, num_outputs, latent_dim, bias):
                super().__init__()
                self.event_shape = torch.Size([num_outputs, latent_dim + int(bias)])
                self.loc = nn.Parameter(torch.zeros(self.event_shape))
                self.raw_scale = nn.Parameter(torch.full(self.event_shape, -3.0))
                self.num_tasks = num_tasks

            def gaussians(self):
                parts = Gaussians(self.loc, softplus(self.raw_scale))
                return Gaussians(*(part.expand(self.num_tasks, -1, -1) for part in parts))

        class OneForAll(Posterior):
            def __call__(self, num_tasks, num_outputs, latent_dim, bias):
                return Shared(num_tasks, num_outputs, latent_dim, bias)

        fitted = pv.fit(tasks, settings=pv.Settings(classifier=OneForAll()))
    """

    def __call__(
        self, num_tasks: int, num_outputs: int, latent_dim: int, bias: bool
    ) -> WeightsPosterior:
        """A new posterior.

        :param num_tasks: T.
        :param num_outputs: K, the rows of each task's weights.
        :param latent_dim: d_z.
        :param bias: whether the weights have a bias as their last column.
        """
        raise NotImplementedError


class MeanFieldWeights(WeightsPosterior):
    """q(w_t) = N(mu_t, diag sigma_t^2) with free parameters.

    :param num_tasks: T.
    :param num_outputs: K.
    :param latent_dim: d_z.
    :param bias: whether the weights have a bias as their last column.
    :param initial_scale: sigma at the start.
    :param initial_jitter: standard deviation of the means at the start.
    """

    def __init__(
        self,
        num_tasks: int,
        num_outputs: int,
        latent_dim: int,
        bias: bool = True,
        initial_scale: float = 0.05,
        initial_jitter: float = 0.1,
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size([num_outputs, latent_dim + int(bias)])
        shape = (num_tasks, *self.event_shape)
        self.loc = nn.Parameter(initial_jitter * torch.randn(shape))
        start = float(torch.tensor(initial_scale).expm1().log())
        self.raw_scale = nn.Parameter(torch.full(shape, start))

    def of_single_tasks(self) -> Iterable[nn.Parameter]:
        return self.parameters()

    @property
    def scale(self) -> Tensor:
        """sigma, ``[T, K, d_z + 1]``."""
        return softplus(self.raw_scale)

    def gaussians(self) -> Gaussians:
        return Gaussians(self.loc, self.scale)


class PointWeights(WeightsPosterior):
    r"""A point estimate of every task's weights: a Delta in the guide.

    Pyro takes :math:`KL(\delta_{\hat w} \| p) = -\log p(\hat w)`, so that the ELBO is the log joint
    density at the estimate: with a KL weight of 1 for ``weights`` training is MAP under the prior,
    with 0 maximum likelihood, and between the two a penalty of that weight. What is logged as
    ``kl_weights`` is minus the log density of the prior; sigma is 0, and predictions carry no
    uncertainty about the weights.

    A prior that is pooled from such points, or learned from them, would have to shrink onto them:
    a model refuses both.

    :param num_tasks: T.
    :param num_outputs: K.
    :param latent_dim: d_z.
    :param bias: whether the weights have a bias as their last column.
    :param initial_jitter: standard deviation of the weights at the start.
    """

    is_point: ClassVar[bool] = True

    def __init__(
        self,
        num_tasks: int,
        num_outputs: int,
        latent_dim: int,
        bias: bool = True,
        initial_jitter: float = 0.1,
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size([num_outputs, latent_dim + int(bias)])
        self.loc = nn.Parameter(initial_jitter * torch.randn(num_tasks, *self.event_shape))

    def of_single_tasks(self) -> Iterable[nn.Parameter]:
        return self.parameters()

    def gaussians(self) -> Gaussians:
        return Gaussians(self.loc, torch.zeros_like(self.loc))

    def forward(self, draw: Tensor | None = None) -> dist.TorchDistribution:
        return dist.Delta(self.loc.unsqueeze(1), event_dim=2)
