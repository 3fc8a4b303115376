"""The report says what the files of a run say, loads nothing, and answers in a browser."""

import base64
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyro_vmtl import InputError
from pyro_vmtl.inspection import calibration_table, independence
from pyro_vmtl.report import main
from pyro_vmtl.runs import write_report
from pyro_vmtl.runs.doubts import check
from pyro_vmtl.runs.finished import read_run
from pyro_vmtl.runs.report_tables import written

Train = Callable[..., Path]

NASTY = ('<script>alert("x")</script>', 'a & b\'s "task"', "NA", "{{ 7 * 7 }}")
CLOSED_FORM = ("model.classifier=conjugate",)
VOID = {"img", "meta", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """The rows of every table, the attributes of every element, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[tuple[str, float | None]]]] = {}
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self._rows: list[list[tuple[str, float | None]]] | None = None
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table" and found.get("id"):
            self._rows = self.tables.setdefault(str(found["id"]), [])
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th") and self._rows:
            value = found.get("data-value")
            text = found.get("data-text") or ""
            self._rows[-1].append((text, None if value is None else float(value)))
        elif tag == "script":
            self.scripts.append((found, ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()
        if tag == "table":
            self._rows = None

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def rows(self, table: str) -> dict[str, list[tuple[str, float | None]]]:
        """The rows of a table, without its head, by the text of their first cells."""
        return {row[0][0]: row[1:] for row in self.tables[table] if row and row[0][0]}

    def numbers(self, table: str, row: str) -> list[float | None]:
        return [value for _, value in self.rows(table)[row]]


def page_of(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def check_against_files(run: Path) -> Page:
    """Every number of the report against the files of the run."""
    page = page_of(run)
    metrics = json.loads((run / "metrics.json").read_text())
    for task, scores in metrics["test"].items():
        row = page.rows("table-scores")["mean over tasks" if task == "mean" else task]
        assert [value for _, value in row[1:]] == list(scores.values())
        assert [text for text, _ in row[1:]] == [written(value) for value in scores.values()]
    frame = pd.read_parquet(run / "predictions.parquet")
    sizes = frame["task"].value_counts()
    assert {t: page.numbers("table-scores", t)[0] for t in sizes.index} == sizes.to_dict()

    finished = read_run(run)
    if finished.is_classification:
        table = calibration_table(finished.predictions)
        for task, expected in table.iterrows():
            keys = ("samples", "accuracy", "confidence", "ece", "ece_low", "ece_high")
            row_shown = page.numbers("table-calibration", str(task))[:6]
            assert row_shown == pytest.approx([expected[key] for key in keys])
        right = (frame["target"] == frame["prediction"]).mean()
        assert page.numbers("table-calibration", "all tasks")[1] == pytest.approx(right)
    else:
        for task in finished.names:
            stated = page.numbers("table-calibration", task)[1]
            assert stated == metrics["test"][task]["coverage_90"]
    for task, rows in frame.groupby("task"):
        parts = page.numbers("table-uncertainty", str(task))[1:4]
        means = [rows[kind].astype(float).mean() for kind in ("total", "aleatoric", "epistemic")]
        assert parts == pytest.approx(means, rel=1e-4)

    check_relatedness(page, run)
    for name, value in metrics["versions"].items():
        assert name in page.text
        assert value in page.text
    history = pd.read_csv(run / "metrics.csv")
    kept = history.loc[history["validation_nll"].idxmin()]
    attributes = [found for _, found in page.elements]
    assert {"data-kept": f"{kept['epoch']:.0f}"} in attributes
    (elbo,) = (float(str(found["data-elbo"])) for found in attributes if "data-elbo" in found)
    assert elbo == pytest.approx(kept["elbo"])
    for tile in ("nll", "accuracy" if finished.is_classification else "nmse"):
        assert any(found.get("data-mean") == tile for found in attributes)
        assert written(metrics["test"]["mean"][tile]) in page.text
    return page


def check_relatedness(page: Page, run: Path) -> None:
    table = pd.read_csv(run / "relatedness.csv", keep_default_na=False, na_values=[""])
    data = [json.loads(text) for found, text in page.scripts if found.get("class") == "numbers"]
    assert len(data) == table["site"].nunique()
    pairs = 0
    for shown, (site, rows) in zip(data, table.groupby("site", sort=False), strict=True):
        lookup = rows.set_index(["task", "other"])
        for task, line in zip(shown["tasks"], shown["cells"], strict=True):
            for other, cell in zip(shown["others"], line, strict=True):
                assert (cell is None) == (task == other)
                if cell is None:
                    continue
                pairs += 1
                row = lookup.loc[(task, other)]
                for name, value in zip(shown["values"], cell, strict=True):
                    expected = row[name]
                    assert value is None if pd.isna(expected) else value == pytest.approx(expected)
        alone = independence(read_run(run).relatedness, str(site))
        for task, cells in page.rows(f"table-borrowing-{site}").items():
            closest = lookup.loc[(task, cells[0][0])]
            assert closest["probability"] == lookup.loc[task]["probability"].max()
            assert cells[1][1] == closest["probability"]
            if math.isnan(alone[task]):
                assert cells[-1] == ("–", None)
            else:
                assert cells[-1][1] == pytest.approx(alone[task])
    assert pairs == len(table)


def check_self_contained(run: Path, page: Page) -> None:
    assert (run / "report.html").stat().st_size < 5_000_000
    assert not list(run.glob(".report*")), "a draft was left behind"
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "srcset", "data", "action", "poster", "background", "xlink:href"):
            source = attributes.get(name)
            assert source is None or source.startswith("data:image/"), f"<{tag} {name}={source}>"
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")], "an inline handler"
    style = (run / "report.html").read_text().split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


# Real runs


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("pool=mixture", "pool.base=true"), "counted again and again"),
        ((*CLOSED_FORM, "pool=power"), "gate between them is open"),
        ((*CLOSED_FORM, "pool=nested", "model=mlp"), "share a hidden cluster"),
        (("data.kind=regression", "model=mlp", "pool=geometric"), "90% intervals"),
        (
            ("data.num_tasks=1", "data.num_clusters=1", "pool=mixture", "baselines=false"),
            "only one task, so there is nobody to borrow from",
        ),
    ],
)
def test_training_ends_with_a_report_that_says_what_the_files_say(
    train: Train, clusters: tuple[str, ...], overrides: tuple[str, ...], words: str
) -> None:
    run = train(*clusters, *overrides, report=True)
    page = check_against_files(run)
    check_self_contained(run, page)
    assert words in page.text
    formed = [found for _, found in page.elements if "over epochs" in str(found.get("alt"))]
    assert any("pairs of tasks" in str(found["alt"]) for found in formed) == bool(
        read_run(run).sites
    )
    assert "recipe default" in page.text
    # The folder as it was given, from where the command ran.
    assert "pyro_vmtl.train --config-dir run --config-name config" in page.text


def test_a_failing_report_does_not_lose_the_run(
    train: Train,
    clusters: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(path: Path) -> Path:
        raise RuntimeError("no [ink] left")

    monkeypatch.setattr("pyro_vmtl.runs.experiment.write_report", fail)
    run = train(*clusters, "pool=standard", report=True)
    assert (run / "predictions.parquet").is_file()
    output = capsys.readouterr().out
    assert "report.html was not written (RuntimeError: no [ink] left)" in output
    assert "python -m pyro_vmtl.report run" in output


# A run written by hand: its numbers are known


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """Two classes, four tasks of unkind names, baselines; no draws, no inputs."""
    run = tmp_path / "a run"
    (run / "model").mkdir(parents=True)
    (run / "config.yaml").write_text("experiment: <b>mine</b>\nseed: 3\ntrainer: {epochs: 2}\n")
    (run / "metrics.csv").write_text(
        "epoch,elbo,loss,expected_log_likelihood,kl_weights,kl_representations,kl_relatedness,"
        "validation_nll,weights_scale,weights_loc\n"
        "0,-9.5,9.5,-5.5,3.0,1.0,0.0,0.75,0.5,0.1\n1,-7.25,7.25,-4.0,2.25,1.0,0.0,0.5,0.4,0.2\n"
    )
    settings: dict[str, Any] = {
        "encoder": {"Identity": {}},
        "pool": {"Mixture": {}},
        "classifier": "mean_field",
    }
    description = {
        "settings": settings | {"representation_pool": {"Standard": {}}, "empirical_bayes": True},
        "names": NASTY,
        "classes": ["</td>no", "yes"],
        "outputs": None,
        "tempering": {"weights": 0.1, "representations": 1.0},
        "warnings": [],
    }
    (run / "model" / "model.json").write_text(json.dumps(description))
    scores: dict[str, dict[str, float | None]] = {
        name: {"accuracy": 0.5, "nll": 0.7, "ece": 0.1} for name in NASTY
    }
    scores[NASTY[1]] = {"accuracy": 1.0, "nll": 0.00012, "ece": None}
    scores["mean"] = {"accuracy": 0.625, "nll": 0.525, "ece": 0.1}
    other = {name: row | {"nll": 0.25} for name, row in scores.items()}
    metrics = {
        "test": scores,
        "validation": None,
        "baselines": {"N(0, I)": {"test": other}},
        "samples": {"train": 8, "validation": 8, "test": 8},
        "seconds": {"training": 1.25},
        "warnings": ["The <i>encoder</i> collapsed."],
        "versions": {"python": "3.11", "torch": "2 & more"},
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    rows = [
        {"site": "weights", "kind": "weights", "task": task, "other": other, "mean": 0.25}
        | {
            "draws_of": "posterior",
            "sd": 0.1,
            "hdi_low": 0.1,
            "hdi_high": 0.4,
            "before_data": 1 / 3,
            "responsibility": 0.3,
        }
        | {"probability": 0.7 if other == "NA" else 0.3 / 2 if task != "NA" else 1 / 3}
        for task in NASTY
        for other in NASTY
        if task != other
    ]
    pd.DataFrame(rows).to_csv(run / "relatedness.csv", index=False)
    predictions = {"task": np.repeat(NASTY, 2), "target": ["</td>no", "yes"] * 4}
    columns = dict.fromkeys(("total", "aleatoric", "epistemic", "log_density"), np.float32(0.25))
    shares = {"probability </td>no": np.float32(0.75), "probability yes": np.float32(0.25)}
    frame = pd.DataFrame({**predictions, "prediction": "</td>no"} | shares | columns)
    frame.to_parquet(run / "predictions.parquet")
    return run


def test_the_files_of_a_run_are_all_that_a_report_needs(by_hand: Path) -> None:
    assert write_report(by_hand) == by_hand / "report.html"
    first = (by_hand / "report.html").read_text()
    assert write_report(by_hand).read_text() == first, "the same files give the same report"
    page = page_of(by_hand)
    check_self_contained(by_hand, page)
    check_relatedness(page, by_hand)
    rows = page.rows("table-scores")
    assert set(rows) == {*NASTY, "mean over tasks"}
    assert [text for text, _ in rows[NASTY[1]]] == [
        *("2", "1.000", "1.000", "1.2e−04", "0.250", "–", "–")
    ]
    assert "VMTL" in page.text
    assert "Confidence is the mean probability" in page.text


def test_a_run_of_before_draws_were_said_of_what_has_its_report(by_hand: Path) -> None:
    table = pd.read_csv(by_hand / "relatedness.csv", keep_default_na=False)
    table.drop(columns="draws_of").to_csv(by_hand / "relatedness.csv", index=False)
    assert write_report(by_hand).is_file()


def _with_temperatures(run: Path, low: float | None = 1.1, worse: float = 0.0) -> None:
    """A run whose confidence was halved, which costs so much density on the test data."""
    metrics = json.loads((run / "metrics.json").read_text())
    after = {
        name: row | {"nll": row["nll"] + worse, "ece": 0.05}
        for name, row in metrics["test"].items()
    }
    fitted = {"temperature": 1.5, "standard_error": 0.1, "low": low, "high": 2.0}
    metrics["calibrated"] = {
        "temperatures": {name: fitted | {"samples": 8, "own": False} for name in NASTY},
        "before": {"test": metrics["test"], "validation": metrics["test"]},
        "after": {"test": after, "validation": after},
        "warnings": [],
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    frame = pd.read_parquet(run / "predictions.parquet")
    shares = {"probability </td>no": np.float32(0.5), "probability yes": np.float32(0.5)}
    frame.assign(**shares).to_parquet(run / "predictions_scaled.parquet")


def test_scaled_scores_stand_beside_the_others(by_hand: Path) -> None:
    _with_temperatures(by_hand, worse=-0.1)
    write_report(by_hand)
    page = page_of(by_hand)
    check_self_contained(by_hand, page)
    metrics = json.loads((by_hand / "metrics.json").read_text())
    for task, name in [(NASTY[0], NASTY[0]), ("mean", "mean over tasks")]:
        before, after = (metrics["calibrated"][k]["test"][task] for k in ("before", "after"))
        scores = [before["nll"], after["nll"], before["ece"], after["ece"]]
        row = page.numbers("table-scaling", name)
        assert row[-4:] == pytest.approx(scores)
        other = metrics["baselines"]["N(0, I)"]["test"][task]["nll"]
        assert page.numbers("table-scores", name)[4:7] == pytest.approx([*scores[:2], other])
    assert page.numbers("table-scaling", NASTY[0])[:4] == [1.5, 1.1, 2.0, 8]
    # Half of all answers are right, as the scaled probabilities say.
    assert "the ECE was 0.250 and is 0.000" in page.text
    assert "Temperature scaling: is the temperature well known" in page.text


@pytest.mark.parametrize(
    ("low", "worse", "sentence"),
    [(0.5, -0.1, "all tasks (0.500 to 2.000)"), (1.9, 0.1, "worse: NLL 0.625 against 0.525")],
)
def test_a_temperature_that_cannot_be_trusted_is_named(
    by_hand: Path, low: float, worse: float, sentence: str
) -> None:
    _with_temperatures(by_hand, low, worse)
    found = {one.subject: one.findings for one in check(read_run(by_hand))}
    (text,) = found["Temperature scaling"]
    assert sentence in text


def test_a_temperature_that_was_not_found_has_no_interval(by_hand: Path) -> None:
    _with_temperatures(by_hand, None)
    metrics = json.loads((by_hand / "metrics.json").read_text())
    metrics["calibrated"]["warnings"] = ["No temperature fits."]
    (by_hand / "metrics.json").write_text(json.dumps(metrics))
    write_report(by_hand)
    assert page_of(by_hand).rows("table-scaling")[NASTY[0]][1] == ("–", None)
    (text,) = {one.subject: one.findings for one in check(read_run(by_hand))}["Temperature scaling"]
    assert text == "No temperature fits."


def test_names_are_text_and_never_markup(by_hand: Path) -> None:
    write_report(by_hand)
    text = (by_hand / "report.html").read_text()
    page = Page(text)
    assert len(page.scripts) == 2, "the numbers of one matrix, and the report's own"
    assert "alert(" not in page.scripts[-1][1]
    assert not {"b", "i"} & {t for t, found in page.elements if not found}
    for words in (*NASTY, "<b>mine</b>", "The <i>encoder</i> collapsed.", "2 & more"):
        assert re.sub(r"\s+", " ", words) in page.text
    # 7 * 7 in a name was not computed; the folder of the test may have a 49 of its own.
    assert "49" not in page.text.replace(str(by_hand), "").replace("0.49", "")
    assert "'" + str(by_hand) + "'" in page.text, "a folder with a space is quoted for the shell"


def test_what_to_distrust_is_said_in_words(by_hand: Path) -> None:
    found = {one.subject: " ".join(one.findings) for one in check(read_run(by_hand))}
    assert found["Training"] == "The <i>encoder</i> collapsed."
    assert "The last of 2 epochs was the best" in found["Convergence"]
    assert "KL weights are 0.1 (weights)" in found["Tempering"]
    assert "counted again and again" in found["Evidence"]
    assert "point estimate" in found["Relatedness"]
    assert "NLL 0.250 against 0.525" in found["Borrowing"]
    assert "on 3 of 4 tasks" in found["Trivial answers"]
    assert "fewer than 50 labelled test samples" in found["Test data"]
    # Each task has confidence 0.75 and accuracy 0.5 on two samples: calibrated ones do that, too.
    assert "of 4 tasks" not in found["Calibration"]


def _edit(run: Path, **settings: object) -> None:
    """Settings of the saved model; None takes one out."""
    file = run / "model" / "model.json"
    description = json.loads(file.read_text())
    kept = {n: v for n, v in (description["settings"] | settings).items() if v is not None}
    file.write_text(json.dumps(description | {"settings": kept}))


@pytest.mark.parametrize(
    ("settings", "counts_once"),
    [
        ({"classifier": "mean_field"}, False),
        ({"classifier": "amortised"}, False),
        ({"classifier": "conjugate"}, True),
        # Of earlier versions:
        ({"classifier": None}, False),
        ({"lenders": {"Recursive": {}}}, False),
        ({"lenders": {"Anchored": {}}}, True),
    ],
    ids=str,
)
def test_evidence_that_comes_back_is_named(
    by_hand: Path, settings: dict[str, object], counts_once: bool
) -> None:
    _edit(by_hand, **settings)
    found = {one.subject: one.findings for one in check(read_run(by_hand))}["Evidence"]
    assert (found == ()) is counts_once
    if found:
        assert "lend each other their posteriors of weights" in found[0]
        assert "Weights in closed form (model.classifier=conjugate) count it once." in found[0]


def test_evidence_comes_back_by_representations_as_well(by_hand: Path) -> None:
    table = pd.read_csv(by_hand / "relatedness.csv", keep_default_na=False, na_values=[""])
    both = pd.concat([table, table.assign(site="representations")])
    both.to_csv(by_hand / "relatedness.csv", index=False)
    advice = "ith pool@representation_pool=standard nobody lends them."
    for classifier, sites in (
        ("conjugate", "representations"),
        ("mean_field", "weights and representations"),
    ):
        _edit(by_hand, classifier=classifier)
        (said,) = {one.subject: one.findings for one in check(read_run(by_hand))}["Evidence"]
        assert f"lend each other their posteriors of {sites}: " in said
        assert said.endswith(advice)
        assert ("Weights in closed form" in said) == (classifier == "mean_field")


@pytest.mark.parametrize(
    ("pool", "classifier", "may_overfit"),
    [
        ("Nested", "conjugate", False),
        ("Feedback", "conjugate", False),
        ("Standard", "conjugate", False),
        ("Standard", "mean_field", True),
        ("Mixture", "conjugate", False),
    ],
)
def test_in_closed_form_without_a_learned_encoder_no_epoch_can_be_the_wrong_one(
    by_hand: Path, pool: str, classifier: str, may_overfit: bool
) -> None:
    _edit(by_hand, pool={pool: {}}, classifier=classifier)
    assert read_run(by_hand).is_conjugate is not may_overfit
    found = {one.subject: one.findings for one in check(read_run(by_hand))}["Convergence"]
    assert bool(found) is may_overfit
    _edit(by_hand, encoder={"MLP": {}})
    assert not read_run(by_hand).is_conjugate


def test_a_run_without_doubts_says_what_was_checked(by_hand: Path) -> None:
    def change(name: str, edit: Callable[[Any], Any]) -> None:
        data = json.loads((by_hand / name).read_text())
        (by_hand / name).write_text(json.dumps(edit(data)))

    for name in ("metrics.json", "model/model.json"):
        change(name, lambda data: data | {"warnings": []})
    change("metrics.json", lambda data: data | {"baselines": {}})
    change("metrics.json", lambda d: d | {"test": {t: s | {"accuracy": 1} for t, s in d["test"].items()}})  # fmt: skip  # noqa: E501
    change("model/model.json", lambda data: data | {"tempering": {"weights": 1.0}})
    change(
        "model/model.json",
        lambda data: (
            data
            | {"settings": data["settings"] | {"classifier": "conjugate", "empirical_bayes": False}}
        ),
    )
    (by_hand / "config.yaml").write_text("experiment: mine\ntrainer: {epochs: 40}\n")
    frame = pd.read_parquet(by_hand / "predictions.parquet")
    frame = pd.concat([frame] * 40, ignore_index=True)
    right = np.arange(len(frame)) % 4 < 3  # 0.75 of them, as the probabilities say
    frame["target"] = np.where(right[np.argsort(frame["task"], kind="stable")], "</td>no", "yes")
    frame = frame.sort_values("task", kind="stable")
    frame["target"] = np.where(right, "</td>no", "yes")
    frame.to_parquet(by_hand / "predictions.parquet")
    assert [one for one in check(read_run(by_hand)) if one.findings] == []
    write_report(by_hand)
    text = page_of(by_hand).text
    assert "None of the checks found a reason to." in text
    assert "do stated probabilities come true?" in text


def test_further_figures_are_held_in_the_page_and_large_ones_named(by_hand: Path) -> None:
    (by_hand / "figures").mkdir()
    (by_hand / "figures" / "training.png").write_bytes(b"drawn by the report itself")
    (by_hand / "figures" / "my_own.png").write_bytes(b"small")
    (by_hand / "figures" / "poster.png").write_bytes(b"0" * 2_000_000)
    write_report(by_hand)
    page = page_of(by_hand)
    check_self_contained(by_hand, page)
    assert "my own (figures/my_own.png)" in page.text
    assert "Too large to be shown here: poster.png" in page.text
    assert "figures/training.png" not in page.text


# The command


def _command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["pyro_vmtl.report", *arguments])
    main()


def test_the_command_writes_the_report_and_says_where(
    by_hand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _command(monkeypatch, str(by_hand))
    assert capsys.readouterr().out == f"{by_hand / 'report.html'}\n"
    assert (by_hand / "report.html").is_file()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda run: shutil.rmtree(run), "config.yaml is missing; expected the folder of a"),
        (lambda run: (run / "metrics.csv").unlink(), "metrics.csv is missing"),
        (lambda run: (run / "metrics.json").write_text("{"), "metrics.json cannot be read"),
        (lambda run: (run / "config.yaml").write_text("a: [b"), "config.yaml cannot be read"),
        (lambda run: (run / "predictions.parquet").write_text("x"), "predictions.parquet cannot"),
        (lambda run: (run / "model/model.json").write_text("{}"), "do not fit each other"),
    ],
)
def test_a_folder_that_is_no_run_is_one_sentence(
    by_hand: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
    sentence: str,
) -> None:
    damage(by_hand)
    with pytest.raises(SystemExit) as exit_:
        _command(monkeypatch, str(by_hand))
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    with pytest.raises(InputError):
        write_report(by_hand)
    assert not (by_hand / "report.html").exists()


def test_the_command_without_a_folder_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        _command(monkeypatch)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: the following arguments are required: RUN; expected ")
    assert error.count("\n") == 1


# In a browser

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--enable-logging=stderr", "--dump-dom"),
    *("--virtual-time-budget=5000", "--window-size=1280,1000"),
)
# What a reader does, done by a script at the end of the page; it leaves what it saw in the title.
_PROBE = """
<script>
addEventListener("load", async () => {
  const seen = {};
  const narrow = document.createElement("iframe");
  const loaded = new Promise((done) => { narrow.onload = done; });
  narrow.width = 400;
  narrow.srcdoc = document.documentElement.outerHTML.replace(/<script>[^]*?<\\/script>/g, "");
  const images = [...document.images];
  await Promise.all(images.map((image) => image.decode()));
  seen.images = images.map((image) => image.naturalWidth);
  seen.wide = document.documentElement.scrollWidth - innerWidth;
  const cells = [...document.querySelectorAll(".cell")];
  const answer = () => document.querySelector(".answer").innerText;
  seen.before = answer();
  cells[1].dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  seen.hover = answer();
  seen.cell = cells[1].innerText;
  cells[1].dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  seen.escaped = answer();
  cells[1].focus();
  seen.focus = answer();
  cells[1].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  seen.next = document.activeElement === cells[2] && answer() !== seen.focus;
  seen.stops = document.querySelectorAll('.cell[tabindex="0"]').length;
  const head = document.querySelector("#table-scores thead tr:last-child th:nth-child(3)");
  const column = () => [...document.querySelectorAll("#table-scores tbody tr")]
    .map((row) => Number(row.cells[2].dataset.value));
  head.querySelector("button").click();
  seen.ascending = [head.getAttribute("aria-sort"), column()];
  head.querySelector("button").click();
  seen.descending = [head.getAttribute("aria-sort"), column()];
  document.body.append(narrow);
  await loaded;
  seen.narrow = narrow.contentDocument.documentElement.scrollWidth;
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
</script>
</body>"""


@pytest.fixture
def browser() -> str:
    found = [path for name in _BROWSERS if (path := shutil.which(name))]
    if not found:
        pytest.skip("there is no Chromium here; to run this: apt-get install chromium")
    return found[0]


def test_the_report_answers_in_a_browser(by_hand: Path, browser: str, tmp_path: Path) -> None:
    text = write_report(by_hand).read_text()
    page = tmp_path / "probed.html"
    page.write_text(text.replace("</body>", _PROBE))
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [browser, *_FLAGS, profile, page.as_uri()], capture_output=True, text=True, timeout=120
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    match = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, f"the page did not come to its end: {done.stderr[-2000:]}"
    seen = json.loads(match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))

    assert len(seen["images"]) >= 5
    assert min(seen["images"]) > 0
    assert seen["wide"] <= 0, "the page is wider than 1280 pixels"
    assert 300 < seen["narrow"] <= 400, "the page is wider than 400 pixels"

    (shown,) = (json.loads(t) for found, t in Page(text).scripts if found.get("class") == "numbers")
    task, other = shown["tasks"][0], shown["others"][2]
    values = dict(zip(shown["values"], shown["cells"][0][2], strict=True))
    assert f"{task} borrows from {other}" in seen["hover"]
    for name in ("probability", "hdi_low", "hdi_high", "mean", "responsibility"):
        assert f"{values[name]:.3f}" in seen["hover"]
    assert seen["cell"] == f"{values['probability']:.2f}"
    assert seen["before"] == seen["escaped"] != seen["hover"]
    assert seen["focus"] == seen["hover"], "the keyboard shows what the pointer shows"
    assert seen["next"], "the arrow keys move"
    assert seen["stops"] == 1, "the tab key visits the matrix once"
    assert seen["ascending"] == ["ascending", sorted(seen["ascending"][1])]
    assert seen["descending"] == ["descending", seen["ascending"][1][::-1]]


def test_what_a_link_leads_to_outside_is_not_shown(
    train: Train, clusters: tuple[str, ...], tmp_path: Path
) -> None:
    run = train(*clusters)
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret: 1")
    (run / "figures").mkdir()
    (run / "figures" / "mine.png").symlink_to(secret)
    text = write_report(run).read_text()
    assert base64.b64encode(b"a secret: 1").decode() not in text
    for name in ("config.yaml", "metrics.json", "model"):
        kept = tmp_path / "kept"
        (run / name).rename(kept)
        (run / name).symlink_to(kept if name == "model" else secret)
        with pytest.raises(InputError, match="is a link that leads out of the folder"):
            write_report(run)
        (run / name).unlink()
        kept.rename(run / name)
    inside = run / "config.yaml"
    inside.rename(run / "settings.yaml")
    inside.symlink_to("settings.yaml")
    write_report(run)
