"""The nested prior w_t = m + c_k + e_t, and the posterior of weights that goes with it."""

from __future__ import annotations

import copy
import dataclasses
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from pyro.ops.stats import effective_sample_size
from torch import Tensor, nn

from pyro_vmtl.data import Batch
from pyro_vmtl.distributions import Relatives
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.borrowing import Borrowing
from pyro_vmtl.model.encoders import PrincipalComponentsEncoder
from pyro_vmtl.model.likelihoods import Likelihood
from pyro_vmtl.model.pools import Kind, Pool, Setup, Spread
from pyro_vmtl.model.posteriors import WeightsPosterior
from pyro_vmtl.model.priors.conditionals import averaged, cavity, posterior, product
from pyro_vmtl.model.priors.gibbs import (
    Evidence,
    Hyperpriors,
    Moments,
    State,
    on_device,
    starting_state,
    sweep,
)
from pyro_vmtl.model.priors.partitions import canonical, chance_together, nearest_to_all
from pyro_vmtl.model.priors.sites import ConjugateWeights

__all__ = ["Nested", "NestedBorrowing", "NestedWeights"]

Deviation = Literal["none", "intercept", "shared", "features", "fixed"]

_CHAINS = 8
_SWEEPS = 3  # in an update; the draws of the last two give the moments; beside an encoder one
_FIRST_STEPS = 40  # beside an encoder, in which partitions do not hear what it makes of the data
_UPDATES = 10  # of the model by whose partitions it starts; the draws of the last six are kept
_MOST_INPUTS = 4096  # that it looks at
_BURN_IN = 10  # sweeps of the last look that are thrown away
_ROUND = 50  # sweeps between two looks at how many effective draws there are
_ROUNDS = 16
_KEPT = 200  # draws, all chains together
_MOST_WORK = 2e10  # multiplications of a sweep
EFFECTIVE_DRAWS = 200
"""Effective draws of predictive means that the last look aims at; fewer are warned of."""

_FIELDS = tuple(field.name for field in dataclasses.fields(State))


class NestedBorrowing(Borrowing):
    """The relatedness of the nested prior: who shares a cluster in the draws.

    It owns nothing: the draws are those of the weights' posterior.
    """

    pool: Nested

    learns = False
    _weights: tuple[NestedWeights]

    def _add_slots(self) -> None:
        super()._add_slots()
        self.empirical_bayes = True  # the same draws in model and guide: the site is masked

    @property
    def labels(self) -> Tensor:
        """The cluster of every task in each draw, ``[S, T]``."""
        return self._weights[0].draws.labels

    @property
    def spreads(self) -> Tensor:
        """s, a task's deviation in units of what its cluster and it deviate together, ``[S]``."""
        weights = self._weights[0]
        draws = weights.draws
        varies = (weights.prior.groups >= 0).double()
        own = draws.deviation.mean(-1) * varies.mean()
        return (own / (own + draws.cluster)).sqrt()

    def relatedness_posterior(self) -> dist.TorchDistribution:
        return self._weights[0].relatedness()

    def relatedness_prior(self) -> dist.TorchDistribution:
        return self.relatedness_posterior()

    def probabilities(self) -> Tensor:
        """The chance that two share a cluster, ``[T, L]``.

        With n draws none is said to be nearer to 0 or 1 than 1 / (2 n + 2).
        """
        rows = self.relatedness_posterior().mean.squeeze(-2)
        kept = float(len(self.labels))
        # In training there is one for each chain, whatever an earlier last look has counted.
        effective = kept if kept <= _CHAINS else float(self._weights[0].effective) or kept
        return (rows * effective + 0.5) / (effective + 1)

    def chance_before_data(self) -> float:
        """The chance that two tasks share a cluster, before any data."""
        return chance_together(self.num_tasks, self.pool.gamma, self.pool.expected)


