"""Perplexity: by how much the candidate's differs from the reference's, paired, on given texts and on its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import AdaptiveTicker, FixedTicker, NumeralTickFormatter, Segment

from decodedrift.report.figures import base
from decodedrift.report.figures.base import Series
from decodedrift.report.figures.curves import Curves

MOST = 60
CHANGES = {"change": "ln_ppl_ratio", "low": "ln_ppl_ratio_low", "high": "ln_ppl_ratio_high"}  # drawn in per cent


class Perplexity(Curves):
    """The relative change of perplexity in per cent, with paired 95 % intervals, by text; below the texts the same on
    the reference's own continuations, by strategy, which is a distance."""

    name, what, file = "perplexity", "perplexities", "perplexity.csv and distribution.csv"
    switch, keys = "", ("candidate",)
    labels = ("change (%) and its 95 % interval", "")
    columns = ("tokens_of", "ln_ppl_ratio", "ln_ppl_ratio_low", "ln_ppl_ratio_high")
    hover = (("", "$name on @tokens_of"), ("change", "@_change{%+.3g} %"), ("95 %", "@_low{%+.3g} to @_high{%+.3g} %"),
             ("ln ratio", "@ln_ppl_ratio{%.4g}"))  # fmt: skip

    def _read(self) -> pd.DataFrame:
        """Texts from perplexity.csv, then each strategy's own continuations from distribution.csv."""
        texts, table = self.study.perplexity, self.study.distribution
        tables = [texts.rename(columns={"variant": "candidate", "text": "tokens_of"}).assign(own=False)]
        if len(table):
            table = table[(table["role"] == "candidate") & (table["bucket"] == "all") & (table["strategy"] != "text")]
            tables.append(table.rename(columns={"strategy": "tokens_of"}).assign(own=True))
        columns = ["candidate", *self.columns, "own"]
        parts = [table[table["ln_ppl_ratio"].notna()].reindex(columns=columns) for table in tables if len(table)]
        return pd.concat(parts, ignore_index=True) if parts else texts.head(0)

    def _choose(self, rows: pd.DataFrame) -> pd.DataFrame:
        if len(rows) > MOST:
            self.thinned = f"The first {MOST} of {len(rows)} rows."
        return rows.head(MOST)

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        self.groups, self.candidates = (list(rows[c].unique()) for c in ("tokens_of", "candidate"))
        lines = len(self.groups) * (16 + 17 * len(self.candidates))
        return {"height": 70 + lines, "y_range": (len(self.groups), 0)}

    def _furnish(self, rows: pd.DataFrame) -> None:
        """Names at the middle of each group, and lines between the groups."""
        base.rule(self.plot, 0, "height", line_width=1)
        self.plot.xaxis.formatter = NumeralTickFormatter(format="+0.[000]")
        self.plot.xaxis.ticker = AdaptiveTicker(desired_num_ticks=4)
        own_texts = set(rows.loc[rows["own"], "tokens_of"])
        names = [base.label(g, 22) + (" (distance)" if g in own_texts else "") for g in self.groups]
        base.tick_labels(self.plot, names)
        self.plot.ygrid.ticker = FixedTicker(ticks=list(range(len(self.groups))))

    def _extra(self, part: pd.DataFrame, series: Series) -> dict[str, Any]:
        place = (self.candidates.index(series.name) + 1) / (len(self.candidates) + 1)
        changes = {name: 100 * np.expm1(part[column].to_numpy("float64")) for name, column in CHANGES.items()}
        return {"y": [self.groups.index(group) + place for group in part["tokens_of"]], **changes}

    def _draw(self, source: Any, series: Series, part: pd.DataFrame) -> None:
        """Intervals, and points that have the tooltip."""
        bar = Segment(x0="_low", x1="_high", y0="_y", y1="_y", line_width=2)
        self._add(series, self.plot.add_glyph(source, base.paint(bar, line_color=series.colour)))
        self._dots(source, series, "_change", "_y", size=8)
