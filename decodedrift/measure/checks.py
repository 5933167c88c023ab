"""Whether a text holds the answer that its prompt expects: the ways of `--check`, and what exactly they compare.

A check is an option and an answer is data: no prompt file runs anything. A pattern of `regex` comes from such a file,
so it is given a deadline; the code of `python` is named by who runs it, and must be trusted by a flag of its own.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from decimal import Context, Decimal
from functools import lru_cache
from types import ModuleType
from typing import Any

from decodedrift.core.formats import existing
from decodedrift.core.notation import Param, boolean, one_of, read_params, split_items
from decodedrift.core.records import InputError, Prompt, nearest, shortened
from decodedrift.core.secrecy import excerpt

DEADLINE = 1.0  # seconds that a pattern may take on a text
CODE = "python"  # the check whose code is the user's own
WIDTH = 160  # characters of an error in the user's code
LONGEST = 40  # digits that a number is written out with
DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+"
NUMBER = re.compile(rf"(?P<sign>(?<![\w)\]])[-−])?[$€£]?(?P<size>(?:{DIGITS})(?:[eE][-+]?[0-9]{{1,3}}(?![0-9]))?)")

Params = Mapping[str, Any]


class UndecidedError(Exception):
    """A check that came to no result on a text, and why."""


@dataclass(frozen=True)
class Judged:
    """What of a text was compared, in the form in which two wrong answers are told apart; and whether it is right."""

    given: str
    right: bool


@dataclass(frozen=True)
class CheckKind:
    """A way of checking. function: (stripped text, answer, params) -> Judged, or an UndecidedError.

    expects: refuses, by a ValueError, an answer that no text could be held against.
    """

    function: Callable[[str, str, Params], Judged]
    params: Mapping[str, Param] = field(default_factory=dict)
    expects: Callable[[str], Any] = str

    @property
    def about(self) -> str:
        """What is compared, in a line: the first of the function's docstring."""
        return (self.function.__doc__ or "").splitlines()[0]


@dataclass(frozen=True)
class Check:
    """A check as it was asked for, its parameters read."""

    text: str
    name: str
    params: Params

    def expects(self, prompt_id: str, answer: str) -> None:
        """Refuses an answer that this check cannot hold a text against.

        Raises:
            InputError: names the prompt.
        """
        try:
            CHECKS[self.name].expects(answer)
        except ValueError as error:
            raise InputError(
                f"--check {self.text}: prompt {prompt_id}: its answer {shortened(answer)} {error}"
            ) from None

    def __call__(self, text: str, answer: str) -> Judged:
        """The text held against the answer.

        Raises:
            UndecidedError: there is no result, and why.
        """
        text = text.strip()
        if self.params.get("line") == "first":
            text = text.split("\n", 1)[0].strip()
        return CHECKS[self.name].function(text, answer.strip(), self.params)

    @property
    def digest(self) -> str:
        """SHA-256 of the code that it runs; empty where it is none of the user's."""
        return hashlib.sha256(_code(self.params["file"])).hexdigest() if self.name == CODE else ""


def parse_check(text: str) -> Check:
    """`number`, `exact:case=true`, `python:FILE:FUNCTION`.

    Raises:
        InputError: no such check or parameter, with the choices.
    """
    if text.partition(":")[0] == CODE:
        file, _, function = text.partition(":")[2].rpartition(":")
        if not file or not function.isidentifier():
            raise InputError(f"--check {text}: the check with code of your own is written python:FILE:FUNCTION")
        return Check(text, CODE, {"file": file, "function": function})
    items = split_items(text, lambda name: CHECKS[name].params if name in CHECKS else ())
    if len(items) != 1:
        raise InputError(f"--check {text or repr('')}: give one check; choices: {', '.join(CHECKS)}")
    name = items[0].head
    if name not in CHECKS:
        raise InputError(f"--check {name}: unknown; {nearest(name, tuple(CHECKS))}")
    return Check(text, name, read_params(f"--check {name}", items[0].params, CHECKS[name].params))


def trusted(check: Check | None, allowed: bool) -> None:
    """Refuses code that was not allowed, and an allowance for none.

    Raises:
        InputError: names it.
    """
    if check is not None and check.name == CODE and not allowed:
        raise InputError(f"--check {check.text}: runs the code of that file; allow it with --trust-check-code")
    if check is None and allowed:
        raise InputError("--trust-check-code is about answers, and none is checked: add --check")


def answered(check: Check | None, prompts: Iterable[Prompt]) -> None:
    """Refuses prompts of which none has an answer, or one that no text can be held against.

    Raises:
        InputError: names it.
    """
    if check is None:
        return
    expected = [p for p in prompts if p.answer is not None]
    if not expected:
        raise InputError(f"--check {check.text}: no prompt has an answer; give one under `answer` in --prompts")
    for prompt in expected:
        check.expects(prompt.id, str(prompt.answer))


