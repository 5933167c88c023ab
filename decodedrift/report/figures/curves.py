"""The one builder of figures: a series for each group of a table's rows, under one switch, legend and tooltip."""

from __future__ import annotations

from typing import Any

import pandas as pd
from bokeh.models import DataRange1d, Line, Scatter, Step, VArea, VAreaStep

from decodedrift.report.figures import base
from decodedrift.report.figures.base import Figure, Series

MOST_SERIES = 120
MOST_NAMED = 8
Names = tuple[str, ...]
Pairs = tuple[tuple[str, str], ...]


class Curves:
    """A figure. A subclass declares what is read and shown, and overrides the step that is truly its own.

    name: of the figure. what: what a study without it lacks, if not the name. scarce: a sentence on what has too little
    data to be drawn, made as rows are read. table, roles: whose rows are read. file: what holds them all. switch: the
    column that one chooses by; empty for no choice. named: the column that the legend names a series by. keys, columns:
    of the table beside the figure. along: the column that a series is sorted and thinned along; empty where rows are
    few.
    labels, height: of the plot. share: y goes from 0 to 1; else it is logarithmic. positive: (name, column) pairs, as
    `_name` where above 0. x, y, band, step: the columns of the line and its band, and whether they go in steps.
    hover, line_policy: of the tooltip. last: the name that ends the legend. labelled: candidates are named in the plot,
    so that the page's legend has only what is none. other: the look of what is no candidate.
    """

    name = table = file = what = along = last = thinned = scarce = ""
    roles: Names = ("candidate",)
    switch, named = "strategy", "candidate"
    keys: Names = ("strategy", "candidate")
    labels, height = ("position", ""), 340
    share = step = False
    labelled = False
    columns: Names = ()
    positive: Pairs = ()
    x, y = "position", ""
    band: Names = ()
    hover: Pairs = ()
    line_policy = "nearest"
    other = ("soft", "solid")

    def __init__(self, study: Any, choice: str | None = None, *, notebook: bool = False, texts: bool = True) -> None:
        """choice: None is all there are; a notebook's figure, which has no switch, shows the first strategy of them.
        texts: whether tokens may be in it."""
        self.study, self.choice, self.notebook, self.texts = study, choice, notebook, texts
        self.colours = base.colours(study)
        self.choices: list[str] = []
        self.renderers: dict[str, list[Any]] = {}

    def figure(self) -> Figure | None:
        """The figure; None where the study has no rows for it.

        Raises:
            ValueError: no such strategy or candidate; the message names those that there are.
        """
        if self.table and not len(getattr(self.study, self.table)):
            return None
        rows = self._read()
        rows = self._choose(rows) if len(rows) else rows
        if not len(rows):
            return None
        by = list(dict.fromkeys(c for c in ("role", self.switch, *self.keys) if c in rows))
        cells = [part for _, part in rows.groupby(by, sort=False)]
        if self.along:
            cells = [part.sort_values(self.along) for part in cells[:MOST_SERIES]]
        options = {"height": self.height, **self._frame(rows)}
        self.model = self.plot = base.plot(*self.labels, notebook=self.notebook, **options)
        self._furnish(rows)
        most = 1
        for part in cells:
            series = self._series(part.iloc[0])
            shown, step = base.thin(part, len(cells), len(self.columns)) if self.along else (part, 1)
            self._draw(base.source(shown, series, self.columns, self._extra(shown, series)), series, part)
            most = max(most, step)
        hovered = {r.id: r for renderers in self.renderers.values() for r in renderers if r.name}
        for plot in self._plots():
            own = [hovered[r.id] for r in plot.renderers if r.id in hovered]
            base.hover(plot, own, self.hover, line_policy=self.line_policy)
        unnamed = {"", *(self.colours if self.labelled else ())}
        captions = {name: self._caption(name) for name in self.renderers if name not in unnamed}
        if self.notebook and (captions or self.labelled):
            named = {caption: self.renderers[name] for name, caption in captions.items()}
            base.legend(self.plot, named | self._bands())
        order = sorted(captions, key=lambda name: name == self.last)
        entries = [(captions[name], *self._look(name), name) for name in order]
        thinned = f"Every {most}th {self.along} is drawn." if most > 1 else self.thinned
        return Figure(self.model, self.choices, entries, self.file, thinned)

    def _read(self) -> pd.DataFrame:
        """The rows, of every choice."""
        table: pd.DataFrame = getattr(self.study, self.table)
        return table[table["role"].isin(self.roles)]

    def _enough(self, rows: pd.DataFrame, enough: pd.Series, need: str) -> pd.DataFrame:
        """The rows with enough behind them; `scarce` names the candidates and strategies of which nothing is left."""
        cells = enough.groupby([rows["candidate"], rows["strategy"]], sort=False).any()
        bare: dict[str, list[str]] = {}
        for name, strategy in cells[~cells].index:
            bare.setdefault(base.label(name), []).append(base.label(strategy))
        if bare:
            listed = [f"{name} ({', '.join(strategies)})" for name, strategies in bare.items()]
            more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
            self.scarce = f"Not drawn, for want of {need}: {', '.join(listed[:MOST_NAMED])}{more}."
        return rows[enough]

    def _choose(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Sets what the switch chooses between: the strategies of the plan, in its order. The rows of these."""
        if not self.switch:
            return rows
        present = set(rows["strategy"])
        labels = [s["label"] for s in self.study.plan.get("strategies", ()) if s["label"] in present]
        if self.choice is not None and self.choice not in labels:
            raise ValueError(f"strategy {self.choice!r} has no such figures; choices: {', '.join(labels)}")
        self.choices = [self.choice] if self.choice is not None else labels[:1] if self.notebook else labels
        return rows[rows["strategy"].isin(self.choices)]

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        """Ranges and kinds of the axes."""
        across = DataRange1d(only_visible=True, range_padding=0.0)
        if self.share:
            return {"x_range": across, "y_range": (0, 1.02)}
        return {"x_range": across, "y_range": DataRange1d(only_visible=True), "y_axis_type": "log"}

    def _furnish(self, rows: pd.DataFrame) -> None:
        """Draws what stands in the plot before any series."""

    def _plots(self) -> list[Any]:
        """The plots that have a tooltip."""
        return [self.plot]

    def _series(self, row: Any) -> Series:
        """What the series of a row is."""
        name, choice = (row[c] if c else "" for c in (self.named, self.switch))
        return Series(choice, name, {c: row[c] for c in self.keys}, base.label(name), *self._look(name))

    def _look(self, name: str) -> tuple[str, str]:
        """The colour and the dash of a name in the legend."""
        return self.colours.get(name, self.other)

    def _bands(self) -> dict[str, list[Any]]:
        """What a notebook's legend has to say of bands, where no other text does."""
        return {}

    def _caption(self, name: str) -> str:
        """What the legend calls it."""
        return name

    def _extra(self, part: pd.DataFrame, series: Series) -> dict[str, Any]:
        """Values made for drawing alone, without the `_` that they get."""
        skipped = () if series.band else self.band
        return {name: base.positive(part[c]) for name, c in self.positive if f"_{name}" not in skipped}

    def _draw(self, source: Any, series: Series, part: pd.DataFrame) -> None:
        """Draws a series; part: its rows before they were thinned."""
        if self.band and series.band:
            ends = {"x": self.x, "y1": self.band[0], "y2": self.band[1], "fill_alpha": 0.13}
            band = VAreaStep(**ends, step_mode="after") if self.step else VArea(**ends)
            self._add(series, self.plot.add_glyph(source, base.paint(band, fill_color=series.colour)))
        self._line(source, series, self.y, series.label)

    def _line(self, source: Any, series: Series, y: str, label: str | None = None) -> None:
        look = {"x": self.x, "y": y, "line_width": series.width, "line_dash": series.dash}
        line = Step(**look, mode="after") if self.step else Line(**look)
        self._add(series, self.plot.add_glyph(source, base.paint(line, line_color=series.colour)), label)

    def _dots(self, source: Any, series: Series, x: str, y: str, **look: Any) -> Any:
        dot = base.paint(Scatter(x=x, y=y, **look), fill_color=series.colour, line_color=series.colour)
        dots = self.plot.add_glyph(source, dot)
        self._add(series, dots, series.label)
        return dots

    def _add(self, series: Series, renderer: Any, label: str | None = None) -> None:
        """Tags a renderer with its series, visible where that is of the first choice; a label gives it the tooltip."""
        first = self.choices[0] if self.choices else ""
        renderer.tags = [{"choice": series.choice, "series": series.name}]
        renderer.visible = "" in (first, series.choice) or series.choice == first
        renderer.name = label
        self.renderers.setdefault(series.name, []).append(renderer)
