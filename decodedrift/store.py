"""The run folder: finished jobs written atomically, the tables made of them, and both read back.

The tables are CSV with all text quoted and escaped by `sinks.csv_text`; positions are Parquet, a part a job, under one
explicit schema (pandas silently drops a column that the first part lacks).
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from decodedrift import sinks
from decodedrift.records import InputError
from decodedrift.rows import FOLD_TEXTS, INTEGERS, TABLES, TEXTS, JobResult, typed

PART_TABLES = ("positions", "alternatives", "steps")  # too long for CSV: a folder of Parquet parts
JOB_TABLES = ("traces", "divergences", *PART_TABLES, "injection", "tokens", "timings", "failures")
ROW_TABLES = ("traces", "divergences", "injection", "perplexity", "tokens", "timings", "failures")
FOLDS = (  # made of the rows, and made again of them when a run is opened
    "distribution", "summary", "survival", "growth", "after", "risk", "comparisons", "flip_law",
    "flip_calibration", "decomposition",
)  # fmt: skip
CSV_TABLES = (*ROW_TABLES, *FOLDS)
MARK = "plan.json"

_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n]*))(,|\r?\n|\Z)')


class RunFolder:
    """One run's folder. `create` makes it, or refuses one that is not empty: nothing is overwritten."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """A new folder (or an empty one).

        Raises:
            InputError: it holds something already, or cannot be written.
        """
        folder = Path(path).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise InputError(f"--out {folder}: the folder is not empty; nothing is overwritten, name a new one")
            probe = folder / ".probe"
            probe.write_bytes(b"")
            probe.unlink()
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"--out {folder}: this is a file, not a folder") from None
        except OSError as error:
            raise InputError(f"--out {folder}: cannot be written ({error.strerror})") from None
        return cls(folder)

    def discard(self) -> None:
        """Takes away a folder in which no job finished: a run that was refused leaves nothing."""
        if not any((self.path / "jobs").glob("*")):
            (self.path / MARK).unlink(missing_ok=True)
            for folder in (self.path / "jobs", self.path):
                with suppress(OSError):  # someone else's file is in it: it stays
                    folder.rmdir()

    def write_json(self, name: str, value: Any) -> None:
        """A JSON file, whole or not at all."""
        with atomic(self.path / name) as part:
            part.write_text(sinks.to_json(value) + "\n", encoding="utf-8")

    def write_text(self, name: str, text: str) -> None:
        """A text file, whole or not at all."""
        with atomic(self.path / name) as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")

    def write_job(self, result: JobResult) -> None:
        """A finished job under jobs/<key>/, whole or not at all."""
        final = self.path / "jobs" / result.key
        part = final.with_name(final.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        with writing(final):
            part.mkdir(parents=True)
            for table in JOB_TABLES:
                write_parquet(result.frame(table), part / f"{table}.parquet", table)
            (part / "facts.json").write_text(sinks.to_json(result.facts) + "\n", encoding="utf-8")
            for file in part.iterdir():
                _sync(file)
            os.replace(part, final)
            _sync(final.parent)

    def read_jobs(self) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
        """The rows of all finished jobs, in order, and what was read back of each variant."""
        folders = sorted(p for p in (self.path / "jobs").iterdir() if p.is_dir() and p.suffix != ".part")
        frames = {}
        for table in JOB_TABLES:
            frames[table] = _joined([read_parquet(f / f"{table}.parquet", table) for f in folders], table)
        facts: dict[str, Any] = {}
        for folder in folders:
            facts |= json.loads((folder / "facts.json").read_text("utf-8"))
        return frames, facts

    def write_csv(self, table: str, frame: pd.DataFrame) -> None:
        """One table as CSV, whole or not at all."""
        with atomic(self.path / f"{table}.csv") as part:
            write_csv(frame, part)

    def write_tables(self, frames: dict[str, pd.DataFrame]) -> None:
        """The run's CSV tables, and positions/ as Parquet."""
        for table in CSV_TABLES:
            self.write_csv(table, frames[table])
        for table in PART_TABLES:
            self._write_parts(table, frames[table])

    def _write_parts(self, table: str, frame: pd.DataFrame) -> None:
        """A folder of Parquet parts: the finished jobs' own, or one part for a study that was never on disk."""
        folder = self.path / table
        folder.mkdir(exist_ok=True)
        sources = sorted((self.path / "jobs").glob(f"*/{table}.parquet"))
        for source in sources:
            with atomic(folder / f"{source.parent.name}.parquet") as part:
                shutil.copyfile(source, part)
        if not sources:
            with atomic(folder / "part-00000.parquet") as part:
                write_parquet(frame, part, table)


