"""The page's figures as matplotlib's, for papers: what a Bokeh model would draw, from its own sources.

A figure is built once, for the page (`report/figures/curves.py`); here its glyphs are drawn again, so that both show the
same values. A kind of glyph that has no line in GLYPHS is an error, not a gap in the picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from inspect import signature
from pathlib import Path
from typing import Any

import bokeh.models as bm
import numpy as np

from decodedrift.core.records import InputError, nearest

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.ticker import FixedLocator, FuncFormatter
except ImportError:
    raise InputError('figures for papers need matplotlib: pip install "decodedrift[plots]"') from None

FORMATS = ("svg", "png", "pdf")
DPI = 100  # pixels of a Bokeh plot to an inch
DASHES = {"solid": "-", "dashed": "--", "dotted": ":", "dotdash": "-."}
MARKERS = {"circle": "o", "triangle": "^", "square": "s", "x": "x", "diamond": "D", "inverted_triangle": "v"}
WORDS = {"svg.fonttype": "none", "svg.hashsalt": "decodedrift", "font.family": "sans-serif"}  # text stays text


class Still(Figure):  # type: ignore[misc]
    """A matplotlib Figure that a notebook's cell shows."""

    def _repr_png_(self) -> bytes:
        from io import BytesIO

        picture = BytesIO()
        self.savefig(picture, format="png", dpi=2 * DPI)
        return picture.getvalue()


def still(plots: Any, name: str, *choice: str) -> Still:
    """A figure of `study.plot` as a matplotlib Figure.

    Raises:
        InputError: no such figure, or it has nothing to draw.
    """
    figures = names(plots)
    if name not in figures:
        raise InputError(f"no figure {name!r}; {nearest(name, figures)}")
    try:
        model = getattr(plots, name)(*choice)
    except ValueError as error:
        raise InputError(str(error)) from None
    return drawn(model)


def save(plots: Any, folder: Path, format: str) -> list[Path]:
    """Every figure that has something to draw as a file; the paths.

    Raises:
        InputError: no such format, or the folder cannot be written.
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r}: unknown; {nearest(format, FORMATS)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None
    files = []
    for name in names(plots):
        for label, choice in plots.choices(name):
            path = folder / f"{'-'.join([name, *([label] if label else [])])}.{format}"
            with mpl.rc_context(WORDS):
                still(plots, name, *choice).savefig(path, dpi=2 * DPI, metadata={"Date": None} if format == "svg" else None)
            files.append(path)
    return files
