"""Candidates against each other: on the same prompts, which of two left the reference first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
from bokeh.core.properties import value
from bokeh.models import FixedTicker, HBar, PlainText, Text

from decodedrift.report.figures import base
from decodedrift.report.figures.base import Series
from decodedrift.report.figures.curves import Curves
from decodedrift.report.numbers import significant

MOST = 20  # pairs of a strategy
EARLIER = ["candidate_earlier", "other_earlier"]


class Comparisons(Curves):
    """Which of two candidates leaves the reference first, pair by pair, with p-values.

    The bar to the left counts how often the first left earlier, to the right the second.
    """

    name = table = "comparisons"
    file = "comparisons.csv"
    named, keys = "", ("strategy", "candidate", "other")
    labels = ("texts that the one, or the other, left first", "")
    columns = ("pairs", *EARLIER, "p_value")
    hover = (("", "$name"), ("left first", "@candidate_earlier against @other_earlier of @pairs texts"),
             ("p", "@p_value{%.3g}"))  # fmt: skip

    def _read(self) -> pd.DataFrame:
        rows = self.study.comparisons
        return rows if (rows[EARLIER] > 0).any(axis=None) else rows.head(0)

    def _choose(self, rows: pd.DataFrame) -> pd.DataFrame:
        rows = super()._choose(rows)
        self.most = max(1, int(rows[EARLIER].max(axis=None)))
        pairs = rows.drop_duplicates(["candidate", "other"])[["candidate", "other"]]
        self.pairs = list(pairs.head(MOST).itertuples(index=False, name=None))
        if len(pairs) > MOST:
            self.thinned = f"{MOST} of {len(pairs)} pairs are drawn."
        return rows.merge(pairs.head(MOST))

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        count, most = len(self.pairs), self.most  # there is room to the right for p
        return {"height": 74 + 30 * count, "x_range": (-1.05 * most, 1.9 * most), "y_range": (count, 0)}

    def _furnish(self, rows: pd.DataFrame) -> None:
        """The pairs' names, and counts without a sign to either side of 0."""
        base.rule(self.plot, 0, "height", line_width=1)
        base.tick_labels(self.plot, [f"{base.label(a, 16)} | {base.label(b, 16)}" for a, b in self.pairs])
        self.plot.ygrid.visible = False
        ticks = [sign * n for n in range(0, self.most + 1, -(-self.most // 4)) for sign in (-1, 1) if n or sign > 0]
        self.plot.xaxis.ticker = FixedTicker(ticks=ticks)
        self.plot.xaxis.major_label_overrides = {n: PlainText(text=str(abs(n))) for n in ticks}

    def _series(self, row: Any) -> Series:
        return replace(super()._series(row), label=base.label(f"{row['candidate']} and {row['other']}", 60))

    def _extra(self, part: pd.DataFrame, series: Series) -> dict[str, Any]:
        [row] = part.itertuples()
        text = "no p" if pd.isna(row.p_value) else f"p = {significant(row.p_value)}"
        return {"y": [self.pairs.index((row.candidate, row.other)) + 0.5], "left": [-int(row.candidate_earlier)],
                "x": [1.85 * self.most], "said": [text]}  # fmt: skip

    def _draw(self, source: Any, series: Series, part: pd.DataFrame) -> None:
        """The two bars and the p-value."""
        for name, left, right in (("candidate", "_left", value(0)), ("other", value(0), "other_earlier")):
            bar = HBar(y="_y", left=left, right=right, height=0.55, fill_alpha=0.75, line_alpha=0.0)
            base.paint(bar, fill_color=self._look(series.keys[name])[0])
            self._add(series, self.plot.add_glyph(source, bar), series.label)
        text = Text(x="_x", y="_y", text="_said", text_align="right", text_baseline="middle", text_font_size="11.5px",
                    text_font=value(base.FONT))  # fmt: skip
        self._add(series, self.plot.add_glyph(source, base.paint(text, text_color="soft")))
