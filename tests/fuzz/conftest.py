"""Odd inputs from a seed, and how long one may take.

``pytest tests/fuzz`` takes a sample of them, ``pytest tests/fuzz --whole`` takes all; with
``--first 1000`` they are others.
"""

from __future__ import annotations

import datetime as dt
import gzip
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from pyro_vmtl.__main__ import main
from pyro_vmtl.model.priors import nested

SECONDS = 120  # that one input may take, with room for a machine that others use as well

SHOWN = (UserWarning, RuntimeWarning, FutureWarning)  # which Python prints to the standard error

TEXTS = (
    *("", " ", "NA", "nan", "NaN", "inf", "-inf", "None", "null", "?", "-", "true", "False"),
    *("1e400", "1e-400", "1e308", "-1e308", "1_000", "1,5", "1.000,5", "1.5e", "--1", "0x10"),
    *("-0", "+5", "１２", "²", "٣", "٣.5", "1 000", "007", "1.0", "00", "1e5", "5%"),
    *("2026-01-31", "2026-02-30", "0000-00-00", "9999-12-31", "0001-01-01", "1600-01-01"),
    *("2026-01-31T25:00", "2026-01-31 12:00+99:99", "31.01.2026", "12:30"),
    *("\x00", "a\nb", "a\rb", 'a"b', "a,b", "a;b", "a\tb", "\ud800", "🙂", "e\u0301", "\u202ex"),
    *("<script>x</script>", "{{ 7 * 7 }}", "%s", "[/red]", ":smile:", "=1+1", "${oc.env:HOME}"),
    *("mean", "base", "all tasks", "a / b", "x=1", "x is missing", "a" * 5000, "../../x", "~"),
)
OBJECTS: tuple[Any, ...] = (
    *(None, np.nan, pd.NA, pd.NaT, np.datetime64("NaT"), True, np.bool_(False), 0, -1, 2**63),
    *(10**30, 10**400, float("inf"), -float("inf"), np.float16(1), np.float64(1e300), 5e-324),
    *(Decimal("1.5"), Decimal("NaN"), Decimal("sNaN"), Decimal("1e999"), Fraction(1, 3), 1 + 2j),
    *(b"x", [1], {"a": 1}, (1, 2), (), set(), frozenset(), np.arange(2), np.array(5), object()),
    *(dt.date(2026, 1, 31), dt.date(1, 1, 1), dt.datetime(9999, 12, 31), dt.time(1), len),
    *(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.timedelta(1), pd.Timestamp("1700-01-01")),
    *(pd.Timestamp("2026-01-01", tz="Asia/Tokyo"), pd.Period("2026-01"), pd.Interval(0, 1)),
)
NAMES = (
    *("", " ", "(task)", "(target)", "target", "task", "prediction", "probability yes", "sd"),
    *("log_density", "Unnamed: 0", "sex=m", "age is missing", "outcome", "a b", "a=b", "a.b"),
    *("age", "ill", "ward", "🙂", "a\nb", "x" * 300, "[/red]", "<b>", "mean", "1", "${x}"),
)
DTYPES = (
    *("float32", "float16", "Float64", "Int64", "int8", "uint64", "bool", "boolean", "string"),
    *("category", "object", "complex128", "datetime64[ns]", "datetime64[s]", "datetime64[ns, UTC]"),
    *("timedelta64[ns]", "period[D]", "Sparse[float64]", "double[pyarrow]", "string[pyarrow]"),
    *("int64[pyarrow]", "bool[pyarrow]", "date32[pyarrow]", "decimal128(9, 2)[pyarrow]"),
)


class TookTooLong(BaseException):
    """It is no Exception, so that nothing takes it for an error of its own."""


