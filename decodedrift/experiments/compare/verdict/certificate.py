"""Sentences on noise: what another batch layout does to a candidate, and whether its error is more than a cast's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.folds.certificate import noise_ratio
from decodedrift.report.phrases import number

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

VANISHING = 1e-20  # nats; a float64 floor is nothing to speak of
MANY = 1000  # times the noise: more is told as many
WIDEST, LEAST_OVERLAP = 1.0, 0.99  # of the error beside a plain cast's, as AWS Neuron's accuracy debugger bounds them


def floor(study: Study) -> list[str]:
    """The floor of every candidate; nothing of what was not measured."""
    table, parts = study.summary, []
    for name, cells in table[table["role"] == "floor"].groupby("reference", sort=False):
        noise = noise_ratio(study.positions, str(name))
        if not noise.floor > VANISHING:
            continue
        parted, traces = int(cells["diverged"].sum()), int(cells["traces"].sum())
        parts.append(
            f"{visible(str(name))} leaves its own text in {parted} of {traces} traces (mean KL {number(noise.floor)}"
            f"{_times(*noise.times)})"
        )
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
    """Candidates whose error is wider than a plain cast's of their type, or lies elsewhere, by their intervals."""
    rows = study.certificate
    wide, apart = rows["sigma_ratio_low"] > WIDEST, rows["bhattacharyya_high"] < LEAST_OVERLAP
    said = []
    for name, cells in rows[wide | apart].groupby("candidate", sort=False):
        worst = cells.loc[cells["sigma_ratio"].idxmax()]
        ends = [worst[f"sigma_ratio{end}"] for end in ("", "_low", "_high")]
        value, low, high = (f"{end:.{_decimals(ends[1])}f}" for end in ends)
        overlap = worst["bhattacharyya"]
        said.append(
            f"{visible(str(name))} under {visible(str(worst['strategy']))}, {value} times its spread ({low} to "
            f"{high}), overlap {overlap:.{_decimals(overlap)}f}"
        )
    lead = "Outside the noise certificate, beside the error of a plain cast to the type"
    return [f"{lead}: {'; '.join(said)}."] if said else []


def _decimals(value: float) -> int:
    """As many that a value that is not 1 does not read as 1; two or more."""
    return next((n for n in range(2, 6) if f"{value:.{n}f}" != f"{1:.{n}f}"), 6)
