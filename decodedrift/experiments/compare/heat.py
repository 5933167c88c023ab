"""The summary as heat tables, candidate x strategy: one for each quantity, the controls below the candidates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decodedrift.report.heat import LEVELS, HeatMap, Spot, level
from decodedrift.report.numbers import absent, exactly, percentage, position, significant
from decodedrift.report.texts import brief

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

MOST_ROWS, MOST_COLUMNS = 40, 12
DISTANCES = ("kl_mean", "top1_agreement", "ln_ppl_ratio")  # of texts that were read; empty where no candidate reads


@dataclass(frozen=True)
class Quantity:
    """How one column of summary.csv becomes a cell."""

    name: str
    label: str
    meaning: str
    spot: Callable[[Any], Spot]


def heat_maps(study: Study) -> list[HeatMap]:
    """A map for every quantity that the summary has; of a distance that it has for nobody there is none."""
    table = study.summary
    if not len(table):
        return []
    horizon = float(study.plan.get("max_new_tokens") or 1)
    there = [name for name in table if name not in DISTANCES or table[name].notna().any()]
    shown = [q for q in quantities(horizon) if q.name in there]
    columns = list(dict.fromkeys(table["strategy"]))[:MOST_COLUMNS]
    parts = table.groupby(["role", "candidate"], sort=False)
    cells = [(role, candidate, list(part.itertuples())) for (role, candidate), part in parts]
    return [_map(cells, quantity, columns) for quantity in shown]


def in_a_cell(study: Study) -> list[HeatMap]:
    """What a notebook shows: divergence rates and mean KL."""
    return [m for m in heat_maps(study) if m.name in ("divergence_rate", "kl_mean")]


def quantities(horizon: float) -> list[Quantity]:
    """What the switch chooses between."""
    return [
        Quantity("divergence_rate", "Answers that differ", "Share of answers that differ from the reference's, with "
                 "its 95 % interval; below, what noise alone does.", _rate),
        Quantity("half_life", "Half-life", "The word by which half of the answers have left the reference.",
                  lambda row: _half_life(row, horizon)),
        Quantity("kl_mean", "Mean KL", "KL(reference ‖ candidate) per token in nats, on the reference's tokens, with "
                  "its 95 % interval. Colour: logarithmic, 10⁻⁷ to 0.1.", _kl),
        Quantity("top1_agreement", "Same top token", "Share of positions at which both rank the same token first, on "
                 "the reference's tokens.", _top1),
        Quantity("ln_ppl_ratio", "Perplexity, ln of ratio",
                 "ln of the candidate's perplexity over the reference's, on the "
                 "reference's tokens, with its 95 % interval.", _ratio),
    ]  # fmt: skip


def _map(cells: list[tuple[str, str, list[Any]]], quantity: Quantity, columns: list[str]) -> HeatMap:
    heat = HeatMap(quantity.name, quantity.label, quantity.meaning, [brief(c, 28) for c in columns])
    for role, candidate, part in cells:
        spots = {row.strategy: quantity.spot(row) for row in part}
        rows = heat.rows if role == "candidate" else heat.controls
        note = {"self": "the reference again", "floor": "noise floor"}.get(role, "")
        if len(rows) < MOST_ROWS:
            rows.append((brief(candidate, 40), note, [spots.get(c) for c in columns]))
    return heat


def _rate(row: Any) -> Spot:
    share, low, high = row.divergence_rate, row.divergence_rate_low, row.divergence_rate_high
    values = {"diverged": row.diverged, "traces": row.traces, "divergence_rate": share, "divergence_rate_low": low,
              "divergence_rate_high": high}  # fmt: skip
    below = "" if absent(low) else f"{percentage(low).removesuffix(' %')} – {percentage(high)}"
    return Spot(percentage(share), below, exactly(values), level(share))


def _half_life(row: Any, horizon: float) -> Spot:
    value = row.half_life
    if absent(value):
        return Spot("n/a" if not row.traces else "never" if not row.diverged else "not reached", "", "", 0)
    low, high = getattr(row, "half_life_low", math.nan), getattr(row, "half_life_high", math.nan)
    ends = [position(end, "").text if not absent(end) else "…" for end in (low, high)]
    below = "" if absent(low) and absent(high) else " – ".join(ends)
    exact = exactly({"half_life": value, "half_life_low": low, "half_life_high": high})
    return Spot(position(value, "half_life").text, below, exact, level(1 - value / horizon))


def _kl(row: Any) -> Spot:
    ends = getattr(row, "kl_mean_low", math.nan), getattr(row, "kl_mean_high", math.nan)
    exact = exactly({"kl_mean": row.kl_mean, "kl_mean_low": ends[0], "kl_mean_high": ends[1]})
    return Spot(significant(row.kl_mean), _range(*ends), exact, _log_level(row.kl_mean, 1e-7, 0.1))


def _top1(row: Any) -> Spot:
    value = row.top1_agreement
    differing = math.nan if absent(value) else 1 - value
    return Spot(percentage(value), "", exactly({"top1_agreement": value}), _log_level(differing, 1e-4, 0.3))


def _ratio(row: Any) -> Spot:
    value = row.ln_ppl_ratio
    ends = getattr(row, "ln_ppl_ratio_low", math.nan), getattr(row, "ln_ppl_ratio_high", math.nan)
    exact = exactly({"ln_ppl_ratio": value, "ln_ppl_ratio_low": ends[0], "ln_ppl_ratio_high": ends[1]})
    return Spot(significant(value, signed=True), _range(*ends), exact, _log_level(abs(value), 1e-5, 0.1))


def _range(low: Any, high: Any) -> str:
    return "" if absent(low) or absent(high) else f"{significant(low)} – {significant(high)}"


def _log_level(value: Any, low: float, high: float) -> int:
    if absent(value) or value <= 0:
        return 0
    if math.isinf(value):
        return LEVELS
    return level((math.log10(value) - math.log10(low)) / (math.log10(high) - math.log10(low)))
