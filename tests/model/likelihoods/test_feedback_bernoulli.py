"""Outputs of a row that hear each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.cavities import left_out_densities
from pyro_vmtl.model import BernoulliLikelihood, FeedbackBernoulliLikelihood
from pyro_vmtl.model.likelihoods import quadrature
from pyro_vmtl.model.priors import nested

NAN = float("nan")
_Told = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_BURN_IN": 2, "_ROUND": 4, "_ROUNDS": 1}.items():
        monkeypatch.setattr(nested, name, value)


def _with_maps(*pairs: float, **options: Any) -> FeedbackBernoulliLikelihood:
    """Of which all gates are open."""
    outputs = round(0.5 + math.sqrt(len(pairs) + 0.25))
    out = FeedbackBernoulliLikelihood(outputs, **options)
    out.theta.copy_(torch.tensor(pairs))
    out.gates.fill_(1.0)
    return out


def _drawn(heard: bool, seed: int = 0, few: int = 16) -> tuple[pv.TaskSet, pv.TaskSet]:
    """Two tasks; y_2 is known in a few rows, and follows y_1's output or has its own weights."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 300, 6, generator=generator)
    eta = 6 * torch.einsum("tbd,tkd->tbk", x, torch.randn(2, 2, 6, generator=generator)) / 6**0.5
    if heard:
        eta[..., 1] = 5 * (eta[..., 0] / 2).tanh()
    y = torch.bernoulli(eta.sigmoid(), generator=generator)
    y[:, few:60, 1] = NAN

    def tasks(rows: slice) -> pv.TaskSet:
        parts = x[:, rows].flatten(0, 1), y[:, rows].flatten(0, 1)
        task = torch.arange(2).repeat_interleave(len(parts[0]) // 2)
        return pv.TaskSet(("a", "b"), *parts, task, classes=None)

    return tasks(slice(60)), tasks(slice(60, None))


def _fitted(tasks: pv.TaskSet, likelihood: Any) -> pv.FittedVMTL:
    settings = pv.Settings(pool=pv.Nested(), likelihood=likelihood)
    return pv.fit(tasks, settings=settings, log_warnings=False)


def test_without_maps_they_are_bernoulli() -> None:
    ours, plain = FeedbackBernoulliLikelihood(3), BernoulliLikelihood(3)
    eta, y = 3 * torch.randn(5, 2, 7, 3).double(), torch.randint(2, (2, 7, 3)).double()
    law = ours.given(eta)
    assert law.log_prob(y).equal(plain.given(eta).log_prob(y))
    assert law.mean.equal(plain.given(eta).mean)
    sites = (eta[0], eta[1].square() + 0.1, y)
    for one, other in zip(ours.sites(*sites), plain.sites(*sites), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_each_round_hears_the_outputs_of_the_one_before() -> None:
    likelihood = _with_maps(2.0, -3.0, rounds=3)
    eta = torch.tensor([0.5, -1.0], dtype=torch.float64)
    first, second, third = likelihood.outputs(eta)
    for after, before in ((second, first), (third, second)):
        said = 2 * before.sigmoid() - 1
        torch.testing.assert_close(after, eta + torch.stack([2 * said[1], -3 * said[0]]))
    assert first.equal(eta)
    law = likelihood.given(eta.view(1, 1, 2))
    torch.testing.assert_close(law.mean.flatten(), third.sigmoid())
    assert _with_maps(*range(1, 7)).maps.diagonal().eq(0).all()


def test_outputs_that_are_not_known_say_nothing() -> None:
    likelihood = _with_maps(2.0, -3.0)
    eta = torch.randn(1, 4, 2).double()
    y = torch.tensor([[[1, 0], [1, NAN], [NAN, 0], [NAN, NAN]]]).double()
    log_p = likelihood.log_density(eta, y)
    each = likelihood.distribution(eta).log_prob(torch.tensor([1.0, 0.0]).double())
    torch.testing.assert_close(log_p, torch.where(y.isnan(), 0, each).sum(-1))
    slope, curvature = likelihood.sites(eta, torch.ones_like(eta), y)
    assert slope.isfinite().all()
    assert slope[0, 3].abs().max() < 1e-12
    assert curvature[0, 3].abs().max() < 1e-12


@pytest.mark.parametrize("maps", [(0.0, 4.0), (2.0, -3.0)])
def test_the_factor_is_that_of_the_expectation_over_the_other_outputs(
    maps: tuple[float, float],
) -> None:
    """Where the rest says N(loc, variance), it is that of the tilted mean and variance."""
    likelihood = _with_maps(*maps)
    loc, variance = torch.tensor([0.4, -0.6]).double(), torch.tensor([0.5, 0.8]).double()
    y = torch.tensor([1.0, 0.0]).double()
    grid, log_shares = torch.linspace(-8, 8, 2001).double(), quadrature(1)[1].double()
    nodes = quadrature(1)[0].flatten()
    own = loc[0] + grid * variance[0].sqrt()
    other = loc[1] + nodes * variance[1].sqrt()
    eta = torch.stack(torch.broadcast_tensors(own[:, None], other), -1)
    log_f = (likelihood.log_density(eta, y) * log_shares.exp()).sum(-1)
    share = (log_f - 0.5 * grid.square()).softmax(0)
    mean = (share * own).sum()
    within = (share * (own - mean).square()).sum()
    together = torch.stack([mean, loc[1]]).view(1, 1, 2)
    slope, curvature = likelihood.sites(
        together, torch.stack([within, variance[1]]).view(1, 1, 2), y.view(1, 1, 2)
    )
    left = 1 / within - curvature[0, 0, 0]
    rest = (mean / within - slope[0, 0, 0] - curvature[0, 0, 0] * mean) / left
    assert float(1 / left) == pytest.approx(0.5, abs=0.03)
    assert float(rest) == pytest.approx(0.4, abs=0.04)


def test_what_is_left_out_has_the_density_of_a_dense_sum() -> None:
    likelihood = _with_maps(1.0, 4.0)
    loc, variance = torch.tensor([[[0.3, -0.5]]]).double(), torch.tensor([[[1.5, 0.7]]]).double()
    nodes, log_shares = (part.squeeze() for part in quadrature(1))
    eta = torch.stack(torch.meshgrid(nodes, nodes, indexing="ij"), -1).double() * variance.sqrt()
    weights = log_shares[:, None] + log_shares
    for y in ([1.0, 0.0], [1.0, NAN], [NAN, 0.0]):
        targets = torch.tensor([[y]]).double()
        log_p = likelihood.log_density(eta + loc, targets)
        expected = (log_p + weights).flatten().logsumexp(0)
        none = (loc, loc)
        found = likelihood.log_predictive(loc, variance, targets, torch.ones(1, 1, 2), none)
        assert found.shape == (1, 1, 2)
        assert found[targets.isnan()].eq(0).all()
        assert float(found.sum()) == pytest.approx(float(expected), abs=0.02)


class TestMaps:
    @pytest.fixture
    def told(self) -> _Told:
        """Etas that are known, and targets of which y_2 hears y_1."""
        eta = 2 * torch.randn(4, 300, 2).double()
        y = torch.bernoulli(_with_maps(0.0, 3.0).outputs(eta)[-1].sigmoid())
        return eta, torch.zeros_like(eta), y, torch.ones_like(eta)

    def test_are_learned_and_gates_of_others_fall(self, told: _Told) -> None:
        likelihood = FeedbackBernoulliLikelihood(2)
        for _ in range(3):
            likelihood.update(*told)
        assert likelihood.maps[1, 0] == pytest.approx(3, abs=0.8)
        assert abs(float(likelihood.maps[0, 1])) < 0.1
        gates = likelihood.square(likelihood.gates)
        assert gates[1, 0] > 0.99
        assert gates[0, 1] < 0.3  # of 1/2

    def test_rows_of_several_places_lead_where_a_fit_does(self, told: _Told) -> None:
        whole, parts = FeedbackBernoulliLikelihood(2), FeedbackBernoulliLikelihood(2)
        for _ in range(5):
            whole.update(*told)
            eta, none, y, weight = (part.split(1) for part in told)
            found = list(map(parts.slopes, eta, none, y, weight))
            slopes, hessians = zip(*(pair for pair in found if pair), strict=True)
            parts.move(sum(slopes), sum(hessians))
        torch.testing.assert_close(parts.maps, whole.maps, rtol=1e-3, atol=1e-3)

    def test_converge_where_that_is_asked_for(self) -> None:
        eta = 4 * torch.randn(4, 100, 2).double()
        y = torch.bernoulli(_with_maps(6.0, -6.0).outputs(eta)[-1].sigmoid())
        moves = []
        for convergence in (0.0, 2.0):
            likelihood = FeedbackBernoulliLikelihood(2, convergence=convergence)
            for _ in range(4):
                likelihood.update(eta, torch.zeros_like(eta), y, torch.ones_like(eta))
            first, before, last = likelihood.outputs(eta)
            moves.append(float((last - before).norm() / first.norm()))
        assert moves[1] < 0.05 < moves[0]


def test_few_labels_of_an_output_that_follows_another_do(tmp_path: Path) -> None:
    train, test = _drawn(heard=True)
    fitted = _fitted(train, pv.FeedbackBernoulli())
    predictions = fitted.predict(test)
    nll = [
        -float(p.by_output().log_density.view(-1, 2)[:, 1].mean())
        for p in (predictions, _fitted(train, pv.Bernoulli()).predict(test))
    ]
    assert nll[0] < nll[1] - 0.05
    likelihood = fitted.vmtl.likelihood
    assert isinstance(likelihood, FeedbackBernoulliLikelihood)
    gates = likelihood.square(likelihood.gates)
    assert gates[1, 0] > 0.9
    assert gates[0, 1] < 0.5
    pv.save(fitted, tmp_path / "model")
    loaded = pv.load(tmp_path / "model")
    assert loaded.settings.likelihood == pv.FeedbackBernoulli()
    assert loaded.predict(test).mean.equal(predictions.mean)
    left_out = left_out_densities(fitted.vmtl, train.dense())
    assert left_out.isfinite().all()
    assert float(left_out.mean()) < 0


def test_outputs_with_weights_of_their_own_stay_as_they_are() -> None:
    train, test = _drawn(heard=False, seed=1)
    fitted, plain = (_fitted(train, chosen()) for chosen in (pv.FeedbackBernoulli, pv.Bernoulli))
    assert (fitted.vmtl.likelihood.get_buffer("gates") < 0.5).all()
    nll = [-float(f.predict(test, 400).by_output().log_density.mean()) for f in (fitted, plain)]
    assert nll[0] < nll[1] + 0.01


def test_a_learned_encoder_and_new_tasks_go_with_it() -> None:
    train, _ = _drawn(heard=True)
    train = train.subset(torch.cat([torch.arange(20), torch.arange(60, 80)]))
    encoder = pv.MLP(hidden=(4,), latent_dim=3)
    settings = pv.Settings(encoder, pv.Nested(), likelihood=pv.FeedbackBernoulli())
    training = pv.TrainingSettings(epochs=1)
    learned = pv.fit(train, settings=settings, training=training, log_warnings=False)
    assert learned.predict(train).mean.isfinite().all()
    fitted = _fitted(train, pv.FeedbackBernoulli())
    new = pv.TaskSet(("c",), train.x[:20], train.y[:20], torch.zeros(20).long(), classes=None)
    joined = fitted.add_task(new)
    assert joined.vmtl.likelihood.get_buffer("theta").equal(
        fitted.vmtl.likelihood.get_buffer("theta")
    )


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    train, _ = _drawn(heard=True)
    one = pv.TaskSet(train.names, train.x, train.y[:, 0], train.task, classes=None)
    with pytest.raises(InputError, match="hear each other, and a row has one output; expected sev"):
        _fitted(one, pv.FeedbackBernoulli())
    settings = pv.Settings(classifier="mean_field", likelihood=pv.FeedbackBernoulli())
    with pytest.raises(InputError, match="in closed form, and the classifier is 'mean_field'; exp"):
        pv.fit(train, settings=settings)
    counts = pv.TaskSet(train.names, train.x, 2 * train.y, train.task, classes=None)
    with pytest.raises(InputError, match="the likelihood is FeedbackBernoulli; expected 0 or 1"):
        _fitted(counts, pv.FeedbackBernoulli())
    for rounds in (1, 2.0, True):
        with pytest.raises(InputError, match=r"rounds are .*; expected a whole number of at least"):
            pv.FeedbackBernoulli(rounds=rounds)  # type: ignore[arg-type]
    for convergence in (-1.0, math.inf, "0"):
        with pytest.raises(InputError, match=r"convergence is .*; expected a number of at least 0"):
            pv.FeedbackBernoulli(convergence=convergence)  # type: ignore[arg-type]
