"""One case as a figure: both texts in lines of tokens, one above the other, with the alternatives on hover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from bokeh.core.properties import value
from bokeh.models import ColumnDataSource

from decodedrift.report.figures import base
from decodedrift.report.palette import LIGHT
from decodedrift.report.texts import brief, shown

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

WIDTH = 10  # tokens of a line
MOST = 400
READ = [  # of a position
    "role", "candidate", "strategy", "seed", "prompt_id", "position", "logit_margin_reference",
    "logit_margin_candidate", "kl",
]  # fmt: skip
MARGINS = (2, 1, 0.3, 0.1, 0.03, 0.01)  # below each of these a token is drawn hotter


def tokens(study: Study, prompt_id: str, candidate: str, strategy: str, seed: int = 0) -> Any:
    """A Bokeh plot: for every line of positions the reference's tokens above the candidate's.

    Raises:
        ValueError: no such case; the message names what there is.
    """
    rows = study.divergences[study.divergences["role"] == "candidate"]
    for column, choice in (("prompt_id", prompt_id), ("candidate", candidate), ("strategy", strategy), ("seed", seed)):
        choices = list(dict.fromkeys(rows[column]))
        rows = rows[rows[column] == choice]
        if not len(rows):
            listed = ", ".join(map(str, choices[:20]))
            raise ValueError(f"no compared trace with {column} {choice!r}; choices: {listed}")
    row = next(rows.itertuples())
    at = None if pd.isna(row.first_divergence) else int(row.first_divergence)
    sides = [_ids(study, ("reference", row.reference), row), _ids(study, ("candidate", candidate), row)]
    length = min(MOST, max(map(len, sides)))
    lines = length // WIDTH + 1
    plot = base.plot("", "", height=90 + 74 * lines, notebook=True, x_range=(-0.05, WIDTH + 0.05),
                     y_range=(3 * lines, -0.5))  # fmt: skip
    plot.axis.visible = plot.grid.visible = False
    plot.title.text = shown(brief(f"{prompt_id} · {strategy} · {candidate} below {row.reference}", 90))
    lanes = [_lane(study, row, side, ids[:MOST], at) for side, ids in enumerate(sides)]
    source = ColumnDataSource(pd.concat(lanes, ignore_index=True).to_dict("list"))
    boxes = plot.rect("x", "y", 0.97, 0.86, source=source, fill_color=LIGHT["heat"], fill_alpha="heat",
                      line_color="edge", line_width="width")  # fmt: skip
    plot.text("left", "y", "label", source=source, text_font=value(base.FONT), text_font_size="11.5px",
              text_baseline="middle", text_color=LIGHT["ink"], text_alpha="ink")  # fmt: skip
    base.hover(plot, [boxes], [
        ("", "@variant, position @position"), ("token", "@token (id @token_id)"), ("margin", "@margin{%.4g}"),
        ("KL", "@kl{%.4g}"), ("top", "@top"),
    ])  # fmt: skip
    return plot


def _ids(study: Study, who: tuple[str, str], row: Any) -> list[int]:
    traces = study.traces
    trace = traces[(traces["role"] == who[0]) & (traces["variant"] == who[1]) & (traces["strategy"] == row.strategy)
                   & (traces["seed"] == row.seed) & (traces["prompt_id"] == row.prompt_id)]  # fmt: skip
    return [int(i) for text in trace["token_ids"].head(1) if isinstance(text, str) for i in text.split()]


def _lane(study: Study, row: Any, side: int, ids: list[int], at: int | None) -> pd.DataFrame:
    """The tokens of one side with their places, colours and tooltips."""
    names = {int(t.token_id): str(t.token) for t in study.tokens[study.tokens["token_id"].isin(ids)].itertuples()}
    keys = {"candidate": row.candidate, "strategy": row.strategy, "seed": row.seed, "prompt_id": row.prompt_id}
    read = study.columns_of("positions", READ, [row.prompt_id])
    positions, tops = (_case(frame, keys) for frame in (read, study.alternatives_of([row.prompt_id])))
    positions = positions.set_index("position")
    variant = row.candidate if side else row.reference
    tops = tops[(tops["variant"] == variant) & (tops["pass"] == "generated")]
    boxes = []
    for i, token_id in enumerate(ids):
        shared = i in positions.index and (side == 0 or at is None or i <= at)
        text = shown(names.get(token_id, f"⟨{token_id}⟩")).replace("\n", "⏎")
        margin = positions.at[i, f"logit_margin_{'candidate' if side else 'reference'}"] if shared else np.nan
        hot = sum(margin < bound for bound in MARGINS)
        boxes.append({
            "x": i % WIDTH + 0.5, "left": i % WIDTH + 0.06, "y": i // WIDTH * 3 + side + 0.3, "position": i,
            "label": brief(text, 10), "token": brief(text, 60), "token_id": token_id, "variant": base.label(variant),
            "margin": margin, "kl": positions.at[i, "kl"] if shared else np.nan, "heat": 0.1 * hot,
            "ink": 0.5 if at is not None and i < at else 1.0, "edge": LIGHT["ink"] if i == at else LIGHT["line"],
            "width": 2 if i == at else 1, "top": _listed(tops[tops["position"] == i], study),
        })  # fmt: skip
    columns = ["x", "left", "y", "position", "label", "token", "token_id", "variant", "margin", "kl", "heat", "ink",
               "edge", "width", "top"]  # fmt: skip
    return pd.DataFrame(boxes, columns=columns)


def _case(frame: pd.DataFrame, keys: dict[str, Any]) -> pd.DataFrame:
    case = frame["role"] == "candidate"
    for column, key in keys.items():
        case &= frame[column] == key
    return frame[case]


def _listed(tops: pd.DataFrame, study: Study) -> str:
    names = dict(zip(study.tokens["token_id"], study.tokens["token"], strict=True))
    shares = zip(tops["token_id"], tops["logprob"])
    texts = [f"{shown(brief(str(names.get(t, t)), 20))} {np.exp(p):.1%}" for t, p in shares]
    return "  ".join(texts).replace("\n", "⏎")
