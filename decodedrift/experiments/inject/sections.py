"""The page of an `inject`: what it says, the table by position, and the texts side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.experiments.inject.texts import LAGS, pairs
from decodedrift.report.html import Options, Section, StudyLike
from decodedrift.report.numbers import Number, exactly, number, percent, percentage
from decodedrift.report.sections.failures import failures
from decodedrift.report.sections.provenance import provenance
from decodedrift.report.sections.verdict import verdict
from decodedrift.report.tables import Column, Table, num, text
from decodedrift.report.texts import brief, shown

MOST = 60  # texts that the page carries
LONGEST = 1500  # characters of a side's remainder
COLUMNS = (
    Column("Strategy", numeric=False), Column("Position"), Column("Texts"),
    Column("Came back", "Texts that met the old one again, of those long enough to tell."),
    Column("95 % interval"), Column("In step", "Texts that came back at the same index."),
    Column("Agree after", "Share of the tokens after the replaced one that are the reference's."),
    *(Column(f"Lag {lag}", f"The same, of the {lag}th token after it alone.") for lag in LAGS),
)  # fmt: skip


def summary(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """A row per strategy and position."""
    rows = []
    for row in study.summary.itertuples():
        spread = (
            f"{percentage(row.recovered_share_low)} to {percentage(row.recovered_share_high)}"
            if row.long_enough
            else "n/a"
        )
        ends = exactly(
            {"recovered_share_low": row.recovered_share_low, "recovered_share_high": row.recovered_share_high}
        )
        rows.append([
            text(row.strategy, 60, head=True), num(number(row.position, "position")), num(number(row.texts, "texts")),
            num(Number(f"{int(row.recovered)} of {row.long_enough}", exactly({"recovered": row.recovered}))),
            num(Number(spread, ends)), num(number(row.in_step, "in_step")), num(percent(row.agreement, "agreement")),
            *(num(percent(getattr(row, name), name)) for name in (f"agreement_lag_{lag}" for lag in LAGS)),
        ])  # fmt: skip
    return {"heading": "What one token does", "table": Table(COLUMNS, rows, source="summary.csv")} if rows else None


def texts(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """Both texts of each replaced token, the token marked."""
    every = list(pairs(study)) if options.texts else []
    if not every:
        return None
    carried = every[: MOST if options.top is None else options.top]
    sides = [
        {
            "where": f"{brief(p.strategy, 40)}, position {p.position}, prompt {brief(shown(p.prompt_id), 60)}"
            + (f", seed {p.seed}" if len(study.plan["seeds"]) > 1 else ""),
            "agreement": percent(p.agreement, "agreement"), "prompt": brief(shown(p.prompt), 300),
            "before": shown(p.before), "original": shown(p.original), "injected": shown(p.injected),
            "original_rest": shown(p.original_rest)[:LONGEST], "injected_rest": shown(p.injected_rest)[:LONGEST],
        }
        for p in carried
    ]  # fmt: skip
    return {"heading": "The texts, side by side", "pairs": sides, "left_out": len(every) - len(carried)}


SECTIONS: dict[str, Section] = {
    "verdict": verdict,
    "inject_summary": summary,
    "inject_texts": texts,
    "failures": failures,
    "provenance": provenance,
}


def sections() -> Mapping[str, Section]:
    """SECTIONS."""
    return SECTIONS


def title(plan: Mapping[str, Any]) -> str:
    """What was replaced."""
    return f"One token replaced at position{'s' * (len(plan['at']) > 1)} {', '.join(map(str, plan['at']))}"
