"""Groups of the tasks of a finished run, from the influences that it wrote."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pyro_vmtl.errors import InputError
from pyro_vmtl.inspection import group_tasks
from pyro_vmtl.runs.finished import leads_out, read_influence

__all__ = ["by_task", "group_run"]


def group_run(
    run: Path, groups: int | None = None, max_size: int | None = None, overlap: bool = False
) -> pd.DataFrame:
    """The groups of a run's tasks that gain the most; see :func:`pyro_vmtl.group_tasks`.

    :param run: the folder of a finished run.
    :raises InputError: where it has no ``influence.csv``, or one that cannot be read.
    """
    path = run / "influence.csv"
    if not path.is_file() or leads_out(path, run):
        raise InputError(
            f"{path} is missing; expected a finished run with the pool Nested, an encoder that "
            "takes no gradient, and 2 to 30 tasks"
        )
    try:
        table = read_influence(path)
    except Exception as error:  # pandas has many errors for what is no table
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); expected the file of a run"
        ) from error
    return group_tasks(table, groups, max_size, overlap=overlap)


def by_task(found: pd.DataFrame) -> pd.DataFrame:
    """Groups as a row a task and group: ``group``, ``task``, and the ``gain`` of the group.

    :param found: of :func:`pyro_vmtl.group_tasks`.
    """
    rows = [
        {"group": number, "task": task, "gain": row.gain}
        for number, row in enumerate(found.itertuples(), 1)
        for task in row.tasks
    ]
    return pd.DataFrame(rows)