def open_folder(path: str | Path) -> tuple[dict[str, pd.DataFrame], dict[str, Any], dict[str, Any]]:
    """(frames, plan, environment) of a finished run's folder.

    Raises:
        InputError: not a run folder, or not finished.
    """
    folder = Path(path).expanduser()
    if not (folder / MARK).is_file():
        raise InputError(f"{folder}: not a run folder (no {MARK} in it)")
    missing = [t for t in ROW_TABLES if not (folder / f"{t}.csv").is_file()]
    if missing and missing != ["tokens"]:  # a run from before that table is whole without it
        raise InputError(f"{folder}: this run did not finish ({missing[0]}.csv is missing)")
    frames = {t: typed(pd.DataFrame(), t) if t in missing else read_csv(folder / f"{t}.csv", t) for t in ROW_TABLES}
    frames |= {t: typed(frame, t) for t, frame in frames.items() if t in TABLES}  # a column that came later is empty
    frames |= {t: _joined([read_parquet(p, t) for p in sorted((folder / t).glob("*.parquet"))], t) for t in PART_TABLES}
    plan, environment = (_json(folder / name) for name in (MARK, "environment.json"))
    return frames, plan, environment


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({str(error)[:80]})") from None


def _joined(parts: list[pd.DataFrame], table: str) -> pd.DataFrame:
    """Parts as one table; empty ones are left out, whose columns would only unsettle the types."""
    filled = [p for p in parts if len(p)]
    return pd.concat(filled, ignore_index=True) if filled else typed(pd.DataFrame(), table)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """A table: one header line, all text quoted, missing values empty, floats in their shortest exact form."""
    with open(path, "w", encoding="utf-8", newline="") as handle:
        handle.write(",".join(_quoted(str(c)) for c in frame.columns) + "\n")
        for row in zip(*(_cells(frame[c]) for c in frame.columns), strict=True):
            handle.write(",".join(row) + "\n")


def read_csv(path: Path, table: str) -> pd.DataFrame:
    """A table as it was: texts unescaped, types restored; `NA` and the empty text are texts, an empty cell is none.

    pandas reads `""` and an empty cell as the same thing, so the cells are told apart here: a text is quoted.

    Raises:
        InputError: no table of ours.
    """
    header, *rows = _rows(path)
    known = TABLES.get(table, {})
    columns = [[row[n] for row in rows] for n in range(len(header))]
    names = [str(name) for name in header]
    kinds = [known.get(name, "fold" if name in FOLD_TEXTS else None) for name in names]
    try:
        made = {name: _column(cells, kind) for name, kind, cells in zip(names, kinds, columns, strict=True)}
    except ValueError as error:
        raise InputError(f"{path}: not a table that decodedrift wrote ({error})") from None
    return pd.DataFrame(made, columns=names)


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
        texts = [None if c is None else sinks.csv_text_back(c) for c in cells]
        return pd.Series(texts, dtype=TEXTS)
    if kind is None:
        whole = cells and all(c is not None and re.fullmatch(r"-?[0-9]+", c) for c in cells)
        kind = "int64" if whole else "float64"
    if kind == "float64":
        return pd.Series([math.nan if c is None else float(c) for c in cells], dtype=kind)
    # int, not by way of a float: seeds are long
    return pd.Series([None if c is None else int(c) for c in cells], dtype=kind)


def write_parquet(frame: pd.DataFrame, path: Path, table: str) -> None:
    """A typed Parquet file; lone surrogates, which Parquet's UTF-8 cannot hold, are escaped as in the CSV."""
    columns = TABLES[table]
    kinds = {"str": pa.string(), INTEGERS: pa.int64(), "float64": pa.float64()}
    arrays = []
    for name, kind in columns.items():
        values = frame[name]
        if kind == "str":
            values = _mapped(values, sinks.csv_text)
        arrays.append(pa.Array.from_pandas(values, type=kinds[kind]))
    schema = pa.schema([pa.field(name, kinds[kind]) for name, kind in columns.items()])
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")


def read_parquet(path: Path, table: str) -> pd.DataFrame:
    """Reads back what `write_parquet` wrote."""
    frame = pq.read_table(path).to_pandas()
    for name, kind in TABLES[table].items():
        if kind == "str":
            frame[name] = _mapped(frame[name], sinks.csv_text_back)
    return typed(frame, table)


def _mapped(texts: pd.Series, change: Callable[[str], str]) -> pd.Series:
    """Each text changed; `Series.map` would put the result into Arrow's strings, which hold no lone surrogate."""
    return pd.Series([change(t) if isinstance(t, str) else None for t in texts], dtype=TEXTS)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` only when everything went well."""
    part = path.with_name(path.name + ".part")
    try:
        with writing(path):
            yield part
            _sync(part)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk that is full or gone is the user's to mend, not a bug: it is said with the path."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cells(series: pd.Series) -> list[str]:
    """CSV cells: texts escaped and quoted, floats by repr, nothing where a value is missing."""
    floats = pd.api.types.is_float_dtype(series.dtype)
    cells = []
    for value, missing in zip(series.tolist(), series.isna().tolist(), strict=True):
        if missing:
            cells.append("")
        elif isinstance(value, str):
            cells.append(_quoted(sinks.csv_text(value)))
        else:
            cells.append(repr(float(value)) if floats else str(int(value)))
    return cells


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
