"""Calibration of the flip law: of the positions it gave a chance to flip, the share that did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import Segment

from decodedrift.experiments.compare.folds.prediction import LAW
from decodedrift.report.figures import base
from decodedrift.report.figures.base import Series
from decodedrift.report.figures.curves import Curves

LEAST = 10  # first differences, fewer say nothing of a chance
LOWEST = 1e-5  # of the axes: a chance below it is as good as none


class Calibration(Curves):
    """Observed share of flips against the chance that the flip law gave, log-log, with 95 % intervals.

    The law is the one that draws `survival_predicted`. A bin without a flip has no place on a logarithmic axis: an open
    triangle stands at the upper end of its interval.
    """

    name, table = "calibration", "flip_calibration"
    file, along = "flip_calibration.csv, with the other laws'", "bin_low"
    keys = ("strategy", "candidate", "law")
    labels = ("predicted chance of a flip", "share that flipped")
    columns = ("bin_low", "bin_high", "n", "predicted", "observed", "observed_low", "observed_high")
    hover = (("", "$name"), ("chance", "@bin_low – @bin_high, mean @predicted{%.3g}"), ("flipped", "@observed{%.3g}"),
             ("95 %", "@observed_low{%.3g} – @observed_high{%.3g}"), ("positions", "@n"))  # fmt: skip

    def _read(self) -> pd.DataFrame:
        """The rows of the law; of a candidate under a strategy with too few flips none."""
        rows = super()._read()
        rows = rows[(rows["law"] == LAW) & (rows["predicted"] > 0)]
        candidates = self.study.divergences[self.study.divergences["role"] == "candidate"]
        parted = candidates.groupby(["candidate", "strategy"])["diverged"].sum()
        counts = [parted.get(cell, 0) for cell in zip(rows["candidate"], rows["strategy"], strict=True)]
        enough = pd.Series(counts, rows.index, dtype="int64") >= LEAST
        return self._enough(rows, enough, f"{LEAST} first differences")

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        shares = rows[["predicted", "observed", "observed_high"]]
        self.floor = max(LOWEST, float(np.nanmin(shares.where(shares > 0).to_numpy("float64"))) / 3)
        ends = (self.floor, 1.3)
        return {"x_axis_type": "log", "y_axis_type": "log", "x_range": ends, "y_range": ends}

    def _furnish(self, rows: pd.DataFrame) -> None:
        base.diagonal(self.plot)

    def _extra(self, part: pd.DataFrame, series: Series) -> dict[str, Any]:
        low = np.maximum(part["observed_low"].to_numpy("float64"), self.floor)
        none = part["observed_high"].where(part["observed"] == 0)
        return {"low": low, "share": base.positive(part["observed"]), "none": base.positive(none)}

    def _draw(self, source: Any, series: Series, part: pd.DataFrame) -> None:
        """Intervals, shares above 0, and triangles where the share is 0."""
        bar = Segment(x0="predicted", x1="predicted", y0="_low", y1="observed_high", line_alpha=0.55)
        self._add(series, self.plot.add_glyph(source, base.paint(bar, line_color=series.colour)))
        self._dots(source, series, "predicted", "_share", size=8)
        self._dots(source, series, "predicted", "_none", size=8, marker="inverted_triangle", fill_alpha=0.0)
