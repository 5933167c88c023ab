"""Sentences on noise: what another batch layout does to a candidate, and whether its error is more than a cast's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.folds.certificate import noise_ratio
from decodedrift.report.phrases import number

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

VANISHING = 1e-20  # nats; a float64 floor is nothing to speak of
WIDEST, LEAST_OVERLAP = 1.0, 0.99  # of the error beside a plain cast's, as AWS Neuron's accuracy debugger bounds them


def sentences(study: Study) -> list[str]:
    """The floor of every candidate, and the candidates that leave the certificate; nothing of what was not measured."""
    return [*_floor(study), *_outside(study)]


def _floor(study: Study) -> list[str]:
    table, parts = study.summary, []
    for name, cells in table[table["role"] == "floor"].groupby("reference", sort=False):
        noise = noise_ratio(study.positions, str(name))
        if not noise.floor > VANISHING:
            continue
        parted, traces = int(cells["diverged"].sum()), int(cells["traces"].sum())
        value, low, high = noise.times
        interval = f", {number(low)} to {number(high)}" if low == low else ""
        parts.append(
            f"{visible(str(name))} leaves its own text in {parted} of {traces} traces (mean KL {number(noise.floor)}; "
            f"to the reference {number(value)} times that{interval})"
        )
    lead = "Noise floor, a candidate against itself in another batch layout"
    return [f"{lead}: {'; '.join(parts)}."] if parts else []


def _outside(study: Study) -> list[str]:
    """Candidates whose error is wider than a plain cast's of their type, or lies elsewhere, by their intervals."""
    rows = study.certificate
    wide, apart = rows["sigma_ratio_low"] > WIDEST, rows["bhattacharyya_high"] < LEAST_OVERLAP
    said = []
    for name, cells in rows[wide | apart].groupby("candidate", sort=False):
        worst = cells.loc[cells["sigma_ratio"].idxmax()]
        said.append(
            f"{visible(str(name))} under {visible(str(worst['strategy']))} has {number(worst['sigma_ratio'])} times "
            f"its spread ({number(worst['sigma_ratio_low'])} to {number(worst['sigma_ratio_high'])}), and the two "
            f"overlap by {number(worst['bhattacharyya'])}"
        )
    lead = "Outside the noise certificate, the error beside that of a plain cast to the same type"
    return [f"{lead}: {'; '.join(said)}."] if said else []
