"""Tables of Parquet read back: the files of jobs, and tables that are a folder of parts; whole or what is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from decodedrift.core import untrusted
from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt
from decodedrift.measure.tables import TABLES, TEXTS, empty, typed
from decodedrift.runs.places import DATA, UNFINISHED, where


def read_parquet(path: Path, table: str, prompt_ids: Collection[str] | None = None) -> pd.DataFrame:
    """Reads back what `write_parquet` wrote. Equal texts of a column are one object: a million rows name few things.

    prompt_ids: only the rows of these prompts.
    """
    return _frame([_arrow(path, table, prompt_ids)], table)


def _arrow(
    path: Path, table: str, prompt_ids: Collection[str] | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """The rows asked for, and of the columns those that a file of an earlier version has."""
    metadata, nothing = pq.read_metadata(path), pa.table({})
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


def _frame(parts: list[pa.Table], table: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Parts in order as one typed table; those of a run of an earlier version have fewer columns."""
    if not any(part.num_rows for part in parts):
        return empty(table) if columns is None else empty(table)[list(columns)]
    whole = pa.concat_tables([part for part in parts if part.num_rows], promote_options="permissive")
    frame = whole.unify_dictionaries().to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    parts.clear()
    del whole  # a long table is not held twice while it is typed
    pa.default_memory_pool().release_unused()
    for name in frame.columns.intersection([name for name, kind in TABLES[table].items() if kind == "str"]):
        texts = frame[name].cat
        distinct = np.array([*(untrusted.csv_text_back(t) for t in texts.categories), None], dtype=object)
        frame[name] = pd.Series(distinct[texts.codes], dtype=TEXTS)  # a code of -1 is the None at the end
    return typed(frame, table, columns)


def read_parts(
    folder: Path, table: str, prompt_ids: Collection[str] | None = None, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """A table that is a folder of Parquet parts, whole or of a few prompts or columns only."""
    return read_several(_parts(folder, table), table, prompt_ids, columns)


def length_of_parts(folder: Path, table: str) -> int:
    """How many rows a table of Parquet parts has."""
    return sum(map(length, _parts(folder, table)))


def _parts(folder: Path, table: str) -> list[Path]:
    """The files of a table, a job each: those of the jobs themselves while the run has not finished."""
    if not folder.is_dir():
        raise InputError(f"{folder}: the run folder has been moved or deleted, and its {table} with it")
    if where(folder, UNFINISHED).is_file() and (jobs := where(folder, "jobs")).is_dir():
        return sorted(jobs.glob(f"*/{table}.parquet"))
    return sorted(where(folder, table).glob("*.parquet"))


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
    parts = []
    for path in paths:
        try:
            parts.append(_arrow(path, table, prompt_ids, columns))
        except Exception as error:  # pyarrow raises OSError, ArrowInvalid, KeyError and more for a file that is damaged
            raise _damaged(path, error) from None
    return _frame(parts, table, columns)


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
    if (jobs := path.parent.parent).name != "jobs":
        return "delete it, then resume"
    run = jobs.parent.parent if jobs.parent.name == DATA else jobs.parent
    return f"delete its folder and: decodedrift resume {shlex.quote(str(run))}"
