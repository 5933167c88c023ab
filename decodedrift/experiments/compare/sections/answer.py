"""The answer: a card for each candidate. Does it write other texts than its noise, is it worse, are its answers?"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.reader import as_read
from decodedrift.experiments.compare.settings import counted
from decodedrift.experiments.compare.verdict import accuracy, assembly
from decodedrift.models.precisions import beware
from decodedrift.report.numbers import Number, absent, exactly
from decodedrift.report.phrases import UNDER, percent, relative
from decodedrift.report.sections.verdict import facts
from decodedrift.report.texts import brief, isolated

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options

MOST = 6  # cards that are seen at once
LEAST = 2.0  # per cent of perplexity that the axis shows at least, to either side
WHYS = {
    "near_tie": "the {reader} all but tied at {share} of its splits",
    "draw": "at {share} of its splits the shared draw fell on an edge",
    "shift": "at {share} of its splits the reference clearly preferred its own word",
    "truncation": "at {share} of its splits a word fell out of the set drawn from",
    "stopped": "one side had ended, at a stop id of its own, at {share} of its splits",
    "nonfinite": "its numbers broke (NaN or infinite) at {share} of its splits",
    "uncoupled": "the draws were independent: chance parts the texts",
}
JUDGED = WHYS | {"shift": "at {share} of its splits the judge clearly preferred one of the two words"}


@dataclass(frozen=True)
class Card:
    """One candidate. rate, quality: places of (low, value, high) on their axes in per cent, empty where there is none;
    floor: that of the noise floor. means: what to know of its precision. answers: the word, empty where none were
    checked."""

    name: str
    means: str
    wording: str
    note: str
    rate: tuple[str, ...]
    floor: str
    differ: Number
    differs: str
    noise: Number | None
    quality: str
    quality_note: str
    counted: str
    change: Number | None
    range: tuple[str, ...]
    why: str
    answers: str = ""
    answers_note: str = ""
    costs: Number | None = None


def answer(study: Study, options: Options) -> dict[str, Any] | None:
    """A card per candidate, on axes that all share."""
    table = study.answer
    span = max([LEAST, *(100 * abs(v) for v in _ends(table) if math.isfinite(v))])
    scale = math.ceil(span * 2) / 2 if span < 10 else math.ceil(span / 10) * 10
    cards = [_card(row, study, scale) for row in table.itertuples()]
    band = tuple(_place(v, scale) for v in (-1, 1))
    names = [visible(str(v["name"])) for v in (study.plan["reference"], *study.plan.get("candidates", ()))]
    alarms = [isolated(sentence, names) for sentence in assembly.alarms(study)]
    return {"facts": facts(study), "alarms": alarms, "cards": cards[:MOST], "more": cards[MOST:], "opening": True,
            "scale": f"{scale:g}", "band": band}  # fmt: skip


def _ends(table: pd.DataFrame) -> list[float]:
    columns = table[["ppl_change", "ppl_change_low", "ppl_change_high"]]
    return [float(v) for v in columns.to_numpy("float64", na_value=math.nan).ravel()]


def _card(row: Any, study: Study, scale: float) -> Card:
    variants = {
        v["name"]: [(v.get("precision", ""), v.get("compute"), v.get("options") or {})]
        for v in study.plan.get("candidates", ())
    }
    ends = (row.divergence_rate_low, row.divergence_rate, row.divergence_rate_high)
    rate = () if any(map(absent, ends)) else tuple(f"{100 * v:.2f}" for v in ends)
    columns = {"divergence_rate": ends[1], "divergence_rate_low": ends[0], "divergence_rate_high": ends[2]}
    changes = (row.ppl_change_low, row.ppl_change, row.ppl_change_high)
    named = exactly(dict(zip(("ppl_change_low", "ppl_change", "ppl_change_high"), changes, strict=True)))
    floor = row.floor_rate
    return Card(
        name=brief(str(row.candidate), 48),
        means=" ".join(beware(variants.get(str(row.candidate), ())).values()),
        wording=str(row.wording),
        note=_text(row.wording_note),
        rate=rate,
        floor="" if absent(floor) else f"{100 * floor:.2f}",
        differ=Number(_rates(ends), exactly({"diverged": row.diverged, "traces": row.traces, **columns})),
        differs="are predicted to differ" if study.plan.get("mode") == "screen" else "differ",
        noise=None if absent(floor) else Number(percent(floor), exactly({"floor_rate": floor})),
        quality=str(row.quality),
        quality_note=_text(row.quality_note),
        change=None if absent(row.ppl_change) else Number(_change(relative(*changes[1::-1], changes[2])), named),
        counted=counted(study.plan),
        range=() if any(map(absent, changes)) else tuple(_place(100 * v, scale) for v in changes),
        why=_why(study, str(row.candidate)),
        **_answers(row),
    )


def _change(said: str) -> str:
    """What follows the word perplexity."""
    return f"changes by {said}" if said == UNDER else said


def _answers(row: Any) -> dict[str, Any]:
    if not accuracy.measured(row):
        return {}
    names = ("accuracy_reference", "accuracy_candidate", "accuracy_drop", "accuracy_drop_low", "accuracy_drop_high")
    costs = Number(_text(accuracy.change(row)), exactly({name: getattr(row, name) for name in names}))
    return {"answers": row.answers, "answers_note": row.answers_note, "costs": costs if row.checked else None}


def _text(value: Any) -> str:
    """Its numbers with a true minus, as the others of the card."""
    return "" if absent(value) else re.sub(r"(?<![\w.])-(?=\d)", "−", str(value))


def _rates(ends: tuple[Any, Any, Any]) -> str:
    """A share and its interval."""
    low, value, high = ends
    if absent(value) or absent(low) or absent(high):
        return "" if absent(value) else percent(value)
    return f"{percent(value)} ({percent(low).removesuffix(' %')} to {percent(high)})"


def _place(per_cent: float, scale: float) -> str:
    """Where a change stands on an axis from -scale to scale, in per cent of its width; beyond, at its end."""
    return f"{min(100.0, max(0.0, 50 + 50 * per_cent / scale)):.2f}"


def _why(study: Study, candidate: str) -> str:
    """The commonest cause of this candidate's splits, in one clause."""
    rows = study.divergences
    rows = rows[(rows["role"] == "candidate") & (rows["candidate"] == candidate)]
    causes = rows.loc[(rows["diverged"] == 1) & (rows["cause"] != "search"), "cause"].dropna()
    if not len(causes):
        return ""
    counts = causes.value_counts()
    name, count = str(counts.index[0]), int(counts.iloc[0])
    why = (JUDGED if study.plan.get("judge") else WHYS).get(name, "")
    return as_read(why, study.plan).replace("{share}", f"{count} of {len(causes)}")
