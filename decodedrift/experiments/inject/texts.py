"""Both texts of a replaced token: as it was, and as it went on; for the page and for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pandas as pd

from decodedrift.core.records import InputError
from decodedrift.core.untrusted import terminal
from decodedrift.report.case import Case, Side, narrowed
from decodedrift.report.numbers import percentage
from decodedrift.report.spacing import decoder
from decodedrift.report.terminal import text_table, wrapped

KEYS = ["strategy", "seed", "prompt_id"]
LAGS = (1, 5, 20)


@dataclass(frozen=True)
class Pair:
    """One replaced token. before: the text up to it, which both share; the token and what follows, on either side."""

    strategy: str
    seed: int
    prompt_id: str
    prompt: str
    position: int
    agreement: float
    before: str
    original: str
    original_rest: str
    injected: str
    injected_rest: str


def pairs(study: Any, rows: pd.DataFrame | None = None) -> Iterator[Pair]:
    """Every row of injection.csv (or of some) whose token was replaced by another; none where no texts were kept."""
    rows = study.injection if rows is None else rows
    decode = decoder(study.tokens, study.traces)
    originals = study.traces[study.traces["role"] == "reference"].set_index(KEYS)
    for row in rows.itertuples() if len(study.tokens) and study.words else ():
        trace = originals.loc[(row.strategy, row.seed, row.prompt_id)]
        ours, its = ([int(i) for i in text.split()] for text in (trace["token_ids"], row.token_ids))
        at = int(row.position)
        if ours[at] != its[at]:
            parts = (ours[:at], ours[at : at + 1], ours[at + 1 :], its[at : at + 1], its[at + 1 :])
            yield Pair(
                row.strategy, int(row.seed), row.prompt_id, str(trace["prompt"]), at, row.agreement,
                *map(decode, parts),
            )  # fmt: skip


def table(summary: pd.DataFrame, width: int) -> str:
    """A row per strategy and position."""
    head = ["strategy", "at", "texts", "come back", "in step", "agree after", *(f"lag {lag}" for lag in LAGS)]
    body = [
        [
            str(row.strategy), str(row.position), str(row.texts), f"{int(row.recovered)}/{row.long_enough}",
            str(row.in_step), percentage(row.agreement),
            *(percentage(getattr(row, f"agreement_lag_{lag}")) for lag in LAGS),
        ]
        for row in summary.itertuples()
    ]  # fmt: skip
    return text_table(head, body, width, names=1)


def overview(study: Any, width: int, verbose: bool = False) -> str:
    """The table by strategy and position, one text beside what became of it, and the verdict, which is short."""
    sentences = "\n".join(wrapped(sentence, width) for sentence in study.verdict)
    return "\n\n".join(part for part in (table(study.summary, width), one(study, width), sentences) if part)


def one(study: Any, width: int) -> str:
    """One of the texts beside what became of it: of those that agree least afterwards the first."""
    every = sorted(pairs(study), key=lambda pair: pair.agreement if pair.agreement == pair.agreement else 2.0)
    if not every:
        return ""
    pair, column = every[0], (width - 3) // 2
    left, right = (
        textwrap.wrap(terminal(f"{pair.before}[{token}]{rest}"), column, break_long_words=True)
        for token, rest in ((pair.original, pair.original_rest), (pair.injected, pair.injected_rest))
    )
    head = f"{pair.strategy}, prompt {pair.prompt_id}, position {pair.position}: as it was, and with another token"
    lines = (f"{a:<{column}} | {b}" for a, b in zip_longest(left, right, fillvalue=""))
    return "\n".join([terminal(head, width), *lines])


def case(study: Any, wanted: Mapping[str, Any]) -> Case:
    """One text as it was and as it went on; of all that are left open, the one that agrees least afterwards.

    Raises:
        InputError: there is none of these names, nothing was replaced there, or the run kept no texts.
    """
    rows = narrowed(study.injection.drop(columns="candidate"), wanted)
    if not study.words:
        raise InputError("this run kept no texts (--no-text): there is no case to show")
    if not len(study.tokens):
        raise InputError("this run has no tokens.csv, as those of version 0.1.0: its tokens cannot be shown as text")
    pair = next(pairs(study, rows.sort_values("agreement", kind="stable")), None)
    if pair is None:
        raise InputError("there is no such case to show: nothing was replaced there")
    seed = f", seed {pair.seed}" if len(study.plan["seeds"]) > 1 else ""
    sides = (
        Side("as it was", pair.original, pair.original_rest),
        Side("replaced", pair.injected, pair.injected_rest),
    )
    note = f"{percentage(pair.agreement)} of the tokens after it are the reference's."
    return Case(f"{pair.prompt_id}, {pair.strategy}{seed}", pair.prompt, pair.before, sides, pair.position, note)
