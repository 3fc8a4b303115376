"""``python -m pyro_vmtl predict``: from a folder and a file to predictions in the file's names."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pyro_vmtl as pv

Command = Callable[..., int]


def wards(rows: int = 60, seed: int = 0, names: tuple[str, ...] = ("a", "b", "c")) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "ward": generator.choice(names, rows),
            "age": generator.normal(60, 10, rows),
            "sex": generator.choice(["f", "m"], rows),
        }
    )
    risk = (frame["age"] - 60) / 10 + (frame["sex"] == "m") + generator.logistic(size=rows)
    frame["ill"] = np.where(risk > 0, "yes", "no")
    frame["days"] = 100 + 20 * risk
    return frame


@cache
def fitted_to(target: str, other: str) -> pv.FittedVMTL:
    tasks = pv.read_table(wards(), task="ward", target=target, leave_out=[other])
    return pv.fit(tasks, log_warnings=False)


def saved(folder: str, target: str, other: str) -> pv.FittedVMTL:
    fitted = fitted_to(target, other)
    pv.save(fitted, Path(folder))
    return fitted


def test_rows_come_back_with_predictions_beside_them(command: Command) -> None:
    fitted = saved("model", "ill", "days")
    rows = wards(12, seed=1)
    rows.drop(columns="ill").to_csv("new.csv", index=False)
    for out, read in (("out.csv", pd.read_csv), ("out.parquet", pd.read_parquet)):
        assert command("predict", "model", "new.csv", out) == 0
        found = read(out)
        assert found["ward"].tolist() == rows["ward"].tolist()
        expected = fitted.predict(pv.read_rows(rows, like=fitted))
        np.testing.assert_allclose(found["probability yes"], expected.mean[:, 1], rtol=1e-4)
        assert set(found["prediction"]) <= {"no", "yes"}
    assert {path.name for path in Path().iterdir()} == {
        "model",
        "new.csv",
        "out.csv",
        "out.parquet",
    }


def test_numbers_have_an_sd_and_an_interval_in_their_unit(command: Command) -> None:
    saved("model", "days", "ill")
    rows = wards(200, seed=1)
    rows.to_csv("new.csv", index=False)
    assert command("predict", "model", "new.csv", "out.csv") == 0
    found = pd.read_csv("out.csv")
    inside = (found["low"] < rows["days"]) & (rows["days"] < found["high"])
    assert 0.8 < inside.mean() < 0.99
    away = (rows["days"] - found["prediction"]) / found["sd"]
    assert 0.8 < away.std() < 1.25


def test_new_tasks_are_predicted_and_can_be_learned_from_rows(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    saved("model", "ill", "days")
    wards(6, seed=1, names=("d",)).to_csv("new.csv", index=False)
    wards(20, seed=2, names=("d",)).to_csv("rows.csv", index=False)
    assert command("predict", "model", "new.csv", "population.csv") == 0
    assert "The task 'd' has no labelled sample" in capsys.readouterr().err
    assert command("predict", "model", "new.csv", "learned.csv", "--learn", "rows.csv") == 0
    assert capsys.readouterr().err == ""
    one, other = (pd.read_csv(name)["epistemic"] for name in ("population.csv", "learned.csv"))
    assert other.mean() < one.mean()


def test_without_a_file_it_writes_to_the_standard_output(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    saved("model", "ill", "days")
    wards(3).to_csv("new.csv", index=False)
    assert command("predict", "model", "new.csv") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("ward,age,sex,ill,days,prediction,probability no")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("predict", "model", "absent.csv"), "'absent.csv' does not exist"),
        (("predict", "absent", "new.csv"), "absent"),
        (("predict", "model", "new.csv", "out.doc"), "ends in .csv, .tsv, .parquet"),
        (("predict", "model", "new.csv", "no/out.csv"), "a folder that does not exist"),
        (("predict", "model", "new.csv", "new.csv"), "exists; expected a new file, or --overwrite"),
        (("predict", "model", "taken.csv"), "has a column 'prediction', as the predictions do"),
        (("predict", "model", "new.csv", "--learn", "new.csv"), "expected new tasks alone"),
        (("predict", "model", "new.csv", "--draws", "0"), "num_samples is 0"),
        (("forecast",), "there is no command 'forecast'; expected one of train"),
    ],
)
def test_what_will_not_do_is_said_in_a_sentence(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    saved("model", "ill", "days")
    wards(3).to_csv("new.csv", index=False)
    wards(3).assign(prediction=1).to_csv("taken.csv", index=False)
    before = Path("new.csv").read_bytes()
    assert command(*arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1, error
    assert Path("new.csv").read_bytes() == before
    assert not Path("out.doc").exists()


def test_other_commands_are_reached(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    assert "predict new rows of a table" in capsys.readouterr().out
    assert command("report", "--help") == 0
    assert "report.html" in capsys.readouterr().out
