"""Files as text, and JSON, YAML and CSV read strictly: nothing is given twice, a scalar is what was written.

Python's readers let the last of two equal keys win, and YAML 1.1 makes 45045 of `12:30:45` and False of `no`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from decodedrift.core.records import InputError, shortened
from decodedrift.core.secrecy import excerpt

# of YAML: whatever else is written plainly is a text, and settings read it as they read a flag
SCALARS = (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "-?(?:0|[1-9][0-9]*)", "-0123456789"),
    ("float", r"-?(?:0|[1-9][0-9]*)\.[0-9]+(?:[eE][-+]?[0-9]+)?", "-0123456789"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", "<<", "<"),
)

MERGE = "tag:yaml.org,2002:merge"


def path_of(name: str | Path, option: str = "") -> Path:
    """A path as it was written, `~` read as the home folder; whether anything is there is not asked.

    Raises:
        InputError: one that no file system takes, as a text in the place of a name, or that is out of reach.
    """
    path = Path(os.path.expanduser(name))
    try:
        path.exists()
    except OSError as error:
        shown = str(name) if len(str(name)) <= 60 else f"{str(name)[:60]}..."
        raise InputError(f"{option} {shown}: cannot be a file or folder here ({error.strerror})".strip()) from None
    return path


def existing(source: str | Path, option: str, otherwise: str = "") -> Path:
    """The file that an option names, or a refusal that says what is there instead."""
    path = path_of(source, option)
    if path.is_dir():
        raise InputError(f"{option} {source}: this is a folder; name a file in it")
    if not path.is_file():
        raise InputError(f"{option} {source or repr('')}: no such file{otherwise}")
    return path


def read_utf8(path: Path, option: str) -> str:
    """A file's text, newlines as they are, a byte-order mark dropped.

    Raises:
        InputError: unreadable or not UTF-8, with line and offset of the first bad byte.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{option} {path}:{line}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be read ({error.strerror})") from None
    if "\0" in text:  # UTF-16 without a mark decodes as UTF-8, every other character a NUL
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{option} {path}:{line}: it holds a NUL character, as UTF-16 does; save it as UTF-8")
    return text


def read_json(content: str, where: str, first: int = 1) -> Any:
    """JSON in which no object names a key twice.

    Args:
        where: what the content is of, such as its path.
        first: the number of its first line there.

    Raises:
        InputError: it is not valid, or names a key twice.
    """
    try:
        return json.loads(content, object_pairs_hook=_distinct)
    except KeyError:
        key, at = _repeated(content)
        line = first + content.count("\n", 0, at)
        raise InputError(f"{where}:{line}: the key {shortened(key)} is given twice; keep one of them") from None
    except json.JSONDecodeError as error:
        line = first + error.lineno - 1
        raise InputError(f"{where}:{line}: not valid JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, brackets without an end
        raise InputError(f"{where}:{first}: not usable JSON ({excerpt(error, 100)})") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise KeyError
    return table


def _repeated(content: str) -> tuple[str, int]:
    """The first key that its object has already, and where it stands; the content was valid JSON up to there."""
    objects: list[set[str]] = []
    for match in re.finditer(r'("(?:[^"\\]|\\.)*")(\s*:)?|[{}]', content):
        if match[0] == "{":
            objects.append(set())
        elif match[0] == "}":
            objects.pop()
        elif match[2]:
            key = json.loads(match[1])
            if key in objects[-1]:
                return key, match.start()
            objects[-1].add(key)
    raise AssertionError("a key that was given twice is found again")


def read_yaml(content: str, path: str) -> Any:
    """YAML in which no table names a key twice, and whose plain scalars are what they look like.

    Only true, false, null and numbers in their usual form are read as such: 12:30:45, 007, 2024-01-01, yes and 1_000
    are the texts that were written.

    Raises:
        InputError: it is not valid, or names a key twice, with the line.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (pyyaml's own, replaced and not shared)

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            names: set[str] = set()
            for key, _ in node.value:
                name = str(key.value)
                if name in names and key.tag != MERGE:
                    at = key.start_mark.line + 1
                    raise InputError(f"{path}:{at}: the key {shortened(name)} is given twice; keep one of them")
                names.add(name)
            return node

    for name, form, first in SCALARS:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"(?:{form})$"), list(first))
    try:
        return yaml.load(content, Loader)
    except InputError:
        raise
    except Exception as error:  # yaml's own, nesting without an end, numbers of thousands of digits, tables as keys
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else path
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{place}: cannot be read ({excerpt(problem, 120)})") from None


def csv_rows(content: str, path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(line, cells by column) of every row that is not empty; upper case in a header's names does not count.

    Raises:
        InputError: not valid, one of `columns` twice or among spaces, a row of another length, or a quote after a
            space, which is a letter of the cell and no quote.
    """
    header: list[str] | None = None
    rows, spaced = (
        csv.reader(io.StringIO(content, newline=""), strict=s, skipinitialspace=not s) for s in (True, False)
    )
    try:
        for row, other in zip_longest(rows, spaced):
            where = f"{path}:{rows.line_num}"
            if row and [cell.lstrip(" ") for cell in row] != [cell.lstrip(" ") for cell in other or ()]:
                raise InputError(f"{where}: a quote after a space does not begin a cell; take the space before it out")
            if header is None:
                header = _header(row or [], columns, path)
            elif row:
                if len(row) != len(header):
                    raise InputError(f"{where}: this row has another number of cells than the header")
                yield rows.line_num, dict(zip(header, row, strict=True))
        if header is None:
            _header([], columns, path)
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: not valid CSV ({error})") from None


def _header(row: list[str], columns: Sequence[str], path: Path) -> list[str]:
    names = [name.lower() for name in row]
    for name in dict.fromkeys(names):
        if name and names.count(name) > 1:
            raise InputError(f"{path}:1: the column `{name}` is given twice; keep one of them")
    for name in names:
        if name != name.strip() and name.strip() in columns:
            raise InputError(f"{path}:1: the column {name!r} has spaces around its name; write `{name.strip()}`")
    if columns[0] not in names:
        also = " and ".join(f"`{name}`" for name in columns[1:])
        raise InputError(f"{path}:1: the header needs a column `{columns[0]}` (and may have {also})")
    return names
