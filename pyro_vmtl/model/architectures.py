"""Encoder architectures by their settings: what a config or a saved model can write down."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import ClassVar

from torch import nn

from pyro_vmtl.errors import InputError
from pyro_vmtl.model.encoders import (
    BayesianLinearEncoder,
    DeterministicEncoder,
    Encoder,
    GaussianEncoder,
    IdentityEncoder,
    PerTask,
    PrincipalComponentsEncoder,
    mlp,
)
from pyro_vmtl.model.parts import Part

__all__ = [
    "BESIDE_GRADIENTS",
    "FIXED",
    "MLP",
    "Architecture",
    "BayesianLinear",
    "Identity",
    "PrincipalComponents",
    "takes_no_gradient",
]


class Architecture(Part):
    """Settings of an encoder; calling them with the shape of the data makes one.

    :ivar is_fixed: whether it takes no gradient: representations are the inputs, or a function of
        them that the training inputs decide at once.
    """

    is_fixed: ClassVar[bool] = False

    def __call__(self, input_shape: Sequence[int], num_tasks: int) -> Encoder:
        """A new encoder.

        :param input_shape: of one sample.
        :param num_tasks: T.
        """
        raise NotImplementedError

    def variant(
        self, per_task: bool | None = None, stochastic: bool | None = None
    ) -> "Architecture":
        """The same backbone, for baselines: one for each task or shared, uncertain or not.

        :param per_task: whether each task has its own; None, as it is.
        :param stochastic: whether representations are uncertain; None, as it is.
        """
        raise InputError(
            f"the encoder is {self}, which has no variants; expected an architecture such as "
            "MLP(...)"
        )


@dataclass(frozen=True)
class Identity(Architecture):
    """No encoder: representations are the inputs, flattened.

    :param standardise: whether every input is standardised inside, by the mean and the standard
        deviation of the training samples of all tasks (without a bias, by the deviation alone).
    """

    standardise: bool = False
    is_fixed: ClassVar[bool] = True

    def __call__(self, input_shape: Sequence[int], num_tasks: int) -> Encoder:
        return IdentityEncoder(input_shape, self.standardise)

    def variant(self, per_task: bool | None = None, stochastic: bool | None = None) -> "Identity":
        """Itself: without parameters there is nothing to share and nothing to be unsure of."""
        return self


@dataclass(frozen=True)
class PrincipalComponents(Architecture):
    """Principal components of the standardised inputs of all tasks' training samples.

    For tables with more columns than tasks have rows. With weights that are alike a priori, all
    components together say what the inputs say; the last ones are left out.

    :ivar latent_dim: d_z, how many at most: no more than there are inputs.
    """

    latent_dim: int = 50
    is_fixed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _positive("latent_dim", self.latent_dim)

    def __call__(self, input_shape: Sequence[int], num_tasks: int) -> Encoder:
        return PrincipalComponentsEncoder(input_shape, self.latent_dim)

    def variant(
        self, per_task: bool | None = None, stochastic: bool | None = None
    ) -> "PrincipalComponents":
        """Itself: without parameters there is nothing to share and nothing to be unsure of."""
        return self


@dataclass(frozen=True)
class MLP(Architecture):
    """A multi-layer perceptron, shared by the tasks or one for each.

    :ivar latent_dim: d_z.
    :ivar hidden: widths of the hidden layers.
    :ivar dropout: share of inputs and hidden units dropped in training.
    :ivar stochastic: q(z | x) is Gaussian; otherwise z is a function of x.
    :ivar per_task: an encoder for each task.
    """

    latent_dim: int = 16
    hidden: Sequence[int] = (256,)
    dropout: float = 0.2
    stochastic: bool = True
    per_task: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.hidden, str) or not isinstance(self.hidden, Sequence):
            raise InputError(
                f"the encoder's hidden is {self.hidden!r}; expected a list of widths such as [256]"
            )
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _positive("latent_dim", self.latent_dim)
        for width in self.hidden:
            _positive("hidden width", width)
        _share("dropout", self.dropout)
        _truth("stochastic", self.stochastic)
        _truth("per_task", self.per_task)

    def __call__(self, input_shape: Sequence[int], num_tasks: int) -> Encoder:
        outputs = self.latent_dim * (2 if self.stochastic else 1)
        make = partial(mlp, input_shape, self.hidden, outputs, self.dropout)
        network: nn.Module = PerTask(make, num_tasks) if self.per_task else make()
        kind = GaussianEncoder if self.stochastic else DeterministicEncoder
        encoder = kind(network, self.latent_dim)
        encoder.input_shape = tuple(input_shape)
        return encoder

    def variant(self, per_task: bool | None = None, stochastic: bool | None = None) -> "MLP":
        return dataclasses.replace(
            self,
            per_task=self.per_task if per_task is None else per_task,
            stochastic=self.stochastic if stochastic is None else stochastic,
        )


@dataclass(frozen=True)
class BayesianLinear(Architecture):
    """One linear layer with a Gaussian posterior over its weights, as in the authors' code.

    :ivar latent_dim: d_z.
    :ivar dropout: share of inputs dropped in training.
    :ivar prior: ``"layer"``, the KL of the layer's weights is paid once; ``"samples"``, every
        representation pays a KL of its own.
    :ivar per_task: a layer for each task.
    :ivar initial_scale: standard deviation of the layer's weights at the start.
    :ivar initial_jitter: standard deviation of their means at the start; None, 1 / sqrt(inputs).
    """

    latent_dim: int = 16
    dropout: float = 0.0
    prior: str = "layer"
    per_task: bool = False
    initial_scale: float = 0.05
    initial_jitter: float | None = None

    def __post_init__(self) -> None:
        _positive("latent_dim", self.latent_dim)
        _share("dropout", self.dropout)
        _truth("per_task", self.per_task)

    def __call__(self, input_shape: Sequence[int], num_tasks: int) -> Encoder:
        return BayesianLinearEncoder(
            input_shape,
            self.latent_dim,
            num_layers=num_tasks if self.per_task else 1,
            prior=self.prior,
            dropout=self.dropout,
            initial_scale=self.initial_scale,
            initial_jitter=self.initial_jitter,
        )

    def variant(
        self, per_task: bool | None = None, stochastic: bool | None = None
    ) -> "BayesianLinear | MLP":
        """Without uncertainty it is a linear layer: an MLP with no hidden one."""
        per_task = self.per_task if per_task is None else per_task
        if stochastic is False:
            return MLP(self.latent_dim, (), self.dropout, stochastic=False, per_task=per_task)
        return dataclasses.replace(self, per_task=per_task)


FIXED = tuple(kind.__name__ for kind in (Identity, PrincipalComponents))
"""The names of those that take no gradient, as a saved model writes them down."""


def takes_no_gradient(encoder: object) -> bool:
    """Whether an encoder, or the settings of one, has nothing to learn by gradients."""
    return isinstance(encoder, Architecture) and encoder.is_fixed


def _positive(name: str, value: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InputError(
            f"the encoder's {name} is {value!r}; expected a whole number of at least 1"
        )


def _share(name: str, value: float) -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value < 1:
        raise InputError(f"the encoder's {name} is {value!r}; expected a share in [0, 1)")


def _truth(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise InputError(f"the encoder's {name} is {value!r}; expected true or false")


BESIDE_GRADIENTS = MLP(64)
"""The encoder beside weights that gradients move, where nobody says which."""
