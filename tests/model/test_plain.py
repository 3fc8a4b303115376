"""Settings are written down as plain data, parts of the user's own among them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.distributions import Gaussians
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import Architecture, from_plain, to_plain
from pyro_vmtl.model.encoders import Encoder, IdentityEncoder
from pyro_vmtl.model.pools import Spread


class HeavyTailed(pv.Pool):
    """The linear pool with the tails of a Student-t."""

    def __init__(self, df: float = 4.0, base: bool = False, spread: Spread | None = None) -> None:
        super().__init__(base, spread)
        self.df = df

    def prior(
        self, weights: Tensor, lenders: Gaussians, spread: Tensor | None, event_dim: int
    ) -> dist.TorchDistribution:
        law = pv.Linear(self.base).prior(weights, lenders, spread, event_dim)
        return dist.StudentT(self.df, law.mean, law.variance.sqrt()).to_event(event_dim)


class Forgetful(pv.Pool):
    """It does not keep what it was made with."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._kept = share


class SharedWeights(pv.WeightsPosterior):
    """One Gaussian for all tasks."""

    def __init__(self, num_tasks: int, num_outputs: int, latent_dim: int, scale: float) -> None:
        super().__init__()
        self.num_tasks, self.scale = num_tasks, scale
        self.event_shape = torch.Size([num_outputs, latent_dim + 1])
        self.loc = torch.nn.Parameter(torch.zeros(self.event_shape))

    def gaussians(self) -> Gaussians:
        loc = self.loc.expand(self.num_tasks, -1, -1)
        return Gaussians(loc, torch.full_like(loc, self.scale))


class Shared(pv.Posterior):
    """Settings of it."""

    def __init__(self, scale: float = 0.1, columns: int = 0) -> None:
        self.scale = scale
        self.columns = columns

    def __call__(
        self, num_tasks: int, num_outputs: int, latent_dim: int, bias: bool
    ) -> pv.WeightsPosterior:
        return SharedWeights(num_tasks, num_outputs, latent_dim + self.columns, self.scale)


@dataclass(frozen=True)
class Doubled(Architecture):
    """Twice the inputs."""

    is_fixed = True
    times: int = 2

    def __call__(self, input_shape: object, num_tasks: int) -> Encoder:
        return IdentityEncoder([4])


@pytest.mark.parametrize(
    "settings",
    [
        pv.Settings(),
        pv.Settings(pool=pv.Nested(known=[0, 0, 1]), bias=False),
        pv.Settings(pool=HeavyTailed(df=3.0, base=True), classifier="mean_field"),
        pv.Settings(encoder=Doubled(3), likelihood=pv.Poisson()),
        pv.Settings(classifier=Shared(0.2)),
    ],
)
def test_come_back_from_json(settings: pv.Settings) -> None:
    plain = json.loads(json.dumps(to_plain(settings)))
    assert from_plain(plain) == settings


def test_own_parts_go_by_their_module() -> None:
    (name,) = to_plain(pv.Settings(pool=HeavyTailed()))["pool"]
    assert name == f"{__name__}.HeavyTailed"
    (name,) = to_plain(pv.Settings(pool=pv.Mixture()))["pool"]
    assert name == "Mixture"


def test_a_part_that_keeps_nothing_is_passed_in() -> None:
    plain = to_plain(pv.Settings(pool=Forgetful(0.5)))
    assert plain["pool"] is None
    with pytest.raises(InputError, match=r"the pool .* its author's own; pass it as load"):
        from_plain(plain)
    pool = Forgetful(0.5)
    assert from_plain(plain, pool=pool).pool is pool


def test_a_part_whose_module_is_not_there_is_named() -> None:
    plain = to_plain(pv.Settings()) | {"pool": {"somewhere.Else": {}}}
    with pytest.raises(InputError, match=r"'somewhere.Else'; expected that its module is imported"):
        from_plain(plain)
    plain["pool"] = {"Clustered": {}}
    with pytest.raises(InputError, match=r"'Clustered'; expected one of \[.*'Mixture'"):
        from_plain(plain)


def test_a_model_with_a_pool_of_ones_own_trains_saves_and_loads(tmp_path: Path) -> None:
    splits = pv.clusters(3, 1, samples=8, test_samples=4, dimensions=4, seed=0)
    settings = pv.Settings(pv.Identity(), HeavyTailed(), classifier="mean_field")
    training = pv.TrainingSettings(epochs=1, steps_per_epoch=3)
    fitted = pv.fit(splits.train, None, settings, training, log_warnings=False)
    loaded = pv.load(pv.save(fitted, tmp_path / "model"))
    assert isinstance(loaded.settings.pool, HeavyTailed)
    before, after = (one.predict(splits.test).mean for one in (fitted, loaded))
    torch.testing.assert_close(before, after)


def test_a_model_with_a_posterior_of_ones_own_trains_saves_and_loads(tmp_path: Path) -> None:
    splits = pv.clusters(3, 1, samples=8, test_samples=4, dimensions=4, seed=0)
    settings = pv.Settings(pv.Identity(), classifier=Shared(0.2))
    training = pv.TrainingSettings(epochs=1, steps_per_epoch=20)
    fitted = pv.fit(splits.train, None, settings, training, log_warnings=False)
    weights = fitted.vmtl.classifier
    assert isinstance(weights, SharedWeights)
    assert weights.loc.abs().sum() > 0
    assert isinstance(fitted.vmtl.pool, pv.Mixture)
    loaded = pv.load(pv.save(fitted, tmp_path / "model"))
    assert isinstance(loaded.settings.classifier, Shared)
    before, after = (one.predict(splits.test).mean for one in (fitted, loaded))
    torch.testing.assert_close(before, after)


def test_a_posterior_of_ones_own_that_does_not_fit_is_refused() -> None:
    tasks = pv.clusters(3, 1, samples=8, dimensions=4).train
    with pytest.raises(InputError, match=r"Shared makes weights .*event_shape .*\[3, 1, 6\]"):
        pv.build(tasks, encoder=pv.Identity(), classifier=Shared(columns=1))
    with pytest.raises(InputError, match="the classifier is a Shared and the pool Nested"):
        pv.build(tasks, encoder=pv.Identity(), classifier=Shared(), pool=pv.Nested())
    with pytest.raises(InputError, match="the classifier is the class Shared; expected one of"):
        pv.Settings(classifier=Shared)  # type: ignore[arg-type]
