"""One case, two texts that begin alike and part: for a notebook's cell, a terminal and a Markdown page."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from decodedrift.core.records import InputError, nearest
from decodedrift.core.untrusted import terminal
from decodedrift.report.html import jinja
from decodedrift.report.numbers import percentage
from decodedrift.report.palette import LIGHT
from decodedrift.report.texts import brief, shown

LONGEST = 1200  # characters of each text in a notebook
LINE = 60  # of each in a line
REST = 1500  # of each after the fork on a page


@dataclass(frozen=True)
class Side:
    """What one of the two wrote from the fork on. chances: what it held the fork's tokens to be, 0 to 1, where known;
    the reference's token first."""

    name: str
    token: str = ""
    rest: str = ""
    chances: tuple[float | None, ...] = ()

    @property
    def bracketed(self) -> str:
        """Token and rest, brackets around the token and not around the space before it."""
        bare = self.token.lstrip(" ")
        space = self.token[: len(self.token) - len(bare)]
        return f"{space}[{bare}]{self.rest}" if bare else f"[{word(self.token)}]{self.rest}"


@dataclass(frozen=True)
class Case:
    """Two texts of one prompt. at: the index of the first token (unit) that differs, None where none does.

    where: which case it is, in words. note: why they part. parted: that they do, or are predicted to. Show it in a
    notebook, or `print` it.
    """

    where: str
    prompt: str
    shared: str
    sides: tuple[Side, Side]
    at: int | None = None
    note: str = ""
    parted: str = "they part"
    unit: str = "token"

    @property
    def heading(self) -> str:
        """Which case it is, and where it parts."""
        return f"{self.where}: " + (
            "equal to the end" if self.at is None else f"{self.parted} at {self.unit} {self.at}"
        )

    def held(self) -> list[str]:
        """A sentence for each side whose probabilities of the two tokens are known."""
        words = [f"“{brief(word(side.token), 30)}”" for side in self.sides]
        lines = []
        for side in self.sides:
            pairs = [(word, p) for word, p in zip(words, side.chances) if p is not None]
            if pairs:
                listed = " and ".join(f"{word} at {percentage(p)}" for word, p in pairs)
                lines.append(f"{side.name} held {listed}")
        return lines

    def lines(self, width: int = LINE) -> list[str]:
        """The end of what both share, and how each goes on: a line each, with names in front."""
        names = ["both", *(side.name for side in self.sides)]
        start = self.shared if len(self.shared) <= width else "…" + self.shared[1 - width :]
        texts = [start, *(side.bracketed for side in self.sides if self.at is not None)]
        room = min(24, max(map(len, names)))
        return [f"{terminal(brief(n, 24)):<{room}}  {terminal(t, width)}" for n, t in zip(names, texts)]

    def __str__(self) -> str:
        """A heading, the lines, and what each side held."""
        after = [*self.held(), *([self.note] if self.note and self.at is not None else [])]
        wrapped = [line for text in after for line in textwrap.wrap(terminal(text), 80)]
        return "\n".join([terminal(self.heading), *self.lines(), *wrapped])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Escaped, with inline styles alone."""
        sides = [
            {"name": side.name, "token": shown(side.token).replace("\n", "⏎") or "∅", "rest": side.rest[:LONGEST],
             "colour": colour}
            for side, colour in zip(self.sides, (LIGHT["reference"], LIGHT["candidate"]))
        ]  # fmt: skip
        context: Mapping[str, Any] = {
            "heading": self.heading, "prompt": self.prompt[-LONGEST:], "shared": self.shared[-LONGEST:],
            "sides": sides if self.at is not None else [], "held": self.held(), "note": self.note,
        }  # fmt: skip
        return jinja().get_template("case.html.j2").render(context)


def word(token: str) -> str:
    """A token in a sentence: without the space around it, or drawn where there is nothing else in it."""
    return token.replace("\n", "⏎").replace("\t", "→").strip() or token.replace(" ", "␣") or "∅"


def narrowed(rows: pd.DataFrame, wanted: Mapping[str, Any]) -> pd.DataFrame:
    """The rows in which these columns hold these values.

    Raises:
        InputError: no row does; the message lists the choices.
    """
    for column, value in wanted.items():
        if column not in rows:
            raise InputError(f"{column}={value!r}: a case of this experiment has no {column}")
        choices = list(dict.fromkeys(map(str, rows[column])))
        rows = rows[rows[column].astype(str) == str(value)]
        if not len(rows):
            raise InputError(f"no case with {column} {value!r}; {nearest(str(value), choices[:40])}")
    return rows


def pair(case: Case, where: str) -> dict[str, Any]:
    """A case as the macro `sides` of a page shows it. where: its heading."""
    sides = [{"token": shown(side.token) or "∅", "rest": shown(side.rest)[:REST]} for side in case.sides]
    heading, prompt = brief(shown(where), 120), brief(shown(case.prompt), 300)
    return {"where": heading, "note": case.note, "prompt": prompt, "before": shown(case.shared), "sides": sides}
