"""What is drawn by a seed leaves the caller's generators alone, and threads take turns."""

import copy
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyro_vmtl as pv
from pyro_vmtl.data import TaskSplits, clusters
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import (
    FittedVMTL,
    TrainingSettings,
    diagnose,
    fit,
    load,
    predict,
    save,
    scale_temperature,
)
from pyro_vmtl.inference.elbo import elbo_parts
from pyro_vmtl.inspection import compare, kl_per_task, to_inference_data
from pyro_vmtl.model import MLP, Mixture, Nested, Settings, Standard

GRADIENTS = Settings(MLP(3, hidden=(8,), dropout=0.1), Mixture(), classifier="mean_field")
TRAINING = TrainingSettings(epochs=2, steps_per_epoch=2, validation_samples=5)


@pytest.fixture(scope="module")
def splits() -> TaskSplits:
    return clusters(3, 2, samples=8, dimensions=3, validation_samples=6, test_samples=10, seed=1)


@pytest.fixture(scope="module")
def fitted(splits: TaskSplits) -> FittedVMTL:
    return fit(splits.train, splits.validation, GRADIENTS, TRAINING)


def _draws() -> tuple[Any, ...]:
    return random.random(), np.random.random(), torch.rand(3).tolist()  # noqa: NPY002


def _leaves_the_generators(call: Callable[[], object]) -> bool:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    call()
    after = _draws()
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    return after == _draws()


@pytest.mark.parametrize("settings", [GRADIENTS, Settings(pool=Nested())], ids=["SVI", "conjugate"])
def test_a_fit_leaves_the_generators(splits: TaskSplits, settings: Settings) -> None:
    assert _leaves_the_generators(lambda: fit(splits.train, None, settings, TRAINING, seed=4))


def test_a_fit_that_fails_leaves_the_generators(splits: TaskSplits) -> None:
    def stop(history: list[dict[str, float]]) -> None:
        raise OSError("the disk is full")

    def fail() -> None:
        with pytest.raises(OSError, match="the disk is full"):
            fit(splits.train, None, GRADIENTS, TRAINING, on_epoch=stop)

    assert _leaves_the_generators(fail)


def test_a_loop_of_fits_draws_another_split_each_time(splits: TaskSplits) -> None:
    orders = []
    for _ in range(3):
        orders.append(tuple(np.random.permutation(20)))  # noqa: NPY002
        fit(splits.train, None, GRADIENTS, TRAINING, seed=0)
    assert len(set(orders)) == 3


def test_looking_at_a_fit_leaves_the_generators(
    splits: TaskSplits, fitted: FittedVMTL, tmp_path: Path
) -> None:
    save(fitted, tmp_path / "model")
    validation, batch = splits.validation, splits.train.dense()
    # Whose leave-one-out takes draws.
    alone = fit(splits.train, None, replace(GRADIENTS, pool=Standard()), TRAINING)
    looks: list[Callable[[], object]] = [
        lambda: load(tmp_path / "model"),
        lambda: predict(fitted.vmtl, splits.test, 5),
        lambda: pv.relatedness(fitted, seed=3),
        lambda: to_inference_data(fitted, splits.test, num_samples=5),
        lambda: kl_per_task(fitted),
        lambda: diagnose(fitted.vmtl, batch),
        lambda: scale_temperature(fitted, validation),
        lambda: compare({"one": fitted, "alone": alone}, splits.test, splits.train, 20),
    ]
    for number, look in enumerate(looks):
        assert _leaves_the_generators(look), number


@pytest.mark.parametrize("settings", [GRADIENTS, Settings(pool=Nested())], ids=["SVI", "conjugate"])
def test_a_seed_gives_one_fit_in_a_loop_after_another_and_in_a_thread(
    splits: TaskSplits, settings: Settings
) -> None:
    def numbers(seed: int = 4) -> torch.Tensor:
        one = fit(splits.train, splits.validation, settings, TRAINING, seed=seed, accelerator="cpu")
        return one.predict(splits.test, 20).mean

    first = numbers()
    other = numbers(seed=5)
    with ThreadPoolExecutor(1) as pool:
        found = [numbers(), pool.submit(numbers).result()]
    assert all(one.equal(first) for one in found)
    assert not other.equal(first)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, "one", True])
def test_a_seed_that_generators_cannot_have_is_refused(splits: TaskSplits, seed: Any) -> None:
    with pytest.raises(InputError, match=r"seed is .*; expected a whole number from 0 to"):
        fit(splits.train, None, GRADIENTS, TRAINING, seed=seed)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 0.5, "one", True])
def test_a_seed_of_draws_that_torch_cannot_have_is_refused(
    splits: TaskSplits, fitted: FittedVMTL, seed: Any
) -> None:
    with pytest.raises(InputError, match=r"seed is .*; expected a whole number of 64 bits"):
        fitted.predict(splits.test, 5, seed=seed)


class TestThreads:
    def test_predict_as_one_would(self, splits: TaskSplits, fitted: FittedVMTL) -> None:
        expected = [fitted.predict(splits.test, 20, 2, seed=seed).mean for seed in range(4)]
        fitted.vmtl.train()  # predictions are made in evaluation mode, whatever others do

        def ask(number: int) -> bool:
            found = fitted.predict(splits.test, 20, 2, seed=number % 4).mean
            return found.equal(expected[number % 4])

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(48)))
        assert fitted.vmtl.training
        fitted.vmtl.eval()

    def test_fit_and_predict_beside_each_other(
        self, splits: TaskSplits, fitted: FittedVMTL
    ) -> None:
        def train(seed: int) -> torch.Tensor:
            one = fit(splits.train, None, GRADIENTS, TRAINING, seed=seed, accelerator="cpu")
            return one.vmtl.classifier.gaussians()[0].detach()

        def ask(seed: int) -> torch.Tensor:
            elbo_parts(copy.deepcopy(fitted.vmtl), splits.train.dense())
            return fitted.predict(splits.test, 20, seed=seed).mean

        tasks = [(train, 0), (ask, 1), (train, 2), (ask, 3), (ask, 4), (train, 5)]
        expected = [call(seed) for call, seed in tasks]
        with ThreadPoolExecutor(len(tasks)) as pool:
            found = list(pool.map(lambda task: task[0](task[1]), tasks))
        assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
