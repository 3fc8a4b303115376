"""A model's settings as plain data and back."""

import dataclasses
import json
from collections.abc import Callable
from itertools import product
from typing import Any, Literal

import pytest
import torch
from torch import nn

import pyro_vmtl as pv
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import (
    MLP,
    AmortisedWeights,
    Architecture,
    BayesianLinear,
    CategoricalLikelihood,
    DeterministicEncoder,
    GaussianLikelihood,
    Geometric,
    Identity,
    Linear,
    MeanFieldWeights,
    Mixture,
    Nested,
    NestedWeights,
    PointWeights,
    Pool,
    PooledWeights,
    Power,
    PrincipalComponents,
    Settings,
    Standard,
    assemble,
    from_plain,
    to_plain,
)

ENCODERS = [
    Identity(),
    PrincipalComponents(3),
    MLP(5, hidden=(8, 9), dropout=0.1, stochastic=False, per_task=True),
    BayesianLinear(5, per_task=True, prior="samples", initial_scale=0.1),
]
POOLS = [
    Standard(),
    Mixture(base=True, spread="task", kl_bound="convexity"),
    Linear(spread="feature"),
    Geometric(base=True),
    Power(spread="scalar"),
]


@pytest.mark.parametrize(
    ("encoder", "pool", "classifier"),
    list(product(ENCODERS, POOLS, [None, "conjugate", "mean_field"])),
)
def test_settings_survive_json(
    encoder: Architecture,
    pool: Pool,
    classifier: Literal["conjugate", "mean_field"] | None,
) -> None:
    settings = Settings(
        encoder,
        pool,
        Standard(),
        classifier,
        bias=False,
        empirical_bayes=True,
        initial_scale=0.2,
    )
    plain = json.loads(json.dumps(to_plain(settings)))
    again = from_plain(plain)
    assert again.encoder == encoder
    assert again.classifier == classifier
    assert repr(again.pool) == repr(pool)
    assert vars(again.pool) == vars(pool)
    assert (again.bias, again.empirical_bayes, again.initial_scale) == (False, True, 0.2)
    assert to_plain(again) == to_plain(settings)
    one, two = (assemble(s, 3, 2, (4,), True) for s in (settings, again))
    two.load_state_dict(one.state_dict())


def test_what_is_the_users_own_has_to_be_passed_again() -> None:
    encoder = DeterministicEncoder(nn.Linear(4, 3), 3)
    plain = json.loads(json.dumps(to_plain(Settings(encoder))))
    with pytest.raises(InputError, match=r"load\(path, encoder=...\)"):
        from_plain(plain)
    assert from_plain(plain, encoder=encoder).encoder is encoder


def test_an_unknown_choice_is_refused_by_name() -> None:
    plain = to_plain(Settings())
    plain["pool"] = {"Puddle": {}}
    with pytest.raises(InputError, match="'Puddle'"):
        from_plain(plain)


CLASSIFIERS: dict[Any, type] = {
    None: PooledWeights,
    "conjugate": PooledWeights,
    "mean_field": MeanFieldWeights,
    "point": PointWeights,
    "amortised": AmortisedWeights,
}


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize(("outputs", "is_classification"), [(2, True), (5, True), (3, False)])
def test_the_classifier_is_the_one_chosen(name: Any, outputs: int, is_classification: bool) -> None:
    settings = Settings(MLP(5), Standard(), classifier=name, bias=False)
    again = from_plain(json.loads(json.dumps(to_plain(settings))))
    assert again.classifier == name
    for made in (settings, again):
        classifier = assemble(made, 3, outputs, (4,), is_classification).classifier
        assert type(classifier) is CLASSIFIERS[name]
        # C classes have a row each, or in closed form C - 1 contrasts.
        contrasts = is_classification and (outputs == 2 or classifier.is_conjugate)
        rows = outputs - int(contrasts)
        assert classifier.event_shape == (rows, 5)
        assert classifier.gaussians().loc.shape == (3, rows, 5)


def test_a_model_saved_before_there_was_a_choice_has_a_mean_field() -> None:
    plain = to_plain(Settings(classifier="point", pool=Standard()))
    del plain["classifier"]
    assert from_plain(plain).classifier == "mean_field"


@pytest.mark.parametrize("pool", POOLS, ids=repr)
def test_every_pool_has_weights_in_closed_form(pool: Pool) -> None:
    for outputs, is_classification in ((3, True), (1, False)):
        vmtl = assemble(Settings(pool=pool), 3, outputs, (4,), is_classification)
        assert isinstance(vmtl.classifier, PooledWeights)
        assert not list(vmtl.classifier.parameters())
    assert isinstance(assemble(Settings(), 3, 3, (4,), True).classifier, NestedWeights)


