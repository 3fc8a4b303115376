"""q(z | x): encoders from inputs ``[T, B, *input]`` to distributions of representations."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.functional import softplus

from pyro_vmtl.data import TaskSet
from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.errors import InputError
from pyro_vmtl.model.likelihoods import Likelihood

__all__ = [
    "BayesianLinearEncoder",
    "DeterministicEncoder",
    "Encoder",
    "GaussianEncoder",
    "IdentityEncoder",
    "PerTask",
    "PrincipalComponentsEncoder",
    "is_dropout",
    "mlp",
]

_DROPOUT = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)


def is_dropout(part: nn.Module) -> bool:
    """Whether a part of a network drops some of what it is given, in training."""
    return isinstance(part, _DROPOUT) and part.p > 0


def _dropouts(network: nn.Module) -> Iterator[Any]:
    for part in network.modules():
        if is_dropout(part):
            yield part
        elif isinstance(part, PerTask):
            yield from _dropouts(part.skeleton)


class Encoder(nn.Module):
    """q(z | x), amortised; subclass it to bring your own.

    :ivar latent_dim: d_z.
    :ivar has_density: whether each sample's z has a prior and a KL of its own. Where not, z is a
        function of x (a Delta) or its uncertainty belongs to the shared weights of a layer.
    :ivar input_shape: of one sample, where the encoder knows it; None takes any.
    """

    latent_dim: int
    has_density = True
    input_shape: tuple[int, ...] | None = None

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x), batch shape ``[T, B]``, event shape ``[d_z]``, for x ``[T, B, *input]``."""
        raise NotImplementedError

    @property
    def has_dropout(self) -> bool:
        """Whether training drops some of what a part of the encoder is given."""
        return any(True for _ in _dropouts(self))

    @contextlib.contextmanager
    def dropping(self, least: float) -> Iterator[None]:
        """Drop this share in training mode, wherever a smaller one is dropped."""
        before = [(part, part.p) for part in _dropouts(self)]
        for part, share in before:
            part.p = max(least, share)
        try:
            yield
        finally:
            for part, share in before:
                part.p = share

    @property
    def is_function(self) -> bool:
        """Whether z is a function of x: the model states it, and the guide has no such site."""
        return not self.has_density and self.layer() is None

    def learn_from(self, x: Tensor, centre: bool = True) -> None:
        """Take what is to be known of the training inputs before training, ``[N, *input]``.

        :param centre: whether means are subtracted; without a bias they should not be.
        """

    def learn_targets(self, tasks: TaskSet, likelihood: Likelihood) -> None:
        """Take what is to be known of the training targets, after :meth:`learn_from`.

        :param likelihood: of the tasks.
        """

    def learn_from_sums(self, mean: Tensor, variance: Tensor, centre: bool = True) -> None:
        """Take the same as :meth:`learn_from`, where moments of the inputs are all that is known.

        :param mean: of every input, ``[D]``; ``variance``: likewise.
        :raises InputError: where :meth:`learn_from` takes more than these.
        """
        if type(self).learn_from is not Encoder.learn_from:
            raise InputError(
                f"the encoder is a {type(self).__name__}, which takes more from the inputs than "
                "their means and variances; expected Identity(), or an encoder that was trained "
                "elsewhere"
            )

    def of_single_tasks(self) -> Iterable[nn.Parameter]:
        """The parameters of which every task has its own."""
        return ()

    def layer(self) -> Gaussians | None:
        """q(Phi) of a Bayesian layer whose KL is paid once, ``[1 or T, in + 1, d_z]``, or None."""
        return None

    def sentences(self) -> list[str]:
        """What a reader should know of the representations before trusting a fit."""
        return []


_TOTAL_VARIANCE = 5.0  # of principal components; 2 to 5 were alike on development seeds


class IdentityEncoder(Encoder):
    """z = x, flattened, perhaps standardised.

    :param input_shape: of one sample.
    :param standardise: whether z = (x - loc) / scale, which :meth:`learn_from` sets.
    """

    has_density = False
    loc: Tensor
    scale: Tensor

    def __init__(self, input_shape: Sequence[int], standardise: bool = False) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.latent_dim = math.prod(input_shape)
        self.standardises = standardise
        if standardise:
            self.register_buffer("loc", torch.zeros(self.latent_dim, dtype=torch.float64))
            self.register_buffer("scale", torch.ones(self.latent_dim, dtype=torch.float64))

    def learn_from(self, x: Tensor, centre: bool = True) -> None:
        if not self.standardises or not len(x):
            return
        x = x.flatten(1).double()
        varies = (x != x[:1]).any(0)  # to the last digit: a mean of equal numbers may differ
        if centre:
            self.loc.copy_(torch.where(varies, x.mean(0), x[0]))
        self.scale.copy_(torch.where(varies, x.std(0, correction=0), torch.ones_like(self.loc)))

    def learn_from_sums(self, mean: Tensor, variance: Tensor, centre: bool = True) -> None:
        if type(self).learn_from is not IdentityEncoder.learn_from:
            super().learn_from_sums(mean, variance, centre)
        elif self.standardises:
            if centre:
                self.loc.copy_(mean)
            self.scale.copy_(torch.where(variance > 0, variance.sqrt(), 1.0))

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        z = x.flatten(2)
        if self.standardises:
            z = ((z.double() - self.loc) / self.scale).to(x.dtype)
        return dist.Delta(z, event_dim=1)


