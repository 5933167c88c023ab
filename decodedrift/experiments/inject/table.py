"""The table for a paper and the heat table of a notebook's cell, a replaced token by strategy and position."""

from __future__ import annotations

from typing import Any

import pandas as pd

from decodedrift.report import failures, texts
from decodedrift.report.heat import HeatMap, Spot, level
from decodedrift.report.numbers import exactly, percentage
from decodedrift.report.phrases import counted

COLUMNS = ("Strategy", "Position", "Texts", "Came back", "In step", "Equal after", "Equal 20 later")


def table(study: Any) -> pd.DataFrame:
    """The seven columns, as text with intervals (95 %) and units.

    Came back: texts that met the old one again, of those long enough to tell; In step: of these, at the same index.
    Equal after: the share of the tokens after the replaced one that are the reference's; and of the 20th alone.
    """
    rows = [
        [
            row.strategy, str(int(row.position)), str(int(row.texts)),
            counted(row.recovered, row.long_enough, row.recovered_share_low, row.recovered_share_high),
            f"{int(row.in_step)} of {int(row.recovered)}", percentage(row.agreement), percentage(row.agreement_lag_20),
        ]
        for row in study.summary.itertuples()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def brief(study: Any) -> tuple[list[str], list[str], list[str]]:
    """A sentence per strategy and position; and before them what failed."""
    failed = failures.sentences(study.failures)
    return failed, [sentence for sentence in study.verdict if sentence not in failed], []


def heat(study: Any) -> list[HeatMap]:
    """What a notebook shows: strategy x position, the share of equal tokens after the replaced one."""
    rows = study.summary
    columns = list(dict.fromkeys(rows["position"]))
    map_ = HeatMap(
        "agreement", "Equal tokens after the replaced one",
        "The share of the tokens after the replaced one that are the reference's, index by index.",
        [f"position {position}" for position in columns],
    )  # fmt: skip
    for strategy, part in rows.groupby("strategy", sort=False):
        spots = {row.position: _spot(row) for row in part.itertuples()}
        map_.rows.append((texts.brief(strategy, 40), "", [spots.get(position) for position in columns]))
    return [map_] if map_.rows else []


def _spot(row: Any) -> Spot:
    back = f"{int(row.recovered)} of {int(row.long_enough)} come back" if row.long_enough else "too short to tell"
    exact = exactly({"agreement": row.agreement, "recovered": row.recovered, "long_enough": row.long_enough})
    return Spot(percentage(row.agreement), back, exact, level(1 - row.agreement))
