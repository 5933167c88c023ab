"""The page's figures as matplotlib's, for papers: what a Bokeh model would draw, from its own sources.

A figure is built once, for the page (`report/figures/curves.py`); here its glyphs are drawn again, so that both show
the same values. A kind of glyph that has no line in GLYPHS is an error, not a gap in the picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import bokeh.models as bk
import numpy as np

from decodedrift.core.records import InputError, nearest
from decodedrift.report.palette import LIGHT

try:
    import matplotlib as mpl
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
except ImportError:
    raise InputError('figures as SVG or PNG need matplotlib: pip install "decodedrift[plots]"') from None

FORMATS = ("svg", "png", "pdf")
INCH = 100  # pixels of a Bokeh plot
POINT = 72 / INCH
TITLE = 10  # points
LOOK = {"font.size": 8.5, "svg.fonttype": "none", "svg.hashsalt": "decodedrift"}  # text stays text, and files the same
BASELINES = {"middle": "center", "top": "top", "alphabetic": "baseline"}
MARKERS = {"circle": "o", "triangle": "^", "square": "s", "x": "x", "diamond": "D", "inverted_triangle": "v"}
DATES = {"svg": "Date", "pdf": "CreationDate"}


class Still(Figure):  # type: ignore[misc]
    """A matplotlib Figure that a notebook's cell shows."""

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        self.savefig(picture, format="png", dpi=2 * INCH)
        return picture.getvalue()


def still(plots: Any, name: str, *choice: str) -> Still:
    """A figure of `study.plot` as a matplotlib Figure.

    Raises:
        InputError: no such figure, or it has nothing to draw.
    """
    names = [n for n in dir(type(plots)) if not n.startswith("_")]
    if name not in names:
        raise InputError(f"no figure {name!r}; {nearest(name, names)}")
    try:
        model = getattr(plots, name)(*choice)
    except (TypeError, ValueError) as error:  # a choice too many, or one that there is not
        raise InputError(f"{name}: {error}") from None
    return drawn(model)


