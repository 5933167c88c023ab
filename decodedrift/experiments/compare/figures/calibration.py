"""Calibration of the flip law: of the positions it gave a chance to flip, the share that did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from bokeh.models import Slope

from decodedrift.experiments.compare.folds.prediction import LAW
from decodedrift.report.figures import base
from decodedrift.report.figures.base import Figure, Keys

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

COLUMNS = ["bin_low", "bin_high", "n", "predicted", "observed", "observed_low", "observed_high"]
LOWEST = 1e-5  # of the axes: a chance below it is as good as none


def calibration(study: Study, strategy: str | None = None, *, notebook: bool = False) -> Figure | None:
    """Observed share of flips against predicted chance, log-log, of the law that draws `survival_predicted`.

    A bin without a flip has no place on a logarithmic axis: an open triangle stands at the upper end of its interval.
    """
    table = study.flip_calibration
    table = table[(table["role"] == "candidate") & (table["law"] == LAW) & (table["predicted"] > 0)]
    choices = base.strategies(study, table["strategy"], strategy)
    if not choices:
        return None
    found = [(s, c, p) for (s, c), p in table.groupby(["strategy", "candidate"], sort=False) if s in choices]
    found = found[: base.MOST_SERIES]
    seen = pd.concat([part[["predicted", "observed", "observed_high"]] for _, _, part in found])
    floor = max(LOWEST, float(np.nanmin(seen.where(seen > 0).to_numpy("float64"))) / 3)
    made = base.plot("predicted chance of a flip", "share that flipped", notebook=notebook, x_axis_type="log",
                     y_axis_type="log", x_range=base.fixed(floor, 1.3), y_range=base.fixed(floor, 1.3))  # fmt: skip
    made.add_layout(base.paint(Slope(gradient=1, y_intercept=0, line_width=1, line_dash="dashed"), line_color="strong"))
    colours = base.colours(study)
    renderers: dict[str, list[Any]] = {}
    for choice, candidate, part in found:
        keys = Keys(choice, candidate, {"strategy": choice, "candidate": candidate, "law": LAW})
        drawn = _points(made, part.sort_values("bin_low"), keys, colours.get(candidate, ("s0", "solid"))[0], floor)
        renderers.setdefault(candidate, []).extend(base.belongs(each, keys, choices[0]) for each in drawn)
    base.hover(made, [each for held in renderers.values() for i, each in enumerate(held) if i % 3], [
        ("", "$name"), ("chance", "@bin_low – @bin_high, mean @predicted{%.3g}"), ("flipped", "@observed{%.3g}"),
        ("95 %", "@observed_low{%.3g} – @observed_high{%.3g}"), ("positions", "@n"),
    ])  # fmt: skip
    if notebook:
        base.legend(made, renderers)
    entries = [(n, *colours.get(n, ("s0", "solid")), n) for n in renderers]
    return Figure(made, choices, entries, "flip_calibration.csv, with the other laws'")


def _points(made: Any, part: pd.DataFrame, keys: Keys, colour: str, floor: float) -> list[Any]:
    """Intervals, shares above 0, and triangles where the share is 0."""
    zero = part["observed"] == 0
    drawn = {"low": np.maximum(part["observed_low"].to_numpy("float64"), floor),
             "share": base.positive(part["observed"]),
             "none": base.positive(part["observed_high"].where(zero))}  # fmt: skip
    held = base.source(part, keys, COLUMNS, **drawn)
    bars = made.segment(x0="predicted", x1="predicted", y0="_low", y1="observed_high", source=held, line_alpha=0.55)
    dots = made.scatter("predicted", "_share", source=held, size=8)
    none = made.scatter("predicted", "_none", source=held, size=8, marker="inverted_triangle", fill_alpha=0.0)
    base.paint(bars.glyph, line_color=colour)
    base.paint(dots.glyph, fill_color=colour, line_color=colour)
    base.paint(none.glyph, line_color=colour)
    dots.name = none.name = base.label(keys.series)
    return [bars, dots, none]
