"""Every recipe, with every kind of task and with no encoder as with one, through the configuration
of the command."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

import pyro_vmtl as pv
from pyro_vmtl.errors import InputError
from pyro_vmtl.model import (
    AmortisedWeights,
    DeterministicEncoder,
    GaussianEncoder,
    Linear,
    MeanFieldWeights,
    Mixture,
    Nested,
    NestedWeights,
    PointWeights,
    PooledWeights,
    Standard,
)
from pyro_vmtl.runs import config_folder
from pyro_vmtl.runs.configuration import Plan, read_plan
from pyro_vmtl.runs.trust import named_by_the_user

# The recipe `paper` is a model and a schedule of its own.
RECIPES = sorted({path.stem for path in (config_folder() / "recipe").glob("*.yaml")} - {"paper"})
MODELS = sorted(path.stem for path in (config_folder() / "model").glob("*.yaml"))
SMALL = (
    "trainer.epochs=2",
    "trainer.steps_per_epoch=2",
    "trainer.validation_samples=2",
    "trainer.progress_bar=false",
    "trainer.accelerator=cpu",
)
# Methods whose extra need not be installed.
GRADIENTS = ("upgrad", "pcgrad", "cagrad", "nash_mtl", "imtl_g", "fairgrad", "famo")

# These need losses above 0, as classes have.
OF_CLASSES = ("famo", "go4align")
# These mix representations, which must be uncertain, sample by sample.
VIEWS = ("vmtl", "vmtl_linear")
WITHOUT_VIEWS = ("identity", "principal_components", "deterministic", "bayesian_linear")
# These are conjugate, and the paper's model is mean-field.
CONJUGATE = ("complete_pooling", "varying_intercepts", "hierarchical", "task_clustering")
# This is conjugate as well, for classes alone, and takes no learned encoder.
FEEDBACK = "feedback"
FIXED = ("default", "identity", "principal_components")

Read = Callable[..., Plan]


@pytest.fixture
def read() -> Iterator[Read]:
    """The plan of a recipe and overrides, on tiny data."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):

        def plan(recipe: str, *overrides: str) -> Plan:
            size = () if "data=clusters" in overrides else ("data.shots=1",)
            chosen = [*SMALL, *size, "experiment=a test", f"recipe={recipe}", *overrides]
            return read_plan(compose("train", chosen), named_by_the_user(chosen))

        yield plan


def _model(plan: Plan) -> pv.VMTL:
    return pv.build(plan.splits.train, plan.settings)


