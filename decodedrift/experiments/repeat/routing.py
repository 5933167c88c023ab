"""The page's table of what a mixture of experts chooses otherwise than the reference, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from decodedrift.report.html import Options, StudyLike
from decodedrift.report.numbers import number, percent
from decodedrift.report.tables import Column, Table, num, text

COLUMNS = (
    Column("Candidate", numeric=False), Column("Strategy", numeric=False), Column("Layer", numeric=False),
    Column("Other experts", "Share of the reference's tokens whose set of experts differs; of all: in some layer."),
    Column("In common", "Experts that both chose, of those chosen."),
    Column("Margin", "From the last expert that is chosen to the first that is not, in router logits."),
    Column("Router's error", "Root mean square of the router logits' difference."),
    Column("In reach", "Share of tokens whose margin is at most twice their largest error: no other set can differ."),
    Column("Less KL if replayed", "1 - KL with the reference's experts over KL without; may leave 0 to 100 %."),
)  # fmt: skip
SHARES, MEANS = ("changed", "agreement", "within_error"), ("margin", "error", "kl", "kl_replayed")


def routing(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """A row per candidate, strategy and layer; jobs together, by their tokens."""
    keys = ["candidate", "strategy", "layer"]
    rows = []
    for (candidate, strategy, layer), part in study.routing.groupby(keys, sort=False):
        means = {column: mean(part, column) for column in (*SHARES, *MEANS)}
        ratio = 1 - means["kl_replayed"] / means["kl"] if means["kl"] > 0 and means["changed"] > 0 else np.nan
        shown = [num(percent(means[c], c)) for c in ("changed", "agreement")]
        shown += [num(number(means[c], c)) for c in ("margin", "error")]
        shown += [num(percent(means["within_error"], "within_error")), num(percent(ratio, "routing_ratio"))]
        rows.append([text(candidate, 60, head=True), text(strategy, 60), text(layer, 20), *shown])
    if not rows:
        return None
    return {"heading": "Which experts are chosen", "table": Table(COLUMNS, rows, source="routing.csv"), "folded": True}


def mean(part: pd.DataFrame, column: str) -> float:
    """Of the jobs' means, weighted by tokens; NaN where the column is not of these rows."""
    known = part[part[column].notna()]
    return float(np.average(known[column], weights=known["tokens"].astype(float))) if len(known) else float("nan")
