"""A recorded file -> Recorded: JSONL, a JSON list or Parquet, each line our own or an engine's response."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from decodedrift.core.formats import existing, read_json, read_utf8
from decodedrift.core.records import InputError, shortened
from decodedrift.core.secrecy import excerpt
from decodedrift.models.recorded.adapters import adapted
from decodedrift.models.recorded.completion import Completion, Recorded
from decodedrift.models.recorded.lines import HEADER

SUFFIXES = (".jsonl", ".json", ".parquet")

KEPT: dict[tuple[str, int, int], Recorded] = {}  # by path, size and time: what is looked at more than once

Entry = tuple[str, Any]  # where it stands, and what


def read(path: str | Path, option: str = "--candidates") -> Recorded:
    """What a file holds, checked; it is read once until `KEPT` is cleared.

    Args:
        option: what named the file, for messages.

    Raises:
        InputError: missing, of another kind, empty, not readable, or a line that cannot be; with file and line.
    """
    file = existing(path, option)
    stamp = str(path), (now := file.stat()).st_size, now.st_mtime_ns
    if stamp not in KEPT:
        KEPT[stamp] = _read(path, file, option)
    return KEPT[stamp]


def _read(path: str | Path, file: Path, option: str) -> Recorded:
    kinds = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    if file.suffix.lower() not in kinds:
        raise InputError(f"{option} {path}: unknown kind of recorded file {file.suffix!r}; use {', '.join(SUFFIXES)}")
    entries, header = kinds[file.suffix.lower()](file, option)
    first = next(entries, None)
    if first and _is_header(first[1]):
        header = first[1][HEADER]
    elif first:
        entries = chain([first], entries)
    completions = tuple(_completions(entries))
    if not completions:
        raise InputError(f"{option} {path}: the file holds no completion")
    return Recorded(str(path), completions, header, hashlib.sha256(file.read_bytes()).hexdigest())


def _completions(entries: Iterable[Entry]) -> Iterable[Completion]:
    for place, entry in entries:
        if not isinstance(entry, Mapping):
            raise InputError(f"{place}: a completion is an object, not {shortened(entry)}")
        if _is_header(entry):
            raise InputError(f"{place}: a second header; these are two recordings, keep a file for each")
        yield from adapted(entry, place)


def _is_header(entry: Any) -> bool:
    return isinstance(entry, Mapping) and entry.keys() == {HEADER} and isinstance(entry[HEADER], Mapping)


def _jsonl(file: Path, option: str) -> tuple[Iterator[Entry], Mapping[str, Any]]:
    lines = enumerate(read_utf8(file, option).split("\n"), 1)
    return ((f"{file}:{n}", read_json(line, str(file), n)) for n, line in lines if line.strip()), {}


def _json(file: Path, option: str) -> tuple[Iterator[Entry], Mapping[str, Any]]:
    content = read_json(read_utf8(file, option), str(file))
    entries = content if isinstance(content, list) else [content]
    return ((f"{file} entry {n}", entry) for n, entry in enumerate(entries, 1)), {}


def _parquet(file: Path, option: str) -> tuple[Iterator[Entry], Mapping[str, Any]]:
    """Rows; the header is in the schema's metadata. A nested value may be JSON in a text, where Parquet has no type."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are of these
        reason = excerpt(error, 100)
        raise InputError(f"{option} {file}: not a Parquet file that can be read ({reason})") from None
    about = (table.schema.metadata or {}).get(HEADER.encode())
    header = read_json(about.decode("utf-8", "replace"), f"{file} metadata") if about else {}
    if not isinstance(header, dict):
        raise InputError(f"{file} metadata: the header under {HEADER!r} is an object, not {shortened(header)}")
    return ((f"{file} row {n}", _nested(row, f"{file} row {n}")) for n, row in enumerate(rows, 1)), header


def _nested(row: dict[str, Any], place: str) -> dict[str, Any]:
    for name in ("meta", "messages", "top_logprobs", "response", "request"):
        if isinstance(row.get(name), str):
            row[name] = read_json(row[name], f"{place} {name}")
    return row
