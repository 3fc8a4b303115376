"""Small fits that every test here may look at, and tables and predictions made by hand."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from matplotlib import pyplot as plt

from pyro_vmtl.data import TaskSet, TaskSplits, clusters
from pyro_vmtl.inference.fit import FittedVMTL, fit
from pyro_vmtl.inference.predict import Predictions
from pyro_vmtl.inference.schedules import Constant
from pyro_vmtl.inference.training import TrainingSettings
from pyro_vmtl.inspection.relatedness import COLUMNS
from pyro_vmtl.model import (
    MLP,
    BayesianLinear,
    Geometric,
    Identity,
    Mixture,
    Nested,
    Power,
    Settings,
    Standard,
)
from pyro_vmtl.model.priors import nested

SETTINGS = {
    "mixture": Settings(encoder=Identity(), pool=Mixture(base=True, spread="scalar")),
    "paper": Settings(
        encoder=MLP(latent_dim=3, hidden=(4,)),
        pool=Mixture(),
        classifier="mean_field",
        empirical_bayes=True,
    ),
    "nested": Settings(encoder=Identity(), pool=Nested()),
    "power": Settings(encoder=Identity(), pool=Power()),
    "geometric": Settings(
        encoder=BayesianLinear(latent_dim=3), pool=Geometric(base=True), classifier="mean_field"
    ),
    "layers": Settings(
        encoder=BayesianLinear(latent_dim=3, per_task=True),
        pool=Power(spread="scalar"),
        representation_pool=Mixture(base=True),
    ),
    "standard": Settings(encoder=Identity(), pool=Standard()),
    "mean_field": Settings(encoder=Identity(), pool=Standard(), classifier="mean_field"),
}

MakeFit = Callable[..., tuple[FittedVMTL, TaskSplits]]
MakeTable = Callable[..., pd.DataFrame]
MakePredictions = Callable[..., Predictions]


@pytest.fixture(scope="session")
def make_fit() -> MakeFit:
    """A model of some settings, hardly trained, with its tasks; the same one when asked again."""
    made: dict[tuple[str, int, str], tuple[FittedVMTL, TaskSplits]] = {}

    def make(
        settings: str, num_tasks: int = 4, kind: str = "multiclass"
    ) -> tuple[FittedVMTL, TaskSplits]:
        key = (settings, num_tasks, kind)
        if key not in made:
            splits = clusters(
                num_tasks,
                min(2, num_tasks),
                samples=6,
                dimensions=4,
                kind=kind,  # type: ignore[arg-type]
                test_samples=5,
            )
            training = TrainingSettings(
                epochs=2,
                steps_per_epoch=2,
                validation_samples=5,
                learning_rate=Constant(0.2),
                scale_rate=1.0,  # at ten times this rate scales would collapse in four steps
            )
            pyro.set_rng_seed(0)
            with pytest.MonkeyPatch.context() as patch:  # a few draws of partitions will do
                patch.setattr(nested, "_ROUND", 10)
                patch.setattr(nested, "_ROUNDS", 1)
                fitted = fit(splits.train, splits.validation, SETTINGS[settings], training)
            made[key] = (fitted, splits)
        return made[key]

    return make


@pytest.fixture(scope="session")
def make_table() -> MakeTable:
    """A relatedness table of tasks in two clusters, without a model behind it."""

    def make(
        num_tasks: int = 6, gates: bool = False, base: bool = True, seed: int = 0
    ) -> pd.DataFrame:
        generator = np.random.default_rng(seed)
        names = [f"task {number}" for number in range(num_tasks)]
        rows = []
        for t, task in enumerate(names):
            others = [i for i in range(num_tasks) if i != t] + ([-1] if base and not gates else [])
            raw = np.array(
                [(3.0 if i >= 0 and i % 2 == t % 2 else 1.0) + generator.random() for i in others]
            )
            probabilities = raw / 5 if gates else raw / raw.sum()
            responsibilities = raw**3 / (raw**3).sum()
            for i, value, share in zip(others, probabilities, responsibilities, strict=True):
                row: dict[str, object] = {"site": "weights", "task": task}
                row |= {"kind": "gates" if gates else "weights"}
                row |= {"before_data": 0.5 if gates else 1 / len(others)}
                row |= {"other": "base" if i < 0 else names[i], "mean": value, "sd": 0.1}
                row |= {"hdi_low": value / 2, "hdi_high": (1 + value) / 2, "probability": value}
                rows.append(row | {"responsibility": np.nan if gates else share})
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        table.attrs = {"spread": "posterior"}
        return table

    return make


@pytest.fixture(scope="session")
def make_predictions() -> MakePredictions:
    """Predictions of made-up tasks, without a model behind them."""

    def make(
        num_tasks: int = 3,
        kind: str = "classification",
        samples: int = 20,
        outputs: int = 1,
        side: int = 3,
        seed: int = 0,
    ) -> Predictions:
        generator = torch.Generator().manual_seed(seed)
        size = num_tasks * samples
        x = torch.rand(size, side * side, generator=generator)
        task = torch.arange(num_tasks).repeat_interleave(samples)
        names = tuple(f"task {number}" for number in range(num_tasks))
        if kind == "classification":
            classes = ("cat", "dog", "eel")
            y = torch.randint(0, 3, (size,), generator=generator)
            tasks = TaskSet(names, x, y, task, classes)
            # What a sample looks like misleads all draws alike, so that some predictions are wrong.
            looks = torch.eye(3)[y] + torch.randn(size, 3, generator=generator)
            logits = looks + torch.randn(30, size, 3, generator=generator)
            probabilities = logits.softmax(-1)
            mean = probabilities.mean(0)
            total = torch.special.entr(mean).sum(-1)
            aleatoric = torch.special.entr(probabilities).sum(-1).mean(0)
            density = mean.gather(-1, y[:, None])[:, 0].log()
            return Predictions(tasks, mean, density, total, aleatoric, total - aleatoric)
        shape = (size,) if outputs == 1 else (size, outputs)
        mean = torch.randn(shape, generator=generator)
        y = mean + torch.randn(shape, generator=generator)
        tasks = TaskSet(names, x, y, task, None)
        epistemic = 0.1 + 0.2 * torch.rand(shape, generator=generator)
        draws = mean + torch.randn(60, *shape, generator=generator)
        ones = torch.ones(shape)
        return Predictions(tasks, mean, torch.zeros(size), ones + epistemic, ones, epistemic, draws)

    return make


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")
