"""Gates for CI: a bound on a column of the summary, `divergence_rate>0.1` or `kl_p99>=0.05:bf16`; it fails closed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import numpy as np
import pandas as pd

from decodedrift import nonfinite
from decodedrift.intervals import Z95
from decodedrift.records import InputError, nearest
from decodedrift.rows import FOLD_TEXTS, KEYS, TABLES, typed
from decodedrift.study import Study

OPERATORS: dict[str, Callable[[float, float], bool]] = {">=": ge, "<=": le, "==": eq, "!=": ne, ">": gt, "<": lt}
# Columns of the summary that hold a value only where something diverged (docs/runs.md lists them)
IF_DIVERGED = (
    "first_divergence_median", "half_life", "compounding_index", "compounding_index_low", "compounding_index_high",
    "compounding_index_p", "reference_gap_median", "swing_median", "near_tie_share", "agreement_after",
    "reconverged_share", "injected", "recovered_share", "trajectory_share", "trajectory_share_low",
    "trajectory_share_high", "path_compounding", "path_compounding_low", "path_compounding_high",
)  # fmt: skip
# and those of them that exist only where the run was asked for them
ASKED = {"injected": "inject", "recovered": "inject", "trajectory": "inject", "path_": "decompose"}
_GATE = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=|==|!=|>|<)\s*([^:]+?)\s*(?::(.*))?", re.S)


@dataclass(frozen=True)
class Gate:
    """Exceeded where `column operator bound` holds for a candidate's row of the summary, or its value is missing.

    A column that exists only where something diverged is no missing value where pairs were compared and none diverged:
    what never happened passes.

    only: a candidate or a strategy, empty for all. interval: the end of the 95 % interval that is nearer to passing
    takes the place of the estimate, so that the gate is exceeded only where the whole interval is.
    """

    text: str
    column: str
    operator: str
    bound: float
    only: str = ""
    interval: bool = False

    def exceeded(
        self, summary: pd.DataFrame, plan: Mapping[str, Any], faults: Mapping[tuple[str, str], Fault] | None = None
    ) -> list[str]:
        """A sentence for each row that does not pass: which one, the value measured, and the bound.

        Args:
            faults: of (candidate, strategy), see `faults`; there the gate is exceeded whatever the value is.
        """
        rows = {(r["candidate"], r["strategy"]): r for r in summary.to_dict("records") if r["role"] == "candidate"}
        said = []
        for candidate, strategy in self._cells(plan):
            row = rows.get((candidate, strategy))
            if (fault := (faults or {}).get((candidate, strategy))) and fault.spoils(self.column):
                said.append(f"{self.text}: {candidate} {strategy}: {fault.reason}")
                continue
            if row is not None and never(row, self.column, plan):
                continue
            value = _number(row, self.column)
            shown = f"{self.column} is {value:.6g}" if row is not None else "there is no result"
            if self.interval and row is not None:
                low, high = _interval(row, self.column)
                shown += f" ({low:.6g} to {high:.6g})"
                value = low if self.operator[0] == ">" else high
            if math.isnan(value) or OPERATORS[self.operator](value, self.bound):
                said.append(f"{self.text}: {candidate} {strategy}: {shown}")
        return said

    def _cells(self, plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for candidate in plan["candidates"]:
            for strategy in plan["strategies"]:
                if self.only in ("", candidate["name"], strategy["label"]):
                    yield candidate["name"], strategy["label"]


@dataclass(frozen=True)
class Fault:
    """Why a candidate's figures under a strategy are not whole. columns: prefixes of those it spoils, none for all."""

    reason: str
    columns: tuple[str, ...] = ()

    def spoils(self, column: str) -> bool:
        """Whether a gate on this column cannot pass."""
        return not self.columns or column.startswith(self.columns)


def faults(study: Study) -> dict[tuple[str, str], Fault]:
    """(candidate, strategy) -> what no gate there may pass: a candidate that broke, a KL that is infinite somewhere."""
    found = {
        key: Fault(f"the KL is infinite at {n} positions, which its figures leave out", ("kl_",))
        for key, n in nonfinite.infinite(study.positions).items()
    }
    return found | {key: Fault(why) for key, why in nonfinite.faults(study.traces, study.positions).items()}


