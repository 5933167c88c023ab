"""Tables as files: CSV, texts quoted and escaped by `untrusted.csv_text`, and typed Parquet; read back exactly."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from decodedrift.core import untrusted
from decodedrift.core.records import InputError
from decodedrift.measure.metrics.base import INTEGERS
from decodedrift.measure.tables import FOLD_TEXTS, PARTS, TABLES, TEXTS, TEXTS_OF, WORDS, empty, typed
from decodedrift.runs.partfiles import MEND, length_of_parts, rows_written
from decodedrift.runs.places import file_of, where

AT_ONCE = 4096  # rows of a table that are held as cells
_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n]*))(,|\r?\n|\Z)')


def write_csv(frame: pd.DataFrame, path: Path, spreadsheet: bool = False) -> None:
    """A table: one header line, all text quoted, missing values empty, floats in their shortest exact form.

    spreadsheet: texts that a spreadsheet would run get a leading apostrophe.
    """
    change = (lambda text: untrusted.spreadsheet(untrusted.csv_text(text))) if spreadsheet else untrusted.csv_text
    with open(path, "w", encoding="utf-8", newline="") as handle:
        handle.write(",".join(_quoted(str(c)) for c in frame.columns) + "\n")
        for begin in range(0, len(frame), AT_ONCE):
            part = frame.iloc[begin : begin + AT_ONCE]
            for row in zip(*(_cells(part[c], change) for c in part.columns), strict=True):
                handle.write(",".join(row) + "\n")


def read_csv(path: Path, table: str) -> pd.DataFrame:
    """A table as it was: texts unescaped, types restored; `NA` and the empty text are texts, an empty cell is none.

    pandas reads `""` and an empty cell as the same thing, so the cells are told apart here: a text is quoted.

    Raises:
        InputError: no table of ours.
    """
    header, *rows = _rows(path)
    types = TABLES.get(table, {})
    columns = [[row[n] for row in rows] for n in range(len(header))]
    names = [str(name) for name in header]
    kinds = [types.get(name, "fold" if name in (*FOLD_TEXTS, *TEXTS_OF.get(table, ())) else None) for name in names]
    try:
        data = {name: _column(cells, kind) for name, kind, cells in zip(names, kinds, columns, strict=True)}
    except ValueError as error:
        raise InputError(f"{path}: not a table that decodedrift wrote ({error})") from None
    return pd.DataFrame(data, columns=names)


def _rows(path: Path) -> list[list[str | None]]:
    """The cells of a CSV file, None where one is empty and not quoted."""
    content = path.read_bytes().decode("utf-8-sig", "replace")  # not read_text: it would rewrite CRs within a text
    rows: list[list[str | None]] = [[]]
    at = 0
    while at < len(content) and (cell := _CELL.match(content, at)):
        quoted, bare, end = cell.groups()
        rows[-1].append(bare or None if quoted is None else quoted.replace('""', '"'))
        at = cell.end()
        if end != ",":
            rows.append([])
    rows = [row for row in rows if row]
    if not rows or at < len(content) or any(len(row) != len(rows[0]) for row in rows):
        raise InputError(f"{path}: not a table that decodedrift wrote; it may have been edited or cut short")
    return rows


def _column(cells: list[str | None], kind: str | None) -> pd.Series:
    """One column in its declared type; a number of a fold is an integer where every cell is one."""
    if kind in ("str", "fold"):
        texts = [None if c is None else untrusted.csv_text_back(c) for c in cells]
        return pd.Series(texts, dtype=TEXTS)
    if kind is None:
        whole = cells and all(c is not None and re.fullmatch(r"-?[0-9]+", c) for c in cells)
        kind = "int64" if whole else "float64"
    if kind == "float64":
        return pd.Series([math.nan if c is None else float(c) for c in cells], dtype=kind)
    # int, not by way of a float: seeds are long
    return pd.Series([None if c is None else int(c) for c in cells], dtype=kind)


def refuse_foreign(frames: Mapping[str, Any]) -> None:
    """Of tables of rows by name, before they are written; what else is in `frames` is passed over.

    Raises:
        InputError: one was given a column that would not be read back.
    """
    for table in TABLES.keys() & frames.keys():
        if own := [str(name) for name in frames[table].columns if name not in TABLES[table]]:
            raise InputError(f"{table}: a run has no column {own[0]!r} in it; drop it, or write it elsewhere")


def write_parquet(frame: pd.DataFrame, path: Path, table: str) -> None:
    """A typed Parquet file; lone surrogates, which Parquet's UTF-8 cannot hold, are escaped as in the CSV."""
    if len(frame):
        _write(frame, path, table)
    else:
        path.write_bytes(_without_rows(table, tuple(TABLES[table])))


@cache
def _without_rows(table: str, columns: tuple[str, ...]) -> bytes:
    """The file of a table without rows: most of a job's are, and it is made once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / table
        _write(empty(table), path, table)
        return path.read_bytes()


def _write(frame: pd.DataFrame, path: Path, table: str) -> None:
    columns = TABLES[table]
    kinds = {"str": pa.string(), INTEGERS: pa.int64(), "float64": pa.float64()}
    arrays = []
    for name, kind in columns.items():
        if kind == "str":
            texts = frame[name].tolist()  # not pd.factorize, to which "" and "\0" were one text until pandas 3
            escaped = {t: untrusted.csv_text(t) if isinstance(t, str) else None for t in dict.fromkeys(texts)}
            arrays.append(pa.array([escaped[t] for t in texts], type=pa.string()))
        else:
            arrays.append(pa.Array.from_pandas(frame[name], type=kinds[kind]))
    schema = pa.schema([pa.field(name, kinds[kind]) for name, kind in columns.items()])
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")


def without_words(frame: pd.DataFrame, table: str) -> pd.DataFrame:
    """A table without what spells out a prompt or a continuation; of tokens and alternatives nothing is left."""
    if table in ("tokens", "alternatives"):
        return frame.iloc[:0]
    return typed(frame.drop(columns=[c for c in frame.columns if c in WORDS]), table) if table in TABLES else frame


def read_tables(folder: Path, tables: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Tables of a finished run by name; one that has no rows, or came with a later version, is empty.

    A fold of which that holds is left out, and so is a table of Parquet parts, of which it is only seen that they are
    whole files, with all rows: a page needs some, and `read_parts` reads them.

    Raises:
        InputError: a table has not the rows that the run wrote, or its file is gone; or it cannot be read.
    """
    frames, rows = {}, rows_written(folder)
    for table in tables:
        path = where(folder, file_of(table))
        if table in PARTS:
            length_of_parts(folder, table)
        elif path.is_file():
            frames[table] = read_csv(path, table)
            if (held := len(frames[table])) != rows.get(table, held):
                raise InputError(f"{path}: holds {held} rows, and this run wrote {rows[table]}; {MEND}")
        elif rows.get(table):
            raise InputError(f"{path}: missing, and this run wrote {rows[table]} rows of it; {MEND}")
        elif table in TABLES:
            frames[table] = pd.DataFrame()
    return {name: typed(frame, name) if name in TABLES else frame for name, frame in frames.items()}


def _cells(series: pd.Series, change: Callable[[str], str]) -> list[str]:
    """CSV cells: texts escaped and quoted, floats by repr, nothing where a value is missing."""
    floats = pd.api.types.is_float_dtype(series.dtype)
    cells = []
    for value, missing in zip(series.tolist(), series.isna().tolist(), strict=True):
        if missing:
            cells.append("")
        elif isinstance(value, str):
            cells.append(_quoted(change(value)))
        else:
            cells.append(repr(float(value)) if floats else str(int(value)))
    return cells


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