class Odd:
    """Odd tables, files and values, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.random.integers(len(options)))]

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def some(self, options: Sequence[Any], most: int) -> list[Any]:
        return [self.pick(options) for _ in range(int(self.random.integers(most + 1)))]

    # Tables

    def table(self, rows: int | None = None) -> pd.DataFrame:
        """A good one: wards, two features, and targets of three kinds."""
        count = int(self.random.integers(8, 40)) if rows is None else rows
        names = list("abcd")[: int(self.random.integers(1, 5))]
        frame = pd.DataFrame({"ward": self.random.choice(names, count)})
        frame["age"] = self.random.normal(60, 10, count).round(2)
        frame["sex"] = self.random.choice(["f", "m"], count)
        risk = (frame["age"] - 60) / 10 + self.random.logistic(size=count)
        frame["ill"] = np.where(risk > 0, "yes", "no")
        frame["days"] = (100 + 20 * risk).round(2)
        frame["stage"] = self.random.integers(1, 4, count)
        return frame

    def frame(self, most: int = 3) -> pd.DataFrame:
        """A good table, spoilt up to so many times."""
        frame = self.table()
        for _ in range(int(self.random.integers(most + 1))):
            frame = self.pick(self.spoilings())(frame)
        return frame

    def spoilings(self) -> list[Callable[[pd.DataFrame], pd.DataFrame]]:
        return [
            *(self.with_texts, self.with_texts, self.with_objects, self.of_another_type),
            *(self.renamed, self.without_a_column, self.with_few_rows, self.of_other_tasks),
            *(self.with_gaps, self.scaled, self.constant, self.reindexed, self.widened),
        ]

    def place(self, frame: pd.DataFrame) -> int:
        return int(self.random.integers(max(1, frame.shape[1])))

    def replaced(self, frame: pd.DataFrame, place: int, values: Any) -> pd.DataFrame:
        columns = [frame.iloc[:, number] for number in range(frame.shape[1])]
        if not columns:
            return frame
        columns[place] = _series(values, frame.index, frame.columns[place])
        out = pd.concat(columns, axis=1)
        out.columns = frame.columns
        return out

    def with_cells(self, frame: pd.DataFrame, options: Sequence[Any], share: float) -> Any:
        if not frame.size:
            return frame
        place = self.place(frame)
        values = np.array([*frame.iloc[:, place].tolist(), None], dtype=object)[:-1]
        chosen = self.pick(options)
        for row in np.flatnonzero(self.random.random(len(values)) < share):
            values[row] = chosen if self.chance(0.8) else self.pick(options)
        return self.replaced(frame, place, values)

    def with_texts(self, frame: pd.DataFrame) -> pd.DataFrame:
        return self.with_cells(frame, TEXTS, self.pick([0.05, 0.3, 1.0]))

    def with_objects(self, frame: pd.DataFrame) -> pd.DataFrame:
        return self.with_cells(frame, OBJECTS, self.pick([0.05, 0.3, 1.0]))

    def with_gaps(self, frame: pd.DataFrame) -> pd.DataFrame:
        return self.with_cells(frame, [None, np.nan], self.pick([0.1, 0.6, 1.0]))

    def of_another_type(self, frame: pd.DataFrame) -> pd.DataFrame:
        if not frame.size:
            return frame
        place, dtype = self.place(frame), self.pick(DTYPES)
        try:
            return self.replaced(frame, place, frame.iloc[:, place].astype(dtype))
        except Exception:  # pandas does not make every type of every other
            return frame

    def renamed(self, frame: pd.DataFrame) -> pd.DataFrame:
        names = list(frame.columns)
        if names:
            names[self.place(frame)] = self.pick([*NAMES, 1, 1.5, None, ("a", "b"), np.nan])
        out = frame.copy()
        out.columns = pd.Index(names, dtype=object)
        return out

    def without_a_column(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.drop(columns=frame.columns[self.place(frame)]) if frame.shape[1] else frame

    def with_few_rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.iloc[: self.pick([0, 1, 2, 3])]

    def of_other_tasks(self, frame: pd.DataFrame) -> pd.DataFrame:
        if "ward" not in list(frame.columns) or not len(frame):
            return frame
        place = list(frame.columns).index("ward")
        values = self.pick(
            [
                [f"t{row}" for row in range(len(frame))],
                ["only"] * len(frame),
                ["first", *["rest"] * (len(frame) - 1)],
                [self.pick(TEXTS) for _ in range(len(frame))],
            ]
        )
        return self.replaced(frame, place, values)

    def scaled(self, frame: pd.DataFrame) -> pd.DataFrame:
        numbers = [n for n in range(frame.shape[1]) if frame.dtypes.iloc[n].kind in "if"]
        if not numbers:
            return frame
        place = self.pick(numbers)
        factor = self.pick([1e300, 1e-300, 1e37, 1e-37, 1e12, 1e6, 0.0, -1e306, 1e18])
        values = frame.iloc[:, place].to_numpy(dtype=np.float64, na_value=np.nan) * factor
        return self.replaced(frame, place, values + self.pick([0.0, 1e15, 1.0]))

    def constant(self, frame: pd.DataFrame) -> pd.DataFrame:
        if not frame.size:
            return frame
        return self.replaced(frame, self.place(frame), [self.pick(TEXTS)] * len(frame))

    def reindexed(self, frame: pd.DataFrame) -> pd.DataFrame:
        out = frame.copy()
        count = len(out)
        out.index = self.pick(
            [
                pd.Index([0] * count),
                pd.Index([f"r{n}" for n in range(count)]),
                pd.MultiIndex.from_arrays([[0] * count, range(count)], names=["a", "ward"]),
                pd.date_range("2026-01-01", periods=count),
                pd.Index([np.nan] * count),
            ]
        )
        return out

    def widened(self, frame: pd.DataFrame) -> pd.DataFrame:
        count = len(frame)
        values = self.pick(
            [
                range(count),
                [f"name {n}" for n in range(count)],
                [f"2026-01-{1 + n % 28:02}" for n in range(count)],
                [None] * count,
                self.random.normal(size=count) > 0,
                self.random.choice([-1e308, 1e308], count),
                pd.Categorical(["u"] * count, categories=["u", "v", "w"]),
                [self.pick(TEXTS) for _ in range(count)],
            ]
        )
        name = self.pick(NAMES)
        added = _series(values, frame.index, name)
        return pd.concat([frame, added], axis=1)

    # Files

    def file(self, frame: pd.DataFrame, folder: Path, stem: str = "table") -> Path:
        """A table as a file, which is spoilt now and then."""
        folder.mkdir(parents=True, exist_ok=True)
        suffix = self.pick([".csv"] * 6 + [".tsv", ".parquet", ".parquet", ".feather", ".csv.gz"])
        path = folder / f"{stem}{suffix}"
        try:
            if suffix == ".parquet":
                frame.to_parquet(path)
            elif suffix == ".feather":
                frame.to_feather(path)
            else:
                mark = "\t" if suffix == ".tsv" else self.pick([","] * 8 + [";", "|"])
                text = frame.to_csv(index=self.chance(0.1), sep=mark, lineterminator="\n")
                written = text.encode("utf-8", "surrogatepass")
                path.write_bytes(gzip.compress(written) if suffix.endswith("gz") else written)
        except Exception:  # what a format cannot hold is written as text
            path.write_bytes(str(frame.shape).encode())
        if self.chance(0.25):
            path.write_bytes(self.spoilt(path.read_bytes()))
        if self.chance(0.03):
            path = path.rename(path.with_suffix(self.pick([".parquet", ".xlsx", ".csv", ".zip"])))
        return path

    def spoilt(self, content: bytes) -> bytes:
        """Bytes of which some are others."""
        place = int(self.random.integers(len(content) + 1))
        lines = content.split(b"\n")
        line = int(self.random.integers(len(lines)))
        return self.pick(
            [
                b"",
                content[:place],
                content[place:],
                b"\xef\xbb\xbf" + content,
                content.replace(b"\n", b"\r\n"),
                content.replace(b"\n", b"\r"),
                content.decode("utf-8", "replace").encode("utf-16"),
                content[:place] + bytes([int(self.random.integers(256))]) + content[place + 1 :],
                content[:place] + b"\x00" + content[place:],
                content[:place] + b'"' + content[place:],
                b"\n".join([*lines[:line], lines[line] + b",x,y", *lines[line + 1 :]]),
                b"\n".join([*lines[:line], b"", *lines[line:]]),
                lines[0],
                content + content,
                self.random.bytes(int(self.random.integers(200))),
            ]
        )

    # Values in JSON and of settings

    def value(self) -> Any:
        """One that JSON can hold."""
        return self.pick(
            [
                *(None, True, False, 0, 1, -1, 2, 10**15, 0.5, -0.5, 1e400, float("nan"), 1e-300),
                *("", "x", "mean", [], [1], [-1], ["x"], [[]], {}, {"x": 1}, {"Nested": {}}),
            ]
        )

    def changed(self, tree: Any) -> Any:
        """A tree of JSON in which a part is another, is missing, or is one too many."""
        if isinstance(tree, dict) and tree and self.chance(0.85):
            key = self.pick(list(tree))
            out = dict(tree)
            way = self.random.random()
            if way < 0.12:
                del out[key]
            elif way < 0.2:
                out["further"] = self.value()
            else:
                out[key] = self.changed(tree[key])
            return out
        if isinstance(tree, list) and tree and self.chance(0.7):
            place = int(self.random.integers(len(tree)))
            way = self.random.random()
            if way < 0.2:
                return [*tree[:place], *tree[place + 1 :]]
            if way < 0.4:
                return [*tree, tree[place]]
            return [*tree[:place], self.changed(tree[place]), *tree[place + 1 :]]
        return self.value()


def _series(values: Any, index: pd.Index, name: Any) -> pd.Series:
    """A column; texts that pandas' own type for them cannot hold are objects."""
    try:
        return pd.Series(values, index=index, name=name)
    except Exception:
        return pd.Series(values, index=index, name=name, dtype=object)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="tests/fuzz: all inputs, not a sample")
    parser.addoption("--first", type=int, default=0, help="tests/fuzz: the first seed, for others")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "inputs(sample, whole): so many seeds of an odd input")
    config.addinivalue_line("markers", "cases(sample, cases, ids): so many of a list, or all")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_whole = metafunc.config.getoption("--whole", default=False)
    if mark := metafunc.definition.get_closest_marker("inputs"):
        sample, whole = mark.args
        first = metafunc.config.getoption("--first", default=0)
        metafunc.parametrize("seed", range(first, first + (whole if is_whole else sample)))
    if mark := metafunc.definition.get_closest_marker("cases"):
        sample, cases, ids = mark.args
        step = 1 if is_whole else len(cases) // sample
        metafunc.parametrize("case", cases[::step], ids=ids[::step])


