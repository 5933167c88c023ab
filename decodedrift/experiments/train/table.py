"""The table for a paper, the answer in lines, what can be gated, and the heat table of a notebook's cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from decodedrift.experiments.train.folds import MEANS, SUMS
from decodedrift.experiments.train.verdict import arms, broken_arms, by_role, controls, headline, row_of
from decodedrift.report import failures, texts
from decodedrift.report.heat import HeatMap, Spot, level
from decodedrift.report.numbers import exactly, percentage, significant
from decodedrift.report.phrases import percent
from decodedrift.runs.gates import Gating

COLUMNS = ("Arm", "Held against", "Distance", "Butterfly floors", "Digits", "Perplexity", "Texts that part")
ONLY_TEXTS = ("texts", "diverged", "divergence_rate", "first_divergence_median", "kl", "kl_floors", "ppl_change")

BETWEEN_TWO = ("digits_median", "digits_p5", "flushed_weights", "flushed_activations", *ONLY_TEXTS)


def gating(plan: Mapping[str, Any]) -> Gating:
    """Columns of the summary, by arm; controls are not gated."""
    cells = [(name,) for name in plan["arms"]]
    columns = ("steps", "broken", *MEANS, *(column for column in SUMS if column != "differing"))
    return Gating(("arm",), cells, columns, never=_never, roles=("arm",))


def _never(row: Mapping[str, Any], column: str) -> bool:
    """Texts that never part have no place at which they do, and the reference arm is not held against itself."""
    if column == "first_divergence_median" and row["texts"] > 0 and row["diverged"] == 0:
        return True
    return column in BETWEEN_TWO and row["arm"] == row["held_against"]


def table(study: Any) -> pd.DataFrame:
    """The seven columns, as text."""
    rows = []
    for name in by_role(study):
        row: Any = row_of(study, name)
        parted = "" if pd.isna(row["texts"]) else f"{row['diverged']:.0f} of {row['texts']:.0f}"
        rows.append([
            name, row["held_against"], _shown(row["distance"]), _shown(row["distance_floors"]),
            _shown(row["digits_median"]), "broke" if row["broken"] else _shown(row["perplexity"]), parted,
        ])  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _shown(value: float) -> str:
    return "" if pd.isna(value) else significant(value)


def brief(study: Any) -> tuple[list[str], list[str], list[str]]:
    """Alarms and what failed; what broke and a sentence per arm; the controls that passed."""
    alarms, passed = controls(study)
    return [*alarms, *failures.sentences(study.failures)], [*headline(study), *broken_arms(study), *arms(study)], passed


def heat(study: Any) -> list[HeatMap]:
    """What a notebook shows: arm x share of updates and gradients that are lost."""
    columns = {"cancelled": "updates cancelled", "flushed_activations": "gradients flushed"}
    map_ = HeatMap(
        "lost", "What is lost on the way", "Shares of updates and of activations' gradients, the mean over the steps.",
        list(columns.values()),
    )  # fmt: skip
    for row in study.summary.itertuples():
        if row.role == "arm":
            values = [getattr(row, column) for column in columns]
            spots = [
                None if pd.isna(v) else Spot(percentage(v), percent(v), exactly({c: v}), level(v))
                for c, v in zip(columns, values, strict=True)
            ]
            map_.rows.append((texts.brief(str(row.arm), 40), "", spots))
    return [map_] if map_.rows else []
