"""The command that ranks priors."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pyro_vmtl.rank import main
from tests.runs.conftest import SMALL

Rank = Callable[..., Path]
OPTIONS = [override for override in SMALL if not override.startswith("num_samples")]


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rank:
    """Run the command in an empty folder; the path of its CSV is returned."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Path:
        monkeypatch.setattr("sys.argv", ["pyro_vmtl.rank", *arguments])
        main()
        return tmp_path / "ranking.csv"

    return run


def test_ranks_every_prior_that_is_named(
    rank: Rank, clusters: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    pools = ["standard", "mixture", "power"]
    path = rank(
        *clusters, *OPTIONS, f"pools=[{','.join(pools)}]", "draws=50", "out=ranking.csv", "seed=3"
    )
    table = pd.read_csv(path)
    whole = table[table["task"] == "all tasks"]
    assert sorted(whole["fit"]) == sorted(pools)
    assert list(whole["rank"]) == [1, 2, 3]
    assert whole["log_density"].is_monotonic_decreasing
    assert set(whole["samples"]) == {48}  # validation, not the 80 of the test part
    assert {"loo", "pareto_k", "loo_unavailable"} <= set(table)
    shown = capsys.readouterr().out
    for word in (*pools, "density", "sample", "difference", "± s.e.", "LOO"):
        assert word in shown
    assert "No LOO of mixture: tasks lend each other their posteriors" in shown
    assert "No LOO of standard: tasks lend" not in shown


def test_ranks_weights_in_closed_form_by_loo_as_well(
    rank: Rank, clusters: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rank(*clusters, *OPTIONS, "model.classifier=null", "draws=200", "out=ranking.csv")
    table = pd.read_csv("ranking.csv")
    whole = table[table["task"] == "all tasks"].set_index("fit")
    assert set(whole.index) == {"standard", "mixture", "power", "nested"}, "what help says"
    # The draws of every weight under the exact posterior: each sample can be taken out.
    assert whole.loc["nested", "loo"] < 0
    assert "tasks lend each other their posteriors" not in capsys.readouterr().out


def test_ranks_on_test_data_when_asked(rank: Rank, clusters: tuple[str, ...]) -> None:
    path = rank(
        *clusters, *OPTIONS, "pools=standard", "heldout=test", "draws=50", "out=ranking.csv"
    )
    assert set(pd.read_csv(path)["samples"]) == {80, 20}


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("pools=[nowhere]", "there is no pool 'nowhere'; expected one of feedback, geometric"),
        ("pools=[mixture+recursive]", "there is no pool 'mixture+recursive'; expected one of"),
        ("lenders=recursive", "there is no setting lenders"),
        ("pools=[nested]", "the classifier is 'mean_field' and the pool Nested"),
        ("pools=[]", "no prior to rank"),
        ("heldout=train", "heldout is 'train'; expected 'validation' or 'test'"),
        ("draws=many", "draws is 'many'"),
        ("draws=0", "draws is 0; expected a whole number of at least 1"),
        ("out=nowhere/ranking.csv", "in a folder that does not exist"),
        ("pool=power", "pool=power chooses one prior; expected pools=[...]"),
        ("recipe=hierarchical", "recipe=hierarchical chooses one prior; expected pools=[...]"),
        ("data.samples=-1", "samples is -1"),
        ("nothing=1", "there is no setting nothing (nothing=1); expected one of data"),
        ("data.smaples=3", "there is no setting data.smaples (data.smaples=3); expected data.samp"),
        ("trainer.devices=2", "trainer.devices is 2 in a ranking"),
        ("data.validation_samples=0", "the validation part has no labelled sample"),
    ],
)
def test_what_cannot_be_used_is_said(
    rank: Rank,
    clusters: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    argument: str,
    sentence: str,
) -> None:
    start = ["pools=[standard]"] if not argument.startswith("pools") else []
    with pytest.raises(SystemExit) as exit_:
        rank(*clusters, *OPTIONS, *start, argument)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("Error: ")
    assert error.count("\n") == 1


def test_help_explains(rank: Rank, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        rank("--help")
    assert not exit_.value.code
    text = capsys.readouterr().out
    for word in ("pools=", "heldout=", "draws=", "out=", "pyro_vmtl.train"):
        assert word in text