def save(plots: Any, folder: Path, format: str) -> list[Path]:
    """Every figure that has something to draw as a file, one for each strategy where it is of one; the paths.

    Raises:
        InputError: no such format, or the folder cannot be written.
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r}: unknown; {nearest(format, FORMATS)}")
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, strategy, model in plots:
            path = folder / f"{'-'.join(filter(None, [name, re.sub('[^A-Za-z0-9.=_-]+', '-', strategy)]))}.{format}"
            with mpl.rc_context(LOOK):
                drawn(model).savefig(path, dpi=2 * INCH, metadata={} if format == "png" else {DATES[format]: None})
            files.append(path)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None
    return files


def drawn(model: Any) -> Still:
    """A Bokeh plot, or a layout of plots, as a matplotlib Figure of its size."""
    places = list(_placed(model, 0, 0))
    rows, columns = (1 + max(place[i] for place in places) for i in (1, 2))
    heights = [max(p.height or 340 for p, row, _ in places if row == i) for i in range(rows)]
    widths = [max(p.width or 760 for p, _, column in places if column == i) for i in range(columns)]
    shares = [max(p.min_width or p.width or 760 for p, _, at in places if at == i) for i in range(columns)]  # no legend
    with mpl.rc_context(LOOK):
        figure = Still(figsize=(sum(widths) / INCH, sum(heights) / INCH), layout="constrained")
        grid = figure.add_gridspec(rows, columns, height_ratios=heights, width_ratios=shares)
        across: dict[int, Any] = {}  # plots that share a range share an axis
        for plot, row, column in places:
            axes = figure.add_subplot(grid[row, column], sharex=across.get(id(plot.x_range)))
            across.setdefault(id(plot.x_range), axes)
            _draw(axes, plot)
        if model.name:
            figure.suptitle(_plain(model.name), x=0.01, ha="left", size=TITLE)
    return figure


def _placed(model: Any, row: int, column: int) -> Iterator[tuple[Any, int, int]]:
    """The plots of a layout, each with its row and column."""
    if isinstance(model, bk.GridPlot):
        for child, down, right, *_ in model.children:
            yield from _placed(child, row + down, column + right)
    elif isinstance(model, (bk.Column, bk.Row)):
        for child in model.children:
            places = list(_placed(child, row, column))
            yield from places
            if isinstance(model, bk.Column):
                row = 1 + max(place[1] for place in places)
            else:
                column = 1 + max(place[2] for place in places)
    else:
        yield model, row, column


def _draw(axes: Any, plot: Any) -> None:
    """One plot: its axes, its glyphs, its lines across and its legend."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(_plain(plot.title.text if plot.title else ""))
    for way in ("x", "y"):
        _axis(axes, way, plot)
    handles = {}
    for renderer in plot.renderers:
        if renderer.visible:
            kind = type(renderer.glyph).__name__
            if kind not in GLYPHS:
                raise InputError(f"a figure with {kind} cannot be drawn by matplotlib; study.plot has it")
            handles[renderer.id] = GLYPHS[kind](axes, _Values(renderer))
    for way in ("x", "y"):
        _limits(axes, way, plot)
    for line in plot.center:
        _across(axes, line)
    entries = {}
    for item in (item for legend in plot.legend for item in legend.items):
        drawn_of_it = sorted((r for r in item.renderers if r.id in handles), key=lambda r: not r.name)  # no band first
        if drawn_of_it:
            entries[_plain(item.label.value)] = _key([handles[r.id] for r in drawn_of_it])
    if entries:
        axes.legend(entries.values(), entries, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _key(handles: list[Any]) -> Any:
    """What stands for these in a legend: the first, or of lines in several colours a grey one."""
    first, lines = handles[0], [h for h in handles if isinstance(h, Line2D)]
    if len({line.get_color() for line in lines}) < 2:
        return first
    grey = Line2D([], [])
    grey.update_from(first)
    grey.set_color(LIGHT["soft"])
    return grey


class _Values:
    """What a glyph draws: a property is a value, or the name of a column of its source."""

    def __init__(self, renderer: Any) -> None:
        self.specs, self.data = renderer.glyph.properties_with_values(), renderer.data_source.data

    def __getitem__(self, name: str) -> Any:
        """A property as it is: one value, or an array of them."""
        spec = self.specs[name]
        return np.asarray(self.data[spec.field]) if hasattr(spec, "field") else getattr(spec, "value", spec)

    def column(self, name: str) -> Any:
        """A property as an array, a value of its own for each row."""
        length = len(next(iter(self.data.values()), (0,)))  # a glyph of values alone is drawn once
        value = self[name]
        return value if isinstance(value, np.ndarray) else np.full(length, value)

    def colour(self, kind: str) -> Any:
        """`line`, `fill` or `text`: one colour, or one for each row, with its opacity."""
        colour, alpha = self[f"{kind}_color"], self[f"{kind}_alpha"]
        if isinstance(colour, np.ndarray) or isinstance(alpha, np.ndarray):
            return [to_rgba(c, a) for c, a in zip(self.column(f"{kind}_color"), self.column(f"{kind}_alpha"))]
        return to_rgba(colour, alpha)

    @property
    def stroke(self) -> dict[str, Any]:
        """How a line looks."""
        dash = self["line_dash"]
        style = (0, tuple(d / 2 for d in dash)) if isinstance(dash, (list, tuple)) and dash else "-"
        return {"color": self.colour("line"), "linewidth": POINT * self["line_width"], "linestyle": style}


def _line(axes: Any, v: _Values, **more: Any) -> Any:
    return axes.plot(v["x"], v["y"], **v.stroke, **more)[0]


def _area(axes: Any, v: _Values, **more: Any) -> Any:
    return axes.fill_between(v["x"], v["y1"], v["y2"], color=v.colour("fill"), linewidth=0, **more)


def _scatter(axes: Any, v: _Values) -> Any:
    mark, size = MARKERS.get(str(v["marker"]), "o"), (POINT * v["size"]) ** 2
    look = {"facecolors": v.colour("fill"), "edgecolors": v.colour("line")}
    look = {"color": v.colour("line")} if mark == "x" else look
    return axes.scatter(v["x"], v["y"], s=size, marker=mark, linewidths=POINT * v["line_width"], **look)


def _segment(axes: Any, v: _Values) -> Any:
    places = [v.column(name) for name in ("x0", "x1", "y0", "y1")]
    lines = [axes.plot((x0, x1), (y0, y1), **v.stroke)[0] for x0, x1, y0, y1 in zip(*places)]
    return lines[0] if lines else None


def _bars(axes: Any, v: _Values) -> Any:
    left, right = v.column("left"), v.column("right")
    return axes.barh(v["y"], right - left, v["height"], left, color=v.colour("fill"), linewidth=0)


def _boxes(axes: Any, v: _Values) -> Any:
    left = v["x"] - v["width"] / 2
    return axes.barh(v["y"], v["width"], v["height"], left, color=v.colour("fill"), edgecolor=v.colour("line"),
                     linewidth=POINT * v["line_width"])  # fmt: skip


def _texts(axes: Any, v: _Values) -> None:
    look = {"size": POINT * float(str(v["text_font_size"]).removesuffix("px")), "ha": v["text_align"],
            "va": BASELINES.get(v["text_baseline"], "bottom"),
            "weight": "bold" if "bold" in v["text_font_style"] else "normal"}  # fmt: skip
    move = [POINT * way * v[f"{axis}_offset"] for axis, way in (("x", 1), ("y", -1))]
    colours = v.colour("text")
    for i, (x, y, text) in enumerate(zip(v.column("x"), v.column("y"), v.column("text"))):
        colour = colours[i] if isinstance(colours, list) else colours
        axes.annotate(_plain(str(text)), (x, y), move, textcoords="offset points", color=colour, **look)


GLYPHS: dict[str, Callable[[Any, _Values], Any]] = {
    "Line": _line,
    "Step": lambda axes, v: _line(axes, v, drawstyle=f"steps-{'post' if v['mode'] == 'after' else 'pre'}"),
    "VArea": _area,
    "VAreaStep": lambda axes, v: _area(axes, v, step="post" if v["step_mode"] == "after" else "pre"),
    "Scatter": _scatter,
    "Segment": _segment,
    "HBar": _bars,
    "Rect": _boxes,
    "Text": _texts,
}


def _axis(axes: Any, way: str, plot: Any) -> None:
    """Scale, label, ticks and grid of one axis."""
    axis, own = getattr(plot, f"{way}axis")[0], getattr(axes, f"{way}axis")
    if isinstance(getattr(plot, f"{way}_scale"), bk.LogScale):
        getattr(axes, f"set_{way}scale")("log", nonpositive="mask")
    label = axis.axis_label
    own.set_label_text(_plain(getattr(label, "text", label) or ""), color=axis.axis_label_text_color)
    if isinstance(axis.ticker, bk.FixedTicker):
        own.set_ticks(axis.ticker.ticks)
        if names := axis.major_label_overrides:
            texts = [names.get(tick, "") for tick in axis.ticker.ticks]
            own.set_ticks(axis.ticker.ticks, [_plain(getattr(text, "text", text)) for text in texts])
    elif "%" in str(getattr(axis.formatter, "format", "")):
        own.set_major_formatter(lambda value, _: f"{100 * value:.6g} %")
    if not axis.visible or axis.major_label_text_alpha == 0:
        own.set_tick_params(length=0, **{"labelbottom" if way == "x" else "labelleft": False})
        axes.spines["bottom" if way == "x" else "left"].set_visible(False)
    grid = getattr(plot, f"{way}grid")
    if grid and grid[0].visible and grid[0].grid_line_color:
        own.grid(True, color=grid[0].grid_line_color, linewidth=POINT)
    axes.set_axisbelow(True)


def _limits(axes: Any, way: str, plot: Any) -> None:
    """The ends of an axis, where they are given; else those of what is drawn."""
    ends = getattr(plot, f"{way}_range")
    if isinstance(ends, bk.Range1d):
        getattr(axes, f"set_{way}lim")(ends.start, ends.end)
    elif isinstance(ends, bk.DataRange1d):
        axes.margins(**{way: ends.range_padding / 2})


def _across(axes: Any, line: Any) -> None:
    """A line across the plot; its ends are the axes', whatever else is drawn."""
    if not isinstance(line, (bk.Span, bk.Slope)):
        return
    dash = line.line_dash
    style = (0, tuple(d / 2 for d in dash)) if isinstance(dash, (list, tuple)) and dash else "-"
    look = {"color": line.line_color, "linewidth": POINT * line.line_width, "linestyle": style}
    if isinstance(line, bk.Span):
        (axes.axvline if line.dimension == "height" else axes.axhline)(line.location, **look)
    else:
        ends = np.asarray(axes.get_xlim())
        limits = axes.get_xlim(), axes.get_ylim()
        axes.plot(ends, line.gradient * ends + line.y_intercept, **look)
        axes.set(xlim=limits[0], ylim=limits[1])


def _plain(text: str) -> str:
    """Text in which no dollar begins a formula."""
    return text.replace("$", r"\$")
