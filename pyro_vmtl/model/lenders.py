"""Who lends: the posteriors that a task's prior is pooled from. No gradient flows into them."""

from __future__ import annotations

import copy
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.encoders import Encoder
from pyro_vmtl.model.evaluation import evaluating
from pyro_vmtl.model.likelihoods import Likelihood
from pyro_vmtl.model.pools import Pool, Standard
from pyro_vmtl.model.posteriors import WeightsPosterior

__all__ = ["Anchored", "Lenders", "Program", "Recursive"]

_RENEWAL = 0.1  # of the moments of features in an iteration: the encoder learns, batches are small


class Program(Protocol):
    """What lenders see of a model: the parts that lend, and how another of its kind is made."""

    num_tasks: int
    encoder: Encoder
    classifier: WeightsPosterior
    likelihood: Likelihood
    tempering: dict[str, float]

    def __init__(
        self,
        num_tasks: int,
        encoder: Encoder,
        classifier: WeightsPosterior,
        likelihood: Likelihood,
        *,
        pool: Pool,
    ) -> None: ...


class Lenders(nn.Module):
    """The source of the components; subclass it to bring your own.

    All three return detached Gaussians, or None while there is nothing to lend: the prior is then
    N(0, I).

    :cvar own_evidence: whether each posterior lent comes from its task's own data alone.
    :cvar observes: whether they learn from :meth:`observe`.
    """

    own_evidence = False
    observes = False

    def bind(self, vmtl: Program) -> None:
        """Called once, at the end of the model's construction."""

    def weights(self, vmtl: Program) -> Gaussians | None:
        """The tasks' weight posteriors, ``[T, K, d_z + 1]``."""
        raise NotImplementedError

    def layers(self, vmtl: Program) -> Gaussians | None:
        """The posteriors of the tasks' encoder layers, ``[T, inputs + 1, d_z]``."""
        raise NotImplementedError

    def views(self, vmtl: Program, views: Tensor) -> Gaussians | None:
        """q(z | x_tn, D_i): the samples as seen through the tasks, encoded; ``[T, B, T, d_z]``.

        :param views: ``[T, B, T, *input]``.
        """
        by_lender = views.movedim(2, 0)  # an encoder per task is applied to views through its task
        with evaluating(vmtl.encoder), torch.no_grad():  # what is lent has no dropout noise
            law = vmtl.encoder(by_lender.flatten(1, 2))
        base = getattr(law, "base_dist", law)
        if not isinstance(base, dist.Normal):
            raise InputError(
                f"the encoder gives a {type(law).__name__}; expected Gaussian representations, "
                "which tasks can lend to each other"
            )
        shape = (*by_lender.shape[:3], -1)
        return Gaussians(*(p.reshape(shape).movedim(0, 2) for p in (base.loc, base.scale)))

    def advance(self) -> None:
        """Called at the end of an iteration, when its gradient step has been made."""

    def observe(self, features: Tensor, counts: Tensor) -> None:
        """Called at the end of an iteration with what weights are applied to, if ``observes``.

        :param features: representations, the bias's 1 included, ``[T, B, q]``.
        :param counts: for how many samples each stands, ``[T, B]``; 0 for none.
        """

    @property
    def moments(self) -> Tensor | None:
        """Second moments of the features, ``[T, q, q]``; None where they are not observed."""
        return None

    def programs(self) -> list[Program]:
        """Further models whose ELBOs are to be trained beside the main one."""
        return []


class Recursive(Lenders):
    """The paper's: the tasks' posteriors of the previous iteration lend to each other.

    At the time a training step is evaluated, the parameters are those that the previous step left:
    the components are the current posteriors without gradient. Before the first step there is no
    previous iteration, and the prior is N(0, I).

    Each task's evidence comes back to it through the others, so posteriors shrink and drift: use
    this to reproduce the paper, not to trust an interval.
    """

    started: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("started", torch.tensor(False))
        # The Python twin of the buffer, so that no step waits for a device to answer.
        self._started = False

    def advance(self) -> None:
        if not self._started:
            self._started = True
            self.started.fill_(True)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._started = bool(self.started)

    def weights(self, vmtl: Program) -> Gaussians | None:
        return vmtl.classifier.gaussians().detach() if self._started else None

    def layers(self, vmtl: Program) -> Gaussians | None:
        layer = vmtl.encoder.layer()
        return layer.detach() if self._started and layer is not None else None

    def views(self, vmtl: Program, views: Tensor) -> Gaussians | None:
        return super().views(vmtl, views) if self._started else None