class PrincipalComponentsEncoder(IdentityEncoder):
    """z = axes' (x - loc) / scale: principal components, whose variances sum to at most 5.

    With weights of order 1 the linear predictor is then of order 2 however many components there
    are; with variances of 1 each it would grow with their number, and the scales of weights are not
    thought to be that small. The components are found by :meth:`learn_from`, signs included; where
    the inputs have fewer than d_z, the others are 0. Of up to five components the mean variance
    is 1.

    :param input_shape: of one sample.
    :param latent_dim: d_z, at most; no more than there are inputs.
    """

    axes: Tensor
    share: Tensor

    def __init__(self, input_shape: Sequence[int], latent_dim: int) -> None:
        super().__init__(input_shape, standardise=True)
        inputs, self.latent_dim = self.latent_dim, min(latent_dim, self.latent_dim)
        axes = torch.eye(inputs, self.latent_dim, dtype=torch.float64)
        self.register_buffer("axes", axes)
        self.register_buffer("share", torch.tensor(1.0, dtype=torch.float64))

    def learn_from(self, x: Tensor, centre: bool = True) -> None:
        super().learn_from(x, centre)
        if not len(x):
            return
        standardised = (x.flatten(1).double() - self.loc) / self.scale
        _, sizes, rows = torch.linalg.svd(standardised, full_matrices=False)
        kept = sizes[: self.latent_dim]
        self.share.copy_(kept.square().sum() / sizes.square().sum().clamp_min(1e-30))
        kept = kept[kept > 1e-9 * sizes[0]]
        found = rows[: len(kept)].mT
        # The largest entry of an axis is positive: the same data have the same components.
        found = found * found.gather(0, found.abs().argmax(0, keepdim=True)).sign()
        total = len(x) * min(_TOTAL_VARIANCE, max(1, len(kept)))
        spread = kept.square().sum().div(total).sqrt()
        self.axes.zero_()
        self.axes[:, : len(kept)] = found / spread.clamp_min(1e-30)

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        z = ((x.flatten(2).double() - self.loc) / self.scale) @ self.axes
        return dist.Delta(z.to(x.dtype), event_dim=1)

    def sentences(self) -> list[str]:
        inputs, share = len(self.axes), float(self.share)
        if share > 1 - 1e-9:
            return []
        return [
            f"Of {inputs} inputs the model sees {self.latent_dim} principal components, which hold "
            f"{min(share, 0.999):.1%} of the variance in the training data; what the others say is "
            "left out (model.encoder.latent_dim)."
        ]


