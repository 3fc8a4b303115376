"""Likelihoods of a configuration."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

import pyro_vmtl as pv
from pyro_vmtl.model.likelihoods import Family
from pyro_vmtl.runs.configuration import config_folder, read_plan
from pyro_vmtl.runs.finished import read_run
from pyro_vmtl.runs.predicting import predict_file


@pytest.mark.parametrize(
    ("name", "likelihood"),
    [
        *(("", None), ("gaussian", pv.Gaussian()), ("categorical", pv.Categorical())),
        *(("student_t", pv.StudentT()), ("poisson", pv.Poisson()), ("ordinal", pv.Ordinal())),
        ("negative_binomial", pv.NegativeBinomial()),
        ("bernoulli", pv.Bernoulli()),
        ("feedback_bernoulli", pv.FeedbackBernoulli()),
    ],
)
def test_are_chosen_by_name(name: str, likelihood: Family | None) -> None:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        chosen = ["data=clusters", "experiment=a test", "recipe=default"]
        chosen += [f"likelihood={name}"] if name else []
        settings = read_plan(compose("train", chosen)).settings
    assert settings.likelihood == likelihood


def test_that_are_left_open_are_chosen_and_said(
    train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    age = generator.normal(size=120)
    visits = generator.negative_binomial(2, 1 / (1 + np.exp(1.5 + age) / 2))
    frame = pd.DataFrame({"age": age, "clinic": list("abc") * 40, "visits": visits})
    frame.to_csv(tmp_path / "visits.csv", index=False)
    columns = ("data.path=visits.csv", "data.task=clinic", "data.target=visits")
    run = train("data=table", *columns, report=True)
    (note,) = json.loads((run / "metrics.json").read_text())["notes"]
    assert note.startswith("The likelihood is NegativeBinomial: the targets are whole numbers")
    assert pv.load(run).notes == (note,)
    assert pv.load(run).settings.likelihood == pv.NegativeBinomial()
    shown = " ".join(capsys.readouterr().out.split())
    assert note in shown
    assert note in (run / "report.html").read_text()
    # One row an update, and those of the likelihood that was chosen.
    assert pd.read_csv(run / "metrics.csv")["epoch"].tolist() == list(range(19))


def test_of_outputs_that_are_0_or_1_by_command(
    train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    age = generator.normal(size=90)
    chance = 1 / (1 + np.exp(-2 * age))
    frame = pd.DataFrame({"age": age, "clinic": list("abc") * 30})
    frame["relapsed"] = generator.random(90) < chance
    frame["moved"] = pd.array((generator.random(90) < 1 - chance).astype(int), dtype="Int64")
    frame.loc[::3, "moved"] = None
    frame.to_csv(tmp_path / "ill.csv", index=False)
    columns = ("data.path=ill.csv", "data.task=clinic", "data.target=[relapsed,moved]")
    run = train("data=table", *columns, report=True)
    said = " ".join(capsys.readouterr().out.split())
    assert "Outputs that are 0 or 1: 'relapsed' (90 of 90 rows known" in said
    assert "Of 90 rows 30 have some of the targets and not all" in said
    scores = json.loads((run / "metrics.json").read_text())["test"]["mean"]
    assert scores["accuracy"] > 0.6
    assert scores["nll"] < np.log(2)
    predictions = pd.read_parquet(run / "predictions.parquet")
    found = read_run(run)
    assert found.is_classification
    assert len(found.predictions.tasks) == 2 * len(predictions)
    assert found.outputs == ("relapsed", "moved")
    known = predictions["target moved"].notna()
    assert 0 < known.sum() < len(known)
    assert "accuracy" in (run / "report.html").read_text()
    new, _ = predict_file(run, tmp_path / "ill.csv")
    assert new["probability relapsed"].corr(frame["age"]) > 0.8
    assert new["probability moved"].corr(frame["age"]) < -0.8


def test_of_outputs_that_hear_each_other_by_command(
    train: Callable[..., Path], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    age = generator.normal(size=60)
    frame = pd.DataFrame({"age": age, "clinic": list("ab") * 30, "relapsed": age > 0})
    frame["moved"] = pd.array((age < 0.5).astype(int), dtype="Int64")
    frame.loc[::3, "moved"] = None
    frame.to_csv(tmp_path / "ill.csv", index=False)
    columns = ("data.path=ill.csv", "data.task=clinic", "data.target=[relapsed,moved]")
    run = train("data=table", *columns, "likelihood=feedback_bernoulli", "likelihood.rounds=2")
    assert pv.load(run).settings.likelihood == pv.FeedbackBernoulli(rounds=2)
    new, _ = predict_file(run, tmp_path / "ill.csv")
    assert new["probability relapsed"].corr(frame["age"]) > 0.8
    assert new["probability moved"].corr(frame["age"]) < -0.8
