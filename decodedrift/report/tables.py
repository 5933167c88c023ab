"""Tables as the templates draw them: columns with a word of explanation, rows of cells, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from decodedrift.report.numbers import Number, absent, exactly, percentage
from decodedrift.report.texts import Part, brief, cell_text, token_parts


@dataclass(frozen=True)
class Column:
    """A heading. `help` is its tooltip; numbers are right-aligned."""

    label: str
    help: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """One cell. kind: text | num | token | cause | rate. `rows` > 1 spans rows, 0 is covered by the cell above."""

    kind: str
    text: str = ""
    title: str = ""
    note: str = ""
    parts: tuple[Part, ...] = ()
    interval: tuple[str, ...] = ()
    rows: int = 1
    head: bool = False


@dataclass(frozen=True)
class Table:
    """What a template draws. left_out: rows that are in `source` but not here."""

    columns: tuple[Column, ...]
    rows: list[list[Cell]] = field(default_factory=list)
    left_out: int = 0
    source: str = ""
    tall: bool = False


def text(value: Any, width: int = 80, *, head: bool = False) -> Cell:
    """A text cell, cut in the middle."""
    whole = cell_text(value)
    return Cell("text", brief(whole, width), brief(whole, 400) if len(whole) > width else "", head=head)


def num(value: Number) -> Cell:
    """A number cell."""
    return Cell("num", value.text, value.exact)


def token(value: Any, token_id: Any) -> Cell:
    """A token, its id in the title."""
    title = "" if absent(token_id) else f"id {int(token_id)}"
    return Cell("token", title=title, parts=tuple(token_parts(value, token_id)))


def cause(value: Any) -> Cell:
    """A cause, with the dot of its colour."""
    return Cell("cause", cell_text(value))


def rate(row: Any) -> Cell:
    """Diverged of traces, the rate, and its Wilson interval drawn on a scale from 0 to 100 %."""
    share, low, high = row.divergence_rate, row.divergence_rate_low, row.divergence_rate_high
    values = {"diverged": row.diverged, "divergence_rate": share}
    values |= {"divergence_rate_low": low, "divergence_rate_high": high}
    note = "" if absent(low) else f"{percentage(low).removesuffix(' %')}–{percentage(high)}"
    marks = () if any(map(absent, (share, low, high))) else tuple(f"{2 + 100 * v:.1f}" for v in (low, share, high))
    return Cell("rate", percentage(share), exactly(values), note=note, interval=marks)


def merged(rows: list[list[Cell]], columns: int = 1) -> list[list[Cell]]:
    """Equal texts below one another in the first columns become one spanning cell."""
    for column in range(columns):
        first = 0
        for index in range(1, len(rows) + 1):
            same = index < len(rows) and _key(rows[index], column) == _key(rows[first], column)
            if not same:
                rows[first][column] = replace(rows[first][column], rows=index - first)
                first = index
            else:
                rows[index][column] = replace(rows[index][column], rows=0)
    return rows


def _key(row: Sequence[Cell], column: int) -> tuple[tuple[str, str], ...]:
    return tuple((c.text, c.title) for c in row[: column + 1])
