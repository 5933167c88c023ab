"""After a first divergence: the share of equal tokens, by distance from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.report.figures import base
from decodedrift.report.figures.base import Figure, Keys

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

COLUMNS = ["lag", "n", "agreement"]
INJECTED = ", one token replaced"  # the reference with itself after such a replacement: no numerical error


def _look(colours: dict[str, tuple[str, str]], name: str) -> tuple[str, str]:
    """A candidate's colour and dash; dashed where a token was replaced."""
    colour, dash = colours.get(name.removesuffix(INJECTED), ("soft", "solid"))
    return (colour, "dashed") if name.endswith(INJECTED) else (colour, dash)


def after(study: Study, strategy: str | None = None, *, notebook: bool = False) -> Figure | None:
    """Agreement by lag from after.csv; None where nothing diverged."""
    table = getattr(study, "after", None)
    if table is None or not len(table):
        return None
    table = table[table["role"].isin(["candidate", "injected"])]
    choices = base.strategies(study, table["strategy"], strategy)
    if not choices:
        return None
    made = base.plot("tokens after the first divergence", "share of equal tokens", notebook=notebook, height=300,
                     x_range=base.visible_range(range_padding=0.0), y_range=base.fixed(0, 1.02))  # fmt: skip
    groups = table.groupby(["strategy", "role", "candidate"], sort=False)
    found = [(s, f"{c}{INJECTED if role == 'injected' else ''}", p) for (s, role, c), p in groups if s in choices]
    found = found[: base.MOST_SERIES]
    colours, steps = base.colours(study), [1]
    renderers: dict[str, list[Any]] = {}
    for choice, candidate, part in found:
        drawn, step = base.thin(part.sort_values("lag"), len(found), len(COLUMNS))
        steps.append(step)
        colour, dash = _look(colours, candidate)
        keys = Keys(choice, candidate, {"strategy": choice, "candidate": candidate})
        line = made.line("lag", "agreement", source=base.source(drawn, keys, COLUMNS), line_width=2, line_dash=dash)
        base.paint(line.glyph, line_color=colour)
        line.name = base.label(candidate)
        renderers.setdefault(candidate, []).append(base.belongs(line, keys, choices[0]))
    base.hover(made, [r for held in renderers.values() for r in held], [
        ("", "$name"), ("lag", "@lag"), ("equal", "@agreement{%.3f}"), ("pairs", "@n"),
    ], mode="mouse", line_policy="nearest")  # fmt: skip
    if notebook:
        base.legend(made, renderers)
    entries = [(n, *_look(colours, n), n) for n in renderers]
    thinned = f"Every {max(steps)}th lag is drawn." if max(steps) > 1 else ""
    return Figure(made, choices, entries, "after.csv", thinned)
