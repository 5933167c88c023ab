"""failures.csv: what did not run, and why."""

from __future__ import annotations

from typing import Any

from decodedrift.report.html import Options, StudyLike
from decodedrift.report.numbers import number
from decodedrift.report.tables import Column, Table, num, text
from decodedrift.report.texts import cell_text

MOST = 100
KEYS = ["variant", "strategy", "prompt_id", "stage", "status", "error"]
COLUMNS = (
    *(Column(label, numeric=False) for label in ("Variant", "Strategy", "Prompt", "Stage", "Status", "Why")),
    Column("Times", "Rows of failures.csv: a failure is recorded in every job that meets it."),
)


def failures(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """A row per failure; one that every job met is shown once, with how often."""
    if not len(study.failures):
        return None
    table = study.failures.groupby(KEYS, sort=False, dropna=False).size().rename("times").reset_index()
    rows = [
        [text(row.variant, 48, head=True), text(row.strategy, 48), text(row.prompt_id, 40), text(row.stage, 40),
         text(cell_text(row.status).replace("_", " "), 40), text(row.error, 400), num(number(row.times, "rows"))]
        for row in table.head(MOST).itertuples()
    ]  # fmt: skip
    return {"heading": "Failures", "table": Table(COLUMNS, rows, max(0, len(table) - MOST), "failures.csv")}
