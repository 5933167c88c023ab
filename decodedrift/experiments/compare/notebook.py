"""A Study in a notebook's cell: its verdict and the heat table of divergence rates, escaped and without script."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decodedrift.experiments.compare.heat import heat_maps
from decodedrift.experiments.compare.sections.verdict import sentences
from decodedrift.report.html import environment
from decodedrift.report.palette import LIGHT

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study


def snippet(study: Study) -> str:
    """HTML with inline styles alone: a notebook keeps no style sheet and no script of an output it does not trust."""
    maps = [m for m in heat_maps(study) if m.name in ("divergence_rate", "kl_mean")]
    red, green, blue = (int(LIGHT["heat"][i : i + 2], 16) for i in (1, 3, 5))
    first, rest = sentences(study)
    return environment().get_template("notebook.html.j2").render(
        first=first, rest=rest, maps=maps, rgb=f"{red},{green},{blue}"
    )  # fmt: skip
