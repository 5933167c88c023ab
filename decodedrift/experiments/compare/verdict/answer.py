"""What a run says first of each candidate: the words for its wording, quality and answers, with the numbers."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.draws import uncoupled
from decodedrift.experiments.compare.folds.accuracy import CANNOT_TELL, rounded_up
from decodedrift.experiments.compare.folds.answer import TOLD_BY_NOISE, prompts_to_tell, unbatched
from decodedrift.experiments.compare.folds.consistency import in_words
from decodedrift.experiments.compare.settings import counted
from decodedrift.experiments.compare.verdict import accuracy, deployment
from decodedrift.report.phrases import UNDER, change, listed, percent

NAMED = 3  # candidates of which one thing is said
NO_RATES = ("same", "nonfinite", "same execution", "not compared")


def sentences(study: Any) -> list[str]:
    """A sentence per candidate."""
    return [
        f"{visible(row.candidate)}: wording {row.wording} ({_joined(_rates(row, study), row.wording_note)}); "
        f"quality {row.quality} ({_quality(row, study)}){_costs(row)}."
        for row in study.answer.itertuples()
    ]  # fmt: skip


def table(study: Any) -> dict[str, Any]:
    """The answer as data: a record per candidate, its words first, and the controls' rows of the summary apart.

    Before them, where there is any, what deployment would see besides.
    """
    candidates, summary = _records(study.answer), study.summary
    controls = summary[summary["role"] != "candidate"] if len(summary) else summary
    first = tuple(name for name in ("candidate", "wording", "quality", "answers") if name in study.answer)
    deployed = deployment.sentences(study)
    return ({"deployment": deployed} if deployed else {}) | {
        "candidates": [{key: row[key] for key in (*first, *(k for k in row if k not in first))} for row in candidates],
        "controls": _records(controls),
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return records


def lines(study: Any) -> list[tuple[str, ...]]:
    """(candidate, its wording, its quality, its answers where any were checked), each word with its numbers."""
    return [
        (
            str(row.candidate),
            f"wording {row.wording}: {_rates(row, study) or row.wording_note}",
            f"quality {row.quality}: {_quality(row, study) if math.isnan(row.ppl_change_low) else _change(row, study)}",
            *_answers(row),
            *_rounding(row),
        )
        for row in study.answer.itertuples()
    ]


def briefly(study: Any) -> list[tuple[str, str, str, str]]:
    """(candidate, its rates, its wording, its quality and answers) in few words, for one line of a terminal."""
    texts = []
    for row in study.answer.itertuples():
        noise = "" if math.isnan(row.floor_rate) else f", noise {percent(row.floor_rate)}"
        part = "predicted to part" if study.plan.get("mode") == "screen" else "part"
        rates = "" if row.wording in NO_RATES else f" ({percent(row.divergence_rate)} {part}{noise})"
        texts.append((str(row.candidate), rates, f"wording {row.wording}", words(row)))
    return texts


def words(row: Any) -> str:
    """The words for quality and, where any were checked, for answers; of what was recorded, whether it is rounding."""
    answers = [f"answers {row.answers}"] if accuracy.measured(row) else []
    return "; ".join([f"quality {row.quality}", *answers, *_rounding(row)])


def _rounding(row: Any) -> list[str]:
    """Whether what another engine wrote is rounding; of a candidate that ran here nothing."""
    return [] if pd.isna(row.recorded_in) else [in_words(row.rounding, row.recorded_in)]


def _answers(row: Any) -> list[str]:
    """The word for its answers, with the numbers or why there are none; for a run that checked none nothing."""
    if not accuracy.measured(row):
        return []
    told = accuracy.change(row)
    if row.answers == CANNOT_TELL:
        told += f"; {rounded_up(row.prompts_needed)} prompts would tell, were there none"
    return [f"answers {row.answers}: {told or row.answers_note}"]


def _costs(row: Any) -> str:
    """The same within a sentence, with the whole note."""
    if not accuracy.measured(row):
        return ""
    return f"; answers {row.answers} ({_joined(accuracy.change(row), row.answers_note)})"


def _joined(numbers: str, note: str) -> str:
    return visible(f"{numbers}; {note}" if numbers else note)


def _quality(row: Any, study: Any) -> str:
    return _joined(_change(row, study), row.quality_note)


def _rates(row: Any, study: Any) -> str:
    """How many of its texts part, and how many by its noise, which is batching alone."""
    if row.wording in NO_RATES:
        return ""
    anew, names = uncoupled(study.plan), row.strategies.split(", ")
    under = f" under {', '.join(name for name in names if name not in anew)}" if {*anew} & {*names} else ""
    alone = "" if math.isnan(row.floor_rate) else f", its noise {percent(row.floor_rate)}{under}"
    low, high = row.divergence_rate_low, row.divergence_rate_high
    spread = "" if math.isnan(low) else f" ({percent(low).removesuffix(' %')} to {percent(high)})"
    part = "predicted to part" if study.plan.get("mode") == "screen" else "part"
    return f"{percent(row.divergence_rate)} of texts {part}{spread}{alone}"


def outlook(study: Any) -> str:
    """What of the notes a reader of numbers needs: how many prompts would tell, and who has no noise by arithmetic."""
    rows = study.answer[study.answer["wording"].isin(TOLD_BY_NOISE)].to_dict("records")
    open_ = {visible(row["candidate"]): prompts_to_tell(row) for row in rows if row["wording"] == "cannot tell"}
    why = {visible(row["candidate"]): unbatched(row["floor_rate"], row["candidate"], study.plan) for row in rows}
    counts = [f"{text} for {name}" for name, text in open_.items()]
    counts[1:] = [text.replace(" prompts", "", 1) for text in counts[1:]]
    said = [f"To tell: {', '.join(counts)}"] if counts else []
    groups: dict[str, list[str]] = {}
    for name, text in why.items():
        groups.setdefault(text.removeprefix("it computes ").split(",")[0], []).append(name)
    for how, names in groups.items():
        some = [*names[:NAMED], f"{len(names) - NAMED} more"] if len(names) > NAMED + 1 else names
        said += [f"{listed(some)} compute{'s' * (len(names) == 1)} {how}"] if how else []
    return f"{'; '.join(said)}." if said else ""


def _change(row: Any, study: Any) -> str:
    """How perplexity changes on texts that neither side wrote."""
    if math.isnan(row.ppl_change):
        return ""
    said = change(row.ppl_change, row.ppl_change_low, row.ppl_change_high)
    return f"perplexity{counted(study.plan)} {'changes by ' if said == UNDER else ''}{said}"
