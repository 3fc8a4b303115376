"""Reading tables: text, Parquet, Feather and Excel files, and frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from pyro_vmtl.data.cells import is_text
from pyro_vmtl.errors import InputError

__all__ = ["Table", "read_frame"]

Table: TypeAlias = str | Path | pd.DataFrame
"""A file, or what was read from one: a pandas frame, or another that has ``to_pandas``."""

_PARQUET = (".parquet", ".pq")
_EXCEL = (".xlsx", ".xlsm", ".xls", ".ods")
_MAGIC = b"PAR1"  # how a Parquet file begins and ends


def read_frame(
    source: Table, separator: str | None = None, encoding: str | None = None
) -> tuple[pd.DataFrame, str]:
    """A table with text for its columns' names, and what messages call it.

    Cells of text files are text, as they stand: what they mean is seen later.

    :param source: a file, or a frame, which stays as it is.
    :param separator: between the columns of a text file; None for a tab in ``.tsv`` and a comma
        elsewhere.
    :param encoding: of a text file; None for UTF-8.
    :raises InputError: for what cannot be read, or has no row, or two columns of one name.
    """
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        frame, table = _read(path, separator, encoding), f"the table '{path}'"
    elif isinstance(source, pd.DataFrame):
        frame, table = source.copy(deep=False), "the DataFrame"
    elif hasattr(source, "to_pandas"):  # polars, pyarrow and others
        frame, table = source.to_pandas(), f"the {type(source).__name__}"
    else:
        raise InputError(
            f"the table is a {type(source).__name__}; expected the path of a file, or a DataFrame."
        )
    frame.columns = [str(column) for column in frame.columns]
    halves = [name for name in frame.columns if not is_text(name)]
    if halves:
        raise InputError(
            f"{table} has a column {halves[0]!r}, half a character; expected names that UTF-8 can "
            "write."
        )
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise InputError(f"{table} has two columns {twice[0]!r}; expected each name once.")
    if len(frame) == 0:
        raise InputError(f"{table} has no row; expected one per sample.")
    return frame, table


def _read(path: Path, separator: str | None, encoding: str | None) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(
            f"the table '{path}' {'is a folder' if path.is_dir() else 'does not exist'}; "
            "expected a CSV, Parquet, Feather or Excel file."
        )
    suffix = path.suffix.casefold()
    with path.open("rb") as file:
        parquet = file.read(len(_MAGIC)) == _MAGIC
    named = suffix in _PARQUET
    if parquet != named:
        raise InputError(
            f"the table '{path}' is named as {'Parquet' if named else 'text'} and is "
            f"{'Parquet' if parquet else 'not'}; expected .parquet for Parquet files and only them."
        )
    kind = "text with separated columns"
    try:
        if parquet:
            kind = "Parquet"
            return pd.read_parquet(path, dtype_backend="numpy_nullable")
        if suffix == ".feather":
            kind = "Feather"
            return pd.read_feather(path, dtype_backend="numpy_nullable")
        if suffix in _EXCEL:
            kind = "a workbook (its first sheet is read)"
            options: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
            return pd.read_excel(path, **options)
        return _read_text(path, separator, encoding)
    except MemoryError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(
            f"the table '{path}' cannot be read as {encoding or 'UTF-8'} (byte {error.start}); "
            "expected the encoding it is in, such as encoding='latin-1'."
        ) from error
    except Exception as error:  # of the many ways in which a file is not a table
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"the table '{path}' cannot be read ({reason}); expected {kind}."
        ) from error


def _read_text(path: Path, separator: str | None, encoding: str | None) -> pd.DataFrame:
    tab = ".tsv" in [suffix.casefold() for suffix in path.suffixes]
    frame = pd.read_csv(
        path,
        sep=separator or ("\t" if tab else ","),
        dtype=str,
        keep_default_na=False,
        encoding=encoding or "utf-8-sig",
        skipinitialspace=True,
    )
    # Rows may have a column more than the header, as R writes them.
    if not isinstance(frame.index, pd.RangeIndex) and len(frame.columns) > 1:
        frame = frame.reset_index(names="Unnamed: 0")
    return frame
