"""Variance components: what they are in a world where they are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vmtl as pv
from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import NestedWeights
from pyro_vmtl.model.priors.conditionals import bases, drawn_bases


def world(seed: int = 0, tasks: int = 20, rows: int = 30) -> pd.DataFrame:
    """The effect of `dose` differs between tasks (sd .8), that of `age` does not."""
    generator = np.random.default_rng(seed)
    frames = []
    for number in range(tasks):
        x = generator.normal(size=(rows, 2))
        effects = np.array([1.5 + 0.8 * generator.normal(), -1.0])
        y = x @ effects + 0.5 * generator.normal(size=rows)
        frames.append(
            pd.DataFrame({"site": f"site {number}", "dose": x[:, 0], "age": x[:, 1], "y": y})
        )
    return pd.concat(frames)


@pytest.fixture(scope="module")
def fitted() -> pv.FittedVMTL:
    return pv.fit(pv.read_table(world(), task="site", target="y"), log_warnings=False)


def test_they_are_those_of_the_world(fitted: pv.FittedVMTL) -> None:
    assert fitted.columns is not None
    table = pv.variance_components(fitted).set_index("input")
    assert list(table.index) == ["dose", "age", "(intercept)"]
    unit = float(world()["y"].std(ddof=0))  # effects are those of the standardised target
    scale = {feature.name: feature.deviation / unit for feature in fitted.columns.features}
    dose, age = table.loc["dose"], table.loc["age"]
    # Of 20 tasks the mean effect is known to .8 / sqrt(20), and its sd to a sixth.
    assert dose["mean_low"] < 1.5 * scale["dose"] < dose["mean_high"]
    assert age["mean_low"] < -1.0 * scale["age"] < age["mean_high"]
    both = np.hypot(dose["between_tasks"], dose["between_clusters"])
    assert both == pytest.approx(0.8 * scale["dose"], rel=0.35)
    assert age["between_tasks"] < 0.15 * scale["age"]
    for name in ("mean", "between_tasks"):  # a mean of mostly zeros may lie above its interval
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()


def test_draws_of_bases_have_the_moments_of_their_law(fitted: pv.FittedVMTL) -> None:
    weights = fitted.vmtl.classifier
    assert isinstance(weights, NestedWeights)
    draws = type(weights.draws)(**{k: v[:1] for k, v in vars(weights.draws).items()})
    generator = torch.Generator().manual_seed(0)
    many = torch.stack(
        [drawn_bases(weights.evidence, weights.prior, draws, generator)[0] for _ in range(2000)]
    )
    expected = bases(weights.evidence, weights.prior, draws)
    for task, slot in enumerate(draws.labels[0].tolist()):
        sd = expected.covariance[0, slot, 0].diagonal().sqrt()
        away = (many[:, task, 0].mean(0) - expected.loc[0, slot, 0]) / sd
        assert away.abs().max() < 0.1
        torch.testing.assert_close(many[:, task, 0].std(0), sd, rtol=0.1, atol=0)


def test_of_classes_and_arrays() -> None:
    generator = np.random.default_rng(0)
    pairs = {
        name: (generator.normal(size=(20, 2)), generator.choice(["a", "b", "c"], 20))
        for name in "xyz"
    }
    table = pv.variance_components(pv.fit(TaskSet.from_arrays(pairs), log_warnings=False))
    assert set(table["output"]) == {"contrast 1", "contrast 2"}
    assert set(table["input"]) == {"z0", "z1", "(intercept)"}


def test_what_they_need(fitted: pv.FittedVMTL) -> None:
    with pytest.raises(InputError, match="coverage is 1; expected a number between 0 and 1"):
        pv.variance_components(fitted, coverage=1)
    tasks = pv.read_table(world(), task="site", target="y")
    vmtl = pv.build(tasks, encoder=pv.Identity(), pool=pv.Standard())
    other = pv.FittedVMTL(
        vmtl, pv.Settings(), tasks.names, None, ("y",), (2,), pd.DataFrame(), columns=None
    )
    with pytest.raises(InputError, match="expected a model with the pool Nested"):
        pv.variance_components(other)
