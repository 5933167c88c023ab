"""failures.csv: what did not run, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.report.tables import Column, Table, text

if TYPE_CHECKING:
    from decodedrift.study import Study

MOST = 100
COLUMNS = tuple(Column(label, numeric=False) for label in ("Variant", "Strategy", "Prompt", "Stage", "Status", "Why"))


def failures(study: Study) -> dict[str, Any] | None:
    """A row per failure."""
    table = study.failures
    if not len(table):
        return None
    rows = [
        [text(row.variant, 48, head=True), text(row.strategy, 48), text(row.prompt_id, 40), text(row.stage, 40),
         text(str(row.status).replace("_", " "), 40), text(row.error, 400)]
        for row in table.head(MOST).itertuples()
    ]  # fmt: skip
    return {"heading": "Failures", "table": Table(COLUMNS, rows, max(0, len(table) - MOST), "failures.csv")}
