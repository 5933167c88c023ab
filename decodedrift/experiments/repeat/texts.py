"""The different texts of a prompt: for a terminal, a notebook's cell and the page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from decodedrift.core.records import RECORDED, InputError
from decodedrift.experiments.repeat.folds import TEXT
from decodedrift.experiments.repeat.varying import CONTROL
from decodedrift.experiments.repeat.verdict import side
from decodedrift.numerics.sequences import first_divergence_char
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
    row = parting(rows)
    same = study.repeats
    for name in TEXT:
        same = same[same[name] == row[name]]
    return case_of(study, same, row)


def parting(rows: pd.DataFrame) -> pd.Series:
    """Of some completions the one that parts from its prompt's first one first; of texts without ids any that parts."""
    apart = rows.assign(alike=rows["unique_id"] == 0)
    return apart.sort_values(["alike", "first_divergence"], kind="stable", na_position="last").iloc[0]


def case_of(study: Any, same: pd.DataFrame, row: pd.Series) -> Case:
    """Two completions of one prompt. same: all rows of that prompt; row: the one held against their first."""
    pair = (same.iloc[0], row)
    at, unit = None if pd.isna(row["first_divergence"]) else int(row["first_divergence"]), "token"
    if side(study, row["variant"])["precision"] == RECORDED:  # its ids may be of another vocabulary
        shared, parts = _by_character(*(str(each["text"]) for each in pair))
        if at is None and row["unique_id"]:
            at, unit = len(shared), "character"
    else:
        shared, parts = _by_token(study, same, pair, at)
    ours, its = (Side(str(each["setting"]), *part) for each, part in zip(pair, parts, strict=True))
    prompts = {p["id"]: p["text"] or "" for p in study.plan["prompts"]}
    seed = f", seed {row['seed']}" if len(study.plan["seeds"]) > 1 else ""
    where = f"{row['prompt_id']}, {row['variant']}, {row['strategy']}{seed}, {row['vary']}"
    note = f"{same['unique_id'].nunique()} different texts in {len(same)} runs."
    return Case(where, prompts.get(row["prompt_id"], ""), shared, (ours, its), at, note, unit=unit)


def _by_token(
    study: Any, same: pd.DataFrame, pair: Sequence[pd.Series], at: int | None
) -> tuple[str, list[tuple[str, str]]]:
    """What two texts share, and of each the token that differs and the rest."""
    decode = decoder(study.tokens, same)
    texts = [[int(i) for i in str(each["token_ids"]).split()] for each in pair]
    cut = len(texts[0]) if at is None else at
    return decode(texts[0][:cut]), [(decode(ids[cut : cut + 1]), decode(ids[cut + 1 :])) for ids in texts]


def _by_character(ours: str, its: str) -> tuple[str, list[tuple[str, str]]]:
    """The same of texts whose tokens are not at hand: a word in place of the token."""
    cut = first_divergence_char(ours, its)
    cut = len(ours) if cut is None else cut
    parts = []
    for text in (ours, its):
        word = re.match(r"\s*\S*", text[cut:])
        end = cut + (word.end() if word else 0)
        parts.append((text[cut:end], text[end:]))
    return ours[:cut], parts
