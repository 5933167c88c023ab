"""Gates for CI: a bound on a column of numbers, `divergence_rate>0.1` or `kl_p99>=0.05:bf16`; it fails closed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import pandas as pd

from decodedrift.core.records import InputError, nearest

OPERATORS: dict[str, Callable[[float, float], bool]] = {">=": ge, "<=": le, "==": eq, "!=": ne, ">": gt, "<": lt}
_GATE = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=|==|!=|>|<)\s*([^:]+?)\s*(?::(.*))?", re.S)


@dataclass(frozen=True)
class Fault:
    """Why a candidate's figures under a strategy are not whole. columns: prefixes of those it spoils, none for all."""

    reason: str
    columns: tuple[str, ...] = ()

    def spoils(self, column: str) -> bool:
        """Whether a gate on this column cannot pass."""
        return not self.columns or column.startswith(self.columns)


@dataclass(frozen=True)
class Gating:
    """What of a run can be gated.

    keys: the columns of its summary that name a row; cells: all rows that there should be, whether they are or not.
    columns: of numbers. absent: by column, where alone it has a value. never: (row, column) -> whether a cell is empty
    because what it tells of never happened, not because nothing was measured. table: study -> the rows that are gated.
    faults: study -> cell -> why no gate there may pass. words: by column of the answer, what it may say.
    unmeasured: the word that nothing was measured. recommended: the gates that `default` stands for. roles: of the rows
    that are gated, where the summary tells roles apart.
    """

    keys: tuple[str, ...]
    cells: Sequence[tuple[str, ...]]
    columns: tuple[str, ...]
    never: Callable[[Mapping[str, Any], str], bool] = lambda row, column: False
    table: Callable[[Any], pd.DataFrame] = lambda study: study.summary  # type: ignore[no-any-return]
    faults: Callable[[Any], Mapping[tuple[str, ...], Fault]] = lambda study: {}
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unmeasured: str = ""
    recommended: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = ("candidate",)


@dataclass(frozen=True)
class Gate:
    """Exceeded where `column operator bound` holds for a candidate's row of the summary, or its value is missing.

    A column that exists only where something diverged is no missing value where pairs were compared and none diverged:
    what never happened passes.

    only: a candidate, a strategy or what else names a row, empty for all. interval: the end of the 95 % interval that
    is nearer to passing takes the place of the estimate, so that the gate is exceeded only where the whole interval is.
    An estimate that has no such end stands for itself.
    """

    text: str
    column: str
    operator: str
    bound: float
    only: str = ""
    interval: bool = False

    def cells(self, gating: Gating) -> list[tuple[str, ...]]:
        """The rows that it holds for."""
        return [cell for cell in gating.cells if not self.only or self.only in cell]

    def passed(self, table: pd.DataFrame, gating: Gating) -> str:
        """The sentence for a gate that nothing exceeds: over how many rows."""
        count = len(self.cells(gating))
        return f"{self.text}: in none of {count} row{'s' * (count != 1)} of {' and '.join(gating.keys)}"

    def exceeded(
        self, table: pd.DataFrame, gating: Gating, faults: Mapping[tuple[str, ...], Fault] | None = None
    ) -> list[str]:
        """A sentence for each row of the summary that does not pass: which one, the value measured, and the bound.

        Args:
            faults: by cell, see `Gating`; there the gate is exceeded whatever the value is.
        """
        if "role" in table:
            table = table[table["role"].isin(gating.roles)]
        rows = {tuple(str(row[k]) for k in gating.keys): row for row in table.to_dict("records")}
        faults, sentences = faults or {}, []
        for cell in self.cells(gating):
            row, where = rows.get(cell), f"{self.text}: {' '.join(cell)}"
            if (fault := faults.get(cell)) and fault.spoils(self.column):
                sentences.append(f"{where}: {fault.reason}")
                continue
            if row is not None and gating.never(row, self.column):
                continue
            value = _number(row, self.column)
            shown = f"{self.column} is {value:.6g}"
            if row is None:
                shown = "there is no result"
            elif math.isnan(value):
                shown = f"{self.column} has no value" + (f": {why}" if (why := gating.absent.get(self.column)) else "")
            elif self.interval:
                low, high = _interval(row, self.column)
                end = low if self.operator[0] == ">" else high
                shown += ", without an interval" if math.isnan(end) else f" ({low:.6g} to {high:.6g})"
                value = value if math.isnan(end) else end
            if math.isnan(value) or OPERATORS[self.operator](value, self.bound):
                sentences.append(f"{where}: {shown}")
        return sentences


def parse_gate(text: str, interval: bool, gating: Gating) -> Gate:
    """A gate as it is typed, `COLUMN OPERATOR NUMBER[:CANDIDATE or STRATEGY]`.

    Args:
        gating: its columns, and what its cells are made of, are what may be named.

    Raises:
        InputError: not a gate; an unknown column, candidate or strategy, with the choices.
    """
    match = _GATE.fullmatch(text)
    try:
        bound = float(match[3]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or math.isnan(bound):
        raise InputError(
            f"--fail-on {text!r}: a gate is written COLUMN>NUMBER or COLUMN>NUMBER:CANDIDATE, with > >= < <= == !="
        )
    column, operator, only = match[1], match[2], (match[4] or "").strip()
    choices = gating.columns
    if column not in choices:
        listed, _, hint = nearest(column, choices).partition("; ")  # the hint first: the list is long
        raise InputError(f"--fail-on {text!r}: no column {column!r} to gate; {f'{hint}; ' if hint else ''}{listed}")
    names = list(dict.fromkeys(cell[n] for n in range(len(gating.keys)) for cell in gating.cells))
    if (match[4] is not None or only) and only not in names:
        raise InputError(f"--fail-on {text!r}: no {' or '.join(gating.keys)} {only!r}; {nearest(only, names)}")
    if interval:
        _check_interval(text, column, operator, choices)
    return Gate(text.strip(), column, operator, bound, only, interval)


def _check_interval(text: str, column: str, operator: str, choices: tuple[str, ...]) -> None:
    columns = [c for c in choices if _ends(c, choices)]
    if column not in columns:
        raise InputError(f"--fail-on-interval: {column} has no interval; choices: {', '.join(columns)}")
    if operator in ("==", "!="):
        raise InputError(f"--fail-on-interval {text!r}: an interval is compared with > >= < or <=")


def _ends(column: str, names: Any) -> tuple[str, ...]:
    """The columns of an interval's two ends; none where there is no interval."""
    ends = f"{column}_low", f"{column}_high"
    return ends if all(end in names for end in ends) else ()


def _interval(row: Mapping[str, Any], column: str) -> tuple[float, float]:
    low, high = (_number(row, name) for name in _ends(column, row))
    return low, high


def _number(row: Mapping[str, Any] | None, column: str) -> float:
    value = None if row is None else row.get(column)
    return math.nan if value is None or pd.isna(value) else float(value)
