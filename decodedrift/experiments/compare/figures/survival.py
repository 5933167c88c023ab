"""Survival: the share of traces that still equal the reference, by position, with bands and numbers at risk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from bokeh.core.properties import value
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, FixedTicker

from decodedrift.report.figures import base
from decodedrift.report.figures.base import Figure, Keys

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

COLUMNS = ["position", "at_risk", "events", "survival", "survival_low", "survival_high"]
PREDICTED, LAW = "survival_predicted", "foretold by the flip law"


def survival(study: Study, strategy: str | None = None, *, notebook: bool = False) -> Figure | None:
    """Kaplan-Meier curves from survival.csv; None where there are none."""
    table = getattr(study, "survival", None)
    if table is None or not len(table):
        return None
    table = table[table["role"] == "candidate"]
    choices = base.strategies(study, table["strategy"], strategy)
    if not choices:
        return None
    cells = [(s, c, part) for (s, c), part in table.groupby(["strategy", "candidate"], sort=False) if s in choices]
    cells = cells[: base.MOST_SERIES]
    predicted = [PREDICTED] if PREDICTED in table and table[PREDICTED].notna().any() else []
    colours, end = base.colours(study), int(table["position"].max()) + 1
    made = base.plot(
        "position (generated tokens)", "share of traces still equal", notebook=notebook,
        x_range=base.fixed(0, end), y_range=base.fixed(0, 1.02),
    )  # fmt: skip
    below = _at_risk_plot(made, end, len(colours), notebook)
    renderers: dict[str, list[Any]] = {}
    steps, hovered = [1], []
    for choice, candidate, part in cells:
        colour, dash = colours.get(candidate, ("s0", "solid"))
        keys = Keys(choice, candidate, {"strategy": choice, "candidate": candidate})
        drawn, step = base.thin(part, len(cells), len(COLUMNS))
        steps.append(step)
        held = base.source(drawn.sort_values("position"), keys, [*COLUMNS, *predicted])
        band = made.varea_step(
            x="position", y1="survival_low", y2="survival_high", step_mode="after", source=held, fill_alpha=0.13
        )
        line = made.step(x="position", y="survival", mode="after", source=held, line_width=2, line_dash=dash)
        base.paint(band.glyph, fill_color=colour)
        base.paint(line.glyph, line_color=colour)
        line.name = base.label(candidate)
        numbers = _at_risk(below, part, list(colours).index(candidate) if candidate in colours else 0, colour)
        renderers.setdefault(candidate, []).extend([band, line, numbers])
        hovered.append(line)
        law = made.step(x="position", y=PREDICTED, mode="after", source=held, line_dash="dotted") if predicted else None
        if law is not None:
            base.paint(law.glyph, line_color=colour)
            renderers.setdefault(LAW, []).append(base.belongs(law, Keys(choice, LAW), choices[0]))
        for renderer in (band, line, numbers):
            base.belongs(renderer, keys, choices[0])
    base.hover(made, hovered, [
        ("", "$name"), ("position", "@position"), ("survival", "@survival{%.3f}"),
        ("95 %", "@survival_low{%.3f} – @survival_high{%.3f}"), ("at risk", "@at_risk"), ("diverge here", "@events"),
    ], mode="mouse", line_policy="prev")  # fmt: skip
    if notebook:
        base.legend(made, renderers)
    order = sorted(renderers, key=lambda name: name == LAW)
    entries = [(n, *(("soft", "dotted") if n == LAW else colours.get(n, ("s0", "solid"))), n) for n in order]
    thinned = f"Every {max(steps)}th position is drawn." if max(steps) > 1 else ""
    return Figure(column(made, below, sizing_mode=made.sizing_mode), choices, entries, "survival.csv", thinned)


def _ticks(end: int) -> list[int]:
    """About seven round positions from 0."""
    rough = max(1.0, end / 7)
    power = 10 ** int(np.floor(np.log10(rough)))
    step = next(int(m * power) for m in (1, 2, 4, 5, 8, 10) if m * power >= rough)
    return list(range(0, end, max(1, step)))


def _at_risk_plot(made: Any, end: int, rows: int, notebook: bool) -> Any:
    """The strip below, on the same axis: one line of numbers a candidate."""
    below = base.plot("", "at risk", height=26 + 17 * max(1, rows), notebook=False, x_range=made.x_range,
                      y_range=base.fixed(max(1, rows) - 0.5, -0.5))  # fmt: skip
    if notebook:
        below.width, below.sizing_mode = 760, "fixed"
        base.paint(below, background_fill_color="raised", border_fill_color="raised")
    made.xaxis.ticker = FixedTicker(ticks=_ticks(end))
    for strip in (made, below):
        strip.min_border_left = 64
    below.xaxis.visible = below.grid.visible = False
    below.yaxis.major_label_text_alpha = below.yaxis.axis_line_alpha = below.yaxis.major_tick_line_alpha = 0
    below.yaxis.major_tick_out = below.yaxis.major_tick_in = 0
    return below


def _at_risk(below: Any, part: pd.DataFrame, row: int, colour: str) -> Any:
    """The numbers at risk at the ticks that the curve has."""
    kept = part[part["position"].isin(_ticks(int(below.x_range.end)))]
    held = {"_x": kept["position"].tolist(), "_y": [row] * len(kept), "_text": kept["at_risk"].astype(str).tolist()}
    numbers = below.text("_x", "_y", "_text", source=ColumnDataSource(held), text_align="left", text_baseline="middle",
                         text_font_size="11px", text_font=value(base.FONT))  # fmt: skip
    base.paint(numbers.glyph, text_color=colour)
    return numbers
