"""A prior of the user's own whose posterior has a closed form: a pool that makes its weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.inspection import group, read_netcdf
from pyro_vmtl.model import ConjugateWeights, Likelihood, MeanFieldWeights, Setup
from pyro_vmtl.model.priors.gibbs import Evidence, Moments

Train = Callable[..., Path]
CLUSTERS = ("data=clusters", "data.num_tasks=3", "data.num_clusters=1", "data.dimensions=3")


class FromTheLiterature(pv.Pool):
    """N(mean, scale^2 I) for the weights of every task: what earlier studies have found."""

    borrows = False
    needs_closed_form: ClassVar[bool] = True

    def __init__(self, mean: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale

    def __repr__(self) -> str:
        return f"FromTheLiterature(mean={self.mean}, scale={self.scale})"

    def posterior(self, setup: Setup) -> pv.WeightsPosterior:
        return InformedWeights(
            self, setup.num_tasks, setup.likelihood, setup.latent_dim, setup.bias, setup.learns
        )


class InformedWeights(ConjugateWeights):
    """Sites times one Gaussian; the noise of a regression is known to be 1."""

    pool: FromTheLiterature

    def weights_prior(self, draw: Tensor | None) -> dist.TorchDistribution:
        loc = torch.full_like(self.loc, self.pool.mean).unsqueeze(1)
        law: dist.TorchDistribution = dist.Normal(loc, self.pool.scale).to_event(2)
        return law

    def by_draw(self) -> Moments:
        return Moments(self.loc.unsqueeze(0), self.covariance.unsqueeze(0))

    def noise_by_draw(self) -> Tensor:
        return torch.ones_like(self.squares).unsqueeze(0)

    def forward(self, draw: Tensor | None = None) -> dist.TorchDistribution:
        root = torch.linalg.cholesky(self.covariance).unsqueeze(1)
        return dist.MultivariateNormal(self.loc.unsqueeze(1), scale_tril=root).to_event(1)

    def find_posterior(self, likelihood: Likelihood, last: bool, held_out: Evidence | None) -> None:
        eye = torch.eye(self.loc.shape[-1], dtype=torch.float64, device=self.loc.device)
        precision = self.precision + eye / self.pool.scale**2
        shift = self.shift + self.pool.mean / self.pool.scale**2
        self.covariance = torch.linalg.inv(precision)
        self.loc = (self.covariance @ shift.unsqueeze(-1)).squeeze(-1)


def _tasks(seed: int = 0, regression: bool = True) -> pv.TaskSet:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 3, generator=generator)
    task = torch.arange(60) % 3
    y = x @ torch.tensor([2.0, -1.0, 0.5]) + 1 + torch.randn(60, generator=generator)
    y = y if regression else (y > 0).long()
    by_task = {f"task {t}": (x[task == t], y[task == t]) for t in range(3)}
    return pv.TaskSet.from_arrays(by_task, regression=regression)


class TestAPriorWithWeightsOfItsOwn:
    def test_is_bayes_rule(self) -> None:
        tasks = _tasks()
        pool = FromTheLiterature(mean=0.7, scale=0.3)
        fitted = pv.fit(tasks, settings=pv.Settings(pv.Identity(), pool), log_warnings=False)
        weights, likelihood = fitted.vmtl.classifier, fitted.vmtl.likelihood
        assert isinstance(weights, InformedWeights)
        for task in range(3):
            rows = tasks.task == task
            features = torch.cat([tasks.x[rows], torch.ones(int(rows.sum()), 1)], 1).double()
            y = likelihood.standardised(tasks.y[rows]).double().view(-1)
            precision = features.mT @ features + torch.eye(4).double() / 0.09
            mean = torch.linalg.solve(precision, features.mT @ y + 0.7 / 0.09)
            torch.testing.assert_close(weights.loc[task, 0], mean)
            torch.testing.assert_close(weights.covariance[task, 0], torch.linalg.inv(precision))

    def test_has_sites_that_settle_beside_an_encoder_that_has_learned(self) -> None:
        tasks = _tasks(regression=False)
        settings = pv.Settings(pv.MLP(2, (4,), dropout=0.0, stochastic=False), FromTheLiterature())
        training = pv.TrainingSettings(epochs=2)
        fitted = pv.fit(tasks, settings=settings, training=training, log_warnings=False)
        weights = fitted.vmtl.classifier
        assert isinstance(weights, InformedWeights)
        assert weights.learns
        batch = tasks.dense()
        for _ in range(5):
            fitted.vmtl.update(batch, last=True)
        factors = weights.seen(batch, fitted.vmtl.encoder(batch.x), fitted.vmtl.likelihood)
        torch.testing.assert_close(weights.precision, factors.precision, atol=1e-3, rtol=0)
        torch.testing.assert_close(weights.shift, factors.shift, atol=1e-3, rtol=0)
        assert weights.shift.abs().max() > 1

    def test_trains_by_command_and_loads(
        self, train: Train, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module: Any = ModuleType("priors_of_a_user")
        module.FromTheLiterature = FromTheLiterature
        monkeypatch.setattr(FromTheLiterature, "__module__", "priors_of_a_user")
        monkeypatch.setitem(sys.modules, "priors_of_a_user", module)
        pool = "+pool={_target_: priors_of_a_user.FromTheLiterature, scale: 2.0}"
        run: Path = train(*CLUSTERS, "model=identity", pool, report=True)
        assert 0 < json.loads((run / "metrics.json").read_text())["test"]["mean"]["nll"] < 1
        assert "FromTheLiterature" in (run / "report.html").read_text()
        fitted = pv.load(run / "model")
        assert isinstance(fitted.vmtl.classifier, InformedWeights)
        assert fitted.vmtl.classifier.pool.scale == 2.0
        note = group(read_netcdf(run / "inference_data.nc"), "prior").attrs["prior_of_weights"]
        assert note == "pool FromTheLiterature(mean=0.0, scale=2.0)"

    def test_takes_no_other_weights(self) -> None:
        with pytest.raises(pv.InputError, match="the pool FromTheLiterature; expected 'conjugate'"):
            pv.build(_tasks(), pool=FromTheLiterature(), classifier="mean_field")

    @pytest.mark.parametrize(
        ("made", "sentence"),
        [
            (lambda *_: MeanFieldWeights(3, 1, 3), "makes a MeanFieldWeights; expected a Conj"),
            (
                lambda pool, setup: InformedWeights(pool, setup.num_tasks, setup.likelihood, 2),
                r"makes weights whose event_shape is of the shape \[3, 1, 3\], tasks first; "
                r"expected \[3, 1, 4\]",
            ),
        ],
    )
    def test_that_are_not_what_they_should_be_are_refused(
        self, monkeypatch: pytest.MonkeyPatch, made: Any, sentence: str
    ) -> None:
        monkeypatch.setattr(FromTheLiterature, "posterior", made)
        with pytest.raises(pv.InputError, match=f"the pool FromTheLiterature {sentence}"):
            pv.build(_tasks(), encoder=pv.Identity(), pool=FromTheLiterature())
