"""Diagnostics: what goes wrong is noticed and put into words, and what is well left in peace."""

import copy
import math
import re
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn

from pyro_vmtl.data import Batch, clusters
from pyro_vmtl.inference import (
    Constant,
    FittedVMTL,
    TrainingSettings,
    build,
    diagnose,
    explain,
    fit,
)
from pyro_vmtl.model import (
    MLP,
    VMTL,
    Architecture,
    GaussianEncoder,
    Identity,
    Linear,
    Mixture,
    Nested,
    Pool,
    Power,
    Settings,
    Standard,
    assemble,
)
from pyro_vmtl.runs import config_folder

_EVERYTHING = {
    "weights_evidence": 99.0,
    "weights_scale": 0.01,
    "layers_evidence": 99.0,
    "weights_drift": 9.0,
    "representations_information": 0.0,
    "relatedness_weights_information": 0.0,
    "relatedness_weights_softness": 0.0,
    "relatedness_representations_information": 0.0,
    "relatedness_representations_softness": 0.0,
}
"""Past every threshold."""


class _Channel(nn.Module):
    """Means ``signal`` times the input, raw scales 0."""

    def __init__(self, signal: float) -> None:
        super().__init__()
        self.signal = signal

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.signal * x, torch.zeros_like(x)], -1)


def _model(signal: float) -> VMTL:
    encoder = GaussianEncoder(_Channel(signal), 2, initial_scale=0.5)
    settings = Settings(encoder, initial_scale=0.7)
    return assemble(settings, 3, 2, (2,), is_classification=True)


def _batch(x: Tensor, mask: Tensor) -> Batch:
    return Batch(x, mask.long(), mask, torch.ones(mask.shape), torch.zeros(mask.shape).long())


@pytest.mark.parametrize("signal", [0.01, 1.0, 30.0])
def test_information_is_the_capacity_of_a_gaussian_channel(signal: float) -> None:
    x, mask = torch.randn(3, 50, 2), torch.rand(3, 50) < 0.6
    numbers = diagnose(_model(signal), _batch(x, mask))
    ratio = signal**2 * x[mask].var(0, correction=0) / 0.5**2
    expected = 0.5 * ratio.log1p().sum()
    assert numbers["representations_information"] == pytest.approx(float(expected), rel=1e-3)
    assert numbers["representations_scale"] == pytest.approx(0.5, rel=1e-3)


def test_a_collapse_is_put_into_a_sentence_and_nothing_else_is() -> None:
    x, mask = torch.randn(3, 50, 2), torch.ones(3, 50, dtype=torch.bool)
    sentences = explain(diagnose(_model(0.01), _batch(x, mask)))
    (collapse,) = [sentence for sentence in sentences if "collapsed" in sentence]
    assert "0.000 nats" in collapse
    others = explain(diagnose(_model(1.0), _batch(x, mask)))
    assert others == [sentence for sentence in sentences if sentence != collapse]


def test_a_deterministic_encoder_has_nothing_to_collapse() -> None:
    settings = Settings(MLP(5, stochastic=False), classifier="mean_field", initial_scale=0.7)
    vmtl = assemble(settings, 3, 2, (2,), True)
    mask = torch.ones(3, 4, dtype=torch.bool)
    numbers = diagnose(vmtl.train(), _batch(torch.randn(3, 4, 2), mask))
    assert not any(name.startswith("representations") for name in numbers)
    assert numbers["weights_scale"] == pytest.approx(0.7)
    assert all(math.isfinite(value) for value in numbers.values())
    assert not any("collapsed" in sentence for sentence in explain(numbers))
    assert all(module.training for module in vmtl.modules())


def _set(vmtl: VMTL, loc: Tensor, scale: Tensor) -> None:
    """Put the posterior of the weights somewhere."""
    shape = vmtl.get_parameter("classifier.loc").shape
    with torch.no_grad():
        vmtl.get_parameter("classifier.loc").copy_(loc.expand(shape))
        vmtl.get_parameter("classifier.raw_scale").copy_(scale.expand(shape).expm1().log())


def _regression(
    num_tasks: int, pool: Pool | None = None, classifier: Any = "mean_field"
) -> tuple[VMTL, Batch]:
    pool = Standard() if pool is None else pool
    settings = Settings(Identity(), pool, classifier=classifier, bias=False)
    vmtl = assemble(settings, num_tasks, 1, (3,), is_classification=False)
    mask = torch.rand(num_tasks, 20) < 0.7
    index = torch.zeros(mask.shape).long()
    x, y = torch.randn(num_tasks, 20, 3), torch.randn(num_tasks, 20)
    return vmtl, Batch(x, y, mask, torch.ones(mask.shape), index)


