"""How long the texts stay equal: a panel for each candidate, its band, and what its noise alone does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
from bokeh.core.properties import value
from bokeh.layouts import row
from bokeh.models import AdaptiveTicker, NumeralTickFormatter, VAreaStep

from decodedrift.experiments.compare.figures.lines import FLOOR
from decodedrift.report.figures import base
from decodedrift.report.figures.base import Series
from decodedrift.report.figures.curves import Curves, Names

LAW = "foretold by the flip law"
BAND = "95 % interval"
LEGEND = 180  # pixels of a legend beside a panel
NARROWEST = 270  # pixels of a panel, of which a telephone shows one beside no other


class Survival(Curves):
    """The share of texts that are still equal, 1 less the incidence of a difference, with its 95 % band, by position.

    Dotted: the noise floor, the candidate against itself in another batch layout; thin: what the flip law foretold.
    """

    name = table = "survival"
    file, along = "survival.csv", "position"
    roles = ("candidate", "floor")
    labels, share, step, height = ("word", "texts still equal"), True, True, 210
    columns: Names = ("position", "at_risk", "events", "incidence", "incidence_low", "incidence_high")
    y, band = "_equal", ("_low", "_high")
    hover = (("", "$name"), ("position", "@position"), ("equal", "@_equal{0.0 %}"),
             ("95 %", "@_low{0.0 %} – @_high{0.0 %}"),
             ("part here", "@events of @at_risk that still could"))  # fmt: skip
    line_policy = "prev"
    labelled, last = True, LAW

    def _read(self) -> pd.DataFrame:
        rows = super()._read()
        rows = rows if "incidence" in rows else rows.iloc[:0]  # version 0.1.0 without texts has no such column
        self.end = int(rows["position"].max()) + 1 if len(rows) else 0
        if len(rows) and rows["incidence_predicted"].notna().any():
            self.columns += ("incidence_predicted",)
        return _to_the_end(rows, self.end - 1)

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        return {"x_range": (0, self.end), "y_range": (0, 1.02)}

    def _furnish(self, rows: pd.DataFrame) -> None:
        """A panel for each candidate that has rows, on the same axes, as many beside one another as there is room."""
        shown = set(rows.loc[rows["role"] == "candidate", "candidate"])
        first, self.panels = self.plot, {}
        for name in filter(shown.__contains__, self.colours):
            ranges = {"x_range": first.x_range, "y_range": first.y_range}
            panel = base.plot(*self.labels, height=self.height, notebook=self.notebook, **ranges)
            panel.yaxis.formatter = NumeralTickFormatter(format="0 %")
            panel.yaxis.ticker = AdaptiveTicker(desired_num_ticks=3)
            panel.xaxis.ticker = AdaptiveTicker(desired_num_ticks=4, mantissas=[1, 2, 5], min_interval=1)
            panel.width = panel.min_width = NARROWEST
            panel.sizing_mode = "fixed" if self.notebook else "stretch_width"
            look = {"text_font": value(base.FONT), "text_font_size": "13px", "text_font_style": "bold"}
            text = panel.text(value(0), value(0.03), value(base.label(name, 28)), x_offset=value(6), **look)
            base.paint(text.glyph, text_color=self._look(name)[0])
            self.panels[name] = panel
        self.model = row(*self.panels.values(), sizing_mode=None if self.notebook else "stretch_width",
                         styles={"flex-wrap": "wrap", "row-gap": "12px"})  # fmt: skip

    def _series(self, row: Any) -> Series:
        series = super()._series(row)
        if row["role"] == "candidate":
            return series
        colour, dash = self._look(FLOOR)
        label = f"{base.label(str(row['reference']))}, {FLOOR}"
        return replace(series, name=FLOOR, label=label, colour=colour, dash=dash, band=False)

    def _look(self, name: str) -> tuple[str, str]:
        return ("soft", "dotted") if name == FLOOR else super()._look(name)

    def _extra(self, part: pd.DataFrame, series: Series) -> dict[str, Any]:
        names = {"equal": "incidence", "low": "incidence_high", "high": "incidence_low", "law": "incidence_predicted"}
        return {to: 1 - part[of].to_numpy("float64", na_value=math.nan) for to, of in names.items() if of in part}

    def _draw(self, source: Any, series: Series, part: pd.DataFrame) -> None:
        first = part.iloc[0]
        panel = self.panels.get(str(first["candidate" if first["role"] == "candidate" else "reference"]))
        if panel is None:
            return
        self.plot = panel
        super()._draw(source, series, part)
        if "incidence_predicted" in self.columns and series.name != FLOOR:
            self._line(source, replace(series, name=LAW, width=1), "_law")

    def _bands(self) -> dict[str, list[Any]]:
        """The legend stands beside the last panel, which is as wide as the others without it."""
        self.plot.width = NARROWEST + LEGEND
        shaded = [r for name in self.panels for r in self.renderers.get(name, ()) if isinstance(r.glyph, VAreaStep)]
        return {BAND: shaded} if shaded else {}

    def _plots(self) -> list[Any]:
        return list(self.panels.values())


def _to_the_end(rows: pd.DataFrame, end: int) -> pd.DataFrame:
    """Every curve as long as the picture: behind the last text that could part the share stays as it is.

    Where all part at the first word there would be a single point, and nothing to see.
    """
    last = rows.groupby(["role", "reference", "candidate", "strategy"], sort=False, dropna=False).tail(1)
    short = last[last["position"] < end].assign(position=end, at_risk=0, events=0)
    return pd.concat([rows, short], ignore_index=True) if len(short) else rows
