"""Tables: what becomes task, target and feature, and the sentence for each that will not do."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_vmtl.data import (
    TableColumns,
    TaskSet,
    TaskSplits,
    read_rows,
    read_table,
    split_table,
)
from pyro_vmtl.errors import InputError

ROWS = """school,hours,age,grade
north,1.5,10,good
007,2,11,bad
north,3,12,
007,4.25,13,good
"""


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(ROWS)
    return path


def read(path: object, **options: object) -> TaskSet:
    return read_table(path, **{"task": "school", "target": "grade", **options})  # type: ignore[arg-type]


def standard(x: list[list[float]]) -> torch.Tensor:
    values = torch.tensor(x).double()
    return ((values - values.mean(0)) / values.std(0, correction=0)).float()


def write(path: Path, frame: pd.DataFrame) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


both = pytest.mark.parametrize("suffix", [".csv", ".parquet"])


class TestWhatIsRead:
    def test_classes_tasks_and_features(self, csv: Path) -> None:
        tasks = read(csv)
        assert tasks.names == ("north", "007")  # in the order of their rows, and as they stand
        assert tasks.classes == ("bad", "good")
        assert tasks.columns is not None
        assert tasks.columns.inputs == ("hours", "age")
        expected = standard([[1.5, 10], [2, 11], [3, 12], [4.25, 13]])
        torch.testing.assert_close(tasks.x, expected)
        assert tasks.y.tolist() == [1, 0, -1, 1]
        assert tasks.task.tolist() == [0, 1, 0, 1]

    def test_features_and_classes_by_name(self, csv: Path) -> None:
        tasks = read(csv, features=["age"], classes=["good", "bad", "best"])
        torch.testing.assert_close(tasks.x, standard([[10], [11], [12], [13]]))
        assert tasks.y.tolist() == [0, 1, -1, 0]
        assert read(csv, features="hours").input_shape == (1,)

    def test_regression(self, csv: Path) -> None:
        tasks = read(csv, target="hours", features=["age"])
        assert tasks.classes is None
        assert tasks.outputs == ("hours",)
        assert tasks.y.tolist() == [1.5, 2, 3, 4.25]
        whole = read(csv, target="age", features=["hours"], regression=True)
        assert whole.outputs == ("age",)
        assert whole.y.tolist() == [10, 11, 12, 13]

    @both
    def test_several_outputs(self, tmp_path: Path, suffix: str) -> None:
        frame = pd.DataFrame(
            {"school": ["a", "b", "a"], "f": [1, 2, 3], "u": [1, 2, 3], "v": [0.5, None, 1.5]}
        )
        tasks = read(write(tmp_path / f"t{suffix}", frame), target=["u", "v"])
        assert tasks.outputs == ("u", "v")
        assert tasks.y[::2].tolist() == [[1, 0.5], [3, 1.5]]
        assert tasks.known.tolist() == [[True, True], [True, False], [True, True]]

    @both
    def test_whole_numbers_beside_gaps_stay_classes(self, tmp_path: Path, suffix: str) -> None:
        frame = pd.DataFrame(
            {
                "school": ["a"] * 4,
                "f": [0.5, 1, 2, 3],
                "grade": pd.array([3, None, 1, 3], dtype="Int64"),
            }
        )
        tasks = read(write(tmp_path / f"t{suffix}", frame))
        assert tasks.classes == ("1", "3")
        assert tasks.y.tolist() == [1, -1, 0, 1]

    @both
    def test_truth_values(self, tmp_path: Path, suffix: str) -> None:
        frame = pd.DataFrame(
            {"school": ["a"] * 3, "f": [True, False, True], "grade": [True, False, True]}
        )
        tasks = read(write(tmp_path / f"t{suffix}", frame))
        assert tasks.classes == ("False", "True")
        assert tasks.y.tolist() == [1, 0, 1]
        torch.testing.assert_close(tasks.x.flatten(), torch.tensor([2 / 3, -4 / 3, 2 / 3]))

    def test_a_task_without_labels(self, csv: Path) -> None:
        csv.write_text(ROWS.replace(",bad", ",").replace("4.25,13,good", "4.25,13,"))
        tasks = read(csv, classes=["bad", "good"])
        assert tasks.sizes.tolist() == [1, 0]

    def test_numbers_as_names_of_tasks_and_columns(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"school": [2, 1, 2], 0: [1, 2, 3], "grade": ["x", "y", "y"]})
        frame.columns = frame.columns.astype(str)
        for suffix in (".csv", ".parquet"):
            tasks = read(write(tmp_path / f"t{suffix}", frame), features=["0"])
            assert tasks.names == ("2", "1")

    def test_other_text_files(self, csv: Path) -> None:
        tab = csv.with_suffix(".tsv")
        tab.write_text(ROWS.replace(",", "\t"))
        semicolons = csv.with_name("s.csv")
        semicolons.write_text(ROWS.replace(",", ";"))
        marked = csv.with_name("m.csv")
        marked.write_text(ROWS, encoding="utf-8-sig")
        packed = csv.with_name("p.csv.gz")
        packed.write_bytes(gzip.compress(ROWS.encode()))
        expected = read(csv)
        for tasks in (read(tab), read(semicolons, separator=";"), read(marked), read(packed)):
            assert tasks.x.equal(expected.x)
            assert tasks.names == expected.names


class TestTrouble:
    @pytest.mark.parametrize(
        "options", [{"task": "scool"}, {"target": "scool"}, {"features": ["age", "scool"]}]
    )
    def test_a_column_that_is_not_there(self, csv: Path, options: dict[str, object]) -> None:
        said = "no column 'scool' in .* expected one of 'school', 'hours', 'age', 'grade'"
        with pytest.raises(InputError, match=said):
            read(csv, **options)

    @pytest.mark.parametrize("mark", [";", "\t", "|"])
    def test_another_separator_is_guessed_at(self, csv: Path, mark: str) -> None:
        csv.write_text(ROWS.replace(",", mark))
        with pytest.raises(InputError, match=f"or separator={re.escape(repr(mark))}"):
            read(csv)

    def test_a_column_used_twice(self, csv: Path) -> None:
        with pytest.raises(InputError, match="column 'grade' is used twice"):
            read(csv, features=["age", "grade"])
        with pytest.raises(InputError, match="no column of features"):
            read(csv, target=["hours", "age", "grade"])
        with pytest.raises(InputError, match="no target"):
            read(csv, target=[])

    @pytest.mark.parametrize(
        ("value", "said"),
        [("tall", "'tall'"), ("inf", "'inf'"), ("2020-01-01", "'2020-01-01'")],
    )
    def test_a_feature_that_is_no_number(self, csv: Path, value: str, said: str) -> None:
        csv.write_text(ROWS.replace("3,12", f"3,{value}"))
        with pytest.raises(
            InputError, match=f"row 3 below the header of .* has {said} in .* 'age'"
        ):
            read(csv)

    def test_a_row_without_a_task(self, csv: Path) -> None:
        csv.write_text(ROWS.replace("007,2", ",2"))
        with pytest.raises(InputError, match=r"row 2 below .* no value in the column 'school'"):
            read(csv)

    def test_a_target_that_is_no_number(self, csv: Path) -> None:
        with pytest.raises(InputError, match="'good' in the column 'grade'; expected a finite num"):
            read(csv, regression=True)

    def test_files_that_are_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist"):
            read(tmp_path / "absent.csv")
        with pytest.raises(InputError, match="is a folder"):
            read(tmp_path)

    def test_files_that_are_not_what_they_say(self, csv: Path, tmp_path: Path) -> None:
        text = tmp_path / "text.parquet"
        text.write_text(ROWS)
        with pytest.raises(InputError, match="named as Parquet and is not"):
            read(text)
        table = tmp_path / "table.parquet"
        pd.read_csv(csv).to_parquet(table)
        renamed = tmp_path / "parquet.csv"
        renamed.write_bytes(table.read_bytes())
        with pytest.raises(InputError, match="named as text and is Parquet"):
            read(renamed)
        table.write_bytes(table.read_bytes()[:-40])
        with pytest.raises(InputError, match=r"cannot be read .* expected Parquet"):
            read(table)
        for content in (b"", b'a,b\n1,2\n3,4,5,6\n"'):
            csv.write_bytes(content)
            with pytest.raises(InputError, match=r"cannot be read .* expected text"):
                read(csv)
        csv.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff\xfe")
        with pytest.raises(
            InputError, match=r"cannot be read as UTF-8 .* such as encoding='latin-1'"
        ):
            read(csv)

    def test_a_header_alone(self, csv: Path) -> None:
        csv.write_text("school,hours,age,grade\n")
        with pytest.raises(InputError, match="has no row"):
            read(csv)

    def test_a_name_that_two_columns_have(self) -> None:
        frame = pd.DataFrame([["a", 1, 2, "x"]], columns=["school", "f", "f", "grade"])
        with pytest.raises(InputError, match="the DataFrame has two columns 'f'"):
            read(frame)

    def test_what_is_no_table(self) -> None:
        with pytest.raises(InputError, match="the table is a dict; expected the path"):
            read({"school": ["a"]})


def table(rows: int = 40, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "clinic": generator.choice(["north", "south", "007"], rows),
            "age": generator.normal(60, 10, rows),
            "year": generator.integers(1990, 2020, rows),
            "ill": generator.choice(["no", "yes"], rows),
            "stay": generator.normal(size=rows),
            "cost": generator.normal(size=rows),
        }
    )


FEATURES = ["age", "year"]


def parted(frame: pd.DataFrame, target: str | list[str] = "ill") -> TaskSplits:
    return split_table(frame, "clinic", target, features=FEATURES)


class TestFrames:
    def test_a_frame_is_read_as_its_file_is(self, csv: Path) -> None:
        frame = pd.read_csv(csv, dtype={"school": str})
        tasks, expected = read(frame), read(csv)
        assert tasks.names == expected.names
        assert tasks.classes == expected.classes
        assert tasks.x.equal(expected.x)
        assert tasks.y.equal(expected.y)
        assert tasks.columns == expected.columns

    def test_a_frame_is_left_as_it_is(self) -> None:
        frame = table().rename(columns={"age": 5})
        before = frame.copy()
        split_table(frame, "clinic", "ill", features=["5", "year"])
        pd.testing.assert_frame_equal(frame, before)


class TestNewRows:
    @pytest.mark.parametrize("target", ["ill", "stay", ["stay", "cost"]])
    def test_old_rows_are_read_as_they_were(self, target: str | list[str]) -> None:
        frame = table()
        frame["row"] = range(len(frame))
        splits = split_table(frame, "clinic", target, features=[*FEATURES, "row"])
        tasks = read_rows(frame, like=splits.train)
        assert tasks.names == splits.train.names
        assert tasks.classes == splits.train.classes
        assert tasks.outputs == splits.train.outputs
        assert tasks.columns == splits.train.columns
        for part in splits:
            for x, y, task in zip(part.x, part.y, part.task, strict=True):
                (row,) = (tasks.x[:, -1] == x[-1]).nonzero().flatten().tolist()
                assert tasks.x[row].equal(x)
                assert tasks.y[row].equal(y)
                assert tasks.task[row] == task

    @given(order=st.permutations(range(12)), kept=st.integers(1, 12))
    def test_samples_have_the_order_of_the_rows(self, order: list[int], kept: int) -> None:
        frame = table(12)
        splits = parted(table())
        shuffled = frame.iloc[order[:kept]]
        whole, some = (read_rows(rows, like=splits.train) for rows in (frame, shuffled))
        index = torch.tensor(order[:kept])
        assert some.x.equal(whole.x[index])
        assert some.y.equal(whole.y[index])
        assert some.task.equal(whole.task[index])
        names = [splits.train.names[t] for t in some.task.tolist()]
        assert names == shuffled["clinic"].tolist()

    @pytest.mark.parametrize("target", ["ill", "stay", ["stay", "cost"]])
    def test_targets_may_be_missing(self, target: str | list[str]) -> None:
        splits = parted(table(), target)
        rows = table(5)
        targets = [target] if isinstance(target, str) else target
        absent = read_rows(rows.drop(columns=targets), like=splits.train)
        assert not absent.labelled.any()
        assert absent.y.dtype == splits.train.y.dtype
        assert absent.y.shape[1:] == splits.train.y.shape[1:]
        some = read_rows(rows.assign(**{targets[0]: [*rows[targets[0]][:4], None]}), splits.train)
        assert some.known[:, 0].tolist() == [True] * 4 + [False]

    def test_columns_are_found_by_name_in_files_too(self, tmp_path: Path) -> None:
        splits = parted(table())
        rows = table(6, seed=1)
        expected = read_rows(rows, like=splits.train)
        turned = rows[rows.columns[::-1]].assign(more="text")
        for name in ("rows.csv", "rows.parquet"):
            tasks = read_rows(write(tmp_path / name, turned), like=splits.test)
            assert torch.allclose(tasks.x, expected.x, atol=1e-5)
            assert tasks.task.equal(expected.task)  # 007 is no number
            assert tasks.y.equal(expected.y)

    def test_classes_are_those_of_training(self) -> None:
        splits = parted(table())
        rows = table(4).assign(ill="yes")
        assert set(read_rows(rows, like=splits.train).y.tolist()) == {1}
        with pytest.raises(InputError, match="'perhaps'; expected one of 'no', 'yes'"):
            read_rows(rows.assign(ill="perhaps"), like=splits.train)

    def test_whole_numbers_of_a_frame_with_gaps_are_still_classes(self) -> None:
        frame = table().assign(ill=np.arange(40) % 3)
        splits = parted(frame)
        rows = frame.head(4).assign(ill=[2.0, np.nan, 0.0, 1.0])
        assert read_rows(rows, like=splits.train).y.tolist() == [2, -1, 0, 1]

    def test_rows_that_will_not_do(self) -> None:
        train = parted(table(), ["stay", "cost"]).train
        rows = table(3)
        for changed, said in (
            (rows.drop(columns="age"), "no column 'age' in the DataFrame"),
            (rows.drop(columns="clinic"), "no column 'clinic'"),
            (rows.drop(columns="cost"), "no column 'cost'"),
            (
                rows.assign(clinic="east"),
                r"row 1 .* is of the task 'east'; expected one of .*'007'",
            ),
            (rows.assign(age="old"), "row 1 .* has 'old' in the column 'age'; expected a finite"),
            (rows.head(0), "the DataFrame has no row"),
        ):
            with pytest.raises(InputError, match=said):
                read_rows(changed, like=train)

    def test_what_it_cannot_be_like(self) -> None:
        rows = table(3)
        for thing in (rows, None, "model"):
            said = f"like is a {type(thing).__name__}; expected a fitted model, or a task set"
            with pytest.raises(InputError, match=said):
                read_rows(rows, like=thing)  # type: ignore[arg-type]
        tasks = TaskSet.from_arrays({"a": ([[1.0], [2.0]], ["x", "y"])})
        with pytest.raises(InputError, match="does not say which columns"):
            read_rows(rows, like=tasks)


class TestColumns:
    def test_they_come_back_from_json(self) -> None:
        for columns in (
            parted(table()).train.columns,
            read_table(table(), "clinic", ["stay", "cost"], features=FEATURES).columns,
        ):
            assert columns is not None
            plain = json.loads(json.dumps(columns.to_plain()))
            assert TableColumns.from_plain(plain) == columns

    @pytest.mark.parametrize(
        "change",
        [
            {"features": []},
            {"features": None},
            {"features": [{"name": "age"}]},
            {"inputs": []},
            {"inputs": ["height"]},
            {"targets": []},
            {"targets": None},
            {"targets": ["clinic"]},
            {"task": "clinic"},
            {"notation": {"decimal": "x", "thousands": None, "missing": []}},
            {"gaps": 1},
            {"more": 1},
        ],
    )
    def test_what_does_not_fit_is_refused(self, change: dict[str, object]) -> None:
        columns = parted(table()).train.columns
        assert columns is not None
        plain = json.loads(json.dumps(columns.to_plain()))
        with pytest.raises(InputError):
            TableColumns.from_plain(plain | change)
        with pytest.raises(InputError):
            TableColumns.from_plain(list(plain))

    def test_they_fit_the_task_set(self) -> None:
        train = parted(table()).train
        with pytest.raises(InputError, match=r"inputs have shape \[1\] .* become 2 inputs"):
            replace(train, x=train.x[:, :1])
        assert replace(train, x=train.x[:, :1], columns=None).input_shape == (1,)
        two = read_table(table(), "clinic", ["stay", "cost"], features=FEATURES)
        with pytest.raises(InputError, match=r"\['stay', 'cost'\]; expected 1"):
            replace(two, y=two.y[:, 0], outputs=("stay",))

    def test_parts_of_a_task_set_keep_them(self) -> None:
        train = parted(table()).train
        for part in (train.subset(torch.tensor([0])), train.select(["007"]), train.to("cpu")):
            assert part.columns == train.columns
