"""The fork of a case: what both texts share, how each goes on, and how probable the two tokens were where they part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.core.records import InputError
from decodedrift.experiments.compare.selection import causes, telling_case
from decodedrift.report.case import Case, Side, narrowed
from decodedrift.report.numbers import absent, significant
from decodedrift.report.spacing import decoder
from decodedrift.report.tokenview import key_of

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study


def case(study: Study, wanted: Mapping[str, Any]) -> Case:
    """One compared pair of texts; of all that are left open, the one that is easiest to read.

    Raises:
        InputError: there is none of these names, or the run kept no texts.
    """
    rows = study.divergences[(study.divergences["role"] == "candidate") & (study.divergences["compared"] > 0)]
    rows = narrowed(rows, wanted)
    if not len(rows):
        raise InputError("nothing was compared: there is no case to show")
    if not study.words:
        raise InputError("this run kept no texts (--no-text): there is no case to show")
    return _case(study, telling_case(study, rows) or next(rows.itertuples()))


def _case(study: Study, row: Any) -> Case:
    at = None if absent(row.first_divergence) else int(row.first_divergence)
    traces = [_trace(study, "reference", row.reference, row), _trace(study, "candidate", row.candidate, row)]
    decode = decoder(study.tokens, pd.concat(traces))
    ours, theirs = ([int(i) for text in trace["token_ids"].dropna() for i in text.split()] for trace in traces)
    chances = _chances(study, row, at) if at is not None else {}
    sides = [
        Side(name, decode(ids[at : at + 1]), decode(ids[at + 1 :]), chances[name]) if at is not None else Side(name)
        for name, ids in ((row.reference, ours), (row.candidate, theirs))
    ]
    prompts = {str(p["id"]): str(p.get("text") or "") for p in study.plan.get("prompts", ())}
    seed = f", seed {row.seed}" if len(study.plan.get("seeds", ())) > 1 else ""
    where = f"{row.prompt_id}, {row.strategy}{seed}, {row.candidate} against {row.reference}"
    parted = "they are predicted to part" if study.plan.get("mode") == "screen" else "they part"
    shared = decode(ours[:at])
    return Case(where, prompts.get(row.prompt_id, ""), shared, (sides[0], sides[1]), at, _why(row, study.plan), parted)


def _trace(study: Study, role: str, name: str, row: Any) -> pd.DataFrame:
    traces = study.traces
    return traces[(traces["role"] == role) & (traces["variant"] == name) & (traces["strategy"] == row.strategy)
                  & (traces["seed"] == row.seed) & (traces["prompt_id"] == row.prompt_id)].head(1)  # fmt: skip


def _chances(study: Study, row: Any, at: int) -> dict[str, tuple[float | None, ...]]:
    """Variant -> the probabilities that it gave the two tokens there, None where they are not among its first five.

    Up to there both wrote the same, so what was seen when it was written comes before what was read again.
    """
    tops = study.alternatives_of([row.prompt_id])
    tops = tops[(tops["position"] == at) & (tops["role"] == "candidate")].sort_values("pass")  # generated comes last
    ln = {(t.variant, int(t.token_id)): float(t.logprob) for t in tops.itertuples() if key_of(t) == key_of(row)}
    pair = [None if absent(i) else int(i) for i in (row.reference_token_id, row.candidate_token_id)]
    return {
        name: tuple(math.exp(ln[name, i]) if i is not None and (name, i) in ln else None for i in pair)
        for name in (row.reference, row.candidate)
    }


def _why(row: Any, plan: Mapping[str, Any]) -> str:
    """The cause in a sentence, and how close it was."""
    if absent(row.cause):
        return ""
    meaning = causes(plan).get(row.cause, row.cause.replace("_", " ")).partition(". ")[0].rstrip(".")
    gap = "" if absent(row.reference_gap) else f" (gap {significant(row.reference_gap)} nats)"
    return f"{meaning}{gap}."
