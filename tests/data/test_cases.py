"""Awkward tables of other people's: what each must give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pyro_vmtl as pv
from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError

CASES = Path(__file__).parent / "cases"


def read(name: str, task: str, target: str | list[str], **options: object) -> TaskSet:
    return pv.read_table(CASES / name, task=task, target=target, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "task", "target", "classes"),
    [
        ("62_sentiment.csv", "shop", "sentiment", ("-1", "0", "1")),
        ("02_class_none.csv", "site", "improved", ("Marked", "None", "Some")),
        ("08_float_binary.csv", "site", "ill", ("0", "1")),
        ("10_trailing_blank.csv", "site", "ill", ("no", "yes")),
        ("64_one_row_task.csv", "ward", "dead", ("0", "1")),
    ],
)
def test_classes(name: str, task: str, target: str, classes: tuple[str, ...]) -> None:
    tasks = read(name, task, target)
    assert tasks.classes == classes
    assert tasks.labelled.all()
    of_frame = pv.read_table(
        pd.read_csv(CASES / name, keep_default_na=False), task=task, target=target
    )
    assert of_frame.classes == classes
    assert of_frame.y.equal(tasks.y)


def test_na_is_the_name_of_a_task() -> None:
    assert read("03_task_NA.csv", "country", "y").names == ("NA", "ZA", "BW")


def test_a_cell_below_detection_is_asked_about() -> None:
    with pytest.raises(InputError, match=r"row 8 below the header .* has '<0.1' in .* 'conc'"):
        read("04_below_detection.csv", "lab", "conc")


def test_european_numbers() -> None:
    name = "05b_european_target_only.csv"
    with pytest.raises(InputError, match="or separator=';', by which it seems parted"):
        read(name, "lab", "conc")
    with pytest.raises(InputError, match=r"'1,0' in the column 'conc'; .*decimal=','"):
        read(name, "lab", "conc", separator=";")
    tasks = read(name, "lab", "conc", separator=";", decimal=",")
    assert tasks.classes is None
    assert tasks.y[:2].tolist() == pytest.approx([1.0, 1.37])


def test_many_whole_numbers_are_a_regression_and_said_so() -> None:
    tasks = read("63_weight_in_grams.csv", "diet", "weight_g")
    assert tasks.classes is None
    assert tasks.columns is not None
    assert "102 distinct whole numbers" in tasks.columns.notes[0]


def test_labels_of_new_rows_are_matched_by_their_text() -> None:
    train = read("30_train.csv", "site", "grade")
    rows = CASES / "30_new.csv"
    new = pv.read_rows(rows, like=train)
    assert train.classes is not None
    labels = [train.classes[label] for label in new.y.tolist()]
    assert labels == pd.read_csv(rows, dtype=str)["grade"].tolist()


def test_an_index_column_is_left_out_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    tasks = read("09_index_column.csv", "site", "ill")
    assert tasks.columns is not None
    assert tasks.columns.inputs == ("x",)
    assert "'Unnamed: 0' counts the rows, and is left out" in caplog.text


def test_blanks_are_stripped() -> None:
    assert read("10_trailing_blank.csv", "site", "ill").names == ("A", "B")


def test_decimals_are_numbers() -> None:
    tasks = read("15_decimal.parquet", "site", "y")
    assert tasks.classes is None
    assert tasks.y[:3].tolist() == [0, 0.25, 0.5]


def test_outputs_known_in_part_are_used_where_they_are_known() -> None:
    tasks = read("14_partial_outputs.csv", "site", ["y1", "y2"])
    assert tasks.columns is not None
    assert "Of 40 rows 40 have some of the targets and not all" in " ".join(tasks.columns.notes)
    assert tasks.labelled.all()
    assert tasks.known.sum(-1).eq(1).all()
    predictions = pv.fit(tasks, log_warnings=False).predict(tasks)
    away = (predictions.mean - tasks.y)[tasks.known]
    assert float(away.std()) < float(tasks.y[tasks.known].std())


def test_noise_of_small_tasks_is_pooled() -> None:
    splits = pv.split_table(CASES / "50_few_rows.csv", task="site", target="y", part="part")
    predictions = pv.fit(splits.train, log_warnings=False).predict(splits.test)
    small = splits.test.task < 4
    away = (splits.test.y - predictions.mean)[small] / predictions.total[small].sqrt()
    assert 0.8 < float(away.square().mean().sqrt()) < 1.2


def test_a_target_in_its_own_unit() -> None:
    splits = pv.split_table(CASES / "53_ph.csv", task="ward", target="pH", validation=0, test=0.4)
    predictions = pv.fit(splits.train, log_warnings=False).predict(splits.test)
    rmse = (predictions.mean - splits.test.y).square().mean().sqrt()
    assert float(rmse / splits.test.y.std()) < 0.7


class TestClinics:
    def test_fit_without_a_setting(self, caplog: pytest.LogCaptureFixture) -> None:
        table = pd.read_csv(CASES / "clinics.csv")
        differences = []
        for seed in range(3):
            splits = pv.split_table(
                table, task="clinic", target="ill", validation=0, test=0.4, seed=seed
            )
            predictions = pv.fit(splits.train, log_warnings=False).predict(splits.test)
            chance = splits.train.y[splits.train.labelled].double().mean()
            known = splits.test.labelled
            y = splits.test.y[known].double()
            base = float((y * chance.log() + (1 - y) * (1 - chance).log()).mean())
            differences.append(float(predictions.log_density[known].mean()) - base)
        assert np.mean(differences) > 0.05  # nats a row better than the base rate
        assert "called like an outcome and taken as a feature: 'stay'" in caplog.text

    def test_new_clinics_are_read(self) -> None:
        table = pd.read_csv(CASES / "clinics.csv")
        old, new = table[table["clinic"] != "Centre"], table[table["clinic"] == "Centre"]
        train = pv.read_table(old, task="clinic", target="ill", leave_out=["stay"])
        with pytest.raises(InputError, match="is of the task 'Centre'; expected one of"):
            pv.read_rows(new, like=train)
        tasks = pv.read_rows(new, like=train, new_tasks=True)
        assert tasks.names == (*train.names, "Centre")
        assert set(tasks.task.tolist()) == {4}
