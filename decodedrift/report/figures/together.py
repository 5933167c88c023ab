"""Figures of one section: under one switch and one legend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.report.figures.curves import Curves


def together(
    plots: Mapping[str, tuple[str, Curves]], heading: str, lead: str, folded: bool = False
) -> dict[str, Any] | None:
    """What a page's section of figures needs; None where there is nothing to draw or to say.

    Args:
        plots: by the figure's name its caption, and the figure. lead: what to see in them.
    """
    drawn = {name: (caption, plot.figure()) for name, (caption, plot) in plots.items()}
    figures = {name: (caption, figure) for name, (caption, figure) in drawn.items() if figure is not None}
    scarce = " ".join(plot.scarce for _, plot in plots.values() if plot.scarce)
    if not figures and not scarce:
        return None
    choices = dict.fromkeys(choice for _, figure in figures.values() for choice in figure.choices)
    entries = {entry[3]: entry for _, figure in figures.values() for entry in figure.entries}
    return {
        "heading": heading, "lead": lead if figures else "", "template": "figures.html.j2", "figures": figures,
        "choices": list(choices), "entries": list(entries.values()), "folded": folded, "scarce": scarce,
    }  # fmt: skip
