"""Sentences on noise: what another batch layout does to a candidate, and whether its error is more than a cast's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.draws import uncoupled
from decodedrift.experiments.compare.folds.certificate import AT, SIDES, beside_casts, noise_ratio
from decodedrift.numerics.intervals import for_all
from decodedrift.report.phrases import number

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

VANISHING = 1e-20  # nats; a float64 floor is nothing to speak of
MANY = 1000  # times the noise: more is told as many
WIDEST, LEAST_OVERLAP = 1.0, 0.99  # of the error beside a plain cast's, as AWS Neuron's accuracy debugger bounds them


def floor(study: Study) -> list[str]:
    """The floor of every candidate; nothing of what was not measured."""
    table, anew, parts = study.summary, uncoupled(study.plan), []
    if not len(floors := table[table["role"] == "floor"]):
        return []
    positions = study.columns_of("positions", [*SIDES, *AT, "kl"])
    for name, cells in floors.groupby("reference", sort=False):
        noise = noise_ratio(positions, str(name))
        if not noise.floor > VANISHING:
            continue
        shared = cells[~cells["strategy"].isin(anew)]  # others draw anew, which is not arithmetic
        parted, traces = int(shared["diverged"].sum()), int(shared["traces"].sum())
        left = f"leaves its own text in {parted} of {traces} traces" if traces else "reading the same text"
        parts.append(f"{visible(str(name))} {left} (mean KL {number(noise.floor)}{_times(*noise.times)})")
    lead = "Noise floor, a candidate against itself in another batch layout"
    return [f"{lead}: {'; '.join(parts)}."] if parts else []


def _times(value: float, low: float, high: float) -> str:
    """The KL to the reference as a multiple of the floor's; nothing where there is none."""
    known = low == low
    if value > MANY:
        times = f"over {MANY:,} times" + (f" (at least {number(low)})" if known and low <= MANY else "")
    else:
        times = f"{number(value)} times" + (f" ({number(low)} to {number(high)})" if known else "")
    return f"; to the reference {times} that" if value > 0 else ""


def outside(study: Study) -> list[str]:
    """Candidates whose error is wider than a plain cast's of their type, or lies elsewhere, by their intervals.

    Over all strategies, and by intervals that hold for all of the run's candidates at once: of so many looks at layouts
    that do nothing one would lie above 1 by chance.
    """
    known = {name: row for name, row in beside_casts(study).items() if not math.isnan(row["sigma_ratio_low"])}
    said = []
    for name, row in known.items():
        wider = float(for_all(np.array([row["prompts"]]), len(known))[0])
        spread, overlap = row["sigma_ratio"], row["bhattacharyya"]
        low, high = (spread * (row[f"sigma_ratio_{end}"] / spread) ** wider for end in ("low", "high"))
        nearest = overlap + wider * (overlap - row["bhattacharyya_low"])
        if low > WIDEST or nearest < LEAST_OVERLAP:
            shown, least, most = (f"{end:.{_decimals(low)}f}" for end in (spread, low, high))
            said.append(
                f"{visible(name)}, {shown} times its spread ({least} to {most}), overlap "
                f"{overlap:.{_decimals(overlap)}f}"
            )
    lead = "Outside the noise certificate, beside the error of a plain cast to the type"
    return [f"{lead}: {'; '.join(said)}."] if said else []


def _decimals(value: float) -> int:
    """As many that a value that is not 1 does not read as 1; two or more."""
    return next((n for n in range(2, 6) if f"{value:.{n}f}" != f"{1:.{n}f}"), 6)
