"""Whatever is handed in, it works or it is refused with a sentence: the functions of Python."""

from __future__ import annotations

import json
import logging
import math
import shutil
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load as unpack
from safetensors.torch import save as pack

import pyro_vmtl as pv
from pyro_vmtl.errors import InputError

# What else is accepted than a result or an InputError, and why.
ACCEPTED = {
    "scikit-learn": "an estimator refuses arrays by scikit-learn's own checks, whose ValueErrors "
    "and TypeErrors `check_estimator` asks for",
    "types": "settings of a model that are of another Python type than their hints say, such as a "
    "schedule for a number, may raise a TypeError",
}

TINY = pv.TrainingSettings(epochs=1, steps_per_epoch=2, validation_samples=3)
Odd = Any  # of conftest.py


def attempt(call: Callable[[], Any], what: str, also: type[Exception] = InputError) -> Any:
    """The result, None where it was refused; ``also`` is a further error that is accepted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy's and pandas', on the way to a sentence
        try:
            return call()
        except InputError as error:
            said = str(error)
            assert said, what
            assert "Traceback" not in said
            assert len(said) < 20_000, f"a sentence of {len(said)} signs: {what}"
            return None
        except also:
            return None
        except Exception as error:
            raise AssertionError(f"{error!r} in {_where(error)}\n{what}") from error


def _where(error: Exception) -> str:
    """The last line of this library that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{f.filename}:{f.lineno}" for f in frames if "pyro_vmtl" in Path(f.filename).parts]
    return ours[-1] if ours else f"{frames[-1].filename}:{frames[-1].lineno}"


def shown(given: Any) -> str:
    """What was handed in, as a message shows it."""
    try:
        if isinstance(given, pd.DataFrame):
            types = [str(dtype) for dtype in given.dtypes]
            return f"{list(given.columns)!r}, {types}, {given.head(8).values.tolist()!r}"
        return repr(given)[:2000]
    except Exception as error:  # a signalling NaN cannot even be shown
        return repr(error)


def check_tasks(tasks: pv.TaskSet) -> None:
    assert bool(tasks.x.isfinite().all())
    assert len(tasks.x) == len(tasks.y) == len(tasks.task)
    if tasks.columns is not None:
        names = tasks.columns.inputs
        assert len(set(names)) == len(names) == tasks.x.shape[1]


def check_predictions(found: pv.Predictions) -> None:
    assert bool(found.mean.isfinite().all()), found.mean
    labelled = found.tasks.labelled
    for name in ("total", "aleatoric", "epistemic"):
        assert bool(getattr(found, name).isfinite().all()), name
    assert bool(found.log_density[labelled].isfinite().all())
    if found.tasks.is_classification:
        assert np.allclose(found.mean.sum(-1), 1, atol=1e-4)
    frame = found.frame()
    assert len(frame) == len(found.tasks)
    if bool(labelled.any()):
        for scores in found.metrics().values():
            assert all(value is None or not math.isnan(value) for value in scores.values()), scores


def fit_and_predict(odd: Odd, tasks: pv.TaskSet, what: str) -> pv.FittedVMTL | None:
    settings = odd.pick(
        [
            *(None, None, None, pv.Settings(pv.MLP(2, hidden=(4,)))),
            pv.Settings(pv.Identity(), pv.Mixture()),
            pv.Settings(pv.MLP(2, hidden=(4,)), pv.Mixture(), classifier="mean_field"),
        ]
    )
    seed = int(odd.random.integers(5))
    fitted = attempt(
        lambda: pv.fit(tasks, None, settings, TINY, seed=seed, log_warnings=False), what
    )
    if fitted is None:
        return None
    assert isinstance(fitted, pv.FittedVMTL)
    found = attempt(lambda: fitted.predict(tasks, 20), what)
    if found is not None:
        check_predictions(found)
    return fitted


# Tables


