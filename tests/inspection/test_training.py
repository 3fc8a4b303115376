"""What is kept of training, and what each task pays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vmtl.data import TaskSplits, clusters
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.elbo import elbo_parts
from pyro_vmtl.inference.fit import FittedVMTL, fit
from pyro_vmtl.inference.training import TrainingSettings
from pyro_vmtl.inspection.draws import relatedness_probabilities
from pyro_vmtl.inspection.training import Snapshots, kept_epoch, kl_per_task, task_kls
from pyro_vmtl.model import Identity, Mixture, PooledWeights, Settings

MakeFit = Callable[..., tuple[FittedVMTL, TaskSplits]]


def test_the_epoch_kept_has_the_best_validation_density() -> None:
    history = pd.DataFrame({"epoch": [0, 1, 2], "validation_nll": [0.9, 0.5, 0.7]})
    assert kept_epoch(history) == 1
    assert kept_epoch(history.drop(columns="validation_nll")) == 2
    assert kept_epoch(history.assign(validation_nll=[0.9, np.nan, 0.7])) == 2
    assert kept_epoch(history.iloc[:0]) is None


def test_without_borrowing_the_kl_is_to_the_standard_normal(make_fit: MakeFit) -> None:
    fitted, _ = make_fit("standard", num_tasks=3)
    table = kl_per_task(fitted)
    weights = fitted.vmtl.classifier
    assert isinstance(weights, PooledWeights)
    zeros = torch.zeros_like(weights.loc)
    normal = MultivariateNormal(zeros, weights.unit.square().diag())
    expected = kl_divergence(MultivariateNormal(weights.loc, weights.covariance), normal).sum(-1)
    assert list(table.index) == list(fitted.names)
    np.testing.assert_allclose(table["weights"], expected.detach(), rtol=1e-5)


@pytest.mark.parametrize("settings", ["mixture", "nested", "geometric", "layers"])
def test_the_tasks_kls_sum_to_that_of_the_elbo(make_fit: MakeFit, settings: str) -> None:
    fitted, splits = make_fit(settings)
    values = task_kls(fitted.vmtl, num_samples=250)
    parts = elbo_parts(fitted.vmtl, splits.train.dense(), num_particles=250)
    assert sum(values["weights"]) == pytest.approx(parts.kl_weights, rel=0.1)
    if settings == "layers":
        total = sum(values["representations"])
        assert total == pytest.approx(parts.kl_representations, rel=0.1)
    else:
        assert "representations" not in values


@pytest.mark.parametrize("classifier", ["mean_field", "conjugate"])
def test_snapshots_hold_what_the_model_said_after_each_epoch(classifier: Any) -> None:
    splits = clusters(3, 1, samples=6, dimensions=3, test_samples=2)
    snapshots = Snapshots(splits.train.names)
    training = TrainingSettings(epochs=3, steps_per_epoch=2)
    settings = Settings(encoder=Identity(), pool=Mixture(base=True), classifier=classifier)
    fitted = fit(splits.train, None, settings, training, callbacks=[snapshots])
    table = snapshots.relatedness()
    assert table["epoch"].unique().tolist() == [0, 1, 2]
    last = table[table["epoch"] == 2].pivot(index="task", columns="other", values="probability")
    # Without validation data the last epoch is the one kept.
    expected = relatedness_probabilities(fitted.vmtl, "weights")
    last = last.reindex(columns=[*fitted.names, "base"])
    np.testing.assert_allclose(last, expected)
    kls = snapshots.kls()
    assert len(kls) == 9
    final = kls[kls["epoch"] == 2].set_index("task")["kl"]
    assert (final > 0).all()
    if classifier == "mean_field":  # weights in closed form settle after the last epoch
        np.testing.assert_allclose(final, task_kls(fitted.vmtl)["weights"], rtol=1e-6)


def test_of_a_long_training_about_twenty_snapshots_are_taken() -> None:
    splits = clusters(3, 1, samples=4, dimensions=2, test_samples=2)
    snapshots = Snapshots(splits.train.names, every=None)
    training = TrainingSettings(epochs=41, steps_per_epoch=1)
    settings = Settings(encoder=Identity(), pool=Mixture())
    fit(splits.train, None, settings, training, callbacks=[snapshots])
    assert snapshots.relatedness()["epoch"].unique().tolist() == list(range(0, 41, 3))


def test_snapshots_survive_a_checkpoint_that_runs_no_code(
    make_fit: MakeFit, tmp_path: Path
) -> None:
    fitted, _ = make_fit("mixture")
    snapshots = Snapshots(fitted.names)
    snapshots.take(fitted.vmtl, 4)
    torch.save(snapshots.state_dict(), tmp_path / "state")
    again = Snapshots(fitted.names)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    pd.testing.assert_frame_equal(again.relatedness(), snapshots.relatedness())
    pd.testing.assert_frame_equal(again.kls(), snapshots.kls())


def test_no_borrowing_gives_empty_snapshots(make_fit: MakeFit) -> None:
    fitted, _ = make_fit("standard", num_tasks=3)
    snapshots = Snapshots(fitted.names)
    snapshots.take(fitted.vmtl, 0)
    assert snapshots.relatedness().empty
    assert len(snapshots.kls()) == 3


def test_snapshots_of_other_tasks_are_refused(make_fit: MakeFit) -> None:
    fitted, _ = make_fit("mixture")
    with pytest.raises(InputError, match="4 tasks; expected the 2"):
        Snapshots(["a", "b"]).take(fitted.vmtl, 0)
    with pytest.raises(InputError, match="every is 0"):
        Snapshots(["a"], every=0)
