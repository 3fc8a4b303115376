"""Whatever is asked of a command, it does it or says in one sentence why not, with exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra

import pyro_vmtl as pv
from pyro_vmtl.__main__ import main

# What else is accepted than success or one sentence, and why.
ACCEPTED = {
    "empty cells": "predictions have no log density where a row has no target",
    "a folder that stays": "a run that fails after its first epoch keeps what was trained",
}

Odd = Any  # of conftest.py
SMALL = (
    *("trainer.epochs=1", "trainer.steps_per_epoch=2", "trainer.validation_samples=3"),
    *("trainer.progress_bar=false", "trainer.accelerator=cpu", "trainer.tensorboard=false"),
    "num_samples=10",
)
CLUSTERS = (
    *("data=clusters", "data.num_tasks=3", "data.num_clusters=2", "data.samples=6"),
    *("data.dimensions=2", "data.test_samples=5"),
)
Command = Callable[..., Any]  # of conftest.py


def strict(path: Path) -> Any:
    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{path.name} has {name}, which JSON has not")

    return json.loads(path.read_text(), parse_constant=refuse)


def check_numbers(frame: pd.DataFrame, may_be_empty: Sequence[str]) -> None:
    for name in frame.columns:
        if str(name).partition(" ")[0] in may_be_empty or frame[name].dtype.kind not in "fi":
            continue
        assert np.isfinite(frame[name]).all(), name


def check_run(run: Path, ended: Any) -> None:
    """A run that has ended is whole, and has no number that is none."""
    metrics = strict(run / "metrics.json")
    assert all(value is None or np.isfinite(value) for value in metrics["test"]["mean"].values())
    strict(run / "model" / "model.json")
    predictions = pd.read_parquet(run / "predictions.parquet")
    check_numbers(predictions, ("target", "log_density"))
    chances = predictions.filter(regex="^probability ")
    if chances.shape[1]:
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-4)
    numbers = pd.read_csv(run / "relatedness.csv")[["probability", "mean", "sd"]]
    check_numbers(numbers, ())
    check_numbers(pd.read_csv(run / "metrics.csv")[["epoch", "loss", "elbo"]], ())
    assert "report.html was not written" not in ended.out, ended.out
    assert (run / "report.html").stat().st_size > 1000
    assert not list(run.rglob(".*"))


def check_refusal(run: Path) -> None:
    """A run that was refused leaves nothing, or what was trained, and no half of a file."""
    if run.is_dir():
        assert (run / "metrics.csv").exists(), list(run.iterdir())
        assert {entry.name for entry in run.rglob(".*")} <= {".running"}


def good(folder: Path, name: str = "good.csv") -> Path:
    """A table that can be trained on."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"ward": list("aabbc") * 6, "age": generator.normal(size=30).round(3)})
    frame["sex"] = generator.choice(["f", "m"], 30)
    frame["ill"] = np.where(frame["age"] + generator.normal(size=30) > 0, "yes", "no")
    frame["days"] = generator.normal(size=30).round(3)
    frame.to_csv(folder / name, index=False)
    return folder / name


# train, from tables

VALUES = (
    *("null", "true", "false", "-1", "0", "1", "2", "0.5", "-0.5", "nan", "inf", "-inf", "1e400"),
    *("''", '""', "[]", "[1]", "[[]]", "{}", "{a: 1}", "x", "'a b'", "???", "${x}", "${seed}"),
    *("${oc.env:HOME}", "${oc.env:no_such}", "[null]", "1e-300", "é", "'", "{", "[", "a=b"),
)