def table_options(odd: Odd, frame: pd.DataFrame) -> dict[str, Any]:
    """Arguments, of which most are good."""
    names = [str(name) for name in frame.columns] or ["ward"]
    target = odd.pick(["ill", "days", "stage"])
    options: dict[str, Any] = {"task": "ward", "target": target}
    others = [name for name in ("ill", "days", "stage") if name != target and name in names]
    options["leave_out"] = others
    further: dict[str, list[Any]] = {
        "task": [odd.pick(names), ["ward", "sex"], [], "", "no such", ["ward", "ward"]],
        "target": [odd.pick(names), ["days", "stage"], ["ill", "days"], [], "", ["days", "days"]],
        "features": [None, ["age"], ["age", "age"], [], [odd.pick(names)], "age", ["ward"]],
        "classes": [["no", "yes"], ["yes"], [], ["no", "no"], [1, 2, 3], [True, False], "noyes"],
        "regression": [True, False],
        "leave_out": [[], "age", [odd.pick(names)], ["no such"], ["ward"]],
        "categories": [["age"], "sex", [odd.pick(names)], ["no such"], ["ill"]],
        "gaps": ["refuse", "impute", "drop", None],
        "separator": [";", "|", "\t", "", "ab", "(", "\\s+", "\n", '"', "é"],
        "decimal": [",", ".", "", "x", None],
        "thousands": [",", ".", " ", "", "ab", "1", None],
        "missing": [["NA"], "NA", ["no"], [""], [None], ["a", "f", "m"], ["yes", "no"]],
        "encoding": ["latin-1", "utf-16", "ascii", "no such", "", "utf-8", "utf-7", "rot13"],
    }
    for name in odd.some(list(further), 2):
        options[name] = odd.pick(further[name])
    return options


SPLIT: dict[str, list[Any]] = {
    "part": ["sex", "ward", "no such", "ill", "age"],
    "groups": ["sex", "age", "no such", "ward"],
    "validation": [0, 0.5, 0.99, 1, 10**6, -1, 1.0, math.nan, "x", None, True, np.float32(0.1)],
    "test": [0, 0.5, 0.99, 1, 10**6, -1, 1.5, math.inf, "x", None, False],
    "seed": [1, 2**40, -1, 0.5, "x", None, True],
}


