"""Stacking: features of a task are its representations and what other tasks' classifiers say."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vmtl.data import TaskSet
from pyro_vmtl.model.encoders import Encoder
from pyro_vmtl.model.likelihoods import CategoricalLikelihood, Likelihood, with_bias
from pyro_vmtl.model.priors.sites import ConjugateWeights

__all__ = ["StackedEncoder"]

_STEPS = 18  # conjugate steps of the classifiers


class StackedEncoder(Encoder):
    """[z(x), p_u(x) of every other task u]: stacked generalisation (Wolpert 1992) across tasks.

    p_u are the class probabilities of u's own classifier, in the coordinates of its likelihood:
    of C > 2 classes, orthonormal contrasts, in which uniform chances are 0; of two, the chance of
    the second less 1/2. Classifiers are fitted by :meth:`learn_targets`, each to the rows of its
    task alone, and frozen at their posterior means. A row belongs to one task, and no task hears
    its own classifier: what is heard of a row has not seen its label.

    :param own: the encoder of z, a function of x.
    :param alone: new weights of the classifiers, whose prior borrows nothing.
    :param likelihood: of the tasks, K rows of weights.
    """

    has_density = False
    loc: Tensor
    directions: Tensor
    lender_of_slot: Tensor

    def __init__(
        self, own: Encoder, alone: ConjugateWeights, likelihood: CategoricalLikelihood
    ) -> None:
        super().__init__()
        self.own = own
        self._alone = (alone,)  # in a tuple: not a submodule, since its means alone are kept
        self.input_shape = own.input_shape
        num_tasks, rows = alone.num_tasks, likelihood.num_outputs
        self.heard = num_tasks - 1
        self.latent_dim = own.latent_dim + self.heard * rows
        others = [[u for u in range(num_tasks) if u != t] for t in range(num_tasks)]
        slots = torch.tensor(others, dtype=torch.int64).view(num_tasks, self.heard)
        self.register_buffer("lender_of_slot", slots, persistent=False)
        self.register_buffer("loc", torch.zeros_like(alone.loc))
        directions = likelihood.class_weights(torch.eye(rows, dtype=torch.float64))
        self.register_buffer("directions", directions, persistent=False)

    def learn_from(self, x: Tensor, centre: bool = True) -> None:
        self.own.learn_from(x, centre)

    def sentences(self) -> list[str]:
        return self.own.sentences()

    @torch.no_grad()
    def learn_targets(self, tasks: TaskSet, likelihood: Likelihood) -> None:
        """Fit every task's own classifier, and freeze it."""
        (alone,), batch = self._alone, tasks.dense()
        z = self.own(batch.x)
        for _ in range(_STEPS):
            alone.step(batch, z, likelihood)
        self.loc.copy_(alone.loc)

    def outputs(self, z: Tensor) -> Tensor:
        """What every classifier says of every sample, ``[T, T, B, K]``, the classifier first.

        :param z: ``[T, B, d_z]``.
        """
        features = with_bias(z.double(), self.loc.shape[-1])
        eta = torch.einsum("tbq,ukq->utbk", features, self.loc)
        if eta.shape[-1] == 1:
            return eta.sigmoid() - 0.5
        return (eta @ self.directions.T).softmax(-1) @ self.directions

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        z = self.own(x).mean
        num_tasks = len(z)
        every = self.outputs(z)
        own = torch.arange(num_tasks, device=z.device).unsqueeze(-1)
        heard = every[self.lender_of_slot, own]  # [T, L, B, K]
        heard = heard.transpose(1, 2).flatten(2).to(z.dtype)
        return dist.Delta(torch.cat([z, heard], -1), event_dim=1)
