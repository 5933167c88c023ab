"""The different texts of a prompt: for a terminal, a notebook's cell and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from decodedrift.core.records import InputError
from decodedrift.experiments.repeat.folds import TEXT
from decodedrift.experiments.repeat.varying import CONTROL
from decodedrift.report.case import Case, Side, narrowed
from decodedrift.report.numbers import percentage, significant
from decodedrift.report.spacing import decoder
from decodedrift.report.terminal import text_table, wrapped


def table(summary: pd.DataFrame, width: int) -> str:
    """A row per variant, what varied and strategy."""
    head = ["variant", "varied", "strategy", "runs", "unique", "most", "one text", "bit-equal", "first"]
    body = [
        [
            str(row.variant), str(row.vary), str(row.strategy), str(int(row.runs)), significant(row.unique),
            str(int(row.unique_most)), f"{round(row.tar * row.texts)}/{int(row.texts)}", percentage(row.bit_equal),
            "never" if row.unique_most == 1 else significant(row.div_index),
        ]
        for row in summary.itertuples()
    ]  # fmt: skip
    return text_table(head, body, width, names=3)


def overview(study: Any, width: int, verbose: bool = False) -> str:
    """The table, one prompt whose texts differ, and the verdict."""
    sentences = "\n".join(wrapped(sentence, width) for sentence in study.verdict)
    try:
        one = case(study, {}) if study.words else None
    except InputError:  # no text was written
        one = None
    shown = str(one) if one is not None and one.at is not None else ""
    return "\n\n".join(part for part in (table(study.summary, width), shown, sentences) if part)


def case(study: Any, wanted: Mapping[str, Any]) -> Case:
    """The first text of a prompt and another one; of all that are left open the one that parts first.

    Raises:
        InputError: there is none of these names, or the run kept no texts.
    """
    names = {"variant" if name == "candidate" else name: value for name, value in wanted.items()}
    rows = study.repeats[study.repeats["vary"] != CONTROL]
    rows = narrowed(rows.drop(columns=["position"], errors="ignore"), names)
    if not study.words:
        raise InputError("this run kept no texts (--no-text): there is no case to show")
    if not len(rows):
        raise InputError("there is no case to show: nothing was repeated")
    row = rows.sort_values("first_divergence", kind="stable", na_position="last").iloc[0]
    same = study.repeats
    for name in TEXT:
        same = same[same[name] == row[name]]
    return case_of(study, same, row)


def case_of(study: Any, same: pd.DataFrame, row: pd.Series) -> Case:
    """Two completions of one prompt. same: all rows of that prompt; row: the one held against their first."""
    decode = decoder(study.tokens, study.repeats)
    ours, its = ([int(i) for i in str(text).split()] for text in (same.iloc[0]["token_ids"], row["token_ids"]))
    at = None if pd.isna(row["first_divergence"]) else int(row["first_divergence"])
    cut = len(ours) if at is None else at
    sides = tuple(
        Side(name, decode(ids[cut : cut + 1]), decode(ids[cut + 1 :]))
        for name, ids in ((str(same.iloc[0]["setting"]), ours), (str(row["setting"]), its))
    )
    prompts = {p["id"]: p["text"] or "" for p in study.plan["prompts"]}
    seed = f", seed {row['seed']}" if len(study.plan["seeds"]) > 1 else ""
    where = f"{row['prompt_id']}, {row['variant']}, {row['strategy']}{seed}, {row['vary']}"
    note = f"{same['unique_id'].nunique()} different texts in {len(same)} runs."
    return Case(where, prompts.get(row["prompt_id"], ""), decode(ours[:cut]), sides, at, note)  # type: ignore[arg-type]
