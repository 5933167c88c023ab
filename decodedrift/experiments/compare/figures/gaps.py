"""Gap against swing at each first divergence: how close the choice was, and how large the error that turned it."""

from __future__ import annotations

from typing import Any

import pandas as pd
from bokeh.models import TapTool

from decodedrift.experiments.compare.reader import as_read
from decodedrift.report.figures import base
from decodedrift.report.figures.base import Series
from decodedrift.report.figures.curves import Curves, Names, Pairs
from decodedrift.report.tokenview import case_link

POINTS = 1500
MARKERS = {
    "near_tie": "circle", "draw": "inverted_triangle", "shift": "triangle", "truncation": "square", "nonfinite": "x",
    "uncoupled": "diamond", "stopped": "plus",
}  # fmt: skip


class Gaps(Curves):
    """Reference gap against swing at each first divergence, log-log, by cause; one candidate or all."""

    name, what, file = "gaps", "first divergences with a gap", "divergences.csv"
    switch, named, keys = "candidate", "cause", ("cause",)
    hover: Pairs = (("", "@candidate · @strategy · @prompt_id"), ("position", "@first_divergence"),
                    ("gap", "@reference_gap{%.4g}"), ("swing", "@swing{%.4g}"))  # fmt: skip
    height = 380
    columns: Names = ("candidate", "strategy", "seed", "prompt_id", "first_divergence", "reference_gap", "swing")

    def _read(self) -> pd.DataFrame:
        if self.texts:
            self.columns += ("reference_token", "candidate_token")
            pair = ("tokens", "@reference_token → @candidate_token")
            self.hover = (*self.hover[:2], pair, *self.hover[2:])
        rows = self.study.divergences
        parted = rows[(rows["role"] == "candidate") & (rows["diverged"] == 1)]
        rows = parted[(parted["cause"] != "search") & (parted["reference_gap"] > 0) & (parted["swing"] > 0)]
        self.off = len(parted) - len(rows)
        return rows

    def _choose(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The points of all candidates, or of the one asked for; of very many the largest gaps and some of the rest."""
        if self.choice not in (None, *self.colours):
            raise ValueError(f"no candidate {self.choice!r}; choices: {', '.join(self.colours)}")
        every = rows if self.choice is None else rows[rows["candidate"] == self.choice]
        rows = every
        if len(every) > POINTS:
            order = every.sort_values("reference_gap", ascending=False, kind="stable")
            rest = order.iloc[POINTS // 2 :]
            rows = pd.concat([order.iloc[: POINTS // 2], rest.iloc[:: -(-len(rest) // (POINTS // 2))]])
            self.thinned = f"{len(every) - len(rows):,} points are not drawn; the largest gaps are."
        if self.off and self.choice is None:
            have = "divergence has" if self.off == 1 else "divergences have"
            off = f"{self.off:,} {have} no place here: beam search, or a gap that is empty or 0."
            self.thinned = f"{self.thinned} {off}".strip()
        parts = {name: rows[rows["candidate"] == name] for name in self.colours}
        names = [name for name, part in parts.items() if len(part)]
        self.choices = ["", *names] if len(names) > 1 else []
        return pd.concat(parts.values())

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        """The line of the near ties lies within the axis, wherever the points are; the gap is of whoever read."""
        self.labels = as_read("{reader} gap (nats)", self.study.plan), "swing (nats)"
        self.near_tie = float(self.study.plan.get("near_tie_below", 0.1))
        reach = [*rows["reference_gap"], *([self.near_tie] if self.near_tie > 0 else [])]
        return {"x_axis_type": "log", "y_axis_type": "log", "x_range": (min(reach) / 1.6, max(reach) * 1.6)}

    def _furnish(self, rows: pd.DataFrame) -> None:
        """Where the error just sufficed; below which gap the reference all but tied; and what a click opens."""
        base.diagonal(self.plot)
        if self.near_tie > 0:
            base.rule(self.plot, self.near_tie, "height", line_dash="dotted")
        self.tap = TapTool(renderers=[])
        self.plot.add_tools(self.tap)

    def _look(self, name: str) -> tuple[str, str]:
        return name if name in MARKERS else "soft", "dot"

    def _caption(self, name: str) -> str:
        return name.replace("_", " ")

    def _extra(self, part: pd.DataFrame, series: Series) -> dict[str, Any]:
        return {"link": [case_link(row) for row in part.itertuples()]}

    def _draw(self, source: Any, series: Series, part: pd.DataFrame) -> None:
        points = self._dots(source, series, "reference_gap", "swing", size=8, fill_alpha=0.55, line_width=1,
                            marker=MARKERS.get(series.name, "circle"))  # fmt: skip
        points.nonselection_glyph = None
        self.tap.renderers.append(points)
