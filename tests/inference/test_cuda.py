"""What only a CUDA device can show; on a machine without one these tests are skipped.

Everywhere else tests/model/test_placement.py asks of the meta device what it can.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyro_vmtl as pv
from pyro_vmtl.data import TaskSplits, clusters
from pyro_vmtl.inference import Constant, FittedVMTL, TrainingSettings
from pyro_vmtl.inspection.leave_one_out import leave_one_out

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

TRAINING = TrainingSettings(
    epochs=3, steps_per_epoch=15, batch_size=8, learning_rate=Constant(0.01), validation_samples=5
)


@pytest.fixture(scope="module")
def splits() -> TaskSplits:
    return clusters(4, 2, samples=20, dimensions=3, validation_samples=6, test_samples=50, seed=1)


def _counts() -> pv.TaskSet:
    rng = np.random.default_rng(0)
    parts = {}
    for name in "abcd":
        x = rng.normal(size=(30, 1))
        parts[name] = (x, rng.poisson(np.exp(0.5 * x[:, 0] + 1) * rng.gamma(2, 0.5, 30)))
    return pv.TaskSet.from_arrays(parts, regression=True)


def _fit(splits: TaskSplits, device: str, settings: pv.Settings) -> FittedVMTL:
    return pv.fit(
        splits.train, settings=settings, training=TRAINING, accelerator=device, log_warnings=False
    )


@pytest.mark.parametrize(
    "pool",
    [pv.Nested(), pv.Feedback(), pv.Standard()],
    ids=["nested", "feedback", "standard"],
)
def test_weights_in_closed_form_are_those_of_the_cpu(splits: TaskSplits, pool: pv.Pool) -> None:
    """Partitions and scales are drawn on the CPU, from sites that differ by rounding alone."""
    one, other = (_fit(splits, device, pv.Settings(pool=pool)) for device in ("cpu", "cuda"))
    ours, theirs = (fitted.predict(splits.test).mean for fitted in (one, other))
    assert (ours - theirs).abs().max() < 0.02
    assert one.vmtl.device == other.vmtl.device == torch.device("cpu")


def test_a_likelihood_that_the_data_choose_is_chosen_there() -> None:
    fitted = pv.fit(_counts(), accelerator="cuda", log_warnings=False)
    assert type(fitted.vmtl.likelihood).__name__.startswith("NegativeBinomial")


@pytest.mark.parametrize(
    "settings",
    [
        pv.Settings(pv.MLP(4, hidden=(8,), stochastic=False), pv.Nested()),
        pv.Settings(pv.MLP(4, hidden=(8,)), pv.Mixture()),
        pv.Settings(pv.MLP(4, hidden=(8,)), pv.Mixture(), classifier="mean_field"),
    ],
    ids=["nested", "mixture", "mean_field"],
)
def test_an_encoder_learns_there(splits: TaskSplits, settings: pv.Settings) -> None:
    fitted = pv.fit(
        splits.train, splits.validation, settings, TRAINING, accelerator="cuda", log_warnings=False
    )
    here = fitted.predict(splits.test, num_samples=400).mean
    fitted.vmtl.to("cuda")
    there = fitted.predict(splits.test, num_samples=400).mean
    assert there.device.type == "cpu"  # tables and pictures are made of it
    assert (here - there).abs().max() < 0.15  # draws differ
    assert fitted.history["loss"].iloc[-1] < fitted.history["loss"].iloc[0]


def test_a_resumed_run_goes_on_with_the_noise_of_the_device(
    splits: TaskSplits, tmp_path: Path
) -> None:
    encoder = pv.MLP(4, hidden=(8,), dropout=0.1)
    settings = pv.Settings(encoder, pv.Mixture(), classifier="mean_field")

    def run(epochs: int, **options: Any) -> list[float]:
        training = replace(TRAINING, epochs=epochs)
        fitted = pv.fit(
            splits.train, None, settings, training, seed=3, accelerator="cuda", **options
        )
        return fitted.history["loss"].tolist()

    whole = run(4)
    run(2, checkpoints=tmp_path)
    torch.manual_seed(12345)
    checkpoint = next(tmp_path.glob("*.ckpt"))
    assert run(4, checkpoints=tmp_path, resume=checkpoint) == pytest.approx(whole, rel=1e-4)


def test_noise_of_sites_leaves_the_generator_of_the_device(splits: TaskSplits) -> None:
    vmtl = _fit(splits, "cuda", pv.Settings(pool=pv.Nested())).vmtl.to("cuda")
    before = torch.cuda.get_rng_state()
    vmtl.update(splits.train.dense().to("cuda"))
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_questions_asked_of_a_model_are_answered_there(splits: TaskSplits) -> None:
    fitted = _fit(splits, "cuda", pv.Settings(pool=pv.Nested()))
    here = pv.influence(fitted, splits.train, splits.test)
    fitted.vmtl.to("cuda")
    there = pv.influence(fitted, splits.train, splits.test)
    np.testing.assert_allclose(here["gain"], there["gain"], atol=1e-6)
    rows = pv.row_influence(fitted, splits.train, fitted.names[0], fitted.names[1])
    assert rows["gain"].notna().all()
    assert pv.relatedness(fitted)["probability"].between(0, 1).all()
    assert len(leave_one_out(fitted.vmtl, splits.train).log_density) == len(splits.train)