@pytest.fixture
def odd(seed: int, request: pytest.FixtureRequest) -> Odd:
    """Other inputs for each test and seed."""
    name = request.function.__name__.encode()
    return Odd([seed, *name])  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """An input that hangs is a failure."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise TookTooLong(f"{request.node.name} took longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an odd input ends in does not depend on how well the posterior is known."""
    monkeypatch.setattr(nested, "_ROUND", 10)
    monkeypatch.setattr(nested, "_ROUNDS", 1)
    monkeypatch.setattr(sys.modules["pyro_vmtl.inference.fit"], "_UPDATES", 4)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Run ``python -m pyro_vmtl`` with arguments in an empty folder, and look at how it ends."""
    monkeypatch.chdir(tmp_path)
    # Hydra's handlers would go on to write into the streams of an earlier test.
    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))
    monkeypatch.setattr(logging.root, "level", logging.root.level)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr("sys.argv", ["pyro_vmtl", *arguments])
        capsys.readouterr()
        code: Any = 0
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            for kind in SHOWN:
                warnings.simplefilter("default", kind)
            try:
                main()
            except SystemExit as end:
                code = 0 if end.code is None else end.code
        out, err = capsys.readouterr()
        printed = [f"{one.category.__name__}: {one.message}" for one in caught]
        what = f"{arguments}\n{err}"[-6000:]
        assert code in (0, 2), what
        assert "Traceback" not in out + err, what
        if code == 2:
            lines = err.splitlines()
            assert len(lines) == 1, what
            assert lines[0].startswith("Error: "), what
            assert not printed, f"{printed}\n{what}"
        return Ended(int(code), out, err)

    return run
