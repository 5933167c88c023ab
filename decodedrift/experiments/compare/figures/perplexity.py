"""Perplexity: ln of the candidate's over the reference's, paired, on given texts and on the reference's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from bokeh.models import FixedTicker, PlainText, Span

from decodedrift.numerics.intervals import Z95
from decodedrift.report.figures import base
from decodedrift.report.figures.base import Figure, Keys

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

MOST = 60
COLUMNS = ["tokens_of", "ln_ppl_ratio", "ln_ppl_ratio_se"]


def perplexity(study: Study, *, notebook: bool = False) -> Figure | None:
    """A row per text (or strategy: the reference's own continuations) and candidate: the ratio and 1.96 errors."""
    rows = _rows(study)
    if not len(rows):
        return None
    drawn = rows.head(MOST)
    names = {v: i for i, v in enumerate(dict.fromkeys(drawn["candidate"]))}
    groups = {g: i for i, g in enumerate(dict.fromkeys(drawn["tokens_of"]))}
    height = 70 + len(groups) * (16 + 17 * len(names))
    made = base.plot("ln PPL ratio, 95 % interval", "", notebook=notebook,
                     height=height, y_range=base.fixed(len(groups), 0))  # fmt: skip
    made.add_layout(base.paint(Span(location=0, dimension="height", line_width=1), line_color="soft"))
    colours = base.colours(study)
    renderers: dict[str, list[Any]] = {}
    for candidate, part in drawn.groupby("candidate", sort=False):
        place = (names[candidate] + 1) / (len(names) + 1)
        keys = Keys("", candidate, {"candidate": candidate})
        half = Z95 * part["ln_ppl_ratio_se"]
        held = base.source(part, keys, COLUMNS, y=[groups[g] + place for g in part["tokens_of"]],
                           low=(part["ln_ppl_ratio"] - half).to_numpy("float64"),
                           high=(part["ln_ppl_ratio"] + half).to_numpy("float64"))  # fmt: skip
        colour, _ = colours.get(candidate, ("s0", "solid"))
        bar = made.segment(x0="_low", x1="_high", y0="_y", y1="_y", source=held, line_width=2)
        dot = made.scatter("ln_ppl_ratio", "_y", source=held, size=8)
        base.paint(bar.glyph, line_color=colour)
        base.paint(dot.glyph, fill_color=colour, line_color=colour)
        dot.name = base.label(candidate)
        renderers[candidate] = [base.belongs(bar, keys, ""), base.belongs(dot, keys, "")]
    _label(made, groups, set(drawn.loc[drawn["own"], "tokens_of"]))
    base.hover(made, [held[1] for held in renderers.values()], [
        ("", "$name on @tokens_of"), ("ln ratio", "@ln_ppl_ratio{%.4g}"), ("standard error", "@ln_ppl_ratio_se{%.3g}"),
        ("95 %", "@_low{%.4g} … @_high{%.4g}"),
    ])  # fmt: skip
    if notebook:
        base.legend(made, renderers)
    entries = [(n, *colours.get(n, ("s0", "solid")), n) for n in renderers]
    thinned = f"The first {MOST} of {len(rows)} rows." if len(rows) > MOST else ""
    return Figure(made, [], entries, "perplexity.csv and distribution.csv", thinned)


def _rows(study: Study) -> pd.DataFrame:
    """Texts from perplexity.csv, then each strategy's own continuations from distribution.csv."""
    texts = study.perplexity
    found = []
    if len(texts):
        part = texts[texts["ln_ppl_ratio"].notna()]
        part = part.rename(columns={"variant": "candidate", "text": "tokens_of"})
        found.append(part[["candidate", *COLUMNS]].assign(own=False))
    own = study.distribution
    if len(own):
        part = own[(own["role"] == "candidate") & (own["bucket"] == "all") & (own["strategy"] != "text")]
        part = part[part["ln_ppl_ratio"].notna()]
        part = part.rename(columns={"strategy": "tokens_of"})
        found.append(part[["candidate", *COLUMNS]].assign(own=True))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["candidate", *COLUMNS])


def _label(made: Any, groups: dict[str, int], own: set[str]) -> None:
    """Names at the middle of each group, and lines between the groups; `own`: the reference's continuations."""
    made.yaxis.ticker = FixedTicker(ticks=[i + 0.5 for i in groups.values()])
    # PlainText: a name between dollar signs would be taken for TeX
    labels = {
        i + 0.5: PlainText(text=base.label(name, 22) + (", own text" if name in own else ""))
        for name, i in groups.items()
    }
    made.yaxis.major_label_overrides = labels
    made.yaxis.major_tick_line_color = None
    made.ygrid.ticker = FixedTicker(ticks=list(groups.values()))
    made.yaxis.axis_line_color = None
