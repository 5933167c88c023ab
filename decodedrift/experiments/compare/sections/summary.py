"""summary.csv: candidates first, the controls in a table of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.experiments.compare.heat import heat_maps
from decodedrift.experiments.compare.reader import columns_as_read
from decodedrift.experiments.compare.settings import reader_word
from decodedrift.report.numbers import MISSING, first, number, percent, with_interval
from decodedrift.report.tables import Cell, Column, Table, merged, num, rate, text

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options

MOST = 300  # rows of a table
CONTROLS = {"self": "the reference again", "floor": "another layout"}


def summary(study: Study, options: Options) -> dict[str, Any] | None:
    """Candidates x strategies, and below them what the controls measured."""
    table = study.summary
    if not len(table):
        return None
    controls = table[table["role"] != "candidate"]
    candidates = _candidates(study, table[table["role"] == "candidate"])
    return {
        "heading": "Summary",
        "maps": heat_maps(study),
        "reference": str(study.plan["reference"]["name"]),
        "below": study.plan.get("near_tie_below", 0.1),
        "candidates": candidates,
        "controls": _controls(controls) if len(controls) else None,
        "reader": reader_word(study.plan),
        "columns": [c for c in candidates.columns if c.help],
    }


COLUMNS = (
    Column("Candidate", numeric=False),
    Column("Strategy", numeric=False),
    Column("Answers", "Continuations compared: prompts × seeds."),
    Column("Differ", "Answers whose tokens differ from the reference's, with the 95 % Wilson interval."),
    Column("Median position", "Of the first differing word, counted from 0; the median over the answers that differ."),
    Column("Near ties", "Share of the divergences at which the {reader} itself all but tied."),
    Column("Median gap", "How far the {reader} held {its} token above the candidate's at the split, in nats."),
    Column("Mean KL", "KL(reference ‖ candidate) per token in nats, both reading the reference's tokens, "
           "with its 95 % interval, clustered by prompt."),
    Column("Same top token", "Share of positions at which both rank the same token first, on the reference's tokens."),
    Column("Perplexity, ln of ratio",
           "Mean rise of the negative log-likelihood per token on the reference's own text; below 0 "
           "the candidate finds it likelier."),
    Column("Agreement after", "Share of equal tokens, index by index, after the first difference."),
    Column("Non-finite", "NaN and infinite logits met."),
)  # fmt: skip
DISTANCES = (7, 8, 9)


def _candidates(study: Study, part: pd.DataFrame) -> Table:
    """Without the columns of distances where no candidate read a text of the reference."""
    rows = [
        [
            text(row.candidate, 48, head=True), text(row.strategy, 60),
            num(number(row.traces, "traces")),
            *_shared(row),
            num(percent(row.near_tie_share, "near_tie_share")),
            num(number(row.reference_gap_median, "reference_gap_median")),
            *_distance(row),
            num(number(row.ln_ppl_ratio, "ln_ppl_ratio", signed=True)),
            num(percent(row.agreement_after, "agreement_after")),
            num(number(row.nonfinite, "nonfinite")),
        ]
        for row in part.head(MOST).itertuples()
    ]  # fmt: skip
    kept = [i for i in range(len(COLUMNS)) if i not in DISTANCES or any(row[i].text != MISSING for row in rows)]
    columns = columns_as_read(tuple(COLUMNS[i] for i in kept), study.plan)
    lines = merged([[row[i] for i in kept] for row in rows])
    return Table(columns, lines, max(0, len(part) - MOST), "summary.csv")


def _controls(part: pd.DataFrame) -> Table:
    columns = (
        Column("Control", numeric=False), Column("Held against", numeric=False), Column("Strategy", numeric=False),
        *(COLUMNS[i] for i in (2, 3, 4, 7, 8)), Column("Largest logit gap"), COLUMNS[11],
    )  # fmt: skip
    rows = [
        [
            _control(row), text(row.reference, 48), text(row.strategy, 60),
            num(number(row.traces, "traces")), *_shared(row), *_distance(row),
            num(number(row.logit_gap_max, "logit_gap_max")), num(number(row.nonfinite, "nonfinite")),
        ]
        for row in part.head(MOST).itertuples()
    ]  # fmt: skip
    return Table(columns, merged(rows, 2), max(0, len(part) - MOST), "summary.csv")


def _control(row: Any) -> Cell:
    cell = text(row.candidate, 48, head=True)
    return Cell("text", cell.text, cell.title, note=CONTROLS.get(row.role, str(row.role)), head=True)


def _shared(row: Any) -> list[Cell]:
    return [rate(row), num(first(row))]


def _distance(row: Any) -> list[Cell]:
    kl = with_interval(row, "kl_mean")
    return [num(kl), num(percent(row.top1_agreement, "top1_agreement"))]
