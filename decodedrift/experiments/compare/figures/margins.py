"""Margins: how closely the reference decides in general, and where its text is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import DataRange1d

from decodedrift.report.figures.base import Series
from decodedrift.report.figures.curves import Curves

POINTS = 240  # of a distribution over all positions
MARGINS = ("choice_margin", "logit_margin_reference")  # the strategy's own; of raw logits in runs from before it
EVERYWHERE = "all positions"
PLACE = ["strategy", "seed", "prompt_id", "position"]


class Margins(Curves):
    """Distribution of the reference's margin at all forced positions and at first divergences."""

    name, file, keys = "margins", "positions/", ("strategy", "positions")
    labels, share, step = ("margin of the reference's choice (nats)", "share at or below"), True, True
    x, y = "_x", "share"

    def _read(self) -> pd.DataFrame:
        """Cumulative distributions: of all forced positions, and of those at which a candidate left the reference."""
        read = self.study.columns_of("positions", ["role", "candidate", *PLACE, *MARGINS])
        ends = self.study.divergences
        frame, ends = (table[table["role"] == "candidate"] for table in (read, ends))
        margin = next((m for m in MARGINS if m in frame and frame[m].notna().any()), MARGINS[-1])
        frame = frame[(frame["strategy"] != "text") & frame[margin].notna()]
        ends = ends[ends["diverged"] == 1].rename(columns={"first_divergence": "position"})
        ends = frame.merge(ends[["candidate", *PLACE]].dropna(), on=["candidate", *PLACE])
        self.columns, self.positive = (margin, "share"), (("x", margin),)
        self.hover = (("", "$name"), ("margin", f"@{margin}{{%.4g}}"), ("share", "@share{%.3f}"))
        if len(frame) and frame["strategy"].value_counts().max() > POINTS:
            self.thinned = f"Curves of more than {POINTS} positions are drawn at {POINTS} of them."
        everywhere = frame.drop_duplicates(PLACE).assign(candidate=EVERYWHERE, positions="all")
        rows = pd.concat([everywhere, ends.assign(positions="at first differences of " + ends["candidate"])])
        groups = rows.groupby(["strategy", "candidate", "positions"], sort=False)[margin]
        curves = [_distribution(values).assign(**dict(zip(groups.keys, key))) for key, values in groups]
        return pd.concat(curves) if curves else rows

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        across = DataRange1d(only_visible=True, range_padding=0.02)
        return {"x_axis_type": "log", "x_range": across, "y_range": (0, 1.02)}

    def _series(self, row: Any) -> Series:
        series = super()._series(row)
        if series.name == EVERYWHERE:
            return replace(series, width=2.5)
        return replace(series, label=f"{series.label}, at divergences")

    def _draw(self, source: Any, series: Series, part: pd.DataFrame) -> None:
        super()._draw(source, series, part)
        if series.name != EVERYWHERE:  # a step line of a single point is nothing to see
            self._dots(source, series, self.x, self.y, size=5)


def _distribution(margins: pd.Series) -> pd.DataFrame:
    """The share of these positions whose margin is at most x, at each of them or at evenly many."""
    values = np.sort(margins.to_numpy("float64"))
    shares = np.arange(1, len(values) + 1) / len(values)
    at = np.unique(np.linspace(0, len(values) - 1, min(len(values), POINTS)).astype(int))
    return pd.DataFrame({str(margins.name): values[at], "share": shares[at]})