@dataclass(frozen=True, eq=False)
class Nested(Pool):
    r"""Multilevel regression with hidden clusters of tasks.

    .. math::
        w_t = m + c_{k(t)} + e_t, \qquad m \sim N(0, A), \quad c_k \sim N(0, B), \quad
        e_t \sim N(0, V)

    with a row of these for every class or output, all diagonal. m is what all tasks have in common,
    c_k what the tasks of a hidden cluster share, e_t a task's own deviation. The partition has a
    mixture of finite mixtures as its prior (:mod:`pyro_vmtl.model.priors.partitions`). Scales are
    inferred: standard deviations are half-t with four degrees of freedom, and the logarithms of the
    variances of e_t normal about a shared centre, as far apart as data say. The relatedness of two
    tasks is the chance that they share a cluster.

    Each task's data enter as a Gaussian site in closed form, so that every row of data speaks once;
    partitions and scales are drawn by Gibbs sampling with the weights integrated out.

    Parts can be left out: without clusters it is partial pooling (a mixed model), with nothing but
    the mean complete pooling, with nothing but a fixed deviation single-task learning.

    :param mean: whether there is a global mean m.
    :param clusters: whether there are clusters.
    :param deviation: of each task: ``"features"``, a variance for every entry of the weights, about
        a shared centre; ``"shared"``, one variance for all; ``"intercept"``, the bias alone;
        ``"none"``; or ``"fixed"``, V = 1; None, ``"features"`` where inputs are named features
        (:class:`pyro_vmtl.Identity`) and ``"shared"`` where they are latent.
    :param known: the cluster of each task, where it is known; then scales alone are inferred.
    :param gamma: of the Dirichlet weights of clusters: below 1 their sizes differ, above they are
        alike.
    :param expected: the number of clusters that the prior expects among unlimited tasks.
    """

    kind: ClassVar[Kind] = "clusters"
    borrowing: ClassVar[type[nn.Module] | None] = NestedBorrowing
    needs_closed_form: ClassVar[bool] = True

    base: bool = field(default=False, init=False, repr=False)
    spread: Spread | None = field(default=None, init=False, repr=False)
    mean: bool = True
    clusters: bool = True
    deviation: Deviation | None = None
    known: Sequence[int] | None = None
    gamma: float = 1.0
    expected: float = 3.0

    def __post_init__(self) -> None:
        mean, clusters, deviation, known = self.mean, self.clusters, self.deviation, self.known
        for name, given in (("mean", mean), ("clusters", clusters)):
            if not isinstance(given, bool):
                raise InputError(f"the pool's {name} is {given!r}; expected true or false")
        if deviation not in (None, "none", "intercept", "shared", "features", "fixed"):
            raise InputError(
                f"the pool's deviation is {deviation!r}; expected 'features', 'shared', "
                "'intercept', 'none' or 'fixed'"
            )
        if not (mean or clusters) and deviation in ("none", "intercept"):
            raise InputError(
                f"the pool has no mean, no clusters and the deviation {deviation!r}, so that "
                "slopes are 0; expected a mean, clusters or another deviation"
            )
        if not 0 < self.gamma < float("inf"):
            raise InputError(f"the pool's gamma is {self.gamma}; expected a number above 0")
        if not 1 < self.expected < float("inf"):
            raise InputError(f"the pool's expected is {self.expected}; expected a number above 1")
        object.__setattr__(self, "gamma", float(self.gamma))
        object.__setattr__(self, "expected", float(self.expected))
        try:
            whole = None if known is None else tuple(index(k) for k in known)
            object.__setattr__(self, "known", whole)
        except TypeError as error:
            raise InputError(
                f"the pool's known is {known!r}; expected the number of each task's cluster, such "
                "as [0, 0, 1]"
            ) from error
        if known is not None and not clusters:
            raise InputError("the pool has known clusters and clusters=False; expected True")

    def with_known(self, known: Sequence[int] | None) -> Nested:
        """The same prior, of tasks whose clusters are these; None, not known."""
        out = copy.copy(self)
        object.__setattr__(out, "known", None if known is None else tuple(known))
        return out

    @property
    def borrows(self) -> bool:  # type: ignore[override]
        """Whether there is relatedness to look at."""
        return self.clusters

    def posterior(self, setup: Setup) -> WeightsPosterior:
        return NestedWeights(self, **vars(setup))

    def hyperpriors(
        self, rows: int, columns: int, has_bias: bool, named: bool, num_tasks: int
    ) -> Hyperpriors:
        """What the sampler needs to know.

        :param rows: K, of the weights; ``columns``: q.
        :param named: whether inputs are named features.
        :param num_tasks: T.
        """
        is_bias = torch.zeros(rows, columns, dtype=torch.bool)
        is_bias[:, -1] = has_bias
        deviation = self.deviation or ("features" if named else "shared")
        every = torch.arange(columns)
        if deviation == "intercept" and not has_bias:
            raise InputError(
                "the pool's deviation is 'intercept', and the model has no bias; expected one"
            )
        groups = {
            "features": every,
            "shared": torch.zeros_like(every),
            "fixed": torch.zeros_like(every),
            "none": torch.full_like(every, -1),
            "intercept": torch.where(every == columns - 1, 0, -1),
        }[deviation]
        has_clusters = self.clusters and num_tasks > 1
        if not (self.mean or has_clusters) and bool((groups < 0).any()):
            raise InputError(
                f"the pool has no mean and the deviation {deviation!r}, and a single task has no "
                "clusters, so that weights are 0; expected a mean or another deviation"
            )
        known = None
        if self.known is not None:
            if len(self.known) != num_tasks:
                raise InputError(
                    f"known gives the clusters of {len(self.known)} tasks; expected {num_tasks}"
                )
            known = torch.tensor(self.known)
        return Hyperpriors(
            groups,
            is_bias,
            has_mean=self.mean,
            has_clusters=has_clusters,
            gamma=self.gamma,
            expected=self.expected,
            fixed_deviation=deviation == "fixed",
            known=known,
        )


