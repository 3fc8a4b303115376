"""``python -m pyro_vmtl group``: from the influences of a run to groups of its tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

Command = Callable[..., int]
NAMES = ("NA", "1", "b c", "d")


def written(folder: Path) -> None:
    """NA and d gain from each other, and so do 1 and b c."""
    rows = [
        ("alone", one, other, 30, 0.1 if {one, other} in ({"NA", "d"}, {"1", "b c"}) else -0.1)
        for one in NAMES
        for other in NAMES
        if one != other
    ]
    table = pd.DataFrame(rows, columns=["kind", "borrower", "lender", "samples", "gain"])
    folder.mkdir()
    table.assign(se=0.1, low=np.nan, high=np.nan).to_csv(folder / "influence.csv", index=False)


def test_groups_are_printed_and_written(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "run")
    assert command("group", "run", "--groups", "2", "--out", "groups.csv") == 0
    said = capsys.readouterr().out
    assert "NA, d" in said
    assert "1, b c" in said
    assert "Sum +0.200 nats a sample, the best there is." in said
    table = pd.read_csv("groups.csv", keep_default_na=False, dtype=str)
    group = dict(zip(table["task"], table["group"], strict=True))
    assert group["NA"] == group["d"] != group["1"] == group["b c"]
    assert command("group", "run", "--max-size", "1") == 0
    assert "Sum +0.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("elsewhere",), "influence.csv is missing; expected a finished run"),
        (("run", "--groups", "5"), "groups is 5 for 4 tasks"),
        (("run", "--groups", "1", "--max-size", "2"), "were not put into 1 groups"),
        (("broken",), "cannot be read"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    written(tmp_path / "run")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "influence.csv").write_text("a,b\n1,2\n")
    assert command("group", *arguments) == 2
    error = capsys.readouterr().err
    assert said in " ".join(error.split())
    assert "Traceback" not in error