@pytest.mark.inputs(12, 260)
def test_a_table(odd: Odd, seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    frame = odd.frame()
    options = table_options(odd, frame)
    source: Any = odd.file(frame, tmp_path) if odd.chance(0.5) else frame
    what = f"{options}\n{shown(frame)}\n{source if isinstance(source, Path) else ''}"[:4000]
    before = None if isinstance(source, Path) else source.copy()
    if odd.chance(0.4):
        for name in odd.some(list(SPLIT), 2):
            options[name] = odd.pick(SPLIT[name])
        splits = attempt(lambda: pv.split_table(source, **options), what)
        parts = () if splits is None else tuple(splits)
        for part in parts:
            check_tasks(part)
        tasks = parts[0] if parts else None
    else:
        tasks = attempt(lambda: pv.read_table(source, **options), what)
    if before is not None:
        assert list(map(repr, before.columns)) == list(map(repr, source.columns))
        assert before.index.equals(source.index)
    if tasks is None:
        return
    check_tasks(tasks)
    fitted = fit_and_predict(odd, tasks, what)
    if fitted is None:
        return
    new = odd.pick(odd.spoilings())(frame)
    rows = attempt(lambda: pv.read_rows(new, fitted, new_tasks=odd.chance(0.3)), what)
    if rows is None:
        return
    check_tasks(rows)
    found = attempt(lambda: fitted.predict(rows, 10), what)
    if found is not None:
        check_predictions(found)


CORPUS: list[tuple[str, dict[str, list[Any]], dict[str, Any]]] = [
    ("an input is called as a level is", {"sex": list("fmfm"), "sex=m": [1, 2, 3, 4]}, {}),
    ("a gap is called as a column is", {"a": [1, None, 2, None], "a is missing": [4, 3, 2, 1]}, {}),
    ("a number that is not one", {"a": [1, 2, 3, 10**400]}, {}),
    ("a date after all dates", {"a": ["9999-12-31", "2026-01-01", "2026-01-02", "1700-01-01"]}, {}),
    ("the largest numbers", {"a": [1e308, -1e308, 1e308, -1e308]}, {}),
    ("the smallest numbers", {"a": [5e-324, 0, 5e-324, 0]}, {}),
    ("equal but for the last digit", {"a": [1e15, 1e15 + 0.125, 1e15, 1e15]}, {}),
    ("digits of another script", {"a": ["١", "٢", "٣", "٤"]}, {}),
    ("squares that are no digits", {"a": ["²", "1", "2", "3"]}, {}),
    ("half a character", {"a": ["\ud800", "\udfff", "\ud800", "\udfff"]}, {}),
    ("lists", {"a": [[1], [2], [3], [4]]}, {}),
    ("texts of a hundred thousand signs", {"a": ["x" * 10**5, "y" * 10**5] * 2}, {}),
    ("all missing", {"a": [None] * 4}, {}),
    ("nothing but gaps beside numbers", {"a": [1, 2, 3, 4], "b": [None] * 4}, {}),
    ("a target of one class", {"a": [1, 2, 3, 4], "y": ["n"] * 4}, {}),
    ("a target without bounds", {"a": [1, 2, 3, 4], "y": [1.5e300, -1.5e300, 0.5, 2.5]}, {}),
    ("a target that is small", {"a": [1, 2, 3, 4], "y": [1.5e-300, -1.5e-300, 0, 0]}, {}),
    ("a target that is constant", {"a": [1, 2, 3, 4], "y": [1.5] * 4}, {}),
    ("a target that is missing", {"a": [1, 2, 3, 4], "y": [None] * 4}, {}),
    ("a target of infinities", {"a": [1, 2, 3, 4], "y": [math.inf, 1.5, 2.5, 3.5]}, {}),
    ("a target with commas", {"a": [1, 2, 3, 4], "y": ["1,5", "2,5", "3,5", "4,5"]}, {}),
    ("a target of a single row", {"a": [1, 2, 3, 4], "y": [1.5, None, None, None]}, {}),
    ("a task of numbers and text", {"a": [1, 2, 3, 4], "t": [1, "1", 1.0, "x"]}, {}),
    ("a task that is missing", {"a": [1, 2, 3, 4], "t": ["x", None, "x", "x"]}, {}),
    ("a task of a name that is taken", {"a": [1, 2, 3, 4], "t": ["mean", "mean", "x", "x"]}, {}),
    ("a task of tuples", {"a": [1, 2, 3, 4], "t": [(1,), (1,), (2,), (2,)]}, {}),
    ("truth values", {"a": [True, False, None, True]}, {}),
    ("no feature", {}, {}),
    ("a group that is missing", {"a": [1, 2, 3, 4], "g": [None] * 4}, {"groups": "g"}),
    ("one group", {"a": [1, 2, 3, 4], "g": ["x"] * 4}, {"groups": "g"}),
    ("a part without training", {"a": [1, 2, 3, 4], "p": ["test"] * 4}, {"part": "p"}),
    ("a part without test", {"a": [1, 2, 3, 4], "p": ["train"] * 4}, {"part": "p"}),
    ("a part that is missing", {"a": [1, 2, 3, 4], "p": [None] * 4}, {"part": "p"}),
]


@pytest.mark.cases(6, [case[1:] for case in CORPUS], [case[0] for case in CORPUS])
def test_a_nasty_table(
    case: tuple[dict[str, list[Any]], dict[str, Any]], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    columns, options = case
    base = {"t": list("xxyy"), "y": list("nyny")}
    frame = pd.DataFrame({k: pd.Series(v, dtype=object) for k, v in (base | columns).items()})
    for times in (1, 10):
        many = pd.concat([frame] * times, ignore_index=True)
        text = tmp_path / f"{times}.csv"
        text.write_bytes(many.to_csv(index=False).encode("utf-8", "surrogatepass"))
        for source in (many, text):
            what = f"{columns}"[:500]

            def read(source: Any = source) -> pv.TaskSet:
                if options:
                    return pv.split_table(source, "t", "y", **options).train
                return pv.read_table(source, "t", "y")

            tasks = attempt(read, what)
            if tasks is None:
                continue
            check_tasks(tasks)
            is_sample = not pytestconfig.getoption("--whole", default=False)
            if is_sample and (source is not many or times == 1):
                continue  # in the sample one of the four is fitted
            fitted = attempt(partial(pv.fit, tasks, None, None, TINY, log_warnings=False), what)
            if fitted is not None:
                found = attempt(partial(fitted.predict, tasks, 10), what)
                if found is not None:
                    check_predictions(found)


# Arrays


def odd_inputs(odd: Odd, rows: int, width: int) -> Any:
    x = odd.random.normal(size=(rows, width))
    options: list[Callable[[], Any]] = [
        lambda: x * odd.pick([1e300, 1e-300, 1e38, 1e20, 0.0, math.nan, math.inf]),
        lambda: np.where(odd.random.random(x.shape) < 0.1, odd.pick([math.nan, math.inf]), x),
        lambda: x.astype(odd.pick(["f2", "f4", "i1", "u8", "?", "c16", "U5", "O", "M8[s]", "S3"])),
        lambda: torch.tensor(x, dtype=odd.pick([torch.bfloat16, torch.half, torch.int8])),
        lambda: torch.tensor(x, requires_grad=True),
        lambda: torch.empty(rows, width, device="meta"),
        lambda: torch.tensor(x).to_sparse(),
        lambda: pd.DataFrame(x),
        lambda: x.tolist(),
        lambda: x[:, 0],
        lambda: x[..., None],
        lambda: x[:0],
        lambda: x[:, :0],
        lambda: x[: max(rows - 1, 0)],
        list,
        lambda: [[1.0], [1.0, 2.0]],
        lambda: np.float64(1.0),
        lambda: np.ma.masked_array(x, mask=x > 1),
        lambda: [[odd.pick(["1", "x", None, True, b"1", 10**400])] * width for _ in range(rows)],
        lambda: None,
        lambda: "text",
        lambda: {"a": x},
    ]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return odd.pick(options)()


def odd_targets(odd: Odd, rows: int) -> Any:
    y = odd.random.normal(size=rows)
    labels = odd.random.integers(0, 3, rows)
    options: list[Callable[[], Any]] = [
        lambda: y * odd.pick([1e300, 1e-300, 1e38, 1e30, 0.0, math.nan, math.inf]),
        lambda: np.where(odd.random.random(rows) < 0.2, odd.pick([math.nan, math.inf]), y),
        lambda: y.astype(odd.pick(["f2", "f4", "c16", "U5", "O", "M8[s]", "S3"])),
        lambda: labels,
        lambda: labels - odd.pick([1, 2, 3]),
        lambda: labels.astype(float),
        lambda: (labels + 2**62).astype("u8") * 2,
        lambda: labels > 0,
        lambda: [["a", "b", None][k] for k in labels],
        lambda: [["a", 1, None][k] for k in labels],
        lambda: [["a", math.nan, ""][k] for k in labels],
        lambda: pd.Categorical(labels),
        lambda: pd.Series(labels, dtype="Int64"),
        lambda: np.stack([y, y], 1),
        lambda: np.stack([y, y * math.nan], 1),
        lambda: y[:, None],
        lambda: np.zeros((rows, 0)),
        lambda: y[:-1],
        lambda: [10**400] * rows,
        lambda: np.full(rows, 0),
        lambda: None,
        lambda: "text",
        lambda: 1.0,
    ]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return odd.pick(options)()


@pytest.mark.inputs(12, 200)
def test_arrays(odd: Odd, seed: int) -> None:
    names: list[Any] = ["one", "two", "three", *odd.some(["", "mean", 1, None, "x" * 500], 1)]
    width, is_regression = int(odd.random.integers(1, 4)), odd.chance(0.4)
    tasks: dict[Any, Any] = {}
    for name in names[: 1 + int(odd.random.integers(len(names)))]:
        rows = int(odd.random.integers(1, 12))
        y = odd.random.normal(size=rows) if is_regression else odd.random.integers(0, 2, rows)
        tasks[name] = (odd.random.normal(size=(rows, width)), y)
        if odd.chance(0.2):
            tasks[name] = (odd_inputs(odd, rows, width), tasks[name][1])
        if odd.chance(0.2):
            tasks[name] = (tasks[name][0], odd_targets(odd, rows))
        if odd.chance(0.03):
            tasks[name] = odd.pick([None, (), tasks[name][:1], "xy", np.zeros((2, 2))])
    options: dict[str, Any] = {}
    choices: dict[str, list[Any]] = {
        "classes": [["a", "b"], [0, 1], ["0", "1", "2"], [], ["a"], "ab", [0, 0], [None, 1]],
        "regression": [True, False],
        "outputs": [["y"], ["a", "b"], [], ["a", "a"], "ab"],
        "truth": [[0] * len(tasks), [0], ["a"] * len(tasks), [0.5] * len(tasks), None],
        "sources": [{}, {name: [0] for name in tasks}, {"one": None}],
    }
    for name in odd.some(list(choices), 1):
        options[name] = odd.pick(choices[name])
    what = f"{tasks}\n{options}"[:4000]
    found = attempt(lambda: pv.TaskSet.from_arrays(tasks, **options), what)
    if found is None:
        return
    check_tasks(found)
    attempt(lambda: repr(found), what)
    attempt(lambda: found.describe(), what)
    shares = [odd.pick(SPLIT[name]) for name in ("validation", "test", "seed")]
    parts = attempt(lambda: pv.split_tasks(found, *shares), what)
    if parts is not None and odd.chance(0.5):
        found = parts.train
    fit_and_predict(odd, found, what)


@pytest.mark.parametrize("given", [None, [], {}, "x", 3, [(1, 2)], {"a": None}, {1: (1, 2)}])
def test_no_arrays(given: Any) -> None:
    assert attempt(lambda: pv.TaskSet.from_arrays(given), repr(given)) is None


# Settings


VALUES: list[Any] = [
    *(None, True, 0, 1, -1, 2, 0.5, -0.5, 1e300, math.nan, math.inf, "", "x", [], [1], {}, ()),
    *(pv.Constant(0.0), pv.Constant(1e-3), pv.Ramp(0.0, 1.0, 0.5), pv.Constant, np.float32(0.1)),
]


@pytest.fixture(scope="module")
def tasks() -> pv.TaskSet:
    return pv.clusters(2, 2, samples=5, dimensions=2, seed=0).train


@pytest.mark.inputs(5, 120)
def test_settings(odd: Odd, seed: int, tasks: pv.TaskSet) -> None:
    given = {"epochs": 1, "steps_per_epoch": 2}
    names = [field.name for field in fields(pv.TrainingSettings)]
    for name in odd.some(names, 2):
        given[name] = odd.pick(VALUES)
    what = repr(given)
    if given["epochs"] == 2 or given["steps_per_epoch"] is None:
        given |= {"epochs": 1}
    training = attempt(lambda: pv.TrainingSettings(**given), what)  # type: ignore[arg-type]
    kinds: list[Callable[[Any], Any]] = [
        lambda value: pv.MLP(value),
        lambda value: pv.MLP(2, hidden=value),
        lambda value: pv.MLP(2, dropout=value),
        lambda value: pv.PrincipalComponents(value),
        lambda value: pv.Nested(gamma=value),
        lambda value: pv.Nested(known=value),
        lambda value: pv.Settings(value),
        lambda value: pv.Settings(pool=value),
        lambda value: pv.Settings(pv.Identity(), pv.Mixture(), classifier=value),
        lambda value: pv.Settings(classifier="mean_field", initial_scale=value),
        lambda value: pv.Settings(bias=value),
        lambda value: pv.Constant(value),
        lambda value: pv.Decay(value, 0.5),
        lambda value: pv.Stairs(pv.Constant(1.0), value),
    ]
    number = int(odd.random.integers(len(kinds)))
    value = odd.pick([v for v in VALUES if repr(v) != "1e+300"])
    what = f"{what} and {value!r} for kind {number}"
    made = attempt(lambda: kinds[number](value), what, also=TypeError)  # ACCEPTED["types"]
    choice = made if isinstance(made, pv.Settings) else None
    if choice is None and isinstance(made, (pv.MLP, pv.PrincipalComponents)):
        choice = pv.Settings(made)
    elif choice is None and isinstance(made, pv.Pool):
        choice = pv.Settings(pv.Identity(), made)
    trained = training or TINY
    fitted = attempt(lambda: pv.fit(tasks, None, choice, trained, log_warnings=False), what)
    if fitted is not None:
        draws = odd.pick([1, 5, 0, -1])
        found = attempt(lambda: fitted.predict(tasks, draws), what)
        if found is not None:
            check_predictions(found)


# Saved models


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, pv.TaskSet]]:
    """Four models of different kinds, and what they were fitted to."""
    folder = tmp_path_factory.mktemp("saved")
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"ward": list("aabbc") * 6, "age": generator.normal(size=30)})
    frame["sex"] = generator.choice(["f", "m"], 30)
    frame["ill"] = np.where(frame["age"] + generator.normal(size=30) > 0, "yes", "no")
    frame.loc[3:5, "age"] = np.nan
    digits = pv.clusters(3, 2, samples=5, dimensions=2, seed=0).train
    x, y = generator.normal(size=(12, 2)), generator.normal(size=(12, 2))
    numbers = pv.TaskSet.from_arrays({"one": (x[:6], y[:6]), "two": (x[6:], y[6:])})
    network = pv.Settings(pv.MLP(2, hidden=(4,)), pv.Mixture())
    found = []
    for name, tasks, settings in (
        ("table", pv.read_table(frame, "ward", "ill"), None),
        ("numbers", numbers, None),
        ("network", digits, network),
        ("gradients", digits, replace(network, classifier="mean_field")),
    ):
        fitted = pv.fit(tasks, None, settings, TINY, log_warnings=False)
        found.append((pv.save(fitted, folder / name), tasks))
    return found


