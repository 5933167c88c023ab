"""The table for a paper, the answer in lines, what can be gated, and the heat table of a notebook's cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from decodedrift.core.records import RECORDED
from decodedrift.experiments.repeat.folds import SUMMARY
from decodedrift.experiments.repeat.varying import CONTROL, SEEDS, varies
from decodedrift.experiments.repeat.verdict import cells, controls, sentence
from decodedrift.measure.tables import REPEATED
from decodedrift.report import failures, texts
from decodedrift.report.heat import HeatMap, Spot, level
from decodedrift.report.numbers import exactly, percentage, significant
from decodedrift.report.phrases import counted
from decodedrift.runs.gates import Gating

COLUMNS = ("Variant", "Varied", "Strategy", "Runs", "Unique texts", "Prompts with one text", "Bit-equal runs")


def gating(plan: Mapping[str, Any]) -> Gating:
    """Columns of the summary, by variant, what varied and strategy."""
    names = [
        (v["name"], label, s["label"])
        for v in (plan["reference"], *plan["candidates"]) for label in plan["vary"] for s in plan["strategies"]
        if varies(label, v["precision"] == RECORDED)
    ]  # fmt: skip
    columns = tuple(c for c in SUMMARY if c not in REPEATED)
    return Gating(("variant", "vary", "strategy"), names, columns, never=_never)


def _never(row: Mapping[str, Any], column: str) -> bool:
    """Texts that never part have no place at which they do."""
    return column == "div_index" and row["texts"] > 0 and row["unique_most"] == 1


def table(study: Any) -> pd.DataFrame:
    """The seven columns, as text with intervals (95 %): a row per variant, what varied and strategy.

    Unique texts: the mean over prompts, and the most of any.
    """
    rows = [
        [
            str(row.variant), SEEDS if row.vary == CONTROL else str(row.vary), str(row.strategy),
            str(int(row.runs)), f"{significant(row.unique)} (most {int(row.unique_most)})",
            counted(round(row.tar * row.texts), row.texts, row.tar_low, row.tar_high), percentage(row.bit_equal),
        ]
        for row in study.summary.itertuples()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def brief(study: Any) -> tuple[list[str], list[str], list[str]]:
    """Alarms and what failed; a sentence per variant and strategy; the control that passed."""
    alarms, passed = controls(study)
    return [*alarms, *failures.sentences(study.failures)], [sentence(study, *key) for key in cells(study)], passed


def heat(study: Any) -> list[HeatMap]:
    """What a notebook shows: variant x what varied, the mean number of different texts."""
    rows = study.summary[study.summary["vary"] != CONTROL]
    columns = list(dict.fromkeys(rows["vary"]))
    map_ = HeatMap("unique", "Different texts", "Different texts of a prompt, the mean over prompts.", columns)
    for (variant, strategy), part in rows.groupby(["variant", "strategy"], sort=False):
        spots = {row.vary: _spot(row) for row in part.itertuples()}
        map_.rows.append((texts.brief(f"{variant}, {strategy}", 40), "", [spots.get(name) for name in columns]))
    return [map_] if map_.rows else []


def _spot(row: Any) -> Spot:
    share = (row.unique - 1) / max(1, row.runs - 1)
    exact = exactly({"unique": row.unique, "unique_most": row.unique_most, "runs": row.runs})
    return Spot(significant(row.unique), f"of {int(row.runs)}", exact, level(share))
