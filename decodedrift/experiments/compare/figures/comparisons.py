"""Candidates against each other: on the same prompts, which of two left the reference first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from bokeh.core.properties import value
from bokeh.models import FixedTicker, PlainText, Span

from decodedrift.report.figures import base
from decodedrift.report.figures.base import Figure, Keys
from decodedrift.report.numbers import significant

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

MOST = 20  # pairs of a strategy
COLUMNS = ["pairs", "candidate_earlier", "other_earlier", "p_value"]


def comparisons(study: Study, strategy: str | None = None, *, notebook: bool = False) -> Figure | None:
    """A row a pair: to the left how often the first left earlier, to the right the second; with the p-value."""
    table = study.comparisons
    if not len(table) or not (table[["candidate_earlier", "other_earlier"]] > 0).any(axis=None):
        return None
    choices = base.strategies(study, table["strategy"], strategy)
    table = table[table["strategy"].isin(choices)]
    names = list(dict.fromkeys(zip(table["candidate"], table["other"], strict=True)))
    places = {name: i for i, name in enumerate(names[:MOST])}
    most = max(1, int(table[["candidate_earlier", "other_earlier"]].max(axis=None)))
    made = base.plot("texts that the one, or the other, left first", "", notebook=notebook,
                     height=74 + 30 * len(places), x_range=base.fixed(-1.05 * most, 1.9 * most),
                     y_range=base.fixed(len(places), 0))  # fmt: skip
    made.add_layout(base.paint(Span(location=0, dimension="height", line_width=1), line_color="soft"))
    colours = base.colours(study)
    bars = []
    for row in table.itertuples():
        if (row.candidate, row.other) in places:
            where = (places[row.candidate, row.other] + 0.5, 1.85 * most)
            bars += _row(made, pd.DataFrame([row._asdict()]), where, colours, choices[0])
    base.hover(made, bars, [
        ("", "$name"), ("left first", "@candidate_earlier against @other_earlier of @pairs texts"),
        ("p", "@p_value{%.3g}"),
    ])  # fmt: skip
    _label(made, places, most)
    thinned = f"{MOST} of {len(names)} pairs are drawn." if len(names) > MOST else ""
    return Figure(made, choices, [], "comparisons.csv", thinned)


def _row(
    made: Any, part: pd.DataFrame, where: tuple[float, float], colours: dict[str, tuple[str, str]], first: str
) -> list[Any]:
    """The two bars and the p-value of one pair under one strategy; the bars."""
    row = part.iloc[0]
    y, right = where
    keys = Keys(row["strategy"], "", {c: row[c] for c in ("strategy", "candidate", "other")})
    p = row["p_value"]
    said = "no p" if pd.isna(p) else f"p = {significant(p)}"
    held = base.source(part, keys, COLUMNS, y=[y], left=[-int(row["candidate_earlier"])], x=[right], said=[said])
    bars = [
        made.hbar(y="_y", left=left, right=end, height=0.55, source=held, fill_alpha=0.75, line_alpha=0.0)
        for left, end in (("_left", value(0)), (value(0), "other_earlier"))
    ]
    for bar, name in zip(bars, (row["candidate"], row["other"]), strict=True):
        base.paint(bar.glyph, fill_color=colours.get(name, ("soft", ""))[0])
        bar.name = base.label(f"{row['candidate']} and {row['other']}", 60)
    text = made.text("_x", "_y", "_said", source=held, text_align="right", text_baseline="middle",
                     text_font_size="11.5px",
                     text_font=value(base.FONT))  # fmt: skip
    base.paint(text.glyph, text_color="soft")
    for each in (*bars, text):
        base.belongs(each, keys, first)
    return bars


def _label(made: Any, places: dict[tuple[str, str], int], most: int) -> None:
    """The pairs' names, and counts without a sign to either side of 0."""
    made.yaxis.ticker = FixedTicker(ticks=[i + 0.5 for i in places.values()])
    made.yaxis.major_label_overrides = {
        i + 0.5: PlainText(text=f"{base.label(a, 16)} | {base.label(b, 16)}") for (a, b), i in places.items()
    }
    made.yaxis.major_tick_line_color = made.yaxis.axis_line_color = None
    made.ygrid.visible = False
    step = -(-most // 4)
    ticks = [sign * n for n in range(0, most + 1, step) for sign in (-1, 1) if n or sign > 0]
    made.xaxis.ticker = FixedTicker(ticks=ticks)
    made.xaxis.major_label_overrides = {n: PlainText(text=str(abs(n))) for n in ticks}