def _spaced(text: str, case: bool = True) -> str:
    """Runs of white space as one space each; without `case`, folded to lower case."""
    text = " ".join(text.split())
    return text if case else text.casefold()


def exact(text: str, answer: str, params: Params) -> Judged:
    """The text is the answer, runs of white space as one space, upper and lower case alike."""
    given = _spaced(text, params["case"])
    return Judged(given, given == _spaced(answer, params["case"]))


def contains(text: str, answer: str, params: Params) -> Judged:
    """The answer stands somewhere in the text, white space and case as of exact."""
    given = _spaced(text, params["case"])
    return Judged(given, _spaced(answer, params["case"]) in given)


def number(text: str, answer: str, params: Params) -> Judged:
    """The last number of the text equals that of the answer: 1,234.50 is 1234.5, and $, €, £ are no part of it."""
    given = last_number(text)
    return Judged(given, bool(given) and given == last_number(answer))


def last_number(text: str) -> str:
    """The last number in a text in one spelling for each value; empty where there is none.

    A point is the decimal sign; commas separate thousands, in groups of three alone, so that `1,5` are two numbers. A
    minus counts where no letter, digit or closing bracket stands before it: `10-5` ends with 5.
    """
    every = list(NUMBER.finditer(text))
    if not every:
        return ""
    last = every[-1]
    size = last["size"].replace(",", "")
    value = Decimal(size).normalize(Context(prec=len(size)))
    near = abs(value.adjusted()) < LONGEST
    return ("-" if last["sign"] and value else "") + (f"{value:f}" if near else str(value))


def pattern(text: str, answer: str, params: Params) -> Judged:
    """The answer is a regular expression that matches somewhere in the text, within a second."""
    import regex

    try:
        return Judged(_spaced(text), regex.search(answer, text, timeout=DEADLINE) is not None)
    except TimeoutError:
        raise UndecidedError(f"its pattern took longer than {DEADLINE:g} s on a text") from None
    except MemoryError:
        raise UndecidedError("its pattern took more memory than there is on a text") from None


def _is_pattern(answer: str) -> None:
    import regex

    try:
        regex.compile(answer)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is no regular expression ({excerpt(error, 80)})") from None


def _has_number(answer: str) -> None:
    if not last_number(answer):
        raise ValueError("holds no number")


def own(text: str, answer: str, params: Params) -> Judged:
    """FUNCTION of FILE, called with the text and the answer, says True or False."""
    try:
        with redirect_stdout(sys.stderr):
            said = own_function(params["file"], params["function"])(text, answer)
    except InputError:
        raise
    except Exception as error:
        raise UndecidedError(f"{params['function']} raised {type(error).__name__}: {excerpt(error, WIDTH)}") from None
    if type(said).__name__ not in ("bool", "bool_"):  # numpy's own is as good
        raise UndecidedError(f"{params['function']} said {excerpt(shortened(said), WIDTH)}, not True or False")
    return Judged(_spaced(text), bool(said))


def own_function(file: str, name: str) -> Callable[[str, str], Any]:
    """The function that a check is to call; runs the file.

    Raises:
        InputError: no such file or function, or the file cannot be run.
    """
    try:
        with redirect_stdout(sys.stderr):
            module = _module(file, _code(file))
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {excerpt(error, WIDTH)}"
        raise InputError(f"--check: {file} cannot be run ({why})") from None
    if not callable(function := getattr(module, name, None)):
        raise InputError(f"--check: {file} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def _code(file: str) -> bytes:
    path = existing(file, "--check")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"--check {file}: cannot be read ({error.strerror})") from None


@lru_cache(maxsize=8)
def _module(file: str, code: bytes) -> ModuleType:
    """The module of the very bytes whose hash is recorded."""
    module = ModuleType(f"check_{hashlib.sha256(code).hexdigest()[:16]}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # where dataclasses look for the names of a class
    exec(compile(code, file, "exec"), module.__dict__)
    return module


def ready(check: Check | None, code: dict[str, str]) -> None:
    """Loads the user's own code, if answers are checked by it, and notes its hash: rows of another are another run's.

    Raises:
        InputError: it does not load.
    """
    if check is not None and check.name == CODE:
        own_function(check.params["file"], check.params["function"])
        code["check_code"] = check.digest


LINE = Param(one_of("all", "first"), "all", "first: only the first line of the stripped text counts")
WORDS = {"case": Param(boolean, False, "whether upper and lower case differ"), "line": LINE}
CHECKS: dict[str, CheckKind] = {
    "exact": CheckKind(exact, WORDS),
    "contains": CheckKind(contains, WORDS),
    "number": CheckKind(number, {"line": LINE}, _has_number),
    "regex": CheckKind(pattern, {"line": LINE}, _is_pattern),
    CODE: CheckKind(own),
}
