"""Gates on words: `wording==more than noise`, `quality==worse:int8`; the words are made of intervals already."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from decodedrift.core.records import InputError, nearest
from decodedrift.runs.gates import Fault, Gate, Gating, parse_gate

_GATE = re.compile(r"\s*(\w+)\s*(==|!=)\s*([^:]*?)\s*(?::(.*))?", re.S)


@dataclass(frozen=True)
class WordGate:
    """Exceeded where a candidate's word is (`==`) or is not (`!=`) this one, or there is none. only: as of Gate."""

    text: str
    column: str
    operator: str
    word: str
    only: str = ""

    def cells(self, gating: Gating) -> list[str]:
        """The candidates that it holds for."""
        return [name for name in dict.fromkeys(cell[0] for cell in gating.cells) if self.only in ("", name)]

    def passed(self, table: pd.DataFrame, gating: Gating) -> str:
        """The sentence for a gate that nothing exceeds: over how many candidates, and where nothing was measured."""
        names = self.cells(gating)
        told = table.get(self.column, gating.unmeasured)  # a run from before there was such a word
        blank = table.loc[(told == gating.unmeasured) & table["candidate"].isin(names), "candidate"]
        but = f"; {self.column} is {gating.unmeasured} for {', '.join(blank)}" if len(blank) else ""
        return f"{self.text}: in none of {len(names)} candidate{'s' * (len(names) != 1)}{but}"

    def exceeded(
        self, table: pd.DataFrame, gating: Gating, faults: Mapping[tuple[str, ...], Fault] | None = None
    ) -> list[str]:
        """A sentence for each candidate that does not pass: its word, and what that means there."""
        rows = {str(row["candidate"]): row for row in table.to_dict("records")}
        sentences = []
        for name in self.cells(gating):
            row = rows.get(name)
            if row is None:
                sentences.append(f"{self.text}: {name}: there is no result")
            elif ((word := row.get(self.column, gating.unmeasured)) == self.word) == (self.operator == "=="):
                note = row.get(f"{self.column}_note", "its run measured none")
                sentences.append(f"{self.text}: {name}: {self.column} is {word}: {note}")
        return sentences


def parse_word_gate(text: str, gating: Gating) -> WordGate | None:
    """A gate on a word as it is typed, `COLUMN==WORDS[:CANDIDATE]`; None where the column is none of words.

    Raises:
        InputError: not such a gate; an unknown word or candidate, with the choices.
    """
    first = re.match(r"\s*(\w+)", text)
    column = first[1] if first else ""
    if column not in gating.words:
        return None
    match, choices = _GATE.fullmatch(text), gating.words[column]
    if match is None or match[3] not in choices:
        given = match[3] if match else text
        raise InputError(
            f"--fail-on {text!r}: a gate on words is {column}==WORDS or {column}!=WORDS; {nearest(given, choices)}"
        )
    only = (match[4] or "").strip()
    names = list(dict.fromkeys(cell[0] for cell in gating.cells))
    if match[4] is not None and only not in names:
        raise InputError(f"--fail-on {text!r}: no candidate {only!r}; {nearest(only, names)}")
    return WordGate(text.strip(), match[1], match[2], match[3], only)


def parse_gates(texts: Sequence[str], interval: bool, gating: Gating) -> list[Gate | WordGate]:
    """Gates as they are typed; `default` stands for the recommended ones.

    Raises:
        InputError: see `parse_gate`, or there are none to recommend.
    """
    gates: list[Gate | WordGate] = []
    for text in texts:
        if text.strip() == "default" and not gating.recommended:
            raise InputError("--fail-on default: this experiment has no recommended gates; name a column")
        for each in gating.recommended if text.strip() == "default" else (text,):
            gates.append(parse_word_gate(each, gating) or parse_gate(each, interval, gating))
    return gates
