"""Weights inferred from a task's class means by a shared network: VMTL-AC."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.encoders import Encoder, mlp
from pyro_vmtl.model.evaluation import evaluating
from pyro_vmtl.model.likelihoods import Likelihood
from pyro_vmtl.model.posteriors import WeightsPosterior

__all__ = ["AmortisedWeights"]


class AmortisedWeights(WeightsPosterior):
    r"""The paper's amortised classifier (VMTL-AC): one network for all tasks and classes.

    .. math::
        q(w_{tc} \mid D_t) = N\big(\mu_\psi(h_{tc}), \mathrm{diag}\,\sigma_\psi(h_{tc})^2\big),
        \qquad h_{tc} = \frac{1}{N_{tc}} \sum_{n : y_{tn} = c} E[z_{tn}]

    The rows of a classifier are a function of the mean feature of their class: a task with few
    samples gains from what the network has learned about classifiers on all the others. Two
    classes have one row, the log odds of the second: its context is the difference of the two
    means. In a regression the context is the mean feature of the task, and all rows come from it.
    A class that a task has no sample of, or two classes of which one is missing, has no mean: its
    context is a learned vector.

    **The means** are those of the training data seen, not of one batch. The encoder changes from
    step to step, so that a mean of everything ever seen would be stale, and the mean of one batch
    would be noisy. So a sum of features and a count of samples run for each class, decaying alike
    in each step that shows the class:

    .. math::
        S \leftarrow \rho S + (1 - \rho) \sum_n s_n E[z_n], \quad
        W \leftarrow \rho W + (1 - \rho) \sum_n s_n, \quad
        h = S / W

    with :math:`s_n` the inverse inclusion probability. The ratio needs no correction for having
    started at 0: with a fixed encoder and whole batches it is the exact mean from the first step
    on. The features are those without dropout, and no gradient flows through the means into the
    encoder. They move in :meth:`VMTL.update`, are saved with the model, and predictions use them.

    :param num_tasks: T.
    :param num_outputs: K.
    :param latent_dim: d_z.
    :param num_classes: C, or 0 in a regression; K is C, or 1 for two classes.
    :param bias: whether the weights have a bias as their last column.
    :param hidden: width of the network's hidden layer.
    :param decay: :math:`\rho`, in [0, 1).
    :param initial_scale: sigma at the start.
    :param initial_jitter: standard deviation of the means at the start, per unit of the hidden
        layer's root mean square.
    """

    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        num_tasks: int,
        num_outputs: int,
        latent_dim: int,
        num_classes: int = 0,
        bias: bool = True,
        hidden: int = 128,
        decay: float = 0.9,
        initial_scale: float = 0.05,
        initial_jitter: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise InputError(f"the class means' decay is {decay}; expected a share in [0, 1)")
        if num_classes and num_outputs != (1 if num_classes == 2 else num_classes):
            raise InputError(
                f"{num_classes} classes have {num_outputs} rows of weights; expected one a class, "
                "or one for two classes, to infer from class means"
            )
        self.event_shape = torch.Size([num_outputs, latent_dim + int(bias)])
        self.num_classes = num_classes
        self.decay = decay
        # A class has one row, the context of a regression all of them.
        self._rows = 1 if num_classes else num_outputs
        columns = self.event_shape[-1]
        self.network = mlp((latent_dim,), (hidden,), self._rows * 2 * columns)
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            # [rows, (mean, raw scale), columns]
            weight = last.weight.view(self._rows, 2, columns, hidden)
            offset = last.bias.view(self._rows, 2, columns)
            weight[:, 0].normal_(0, initial_jitter * hidden**-0.5)
            weight[:, 1] = 0
            offset[:, 0] = 0
            offset[:, 1] = math.log(math.expm1(initial_scale))
        self.absent = nn.Parameter(torch.zeros(latent_dim))
        contexts = max(1, num_classes)
        self.register_buffer("sums", torch.zeros(num_tasks, contexts, latent_dim))
        self.register_buffer("counts", torch.zeros(num_tasks, contexts, 1))

    def contexts(self) -> Tensor:
        """What the rows are inferred from, ``[T, C, d_z]``; C is 1 for two classes, or none."""
        seen = self.counts > 0
        # Where nothing was seen the quotient is not used; it must not be NaN all the same.
        means = self.sums / self.counts.masked_fill(~seen, 1)
        if self.num_classes == 2:
            means, seen = means[:, 1:] - means[:, :1], seen.all(1, keepdim=True)
        return torch.where(seen, means, self.absent)

    def gaussians(self) -> Gaussians:
        contexts = self.contexts()
        out: Tensor = self.network(contexts.flatten(0, 1))
        out = out.view(len(contexts), -1, 2, self.event_shape[-1])
        loc, raw_scale = out.unbind(-2)
        # The floor keeps the KL finite where the recursion would shrink scales to nothing.
        return Gaussians(loc, softplus(raw_scale) + 1e-6)

    def update(
        self,
        batch: Batch,
        encoder: Encoder,
        likelihood: Likelihood,
        last: bool = False,
        held_out: Batch | None = None,
    ) -> None:
        with evaluating(encoder):  # what is remembered has no noise
            self.observe(batch, encoder(batch.x).mean)

    @torch.no_grad()
    def observe(self, batch: Batch, features: Tensor) -> None:
        """Let the running means of classes take in a batch.

        :param features: the encoder's means of its representations, ``[T, B, d_z]``, no gradient.
        """
        members = (batch.mask * batch.scale).to(features).unsqueeze(-1)
        if self.num_classes:
            members = members * one_hot(batch.y, self.num_classes)
        count = members.sum(1).unsqueeze(-1)
        # Only where the class is in the batch: a rare one would fade away, and count as absent.
        rate = (1 - self.decay) * (count > 0)
        self.sums += rate * (members.mT @ features - self.sums)
        self.counts += rate * (count - self.counts)
