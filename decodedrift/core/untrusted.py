"""Untrusted text, made safe for each place it goes to: terminal, CSV, spreadsheet, JSON. HTML is Jinja's autoescape.

Prompts and model output may hold anything: control sequences that move a cursor, bidirectional overrides that reverse
a number, lone surrogates that no file takes.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

_CSV_ESCAPED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\\]")
_UNESCAPE = re.compile(r"\\(\\|u[0-9a-fA-F]{4})")
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: str) -> str:
    """Text in which nothing is invisible or acts: control, format, bidi and surrogate characters as `<U+XXXX>`."""
    return "".join(c if unicodedata.category(c) not in _HIDDEN else f"<U+{ord(c):04X}>" for c in text)


def terminal(text: str, width: int | None = None) -> str:
    """One line for a terminal: no control byte passes; cut to `width` with an ellipsis."""
    line = visible(text.replace("\n", "⏎").replace("\t", "→"))
    return line if width is None or len(line) <= width else line[: max(0, width - 1)] + "…"


def csv_text(text: str) -> str:
    """A CSV cell: verbatim, but unpaired surrogates and control characters other than tab, LF and CR as `\\uXXXX`."""
    return _CSV_ESCAPED.sub(lambda m: "\\\\" if m[0] == "\\" else f"\\u{ord(m[0]):04x}", text)


def csv_text_back(text: str) -> str:
    """Undoes `csv_text`."""
    return _UNESCAPE.sub(lambda m: "\\" if m[1] == "\\" else chr(int(m[1][1:], 16)), text)


def spreadsheet(text: str) -> str:
    """A cell that no spreadsheet runs: a leading apostrophe before `= + - @`, tab and CR."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def to_json(value: Any, indent: int | None = 2) -> str:
    """JSON without NaN or infinity (they become null and the strings "inf", "-inf"), ASCII only."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=True, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float):
        if value != value:
            return None
        return value if abs(value) != float("inf") else ("inf" if value > 0 else "-inf")
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
