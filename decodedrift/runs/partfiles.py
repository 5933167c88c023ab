"""Tables of Parquet read back: the files of jobs, and tables that are a folder of parts; whole or what is asked for."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from decodedrift.core import untrusted
from decodedrift.core.memory import give_back
from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt
from decodedrift.measure.tables import TABLES, TEXTS, empty, typed
from decodedrift.runs.places import DATA, ROWS, UNFINISHED, where

LONG = 100_000  # rows of a table of which no column is held twice
MEND = "put it back, or run it again"  # where nothing else that the run wrote holds the same rows


@contextmanager
def _from_malloc() -> Iterator[None]:
    """Arrow takes memory of the C library, which `give_back` empties; its own pool keeps what a long table needed."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def read_parquet(path: Path, table: str, prompt_ids: Collection[str] | None = None) -> pd.DataFrame:
    """Reads back what `write_parquet` wrote. Equal texts of a column are one object: a million rows name few things.

    prompt_ids: only the rows of these prompts.
    """
    return _frame([_arrow(path, table, prompt_ids)], table)


@_from_malloc()
def _arrow(
    path: Path,
    table: str,
    prompt_ids: Collection[str] | None = None,
    columns: Sequence[str] | None = None,
    metadata: pq.FileMetaData | None = None,
) -> pa.Table:
    """The rows asked for, and of the columns those that a file of an earlier version has."""
    metadata, nothing = metadata or pq.read_metadata(path), pa.table({})
    if not metadata.num_rows:
        return nothing
    texts = [name for name in metadata.schema.names if TABLES[table].get(name) == "str"]
    chosen = None if columns is None else list(columns)
    with pq.ParquetFile(path, metadata=metadata, read_dictionary=texts) as file:
        if prompt_ids is None:
            return file.read(chosen)
        wanted = pa.array([untrusted.csv_text(i) for i in prompt_ids], type=pa.string())
        here = pc.is_in(file.read(["prompt_id"])["prompt_id"].cast(pa.string()), wanted)
        return file.read(chosen).filter(here) if pc.any(here).as_py() else nothing


