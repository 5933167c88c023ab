"""Margins: how closely the reference decides in general, and where its text is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from decodedrift.report.figures import base
from decodedrift.report.figures.base import Figure, Keys

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

POINTS = 240  # of a distribution over all positions
MARGINS = ("choice_margin", "logit_margin_reference")  # the strategy's own; of raw logits in runs from before it
EVERYWHERE = "all positions"
KEYS = ["strategy", "seed", "prompt_id", "position"]


def margins(study: Study, strategy: str | None = None, *, notebook: bool = False) -> Figure | None:
    """Cumulative distributions of the reference's margin: all forced positions, and those of first divergences."""
    forced = study.positions[(study.positions["role"] == "candidate") & (study.positions["strategy"] != "text")]
    margin = next((m for m in MARGINS if m in forced and forced[m].notna().any()), MARGINS[-1])
    forced = forced[forced[margin].notna()]
    choices = base.strategies(study, forced["strategy"], strategy)
    if not choices:
        return None
    made = base.plot(
        "margin of the reference's choice (nats)", "share at or below", notebook=notebook,
        x_axis_type="log", x_range=base.visible_range(range_padding=0.02), y_range=base.fixed(0, 1.02),
    )  # fmt: skip
    colours = base.colours(study)
    renderers: dict[str, list[Any]] = {}
    for choice in choices:
        part = forced[forced["strategy"] == choice]
        everywhere = part.drop_duplicates(KEYS)
        grey = _curve(made, everywhere[margin], choice, EVERYWHERE, ("soft", "solid"), choices)
        renderers.setdefault(EVERYWHERE, []).append(grey)
        for candidate, found in at_divergences(study, part).groupby("candidate", sort=False):
            look = colours.get(candidate, ("s0", "solid"))
            curve = _curve(made, found[margin], choice, candidate, look, choices)
            # a step line of a single point is nothing to see
            points = made.scatter(
                "_x", "share", source=curve.data_source, size=5, name=curve.name
            )  # one alone has no line
            base.paint(points.glyph, fill_color=look[0], line_color=look[0])
            base.belongs(points, Keys(choice, candidate), choices[0])
            renderers.setdefault(candidate, []).extend([curve, points])
    base.hover(made, [r for found in renderers.values() for r in found], [
        ("", "$name"), ("margin", f"@{margin}{{%.4g}}"), ("share", "@share{%.3f}"),
    ], mode="mouse", line_policy="nearest")  # fmt: skip
    if notebook:
        base.legend(made, renderers)
    entries = [(n, *colours.get(n, ("soft", "solid")), n) for n in renderers]
    most = int(forced.groupby("strategy").size().max())
    thinned = f"Curves of more than {POINTS} positions are drawn at {POINTS} of them." if most > POINTS else ""
    return Figure(made, choices, entries, "positions/", thinned)


def at_divergences(study: Study, forced: pd.DataFrame) -> pd.DataFrame:
    """The forced positions at which a candidate left the reference."""
    parted = study.divergences[(study.divergences["role"] == "candidate") & (study.divergences["diverged"] == 1)]
    keys = ["candidate", *KEYS]
    where = parted.rename(columns={"first_divergence": "position"})[keys].dropna()
    return forced.merge(where, on=keys)


def _curve(
    made: Any, found: pd.Series, choice: str, name: str, look: tuple[str, str], choices: list[str]
) -> Any:  # fmt: skip
    """The share of these positions whose margin is at most x, at each of them or at evenly many."""
    values = np.sort(found.to_numpy("float64"))
    shares = np.arange(1, len(values) + 1) / max(1, len(values))
    kept: Any = np.unique(np.linspace(0, len(values) - 1, min(len(values), POINTS)).astype(int)) if len(values) else []
    frame = pd.DataFrame({str(found.name): values[kept], "share": shares[kept]})
    keys = Keys(choice, name, {"strategy": choice, "positions": "all" if name == EVERYWHERE else f"at t* of {name}"})
    held = base.source(frame, keys, [str(found.name), "share"], x=base.positive(frame[str(found.name)]))
    line = made.step(x="_x", y="share", source=held, mode="after", line_width=2.5 if name == EVERYWHERE else 2,
                     line_dash=look[1])  # fmt: skip
    base.paint(line.glyph, line_color=look[0])
    line.name = base.label(name) + ("" if name == EVERYWHERE else ", at divergences")
    return base.belongs(line, keys, choices[0])