def never(row: Mapping[str, Any], column: str, plan: Mapping[str, Any]) -> bool:
    """Whether a cell is empty because nothing diverged, and not because nothing was compared or measured."""
    asked = all(plan.get(option) for prefix, option in ASKED.items() if column.startswith(prefix))
    return column in IF_DIVERGED and asked and (row.get("traces") or 0) > 0 and row.get("diverged") == 0


def parse_gate(text: str, interval: bool, plan: Mapping[str, Any]) -> Gate:
    """A gate as it is typed, `COLUMN OPERATOR NUMBER[:CANDIDATE or STRATEGY]`.

    Args:
        plan: as plan.json has it; its candidates and strategies are what may be named.

    Raises:
        InputError: not a gate; an unknown column, candidate or strategy, with the choices.
    """
    found = _GATE.fullmatch(text)
    try:
        bound = float(found[3]) if found else math.nan
    except ValueError:
        bound = math.nan
    if found is None or math.isnan(bound):
        raise InputError(
            f"--fail-on {text!r}: a gate is written COLUMN>NUMBER or COLUMN>NUMBER:CANDIDATE, with > >= < <= == !="
        )
    column, operator, only = found[1], found[2], (found[4] or "").strip()
    choices = columns()
    if column not in choices:
        listed, _, hint = nearest(column, choices).partition("; ")  # the hint first: the list is long
        raise InputError(
            f"--fail-on {text!r}: no column {column!r} in summary.csv; {f'{hint}; ' if hint else ''}{listed}"
        )
    names = [*(c["name"] for c in plan["candidates"]), *(s["label"] for s in plan["strategies"])]
    if (found[4] is not None or only) and only not in names:
        raise InputError(f"--fail-on {text!r}: no candidate or strategy {only!r}; {nearest(only, names)}")
    if interval:
        _check_interval(text, column, operator, choices)
    return Gate(text.strip(), column, operator, bound, only, interval)


@cache
def columns() -> tuple[str, ...]:
    """The summary's columns of numbers, read off a summary of one empty row: the folds alone know what they make."""
    keys = dict.fromkeys(KEYS, "x") | {"seed": 0, "role": "candidate"}
    row = {"divergences": {"diverged": 0, "compared": 1, "nonfinite": 0}, "positions": {"nonfinite": 0}, "traces": {}}
    made = {}
    for table, more in row.items():
        values = keys | more | ({"variant": "x", "n_tokens": 1, "token_ids": "0"} if table == "traces" else {})
        made[table] = typed(pd.DataFrame({c: pd.Series([values.get(c)], dtype="object") for c in TABLES[table]}), table)
    empty = {t: typed(pd.DataFrame(), t) for t in ("timings", "failures")}
    with np.errstate(all="ignore"):
        found = Study(**made, **empty, perplexity=pd.DataFrame(), plan={}).summary
    return tuple(name for name in found.columns if name not in FOLD_TEXTS)


def _check_interval(text: str, column: str, operator: str, choices: tuple[str, ...]) -> None:
    known = [c for c in choices if _ends(c, choices)]
    if column not in known:
        raise InputError(f"--fail-on-interval: {column} has no interval; choices: {', '.join(known)}")
    if operator in ("==", "!="):
        raise InputError(f"--fail-on-interval {text!r}: an interval is compared with > >= < or <=")


def _ends(column: str, names: Any) -> tuple[str, ...]:
    """The columns that an interval is made of: its two ends, or the standard error of a mean."""
    if f"{column}_low" in names and f"{column}_high" in names:
        return f"{column}_low", f"{column}_high"
    error = f"{column.removesuffix('_mean')}_se"
    return (error,) if error in names and error != column else ()


def _interval(row: Mapping[str, Any], column: str) -> tuple[float, float]:
    ends = [_number(row, name) for name in _ends(column, row)]
    if len(ends) == 2:
        return ends[0], ends[1]
    value = _number(row, column)
    return value - Z95 * ends[0], value + Z95 * ends[0]


def _number(row: Mapping[str, Any] | None, column: str) -> float:
    value = None if row is None else row.get(column)
    return math.nan if value is None or pd.isna(value) else float(value)
