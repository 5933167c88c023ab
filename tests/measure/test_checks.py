"""What a check compares: each way against its definition, its edges, and what it must not do."""

from __future__ import annotations

import re
import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decodedrift.core.records import InputError
from decodedrift.measure import checks
from decodedrift.measure.checks import CHECKS, Check, UndecidedError, last_number, parse_check

ANSWER = {"exact": "red", "contains": "red", "number": "7", "regex": "r.d"}


def right(check: str, text: str, answer: str) -> bool:
    return parse_check(check)(text, answer).right


@pytest.mark.parametrize("name", [name for name in CHECKS if name != checks.CODE])
def test_every_check_tells_right_from_wrong(name: str) -> None:
    """Walks the registry: what is the answer is right, what has nothing of it is wrong, and each says what it does."""
    text = "7" if name == "number" else "red"
    assert right(name, f" \n{text} ", ANSWER[name])
    assert not right(name, "8" if name == "number" else "blue", ANSWER[name])
    assert not right(name, "", ANSWER[name]), "a side that says nothing is wrong"
    assert len(CHECKS[name].about) > 20
    assert "line" in CHECKS[name].params and right(f"{name}:line=first", f"\n{text}\nblue 8", ANSWER[name])
    assert not right(f"{name}:line=first", f"blue 8\n{text}", ANSWER[name])


def test_white_space_and_case() -> None:
    assert right("exact", "The  Red\n\thouse", "the red house")
    assert not right("exact:case=true", "The red house", "the red house")
    assert not right("exact", "the red house.", "the red house"), "punctuation counts"
    assert right("exact", "STRASSE", "straße"), "case is folded, not lowered"
    assert right("contains", "She said: RED, of course", "red")
    assert not right("contains:case=true", "RED", "red")
    assert right("contains", "14", "4"), "a part of a number is contained: that is what `number` is for"
    assert not right("number", "14", "4")


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("it is 1,234.50.", "1234.5"), ("$1,000", "1000"), ("1,000,000", "1000000"), ("-$5", "-5"), ("€ 5", "5"),
        ("10-5", "5"), ("(-7)", "-7"), ("x=-7", "-7"), ("f(x)-7", "7"), ("\u22125", "-5"), ("-0.0", "0"), ("007", "7"),
        ("3/4", "4"), ("1,5", "5"), ("12,34", "34"), ("1,2345", "2345"), ("1.2.3", "3"), (".5", "0.5"), ("5.", "5"),
        ("6.02e23", "602000000000000000000000"), ("1e5", "100000"), ("2E-2", "0.02"), ("1e999", "1E+999"), ("99 %", "99"),
        ("2019-2020", "2020"), ("first 3, then 72.00 dollars!", "72"), ("none", ""), ("", ""), ("#### 72", "72"),
    ],
)  # fmt: skip
def test_the_last_number_in_one_spelling(text: str, last: str) -> None:
    assert last_number(text) == last


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9), st.booleans())
def test_a_number_is_its_value_whatever_its_spelling(value: Decimal, grouped: bool) -> None:
    text = f"{value:,.3f}" if grouped else f"{value:f}"
    assert Decimal(last_number(f"so it is ${text}.")) == value
    assert right("number", f"12 and then {text}", f"{value:f}")
    assert not right("number", f"12 and then {text}", f"{value + 1:f}")


@pytest.mark.parametrize("text", ["It is 72.", "1,234 and $5,678", "He has 3 apples and 4 pears", "-12", "= 3.5"])
def test_the_flexible_extract_of_lm_evaluation_harness_sees_the_same(text: str) -> None:
    """Its gsm8k filter: the last match of this pattern, less commas, dollar signs and a last point."""
    match = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)[-1]
    theirs = re.sub(r"[,$]|\.$", "", next(filter(None, match)))
    assert Decimal(last_number(text)) == Decimal(theirs)


def test_a_catastrophic_pattern_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "DEADLINE", 0.1)
    begin = time.perf_counter()
    with pytest.raises(UndecidedError, match=r"longer than 0\.1 s"):
        parse_check("regex")("a" * 5000 + "b", "(a+)+$")
    assert time.perf_counter() - begin < 5
    assert right("regex", "aaab", "(a+)+b$"), "the same kind of pattern, where it is no catastrophe"


@pytest.mark.parametrize(
    ("check", "answer", "why"),
    [
        ("regex", "(", "prompt q: its answer '(' is no regular expression (missing )"),
        ("regex", "(" * 5000, "is no regular expression"),
        ("number", "many", "prompt q: its answer 'many' holds no number"),
    ],
)
def test_an_answer_that_no_text_could_be_held_against(check: str, answer: str, why: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_check(check).expects("q", answer)
    assert why in str(refused.value) and "\n" not in str(refused.value)
    parse_check("exact").expects("q", answer)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("exat", "did you mean 'exact'"), ("", "give one check"), ("exact,number", "give one check"),
        ("exact:cse=true", "unknown parameter 'cse'; choices: case, line"), ("number:case=true", "unknown parameter"),
        ("exact:line=last", "line must be one of all, first"), ("python", "python:FILE:FUNCTION"),
        ("python:f.py", "python:FILE:FUNCTION"), ("python::f", "python:FILE:FUNCTION"),
        ("python:f.py:not a name", "python:FILE:FUNCTION"),
    ],
)  # fmt: skip
def test_what_is_no_check_is_refused_in_a_line(text: str, why: str) -> None:
    with pytest.raises(InputError, match=re.escape(why)) as refused:
        parse_check(text)
    assert str(refused.value).startswith("--check") and "\n" not in str(refused.value)


OWN = """
import dataclasses
@dataclasses.dataclass
class Mark:
    text: str
print("loaded")
def same(text, answer):
    print("called")
    return Mark(text).text == answer
def other(text, answer): return 1
def broken(text, answer): raise KeyError("x\\ny")
value = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return f"python:{tmp_path / 'own.py'}"


def test_code_of_ones_own(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = parse_check(f"{own}:same")
    assert check(" red\n", "red") == checks.Judged("red", True) and not check("blue", "red").right
    assert capsys.readouterr().out == "", "stdout is the result's alone"
    with pytest.raises(UndecidedError, match="other said 1, not True or False"):
        parse_check(f"{own}:other")("a", "b")
    with pytest.raises(UndecidedError, match=r"broken raised KeyError: 'x.ny'"):
        parse_check(f"{own}:broken")("a", "b")
    before = check.digest
    (tmp_path / "own.py").write_text("def same(text, answer): return False")
    assert check.digest != before and not check("red", "red").right, "what runs is what the hash is of"
    assert Check("exact", "exact", {}).digest == ""


@pytest.mark.parametrize(
    ("code", "function", "why"),
    [
        (OWN, "nothing", "has no function 'nothing'"), (OWN, "value", "has no function 'value'"),
        ("def f(", "f", "cannot be run (SyntaxError"), ("import nowhere_at_all", "f", "cannot be run (ModuleNotFound"),
        ("raise SystemExit(3)", "f", "cannot be run (SystemExit"), (None, "f", "no such file"),
    ],
)  # fmt: skip
def test_code_that_does_not_load(code: str | None, function: str, why: str, tmp_path: Path) -> None:
    if code is not None:
        (tmp_path / "f.py").write_text(code)
    with pytest.raises(InputError, match=re.escape(why)) as refused:
        checks.own_function(str(tmp_path / "f.py"), function)
    assert "\n" not in str(refused.value)
