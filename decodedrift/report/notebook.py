"""A Study in a notebook's cell: its verdict and the heat table of divergence rates, escaped and without script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from decodedrift.report.html import StudyLike, jinja
from decodedrift.report.palette import LIGHT
from decodedrift.report.sections.verdict import sentences


def snippet(study: StudyLike, maps: Sequence[Any]) -> str:
    """HTML with inline styles alone: a notebook keeps no style sheet and no script of an output it does not trust."""
    red, green, blue = (int(LIGHT["heat"][i : i + 2], 16) for i in (1, 3, 5))
    first, rest = sentences(study)
    return jinja().get_template("notebook.html.j2").render(
        first=first, rest=rest, maps=maps, rgb=f"{red},{green},{blue}"
    )  # fmt: skip
