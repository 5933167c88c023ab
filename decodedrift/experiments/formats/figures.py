"""How the numbers of a kind of module lie over the binades, and over them the windows of the formats."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, Range1d

from decodedrift.core.records import nearest
from decodedrift.experiments.formats.kinds import parse_kinds
from decodedrift.experiments.formats.places import ACTIVATIONS, KINDS, WEIGHTS
from decodedrift.numerics.formats import Whole
from decodedrift.report.figures import base
from decodedrift.report.figures.base import Series
from decodedrift.report.figures.curves import Curves

LANE = 0.085  # of the histogram's height, for each format
LOOKS = {WEIGHTS: ("s0", "solid"), ACTIVATIONS: ("s1", "solid")}
CAPTION = "Numbers of {kind} by binade, and what formats hold"
EDGE = 2  # binades beside what is drawn
NAMES = 0.22  # of the width, for the names of the formats


class Windows(Curves):
    """Share of the numbers in each binade, of one kind of module (`choice`), under the window of every format.

    A window goes from the smallest value to the largest; pale, where a format has less than its full precision. That of
    a whole-number format, which has a scale, ends at the largest number.
    """

    name, table, file, along, switch, named = "windows", "binades", "binades.csv", "binade", "", "what"
    keys = ("kind", "what")
    labels, height = ("binade: log2 of the size", "share of the numbers"), 360
    columns = ("binade", "numbers", "share")
    x, y, step = "binade", "share", True
    hover = (("", "$name"), ("size", "2^@binade"), ("share", "@share{%.4f}"), ("numbers", "@numbers"))

    def _read(self) -> pd.DataFrame:
        rows = self.study.binades
        rows = rows[(rows["kind"] == self.choice) & rows["what"].isin(LOOKS)]
        whole = []
        for what, part in rows.groupby("what", sort=False):
            numbers = part.groupby("binade")["numbers"].sum()
            numbers = numbers.reindex(range(int(numbers.index.min()), int(numbers.index.max()) + 2), fill_value=0)
            frame = numbers.astype("int64").rename_axis("binade").reset_index()
            whole.append(frame.assign(kind=self.choice, what=what, share=frame["numbers"] / frame["numbers"].sum()))
        return pd.concat(whole, ignore_index=True) if whole else rows

    def _look(self, name: str) -> tuple[str, str]:
        return LOOKS[name]

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        lanes, top = self._lanes(rows), float(rows["share"].max())
        low = min(rows["binade"].min(), *(max(lane[1], -26) for lane in lanes))
        high = max(rows["binade"].max(), *(min(lane[3], 17) for lane in lanes))
        self.top, self.left = top * 1.04, float(low) - EDGE
        return {
            "x_range": Range1d(self.left - NAMES * float(high - low), float(high) + EDGE),
            "y_range": Range1d(0, self.top + top * LANE * (len(lanes) + 0.5)),
        }

    def _lanes(self, rows: pd.DataFrame) -> list[tuple[str, float, float, float]]:
        """(name, log2 of the smallest value, of the smallest with full precision, of the largest) of each format."""
        last = float(rows.loc[rows["numbers"] > 0, "binade"].max()) + 1
        forms = {kind.form.name: kind.form for kind in parse_kinds(self.study.plan["formats"])}
        lanes = []
        for form in forms.values():
            if isinstance(form, Whole):
                least = last - math.log2(form.largest) - 1
                lanes.append((f"{form.name} (scaled)", least, least + 1, last))
            else:
                values = (form.smallest_subnormal, form.smallest_normal, form.largest)
                lanes.append((form.name, *map(math.log2, values)))  # type: ignore[arg-type]
        return lanes

    def _furnish(self, rows: pd.DataFrame) -> None:
        """The windows, a lane each above the histogram."""
        lanes, step = self._lanes(rows), (self.plot.y_range.end - self.top) / (len(self._lanes(rows)) + 0.5)
        heights = [self.top + step * (len(lanes) - n - 0.5) for n in range(len(lanes))]
        data: dict[str, list[Any]] = {
            "y": heights, "name": [lane[0] for lane in lanes], "start": [self.plot.x_range.start] * len(lanes),
        }  # fmt: skip
        for n, key in enumerate(("least", "normal", "largest"), 1):
            data[key] = [max(float(lane[n]), self.left) for lane in lanes]
        source = ColumnDataSource(data)
        for begin, end, alpha in (("least", "normal", 0.25), ("normal", "largest", 0.6)):
            bar = self.plot.hbar(y="y", left=begin, right=end, height=step * 0.55, source=source, fill_alpha=alpha)
            base.paint(bar.glyph, fill_color="s2", line_color="s2")
            bar.glyph.line_alpha = 0.0
        names = self.plot.text(x="start", y="y", text="name", source=source, text_font_size="11px",
                               text_baseline="middle", x_offset=4)  # fmt: skip
        base.paint(names.glyph, text_color="ink")

    def _draw(self, source: Any, series: Series, part: pd.DataFrame) -> None:
        source.data["_zero"] = np.zeros(len(source.data["binade"]))
        area = self.plot.varea_step(
            x="binade", y1="_zero", y2="share", source=source, fill_alpha=0.18, step_mode="after"
        )
        base.paint(area.glyph, fill_color=series.colour)
        self._add(series, area)
        self._line(source, series, self.y, series.label)


def kinds(study: Any) -> list[str]:
    """The kinds of module that there is something to draw of."""
    present = set(study.binades.loc[study.binades["what"].isin(LOOKS), "kind"])
    return [kind for kind in KINDS if kind in present]


class Plots(base.Plots):
    """`study.plot.windows("mlp")`."""

    def windows(self, kind: str = "mlp") -> Any:
        """How the numbers of a kind of module lie over the binades, and the windows of the formats.

        Raises:
            ValueError: there is no such kind of module.
        """
        if kind not in (able := kinds(self._study)):
            raise ValueError(f"no module of kind {kind!r}; {nearest(kind, able)}")
        figure = Windows(self._study, kind, notebook=True).figure()
        assert figure is not None
        figure.model.name = CAPTION.format(kind=kind)
        return figure.model

    def __iter__(self) -> Iterator[tuple[str, str, Any]]:
        """(name, kind of module, model) of every figure."""
        for kind in kinds(self._study):
            yield "windows", kind, self.windows(kind)


def plots(study: Any) -> Plots:
    """As of `study.plot`."""
    return Plots(study)
