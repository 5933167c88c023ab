"""All prompts at once: the map of the compared traces, the token view that opens any of them, and their list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.experiments.compare.reader import as_read
from decodedrift.experiments.compare.selection import CAUSES, MOST, select_cases
from decodedrift.report.numbers import absent, as_in_csv, number, position
from decodedrift.report.promptmap import carried, prompt_map
from decodedrift.report.tables import cause, num, text, token
from decodedrift.report.texts import brief, cell_text
from decodedrift.report.tokenview import case_link, key_of, token_view

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options

NUMBERS = ("reference_gap", "swing", "kl", "agreement_after")


def cases(study: Study, options: Options) -> dict[str, Any] | None:
    """All traces as a map; the chosen cases as a list, and their tokens as an island."""
    rows = study.divergences[study.divergences["role"] == "candidate"]
    compared = rows[rows["compared"] > 0]
    if not len(compared):
        return None
    parted = compared[compared["diverged"] == 1]
    picks = select_cases(study, options.top or MOST)
    aligned = bool(study.traces["token_ids"].notna().any())
    readable = options.texts and aligned
    prompts = {str(p["id"]): str(p.get("text") or "") for p in study.plan.get("prompts", ())}
    texts = {str(name): prompts.get(str(name), "") if options.texts else "" for name in compared["prompt_id"].unique()}
    tags = {str(p["id"]): [str(t) for t in p.get("tags", ())] for p in study.plan.get("prompts", ())}
    seeded = picks["seed"].nunique() > 1
    numbers = [name for name in NUMBERS if name != "kl" or study.length_of("positions")]
    return {
        "heading": "All prompts at once",
        "total": len(compared),
        "parted": len(parted),
        "columns": _columns(study, seeded, options.texts),
        "rows": [_row(i, row, seeded, options.texts, tags, numbers) for i, row in enumerate(picks.itertuples())],
        "tags": sorted({tag for row in picks["prompt_id"].unique() for tag in tags.get(row, ())})[:40],
        "found_causes": [name for name in CAUSES if name in set(picks["cause"])],
        "island": (lambda room: token_view(study, picks, room)) if readable else None,
        "readable": readable,
        "aligned": aligned,
        "map": prompt_map(compared, study.traces, texts, {key_of(row) for row in picks.itertuples()}),
        "left_out": len(compared) - len(carried(compared)),
    }


def _columns(study: Study, seeded: bool, texts: bool) -> list[dict[str, Any]]:
    """Headings; `sort` names what a click sorts by."""
    heads = [
        ("Prompt", "prompt", False, ""),
        ("Candidate", "candidate", False, ""),
        ("Strategy", "strategy", False, ""),
    ]
    heads += [("Seed", "seed", True, "The seed of sampled strategies.")] if seeded else []
    heads += [("Position", "at", True, "Where the first token differs, counted from 0: word 4 is at position 3.")]
    heads += [("Reference → candidate", "", False, "The two tokens there.")] if texts else []
    heads += [
        ("Cause", "cause", False, ""),
        ("Gap", "gap", True, as_read("The {reader}'s score of {its} token minus that of the candidate's.", study.plan)),
        ("Swing", "swing", True, "The score error that turned the choice: the sum of both sides' gaps."),
        ("KL there", "kl", True, "KL(reference ‖ candidate) at this position, nats."),
        ("Equal after", "after", True, "Share of equal tokens, index by index, after the first difference."),
    ]
    heads = [head for head in heads if head[1] != "kl" or study.length_of("positions")]
    return [{"label": a, "sort": b, "numeric": c, "help": d} for a, b, c, d in heads]


def _row(
    index: int, row: Any, seeded: bool, texts: bool, tags: dict[str, list[str]], numbers: list[str]
) -> dict[str, Any]:
    candidate, strategy, _, prompt = key_of(row)
    cells = [text(candidate, 32), text(strategy, 36)]
    cells += [num(number(row.seed, "seed"))] if seeded else []
    cells += [num(position(row.first_divergence, "first_divergence"))]
    pair = (token(row.reference_token, row.reference_token_id), token(row.candidate_token, row.candidate_token_id))
    values = {"at": row.first_divergence, "gap": row.reference_gap, "swing": row.swing, "kl": row.kl,
              "after": row.agreement_after, "seed": row.seed}  # fmt: skip
    return {
        "index": str(index), "link": case_link(row), "prompt": brief(cell_text(prompt), 36), "cells": cells,
        "pair": pair if texts and not absent(row.first_divergence) else None, "texts": texts,
        "cause": cause(row.cause if not absent(row.cause) else "equal"),
        "numbers": [num(number(getattr(row, name), name)) for name in numbers],
        "sort": {k: "" if pd.isna(v) else as_in_csv(v) for k, v in values.items()},
        "tags": " ".join(brief(t, 30) for t in tags.get(prompt, ())[:8]),
    }  # fmt: skip
