"""Tables: what becomes task, target and feature, and the sentence for each that will not do."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pandas as pd
import pytest

from pyro_vmtl.data import TaskSet, read_table
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


def read(path: Path, **options: object) -> TaskSet:
    return read_table(path, **{"task": "school", "target": "grade", **options})  # type: ignore[arg-type]


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
        assert tasks.x.tolist() == [[1.5, 10], [3, 12], [2, 11], [4.25, 13]]
        assert tasks.y.tolist() == [1, -1, 0, 1]

    def test_features_and_classes_by_name(self, csv: Path) -> None:
        tasks = read(csv, features=["age"], classes=["good", "bad", "best"])
        assert tasks.x.tolist() == [[10], [12], [11], [13]]
        assert tasks.y.tolist() == [0, -1, 1, 0]
        assert read(csv, features="hours").input_shape == (1,)

    def test_regression(self, csv: Path) -> None:
        tasks = read(csv, target="hours", features=["age"])
        assert tasks.classes is None
        assert tasks.outputs == ("hours",)
        assert tasks.y.tolist() == [1.5, 3, 2, 4.25]
        whole = read(csv, target="age", features=["hours"], regression=True)
        assert whole.outputs == ("age",)
        assert whole.y.tolist() == [10, 12, 11, 13]

    @both
    def test_several_outputs(self, tmp_path: Path, suffix: str) -> None:
        frame = pd.DataFrame(
            {"school": ["a", "b", "a"], "f": [1, 2, 3], "u": [1, 2, 3], "v": [0.5, None, 1.5]}
        )
        tasks = read(write(tmp_path / f"t{suffix}", frame), target=["u", "v"])
        assert tasks.outputs == ("u", "v")
        assert tasks.y[:2].tolist() == [[1, 0.5], [3, 1.5]]
        assert tasks.labelled.tolist() == [True, True, False]

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
        assert tasks.x.flatten().tolist() == [1, 0, 1]

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
        [("tall", "'tall'"), ("", "no value"), ("inf", "'inf'"), ("2020-01-01", "'2020-01-01'")],
    )
    def test_a_feature_that_is_no_number(self, csv: Path, value: str, said: str) -> None:
        csv.write_text(ROWS.replace("3,12", f"3,{value}"))
        with pytest.raises(
            InputError, match=f"row 3 below the header of .* has {said} in .* 'age'"
        ):
            read(csv)

    def test_a_date_is_no_number(self, tmp_path: Path) -> None:
        frame = pd.DataFrame(
            {
                "school": ["a", "b"],
                "day": pd.to_datetime(["2020-01-01", "2020-01-02"]),
                "grade": ["x", "y"],
            }
        )
        with pytest.raises(InputError, match=r"row 1 .* in the column 'day'"):
            read(write(tmp_path / "t.parquet", frame))

    def test_a_row_without_a_task(self, csv: Path) -> None:
        csv.write_text(ROWS.replace("007,2", ",2"))
        with pytest.raises(InputError, match=r"row 2 below .* no value in the column 'school'"):
            read(csv)

    def test_a_target_that_is_no_number(self, csv: Path) -> None:
        with pytest.raises(InputError, match="expected a number for regression"):
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
        for content in (b"", b"\x89PNG\r\n\x1a\n\x00\xff\xfe", b'a,b\n1,2\n3,4,5,6\n"'):
            csv.write_bytes(content)
            with pytest.raises(InputError, match=r"cannot be read .* expected text"):
                read(csv)

    def test_a_header_alone(self, csv: Path) -> None:
        csv.write_text("school,hours,age,grade\n")
        with pytest.raises(InputError, match="has no row"):
            read(csv)
