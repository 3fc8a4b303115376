"""Settings of a model, decided for the shape of the data, and the model that they make."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

from pyro_vmtl.errors import InputError
from pyro_vmtl.model.amortised import AmortisedWeights
from pyro_vmtl.model.architectures import (
    BESIDE_GRADIENTS,
    MLP,
    Architecture,
    Identity,
    PrincipalComponents,
    takes_no_gradient,
)
from pyro_vmtl.model.encoders import Encoder
from pyro_vmtl.model.likelihoods import (
    Categorical,
    Family,
    Gaussian,
    Likelihood,
)
from pyro_vmtl.model.pools import Mixture, Pool, Setup, Standard
from pyro_vmtl.model.posteriors import (
    MeanFieldWeights,
    PointWeights,
    Posterior,
    WeightsPosterior,
)
from pyro_vmtl.model.priors.nested import Nested
from pyro_vmtl.model.priors.pooled import PooledWeights
from pyro_vmtl.model.priors.sites import ConjugateWeights
from pyro_vmtl.model.vmtl import VMTL

__all__ = ["Settings", "assemble"]

_CLASSIFIERS = ("conjugate", "mean_field", "point", "amortised")
_FEATURES = 50  # vectors of at most so many numbers are taken as they are
# Beside weights in closed form, chosen on development seeds of the built-in digits. Noise of z
# makes predictions of classes too cautious; without it, residuals of numbers understate the noise.
_OF_CLASSES = MLP(hidden=(512,), dropout=0.1, stochastic=False)
_OF_NUMBERS = MLP()


@dataclass(frozen=True)
class Settings:
    """All that decides a model's structure, apart from the data's shape.

    :ivar encoder: settings of one of the architectures, or an :class:`Encoder` of the user's own;
        None, beside weights in closed form, :class:`Identity` for vectors of at most 50 numbers,
        :class:`PrincipalComponents` for the rows of a wider table, and for others :class:`MLP` with
        16 representations, Gaussian for numbers and a function of x for classes; beside other
        weights :class:`MLP` with 64 Gaussian ones.
    :ivar pool: the prior of a task's weights; None, :class:`Nested` where they are in closed form,
        :class:`Standard` for points and else :class:`Mixture`.
    :ivar representation_pool: the same for representations: where they are Gaussian, of each sample
        as seen through the other tasks; else of encoder layers, one a task.
    :ivar classifier: q(w): None or ``"conjugate"``, in closed form from the tasks' evidence, which
        is what tasks lend each other; ``"mean_field"``, a Gaussian with free parameters for each
        task; ``"point"``, a point estimate; ``"amortised"``, Gaussians that a network shared by
        tasks and classes infers from class means (VMTL-AC); or a :class:`Posterior` of the user's
        own. Where gradients move posteriors, tasks lend each other those of the previous iteration,
        as in the paper.
    :ivar likelihood: settings of one of the likelihoods, or a :class:`Likelihood` of the user's
        own; None, :class:`Categorical` for classes, :class:`Bernoulli` for several outputs that are
        all 0 or 1, and :class:`Gaussian` for other numbers, or under
        :class:`Nested` with a fixed encoder another that fits the training samples better, see
        ``FittedVMTL.notes``.
    :ivar bias: whether the weights have a bias as their last column.
    :ivar empirical_bayes: model and guide share the relatedness logits (the paper).
    :ivar initial_scale: standard deviation of the weights' posterior at the start (0 for points).
    :ivar initial_jitter: standard deviation of its means at the start.
    :ivar initial_noise: noise scale of a regression at the start, in the unit of the targets, where
        ``likelihood`` is None.
    """

    encoder: Architecture | Encoder | None = None
    pool: Pool | None = None
    representation_pool: Pool = dataclasses.field(default_factory=Standard)
    classifier: Literal["conjugate", "mean_field", "point", "amortised"] | Posterior | None = None
    likelihood: Family | Likelihood | None = None
    bias: bool = True
    empirical_bayes: bool = False
    initial_scale: float = 0.05
    initial_jitter: float = 0.1
    initial_noise: float = 0.5

    def __post_init__(self) -> None:
        for name in ("pool", "representation_pool"):
            pool = getattr(self, name)
            if not isinstance(pool, Pool) and not (name == "pool" and pool is None):
                raise InputError(f"the {name} is {pool!r}; expected a pool such as Mixture()")
        if not isinstance(self.likelihood, (Family, Likelihood, type(None))):
            raise InputError(
                f"the likelihood is {_shown(self.likelihood)}; expected one such as Poisson(), or "
                "a Likelihood of your own"
            )
        for name in ("bias", "empirical_bayes"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}; expected true or false")
        for name in ("initial_scale", "initial_noise"):
            if not _is_number(getattr(self, name)) or not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected a number above 0")
        if not _is_number(self.initial_jitter) or not self.initial_jitter >= 0:
            raise InputError(
                f"initial_jitter is {self.initial_jitter!r}; expected a number of at least 0"
            )
        own = isinstance(self.classifier, Posterior)
        if not own and self.classifier not in (None, *_CLASSIFIERS):
            raise InputError(
                f"the classifier is {_shown(self.classifier)}; expected one of "
                f"{list(_CLASSIFIERS)}, or a Posterior of your own"
            )

    def for_data(
        self, input_shape: Sequence[int], named: bool = False, is_classification: bool = False
    ) -> Settings:
        """The settings with what was left open decided for data of this shape.

        :param input_shape: of one sample.
        :param named: whether the inputs are the columns of a table.
        :param is_classification: whether the targets are classes.
        :raises InputError: for choices that do not fit each other.
        """
        encoder, pool, classifier = self.encoder, self.pool, self.classifier or "conjugate"
        if pool is None:
            defaults: dict[Any, type[Pool]] = {"conjugate": Nested, "point": Standard}
            pool = defaults.get(classifier, Mixture)()
        if pool.needs_closed_form and classifier != "conjugate":
            raise InputError(
                f"the classifier is {_shown(classifier)} and the pool {type(pool).__name__}; "
                "expected 'conjugate', or another pool"
            )
        if encoder is None:
            if classifier != "conjugate":
                encoder = BESIDE_GRADIENTS
            elif len(input_shape) == 1 and input_shape[0] <= _FEATURES:
                encoder = Identity(standardise=not named)
            elif (len(input_shape) == 1 and named) or pool.needs_fixed_encoder:
                encoder = PrincipalComponents(_FEATURES)
            else:
                encoder = _OF_CLASSES if is_classification else _OF_NUMBERS
        return dataclasses.replace(self, encoder=encoder, pool=pool, classifier=classifier)

    def likelihood_of(self, is_classification: bool) -> Family | Likelihood:
        """The likelihood that was chosen, else the usual one of classes or of numbers."""
        if self.likelihood is not None:
            return self.likelihood
        return Categorical() if is_classification else Gaussian(self.initial_noise)

    def trains_no_encoder(self, input_shape: Sequence[int], named: bool = False) -> bool:
        """Whether a fit of data of this shape has weights in closed form and a fixed encoder.

        It then needs no validation data that say when to stop.
        """
        settings = self.for_data(input_shape, named)
        return settings.classifier == "conjugate" and takes_no_gradient(settings.encoder)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _shown(thing: Any) -> str:
    """A class by its name, another object by its kind: networks have long descriptions."""
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    return repr(thing) if isinstance(thing, str) else f"a {type(thing).__name__}"


def assemble(
    settings: Settings,
    num_tasks: int,
    num_outputs: int,
    input_shape: Sequence[int],
    is_classification: bool,
) -> VMTL:
    """A new model of these settings for data of this shape.

    :param num_outputs: K, classes or regression outputs.
    :param input_shape: of one sample.
    """
    settings = settings.for_data(input_shape, is_classification=is_classification)
    encoder = settings.encoder
    if isinstance(encoder, Architecture):
        encoder = encoder(input_shape, num_tasks)
    elif isinstance(encoder, Encoder):
        encoder = copy.deepcopy(encoder)  # a second model of these settings starts where this did
    else:
        raise InputError(
            f"the encoder is {_shown(encoder)}; expected an architecture such as MLP(...) "
            "or an Encoder (wrap a network as DeterministicEncoder or GaussianEncoder)"
        )
    likelihood = _likelihood(settings, num_tasks, num_outputs, is_classification)
    pool = settings.pool
    assert pool is not None  # it has been decided
    if pool.needs_fixed_encoder and not takes_no_gradient(settings.encoder):
        raise InputError(
            f"the pool is {type(pool).__name__}, and the encoder is {_shown(settings.encoder)}, "
            "which training changes; expected one that is fixed before: Identity() or "
            "PrincipalComponents()"
        )
    setup = Setup(
        num_tasks,
        likelihood,
        encoder.latent_dim,
        settings.bias,
        named=isinstance(settings.encoder, Identity),
        learns=not takes_no_gradient(settings.encoder),
    )
    encoder = pool.encoder(encoder, setup)
    return VMTL(
        num_tasks,
        encoder,
        _classifier(settings, pool, replace(setup, latent_dim=encoder.latent_dim)),
        likelihood,
        pool=pool,
        representation_pool=settings.representation_pool,
        empirical_bayes=settings.empirical_bayes,
    )


def _likelihood(
    settings: Settings, num_tasks: int, num_outputs: int, is_classification: bool
) -> Likelihood:
    chosen = settings.likelihood_of(is_classification)
    conjugate = settings.classifier == "conjugate"
    of_classes = chosen.of_classes if isinstance(chosen, Family) else chosen.num_classes > 0
    if of_classes != is_classification:
        kinds = ("numbers", "classes")
        advice = "" if of_classes else ", or regression=True where the task set is made"
        raise InputError(
            f"the likelihood is {type(chosen).__name__}, of {kinds[of_classes]}, and the targets "
            f"are {kinds[is_classification]}; expected a likelihood of "
            f"{kinds[is_classification]}{advice}"
        )
    if isinstance(chosen, Likelihood):
        made = copy.deepcopy(chosen)
    elif chosen.needs_closed_form and not conjugate:
        raise InputError(
            f"the likelihood is {type(chosen).__name__}, for weights in closed form, and the "
            f"classifier is {_shown(settings.classifier)}; expected 'conjugate'"
        )
    else:
        made = chosen(num_tasks, num_outputs, conjugate)
    if (made.num_classes or made.num_outputs) != num_outputs:
        raise InputError(
            f"the likelihood is of {made.num_classes or made.num_outputs} classes or outputs; "
            f"expected the {num_outputs} of the task set"
        )
    return made


def _classifier(settings: Settings, pool: Pool, setup: Setup) -> WeightsPosterior:
    num_tasks, likelihood, latent_dim = setup.num_tasks, setup.likelihood, setup.latent_dim
    rows, bias, jitter = likelihood.num_outputs, setup.bias, settings.initial_jitter
    shape = (num_tasks, rows, latent_dim + int(bias))
    if settings.classifier == "conjugate":
        made = pool.posterior(setup)
        if made is None:
            return PooledWeights(pool, num_tasks, likelihood, latent_dim, bias, setup.learns)
        return _checked(made, f"pool {type(pool).__name__}", ConjugateWeights, shape)
    if isinstance(settings.classifier, Posterior):
        made = settings.classifier(num_tasks, rows, latent_dim, bias)
        name = f"classifier {type(settings.classifier).__name__}"
        return _checked(made, name, WeightsPosterior, shape)
    if settings.classifier == "point":
        return PointWeights(num_tasks, rows, latent_dim, bias, jitter)
    if settings.classifier == "amortised":
        return AmortisedWeights(
            num_tasks,
            rows,
            latent_dim,
            likelihood.num_classes,
            bias,
            initial_scale=settings.initial_scale,
            initial_jitter=jitter,
        )
    return MeanFieldWeights(num_tasks, rows, latent_dim, bias, settings.initial_scale, jitter)


def _checked(
    made: object, maker: str, kind: type[WeightsPosterior], expected: tuple[int, ...]
) -> WeightsPosterior:
    """What a part of the user's own made, if it is of this kind and of these shapes."""
    if not isinstance(made, kind):
        raise InputError(f"the {maker} makes {_shown(made)}; expected a {kind.__name__}")
    given = {"event_shape": (expected[0], *made.event_shape)}
    given |= {part: tuple(value.shape) for part, value in made.gaussians()._asdict().items()}
    for part, shape in given.items():
        if shape != expected:
            raise InputError(
                f"the {maker} makes weights whose {part} is of the shape {list(shape)}, tasks "
                f"first; expected {list(expected)}"
            )
    return made
