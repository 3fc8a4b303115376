"""What ``baselines=true`` compares a run with."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from pyro_vmtl.model import Identity, Settings, Standard
from pyro_vmtl.model.architectures import BESIDE_GRADIENTS
from pyro_vmtl.runs import config_folder, experiment, read_plan
from pyro_vmtl.runs.configuration import Plan


class _Fitted:
    def predict(self, *_: object, **__: object) -> _Fitted:
        return self

    def metrics(self, *_: object) -> dict[str, Any]:
        return {}


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of every fit that is asked for; none is made."""
    asked: list[Settings] = []

    def fit(plan: Plan, *_: object, **__: object) -> _Fitted:
        asked.append(plan.settings)
        return _Fitted()

    monkeypatch.setattr(experiment, "fit_plan", fit)
    return asked


def _names(*overrides: str) -> list[str]:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", ["recipe=default", "experiment=x", *overrides])
    return list(experiment.baselines(read_plan(config), config))


@pytest.mark.parametrize(
    ("overrides", "classifier"),
    [
        ((), "mean_field"),
        (("model.classifier=conjugate",), "mean_field"),
        (("recipe=recursive",), "mean_field"),
        (("recipe=amortised",), "amortised"),
        # These have no weights that gradients move:
        (("data=rotated_digits", "likelihood=poisson"), None),
    ],
    ids=str,
)
def test_beside_a_learned_encoder_gradients_move_the_weights_where_they_can(
    fits: list[Settings], overrides: tuple[str, ...], classifier: str | None
) -> None:
    assert _names(*overrides) == ["N(0, I)", "single-task"]
    for settings, per_task in zip(fits, (False, True), strict=True):
        assert settings.classifier == classifier
        assert settings.encoder == BESIDE_GRADIENTS.variant(per_task=per_task)
        assert isinstance(settings.pool, Standard)
        assert isinstance(settings.representation_pool, Standard)


def test_an_encoder_that_was_chosen_is_that_of_the_baselines(fits: list[Settings]) -> None:
    assert _names("model=mlp", "model.encoder.latent_dim=5") == ["N(0, I)", "single-task"]
    assert [getattr(settings.encoder, "latent_dim", None) for settings in fits] == [5, 5]


@pytest.mark.parametrize("overrides", [("data=clusters",), ("model=identity",)], ids=str)
def test_without_one_the_two_are_the_same_in_closed_form(
    fits: list[Settings], overrides: tuple[str, ...]
) -> None:
    assert _names(*overrides) == ["single-task"]
    (settings,) = fits
    assert isinstance(settings.encoder, Identity)
    assert isinstance(settings.pool, Standard)
    assert settings.for_data((20,)).classifier == "conjugate"