class Anchored(Lenders):
    """Every task lends what its own data alone said, q0(w_i | D_i) under N(0, I).

    The anchor is a second program with the pool ``standard``: each task's evidence enters a
    borrower's prior once, as p(w_t | D_1:T without t) demands. It is trained in the same pass (its
    loss is added), reads the main encoder's output and the parameters of the main likelihood (the
    noise of a regression) detached, and only its posteriors are lent.
    """

    anchor: Program
    own_evidence = True
    observes = True
    second_moments: Tensor
    observed: Tensor

    def bind(self, vmtl: Program) -> None:
        encoder: Encoder
        layer = vmtl.encoder.layer()
        if layer is not None and layer.loc.shape[0] == vmtl.num_tasks > 1:
            encoder = copy.deepcopy(vmtl.encoder)  # the tasks' own layers are lent, so learned here
        else:
            encoder = _Detached(vmtl.encoder)
        self.anchor = type(vmtl)(
            vmtl.num_tasks,
            encoder,
            copy.deepcopy(vmtl.classifier),
            _DetachedLikelihood(vmtl.likelihood),
            pool=Standard(),
        )
        self.anchor.tempering = vmtl.tempering  # one dictionary: both programs temper alike
        # A narrow start would pass for evidence until training has widened it.
        self.anchor.classifier.forget()
        size = vmtl.classifier.event_shape[-1]
        self.register_buffer("second_moments", torch.zeros(vmtl.num_tasks, size, size))
        self.register_buffer("observed", torch.tensor(False))

    @torch.no_grad()
    def observe(self, features: Tensor, counts: Tensor) -> None:
        moments = (features * counts.unsqueeze(-1)).mT @ features
        moments = moments / counts.sum(-1)[:, None, None].clamp_min(1e-12)
        rate = torch.where(self.observed, _RENEWAL, 1.0).to(moments)
        self.second_moments.lerp_(moments, rate)
        self.observed.fill_(True)

    @property
    def moments(self) -> Tensor:
        return self.second_moments

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, buffer in self._buffers.items():  # models of earlier versions lack them
            state_dict.setdefault(f"{prefix}{name}", buffer)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def weights(self, vmtl: Program) -> Gaussians | None:
        return self.anchor.classifier.gaussians().detach()

    def layers(self, vmtl: Program) -> Gaussians | None:
        layer = self.anchor.encoder.layer()
        return None if layer is None else layer.detach()

    def programs(self) -> list[Program]:
        return [self.anchor]


class _Detached(Encoder):
    """The main program's encoder, read without gradient and owned by the main program."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.latent_dim = encoder.latent_dim
        self.has_density = encoder.has_density
        self._encoder = (
            encoder,
        )  # in a tuple: not a submodule, its parameters are not the anchor's

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        with torch.no_grad():
            out: dist.TorchDistribution = self._encoder[0](x)
        return out


class _DetachedLikelihood(Likelihood):
    """The main program's likelihood, whose parameters it learns, not the anchor.

    An anchor that starts as wide as N(0, I) takes all it sees for noise at first. With a noise
    scale of its own it would still believe so when the main program has long known better, and lend
    next to nothing.
    """

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        self.num_outputs = likelihood.num_outputs
        self.num_classes = likelihood.num_classes
        self._likelihood = (likelihood,)  # in a tuple: not a submodule

    def forward(self, representations: Tensor, weights: Tensor) -> dist.TorchDistribution:
        likelihood = self._likelihood[0]
        fixed = {name: value.detach() for name, value in likelihood.named_parameters()}
        out: dist.TorchDistribution = functional_call(likelihood, fixed, (representations, weights))
        return out

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Anchors of earlier versions had a noise scale of their own.
        for name in [name for name in state_dict if name.startswith(prefix)]:
            del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