class NestedWeights(ConjugateWeights):
    """q(w_t) under the nested prior: sites of the tasks' data times what the other tasks say.

    Partitions and scales move by Gibbs sweeps, with the weights integrated out.

    :param pool: which parts the prior has.
    :param num_tasks: T.
    :param likelihood: gives the sites.
    :param latent_dim: d_z.
    :param bias: whether the weights have a bias as their last column.
    :param named: whether inputs are named features.
    :param learns: whether an encoder learns beside.
    :param rate: see :class:`ConjugateWeights`.
    :raises InputError: if Lambda takes more than 512 MiB, or a sweep too many multiplications.

    :ivar loc: mean of q(w), averaged over the latest draws; ``covariance``: likewise.
    :ivar partitions: those that are drawn beside an encoder that learns, where they must not hear
        what it makes of the training data, ``[S, T]``.
    """

    shares_weights: ClassVar[bool] = True
    draws_scales: ClassVar[bool] = True
    hears_held_out: ClassVar[bool] = True
    pool: Nested
    effective: Tensor
    partitions: Tensor

    def __init__(
        self,
        pool: Nested,
        num_tasks: int,
        likelihood: Likelihood,
        latent_dim: int,
        bias: bool = True,
        named: bool = False,
        learns: bool = False,
        rate: float | None = None,
    ) -> None:
        rows, columns = likelihood.num_outputs, latent_dim + int(bias)
        if _CHAINS * num_tasks * rows * columns**3 > _MOST_WORK:
            most = math.floor((_MOST_WORK / (_CHAINS * num_tasks * rows)) ** (1 / 3)) - int(bias)
            raise InputError(
                f"the pool is Nested, with {latent_dim} representations, {num_tasks} tasks and "
                f"{rows} rows of weights for each, whose covariances would take hours; expected at "
                f"most {most} representations, or another pool, such as Mixture() or Standard()"
            )
        super().__init__(pool, num_tasks, likelihood, latent_dim, bias, learns, rate)
        self._asked: tuple[Tensor | None, ...] = ()
        self._versions: list[int] = []
        self._prior = pool.hyperpriors(rows, columns, bias, named, num_tasks)
        self.register_buffer("effective", torch.tensor(0.0))
        self.register_buffer("groups", self._prior.groups, persistent=False)
        self.register_buffer("is_bias", self._prior.is_bias, persistent=False)
        start = starting_state(self.evidence, self._prior, _CHAINS)
        self.register_buffer("partitions", start.labels.clone())
        for name in _FIELDS:  # where the chains stand, and the draws that are kept
            self.register_buffer(f"chain_{name}", getattr(start, name))
            self.register_buffer(f"draw_{name}", getattr(start, name).clone())

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        labels = state_dict.get(f"{prefix}draw_labels")  # of a model saved by an earlier version
        state_dict.setdefault(f"{prefix}partitions", self.partitions if labels is None else labels)
        for name, buffer in self._buffers.items():  # draws may be more, or fewer
            saved = state_dict.get(f"{prefix}{name}")
            is_drawn = name.startswith("draw_") or name == "partitions"
            if not (is_drawn and isinstance(saved, Tensor)) or buffer is None:
                continue
            if saved.shape[1:] == buffer.shape[1:]:
                setattr(self, name, buffer.new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def prior(self) -> Hyperpriors:
        """Which parts the prior has, on the device of the sites."""
        known = self._prior.known
        return dataclasses.replace(
            self._prior,
            groups=self.get_buffer("groups"),
            is_bias=self.get_buffer("is_bias"),
            known=None if known is None else known.to(self.shift.device),
        )

    @property
    def draws(self) -> State:
        """The draws of partition and scales that are kept."""
        return State(**{name: getattr(self, f"draw_{name}") for name in _FIELDS})

    @property
    def chains(self) -> State:
        """Where the chains stand."""
        return State(**{name: getattr(self, f"chain_{name}") for name in _FIELDS})

    # Distributions

    def relatedness(self) -> dist.TorchDistribution:
        """The partitions drawn, as rows of relatives: the law of model and guide."""
        return Relatives(self.draws.labels)

    def forward(self, draw: Tensor | None = None) -> dist.TorchDistribution:
        """q(w | draw), batch shape ``[..., T, 1]``; without a draw, the mixture over all draws."""
        if draw is None and self._prior.has_clusters:
            return self._mixture()
        prior = self._cavity(draw)
        noise = self._noise(draw)
        site = product(
            prior, self.precision / noise[..., None, None], self.shift / noise[..., None]
        )
        return self._normal(Moments(site.loc.unsqueeze(-3), site.covariance.unsqueeze(-4)))

    def _mixture(self) -> dist.TorchDistribution:
        """q(w), draws in equal shares, batch shape ``[T, 1]``."""
        parts = Moments(*(part.movedim(0, 1).unsqueeze(1) for part in self.by_draw()))
        weights = self.loc.new_ones(self.num_tasks, 1, len(self.draws.labels))
        mixing = torch.distributions.Categorical(probs=weights)
        return dist.MixtureSameFamily(mixing, self._normal(parts))

    def weights_prior(self, draw: Tensor | None) -> dist.TorchDistribution:
        prior = self._cavity(draw)
        return self._normal(Moments(prior.loc.unsqueeze(-3), prior.covariance.unsqueeze(-4)))

    def by_draw(self) -> Moments:
        return posterior(self.evidence, self.prior, self.draws)

    def noise_by_draw(self) -> Tensor:
        return self.draws.noise

    def _normal(self, moments: Moments) -> dist.TorchDistribution:
        """Gaussians ``[*batch, K, q]`` as a distribution with the event shape ``[K, q]``."""
        root = torch.linalg.cholesky(moments.covariance)
        return dist.MultivariateNormal(moments.loc, scale_tril=root).to_event(1)

    def _cavity(self, draw: Tensor | None) -> Moments:
        # Guide and model ask for that of the same draw, one after the other.
        asked = (draw, self.get_buffer("draw_labels"), self.precision, self.shift)
        versions = [0 if part is None else part._version for part in asked]  # noqa: SLF001
        if versions != self._versions or any(map(operator.is_not, asked, self._asked)):
            state, shape = self._given(draw)
            moments = cavity(self.evidence, self.prior, state)
            self._answer = Moments(*(part.view(*shape, *part.shape[1:]) for part in moments))
            self._asked, self._versions = asked, versions
        return self._answer

    def _noise(self, draw: Tensor | None) -> Tensor:
        state, shape = self._given(draw)
        return state.noise.view(*shape, *state.noise.shape[1:])

    def _given(self, draw: Tensor | None) -> tuple[State, torch.Size]:
        """Partitions of these rows of relatives, with the mean log scales of the draws of them.

        :param draw: ``[..., T, 1, L]``, or None where there are no clusters.
        :return: a state of as many chains as there are rows of relatives, and their batch shape.
        """
        draws = self.draws
        if draw is None:
            labels, shape = draws.labels[:1], torch.Size()
        else:
            shape = draw.shape[:-3]
            rows = draw.reshape(-1, self.num_tasks, draw.shape[-1])
            same = torch.eye(self.num_tasks, dtype=torch.bool, device=draw.device)
            same = same.repeat(len(rows), 1, 1)
            same[:, ~same[0]] = rows.flatten(1) > 0.5
            labels = canonical(same.to(torch.uint8).argmax(-1))
        matches = (labels.unsqueeze(1) == draws.labels).all(-1)  # [P, S]
        matches = matches | ~matches.any(-1, keepdim=True)
        share = matches.double() / matches.sum(-1, keepdim=True)
        values = {"labels": labels}
        for name in _FIELDS[1:]:
            logs = getattr(draws, name).clamp_min(1e-30).log()
            mean = (share @ logs.reshape(len(logs), -1)).exp()
            values[name] = mean.view(len(labels), *logs.shape[1:])
        # Where there are no clusters the variance is 0, which has no logarithm.
        values["cluster"] = torch.where(values["cluster"] > 1e-29, values["cluster"], 0.0)
        return State(**values), shape

    # What moves

    @property
    def finds_partitions(self) -> bool:
        """Whether there are partitions to be found beside an encoder that learns."""
        return self.learns and self._prior.has_clusters and self._prior.known is None

    def start(self, batch: Batch, likelihood: Likelihood, held_out: Batch | None) -> None:
        """Find the partitions that fixed representations support, the principal components.

        An encoder that is trained while all tasks are thought alike makes weights that all of them
        can share, and data that it has learned from cannot contradict it any more.
        """
        if not self.finds_partitions:
            return
        stride = -(-math.prod(batch.x.shape[2:]) // _MOST_INPUTS)
        x = batch.x.flatten(2)[..., ::stride]
        fixed = PrincipalComponentsEncoder(x.shape[2:], self.slopes).to(x.device)
        fixed.learn_from(x[batch.mask])
        own, bias = copy.deepcopy(likelihood), self.event_shape[-1] > self.slopes
        with self.own_noise():
            twin = NestedWeights(self.pool, self.num_tasks, own, fixed.latent_dim, bias)
        twin.to(self.shift.device)
        seen = None
        if held_out is not None:
            seen = held_out, fixed(held_out.x.flatten(2)[..., ::stride])
        labels = []
        for number in range(1, _UPDATES + 1):
            twin.step(batch, fixed(x), own, seen is None and number == _UPDATES, seen)
            labels.append(twin.draws.labels)
        # Without held-out samples they say all that is said of relatedness: they are many then.
        self.partitions = labels[-1] if seen is None else torch.cat(labels[4:])
        self.effective.copy_(twin.effective)

    def find_posterior(self, likelihood: Likelihood, last: bool, held_out: Evidence | None) -> None:
        """Some sweeps over partitions and scales, given the sites as they are.

        :param likelihood: the noise of a regression is handed on to it.
        :param last: whether to draw as many partitions and scales as are kept.
        :param held_out: what held-out samples say: partitions and scales hear it, beside the sites.
        """
        generator = self.generator()
        own = on_device(self.evidence, "cpu")
        evidence = own if held_out is None else own + on_device(held_out, "cpu")
        chains, prior = on_device(self.chains, "cpu"), on_device(self.prior, "cpu")
        partitions = self._given_partitions(last, held_out)
        most = math.inf if partitions is None else float(self.effective)

        def move() -> Tensor:
            if partitions is not None:
                among = torch.randint(len(partitions), (_CHAINS,), generator=generator)
                chains.labels = partitions[among]
            return sweep(evidence, prior, chains, generator, own, partitions is None)

        kept: list[State] = []
        means: list[Tensor] = []
        if not last:
            sweeps = _SWEEPS if self.every == 1 else 1
            for number in range(sweeps):
                move()
                if number or sweeps == 1:
                    kept.append(_copy(chains))
        else:
            for _ in range(_BURN_IN):
                move()
            for number in range(1, _ROUNDS + 1):
                for _ in range(_ROUND):
                    means.append(move())
                    kept.append(_copy(chains))
                effective = self._effective(kept, means)
                self.effective.fill_(min(effective, most))
                # Half way it is seen whether as many again will do.
                hopeless = 2 * number == _ROUNDS and 2 * effective < EFFECTIVE_DRAWS
                if effective >= EFFECTIVE_DRAWS or hopeless:
                    break
            kept = kept[:: -(-len(kept) * _CHAINS // _KEPT)]
        self._take_draws(chains, _joined(kept), likelihood)
        if last and self.finds_partitions:
            self.partitions = self.draws.labels.clone()

    def _given_partitions(self, last: bool, held_out: Evidence | None) -> Tensor | None:
        """Where partitions must not hear the encoder: what is drawn from, ``[P, T]``; else None."""
        if not self.finds_partitions:
            return None
        partitions = self.partitions.cpu()
        if held_out is None:
            # An encoder that is trained under two partitions at once serves the worse one.
            return partitions if last else nearest_to_all(partitions).unsqueeze(0)
        is_early = not last and int(self.steps) <= _FIRST_STEPS
        return partitions if is_early else None

    def _take_draws(self, chains: State, draws: State, likelihood: Likelihood) -> None:
        """Stand where the chains stand, keep the draws, and hand the noise on."""
        for kind, state in (("chain", chains), ("draw", draws)):
            for name, values in vars(on_device(state, self.shift.device)).items():
                setattr(self, f"{kind}_{name}", values)
        self.loc, self.covariance = averaged(self.by_draw())
        if self.infers_noise:
            likelihood.take_noise(draws.noise.log().mean(0).exp().sqrt())

    @torch.no_grad()
    def take(
        self,
        evidence: Evidence,
        chains: State,
        draws: State,
        likelihood: Likelihood,
        like: NestedWeights,
    ) -> None:
        """Go on from the sites and draws of these tasks, which others were fitted to.

        :param evidence: the sites, ``[T, ...]``.
        :param chains: of these tasks; ``draws``: likewise.
        :param likelihood: the noise of a regression is handed on to it.
        :param like: the weights that the draws come from: as many steps have been made, and as
            many draws are effective.
        """
        self.precision, self.shift = evidence.precision, evidence.shift
        self.counts = evidence.counts
        if evidence.squares is not None:
            self.squares = evidence.squares
        if self.finds_partitions:
            self.partitions = draws.labels.to(self.partitions.device, copy=True)
        for name in ("steps", "seed", "effective"):
            getattr(self, name).copy_(getattr(like, name))
        self._take_draws(chains, draws, likelihood)

    def _effective(self, kept: list[State], means: list[Tensor]) -> float:
        """How many of the draws of chains side by side are effective, of pairs and mean weights.

        One in twenty of them has fewer. What all draws agree on is left out.
        """
        values = [torch.stack(means).flatten(2)]  # [draws, chains, ...]
        if self._prior.has_clusters and self._prior.known is None:
            above = torch.triu_indices(self.num_tasks, self.num_tasks, 1)
            above = above[:, :: -(-above.shape[1] // 2000)]  # of many pairs, some thousand
            labels = torch.stack([state.labels for state in kept])
            values.append((labels[..., above[0]] == labels[..., above[1]]).double())
        value = torch.cat(values, -1).transpose(0, 1)
        value = value[..., value.flatten(0, 1).var(0) > 1e-6]
        most = float(len(kept) * _CHAINS)
        if not value.shape[-1]:
            return most
        found = effective_sample_size(value, 0, 1).nan_to_num(0.0)
        return float(found.clamp(0, most).quantile(0.05))

    def sentences(self) -> list[str]:
        """What a reader should know of the draws, where there are too few effective ones."""
        if not 0 < float(self.effective) < EFFECTIVE_DRAWS:
            return []
        return [
            "Of the draws of partitions and scales, one in twenty means or pairs of tasks has "
            f"only {float(self.effective):.0f} effective ones (fewer than {EFFECTIVE_DRAWS}): "
            "chances of relatedness are known no better than that."
        ]


def _copy(state: State) -> State:
    return State(**{name: getattr(state, name).clone() for name in _FIELDS})


def _joined(states: list[State]) -> State:
    return State(**{name: torch.cat([getattr(s, name) for s in states]) for name in _FIELDS})