def _is_shared(vmtl: pv.VMTL) -> bool:
    """Whether one and the same input is encoded alike in every task."""
    x = torch.rand(1, 1, *vmtl.encoder.input_shape or ()).expand(vmtl.num_tasks, -1, -1, -1)
    out = vmtl.encoder.eval()(x).mean
    return bool(out.allclose(out[:1].expand_as(out), atol=1e-5))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("data", "model"),
    [("digit_domains", "mlp"), ("digit_domains", "identity"), ("rotated_digits", "mlp")],
)
def test_trains(read: Read, recipe: str, data: str, model: str) -> None:
    if recipe in GRADIENTS:
        pytest.importorskip("torchjd")
    if recipe in VIEWS and model in WITHOUT_VIEWS:
        return  # tests/runs/test_paper_recipe.py has what is said then
    if recipe in OF_CLASSES and data == "rotated_digits":
        return  # tests/inference/test_weighting.py has what is said then
    if recipe == FEEDBACK and (model not in FIXED or data == "rotated_digits"):
        with pytest.raises(InputError, match="the pool is Feedback"):
            _model(read(recipe, f"data={data}", f"model={model}"))
        return
    overrides = [f"data={data}", f"model={model}"]
    if recipe in CONJUGATE or (recipe, model) == ("default", "identity"):
        # Cubes of so many features are drawn from that digits take minutes.
        few = "model.encoder.latent_dim=4"
        overrides = ["data=clusters", f"model={model}", *([few] if model == "mlp" else ())]
    plan = read(recipe, *overrides)
    options = {name: value for name, value in plan.trainer.items() if name != "tensorboard"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = pv.fit(
            plan.splits.train,
            plan.splits.validation,
            plan.settings,
            plan.training,
            log_warnings=False,
            validate=True,
            **options,
        )
    assert fitted.history["loss"].notna().all()
    scores = fitted.predict(plan.splits.test, 4).metrics()["mean"]
    assert scores["nll"] is not None
    assert 0 < scores["nll"] < 10


@pytest.mark.parametrize("model", MODELS)
def test_composes_with_every_model_and_keeps_budget_and_width(read: Read, model: str) -> None:
    default = read("default", f"model={model}")
    for recipe in RECIPES:
        if recipe in VIEWS and model in WITHOUT_VIEWS:
            continue
        if recipe == FEEDBACK:
            continue  # it has a column for each class that it hears, and a default of its own
        if recipe in CONJUGATE and model == "paper":
            with pytest.raises(InputError, match="the classifier is 'mean_field' and the pool"):
                _model(read(recipe, f"model={model}"))
            continue
        plan = read(recipe, f"model={model}")
        changed = dataclasses.replace(plan.training, task_weighting=None)
        assert changed == default.training
        widths = [_model(p).encoder.latent_dim for p in (plan, default)]
        if model == "default" and recipe not in ("default", *CONJUGATE):
            assert widths == [64, 16]  # what is left open goes with the weights
        else:
            assert widths[0] == widths[1]


BASELINES: dict[str, tuple[bool, type, type]] = {  # shared or not, classifier, encoder
    "stl": (False, PointWeights, DeterministicEncoder),
    "bmtl": (True, PointWeights, DeterministicEncoder),
    "vstl": (False, MeanFieldWeights, GaussianEncoder),
    "vbmtl": (True, MeanFieldWeights, GaussianEncoder),
    **dict.fromkeys(
        ("uncertainty_weighting", *GRADIENTS), (True, PointWeights, DeterministicEncoder)
    ),
}


@pytest.mark.parametrize("model", ["mlp", "deterministic"])
@pytest.mark.parametrize("recipe", BASELINES)
def test_of_a_baseline_is_what_its_name_says(read: Read, recipe: str, model: str) -> None:
    vmtl = _model(read(recipe, f"model={model}"))
    shared, classifier, encoder = BASELINES[recipe]
    assert isinstance(vmtl.pool, Standard)
    assert not vmtl.borrowing
    assert type(vmtl.classifier) is classifier
    assert type(vmtl.encoder) is encoder
    assert _is_shared(vmtl) is shared


def test_of_task_weightings_name_them(read: Read) -> None:
    named = {
        "uncertainty_weighting": "uncertainty",
        "upgrad": "upgrad",
        "pcgrad": "pcgrad",
        "cagrad": "cagrad",
        "nash_mtl": "nashmtl",
        "imtl_g": "imtlg",
        "fairgrad": "fairgrad",
        "famo": "famo",
        "balanced": "balanced",
        "go4align": "go4align",
        "bmtl": None,
    }
    found = {recipe: read(recipe).training.task_weighting for recipe in named}
    assert found == named


def test_of_amortised_classifiers_is_the_papers(read: Read) -> None:
    vmtl = _model(read("amortised"))
    assert isinstance(vmtl.classifier, AmortisedWeights)
    assert isinstance(vmtl.pool, Mixture)


@pytest.mark.parametrize(
    ("recipe", "pool"), [("recursive", Mixture), ("vmtl", Mixture), ("vmtl_linear", Linear)]
)
def test_of_the_paper_lends_posteriors_that_gradients_move(
    read: Read, recipe: str, pool: type
) -> None:
    vmtl = _model(read(recipe, "model=mlp"))
    assert isinstance(vmtl.classifier, MeanFieldWeights)
    assert type(vmtl.pool) is pool
    for lent, own in zip(vmtl.classifier.lent(), vmtl.classifier.gaussians(), strict=True):
        assert torch.equal(lent, own)
    closed = _model(read(recipe, "model=mlp", "model.classifier=conjugate"))
    assert isinstance(closed.classifier, PooledWeights)
    assert type(closed.pool) is pool


def test_of_partial_pooling_has_one_gaussian_and_of_task_clustering_several(read: Read) -> None:
    pools = [read(recipe).settings.pool for recipe in ("hierarchical", "task_clustering")]
    expected = Nested(clusters=False, deviation="shared"), Nested(mean=False, deviation="shared")
    assert list(map(repr, pools)) == list(map(repr, expected))
    for recipe in CONJUGATE:
        assert isinstance(_model(read(recipe, "data=clusters")).classifier, NestedWeights)


def test_can_be_overridden(read: Read) -> None:
    plan = read("task_clustering", "pool.expected=5", "model.bias=false")
    assert repr(plan.settings.pool) == repr(Nested(mean=False, deviation="shared", expected=5))
    assert plan.settings.bias is False


@pytest.mark.parametrize(
    ("pool", "says"), [("mixture", "point estimates"), ("nested", "'point' and the pool Nested")]
)
def test_of_points_with_a_pool_that_borrows_is_refused(read: Read, pool: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        _model(read("bmtl", f"pool={pool}"))


class Half(pv.Encoder):
    """The first half of the inputs: an encoder of the user's own."""

    has_density = False
    latent_dim = 32

    def forward(self, x: Tensor) -> Any:
        return dist.Delta(x.flatten(2)[..., :32], event_dim=1)


class Noisy(pv.GaussianEncoder):
    """A Gaussian encoder of the user's own."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), 3)


class TestOwnEncoder:
    @pytest.fixture(autouse=True)
    def _importable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("encoders_of_a_user")
        for kind in (Half, Noisy):
            monkeypatch.setattr(kind, "__module__", module.__name__)
            setattr(module, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def test_that_is_what_a_recipe_wants_stays(self, read: Read) -> None:
        for recipe, kind in (("bmtl", Half), ("vbmtl", Noisy), ("hierarchical", Half)):
            encoder = f"model.encoder={{_target_: encoders_of_a_user.{kind.__name__}}}"
            plan = read(recipe, encoder)
            assert type(plan.settings.encoder) is kind

    @pytest.mark.parametrize(
        ("recipe", "kind", "says"),
        [
            ("stl", Half, "wants an encoder for each task, and the encoder is a Half"),
            ("bmtl", Noisy, "wants deterministic representations"),
            ("vbmtl", Half, "wants uncertain representations"),
        ],
    )
    def test_that_is_not_is_refused_in_a_sentence(
        self, read: Read, recipe: str, kind: type, says: str
    ) -> None:
        encoder = f"model.encoder={{_target_: encoders_of_a_user.{kind.__name__}}}"
        with pytest.raises(InputError, match=says) as error:
            read(recipe, encoder)
        assert "\n" not in str(error.value)


def test_with_an_unknown_variant_is_refused(read: Read) -> None:
    with pytest.raises(InputError, match="encoder_variant has 'shared'; expected per_task"):
        read("stl", "+model.encoder_variant.shared=true")


def test_of_points_fills_the_run_folder_with_nothing_absurd(
    train: Callable[..., Path], clusters: tuple[str, ...]
) -> None:
    run = train(*clusters, "recipe=stl", "model.classifier=point", report=True)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["warnings"] == []
    predictions = pd.read_parquet(run / "predictions.parquet")
    assert (predictions["epistemic"] == 0).all()
    history = pd.read_csv(run / "metrics.csv")
    assert (history["weights_scale"] == 0).all()
    assert "weights_evidence" not in history
    report = (run / "report.html").read_text()
    assert "point estimates" in report
    assert "Posterior scales" not in report
    assert "The posterior is tempered" not in report
    loaded = pv.load(run)
    assert loaded.settings.classifier == "point"


def test_of_a_weighting_logs_the_weights(
    train: Callable[..., Path], clusters: tuple[str, ...]
) -> None:
    run = train(*clusters, "recipe=uncertainty_weighting", "model=deterministic")
    history = pd.read_csv(run / "metrics.csv")
    assert len([name for name in history if name.startswith("task_weight_")]) == 4
    again = train(f"--config-dir={run}", "--config-name=config", name="again", small=False)
    assert (run / "predictions.parquet").read_bytes() == (
        again / "predictions.parquet"
    ).read_bytes()
