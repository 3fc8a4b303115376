"""What a run refuses, in one sentence, and what it leaves behind where it comes to nothing."""

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

Train = Callable[..., Path]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.shots=100", "shots is 100"),
        ("trainer.epochs=abc", "epochs is 'abc'; expected a whole number"),
        ("trainer.accelerator=tpu", "accelerator is 'tpu'; expected"),
        ("trainer.accelerator=mps", "no float64"),
        ("trainer.devices=-1", "the trainer refuses its options {'devices': -1} ("),
        ("trainer.devices=some", "the trainer refuses its options {'devices': 'some'} ("),
        ("+trainer.precision=fine", "the trainer refuses its options"),
        ("+trainer.nosuch=1", "fit was given nosuch, which no trainer has; expected one of"),
        ("+trainer.logger=true", "fit was given logger, which it sets by itself; expected"),
        ("+trainer.resume=x", "trainer.resume is set by the command; expected a setting"),
        ("seed=-1", "seed is -1; expected"),
        ("trainer.kl_weights.value=-1", "kl_weights reaches -1"),
        ("trainer.learning_rate.value=0", "learning_rate reaches 0"),
        ("ckpt_path=nowhere.ckpt", "the checkpoint nowhere.ckpt is not a file"),
        ("pool=power pool.spread=wide", "spread is 'wide'; expected"),
        ("trainer.learning_rate=0.1", "trainer.learning_rate.value=0.1"),
        ("trainer.kl_weights.value=one", "value is 'one'; expected a number"),
        ("num_samples=0", "num_samples is 0; expected a whole number of at least 1"),
        ("num_samples=many", "num_samples is 'many'; expected a whole number"),
        ("baselines=maybe", "baselines is 'maybe'; expected true or false"),
        ("model=mlp model.encoder.hidden=128", "hidden is 128; expected a list of widths"),
        (
            "pool=nested pool.known=abc",
            "known is 'abc'; expected the number of each task's cluster",
        ),
        ("temperature_scaling=often", "temperature_scaling is 'often'; expected true"),
        ("temperature_scaling=1", "temperature_scaling is 1; expected true"),
        ("data=table", "data.path has no value; expected one"),
        ("data=office_home data.root=nowhere", "the folder 'nowhere' does not exist"),
        # Settings of earlier versions:
        ("+lenders=recursive", "where model.classifier=mean_field, and what their own data said"),
        ("lenders=recursive", "there is no setting lenders (lenders=recursive); expected one of"),
        ("pool=clustered", "there is no pool 'clustered'; expected one of feedback, geometric"),
        ("pool=nested model.classifier=mean_field", "the classifier is 'mean_field' and the pool"),
        ("model.classifier=point pool=mixture", "the weights are point estimates, whose scales"),
        # What Hydra itself refuses:
        ("data=nowhere", "there is no data 'nowhere'; expected one of clusters, digit_domains"),
        ("recipe=nosuch", "there is no recipe 'nosuch'; expected one of amortised, balanced, bmtl"),
        ("trainer.epohcs=3", "no setting trainer.epohcs (trainer.epohcs=3); expected trainer.epo"),
        ("nosuch=1", "there is no setting nosuch (nosuch=1); expected one of data, model"),
        ("pool=3", "Config group override must be a string"),
        ("pool@representation=mixture", "Did you mean to override one of pool"),
        ("trainer.epochs", "trainer.epochs cannot be read (it has no value); expected key=value"),
        ("data.path=a(1).csv", "data.path=a(1).csv cannot be read"),
        ("seed=0,1", "seed=0,1 gives seed several values; expected one, seed=[0,1]"),
        ("--config-name=nosuch", "there is no configuration 'nosuch'; expected --config-name"),
        ("--multirun recipe=stl,nosuch", "there is no recipe 'nosuch'"),
        ("recipe=feedback data=rotated_digits", "likelihood is Gaussian; expected classes without"),
        ("recipe=feedback model=mlp", "which training changes; expected one that is fixed before"),
        ("--multirun seed=0,1 trainer.devices=2", "trainer.devices is 2 in a sweep, of which"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    train: Train, capsys: pytest.CaptureFixture[str], override: str, sentence: str
) -> None:
    before = dict(os.environ)
    with pytest.raises(SystemExit) as exit_:
        train(*override.split())
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert dict(os.environ) == before


def test_where_an_error_comes_from_is_shown_to_who_asks(
    train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for override in ("num_samples=0", "recipe=nosuch"):
        with pytest.raises(SystemExit) as exit_:
            train(override)
        assert exit_.value.code == 2
        error = capsys.readouterr().err
        assert "Traceback" in error
        assert "\nError: " in error
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


def test_a_bug_is_not_passed_off_as_the_users_mistake(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*anything: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("pyro_vmtl.train.run_experiment", fail)
    with pytest.raises(ValueError, match="a bug"):
        train()


@pytest.mark.parametrize(
    "override",
    [
        "data.kind=round",  # the data
        "trainer.accelerator=tpu",  # the trainer, when the folder has been written into
        "trainer.task_weighting=loud",
        "trainer.learning_rate.value=1e30",  # the first epoch
        "num_samples=0",
        "ckpt_path=nowhere.ckpt",
    ],
)
def test_a_run_that_fails_before_it_has_trained_leaves_nothing(
    train: Train, clusters: tuple[str, ...], tmp_path: Path, override: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "mine" / "checkpoints").mkdir()
    for name in ("deep/new", "mine"):
        with pytest.raises(SystemExit):
            train(*clusters, override, name=name)
    assert not (tmp_path / "deep").exists()
    assert sorted(entry.name for entry in (tmp_path / "mine").iterdir()) == [
        "checkpoints",
        "notes.txt",
    ]
    run = train(*clusters, name="mine")  # the second try
    assert (run / "metrics.json").is_file()
    assert (run / "notes.txt").read_text() == "mine"


def test_an_interrupted_run_that_has_trained_stays(
    train: Train,
    clusters: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*anything: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyro_vmtl.runs.experiment.predict_held_out", stop)
    with pytest.raises(SystemExit) as exit_:
        train(*clusters)
    assert exit_.value.code == 130
    assert len(pd.read_csv("run/metrics.csv")) == 2
    assert Path("run/checkpoints/last.ckpt").is_file()
    with pytest.raises(SystemExit):
        train(*clusters)
    assert "already holds a run" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(
    train: Train, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit) as exit_:
        train(name="file/run")
    assert exit_.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_run_is_never_overwritten(
    train: Train, clusters: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(*clusters)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        train(*clusters)
    assert "already holds a run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_configuration_of_an_earlier_version_is_not_trained_as_another(
    train: Train, clusters: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(*clusters, "pool=mixture")
    with (run / "config.yaml").open("a") as file:
        file.write("lenders:\n  _target_: hydra.utils.get_class\n  path: pyro_vmtl.Recursive\n")
    again = (f"--config-dir={run}", "--config-name=config")
    with pytest.raises(SystemExit) as exit_:
        train(*again, name="again", small=False)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: the configuration has lenders, a setting of an earlier version")
    assert error.count("\n") == 1
    assert not Path("again").exists()
    train(*again, "~lenders", name="again", small=False)
