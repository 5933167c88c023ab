"""How the error grows with position along the reference's tokens: mean KL, and the logit gap's median and spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.report.figures import base
from decodedrift.report.figures.base import Figure, Keys

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

MIDDLE, LOW, HIGH = (f"logit_gap_rms_{name}" for name in ("median", "p10", "p90"))


def kl(study: Study, strategy: str | None = None, *, notebook: bool = False) -> Figure | None:
    """Mean KL by position from growth.csv, the noise floor dotted."""
    return _figure(study, strategy, notebook, "mean KL (nats)", "kl_mean", None)


def gap(study: Study, strategy: str | None = None, *, notebook: bool = False) -> Figure | None:
    """Median rms logit gap by position from growth.csv with p10 to p90, the noise floor dotted."""
    return _figure(study, strategy, notebook, "rms logit gap (nats)", MIDDLE, (LOW, HIGH))


def _figure(
    study: Study, strategy: str | None, notebook: bool, label: str, value: str, band: tuple[str, str] | None
) -> Figure | None:
    table = getattr(study, "growth", None)
    if table is None or not len(table):
        return None
    table = table[table["role"].isin(["candidate", "floor"]) & (table[value] > 0).groupby(
        [table[c] for c in ("role", "strategy", "candidate")]).transform("any")]  # fmt: skip
    choices = base.strategies(study, table["strategy"], strategy)
    if not choices:
        return None
    found = [
        (*key, part.sort_values("position"))
        for key, part in table.groupby(["role", "strategy", "candidate"], sort=False)
        if key[1] in choices
    ][: base.MOST_SERIES]
    made = base.plot("position (reference's tokens)", label, notebook=notebook, y_axis_type="log",
                     x_range=base.visible_range(range_padding=0.0), y_range=base.visible_range())  # fmt: skip
    columns = ["position", "n", value, *(band or ())]
    colours, steps = base.colours(study), [1]
    renderers: dict[str, list[Any]] = {}
    lines = []
    for role, choice, candidate, part in found:
        drawn, step = base.thin(part, len(found), len(columns))
        steps.append(step)
        made_here = _series(made, drawn, (role, choice, candidate), columns, value, band, colours)
        lines.append(made_here[-1])
        label_of = candidate if role == "candidate" else FLOOR
        renderers.setdefault(label_of, []).extend(made_here)
        for renderer in made_here:
            base.belongs(renderer, Keys(choice, label_of), choices[0])
    rows = [("", "$name"), ("position", "@position"), (label, f"@{value}{{%.4g}}"), ("traces", "@n")]
    if band:
        rows.insert(3, ("p10 – p90", f"@{LOW}{{%.4g}} – @{HIGH}{{%.4g}}"))
    base.hover(made, lines, rows, mode="mouse", line_policy="nearest")
    if notebook:
        base.legend(made, renderers)
    order = sorted(renderers, key=lambda name: name == FLOOR)
    entries = [(n, *colours.get(n, ("soft", "dotted")), n) for n in order]
    thinned = f"Every {max(steps)}th position is drawn." if max(steps) > 1 else ""
    return Figure(made, choices, entries, "growth.csv", thinned)


FLOOR = "noise floor"


def _series(
    made: Any, drawn: pd.DataFrame, who: tuple[str, str, str], columns: list[str], value: str,
    band: tuple[str, str] | None, colours: dict[str, tuple[str, str]],
) -> list[Any]:  # fmt: skip
    """The band and the line of one candidate, or the dotted line of a noise floor in its type's colour."""
    role, choice, candidate = who
    floor = role == "floor"
    named = str(drawn["reference"].iloc[0]) if floor else candidate
    colour, dash = colours.get(named, ("soft", "solid"))
    keys = Keys(choice, candidate, {"strategy": choice, "candidate": candidate})
    hidden: dict[str, Any] = {"y": base.positive(drawn[value])}
    if band and not floor:
        hidden |= {"low": base.positive(drawn[band[0]]), "high": base.positive(drawn[band[1]])}
    held = base.source(drawn, keys, columns, **hidden)
    found = []
    if band and not floor:
        area = made.varea(x="position", y1="_low", y2="_high", source=held, fill_alpha=0.13)
        found.append(base.paint(area.glyph, fill_color=colour) and area)
    line = made.line(x="position", y="_y", source=held, line_width=1.3 if floor else 2,
                     line_dash="dotted" if floor else dash)  # fmt: skip
    base.paint(line.glyph, line_color=colour)
    line.name = base.label(candidate) + (" (noise floor)" if floor else "")
    return [*found, line]
