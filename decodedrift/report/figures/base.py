"""What every figure is made of: a Bokeh plot in the page's colours, and series that hold the very values drawn.

A series is one ColumnDataSource whose columns are named as in the tables. The page's script switches renderers by their
tags, repaints models by theirs, and makes the table beside a figure from the sources: nothing is told twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Legend, LegendItem, LogTicker, PlainText, Slope, Span
from bokeh.plotting import figure as bokeh_figure

from decodedrift.report.palette import LIGHT, series
from decodedrift.report.texts import brief, shown

FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Noto Sans, sans-serif"
CELLS = 24_000  # values of one figure that the page carries; a longer series is thinned
MOST_SERIES = 120


@dataclass
class Figure:
    """A figure for the page or a notebook.

    model: the Bokeh plot or layout. choices: what its switch chooses between (strategies). entries: (label, colour
    name, dash, key) of its legend. source: the table that holds all the values. thinned: what was left out, in words.
    """

    model: Any
    choices: list[str]
    entries: list[tuple[str, str, str, str]]
    source: str
    thinned: str


class Plots:
    """What `study.plot` is: a method a figure; a name that none has is told with those that are."""

    def __init__(self, study: Any) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        figures = [figure for figure in dir(type(self)) if not figure.startswith("_")]
        raise AttributeError(f"no figure {name!r}; choices: {', '.join(figures)}")


@dataclass(frozen=True)
class Series:
    """What a series is: shown under `choice`, toggled with `name`, its `keys` in the table, its `label` on hover, and
    how it looks."""

    choice: str
    name: str
    keys: Mapping[str, str]
    label: str
    colour: str
    dash: str
    width: float = 2
    band: bool = True


def plot(x_label: str, y_label: str, *, height: int = 340, notebook: bool = False, **options: Any) -> Any:
    """An empty plot: quiet axes, no frame, colours that the page can change."""
    tools = "pan,box_zoom,wheel_zoom,reset,save" if notebook else ""
    bare = bokeh_figure(height=height, sizing_mode="stretch_width", tools=tools,
                        toolbar_location="right" if notebook else None, **options)  # fmt: skip
    if notebook:
        bare.width, bare.sizing_mode = 760, "fixed"
    bare.xaxis.axis_label, bare.yaxis.axis_label = PlainText(text=x_label), PlainText(text=y_label)
    ground = "raised" if notebook else "paper"  # none would leave traces of an earlier width
    paint(bare, background_fill_color=ground, border_fill_color=ground)
    bare.outline_line_color = None
    for axis in (*bare.xaxis, *bare.yaxis):
        paint(axis, axis_label_text_color="soft", major_label_text_color="soft", axis_line_color="strong",
              major_tick_line_color="strong")  # fmt: skip
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_style, axis.axis_label_text_font_size = "normal", "12px"
        axis.major_label_text_font_size = "11.5px"
        axis.minor_tick_line_color = None
    for axis in (*bare.xaxis, *bare.yaxis):
        if isinstance(axis.ticker, LogTicker):  # the more would stand in one another's place on a narrow screen
            axis.ticker.desired_num_ticks = 4
    bare.xgrid.grid_line_color = None
    paint(bare.ygrid[0], grid_line_color="line")
    bare.min_border_right = 14
    return bare


def paint(model: Any, **colours: str) -> Any:
    """Gives a model colours of the palette by name, and notes the names for a page that turns dark."""
    for name, colour in colours.items():
        setattr(model, name, LIGHT[colour])
    model.tags = [*[t for t in model.tags if "paint" not in t], {"paint": colours}]
    return model


def rule(into: Any, at: float, dimension: str, **look: Any) -> None:
    """A line across a plot."""
    into.add_layout(paint(Span(location=at, dimension=dimension, **look), line_color="soft"))


def diagonal(into: Any) -> None:
    """The line on which both axes are equal."""
    equal = Slope(gradient=1, y_intercept=0, line_width=1, line_dash="dashed")
    into.add_layout(paint(equal, line_color="strong"))


def tick_labels(into: Any, texts: Sequence[str]) -> None:
    """A text for each unit of the y axis, at its middle."""
    into.yaxis.ticker = FixedTicker(ticks=[i + 0.5 for i in range(len(texts))])
    # PlainText: a name between dollar signs would be taken for TeX
    into.yaxis.major_label_overrides = {i + 0.5: PlainText(text=text) for i, text in enumerate(texts)}
    into.yaxis.major_tick_line_color = into.yaxis.axis_line_color = None


def source(frame: pd.DataFrame, series: Series, columns: Sequence[str], extra: Mapping[str, Any]) -> ColumnDataSource:
    """The values of one series. `columns` are shown in the table; `extra` are made of them for drawing alone."""
    data: dict[str, Any] = {c: _values(frame[c]) for c in columns}
    data |= {f"_{name}": values for name, values in extra.items()}
    return ColumnDataSource(data, tags=[{"keys": series.keys, "columns": list(columns), "choice": series.choice}])


def _values(column: pd.Series) -> Any:
    """Numbers as float64 (NaN where missing), whole ones as integers, texts made visible and bounded."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        whole = pd.api.types.is_integer_dtype(column.dtype) and not column.isna().any()
        return column.to_numpy("int64") if whole else column.to_numpy("float64", na_value=math.nan)
    return [label(str(v), 60) if isinstance(v, str) else "" for v in column]


def hover(into: Any, renderers: list[Any], rows: Sequence[tuple[str, str]], **options: Any) -> None:
    """A tooltip on these renderers; %-formats go through Bokeh's printf, in every field of a row."""
    formats: dict[str, Any] = {f"@{name}": "printf" for _, text in rows for name in re.findall(r"@(\w+)\{%", text)}
    into.add_tools(HoverTool(renderers=renderers, tooltips=list(rows), formatters=formats, **options))


def legend(into: Any, entries: Mapping[str, list[Any]]) -> None:
    """Bokeh's own legend, for a notebook; the page draws its own beside the switch."""
    items = [LegendItem(label={"value": label(name)}, renderers=renderers) for name, renderers in entries.items()]
    box = Legend(items=items, click_policy="hide", background_fill_alpha=0.8, border_line_color=None)
    box.label_text_font, box.label_text_font_size = FONT, "11.5px"
    into.add_layout(box, "right")


def colours(study: Any) -> dict[str, tuple[str, str]]:
    """Candidate -> (colour name, dash), the same in every figure."""
    return series([str(v["name"]) for v in study.plan.get("candidates", ())])


def thin(frame: pd.DataFrame, series_count: int, columns: int) -> tuple[pd.DataFrame, int]:
    """Every k-th row and the last, so that all series of a figure keep to its budget; k."""
    room = max(24, CELLS // max(1, series_count * columns))
    step = max(1, math.ceil(len(frame) / room))
    return frame.iloc[np.unique(np.append(np.arange(0, len(frame), step), len(frame) - 1))], step


def label(text: str, width: int = 40) -> str:
    """A name as it may stand in a figure: nothing hidden, not too long."""
    return shown(brief(text, width))


def positive(column: pd.Series) -> np.ndarray:
    """Values for a log axis: what is not above zero has no place there."""
    values = column.to_numpy("float64", na_value=math.nan)
    return np.where(values > 0, values, math.nan)
