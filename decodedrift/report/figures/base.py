"""What every figure is made of: a Bokeh plot in the page's colours, and series that hold the very values drawn.

A series is one ColumnDataSource whose columns are named as in the tables. The page's script switches renderers by their
tags, repaints models by theirs, and makes the table beside a figure from the sources: nothing is told twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, DataRange1d, HoverTool, Legend, LegendItem, Model, PlainText, Range1d
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
    choices: list[str] = field(default_factory=list)
    entries: list[tuple[str, str, str, str]] = field(default_factory=list)
    source: str = ""
    thinned: str = ""


@dataclass(frozen=True)
class Keys:
    """Whom a series belongs to: shown under `choice`, toggled with `series`."""

    choice: str = ""
    series: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


def plot(
    x_label: str, y_label: str, *, height: int = 340, notebook: bool = False, hover: bool = True, **given: Any
) -> Any:
    """An empty plot: quiet axes, no frame, colours that the page can change."""
    tools = "pan,box_zoom,wheel_zoom,reset,save" if notebook else ""
    made = bokeh_figure(
        height=height, sizing_mode="stretch_width", tools=tools, toolbar_location="right" if notebook else None, **given
    )
    if notebook:
        made.width, made.sizing_mode = 760, "fixed"
    made.xaxis.axis_label, made.yaxis.axis_label = PlainText(text=x_label), PlainText(text=y_label)
    ground = "raised" if notebook else "paper"  # none would leave traces of an earlier width
    paint(made, background_fill_color=ground, border_fill_color=ground)
    made.outline_line_color = None
    for axis in (*made.xaxis, *made.yaxis):
        paint(axis, axis_label_text_color="soft", major_label_text_color="soft", axis_line_color="strong",
              major_tick_line_color="strong")  # fmt: skip
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_style, axis.axis_label_text_font_size = "normal", "12px"
        axis.major_label_text_font_size = "11.5px"
        axis.minor_tick_line_color = None
    made.xgrid.grid_line_color = None
    paint(made.ygrid[0], grid_line_color="line")
    made.min_border_right = 14
    return made


def paint(model: Model, **colours: str) -> Model:
    """Gives a model colours of the palette by name, and notes the names for a page that turns dark."""
    for name, colour in colours.items():
        setattr(model, name, LIGHT[colour])
    model.tags = [*[t for t in model.tags if "paint" not in t], {"paint": colours}]
    return model


def source(frame: pd.DataFrame, keys: Keys, columns: Sequence[str], **drawn: Any) -> ColumnDataSource:
    """The values of one series. `columns` are shown in the table; `drawn` are made of them for drawing alone."""
    data: dict[str, Any] = {c: _values(frame[c]) for c in columns}
    data |= {f"_{name}": value for name, value in drawn.items()}
    named = dict(keys.columns)
    return ColumnDataSource(data, tags=[{"keys": named, "columns": list(columns), "choice": keys.choice}])


def _values(column: pd.Series) -> Any:
    """Numbers as float64 (NaN where missing), whole ones as integers, texts made visible and bounded."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        whole = pd.api.types.is_integer_dtype(column.dtype) and not column.isna().any()
        return column.to_numpy("int64") if whole else column.to_numpy("float64", na_value=math.nan)
    return [label(str(v), 60) if isinstance(v, str) else "" for v in column]


def belongs(renderer: Any, keys: Keys, first: str) -> Any:
    """Tags a renderer with whom it belongs to; only the first choice is visible at the beginning."""
    renderer.tags = [{"choice": keys.choice, "series": keys.series}]
    renderer.visible = keys.choice in ("", first)
    return renderer


def hover(made: Any, renderers: list[Any], rows: list[tuple[str, str]], **given: Any) -> None:
    """A tooltip on these renderers; %-formats go through Bokeh's printf."""
    fields = {f[1 : f.index("{")]: "printf" for _, f in rows if f.startswith("@") and "{%" in f}
    formats: dict[str, Any] = {f"@{name.strip('{}')}": kind for name, kind in fields.items()}
    made.add_tools(HoverTool(renderers=renderers, tooltips=rows, formatters=formats, **given))


def legend(made: Any, entries: Mapping[str, list[Any]]) -> None:
    """Bokeh's own legend, for a notebook; the page draws its own beside the switch."""
    items = [LegendItem(label={"value": label(name)}, renderers=found) for name, found in entries.items()]
    box = Legend(items=items, click_policy="hide", background_fill_alpha=0.8, border_line_color=None)
    box.label_text_font, box.label_text_font_size = FONT, "11.5px"
    made.add_layout(box, "right")


def colours(study: Any) -> dict[str, tuple[str, str]]:
    """Candidate -> (colour name, dash), the same in every figure."""
    return series([str(v["name"]) for v in study.plan.get("candidates", ())])


def strategies(study: Any, present: Any, asked: str | None = None) -> list[str]:
    """The strategies of the plan, in its order, that a frame has rows of.

    Raises:
        ValueError: the one asked for is not among them.
    """
    found = set(present)
    known = [s["label"] for s in study.plan.get("strategies", ()) if s["label"] in found]
    if asked is None:
        return known
    if asked not in known:
        raise ValueError(f"strategy {asked!r} has no such figures; choices: {', '.join(known)}")
    return [asked]


def thin(frame: pd.DataFrame, series_count: int, columns: int) -> tuple[pd.DataFrame, int]:
    """Every k-th row and the last, so that all series of a figure keep to its budget; k."""
    room = max(24, CELLS // max(1, series_count * columns))
    step = max(1, math.ceil(len(frame) / room))
    kept: Any = np.unique(np.append(np.arange(0, len(frame), step), len(frame) - 1)) if len(frame) else []
    return frame.iloc[kept], step


def label(text: str, width: int = 40) -> str:
    """A name as it may stand in a figure: nothing hidden, not too long."""
    return shown(brief(text, width))


def positive(values: pd.Series) -> np.ndarray:
    """Values for a log axis: what is not above zero has no place there."""
    found = values.to_numpy("float64", na_value=math.nan)
    return np.where(found > 0, found, math.nan)


def visible_range(**given: Any) -> DataRange1d:
    """A range that follows what is shown."""
    return DataRange1d(only_visible=True, **given)


def fixed(start: float, end: float) -> Range1d:
    """A range that stays."""
    return Range1d(start, end)
