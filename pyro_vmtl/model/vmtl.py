"""Variational multi-task learning as a Pyro model and guide (Shen et al., NeurIPS 2021)."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import Gaussians, kl_or_estimate
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.borrowing import Borrowing
from pyro_vmtl.model.encoders import Encoder
from pyro_vmtl.model.evaluation import evaluating
from pyro_vmtl.model.likelihoods import Likelihood, of_known
from pyro_vmtl.model.pools import Mixture, Pool, Standard
from pyro_vmtl.model.posteriors import WeightsPosterior

__all__ = ["SITES", "VMTL"]

SITES = ("weights", "representations")
"""The two latent sites of a task; ``relatedness_<site>`` says from whom each borrows."""

# Parameters live in the modules, not in Pyro's global store: two models never share by accident.
pyro.settings.set(module_local_params=True)


class VMTL(PyroModule):
    r"""T related tasks that lend each other their posteriors as priors.

    .. math::
        p(w_t) = \sum_{i \neq t} \alpha_{ti}\, q(w_i), \qquad
        y_{tn} \sim p(y \mid z_{tn}, w_t), \qquad
        z_{tn} \sim q(z \mid x_{tn})

    Sample sites: ``relatedness_weights`` (:math:`\alpha`, ``[T, 1, L]``),
    ``relatedness_representations`` (:math:`\beta`), ``weights`` (``[T, 1, K, d_z + 1]``, the bias
    as last column), ``representations`` (``[T, B, d_z]``) and ``targets`` (``[T, B]`` or
    ``[T, B, K]``).
    Plates: ``tasks`` (dim -2) and ``samples`` (dim -1). Any ELBO or effect handler of Pyro works on
    ``model`` and ``guide``: running them changes nothing. What moves besides gradients moves in
    :meth:`update`.

    Example::

        >>> from pyro.infer import SVI, TraceMeanField_ELBO
        >>> from pyro.optim import Adam
        >>> import pyro_vmtl as pv
        >>> tasks = pv.digit_domains(shots=3).train
        >>> vmtl = pv.build(tasks, pool=pv.Mixture(), classifier="mean_field")
        >>> svi = SVI(vmtl.model, vmtl.guide, Adam({"lr": 0.003}), TraceMeanField_ELBO())
        >>> batch = tasks.dense()
        >>> for _ in range(1000):
        ...     loss = svi.step(batch)
        ...     vmtl.update(batch)

    :param num_tasks: T.
    :param encoder: q(z | x).
    :param classifier: q(w).
    :param likelihood: p(y | z, w).
    :param pool: how the lenders become the prior of the weights. What they lend is a matter of the
        classifier (:meth:`WeightsPosterior.lent`): their own evidence where it is in closed form,
        else their posteriors of the previous iteration, and N(0, I) before there is one.
    :param representation_pool: the same for representations. Where every sample has its own (a
        Gaussian encoder), it pools the sample as seen through the other tasks, in training, for
        batches that hold such views; for an encoder with a Bayesian layer a task, the layers.
    :param empirical_bayes: model and guide share the relatedness logits (the paper).
    :param temperature: of the relaxed relatedness at the start.

    :ivar tempering: the KL weight of each site, ``{"weights": 1.0, "representations": 1.0}``: 1 is
        Bayes' rule, less a tempered posterior, 0 leaves the site's KL out. A site's relatedness
        takes the weight of the site.
    """

    def __init__(
        self,
        num_tasks: int,
        encoder: Encoder,
        classifier: WeightsPosterior,
        likelihood: Likelihood,
        *,
        pool: Pool | None = None,
        representation_pool: Pool | None = None,
        empirical_bayes: bool = False,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.encoder = encoder
        self.classifier = classifier
        self.likelihood = likelihood
        self.pool = Mixture() if pool is None else pool
        self.representation_pool = (
            Standard() if representation_pool is None else representation_pool
        )
        self.tempering = dict.fromkeys(SITES, 1.0)
        self._untempered = False
        self.borrowing = nn.ModuleDict()
        self._has_lenders = False  # the first iteration has no previous one
        if self.representation_pool.borrowing is not None:
            raise InputError(
                f"the representation pool is {self.representation_pool}, a prior of weights; "
                "expected Standard, Mixture, Linear, Geometric or Power"
            )
        if num_tasks > 1:  # one task has nobody to borrow from: its prior is N(0, I)
            shapes = {
                "weights": (self.pool, classifier.event_shape),
                "representations": (self.representation_pool, self._lent_shape()),
            }
            for site, (chosen, shape) in shapes.items():
                if chosen.borrows:
                    kind = chosen.borrowing or Borrowing
                    self.borrowing[site] = kind(
                        chosen, num_tasks, shape, empirical_bayes, temperature
                    )
        if classifier.is_point and self.pool.borrows:
            raise InputError(
                f"the pool is {self.pool}, and the weights are point estimates, whose scales of 0 "
                "nobody can borrow; expected the pool Standard"
            )
        if "weights" in self.borrowing:
            self._borrowing("weights").bind(classifier)
            classifier.bind(self._borrowing("weights"))

    def get_extra_state(self) -> Tensor:
        """Whether there has been an iteration whose posteriors tasks can lend each other."""
        return torch.tensor(self._has_lenders)

    def set_extra_state(self, state: Any) -> None:
        """Take what :meth:`get_extra_state` gave."""
        self._has_lenders = bool(state)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    @property
    def needs_views(self) -> bool:
        """Whether the prior of the representations mixes training samples seen through tasks."""
        return "representations" in self.borrowing and self.encoder.has_density

    def _lent_shape(self) -> torch.Size:
        """Of what tasks lend each other of their representations: z, or an encoder's layer."""
        if self.encoder.has_density:
            return torch.Size([self.encoder.latent_dim])
        layer = self.encoder.layer()
        if self.representation_pool.borrows and (layer is None or len(layer.loc) != self.num_tasks):
            raise InputError(
                f"the representation pool is {self.representation_pool}, and the encoder has "
                f"{'no Bayesian layer' if layer is None else 'one layer for all tasks'}; expected "
                "Gaussian representations, or a Bayesian layer for each of the "
                f"{self.num_tasks} tasks, to borrow between, or the representation pool Standard"
            )
        return torch.Size() if layer is None else layer.loc.shape[1:]

    def scale_parameters(self) -> list[nn.Parameter]:
        """What standard deviations are made of: of weights, of layers, and of noise on targets."""
        return [
            parameter
            for module in (self.classifier, self.encoder, self.likelihood)
            for name, parameter in module.named_parameters()
            if name.endswith(("raw_scale", "raw_noise"))
        ]

    def set_temperature(self, temperature: float) -> None:
        """Set the temperature of the relaxed relatedness of every site."""
        for site in self.borrowing:
            self._borrowing(site).temperature.fill_(temperature)

    @contextlib.contextmanager
    def untempered(self) -> Iterator[None]:
        """All KL weights 1, as in the ELBO, whatever training uses."""
        self._untempered = True
        try:
            yield
        finally:
            self._untempered = False

    def _tempered(self, site: str) -> contextlib.AbstractContextManager[object]:
        conjugate = site == "weights" and self.classifier.is_conjugate  # it knows Bayes' rule alone
        weight = 1.0 if self._untempered or conjugate else self.tempering[site]
        if weight == 1:
            return contextlib.nullcontext()
        if weight == 0:  # poutine.scale refuses 0
            return _masked()
        context: contextlib.AbstractContextManager[object] = poutine.scale(scale=weight)
        return context

    def _relatedness(self, of: str) -> dict[str, Tensor]:
        """Sample the relatedness sites from the ``prior`` (model) or the ``posterior`` (guide)."""
        draws = {}
        for site, borrowing in self.borrowing.items():
            # Shared logits contribute exactly nothing; masking keeps rounding noise out as well.
            context = _masked() if borrowing.empirical_bayes else self._tempered(site)
            with context:
                fn = getattr(borrowing, f"relatedness_{of}")()
                draws[site] = pyro.sample(f"relatedness_{site}", fn)
        return draws

    def _plate_of_samples(self, batch: Batch) -> contextlib.ExitStack:
        # Mask and scale act inside `samples` only: around `weights` they would count KL(w) B times.
        stack = contextlib.ExitStack()
        stack.enter_context(pyro.plate("samples", batch.mask.shape[1], dim=-1))
        stack.enter_context(poutine.mask(mask=batch.mask))  # type: ignore[call-overload]
        stack.enter_context(poutine.scale(scale=batch.scale))
        return stack

    def _borrowing(self, site: str) -> Borrowing:
        borrowing = self.borrowing[site]
        assert isinstance(borrowing, Borrowing)
        return borrowing

    def weights_prior(self, draw: Tensor | None) -> dist.TorchDistribution:
        """p(w | alpha), batch shape ``[..., T, 1]``; where nobody lends, N(0, I).

        In closed form its scale is inferred.

        :param draw: of ``relatedness_weights``, ``[..., T, 1, L]``, or None.
        """
        own = self.classifier.weights_prior(draw)
        if own is not None:
            return own
        if draw is None or not self._has_lenders:
            shape = (self.num_tasks, 1, *self.classifier.event_shape)
            return _standard_normal(shape, 2, self.classifier.gaussians().loc)
        return self._borrowing("weights").prior(draw, self.classifier.lent())

    def layer_prior(self, layer: Gaussians, draw: Tensor | None) -> dist.TorchDistribution:
        """p(Phi | beta) of the encoder's Bayesian layer, batch shape ``[1 or T, 1]``.

        :param layer: q(Phi), ``[1 or T, inputs + 1, d_z]``.
        :param draw: of ``relatedness_representations``, ``[..., T, 1, L]``, or None.
        """
        if draw is None or not self._has_lenders:
            return _standard_normal((len(layer.loc), 1, *layer.loc.shape[1:]), 2, layer.loc)
        return self._borrowing("representations").prior(draw, layer.detach())

    def representations_prior(self, batch: Batch, draw: Tensor | None) -> dist.TorchDistribution:
        """p(z | x, beta), batch shape ``[..., T, B]``: N(0, I) but for samples with views.

        :param batch: with the views of its samples through every task, or without.
        :param draw: of ``relatedness_representations``, ``[..., T, 1, L]``, or None.
        """
        if draw is not None and batch.views is not None and self._has_lenders:
            lenders = self._seen_through_tasks(batch.views.x)
            return self._borrowing("representations").prior(draw, lenders, batch.views.present)
        return _standard_normal((*batch.mask.shape, self.encoder.latent_dim), 1, batch.x)

    def _seen_through_tasks(self, views: Tensor) -> Gaussians:
        """q(z | x_tn, D_i): the samples as seen through the tasks, encoded; ``[T, B, T, d_z]``.

        :param views: ``[T, B, T, *input]``.
        """
        by_lender = views.movedim(2, 0)  # an encoder per task is applied to views through its task
        with evaluating(self.encoder), torch.no_grad():  # what is lent has no dropout noise
            law = self.encoder(by_lender.flatten(1, 2))
        base = getattr(law, "base_dist", law)
        if not isinstance(base, dist.Normal):
            raise InputError(
                f"the encoder gives a {type(law).__name__}; expected Gaussian representations, "
                "which tasks can lend to each other"
            )
        shape = (*by_lender.shape[:3], -1)
        return Gaussians(*(p.reshape(shape).movedim(0, 2) for p in (base.loc, base.scale)))

    def _layer_kl(self, draw: Tensor | None) -> Tensor | None:
        layer = self.encoder.layer()
        if layer is None:
            return None
        posterior = dist.Normal(layer.loc.unsqueeze(1), layer.scale.unsqueeze(1)).to_event(2)
        return kl_or_estimate(posterior, self.layer_prior(layer, draw))

    def _state_parameters(self) -> None:
        """A param statement for each, as ``SVI`` wants them.

        A PyroModule states its own when it is called; programs are methods. And ``SVI`` asks a
        value for the parameter behind it, which the statements of local parameters do not give.
        """
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                _param(name, parameter, name=name, constraint=constraints.real)

    def model(self, batch: Batch, observed: bool = True) -> Tensor:
        """The generative program.

        :param batch: every task's samples; ``mask`` says which count.
        :param observed: whether ``batch.y`` are the targets; otherwise they are drawn.
        :return: the targets, ``[T, B]`` or ``[T, B, K]``.
        """
        self._state_parameters()
        with pyro.plate("tasks", self.num_tasks, dim=-2):
            relatedness = self._relatedness("prior")
            with self._tempered("weights"):
                weights = pyro.sample("weights", self.weights_prior(relatedness.get("weights")))
            with self._plate_of_samples(batch):
                representations = self._representations(batch, relatedness.get("representations"))
                law = self.likelihood(representations, weights)
                targets: Tensor = pyro.sample(
                    "targets",
                    of_known(law, batch.known if observed else None),
                    obs=self.likelihood.filled(batch) if observed else None,
                )
        self._sample_layer_kl(relatedness.get("representations"))
        return targets

    def guide(self, batch: Batch, observed: bool = True) -> None:
        """The mean-field posterior; the same arguments as :meth:`model`."""
        self._state_parameters()
        with pyro.plate("tasks", self.num_tasks, dim=-2):
            relatedness = self._relatedness("posterior")
            with self._tempered("weights"):
                pyro.sample("weights", self.classifier(relatedness.get("weights")))
            if self.encoder.is_function:
                return  # the model states it
            with self._plate_of_samples(batch):
                context = self._tempered("representations")
                with context if self.encoder.has_density else _masked():
                    pyro.sample("representations", self.encoder(batch.x))

    @torch.no_grad()
    def update(self, batch: Batch, last: bool = False, held_out: Batch | None = None) -> None:
        """Move all that moves besides gradients: once an iteration, after its gradient step.

        What tasks lend goes on to what they say now: sites in closed form are moved and partitions
        drawn, and running means take in the batch. :meth:`model` and :meth:`guide` change nothing.

        :param batch: the batch of the iteration.
        :param last: whether training ends here, so that draws may take longer.
        :param held_out: labelled samples that the encoder does not learn from, if it learns. An
            encoder makes tasks that share weights out of those that it is trained on; so the pool
            :class:`Nested` infers partitions and scales from these as well, while the weights do
            not hear them.
        """
        self.classifier.update(batch, self.encoder, self.likelihood, last, held_out)
        self._has_lenders = True

    def _representations(self, batch: Batch, relatedness: Tensor | None) -> Tensor:
        if self.encoder.has_density:
            with self._tempered("representations"):
                prior = self.representations_prior(batch, relatedness)
                draw: Tensor = pyro.sample("representations", prior)
                return draw
        if self.encoder.is_function:  # the gradient passes through it
            z = self.encoder(batch.x).mean
            stated: Tensor = pyro.deterministic("representations", z, event_dim=1)
            return stated
        # z has the same law in model and guide and contributes nothing. Its value comes from the
        # guide's trace, so no gradient is needed here, nor does other dropout noise matter.
        with torch.no_grad():
            law = self.encoder(batch.x)
        with _masked():
            draw = pyro.sample("representations", law)
        return draw

    def _sample_layer_kl(self, draw: Tensor | None) -> None:
        """The KL of a Bayesian encoder layer enters the ELBO once, as one named factor."""
        kl = self._layer_kl(draw)
        if kl is not None:
            # Plates to the left (vectorised particles) remain; those of tasks are summed.
            with self._tempered("representations"):
                pyro.factor("layer_kl", -kl.sum((-2, -1), keepdim=True), has_rsample=False)


def _constrained(name: str, parameter: nn.Parameter, constraint: object) -> Tensor:
    value = parameter.view_as(parameter)  # a mark on the parameter itself could not be pickled
    value.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
    return value


_param: Callable[..., Tensor] = effectful(_constrained, type="param")


def _masked() -> contextlib.AbstractContextManager[object]:
    context: contextlib.AbstractContextManager[object] = poutine.mask(mask=False)
    return context


def _standard_normal(
    shape: tuple[int, ...], event_dim: int, like: Tensor
) -> dist.TorchDistribution:
    """N(0, I) of a shape, on the device and with the dtype of another tensor."""
    zero, one = like.new_zeros(()), like.new_ones(())
    return dist.Normal(zero.expand(shape), one.expand(shape)).to_event(event_dim)