class TestSettingsOfAnEarlierVersion:
    """There lenders were chosen beside the classifier, which was a mean field by default."""

    def _plain(self, pool: Pool, lenders: str, **choices: Any) -> dict[str, Any]:
        plain = to_plain(Settings(Identity(), pool, **choices))
        return plain | {"lenders": {lenders: {}}}

    def test_keep_a_mean_field_over_recursive_lenders(self) -> None:
        for classifier in ("mean_field", "default"):
            plain = self._plain(Mixture(), "Recursive") | {"classifier": classifier}
            assert from_plain(plain).classifier == "mean_field"
        plain = self._plain(Mixture(), "Recursive", classifier="amortised")
        assert from_plain(plain).classifier == "amortised"

    @pytest.mark.parametrize("lenders", ["Recursive", "Anchored"])
    def test_of_pools_that_had_no_use_for_lenders_are_as_they_were(self, lenders: str) -> None:
        nested = self._plain(Nested(), lenders, classifier="conjugate")
        assert from_plain(nested).classifier == "conjugate"
        assert from_plain(nested | {"classifier": "default"}).for_data((4,)).classifier == (
            "conjugate"
        )
        standard = self._plain(Standard(), lenders, classifier="point")
        assert from_plain(standard).classifier == "point"
        assert from_plain(standard | {"classifier": "default"}).classifier == "mean_field"

    def test_of_anchored_lenders_are_refused_in_a_sentence(self) -> None:
        with pytest.raises(InputError, match=r"the pool Mixture.*fit it anew"):
            from_plain(self._plain(Mixture(), "Anchored", classifier="mean_field"))

    @pytest.mark.parametrize("pool", ["Clustered", "Hierarchical"])
    def test_of_pools_that_are_gone_are_refused_in_a_sentence(self, pool: str) -> None:
        plain = self._plain(Mixture(), "Anchored") | {"pool": {pool: {}}}
        with pytest.raises(InputError, match=f"{pool}"):
            from_plain(plain)


def test_an_unknown_classifier_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="classifier is 'full_rank'; expected one of"):
        Settings(classifier="full_rank")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"pool": Mixture}, "the pool is .*Mixture.*; expected a pool such as Mixture"),
        ({"representation_pool": "mixture"}, "the representation_pool is 'mixture'; expected"),
        ({"bias": "maybe"}, "bias is 'maybe'; expected true or false"),
        ({"initial_scale": 0.0}, "initial_scale is 0.0; expected a number above 0"),
        ({"initial_noise": "small"}, "initial_noise is 'small'; expected a number above 0"),
        ({"initial_jitter": -1}, "initial_jitter is -1; expected a number of at least 0"),
    ],
)
def test_choices_of_another_kind_are_refused(choices: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Settings(**choices)


def test_a_class_is_no_encoder() -> None:
    with pytest.raises(InputError, match="the encoder is the class MLP; expected an architecture"):
        assemble(Settings(MLP), 3, 2, (4,), True)  # type: ignore[arg-type]


def test_a_network_is_no_encoder() -> None:
    with pytest.raises(InputError, match="Linear"):
        assemble(Settings(nn.Linear(4, 3)), 3, 2, (4,), True)  # type: ignore[arg-type]


def test_the_likelihood_follows_the_data() -> None:
    assert isinstance(assemble(Settings(), 3, 2, (4,), True).likelihood, CategoricalLikelihood)
    for classifier in (None, "mean_field"):
        settings = Settings(MLP(4), classifier=classifier, initial_noise=0.25)
        regression = assemble(settings, 3, 2, (4,), False).likelihood
        assert isinstance(regression, GaussianLikelihood)
        expected = torch.full((3, 1, 2), 0.25)
        torch.testing.assert_close(regression.noise.float(), expected, rtol=1e-3, atol=0)


class Weighted(pv.Pool):
    """A pool of the user's own with a setting of its own."""

    def __init__(self, by: float = 1.0) -> None:
        super().__init__()
        self.by = by


@pytest.mark.parametrize(
    "make",
    [
        pv.Settings,
        pv.Standard,
        lambda: pv.Mixture(base=True, spread="task"),
        lambda: pv.Power("scalar"),
        lambda: pv.Nested(known=[0, 1, 0]),
        pv.Feedback,
        lambda: Weighted(2.0),
        lambda: pv.Settings(pv.MLP(3, [4]), pv.Nested(gamma=2.0), likelihood=pv.Poisson()),
    ],
)
def test_choices_are_values(make: Callable[[], object]) -> None:
    one, two = make(), make()
    assert one == two
    assert hash(one) == hash(two)
    assert one not in (pv.Linear(), pv.Nested(), Weighted(3.0), pv.Settings(pv.MLP(3)))


def test_a_choice_cannot_be_changed_behind_the_back_of_a_model() -> None:
    pool = pv.Nested()
    with pytest.raises(dataclasses.FrozenInstanceError):
        pool.mean = False  # type: ignore[misc]
    assert pool.with_known([0, 0]) == pv.Nested(known=[0, 0])
    assert pool.known is None
