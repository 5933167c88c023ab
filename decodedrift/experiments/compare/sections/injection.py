"""summary.csv's figures of replaced tokens: what a single wrong token does with no numerical error at all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from decodedrift.report.numbers import (
    MISSING,
    Number,
    absent,
    exactly,
    number,
    percent,
    percentage,
    position,
    with_interval,
)
from decodedrift.report.tables import Cell, Column, Table, merged, num, text

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options

COLUMNS = (
    Column("Candidate", numeric=False), Column("Strategy", numeric=False),
    Column("Replaced", "Tokens of the reference's text that were replaced by another."),
    Column("Came back", "Share of these texts that met the old one again."),
    Column("Explained by the token", "How much of the distance between both texts the replaced token alone causes."),
    Column("95 % interval"),
    Column("Over tokens", "How many tokens follow the replaced one, in the median: what the share is taken over."),
    Column("Part again", "Share of the tokens after the replaced one at which the two texts, equal so far, part a "
           "second time, with its 95 % interval."),
    Column("Beside the first", "That risk over the risk of the first split, with its 95 % interval: above 1 where the "
           "errors gathered before hasten the next split, or prompts are of unequal risk."),
)  # fmt: skip


def injection(study: Study, options: Options) -> dict[str, Any] | None:
    """A row per candidate and strategy with replaced tokens."""
    table = study.summary
    if "injected" not in table or not (table["injected"] > 0).any():
        return None
    rows = []
    for row in table[(table["role"] == "candidate") & (table["injected"] > 0)].itertuples():
        low, high = row.trajectory_share_low, row.trajectory_share_high
        interval = MISSING if absent(low) or absent(high) else f"{percentage(low)} to {percentage(high)}"
        values = exactly({"trajectory_share_low": low, "trajectory_share_high": high})
        rows.append([
            text(row.candidate, 48, head=True), text(row.strategy, 60), num(number(row.injected, "injected")),
            num(percent(row.recovered_share, "recovered_share")),
            num(percent(row.trajectory_share, "trajectory_share")), num(Number(interval, values)),
            *_second(row),
        ])  # fmt: skip
    known = [i for i, column in enumerate(COLUMNS) if not column.numeric or any(r[i].text != MISSING for r in rows)]
    rows = [[row[i] for i in known] for row in rows]
    columns = tuple(COLUMNS[i] for i in known)  # a run of an earlier version has no second split
    return {"heading": "One replaced token", "table": Table(columns, merged(rows), source="summary.csv")}


def _second(row: Any) -> list[Cell]:
    """The horizon of the share, and the second split beside the first."""
    names = [f"second_hazard{end}" for end in ("", "_low", "_high")]
    risk = {name: getattr(row, name, math.nan) for name in names}
    risk_, low, high = risk.values()
    ends = "" if absent(low) or absent(high) else f" ({percentage(low)} to {percentage(high)})"
    return [
        num(position(getattr(row, "trajectory_horizon", math.nan), "trajectory_horizon")),
        num(Number(f"{percentage(risk_)}{ends}", exactly(risk))),
        num(with_interval(row, "second_hazard_ratio") if hasattr(row, "second_hazard_ratio") else Number(MISSING)),
    ]
