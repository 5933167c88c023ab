"""Numbers as a reader wants them, each with the value exactly as in the CSV for its title attribute."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

MISSING = "n/a"
FIXED = range(-3, 6)  # decimal exponents that are written without a power of ten
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Number:
    """`text` is for reading; `exact` names every CSV column behind it with its exact value."""

    text: str
    exact: str = ""


def number(value: Any, column: str, *, digits: int = 3, signed: bool = False) -> Number:
    """A quantity with three significant digits, or as many as asked."""
    return Number(significant(value, digits=digits, signed=signed), exactly({column: value}))


def percent(value: Any, column: str) -> Number:
    """A share as a percentage."""
    return Number(percentage(value), exactly({column: value}))


def position(value: Any, column: str) -> Number:
    """A position, or a median of positions: halves at most."""
    text = MISSING if absent(value) else f"{value:.1f}".removesuffix(".0")
    return Number(text, exactly({column: value}))


def first(row: Any) -> Number:
    """The median first divergence of a row of the summary; in words where pairs were compared and none diverged."""
    if row.traces > 0 and row.diverged == 0:
        return Number("never")
    return position(row.first_divergence_median, "first_divergence_median")


def with_interval(row: Any, column: str) -> Number:
    """A row's number with its 95 % interval, all in the same power of ten; an older run may have no interval.

    Where one of them would be rounded to nothing, each is written by itself.
    """
    values = {name: getattr(row, name, math.nan) for name in (column, f"{column}_low", f"{column}_high")}
    exact = exactly(values)
    if any(absent(v) or not math.isfinite(v) for v in values.values()):
        return Number(significant(values[column]), exact)
    power = exponent(max(abs(float(v)) for v in values.values()))
    scale = 1.0 if power in FIXED else 10.0**power
    decimals = 2 if power not in FIXED else max(0, 2 - power)
    shown, *ends = (_minus(f"{v / scale:.{decimals}f}") for v in values.values())
    if any(v != 0 and not float(f"{v / scale:.{decimals}f}") for v in values.values()):
        return Number("{} ({} to {})".format(*map(significant, values.values())), exact)
    text = f"{shown} ({ends[0]} to {ends[1]})"
    return Number(text if power in FIXED else f"{text} ×10{str(power).translate(_SUPERSCRIPT)}", exact)


def exactly(values: dict[str, Any]) -> str:
    """`column = value` for every value that is there, as the CSV writes it."""
    return "; ".join(f"{column} = {as_in_csv(v)}" for column, v in values.items() if not absent(v))


def as_in_csv(value: Any) -> str:
    """An integer as digits, a float in its shortest exact form."""
    return repr(float(value)) if isinstance(value, float) else str(int(value))


def absent(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, NA."""
    return bool(pd.isna(value))


def exponent(value: float, digits: int = 3) -> int:
    """The decimal exponent after rounding to `digits` significant digits (0.9999 is 1.00, not 1.000e-1)."""
    return int(f"{abs(value):.{digits - 1}e}".partition("e")[2])


def significant(value: Any, *, digits: int = 3, signed: bool = False) -> str:
    """`digits` significant digits; whole numbers whole; powers of ten only where zeros would pile up."""
    if absent(value):
        return MISSING
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    sign = "+" if signed and value > 0 else ""
    if value == 0 or (float(value).is_integer() and abs(value) < 10**9):
        return sign + _minus(f"{int(value):,}")
    power = exponent(float(value), digits)
    if power in FIXED:
        return sign + _minus(f"{value:,.{max(0, digits - 1 - power)}f}")
    mantissa = f"{value / 10.0**power:.{digits - 1}f}"
    return f"{sign}{_minus(mantissa)}×10{str(power).translate(_SUPERSCRIPT)}"


def percentage(share: Any) -> str:
    """A share in percent; what is not all and not nothing is never rounded to all or nothing."""
    if absent(share):
        return MISSING
    if share in (0, 1):
        return f"{int(share * 100)} %"
    if share > 0.9999:
        return ">99.99 %"
    if share < 0.0001:
        return "<0.01 %"
    return f"{share * 100:.2f} %" if share < 0.01 or share > 0.95 else f"{share * 100:.1f} %"


def _minus(text: str) -> str:
    return text.replace("-", "−")