def spoil_model(odd: Odd, folder: Path) -> None:
    description, tensors = folder / "model.json", folder / "model.safetensors"
    way = odd.random.random()
    if way < 0.6:
        plain = odd.changed(json.loads(description.read_text()))
        description.write_text(json.dumps(plain))
    elif way < 0.7:
        description.write_bytes(odd.spoilt(description.read_bytes()))
    elif way < 0.8:
        tensors.write_bytes(odd.spoilt(tensors.read_bytes()))
    elif way < 0.83:
        odd.pick([description, tensors]).unlink()
    else:  # by someone who writes no digest
        plain = json.loads(description.read_text())
        plain["digest"] = None
        found = unpack(tensors.read_bytes())
        name = odd.pick(sorted(found))
        value = found[name]
        others = [
            *(value.double(), value.int(), value * math.nan, value * math.inf, value * 0),
            *([] if value.dtype == torch.bool else [-value, value * 1e30]),
            *(value[:0] if value.dim() else value[None], torch.zeros(3), value.half()),
        ]
        found[name] = odd.pick(others).contiguous()
        if odd.chance(0.1):
            del found[name]
        tensors.write_bytes(pack(found))
        description.write_text(json.dumps(plain))


@pytest.mark.inputs(12, 240)
def test_a_saved_model(
    odd: Odd, seed: int, saved: list[tuple[Path, pv.TaskSet]], tmp_path: Path
) -> None:
    path, tasks = odd.pick(saved)
    folder = tmp_path / "model"
    shutil.copytree(path, folder)
    before = (folder / "model.json").read_text()
    spoil_model(odd, folder)
    description = folder / "model.json"
    after = description.read_bytes().decode("utf-8", "replace") if description.exists() else ""
    what = f"{path.name}: {difference(before, after)}"
    fitted = attempt(lambda: pv.load(folder), what)
    if fitted is None:
        return
    rows = attempt(lambda: pv.TaskSet.from_arrays({"new": (tasks.x, None)}, fitted.classes), what)
    found = attempt(lambda: fitted.predict(tasks, 5), what)
    if found is not None:
        check_predictions(found)
    if rows is not None and fitted.columns is not None:
        attempt(lambda: pv.read_rows(pd.DataFrame({"ward": ["a"], "age": [1]}), fitted), what)
    attempt(lambda: pv.save(fitted, tmp_path / "again"), what)


