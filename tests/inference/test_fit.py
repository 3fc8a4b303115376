"""A fit repeats, resumes as if nothing had happened, and keeps its best epoch."""

import copy
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar, TQDMProgressBar

from pyro_vmtl.data import TaskSet, TaskSplits, clusters, digit_domains
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import (
    Constant,
    Decay,
    FittedVMTL,
    Ramp,
    TrainingSettings,
    build,
    fit,
    predict,
)
from pyro_vmtl.model import (
    MLP,
    SITES,
    BayesianLinear,
    DeterministicEncoder,
    Identity,
    Mixture,
    Nested,
    Pool,
    Power,
    Settings,
    Standard,
)

SETTINGS = Settings(MLP(3, hidden=(8,), dropout=0.1), Mixture(base=True), classifier="mean_field")
TRAINING = TrainingSettings(
    epochs=4,
    steps_per_epoch=3,
    batch_size=5,
    learning_rate=Constant(0.01),
    kl_representations=Constant(0.1),
    temperature=Decay(1.0, 0.3),
    kl_weights=Ramp(0.0, 1.0),
    validation_samples=5,
    patience=None,
)


@pytest.fixture(scope="module")
def splits() -> TaskSplits:
    return clusters(3, 2, samples=8, dimensions=3, validation_samples=6, test_samples=10, seed=1)


def _assert_same(one: FittedVMTL, other: FittedVMTL) -> None:
    pd.testing.assert_frame_equal(
        one.history.drop(columns="seconds"), other.history.drop(columns="seconds"), check_exact=True
    )
    state, other_state = one.vmtl.state_dict(), other.vmtl.state_dict()
    assert state.keys() == other_state.keys()
    for name, value in state.items():
        assert value.equal(other_state[name]), name


class _Crash(Callback):
    """The power goes at the start of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if trainer.current_epoch == self.epoch:
            raise OSError("no power")


class _Optimiser(Callback):
    """Learning rate, how many times as fast scales learn, weight decay and patience at a step."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float, float, int]] = []

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        rest, scales = optimizer.param_groups
        (stopping,) = trainer.early_stopping_callbacks
        decay = scales["weight_decay"]
        self.seen.append((rest["lr"], scales["lr"] / rest["lr"], decay, stopping.patience))


class TestASeed:
    @pytest.mark.parametrize(
        "settings",
        [
            SETTINGS,
            Settings(BayesianLinear(3, per_task=True), Power(), Mixture()),
        ],
    )
    def test_repeats_the_fit_exactly(self, splits: TaskSplits, settings: Settings) -> None:
        one, two = (
            fit(splits.train, splits.validation, settings, TRAINING, seed=3) for _ in range(2)
        )
        _assert_same(one, two)
        other = fit(splits.train, splits.validation, settings, TRAINING, seed=4)
        assert not one.history["loss"].equals(other.history["loss"])

    def test_repeats_whatever_happened_before(self, splits: TaskSplits) -> None:
        one = fit(splits.train, None, SETTINGS, TRAINING, seed=3)
        torch.manual_seed(99)
        torch.randn(7)
        _assert_same(one, fit(splits.train, None, SETTINGS, TRAINING, seed=3))

    def test_repeats_with_all_checks_on(self, splits: TaskSplits) -> None:
        one = fit(splits.train, None, SETTINGS, TRAINING, seed=3)
        _assert_same(one, fit(splits.train, None, SETTINGS, TRAINING, seed=3, validate=True))