@pytest.mark.inputs(3, 90)
def test_train_on_a_table(odd: Odd, seed: int, command: Command, tmp_path: Path) -> None:
    frame = odd.frame(2)
    path = odd.file(frame, tmp_path / "data")
    target = odd.pick(["ill", "days", "stage"])
    others = [name for name in ("ill", "days", "stage") if name != target]
    others = [name for name in others if name in list(frame.columns)]
    given = {"path": path, "task": "ward", "target": target, "leave_out": f"[{','.join(others)}]"}
    names = [name for name in frame.columns if str(name).isidentifier()] or ["ward"]
    further = {
        "task": [odd.pick(names), "[ward,sex]", "[]"],
        "target": [odd.pick(names), "[days,stage]", "[]"],
        "features": ["[age]", "[age,age]", f"[{odd.pick(names)}]"],
        "classes": ["[no,yes]", "[1,2,3]", "[a]"],
        "regression": ["true", "false"],
        "categories": ["[age]", "sex", "[no_such]"],
        "gaps": ["refuse", "drop"],
        "separator": ["';'", "'|'", "ab", "'\\t'"],
        "decimal": ["','", "x"],
        "missing": ["[NA]", "[no]", "x"],
        "encoding": ["latin-1", "utf-16", "no-such"],
        "part": ["sex", "ward"],
        "groups": ["sex", "age"],
        "validation": ["0.5", "1", "1000", "0.9", "1.0"],
        "test": ["0", "0.5", "1", "1000", "0.99", "nan"],
    }
    for name in odd.some(list(further), 2):
        given[name] = odd.pick(further[name]) if odd.chance(0.7) else odd.pick(VALUES)
    overrides = [f"data.{name}={value}" for name, value in given.items()]
    overrides += odd.some(
        [
            *("seed=1", "model=mlp", "model=identity", "pool=standard", "temperature_scaling=true"),
            *("baselines=true", "recipe=recursive", "recipe=vmtl", "model=bayesian_linear"),
        ],
        1,
    )
    ended = command("train", "data=table", *SMALL, *overrides, "run_dir=run")
    run = tmp_path / "run"
    if ended.code:
        check_refusal(run)
        return
    check_run(run, ended)
    new = odd.file(odd.pick(odd.spoilings())(frame), tmp_path / "data", "new")
    if command("predict", "run", str(new), "out.csv", "--draws", "10").code:
        assert not (tmp_path / "out.csv").exists()
    else:
        check_predicted(tmp_path / "out.csv")


def check_predicted(path: Path) -> None:
    found = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    said = found[[name for name in found if str(name) in ("total", "sd", "epistemic", "low")]]
    assert said.shape[1]
    check_numbers(said, ())


# train, by overrides

KEYS = (
    *("seed", "num_samples", "baselines", "temperature_scaling", "ckpt_path", "experiment"),
    *("recipe", "pool", "model", "likelihood", "trainer", "data", "representation_pool", "allow"),
    *("trainer.epochs", "trainer.steps_per_epoch", "trainer.batch_size", "trainer.per_class"),
    *("trainer.learning_rate", "trainer.learning_rate.value", "trainer.kl_weights.value"),
    *("trainer.kl_weights", "trainer.temperature", "trainer.patience", "trainer.loss"),
    *("trainer.scale_rate", "trainer.weight_decay", "trainer.gradient_clip", "trainer.estimator"),
    *("trainer.task_weighting", "trainer.num_particles", "trainer.validation_samples"),
    *("trainer.accelerator", "trainer.progress_bar", "trainer.tensorboard", "+trainer.x"),
    *("+trainer.deterministic", "+trainer.callbacks", "+trainer.precision", "+x", "~pool", "++x"),
    "+lenders",
    *("model.encoder", "model.classifier", "model.initial_scale", "+model.bias", "+model.x"),
    *("data.num_tasks", "data.num_clusters", "data.samples", "data.dimensions", "data.kind"),
    *("data.noise", "data.outliers", "data.validation_samples", "data.test_samples", "data.seed"),
    *("data._target_", "pool._target_", "+pool.x", "+model.encoder._target_", "hydra.job.name"),
    *("hydra.run.dir", "hydra.verbose", "hydra.output_subdir", "hydra/launcher", "resume"),
)
CHOICES = {
    "pool": ["standard", "mixture", "nested", "power", "linear", "geometric", "feedback"],
    "model": ["identity", "mlp", "deterministic", "bayesian_linear", "principal_components"],
    "recipe": ["paper", "vmtl", "recursive", "stl", "complete_pooling", "upgrad", "vstl"],
    "model.classifier": ["conjugate", "mean_field", "point", "amortised"],
}


@pytest.mark.inputs(1, 110)
def test_train_with_overrides(odd: Odd, seed: int, command: Command, tmp_path: Path) -> None:
    keys = odd.some(KEYS, 3) or [odd.pick(KEYS)]
    overrides = [key if key == "~pool" else f"{key}={odd.pick(VALUES)}" for key in keys]
    overrides += [f"{name}={odd.pick(CHOICES[name])}" for name in odd.some(list(CHOICES), 2)]
    if odd.chance(0.1):
        text = odd.pick(overrides)
        place = int(odd.random.integers(len(text)))
        overrides.append(text[:place] + odd.pick(list("=[{'\"$,~+@:/\\ \x00")) + text[place:])
    ended = command("train", *CLUSTERS, *SMALL, "run_dir=run", *overrides)
    run = tmp_path / "run"
    if ended.code:
        check_refusal(run)
    elif run.is_dir():
        check_run(run, ended)


