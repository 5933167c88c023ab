"""Survival: the share of traces that have not parted, by position, with bands and numbers at risk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from bokeh.core.properties import value
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, FixedTicker

from decodedrift.report.figures import base
from decodedrift.report.figures.base import Series
from decodedrift.report.figures.curves import Curves, Names

PREDICTED, LAW = "incidence_predicted", "foretold by the flip law"
SHARE, LOW, HIGH = "incidence", "incidence_low", "incidence_high"


class Survival(Curves):
    """1 - F(t), the texts still equal or ended so, with bands and numbers at risk; default: the first strategy."""

    name = table = "survival"
    file, along = "survival.csv", "position"
    labels, share, step = ("position (generated tokens)", "share of traces still equal"), True, True
    columns: Names = ("position", "at_risk", "events", SHARE, LOW, HIGH)
    y, band = "_equal", ("_low", "_high")
    hover = (("", "$name"), ("position", "@position"), ("still equal", "@_equal{%.3f}"),
             ("95 %", "@_low{%.3f} – @_high{%.3f}"), ("at risk", "@at_risk"), ("diverge here", "@events"))  # fmt: skip
    line_policy = "prev"
    last, other = LAW, ("soft", "dotted")

    def _read(self) -> pd.DataFrame:
        rows = super()._read()
        rows = rows if SHARE in rows else rows.iloc[:0]  # a folder of version 0.1.0 without texts has no such column
        self.end = int(rows["position"].max()) + 1 if len(rows) else 0
        if PREDICTED in rows and rows[PREDICTED].notna().any():
            self.columns += (PREDICTED,)
        return rows

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        return {"x_range": (0, self.end), "y_range": (0, 1.02)}

    def _furnish(self, rows: pd.DataFrame) -> None:
        """The strip below, on the same axis: one line of numbers a candidate, at about seven round positions from 0."""
        power = 10 ** int(np.log10(max(1.0, self.end / 7)))
        step = next(m * power for m in (1, 2, 4, 5, 8, 10) if m * power >= self.end / 7)
        self.ticks = list(range(0, self.end, step))
        self.plot.xaxis.ticker = FixedTicker(ticks=self.ticks)
        lines = max(1, len(self.colours))
        self.strip = strip = base.plot("", "at risk", height=26 + 17 * lines, x_range=self.plot.x_range,
                                       y_range=(lines - 0.5, -0.5))  # fmt: skip
        if self.notebook:
            strip.width, strip.sizing_mode = 760, "fixed"
            base.paint(strip, background_fill_color="raised", border_fill_color="raised")
        self.plot.min_border_left = strip.min_border_left = 64
        strip.xaxis.visible = strip.grid.visible = False
        strip.yaxis.major_label_text_alpha = strip.yaxis.axis_line_alpha = strip.yaxis.major_tick_line_alpha = 0
        strip.yaxis.major_tick_out = strip.yaxis.major_tick_in = 0
        self.model = column(self.plot, strip, sizing_mode=self.plot.sizing_mode)

    def _extra(self, part: pd.DataFrame, series: Series) -> dict[str, Any]:
        shares = {"equal": SHARE, "low": HIGH, "high": LOW, "foretold": PREDICTED}
        return {name: 1 - part[c].to_numpy(float) for name, c in shares.items() if c in self.columns}

    def _draw(self, source: Any, series: Series, part: pd.DataFrame) -> None:
        super()._draw(source, series, part)
        at = part[part["position"].isin(self.ticks)]
        line = list(self.colours).index(series.name) if series.name in self.colours else 0
        texts = {"_x": at["position"].tolist(), "_y": [line] * len(at), "_text": at["at_risk"].astype(str).tolist()}
        numbers = self.strip.text("_x", "_y", "_text", source=ColumnDataSource(texts), text_baseline="middle",
                                  text_align="left", text_font_size="11px", text_font=value(base.FONT))  # fmt: skip
        base.paint(numbers.glyph, text_color=series.colour)
        self._add(series, numbers)
        if PREDICTED in self.columns:
            self._line(source, replace(series, name=LAW, dash="dotted", width=1), "_foretold")