@_from_malloc()
def _frame(parts: list[pa.Table], table: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Parts in order as one typed table; those of a run of an earlier version have fewer columns."""
    if not any(part.num_rows for part in parts):
        return empty(table) if columns is None else empty(table)[list(columns)]
    whole = pa.concat_tables([part for part in parts if part.num_rows], promote_options="permissive")
    parts.clear()
    series, rows = {}, len(whole)
    for name in whole.column_names:  # one after another: a long table is not held twice while it is typed
        column, whole = whole[name], whole.drop_columns([name])
        series[name] = _series(column.unify_dictionaries(), TABLES[table].get(name))
        del column
        if rows > LONG:
            give_back()
    return typed(pd.DataFrame(series, copy=False), table, columns)


def _series(column: pa.ChunkedArray, kind: str | None) -> pd.Series:
    """A column as pandas has it; of texts each distinct one is made once."""
    series = column.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    if kind != "str":
        return series.copy()  # a single part's is Arrow's own memory, which nobody may write to
    distinct = np.array([*(untrusted.csv_text_back(t) for t in series.cat.categories), None], dtype=object)
    return pd.Series(distinct[series.cat.codes], dtype=TEXTS)  # a code of -1 is the None at the end


def read_parts(
    folder: Path, table: str, prompt_ids: Collection[str] | None = None, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """A table that is a folder of Parquet parts, whole or of a few prompts or columns only.

    Raises:
        InputError: a part is damaged, or the parts are not all the rows that the run wrote.
    """
    parts, rows = _several(_parts(folder, table), table, prompt_ids, columns)
    _refuse_other(folder, table, rows)
    return _frame(parts, table, columns)


def length_of_parts(folder: Path, table: str) -> int:
    """How many rows a table of Parquet parts has.

    Raises:
        InputError: a part is damaged, or the parts are not all the rows that the run wrote.
    """
    rows = sum(map(length, _parts(folder, table)))
    _refuse_other(folder, table, rows)
    return rows


def rows_written(folder: Path) -> dict[str, int]:
    """rows.json; empty of a run of version 0.1, which wrote empty tables too."""
    path = where(folder, ROWS)
    try:
        rows = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise InputError(f"{path}: cannot be read ({excerpt(error, 120)})") from None
    if not isinstance(rows, dict):
        raise InputError(f"{path}: cannot be read (it is no object of JSON)")
    return rows


def lost_parts(folder: Path, table: str) -> dict[Path, Path]:
    """Parts of a table that are not there, or not whole -> the files of their jobs, which are; not of `--no-text`."""
    lost = {}
    for source in sorted(where(folder, "jobs").glob(f"*/{table}.parquet")):
        part = where(folder, table) / f"{source.parent.name}.parquet"
        with suppress(InputError):  # a job's file that is damaged itself mends nothing
            if (length(part) if part.exists() else 0) < length(source):
                lost[part] = source
    return lost


def _parts(folder: Path, table: str) -> list[Path]:
    """The files of a table, a job each: those of the jobs themselves while the run has not finished."""
    if not folder.is_dir():
        raise InputError(f"{folder}: the run folder has been moved or deleted, and its {table} with it")
    if _under_way(folder):
        return sorted(where(folder, "jobs").glob(f"*/{table}.parquet"))
    return sorted(where(folder, table).glob("*.parquet"))


def _under_way(folder: Path) -> bool:
    return where(folder, UNFINISHED).is_file() and where(folder, "jobs").is_dir()


def _refuse_other(folder: Path, table: str, rows: int) -> None:
    """Raises where the parts of a finished run's table are not the rows that it wrote, with what mends it."""
    wrote = rows if _under_way(folder) else rows_written(folder).get(table, rows)
    if rows == wrote:
        return
    place, less = where(folder, table), f"and with it {wrote - rows} of the {wrote} rows of {table} that this run wrote"
    if rows > wrote:
        raise InputError(f"{place}: holds {rows} rows, and this run wrote {wrote}; take out what is not of this run")
    if lost := list(lost_parts(folder, table)):
        more, again = f" and {len(lost) - 1} more" if lost[1:] else "", f"decodedrift resume {shlex.quote(str(folder))}"
        raise InputError(f"{lost[0]}{more}: missing or not whole, {less}; mend with: {again}")
    raise InputError(f"{place}: a file in it is missing or not whole, {less}; {MEND}")


def read_several(
    paths: Iterable[Path],
    table: str,
    prompt_ids: Collection[str] | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Parquet files of a table as one, in order; of a few prompts, or columns, only.

    Raises:
        InputError: one is damaged.
    """
    return _frame(_several(paths, table, prompt_ids, columns)[0], table, columns)


def _several(
    paths: Iterable[Path], table: str, prompt_ids: Collection[str] | None, columns: Sequence[str] | None
) -> tuple[list[pa.Table], int]:
    """What is asked for of each file, and how many rows they have in all."""
    parts, rows = [], 0
    for path in paths:
        try:
            metadata = pq.read_metadata(path)
            parts.append(_arrow(path, table, prompt_ids, columns, metadata))
        except Exception as error:  # pyarrow raises OSError, ArrowInvalid, KeyError and more for a file that is damaged
            raise _damaged(path, error) from None
        rows += metadata.num_rows
    return parts, rows


def prompts_of(path: Path) -> set[str]:
    """The prompts that a job's Parquet file has rows of.

    Raises:
        InputError: it is damaged.
    """
    try:
        column = pq.read_table(path, columns=["prompt_id"])["prompt_id"] if pq.read_metadata(path).num_rows else []
    except Exception as error:
        raise _damaged(path, error) from None
    return {str(prompt) for prompt in column}


def length(path: Path) -> int:
    """How many rows a Parquet file has, without reading them.

    Raises:
        InputError: it is damaged.
    """
    try:
        return int(pq.read_metadata(path).num_rows)
    except Exception as error:
        raise _damaged(path, error) from None


def check(path: Path, table: str) -> None:
    """Reads a Parquet file and drops what it says.

    Raises:
        InputError: it is damaged.
    """
    try:
        _arrow(path, table)
    except Exception as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: cannot be read ({excerpt(error, 80)}); {mend(path)}")


def mend(path: Path) -> str:
    """What is to be done where a Parquet file of a run, finished or not, is of no use."""
    of_job = (place := path.parent.parent).name == "jobs"
    data = place.parent if of_job else place
    again = f"decodedrift resume {shlex.quote(str(data.parent if data.name == DATA else data))}"
    if of_job:
        return f"delete its folder and: {again}"
    source = data / "jobs" / path.stem / f"{path.parent.name}.parquet"
    if source.is_file() and not source.samefile(path):
        return f"delete it and: {again}"
    return MEND