def difference(one: str, other: str) -> str:
    places = [n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    start = max(0, places[0] - 100) if places else 0
    return f"{one[start : start + 300]!r} became {other[start : start + 300]!r}"


@pytest.mark.parametrize("path", ["", ".", "absent", "/dev/null", "a\x00b", "x" * 300, "~", "/"])
def test_no_model(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert attempt(lambda: pv.load(path), repr(path)) is None


@pytest.mark.inputs(6, 100)
def test_tasks_that_come_and_go(odd: Odd, seed: int, saved: list[tuple[Path, pv.TaskSet]]) -> None:
    path, tasks = odd.pick(saved)
    fitted = pv.load(path)
    what = path.name
    for _ in range(3):
        if odd.chance(0.4):
            name = odd.pick([*fitted.names, "absent", "", None, 3])
            found = attempt(partial(fitted.forget, name), f"{what}: forget {name!r}")
        else:
            rows = int(odd.random.integers(1, 8))
            x: Any = odd.random.normal(size=(rows, len(tasks.x[0])))
            x = odd_inputs(odd, rows, x.shape[1]) if odd.chance(0.2) else x
            y: Any = None
            if fitted.classes is None and odd.chance(0.8):
                y = odd.random.normal(size=(rows, 2)) * odd.pick([1, 1, 1e10, 1e30, 1e-30])
            elif odd.chance(0.8):
                y = odd.random.integers(0, len(fitted.classes or "ab"), rows)
            name = odd.pick(["new", "newer", "one", "", "mean", "a"])
            given: dict[str, Any] = {"classes": fitted.classes}
            given["regression"] = None if fitted.classes else True
            new = attempt(partial(pv.TaskSet.from_arrays, {name: (x, y)}, **given), what)
            if new is None:
                continue
            said = f"{what}: add {name!r} {x!r} {y!r}"
            found = attempt(partial(fitted.add_task, new, seed=odd.pick([0, 7])), said)
            if found is not None:
                check_predictions(found.predict(_of(found, new), 10))
        if found is not None:
            fitted = found
            what += " and on"
    attempt(lambda: pv.relatedness(fitted), what)


def _of(fitted: pv.FittedVMTL, new: pv.TaskSet) -> pv.TaskSet:
    """The samples of new tasks, as a set of all tasks of a model."""
    place = torch.tensor([fitted.names.index(name) for name in new.names])
    return pv.TaskSet(fitted.names, new.x, new.y, place[new.task], new.classes, outputs=new.outputs)


# Estimators


def is_scikit_learns(error: Exception) -> bool:
    """Whether it is raised by scikit-learn's own checks."""
    if not isinstance(error, (ValueError, TypeError)):
        return False
    rooms = [
        frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    return any(str(room).startswith("sklearn.") for room in rooms)


@pytest.mark.inputs(6, 160)
def test_an_estimator(odd: Odd, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    frame = odd.frame(2)
    kind = odd.pick([pv.VMTLClassifier, pv.VMTLRegressor])
    options: dict[str, Any] = {"training": TINY, "num_samples": 10}
    choices: dict[str, list[Any]] = {
        "task": ["ward", "ward", "ward", "no such", 3, ""],
        "encoder": [pv.MLP(2, hidden=(4,)), "MLP", None],
        "pool": [pv.Standard(), pv.Mixture(), 3, None],
        "gaps": ["refuse", "x", None],
        "categories": [["age"], "age", ["no such"], [3]],
        "validation": [0, 0.5, 1.0, -1, "x", None, math.nan],
        "num_samples": [1, 0, 2.5, "x", None],
        "random_state": [1, None, "x", -1, np.random.RandomState(0)],
    }
    options["task"] = "ward" if odd.chance(0.7) else None
    for name in odd.some(list(choices), 1):
        options[name] = odd.pick(choices[name])
    features = [name for name in frame.columns if name not in ("ill", "days", "stage")]
    X: Any = frame.loc[:, [name in features for name in frame.columns]]
    y: Any = frame["ill" if kind is pv.VMTLClassifier else "days"] if _has(frame) else None
    if odd.chance(0.2):
        X = odd_inputs(odd, len(frame), 2)
        options["task"] = None
    if odd.chance(0.2):
        y = odd_targets(odd, len(frame))
    tasks = odd.pick(
        [None, None, ["a"] * len(frame), [1], frame.index, "abc", X, [None] * len(frame)]
    )
    if options.get("task") is not None and odd.chance(0.8):
        tasks = None
    what = f"{kind.__name__}({options}).fit\n{shown(X)}\n{shown(y)}\n{shown(tasks)}"[:4000]

    def guarded(call: Callable[[], Any]) -> Any:
        try:
            return attempt(call, what)
        except AssertionError as error:
            if isinstance(error.__cause__, Exception) and is_scikit_learns(error.__cause__):
                return None
            raise

    model = guarded(lambda: kind(**options).fit(X, y, tasks=tasks))
    if model is None:
        return
    new = X
    if isinstance(X, pd.DataFrame) and odd.chance(0.6):
        new, tasks = odd.pick(odd.spoilings())(X), None if tasks is None else tasks
    found = guarded(lambda: model.predict(new, tasks=tasks))
    if found is not None:
        assert len(found) == len(new)
        if kind is pv.VMTLRegressor:
            assert np.isfinite(found).all()
        else:
            chances = model.predict_proba(new, tasks=tasks)
            np.testing.assert_allclose(chances.sum(1), 1, atol=1e-6)
    if odd.chance(0.3):
        guarded(lambda: model.partial_fit(new, y, tasks=tasks))
    if odd.chance(0.3):
        guarded(lambda: model.score(new, y, tasks=tasks))


def _has(frame: pd.DataFrame) -> bool:
    names: Sequence[Any] = list(frame.columns)
    return names.count("ill") == 1 and names.count("days") == 1
