"""`formats` at a terminal: the table, numbers bit by bit, and what it cannot do."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from forking import command

from decodedrift.experiments.formats.spelling import plain

WORDS = ("0.1", "65504", "1e-8", "-2.5", "-inf", "nan", "0x1.8p-3", "1e999999999")


@pytest.mark.parametrize("words", [(), WORDS], ids=len)
def test_the_table_and_numbers_fit_a_terminal(words: tuple[str, ...]) -> None:
    done = command("formats", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stdout.rstrip("\n") == plain(words)[0]
    data = json.loads(command("formats", *words, "--json").stdout)
    assert len(data) == (len(words) or 10)
    if words:
        assert [entry["number"] for entry in data] == list(words)
        rows = {row["format"]: row for row in data[4]["formats"]}
        assert (rows["fp16"]["value"], rows["fp8-e4m3"]["value"], rows["int8"]["value"]) == ("-inf", "nan", -128)


def test_the_table_and_numbers_need_no_torch() -> None:
    code = (
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr));"
        "sys.argv = ['decodedrift', 'formats', '0.1']; from decodedrift.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert "0 01011 1001100110 " in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("0.1", "--model", "demo"), "--model asks for a run; leave one out"),
        (("0.1.2",), "'0.1.2': not a number"),
        (("9" * 2000,), "a number of 2000 digits"),
        (("--model", "demo", "--fail-on", "overflow>0:fp12"), "did you mean 'fp16'"),
        (("--formats", "fp12"), "decodedrift: --formats: unknown format 'fp12'"),
        (("--formats", "fp16:scale=some"), "decodedrift: --formats: fp16: scale must be one of"),
    ],
    ids=lambda v: "",
)
def test_what_the_command_cannot_do_is_said_in_a_line(words: tuple[str, ...], says: str) -> None:
    done = command("formats", *words)
    assert done.returncode == 2
    assert says in done.stderr and len(done.stderr.splitlines()) == 1


def test_numbers_may_stand_behind_two_hyphens() -> None:
    assert command("formats", "--json", "--", "-0.1", "2").stdout == command("formats", "-0.1", "2", "--json").stdout
    assert "'--x': not a number" in command("formats", "--", "--x").stderr
