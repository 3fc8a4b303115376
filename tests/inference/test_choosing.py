"""The likelihood is chosen by left-out rows where it was left open, and that is said."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

import pyro_vmtl as pv
from pyro_vmtl.inference.choosing import _log_between
from pyro_vmtl.model import CategoricalLikelihood, GaussianLikelihood


def _tasks(y: np.ndarray, x: np.ndarray, **further: object) -> pv.TaskSet:
    half = len(y) // 2
    parts = {"one": (x[:half], y[:half]), "two": (x[half:], y[half:])}
    return pv.TaskSet.from_arrays(parts, **further)  # type: ignore[arg-type]


def test_counts_are_counts_and_whole_numbers_need_not_be() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(120, 2))
    counts = generator.negative_binomial(2, 1 / (1 + np.exp(0.5 + x[:, 0]) / 2)).astype(float)
    fitted = pv.fit(_tasks(counts, x, regression=True))
    assert isinstance(fitted.settings.likelihood, pv.NegativeBinomial)
    (note,) = fitted.notes
    assert note.startswith("The likelihood is NegativeBinomial: the targets are whole numbers")
    asked = pv.Settings(likelihood=pv.NegativeBinomial())
    same = pv.fit(_tasks(counts, x, regression=True), settings=asked)
    for name, value in fitted.vmtl.state_dict().items():
        assert value.equal(same.vmtl.state_dict()[name]), name
    assert same.notes == ()
    scores = np.round(50 + 8 * x[:, 0] + 5 * generator.normal(size=120))
    fitted = pv.fit(_tasks(scores, x, regression=True))
    assert isinstance(fitted.settings.likelihood, pv.Gaussian)
    assert "lower by" in fitted.notes[0]
    assert "with NegativeBinomial than with Gaussian" in fitted.notes[0]


def test_outliers_ask_for_heavy_tails_and_noise_that_differs_does_not() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(160, 2))
    y = x[:, 0] + 0.3 * generator.normal(size=160)
    y[::16] += 20 * generator.choice([-1, 1], 10)
    fitted = pv.fit(_tasks(y, x))
    assert isinstance(fitted.settings.likelihood, pv.StudentT)
    assert fitted.notes[0].startswith("The likelihood is StudentT: some targets are far from")
    noise = generator.normal(size=160) * np.repeat([0.1, 3.0], 80)
    assert pv.fit(_tasks(x[:, 0] + noise, x)).notes == ()


def test_what_is_not_whole_or_below_0_has_no_alternative() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 1))
    y = np.round(10 + 3 * x[:, 0] + generator.normal(size=40))
    assert len(pv.fit(_tasks(y, x, regression=True)).notes) == 1
    for other in (y - 30, y + 0.5, y % 2):
        assert pv.fit(_tasks(other, x, regression=True)).notes == ()


@pytest.mark.parametrize("ordered", [True, False])
def test_numbered_classes_are_ordinal_where_their_order_tells(ordered: bool) -> None:
    generator = np.random.default_rng(1)
    frame = pd.DataFrame({"age": generator.normal(size=160), "ward": list("abcd") * 40})
    eta = 2 * frame["age"] + generator.logistic(size=160)
    stage = np.digitize(eta, [-2, 0, 2])
    frame["stage"] = stage if ordered else np.array([2, 0, 3, 1])[stage]
    fitted = pv.fit(pv.read_table(frame, "ward", "stage"))
    kind = pv.Ordinal if ordered else pv.Categorical
    assert isinstance(fitted.settings.likelihood, kind)
    assert len(fitted.notes) == 1
    named = pv.fit(pv.read_table(frame.replace({"stage": {0: "none"}}), "ward", "stage"))
    assert named.notes == ()


def test_no_likelihood_is_chosen_where_rows_do_not_leave_the_weights() -> None:
    """Nothing takes a gradient here either, but what a row has said cannot be taken out."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 2))
    counts = _tasks(generator.poisson(np.exp(x[:, 0])).astype(float), x, regression=True)
    fitted = pv.fit(counts, settings=pv.Settings(pool=pv.Standard()))
    assert isinstance(fitted.vmtl.likelihood, GaussianLikelihood)
    assert fitted.notes == ()
    frame = pd.DataFrame({"age": generator.normal(size=60), "ward": list("ab") * 30})
    frame["stage"] = np.digitize(frame["age"], [-0.5, 0.5])
    stages = pv.read_table(frame, "ward", "stage")
    fitted = pv.fit(stages, settings=pv.Settings(pool=pv.Feedback()))
    assert isinstance(fitted.vmtl.likelihood, CategoricalLikelihood)
    assert fitted.notes == ()


def test_the_probability_of_an_interval_does_not_cancel() -> None:
    low = torch.tensor([-0.5, 7.0, -30.0, 29.0], dtype=torch.float64)
    found = _log_between(low, low + 1)
    assert found[0] == pytest.approx(math.log(norm.cdf(0.5) - norm.cdf(-0.5)))
    assert found[1] == pytest.approx(math.log(norm.sf(7) - norm.sf(8)))
    assert found[2] == pytest.approx(found[3])
    assert found[2] == pytest.approx(norm.logcdf(-29), abs=1e-6)