class TestEvidence:
    @pytest.mark.parametrize(
        ("pool", "says"),
        [(Mixture(), "model.classifier=conjugate"), (Standard(), "Nobody lends")],
        ids=str,
    )
    def test_that_was_counted_too_often_is_put_into_a_sentence(self, pool: Pool, says: str) -> None:
        vmtl, batch = _regression(4, pool)
        _set(vmtl, torch.zeros(1), torch.tensor(1e-3))
        sentence = explain(diagnose(vmtl, batch), vmtl)[0]
        assert "counted" in sentence
        assert says in sentence
        assert "trainer.epochs" in sentence  # or scales that start small have had no time
        assert ("model.classifier=conjugate" in sentence) == pool.borrows

    def test_is_taken_for_what_was_lent_where_the_model_is_not_known(self) -> None:
        lent = _regression(4, Mixture())[0]
        assert explain({"weights_evidence": 99.0}) == explain({"weights_evidence": 99.0}, lent)

    @pytest.mark.parametrize("pool", [Standard(), Mixture(), Power(), Nested()], ids=str)
    def test_in_closed_form_is_never_counted_too_often(self, pool: Pool) -> None:
        vmtl, batch = _regression(4, pool, "conjugate")
        for _ in range(3):
            vmtl.update(batch)
        numbers = diagnose(vmtl, batch)
        assert not any(name.endswith("_evidence") for name in numbers)
        assert "conjugate" not in " ".join(explain(numbers, vmtl))


class TestDrift:
    def test_is_the_root_mean_square_of_the_weights(self) -> None:
        vmtl, batch = _regression(2)
        _set(vmtl, torch.tensor(3.0), torch.tensor(0.5))
        numbers = diagnose(vmtl, batch)
        assert numbers["weights_drift"] == pytest.approx(math.sqrt(9.25))
        (sentence,) = explain(numbers)
        assert "drifted" in sentence
        assert "trainer.kl_weights.value" in sentence

    @pytest.mark.parametrize("pool", [Nested(), Standard(), Mixture()], ids=str)
    def test_is_no_fault_where_there_is_no_kl_weight_to_raise(self, pool: Pool) -> None:
        in_closed_form = build(clusters(2, 1, samples=5, dimensions=2).train, pool=pool)
        assert explain({"weights_drift": 9.0}) != []
        assert explain({"weights_drift": 9.0}, in_closed_form) == []

    def test_of_weights_like_their_prior_is_one(self) -> None:
        vmtl, batch = _regression(500)
        _set(vmtl, math.sqrt(0.75) * torch.randn(500, 1, 3), torch.tensor(0.5))
        assert diagnose(vmtl, batch)["weights_drift"] == pytest.approx(1, rel=0.05)
        assert explain(diagnose(vmtl, batch)) == []


def _borrower(pool: Pool, num_tasks: int = 5, classifier: Any = "mean_field") -> VMTL:
    settings = Settings(Identity(), pool, classifier=classifier, initial_scale=0.7)
    return assemble(settings, num_tasks, 2, (2,), is_classification=True)


def _data(num_tasks: int = 5) -> Batch:
    mask = torch.ones(num_tasks, 9, dtype=torch.bool)
    return _batch(torch.randn(num_tasks, 9, 2), mask)


def _learn(vmtl: VMTL, by: float) -> None:
    with torch.no_grad():
        logits = vmtl.get_parameter("borrowing.weights.logits")
        logits.add_(by * torch.randn(logits.shape))


