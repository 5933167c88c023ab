"""Gap against swing at each first divergence: how close the choice was, and how large the error that turned it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from bokeh.models import Slope, Span, TapTool

from decodedrift.report.figures import base
from decodedrift.report.figures.base import Figure, Keys
from decodedrift.report.tokenview import case_link

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

POINTS = 1500
COLUMNS = ["candidate", "strategy", "seed", "prompt_id", "first_divergence", "reference_gap", "swing"]
TOKENS = ["reference_token", "candidate_token"]
MARKERS = {"near_tie": "circle", "shift": "triangle", "truncation": "square", "nonfinite": "x", "uncoupled": "diamond"}


def gaps(
    study: Study, candidate: str | None = None, *, notebook: bool = False, texts: bool = True
) -> Figure | None:  # fmt: skip
    """reference_gap against swing, log-log, a point a first divergence, by cause; `texts`: with the tokens."""
    rows = study.divergences
    kept = (rows["role"] == "candidate") & (rows["diverged"] == 1) & (rows["cause"] != "search")
    kept &= (rows["reference_gap"] > 0) & (rows["swing"] > 0)
    found = rows[kept]
    if candidate is not None:
        found = found[found["candidate"] == candidate]
    if not len(found):
        return None
    drawn = _most(found)
    made = base.plot("reference gap (nats)", "swing (nats)",
                     notebook=notebook, x_axis_type="log", y_axis_type="log", height=380)  # fmt: skip
    equal = base.paint(Slope(gradient=1, y_intercept=0, line_width=1, line_dash="dashed"), line_color="strong")
    made.add_layout(equal)
    below = float(study.plan.get("near_tie_below", 0.1))
    if below > 0:
        made.add_layout(base.paint(Span(location=below, dimension="height", line_dash="dotted"), line_color="soft"))
    names = [str(v["name"]) for v in study.plan.get("candidates", ())]
    choices = [n for n in names if n in set(drawn["candidate"])]
    renderers: dict[str, list[Any]] = {}
    for name in choices:
        for cause, part in drawn[drawn["candidate"] == name].groupby("cause", sort=False):
            renderers.setdefault(cause, []).append(_points(made, part, name, cause, texts))
    told = [("", "@candidate · @strategy · @prompt_id"), ("t*", "@first_divergence"),
            ("gap", "@reference_gap{%.4g}"), ("swing", "@swing{%.4g}")]  # fmt: skip
    if texts:
        told.insert(2, ("tokens", "@reference_token → @candidate_token"))
    base.hover(made, [r for held in renderers.values() for r in held], told)
    made.add_tools(TapTool(renderers=[r for held in renderers.values() for r in held]))
    if notebook:
        base.legend(made, {cause.replace("_", " "): held for cause, held in renderers.items()})
    entries = [(cause.replace("_", " "), cause if cause in MARKERS else "soft", "dot", cause) for cause in renderers]
    left = len(found) - len(drawn)
    said = [f"{left:,} points are not drawn; the largest gaps are."] if left else []
    off = int((rows["role"].eq("candidate") & rows["diverged"].eq(1)).sum()) - int(kept.sum())
    if off and candidate is None:
        have = "divergence has" if off == 1 else "divergences have"
        said.append(f"{off:,} {have} no place here: beam search, or a gap that is empty or 0.")
    return Figure(made, ["", *choices] if len(choices) > 1 else [], entries, "divergences.csv", " ".join(said))


def _most(found: pd.DataFrame) -> pd.DataFrame:
    """All, or the largest gaps and an even choice of the rest."""
    if len(found) <= POINTS:
        return found
    order = found.sort_values("reference_gap", ascending=False, kind="stable")
    rest = order.iloc[POINTS // 2 :]
    return pd.concat([order.iloc[: POINTS // 2], rest.iloc[:: -(-len(rest) // (POINTS // 2))]])


def _points(made: Any, part: pd.DataFrame, candidate: str, cause: str, texts: bool) -> Any:
    """The points of a candidate's cause; a choice of `all` shows every candidate's."""
    held = base.source(part.assign(cause=cause), Keys(candidate, cause, {"cause": cause}),
                       COLUMNS + (TOKENS if texts else []),
                       link=[case_link(row) for row in part.itertuples()])  # fmt: skip
    points = made.scatter("reference_gap", "swing", source=held, size=8, marker=MARKERS.get(cause, "circle"),
                          fill_alpha=0.55, line_width=1)  # fmt: skip
    colour = cause if cause in MARKERS else "soft"
    base.paint(points.glyph, fill_color=colour, line_color=colour)
    points.nonselection_glyph = None
    base.belongs(points, Keys(candidate, cause), candidate)
    return points
