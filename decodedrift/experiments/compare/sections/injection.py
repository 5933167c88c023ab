"""summary.csv's figures of replaced tokens: what a single wrong token does with no numerical error at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.report.numbers import Number, absent, exactly, number, percent, percentage
from decodedrift.report.tables import Column, Table, merged, num, text

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options

COLUMNS = (
    Column("Candidate", numeric=False), Column("Strategy", numeric=False),
    Column("Replaced", "Tokens of the reference's text that were replaced by another."),
    Column("Came back", "Share of these texts that met the old one again."),
    Column("Explained by the token", "How much of the distance between both texts the replaced token alone causes."),
    Column("95 % interval"),
)  # fmt: skip


def injection(study: Study, options: Options) -> dict[str, Any] | None:
    """A row per candidate and strategy with replaced tokens."""
    table = study.summary
    if "injected" not in table or not (table["injected"] > 0).any():
        return None
    rows = []
    for row in table[(table["role"] == "candidate") & (table["injected"] > 0)].itertuples():
        low, high = row.trajectory_share_low, row.trajectory_share_high
        interval = "n/a" if absent(low) or absent(high) else f"{percentage(low)} to {percentage(high)}"
        values = exactly({"trajectory_share_low": low, "trajectory_share_high": high})
        rows.append([
            text(row.candidate, 48, head=True), text(row.strategy, 60), num(number(row.injected, "injected")),
            num(percent(row.recovered_share, "recovered_share")),
            num(percent(row.trajectory_share, "trajectory_share")), num(Number(interval, values)),
        ])  # fmt: skip
    return {"heading": "One replaced token", "table": Table(COLUMNS, merged(rows), source="summary.csv")}
