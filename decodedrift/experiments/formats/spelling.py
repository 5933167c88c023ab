"""`decodedrift formats` without a model: the table of formats, and numbers in each of them bit by bit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from decodedrift.core.records import InputError, shortened
from decodedrift.core.untrusted import visible
from decodedrift.numerics.formats import BEYOND, NONE, ROUNDED, SUBNORMAL, TABLE, Format, Whole
from decodedrift.report.terminal import text_table, wrapped

WIDTH = 80
REACH = 5000  # of a decimal or binary exponent: what lies further out is further than every format
NUMBER = re.compile(
    r"([+-]?)(?:(inf|infinity|nan)|0x([0-9a-f]*)(?:\.([0-9a-f]*))?(?:p([+-]?\d+))?|(\d*)(?:\.(\d*))?(?:e([+-]?\d+))?)",
    re.I,
)
LONGEST = 1000  # digits of a number
ROOM = 34  # columns of bits beside a value: those of fp32
HEAD = f" {'format':<8} {'sign, exponent, mantissa':<{ROOM}}  {'value':<15} error/number"
NOTES = (
    "Bits are sign + exponent + mantissa; digits are the decimal ones that a significand is worth.",
    "fp8-e4m3 is e4m3fn: no infinity, what overflows is NaN (torch saturates it). fp4-e2m1 and whole numbers have "
    "neither and saturate; whole numbers are used with a scale.",
    "tf32 is what tensor cores read of an fp32. A model of yours: decodedrift formats --model NAME.",
)


class Typed(NamedTuple):
    """A number as it was typed. size: exact, or infinite or NaN."""

    text: str
    size: Fraction | float
    negative: bool


def plain(words: Sequence[str]) -> tuple[str, Any]:
    """The table of formats, or the numbers that are given in each of them; as text of 80 columns and as data.

    Raises:
        InputError: something that is no number.
    """
    if not words:
        return table(), [facts(form) for form in TABLE.values()]
    numbers = [read(word) for word in words]
    return "\n\n".join([HEAD, *map(_shown, numbers)]), [_data(number) for number in numbers]


def facts(form: Format | Whole) -> dict[str, Any]:
    """What there is to say of a format."""
    return {
        "format": form.name, "bits": 1 + form.exponent + form.mantissa, "sign": 1, "exponent": form.exponent,
        "mantissa": form.mantissa, "largest": form.largest, "smallest_normal": form.smallest_normal,
        "smallest_subnormal": form.smallest_subnormal, "eps": form.eps, "digits": form.digits,
        "digits_kept": math.floor(form.mantissa * math.log10(2)), "beyond": form.beyond,
    }  # fmt: skip


def table() -> str:
    """Every format in a line."""
    head = ["format", "bits", "largest", "normal from", "smallest", "eps", "digits"]
    body = [
        [
            form.name, f"1+{form.exponent}+{form.mantissa}", f"{form.largest:.6g}", f"{form.smallest_normal:.5g}",
            f"{form.smallest_subnormal:.4g}", f"{form.eps:.4g}", f"{form.digits:.1f}",
        ]
        for form in TABLE.values()
    ]  # fmt: skip
    return "\n".join([text_table(head, body, WIDTH, names=2), "", *(wrapped(note, WIDTH) for note in NOTES)])


def read(word: str) -> Typed:
    """A number as it is typed, exactly: decimal, hexadecimal (0x1.8p-3), inf, nan.

    Raises:
        InputError: it is none.
    """
    match = NUMBER.fullmatch(word.strip())
    digits = "" if match is None else "".join(part or "" for part in match.group(2, 3, 4, 6, 7))
    if match is None or not digits:
        way = "as 0.1, 1e-8, 0x1.8p-3, inf or nan"
        raise InputError(f"{shortened(visible(word), 40)}: not a number; numbers are written {way}")
    if len(digits) > LONGEST:
        raise InputError(f"{visible(word[:20])}...: a number of {len(digits)} digits; give at most {LONGEST}")
    sign, special, whole, part, power, whole10, part10, power10 = match.groups()
    if special:
        return Typed(word, math.nan if special.lower() == "nan" else math.inf, sign == "-")
    base, scale = (16, Fraction(2)) if whole is not None else (10, Fraction(10))
    front, behind = (whole, part or "") if whole is not None else (whole10 or "", part10 or "")
    size = Fraction(int(front + behind, base), base ** len(behind))
    exponent = (power if whole is not None else power10) or "0"
    far = len(exponent) > 8 or abs(int(exponent)) > REACH
    reach = (-REACH if exponent.startswith("-") else REACH) if far else int(exponent)
    return Typed(word, size * scale**reach, sign == "-")


def _held(number: Typed, form: Format | Whole) -> dict[str, Any]:
    """A number in one format. error: of what is held, over the number; empty where one of them is not finite, or 0."""
    spelt = form.spell(number.size, number.negative)
    size, value = number.size, spelt.value
    known = isinstance(size, Fraction) and isinstance(value, Fraction)
    apart = abs(value) - size if known and size else None  # type: ignore[operator]
    error = None if apart is None else _float(apart / size)
    return {"format": form.name, "bits": spelt.bits, "value": value, "error": error, "how": spelt.how}


def _data(number: Typed) -> dict[str, Any]:
    """The same, JSON-ready: what is not finite is a text, as JSON has no number for it."""
    rows = [_held(number, form) for form in TABLE.values()]
    return {"number": number.text, "formats": [row | {"value": _plain(row["value"])} for row in rows]}


def _plain(value: Fraction | float) -> float | str:
    held = _float(value)
    return held if math.isfinite(held) else f"{held}"


def _shown(number: Typed) -> str:
    """A line for each format; one whose bits would not fit has them in a line of their own."""
    lines = [visible(number.text)[:70]]
    for form in TABLE.values():
        held = _held(number, form)
        told = f"{_value(held):<15} {_told(held, form)}".rstrip()
        if held["how"] == NONE:
            lines.append(f" {form.name:<8} has none")
        elif len(held["bits"]) > ROOM:
            lines += [f" {form.name:<8} {held['bits']}", f" {'':<8} {'':<{ROOM}}  {told}"]
        else:
            lines.append(f" {form.name:<8} {held['bits']:<{ROOM}}  {told}")
    return "\n".join(lines)


def _told(held: dict[str, Any], form: Format | Whole) -> str:
    """The rounding error, and what else befell the number."""
    how = "saturates" if held["how"] == BEYOND and form.beyond == "largest" else str(held["how"])
    if held["how"] not in (ROUNDED, SUBNORMAL) or held["error"] is None:
        return how
    return f"{held['error']:+.1e}" + (f" {how}" if held["how"] == SUBNORMAL else "")


def _value(held: dict[str, Any]) -> str:
    """Nine significant digits at most, which tell any two fp32 numbers apart."""
    text = f"{_float(held['value']):.9g}"
    return "-0" if text == "0" and held["bits"].startswith("1") else text


def _float(value: Fraction | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)
