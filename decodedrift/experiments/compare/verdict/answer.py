"""What a run says first of each candidate: the word for its wording and the word for its quality, with the numbers."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.report.phrases import percent

NO_RATES = ("same", "nonfinite", "same execution", "not compared")


def sentences(study: Any) -> list[str]:
    """A sentence per candidate."""
    return [
        f"{visible(row.candidate)}: wording {row.wording} ({_joined(_rates(row), row.wording_note)}); "
        f"quality {row.quality} ({_quality(row)})."
        for row in study.answer.itertuples()
    ]  # fmt: skip


def table(study: Any) -> dict[str, list[dict[str, Any]]]:
    """The answer as data: a record per candidate, its words first, and the controls' rows of the summary apart."""
    candidates, summary = _records(study.answer), study.summary
    controls = summary[summary["role"] != "candidate"] if len(summary) else summary
    first = ("candidate", "wording", "quality")
    return {
        "candidates": [{key: row[key] for key in (*first, *(k for k in row if k not in first))} for row in candidates],
        "controls": _records(controls),
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return records


def lines(study: Any) -> list[tuple[str, str, str]]:
    """(candidate, its wording, its quality), each word with its numbers, for a terminal."""
    return [
        (
            str(row.candidate),
            f"wording {row.wording}: {_rates(row) or row.wording_note}",
            f"quality {row.quality}: {_change(row) if row.ppl_change_low == row.ppl_change_low else _quality(row)}",
        )
        for row in study.answer.itertuples()
    ]


def _joined(numbers: str, note: str) -> str:
    return visible(f"{numbers}; {note}" if numbers else note)


def _quality(row: Any) -> str:
    return _joined(_change(row), row.quality_note)


def _rates(row: Any) -> str:
    """How many of its texts part, and how many by its noise, which is batching alone."""
    if row.wording in NO_RATES:
        return ""
    alone = "" if math.isnan(row.floor_rate) else f", its noise {percent(row.floor_rate)}"
    return f"{percent(row.divergence_rate)} of texts part{_span(row, 'divergence_rate', '')}{alone}"


def _change(row: Any) -> str:
    """How perplexity changes on texts that neither side wrote."""
    if math.isnan(row.ppl_change):
        return ""
    return f"perplexity {_percent(row.ppl_change, '+')} %{_span(row, 'ppl_change', '+')}"


def _span(row: Any, column: str, sign: str) -> str:
    low, high = (getattr(row, f"{column}_{end}") for end in ("low", "high"))
    return "" if math.isnan(low) else f" ({_percent(low, sign)} to {_percent(high, sign)} %)"


def _percent(share: float, sign: str) -> str:
    """Two digits, or as many as stand before the point."""
    return f"{100 * share:{sign}{'.0f' if abs(share) >= 0.1 else '.2g'}}"