# Commands that train nothing


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run on a table."""
    folder = tmp_path_factory.mktemp("finished")
    table = good(folder)
    columns = (
        "data.task=ward",
        "data.target=ill",
        "data.leave_out=[days]",
        "temperature_scaling=true",
    )
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["data=table", f"data.path={table}", "data.validation=0.3", *columns, *SMALL]
        patch.setattr("sys.argv", ["pyro_vmtl", "train", *arguments, f"run_dir={folder / 'run'}"])
        GlobalHydra.instance().clear()
        main()
    return folder / "run"


@pytest.mark.inputs(5, 100)
def test_predict(odd: Odd, seed: int, command: Command, tmp_path: Path, finished: Path) -> None:
    table = good(tmp_path)
    if odd.chance(0.6):
        frame = pd.read_csv(table)
        for _ in range(int(odd.random.integers(1, 3))):
            frame = odd.pick(odd.spoilings())(frame)
        table = odd.file(frame, tmp_path / "data")
    arguments = [str(finished), str(table)]
    out = odd.pick(["out.csv", "out.parquet", "out.tsv", None])
    arguments += [] if out is None else [out]
    choices = [
        *(["--draws", "0"], ["--draws", "x"], ["--draws"], ["--draws", "-5"], ["--draws", "3"]),
        *(["--seed", "-1"], ["--seed", "1.5"], ["--seed", str(2**70)], ["--seed", "7"]),
        *(["--separator", ";"], ["--separator", ""], ["--separator", "("], ["--separator", "ab"]),
        *(["--encoding", "latin-1"], ["--encoding", "utf-16"], ["--encoding", "no such"]),
        *(["--learn", str(table)], ["--learn", "absent"], ["--nonsense"], ["further"], ["--"]),
        *(["--overwrite"], ["--learn", "learn.csv"]),
    ]
    good(tmp_path, "learn.csv")
    learn = pd.read_csv("learn.csv")
    learn.assign(ward=odd.pick(["z", "", "mean", 3])).to_csv("learn.csv", index=False)
    for further in odd.some(choices, 2):
        arguments += further
    if odd.chance(0.15):
        arguments[int(odd.random.integers(2))] = odd.pick(
            ["", ".", "absent", "/dev/null", "~", "/"]
        )
    if odd.chance(0.1):
        arguments[2:3] = [
            odd.pick(["", ".", "/", "no/such.csv", "out", "x" * 300 + ".csv", "/dev/x"])
        ]
    before = {path.name for path in tmp_path.iterdir()}
    ended = command("predict", *arguments)
    new = {path.name for path in tmp_path.iterdir()} - before
    if ended.code:
        assert not new
    elif out is not None and out in new:
        assert new == {out}
        if out != "out.tsv":
            check_predicted(tmp_path / out)


def spoil_run(odd: Odd, run: Path) -> None:
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    path = odd.pick([path for path in files if path.suffix not in (".ckpt", ".safetensors")])
    way = odd.random.random()
    if path.suffix == ".json" and way < 0.7:
        path.write_text(json.dumps(odd.changed(json.loads(path.read_text()))))
    elif path.suffix in (".csv", ".parquet") and way < 0.7:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        frame = odd.pick(odd.spoilings())(frame)
        try:
            frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
        except Exception:  # what no file can hold
            path.write_bytes(b"")
    elif way < 0.8:
        path.unlink()
    else:
        path.write_bytes(odd.spoilt(path.read_bytes()))


@pytest.mark.inputs(1, 100)
def test_report(odd: Odd, seed: int, command: Command, tmp_path: Path, finished: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for _ in range(int(odd.random.integers(1, 3))):
        spoil_run(odd, run)
    before = (run / "report.html").read_bytes() if (run / "report.html").exists() else None
    ended = command(
        "report", odd.pick(["run", "run", "run/", "./run", "../" + tmp_path.name + "/run"])
    )
    assert not list(run.rglob(".*"))
    if ended.code:
        after = (run / "report.html").read_bytes() if (run / "report.html").exists() else None
        assert after == before
    else:
        assert (run / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


NASTY: list[tuple[str, ...]] = [
    (),
    *(
        (text,)
        for text in ("", "x", "--help", "-h", "--version", "-x", "--", "train\n", "🙂", "[/red]")
    ),
    *((name, "--help") for name in ("train", "rank", "report", "benchmark", "predict", "group")),
    *(
        (name, "--nonsense")
        for name in ("train", "rank", "report", "benchmark", "predict", "group")
    ),
    *((name, "a\nb") for name in ("train", "rank", "report", "benchmark", "predict", "group")),
    *((name, "") for name in ("train", "rank", "report", "benchmark", "predict", "group")),
    *((name, "=") for name in ("train", "rank", "benchmark")),
    *((name, "seed=") for name in ("rank", "benchmark")),
    *(("train", text) for text in ("--cfg", "--cfg=x", "--config-name", "--config-name=absent")),
    *(("train", text) for text in ("--config-dir=absent", "--info", "--info=x", "--package")),
    *(("train", text) for text in ("--cfg=job", "--hydra-help", "--shell-completion", "-c")),
    *(("train", text) for text in ("lenders=recursive", "+lenders=recursive", "pool=clustered")),
    *(("train", text) for text in ("pool=a,b", "pool=a,b,", "data=absent", "data=3")),
    *(("train", text) for text in ("resume=absent", "resume=[a]", "resume={", "resume=/")),
    *(("train", text) for text in ("ckpt_path=absent", "ckpt_path=[]", "run_dir=/proc/x/y")),
    *(("train", text) for text in ("experiment=a/../../b", "recipe=absent", "+recipe=paper")),
    *(("train", "data=table", text) for text in ("", "data.path=absent.csv", "data.path=/")),
    *(("train", "data=table", f"data.path={text}") for text in ("[a]", "null", "3", "''")),
    ("train", "data=table", "data.path=good.csv", "data.task=ward"),
    ("train", "data=table", "data.path=good.csv", "data.task=absent", "data.target=ill"),
    *(
        ("rank", text)
        for text in ("pools=[]", "pools=", "pools={a: 1}", "pools=[absent]", "draws=0")
    ),
    *(
        ("rank", text)
        for text in ("pool=x", "heldout=x", "out=/absent/x.csv", "pools=[standard+x]")
    ),
    *(("rank", text) for text in ("pools=[", "draws=x", "draws=1e9", "pools=[null]", "heldout=")),
    *(("benchmark", text) for text in ("methods=[x]", "seeds=x", "level=2", "threads=0")),
    *(("benchmark", text) for text in ("datasets=[x]", "axis=x", "metrics=[x]", "--multirun")),
    *(("report", text) for text in (".", "/", "absent", "good.csv", "/dev/null", "x" * 300)),
    *(("report", text) for text in ("~", "-")),
    ("predict", ".", "good.csv"),
    ("predict", "good.csv", "good.csv"),
    ("predict", "x" * 300, "good.csv"),
]


@pytest.mark.cases(16, NASTY, [" ".join(arguments)[:60] for arguments in NASTY])
def test_what_is_asked_oddly(case: tuple[str, ...], command: Command, tmp_path: Path) -> None:
    good(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    ended = command(*case)
    if ended.code == 2:
        assert {path.name for path in tmp_path.iterdir()} <= before | {"runs"}, case


# Real processes: what Python itself prints is seen here alone.


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("train", "data=table", "data.path=odd.csv", "data.task=ward", "data.target=ill"), 2),
        (("train", "--nonsense"), 2),
        (("predict", "absent", "odd.csv"), 2),
    ],
    ids=["train", "flags", "predict"],
)
def test_a_process(
    arguments: tuple[str, ...], code: int, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    if not pytestconfig.getoption("--whole", default=False):
        pytest.skip("only with --whole: a process takes seconds to start")
    frame = pd.read_csv(good(tmp_path)).astype(object)
    frame.loc[3, "age"] = "9" * 400
    frame.to_csv(tmp_path / "odd.csv", index=False)
    ended = subprocess.run(
        [sys.executable, "-m", "pyro_vmtl", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.startswith("Error: ")
    assert ended.stderr.count("\n") == 1, ended.stderr


def test_the_table_that_is_good_is_good(tmp_path: Path) -> None:
    tasks = pv.read_table(good(tmp_path), "ward", "ill")
    assert tasks.num_tasks == 3
