"""What a person may hand in by mistake, and the one sentence that answers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

Train = Callable[..., Path]


def _frame() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = 60
    return pd.DataFrame(
        {
            "clinic": np.repeat(["north", "south", "west"], rows // 3),
            "age": generator.normal(size=rows),
            "dose": generator.normal(size=rows),
            "ill": np.tile(["no", "yes"], rows // 2),
        }
    )


def _nan(frame: pd.DataFrame) -> None:
    frame.loc[5, "dose"] = np.nan


def _infinite(frame: pd.DataFrame) -> None:
    frame.loc[5, "dose"] = np.inf


def _no_label_in_a_task(frame: pd.DataFrame) -> None:
    frame.loc[frame["clinic"] == "south", "ill"] = None


def _one_class(frame: pd.DataFrame) -> None:
    frame["ill"] = "no"


def _text(frame: pd.DataFrame) -> None:
    frame["dose"] = frame["dose"].astype(object)
    frame.loc[7, "dose"] = "much"


COLUMNS = ("task=clinic", "target=ill")


@pytest.mark.parametrize(
    ("spoil", "columns", "words"),
    [
        (_nan, (*COLUMNS, "gaps=refuse"), ["dose", "row"]),
        (_infinite, COLUMNS, ["dose", "row"]),
        (_text, COLUMNS, ["dose", "much"]),
        (_no_label_in_a_task, COLUMNS, ["south"]),
        (_one_class, COLUMNS, ["class"]),
        (lambda frame: None, ("task=town", "target=ill"), ["town"]),
        (lambda frame: None, (*COLUMNS, "classes=[no,perhaps]"), ["yes"]),
        (lambda frame: None, (*COLUMNS, "classes=[no,yes,maybe]"), ["maybe"]),
    ],
)
def test_a_table_that_will_not_do(
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[pd.DataFrame], None],
    columns: tuple[str, ...],
    words: list[str],
) -> None:
    frame = _frame()
    spoil(frame)
    path = tmp_path / "clinics.csv"
    frame.to_csv(path, index=False)
    with pytest.raises(SystemExit) as exit_:
        train("data=table", f"data.path={path}", *(f"data.{column}" for column in columns))
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert error.count("\n") == 1, error
    assert "Traceback" not in error


def test_a_file_that_is_not_what_it_says(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clinics.parquet"
    path.write_text("not a table")
    with pytest.raises(SystemExit) as exit_:
        train("data=table", f"data.path={path}", *(f"data.{column}" for column in COLUMNS))
    assert exit_.value.code == 2
    assert "clinics.parquet" in capsys.readouterr().err


def test_a_good_table_trains_and_names_are_the_users_own(train: Train, tmp_path: Path) -> None:
    path = tmp_path / "clinics.csv"
    _frame().to_csv(path, index=False)
    run = train("data=table", f"data.path={path}", *(f"data.{column}" for column in COLUMNS))
    predictions = pd.read_parquet(run / "predictions.parquet")
    assert set(predictions["task"]) == {"north", "south", "west"}
    assert set(predictions["prediction"]) <= {"no", "yes"}
    relatedness = pd.read_csv(run / "relatedness.csv")
    assert set(relatedness["other"]) == {"north", "south", "west"}


def test_of_three_classes_each_has_weights(train: Train, tmp_path: Path) -> None:
    """Where the model has weights of two contrasts."""
    frame = _frame()
    frame["stage"] = np.tile(["one", "two", "three"], len(frame) // 3)
    path = tmp_path / "clinics.csv"
    frame.drop(columns="ill").to_csv(path, index=False)
    run = train("data=table", f"data.path={path}", "data.task=clinic", "data.target=stage")
    with xr.open_dataset(run / "inference_data.nc", group="posterior", engine="h5netcdf") as draws:
        assert draws["class"].values.tolist() == ["one", "three", "two"]
        assert draws["weights"].sizes["class"] == 3
        np.testing.assert_allclose(draws["weights"].sum("class"), 0, atol=1e-5)
