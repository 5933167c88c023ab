"""A page over many runs: a table that its headings sort, under the same rules as a run's own page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from decodedrift.report import inline
from decodedrift.report.html import jinja
from decodedrift.report.palette import DARK, LIGHT, css
from decodedrift.report.tables import Column

WIDTH, HEIGHT, EDGE = 100, 22, 2  # of a curve, in pixels


@dataclass(frozen=True)
class Entry:
    """One cell. key: what it is sorted by, empty last. href: where it leads. curve: an SVG path, `text` its words."""

    text: str
    key: str = ""
    title: str = ""
    href: str = ""
    curve: str = ""


def index(
    title: str,
    lead: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Entry]],
    skipped: Sequence[tuple[str, str]],
) -> str:
    """The whole document. skipped: folders that are not in the table, and why."""
    style = jinja().get_template("style.css.j2").render(light=Markup(css(LIGHT)), dark=Markup(css(DARK)))
    script = inline.own_script("index.js")
    page: str = jinja().get_template("index.html.j2").render(
        title=title, lead=lead, columns=columns, rows=rows, skipped=skipped, style=Markup(style), script=Markup(script),
        policy=Markup(inline.policy([script], style, "")),
    )  # fmt: skip
    return page


def curve(shares: Sequence[float]) -> str:
    """The path of a step function that begins at 0 and whose values lie in [0, 1], one a position."""
    step = WIDTH / max(1, len(shares))
    parts = [f"M{EDGE} {EDGE + HEIGHT}"]
    last = 0.0
    for position, share in enumerate(shares):
        if share != last:
            parts.append(f"H{EDGE + position * step:.1f}V{EDGE + HEIGHT * (1 - share):.1f}")
            last = share
    return "".join(parts) + f"H{EDGE + WIDTH}"
