"""All prompts at once: for each compared trace how long it is, where it parts and where it meets the reference again.

Texts are not in it, only counts of tokens, so that thousands of traces take little of the page's room.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from markupsafe import Markup

from decodedrift.report.inline import compressed
from decodedrift.report.numbers import absent
from decodedrift.report.texts import brief, shown
from decodedrift.report.tokenview import key_of, meetings

MOST = 12_000  # traces that are carried
LONGEST = 2_000  # tokens of a trace that are aligned
HEAD = 60  # characters of a prompt that stand for it
Key = tuple[str, str, int, str]


def prompt_map(rows: pd.DataFrame, traces: pd.DataFrame, prompts: dict[str, str], opened: set[Key]) -> Markup:
    """The island of the map.

    Args:
        rows: of divergences.csv, one for each compared trace.
        traces: of traces.csv.
        prompts: id -> text, empty where texts are not to be shown.
        opened: the cases that the token view can open.
    """
    written = {(t.role, t.variant, t.strategy, int(t.seed), t.prompt_id): t for t in traces.itertuples()}
    numbers = {name: i for i, name in enumerate(prompts)}
    cells: dict[tuple[str, str], list[list[int]]] = {}
    for row in carried(rows).itertuples():
        key = key_of(row)
        candidate, strategy, seed, prompt = key
        at = -1 if absent(row.first_divergence) else int(row.first_divergence)
        text, again = written.get(("candidate", *key)), []
        if at >= 0:
            ours = _ids(written.get(("reference", row.reference, strategy, seed, prompt)))
            again = meetings(ours[:LONGEST], _ids(text)[:LONGEST], at)
        length = int(row.compared if text is None or absent(text.n_tokens) else text.n_tokens)
        trace = [numbers[prompt], seed, length, at, int(key in opened)]
        cells.setdefault((candidate, strategy), []).append([*trace, *(n for run in again for n in run[1:])])
    return compressed({
        "prompts": [brief(shown(name), 40) for name in numbers],
        "ids": list(numbers),
        "texts": [brief(shown(text), HEAD) for text in prompts.values()],
        "cells": [[*key, traces] for key, traces in cells.items()],
    })  # fmt: skip


def carried(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the map: all, or of very many as many of every candidate and strategy."""
    cells = rows.groupby(["candidate", "strategy"], sort=False)
    return cells.head(max(1, MOST // max(1, cells.ngroups)))


def _ids(trace: Any) -> list[int]:
    """The tokens of a row of traces.csv; none where there is no row, or it was kept without them."""
    return [int(i) for i in trace.token_ids.split()] if trace is not None and isinstance(trace.token_ids, str) else []