class TestRelatedness:
    @pytest.mark.parametrize("pool", [Mixture(), Linear(base=True), Power()], ids=repr)
    @pytest.mark.parametrize("classifier", ["mean_field", "conjugate"])
    def test_that_stands_where_it_started_is_put_into_a_sentence(
        self, pool: Pool, classifier: str
    ) -> None:
        vmtl = _borrower(pool, classifier=classifier)
        numbers = diagnose(vmtl, _data())
        assert numbers["relatedness_weights_information"] == pytest.approx(0, abs=1e-6)
        (sentence,) = explain(numbers, vmtl)
        assert "where it started" in sentence
        # The KL weight of weights in closed form is 1, whatever is asked for.
        assert ("trainer.kl_weights.value" in sentence) == (classifier == "mean_field")
        assert "pool=nested" in sentence
        _learn(vmtl, 1.0)
        assert explain(diagnose(vmtl, _data())) == []

    def test_information_is_the_divergence_from_the_start(self) -> None:
        vmtl = _borrower(Mixture())
        _learn(vmtl, 1.0)
        logits = vmtl.get_parameter("borrowing.weights.logits").detach().double()
        uniform = torch.distributions.Categorical(logits=torch.zeros_like(logits))
        expected = torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=logits), uniform
        ).mean()
        actual = diagnose(vmtl, _data())["relatedness_weights_information"]
        assert actual == pytest.approx(float(expected))

    def test_information_of_gates_is_the_divergence_from_one_half(self) -> None:
        vmtl = _borrower(Power())
        _learn(vmtl, 1.0)
        logits = vmtl.get_parameter("borrowing.weights.logits").detach().double()
        gates, half = (
            torch.distributions.Bernoulli(logits=x) for x in (logits, torch.zeros_like(logits))
        )
        expected = torch.distributions.kl_divergence(gates, half).mean()
        actual = diagnose(vmtl, _data())["relatedness_weights_information"]
        assert actual == pytest.approx(float(expected))

    @pytest.mark.parametrize("pool", [Mixture(), Power()], ids=repr)
    def test_softness_falls_with_the_temperature(self, pool: Pool) -> None:
        vmtl = _borrower(pool, num_tasks=12)
        _learn(vmtl, 1.0)
        softness = []
        for temperature in (1.0, 0.3, 0.1, 0.01):
            vmtl.set_temperature(temperature)
            softness.append(diagnose(vmtl, _data(12))["relatedness_weights_softness"])
        assert softness == sorted(softness, reverse=True)
        assert 0.5 < softness[0] < 1
        assert softness[-1] < 0.03
        (sentence,) = explain(diagnose(vmtl, _data(12)))
        assert "trainer.temperature.end" in sentence

    def test_decided_relatedness_is_not_taken_for_a_low_temperature(self) -> None:
        vmtl = _borrower(Mixture())
        with torch.no_grad():
            vmtl.get_parameter("borrowing.weights.logits")[:, 0] = 30.0
        assert explain(diagnose(vmtl, _data())) == []

    def test_a_single_lender_leaves_nothing_to_learn(self) -> None:
        numbers = diagnose(_borrower(Mixture(), num_tasks=2), _data(2))
        assert not any(name.startswith("relatedness") for name in numbers)

    def test_of_clusters_is_drawn_and_no_reason_to_warn(self) -> None:
        vmtl, batch = _borrower(Nested(), classifier="conjugate"), _data()
        vmtl.update(batch)
        numbers = diagnose(vmtl, batch)
        assert not any(name.startswith("relatedness") for name in numbers)
        assert explain(numbers) == []


def test_looking_leaves_no_trace() -> None:
    vmtl, batch = _borrower(Mixture()), _data()
    state, before = torch.get_rng_state(), copy.deepcopy(vmtl.state_dict())
    assert diagnose(vmtl, batch) == diagnose(vmtl, batch)
    assert torch.get_rng_state().equal(state)
    assert all(value.equal(before[name]) for name, value in vmtl.state_dict().items())


def _trained(pool: Pool, encoder: Architecture, classifier: Any = None) -> FittedVMTL:
    training = TrainingSettings(
        epochs=4,
        steps_per_epoch=50,
        learning_rate=Constant(0.05 if isinstance(encoder, Identity) else 0.02),
        kl_weights=Constant(1.0),
        patience=None,
    )
    splits = clusters(6, 2, samples=20, dimensions=10, test_samples=1, seed=1)
    settings = Settings(encoder, pool, classifier=classifier, bias=False)
    return fit(splits.train, None, settings, training)


@pytest.mark.parametrize("encoder", [Identity(), MLP(8, (32,), dropout=0.5)], ids=str)
def test_honest_fits_do_not_warn_and_lent_posteriors_do(encoder: Architecture) -> None:
    for pool in (Nested(), Standard(), Mixture()):
        said = _trained(pool, encoder).warnings
        if pool.borrows and not isinstance(encoder, Identity):  # there are no validation data
            by_components = "relatedness is judged by the principal components"
            by_training = "Relatedness is inferred from samples that the encoder was trained on"
            assert (by_components if isinstance(pool, Nested) else by_training) in said[0]
            said = said[1:]
        assert said == ()
    assert _trained(Nested(known=[0, 0, 0, 1, 1, 1]), encoder).warnings == ()
    alone = _trained(Standard(), encoder, "mean_field")
    assert alone.warnings == ()
    assert alone.history["weights_evidence"].iloc[-1] < 0.5
    lent = _trained(Mixture(), encoder, "mean_field")
    assert any("model.classifier=conjugate" in sentence for sentence in lent.warnings)


def test_sentences_name_settings_that_there_are() -> None:
    """Every key=value or dotted key in a sentence can be set on the command line."""
    sentences = explain(_EVERYTHING)
    assert len(sentences) == 8
    for pool in (Mixture(), Standard()):
        sentences += explain(_EVERYTHING, _borrower(pool))
    text = " ".join(sentences)
    dotted = set(re.findall(r"\b(?:trainer|model|data|pool)\.[a-z_.]*[a-z_]", text))
    assert len(dotted) >= 5
    choices = set(re.findall(r"(?<!\S)\(?([a-z_@.]+=[a-z_]+)\b", text))
    assert choices == {"model=bayesian_linear", "model.classifier=conjugate", "pool=nested"}
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", sorted(choices))
    assert config.model.classifier == "conjugate"
    for key in dotted:
        OmegaConf.update(config, key, 1)  # an open one may be None, and be set