def test_a_fitted_model_goes_on_learning(splits: TaskSplits) -> None:
    """Fits end in evaluation mode, in which nothing drops out: training leaves it again."""
    training = replace(TRAINING, epochs=1)
    one = fit(splits.train, None, SETTINGS, training)
    vmtl = copy.deepcopy(one.vmtl)
    assert not vmtl.training
    modes: list[bool] = []

    class Watch(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            modes.extend(part.training for part in vmtl.modules())

    again = fit(splits.train, None, SETTINGS, training, vmtl=vmtl, callbacks=[Watch()])
    assert modes
    assert all(modes)
    assert again.vmtl is vmtl
    assert not vmtl.training


def test_a_part_that_is_frozen_stays_frozen(splits: TaskSplits) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    network[1].eval()
    settings = Settings(DeterministicEncoder(network, 4), Standard())
    fitted = fit(splits.train, splits.validation, settings, TRAINING)
    norm = fitted.vmtl.get_submodule("encoder.network.1")
    assert isinstance(norm, torch.nn.BatchNorm1d)
    assert norm.num_batches_tracked == 0


class TestResuming:
    @pytest.mark.parametrize("is_validated", [True, False])
    @pytest.mark.parametrize("classifier", ["mean_field", "conjugate"])
    def test_goes_on_as_if_never_interrupted(
        self,
        splits: TaskSplits,
        tmp_path: Path,
        is_validated: bool,
        classifier: Any,
    ) -> None:
        settings = replace(SETTINGS, classifier=classifier)
        validation = splits.validation if is_validated else None

        def run(**options: Any) -> FittedVMTL:
            return fit(splits.train, validation, settings, TRAINING, seed=3, **options)

        whole = run(checkpoints=tmp_path / "whole")
        folder = tmp_path / "interrupted"
        with pytest.raises(OSError, match="no power"):
            run(checkpoints=folder, callbacks=[_Crash(2)])
        checkpoint = folder / "last.ckpt"
        assert checkpoint.is_file()
        # Another process: nothing left of the noise, only the file.
        torch.manual_seed(12345)
        _assert_same(whole, run(checkpoints=folder, resume=checkpoint))

    @pytest.mark.parametrize(
        "choices",
        [{"loss": "task_means"}, {"task_weighting": "uncertainty"}, {"task_weighting": "pcgrad"}],
        ids=str,
    )
    def test_goes_on_whatever_the_tasks_weigh(
        self, splits: TaskSplits, tmp_path: Path, choices: dict[str, Any]
    ) -> None:
        if choices.get("task_weighting") == "pcgrad":
            pytest.importorskip("torchjd")
        settings = replace(SETTINGS, classifier="amortised")
        training = replace(TRAINING, **choices)

        def run(**options: Any) -> FittedVMTL:
            return fit(splits.train, None, settings, training, seed=3, **options)

        whole = run(checkpoints=tmp_path / "whole")
        folder = tmp_path / "interrupted"
        with pytest.raises(OSError, match="no power"):
            run(checkpoints=folder, callbacks=[_Crash(2)])
        torch.manual_seed(12345)
        _assert_same(whole, run(checkpoints=folder, resume=folder / "last.ckpt"))

    def test_from_a_checkpoint_of_another_shape_is_refused(
        self, splits: TaskSplits, tmp_path: Path
    ) -> None:
        fit(splits.train, splits.validation, SETTINGS, TRAINING, checkpoints=tmp_path)
        checkpoint = tmp_path / "last.ckpt"
        others = [
            replace(SETTINGS, encoder=MLP(4, hidden=(8,))),
            replace(SETTINGS, encoder=Identity()),
            replace(SETTINGS, pool=Standard()),
            replace(SETTINGS, classifier="conjugate"),
        ]
        for other in others:
            with pytest.raises(InputError, match=r"last\.ckpt does not fit this model"):
                fit(splits.train, splits.validation, other, TRAINING, resume=checkpoint)

    def test_from_another_optimiser_is_refused(self, splits: TaskSplits, tmp_path: Path) -> None:
        """Earlier versions had one learning rate, for scales as for all else."""
        fit(splits.train, None, SETTINGS, TRAINING, checkpoints=tmp_path)
        path = tmp_path / "last.ckpt"
        saved = torch.load(path, weights_only=True)
        (state,) = saved["optimizer_states"]
        first, second = state["param_groups"]
        state["param_groups"] = [first | {"params": first["params"] + second["params"]}]
        torch.save(saved, path)
        with pytest.raises(InputError, match=r"last\.ckpt does not fit this version"):
            fit(splits.train, None, SETTINGS, TRAINING, resume=path)

    def test_takes_the_settings_of_the_new_run(self, splits: TaskSplits, tmp_path: Path) -> None:
        """Also those that the optimiser and early stopping write into a checkpoint."""
        old = replace(TRAINING, epochs=2, patience=30)
        new = replace(
            TRAINING,
            epochs=3,
            learning_rate=Ramp(0.02, 0.01),
            scale_rate=3.0,
            weight_decay=0.1,
            patience=7,
        )
        fit(splits.train, splits.validation, SETTINGS, old, checkpoints=tmp_path)
        whole, resumed = _Optimiser(), _Optimiser()
        fit(splits.train, splits.validation, SETTINGS, new, callbacks=[whole])
        fit(
            splits.train,
            splits.validation,
            SETTINGS,
            new,
            resume=tmp_path / "last.ckpt",
            callbacks=[resumed],
        )
        assert whole.seen[-1] == pytest.approx((0.02 - 0.01 * 8 / 9, 3.0, 0.1, 7))
        assert len(resumed.seen) == 3
        assert resumed.seen == whole.seen[6:]  # every step of the third epoch

    @pytest.mark.parametrize("names", [(None, "pcgrad"), ("pcgrad", None)])
    def test_into_another_kind_of_optimisation_is_refused(
        self, splits: TaskSplits, tmp_path: Path, names: tuple[Any, Any]
    ) -> None:
        pytest.importorskip("torchjd")
        old, new = (replace(TRAINING, task_weighting=name) for name in names)
        fit(splits.train, None, SETTINGS, old, checkpoints=tmp_path)
        says = f"task_weighting is {names[1]!r}, .* from training with {names[0]!r}; expected"
        with pytest.raises(InputError, match=says):
            fit(splits.train, None, SETTINGS, new, resume=tmp_path / "last.ckpt")

    def test_with_other_data_or_settings_is_refused(
        self, splits: TaskSplits, tmp_path: Path
    ) -> None:
        """Of the same shape, so that nothing else would tell."""
        train, validation = splits.train, splits.validation
        fit(train, validation, SETTINGS, TRAINING, seed=3, checkpoints=tmp_path)
        moved, fewer = replace(train, x=train.x + 1e-6), train.subset(torch.arange(1, len(train)))
        renamed = [replace(part, names=("a", "b", "c")) for part in (train, validation)]
        swapped = replace(validation, y=1 - validation.y)
        settings = replace(SETTINGS, pool=Mixture(base=True, kl_bound="convexity"))
        others: list[tuple[str, tuple[Any, ...], int]] = [
            ("the digest of the training inputs is", (moved, validation, SETTINGS), 3),
            ("the number of training samples is 24 there and 23 here", (fewer, validation), 3),
            (r'the tasks is \["task 0".* there and \["a", "b"', (*renamed, SETTINGS), 3),
            ("the digest of the validation targets is", (train, swapped, SETTINGS), 3),
            ("the number of validation samples is 18 there and 0 here", (train, None), 3),
            (
                "the setting pool is .*tight.* there and .*convexity",
                (train, validation, settings),
                3,
            ),
            ("the seed is 3 there and 4 here", (train, validation, SETTINGS), 4),
        ]
        training = replace(TRAINING, epochs=6)
        for says, (tasks, held_out, *chosen), seed in others:
            model = chosen[0] if chosen else SETTINGS
            with pytest.raises(InputError, match=f"comes from another run: {says}"):
                fit(tasks, held_out, model, training, seed=seed, resume=tmp_path / "last.ckpt")
        fit(train, validation, SETTINGS, training, seed=3, resume=tmp_path / "last.ckpt")

    @pytest.mark.parametrize("patience", [None, 1])
    @pytest.mark.parametrize("is_validated", [True, False])
    def test_after_the_last_epoch_is_the_run(
        self, splits: TaskSplits, tmp_path: Path, is_validated: bool, patience: int | None
    ) -> None:
        """Also one that ended early, and into its own folder of checkpoints or another."""
        bad = Ramp(0.02, 5.0) if patience else TRAINING.learning_rate
        training = replace(TRAINING, epochs=8, patience=patience, learning_rate=bad)
        validation = splits.validation if is_validated else None

        def run(**options: Any) -> FittedVMTL:
            return fit(splits.train, validation, SETTINGS, training, seed=3, **options)

        whole = run(checkpoints=tmp_path)
        assert (len(whole.history) < 8) == bool(patience and is_validated)
        for folder in (None, tmp_path, tmp_path / "other"):
            again = run(checkpoints=folder, resume=tmp_path / "last.ckpt")
            _assert_same(whole, again)
            assert again.vmtl.tempering == whole.vmtl.tempering != dict.fromkeys(SITES, 1.0)
            assert again.warnings == whole.warnings
        assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == (
            ["best.ckpt", "last.ckpt"] if is_validated else ["last.ckpt"]
        )

    def test_without_the_best_epoch_is_refused(self, splits: TaskSplits, tmp_path: Path) -> None:
        fit(splits.train, splits.validation, SETTINGS, TRAINING, checkpoints=tmp_path)
        (tmp_path / "best.ckpt").unlink()
        with pytest.raises(InputError, match=r"best\.ckpt is not a file; expected the folder"):
            fit(
                *(splits.train, splits.validation, SETTINGS, TRAINING),
                resume=tmp_path / "last.ckpt",
            )

    def test_does_not_go_back(self, splits: TaskSplits, tmp_path: Path) -> None:
        fit(splits.train, None, SETTINGS, TRAINING, checkpoints=tmp_path)
        assert TRAINING.epochs is not None
        fewer = replace(TRAINING, epochs=TRAINING.epochs - 1)
        says = f"epochs is {fewer.epochs}, .* expected .* at least {TRAINING.epochs}"
        with pytest.raises(InputError, match=says):
            fit(splits.train, None, SETTINGS, fewer, resume=tmp_path / "last.ckpt")

    def test_from_nothing_is_refused(self, splits: TaskSplits, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none\.ckpt is not a file"):
            fit(splits.train, None, SETTINGS, TRAINING, resume=tmp_path / "none.ckpt")

    @pytest.mark.parametrize("contents", ["text", "table", "nothing", "half", "another dictionary"])
    def test_from_something_else_is_refused(
        self, splits: TaskSplits, tmp_path: Path, contents: str
    ) -> None:
        path = tmp_path / "notes.ckpt"
        torch.save({"x": torch.zeros(1000)}, path)
        whole = path.read_bytes()
        other = {
            "text": b"not a checkpoint",
            "table": b"epoch,step,loss\n0,50,0.1\n",
            "nothing": b"",
            "half": whole[: len(whole) // 2],
        }
        path.write_bytes(other.get(contents, whole))
        with pytest.raises(InputError, match=r"notes\.ckpt cannot be read as a checkpoint"):
            fit(splits.train, None, SETTINGS, TRAINING, resume=path)


class TestTheHistory:
    def test_has_a_row_an_epoch_with_the_schedules_and_the_parts(self, splits: TaskSplits) -> None:
        seen: list[int] = []
        on_epoch: Callable[[list[dict[str, float]]], None] = lambda rows: seen.append(len(rows))  # noqa: E731
        fitted = fit(splits.train, splits.validation, SETTINGS, TRAINING, on_epoch=on_epoch)
        history = fitted.history
        assert seen == [1, 2, 3, 4]
        assert history["epoch"].tolist() == [0, 1, 2, 3]
        assert history["step"].tolist() == [3, 6, 9, 12]
        assert history["temperature"].iloc[-1] == pytest.approx(0.3)
        assert history["kl_weight_of_weights"].is_monotonic_increasing
        parts = history["expected_log_likelihood"] - history[
            ["kl_weights", "kl_representations", "kl_relatedness"]
        ].sum(axis=1)
        pd.testing.assert_series_equal(history["elbo"], parts, check_names=False)
        assert history["validation_nll"].notna().all()


class TestTheProgressBar:
    def test_counts_epochs_from_one(
        self, splits: TaskSplits, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shown: list[str] = []

        class Look(Callback):
            def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
                bar = trainer.progress_bar_callback
                assert isinstance(bar, RichProgressBar)
                shown.append(bar.train_progress_bar.description)

        fit(splits.train, None, SETTINGS, TRAINING, progress_bar=True, callbacks=[Look()])
        assert shown == [f"Epoch {epoch}/4" for epoch in (1, 2, 3, 4) for _ in range(3)]
        assert "Epoch 4/4" in capsys.readouterr().out

    def test_may_be_of_the_users_own(self, splits: TaskSplits) -> None:
        bars: list[Any] = []

        class Look(Callback):
            def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
                bars.append(trainer.progress_bar_callback)

        own = TQDMProgressBar()
        fit(splits.train, None, SETTINGS, TRAINING, progress_bar=True, callbacks=[own, Look()])
        assert bars == [own]
        fit(splits.train, None, SETTINGS, TRAINING, callbacks=[Look()])
        assert bars == [own, None]


class TestTheBestEpoch:
    def test_is_kept(self, splits: TaskSplits) -> None:
        assert splits.validation is not None
        training = replace(TRAINING, learning_rate=Ramp(0.02, 2.0), epochs=6)
        fitted = fit(splits.train, splits.validation, SETTINGS, training)
        scores = fitted.history["validation_nll"]
        assert scores.idxmin() < len(scores) - 1  # such a rate ends badly
        again = predict(fitted.vmtl, splits.validation, training.validation_samples)
        assert again.metrics()["mean"]["nll"] == pytest.approx(scores.min(), rel=1e-5)

    def test_is_the_last_without_validation_data(self, splits: TaskSplits) -> None:
        unlabelled = splits.train.subset(torch.tensor([], dtype=torch.int64))
        one = fit(splits.train, None, SETTINGS, TRAINING)
        _assert_same(one, fit(splits.train, unlabelled, SETTINGS, TRAINING))
        assert not any(name.startswith("validation") for name in one.history)

    def test_stops_when_patience_is_out(self, splits: TaskSplits) -> None:
        training = replace(TRAINING, learning_rate=Ramp(0.02, 5.0), epochs=30, patience=2)
        fitted = fit(splits.train, splits.validation, SETTINGS, training)
        scores = fitted.history["validation_nll"]
        assert len(scores) < 30
        assert scores.idxmin() == len(scores) - 1 - 2


class TestAFittedModel:
    def test_has_learned_and_is_ready_to_predict(self) -> None:
        splits = clusters(3, 1, samples=40, dimensions=8, test_samples=100, spread=0.1)
        training = TrainingSettings(
            epochs=3,
            steps_per_epoch=50,
            learning_rate=Constant(0.02),
            kl_weights=Constant(1.0),
            validation_samples=10,
        )
        settings = Settings(Identity(), Power())
        fitted = fit(splits.train, splits.validation, settings, training)
        assert not fitted.vmtl.training
        before = predict(build(splits.train, settings), splits.test).metrics()["mean"]
        after = fitted.predict(splits.test).metrics()["mean"]
        gain = pd.Series(before) - pd.Series(after)
        assert gain["nll"] > 0.1
        assert gain["accuracy"] < -0.1

    def test_refuses_data_of_another_kind(self, splits: TaskSplits) -> None:
        training = replace(TRAINING, epochs=1)
        fitted = fit(splits.train, None, SETTINGS, training)
        test = splits.test
        others = {
            "has the tasks": replace(test, names=("x", "y", "z")),
            "has shape": replace(test, x=torch.randn(len(test), 4)),
            "classes": replace(test, classes=("no", "yes")),
        }
        for says, other in others.items():
            with pytest.raises(InputError, match=says):
                fitted.predict(other)

    def test_can_be_trained_further(self, splits: TaskSplits) -> None:
        vmtl = build(splits.train, SETTINGS)
        first = fit(splits.train, None, SETTINGS, TRAINING, vmtl=vmtl)
        assert first.vmtl is vmtl
        before = vmtl.classifier.gaussians().loc.detach().clone()
        fit(splits.train, None, SETTINGS, TRAINING, vmtl=vmtl)
        assert not vmtl.classifier.gaussians().loc.equal(before)


class TestErrors:
    def test_the_validation_set_is_of_the_same_tasks(self, splits: TaskSplits) -> None:
        other = replace(splits.test, names=("x", "y", "z"))
        with pytest.raises(InputError, match="validation set has names"):
            fit(splits.train, other, SETTINGS, TRAINING)

    def test_settings_or_choices(self, splits: TaskSplits) -> None:
        with pytest.raises(InputError, match="'pool'"):
            build(splits.train, SETTINGS, pool=Power())

    @pytest.mark.parametrize(
        ("option", "says"),
        [
            ({"epochs": 3}, r"given epochs; expected it as training=TrainingSettings\(epochs"),
            ({"pool": Power()}, r"given pool; expected it as settings=Settings\(pool"),
            ({"devices": 0}, "the trainer refuses its options .*'devices': 0"),
        ],
    )
    def test_options_that_belong_elsewhere(
        self, splits: TaskSplits, option: dict[str, Any], says: str
    ) -> None:
        with pytest.raises(InputError, match=says):
            fit(splits.train, None, **option)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    @pytest.mark.parametrize("name", ["cuda", "gpu"])
    def test_an_accelerator_that_is_not_there(self, splits: TaskSplits, name: str) -> None:
        with pytest.raises(InputError, match=f"'{name}', and PyTorch finds no CUDA device"):
            fit(splits.train, None, SETTINGS, TRAINING, accelerator=name)

    @pytest.mark.parametrize("place", range(4))
    def test_arguments_of_another_kind_are_named(self, splits: TaskSplits, place: int) -> None:
        arguments: list[Any] = [splits.train, splits.validation, SETTINGS, TRAINING]
        says = ["training data", "validation data", "settings", "training"][place]
        arguments[place] = {"epochs": 3}
        with pytest.raises(InputError, match=f"{says} is a dict; expected a"):
            fit(*arguments)

    @pytest.mark.parametrize("name", ["mps", "abacus"])
    def test_an_accelerator_that_cannot_be_used(self, splits: TaskSplits, name: str) -> None:
        with pytest.raises(InputError, match=name):
            fit(splits.train, None, SETTINGS, TRAINING, accelerator=name)

    def test_a_task_without_training_samples(self, splits: TaskSplits) -> None:
        rows = (splits.train.task != 1).nonzero().squeeze(1)
        with pytest.raises(InputError, match="'task 1'"):
            fit(splits.train.subset(rows), None, SETTINGS, TRAINING)


class _PressesCtrlC(Callback):
    """At the end of the first epoch."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_a_keyboard_interrupt_and_works_again_afterwards() -> None:
    splits = clusters(4, 2, samples=8, dimensions=3, test_samples=8)
    settings = Settings(Identity(), Standard(), classifier="mean_field")
    training = TrainingSettings(epochs=3, steps_per_epoch=2, validation_samples=4)
    # A shell that starts the tests in the background has them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(splits.train, None, settings, training, callbacks=[_PressesCtrlC()])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_two_fits_of_one_encoder_start_from_the_same() -> None:
    splits = clusters(4, 2, samples=8, dimensions=3, test_samples=8)
    encoder = DeterministicEncoder(torch.nn.Linear(3, 2), latent_dim=2)
    before = copy.deepcopy(encoder.state_dict())
    settings = Settings(encoder, Standard())
    training = TrainingSettings(epochs=2, steps_per_epoch=2, validation_samples=4)
    one, two = (fit(splits.train, None, settings, training, seed=3) for _ in range(2))
    assert all(value.equal(before[name]) for name, value in encoder.state_dict().items())
    for ours, theirs in zip(one.vmtl.parameters(), two.vmtl.parameters(), strict=True):
        assert ours.equal(theirs)


def test_an_epoch_kept_very_early_is_called_out() -> None:
    """Labels of the validation part that are noise are predicted best by knowing nothing."""
    splits = clusters(4, 2, samples=12, dimensions=3, test_samples=8, seed=1)
    y = splits.validation.y
    noise = replace(splits.validation, y=y[torch.arange(len(y) - 1, -1, -1)])
    settings = Settings(Identity(), Mixture(), classifier="mean_field", initial_jitter=0.0)
    training = TrainingSettings(
        epochs=6, steps_per_epoch=10, learning_rate=Constant(0.1), validation_samples=20
    )
    fitted = fit(splits.train, noise, settings, training)
    assert any("little time to form" in sentence for sentence in fitted.warnings)
    calm = fit(splits.train, None, settings, training)
    assert not any("little time to form" in sentence for sentence in calm.warnings)


@pytest.mark.parametrize(("unit", "is_named"), [(1.0, False), (300.0, True), (1e-4, True)])
def test_targets_in_a_unit_that_the_priors_do_not_reach_are_called_out(
    unit: float, is_named: bool
) -> None:
    splits = clusters(4, 2, samples=8, dimensions=3, test_samples=8, kind="regression")
    train = replace(splits.train, y=unit * splits.train.y)
    settings = Settings(Identity(), Standard(), classifier="mean_field")
    training = TrainingSettings(epochs=1, steps_per_epoch=2, validation_samples=4)
    fitted = fit(train, None, settings, training)
    assert any("root mean square" in sentence for sentence in fitted.warnings) == is_named


def test_a_task_without_a_class_is_named() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(3, 12, 2))
    y = (x[..., 0] > 0).astype(int)
    whole = {f"task {t}": (x[t], y[t]) for t in range(3)}
    lacking = whole | {"task 1": (x[1], np.zeros(12, dtype=int))}
    for tasks, says in ((whole, False), (lacking, True)):
        task_set = TaskSet.from_arrays(tasks, classes=(0, 1))
        fitted = fit(task_set, accelerator="cpu", log_warnings=False)
        sentence = "The task 'task 1' has no training sample of the class '1': what the model says"
        assert any(sentence in warning for warning in fitted.warnings) == says


@pytest.mark.parametrize("classifier", ["mean_field", "conjugate"])
def test_a_last_step_that_explodes_is_not_kept(classifier: Any) -> None:
    """No later loss would show it; and of such numbers no weights have a closed form."""
    splits = clusters(3, 2, samples=10, dimensions=3)
    training = TrainingSettings(epochs=1, steps_per_epoch=1, learning_rate=Constant(1e30))
    with pytest.raises(InputError, match="the ELBO is nan in epoch 0; expected a finite one"):
        fit(splits.train, None, Settings(MLP(2, hidden=(4,)), classifier=classifier), training)


def test_representations_of_classes_outlive_a_start_at_which_weights_are_0() -> None:
    """A KL from the first step on is then all the gradient that an encoder gets."""
    train = digit_domains(shots=1, seed=3).train
    budget = TrainingSettings(epochs=2, steps_per_epoch=30)
    gaussian = Settings(MLP(hidden=(512,), dropout=0.1))
    fitted = fit(train, None, gaussian, budget)
    assert fitted.history["representations_information"].min() > 2
    from_the_start = replace(budget, kl_representations=Constant(0.1))
    with_kl = fit(train, None, gaussian, from_the_start, log_warnings=False)
    assert with_kl.history["representations_information"].iloc[-1] < 0.1
    assert any("representations carry" in sentence for sentence in with_kl.warnings)


@pytest.mark.parametrize("is_validated", [True, False])
@pytest.mark.parametrize("pool", [Nested(), Mixture()], ids=["nested", "mixture"])
def test_noise_that_nothing_has_checked_is_told(is_validated: bool, pool: Pool) -> None:
    splits = clusters(3, 1, samples=6, dimensions=3, kind="regression")
    settings = Settings(MLP(2, hidden=(3,)), pool)
    validation = splits.validation if is_validated else None
    budget = TrainingSettings(epochs=1, steps_per_epoch=2)
    fitted = fit(splits.train, validation, settings, budget, log_warnings=False)
    told = [sentence for sentence in fitted.warnings if "noise of the targets" in sentence]
    assert bool(told) != is_validated
    # Relatedness alone takes a gradient here, if anything.
    exact = fit(splits.train, None, Settings(Identity(), pool), budget, log_warnings=False)
    assert not any("noise of the targets" in sentence for sentence in exact.warnings)


def test_kl_weights_that_weights_in_closed_form_do_not_take_are_noted() -> None:
    tasks = clusters(3, 1, samples=6, dimensions=2).train
    brief = TrainingSettings(epochs=1, steps_per_epoch=2, kl_weights=Constant(1.0))
    (note,) = fit(tasks, training=brief).notes
    assert note.startswith("kl_weights=Constant(value=1.0) has no effect")
    assert fit(tasks, training=replace(brief, kl_weights=Constant(0.03))).notes == ()
    assert fit(tasks, settings=Settings(classifier="mean_field"), training=brief).notes == ()
