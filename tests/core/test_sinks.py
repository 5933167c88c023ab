"""A hostile corpus against every sink: nothing acts, nothing hides, everything comes back."""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decodedrift.core.untrusted import csv_text, csv_text_back, spreadsheet, terminal, to_json, visible

CORPUS = [
    "\x1b[2J\x1b[31mred", "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "\x1b]0;title\x07", "\x9b31m", "\x9d0;t\x9c",
    "abc\x08\x08x", "a\rb", "a\nb", "a\tb", "a\x0bb\x0cc", "\x7f", "\x85", "a\u2028b\u2029c", "‮321‬", "⁦x⁩", "a​b‌c‍d",
    "\u00ad", "⁠\ufeff", "\x00nul", "\ud800", "\udc80", "\ue000", "\U000e0041", "️", "[/]", "[bold]x[/bold]",
    "</script><script>alert(1)</script>", "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "NA", "", "\\u0041",
    "日本語", "مرحبا", "é", "🙂", "1,2", '"', "a\\", "%s{0}{{x}}",
]  # fmt: skip
ACTING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
anything = st.text(st.characters(exclude_categories=()), max_size=20)


@pytest.mark.parametrize("text", CORPUS, ids=ascii)
def test_nothing_acts_on_a_terminal(text: str) -> None:
    shown = terminal(text)
    assert not {c for c in shown if unicodedata.category(c) in ACTING}
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")


@given(anything)
def test_nothing_ever_acts(text: str) -> None:
    assert not {c for c in terminal(text) + visible(text) if unicodedata.category(c) in ACTING}


def test_what_is_hidden_is_named() -> None:
    assert visible("a\u202eb\x1b[0m\x00\ud800") == "a<U+202E>b<U+001B>[0m<U+0000><U+D800>"
    assert terminal("a\nb\tc\rd") == "a⏎b→c<U+000D>d"


@pytest.mark.parametrize("text", ["plain", "日本語 مرحبا", "🙂 naïve", "[/]", "a ​b"[:2]])
def test_plain_text_stays(text: str) -> None:
    assert visible(text) == text


@given(anything, st.integers(1, 30))
def test_a_line_is_cut(text: str, width: int) -> None:
    whole, shown = terminal(text), terminal(text, width)
    assert len(shown) <= width
    assert shown == whole or (shown.endswith("…") and whole.startswith(shown[:-1]))


@settings(max_examples=300)
@given(st.lists(st.one_of(anything, st.sampled_from(CORPUS)), min_size=1, max_size=4))
def test_csv_comes_back_through_python_and_pandas(texts: list[str]) -> None:
    handle = io.StringIO(newline="")
    writer = csv.writer(handle, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["text"])
    writer.writerows([[csv_text(t)] for t in texts])
    handle.getvalue().encode("utf-8")
    handle.seek(0)
    assert [csv_text_back(row["text"]) for row in csv.DictReader(handle)] == texts
    handle.seek(0)
    frame = pd.read_csv(handle, keep_default_na=False, dtype=str)
    assert [csv_text_back(t) for t in frame["text"]] == texts


@given(anything)
def test_csv_cells_hold_no_control_characters(text: str) -> None:
    cell = csv_text(text)
    assert csv_text_back(cell) == text
    assert not {c for c in cell if unicodedata.category(c) in ("Cc", "Cs")} - {"\t", "\n", "\r"}


@pytest.mark.parametrize("text", CORPUS, ids=ascii)
def test_no_cell_is_a_formula(text: str) -> None:
    assert spreadsheet(text)[:1] not in ("=", "+", "-", "@", "\t", "\r")
    assert spreadsheet(text).removeprefix("'") == text.removeprefix("'")


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3), max_leaves=8,
))  # fmt: skip
def test_json_is_strict_and_ascii(value: object) -> None:
    said = to_json(value)
    assert said.isascii()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(said, parse_constant=refuse)


def test_json_of_what_tables_hold() -> None:
    import numpy as np

    value = {"a": np.int64(3), "b": np.float32(0.5), "c": (np.bool_(True), math.nan), 4: Path("x"), "d": math.inf}
    assert json.loads(to_json(value)) == {"a": 3, "b": 0.5, "c": [True, None], "4": "x", "d": "inf"}
