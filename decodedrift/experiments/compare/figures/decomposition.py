"""The error in its parts: made at one position alone, carried by the state, and carried by the path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from bokeh.models import Span

from decodedrift.report.figures import base
from decodedrift.report.figures.base import Figure, Keys

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

FIGURES = {
    "state": ("state_compounding", "own state / reference's state"),
    "path": ("path_compounding_after", "own text / reference's text"),
}


def decomposition(study: Study, which: str, strategy: str | None = None, *, notebook: bool = False) -> Figure | None:
    """Ratios by position with 95 % intervals, from decomposition.csv; 1 is no compounding.

    which: `state`, logit error on the own KV cache over that on the reference's; `path`, KL on the candidate's text
    over that on the reference's, after t*.
    """
    table = getattr(study, "decomposition", None)
    value, label = FIGURES[which]
    if table is None or not len(table) or not (table[value] > 0).any():
        return None
    table = table[(table["role"] == "candidate") & (table[value] > 0)]
    choices = base.strategies(study, table["strategy"], strategy)
    if not choices:
        return None
    columns = ["position", value, f"{value}_low", f"{value}_high"]
    made = base.plot("position", label, notebook=notebook, y_axis_type="log", height=300,
                     x_range=base.visible_range(range_padding=0.0), y_range=base.visible_range())  # fmt: skip
    made.add_layout(base.paint(Span(location=1, dimension="width", line_dash="dashed"), line_color="soft"))
    found = [(s, c, p) for (s, c), p in table.groupby(["strategy", "candidate"], sort=False) if s in choices]
    found = found[: base.MOST_SERIES]
    renderers: dict[str, list[Any]] = {}
    steps = [1]
    for choice, candidate, part in found:
        drawn, step = base.thin(part.sort_values("position"), len(found), len(columns))
        steps.append(step)
        renderers.setdefault(candidate, []).extend(_series(made, study, drawn, (choice, candidate), columns))
        for renderer in renderers[candidate][-2:]:
            base.belongs(renderer, Keys(choice, candidate), choices[0])
    base.hover(made, [held[i] for held in renderers.values() for i in range(1, len(held), 2)], [
        ("", "$name"), ("position", "@position"), ("ratio", f"@{value}{{%.4g}}"),
        ("95 %", f"@{value}_low{{%.4g}} – @{value}_high{{%.4g}}"),
    ], mode="mouse", line_policy="nearest")  # fmt: skip
    if notebook:
        base.legend(made, renderers)
    colours = base.colours(study)
    entries = [(n, *colours.get(n, ("s0", "solid")), n) for n in renderers]
    thinned = f"Every {max(steps)}th position is drawn." if max(steps) > 1 else ""
    return Figure(made, choices, entries, "decomposition.csv", thinned)


def _series(made: Any, study: Study, drawn: pd.DataFrame, who: tuple[str, str], columns: list[str]) -> list[Any]:
    """The band and the line of a candidate."""
    choice, candidate = who
    colour, dash = base.colours(study).get(candidate, ("s0", "solid"))
    keys = Keys(choice, candidate, {"strategy": choice, "candidate": candidate})
    low, high = (base.positive(drawn[c]) for c in columns[2:])
    held = base.source(drawn, keys, columns, low=low, high=high)
    band = made.varea(x="position", y1="_low", y2="_high", source=held, fill_alpha=0.13)
    line = made.line("position", columns[1], source=held, line_width=2, line_dash=dash)
    base.paint(band.glyph, fill_color=colour)
    base.paint(line.glyph, line_color=colour)
    line.name = base.label(candidate)
    return [band, line]