def _features(network: nn.Module, x: Tensor, width: int) -> Tensor:
    """The network's output for ``[T, B, *input]`` as ``[T, B, width]``."""
    if isinstance(network, PerTask):
        out: Tensor = network(x)
    else:
        out = network(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    out = out.flatten(2)
    if out.shape[-1] != width:
        raise InputError(
            f"the encoder's network gives {out.shape[-1]} numbers a sample; expected {width}: "
            "latent_dim, and for a GaussianEncoder (mean and raw scale) twice that"
        )
    return out


class DeterministicEncoder(Encoder):
    """z = f(x) for any network f.

    :param network: from ``[N, *input]`` to ``[N, d_z]``, or a :class:`PerTask` of one.
    :param latent_dim: d_z.
    """

    has_density = False

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.network = network
        self.latent_dim = latent_dim

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Delta(_features(self.network, x, self.latent_dim), event_dim=1)


class GaussianEncoder(Encoder):
    """q(z | x) = N(mu(x), diag sigma(x)^2) for any network that gives 2 d_z numbers.

    :param network: from ``[N, *input]`` to ``[N, 2 d_z]`` (mean, then raw scale), or a
        :class:`PerTask` of one.
    :param latent_dim: d_z.
    :param initial_scale: sigma where the network's second half is 0.
    """

    def __init__(self, network: nn.Module, latent_dim: int, initial_scale: float = 0.1) -> None:
        super().__init__()
        self.network = network
        self.latent_dim = latent_dim
        self.offset = math.log(math.expm1(initial_scale))

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        loc, raw = _features(self.network, x, 2 * self.latent_dim).chunk(2, -1)
        # The floor keeps the entropy of z finite where the likelihood would like no noise at all.
        return dist.Normal(loc, softplus(raw + self.offset) + 1e-4).to_event(1)


class BayesianLinearEncoder(Encoder):
    r"""z = Phi x with a factorised Gaussian posterior over Phi, locally reparameterised.

    :math:`z \sim N(\mu_\Phi x, \mathrm{diag}\,\sigma_\Phi^2 x^2)`: the layer of the authors' code.

    :param input_shape: of one sample; inputs are flattened.
    :param latent_dim: d_z.
    :param num_layers: 1, shared by the tasks, or T, a layer for each.
    :param prior: ``"layer"``, the KL belongs to the shared weights, KL(q(Phi) || p(Phi)), and is
        paid once; or ``"samples"`` (the authors), every z pays for itself as if it were a latent
        variable of its own.
    :param dropout: share of inputs dropped in training.
    :param initial_scale: sigma of Phi at the start.
    :param initial_jitter: standard deviation of Phi's means at the start; None, 1 / sqrt(inputs).
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int,
        num_layers: int = 1,
        prior: str = "layer",
        dropout: float = 0.0,
        initial_scale: float = 0.05,
        initial_jitter: float | None = None,
    ) -> None:
        super().__init__()
        if prior not in ("layer", "samples"):
            raise InputError(f"the encoder's prior is {prior!r}; expected 'layer' or 'samples'")
        inputs = math.prod(input_shape)
        self.input_shape = tuple(input_shape)
        self.latent_dim = latent_dim
        self.has_density = prior == "samples"
        self.dropout = nn.Dropout(dropout)
        jitter = inputs**-0.5 if initial_jitter is None else initial_jitter
        # Layers of different tasks start equal, so that their latent axes agree.
        start = jitter * torch.randn(1, inputs + 1, latent_dim)
        self.loc = nn.Parameter(start.repeat(num_layers, 1, 1))
        raw = math.log(math.expm1(initial_scale))
        self.raw_scale = nn.Parameter(torch.full_like(self.loc.data, raw))

    @property
    def scale(self) -> Tensor:
        """sigma of Phi, ``[1 or T, in + 1, d_z]``, the bias as last row."""
        return softplus(self.raw_scale)

    def of_single_tasks(self) -> Iterable[nn.Parameter]:
        return self.parameters() if len(self.loc) > 1 else ()

    def layer(self) -> Gaussians | None:
        return None if self.has_density else Gaussians(self.loc, self.scale)

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        return self.through(self.dropout(x.flatten(2)), Gaussians(self.loc, self.scale))

    @staticmethod
    def through(x: Tensor, layer: Gaussians) -> dist.TorchDistribution:
        """The law of Phi x for Phi ~ ``layer``, ``[1 or T, in + 1, d_z]``, and x ``[T, B, in]``."""
        variance = layer.scale.square()
        loc = x @ layer.loc[:, :-1] + layer.loc[:, -1:]
        spread = x.square() @ variance[:, :-1] + variance[:, -1:]
        return dist.Normal(loc, spread.sqrt()).to_event(1)


class PerTask(nn.Module):
    """T copies of a network with parameters of their own, run as one: no loop over tasks.

    :param build: makes one network; called T times, so that the starts differ.
    :param num_tasks: T.
    """

    def __init__(self, build: Callable[[], nn.Module], num_tasks: int) -> None:
        super().__init__()
        networks = [build() for _ in range(num_tasks)]
        parameters, buffers = stack_module_state(networks)
        self.stacked = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(p.detach()) for name, p in parameters.items()}
        )
        for name, buffer in buffers.items():
            self.register_buffer(name.replace(".", "/"), buffer)
        self._buffer_names = list(buffers)
        # A skeleton without storage; in a tuple, so that it is not a submodule with parameters.
        self._skeleton = (copy.deepcopy(networks[0]).to("meta"),)

    @property
    def skeleton(self) -> nn.Module:
        """One of the networks, without storage for its parameters."""
        return self._skeleton[0]

    def of_single_tasks(self) -> Iterable[nn.Parameter]:
        """All of them."""
        return self.parameters()

    def train(self, mode: bool = True) -> "PerTask":
        self._skeleton[0].train(mode)
        super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """``[T, B, *input]`` to ``[T, B, *output]``."""
        parameters = {name.replace("/", "."): p for name, p in self.stacked.items()}
        buffers = {name: getattr(self, name.replace(".", "/")) for name in self._buffer_names}

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            out: Tensor = functional_call(self._skeleton[0], (parameters, buffers), (x,))
            return out

        out: Tensor = torch.vmap(one, randomness="different")(parameters, buffers, x)
        return out


def mlp(
    input_shape: Sequence[int],
    hidden: Sequence[int],
    outputs: int,
    dropout: float = 0.0,
) -> nn.Sequential:
    """A multi-layer perceptron with ReLU, from ``[N, *input]`` to ``[N, outputs]``.

    :param hidden: widths of the hidden layers.
    :param dropout: share of inputs and hidden units dropped in training.
    """
    widths = [math.prod(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, width in pairwise(widths):
        layers += [nn.Dropout(dropout), nn.Linear(inputs, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(widths[-1], outputs))
