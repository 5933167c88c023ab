"""What the verdict says of why tokens turned: how close the reference itself was between the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.measure.tables import TOKEN_CAUSES
from decodedrift.report.phrases import listed, number, telling

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study


def sentences(study: Study) -> list[str]:
    """Near ties by candidate, with the gaps in three units; draws that fell on the edge; and what was not coupled."""
    rows = study.divergences
    parted = rows[(rows["role"] == "candidate") & rows["cause"].isin(TOKEN_CAUSES)]
    said = _near_ties(study, parted) + _draws(study, parted) if len(parted) else []
    if (rows["cause"] == "uncoupled").any():
        said.append("Sampling was not coupled, so sampled traces may part by the luck of the draw alone.")
    return said


def _near_ties(study: Study, parted: pd.DataFrame) -> list[str]:
    parts, shares = {}, {}
    for name, cell in parted.groupby("candidate", sort=False):
        near = int((cell["cause"] == "near_tie").sum())
        parts[name] = f"{near} of {len(cell)} for {visible(str(name))}{_median_gap(study, str(name), cell)}"
        shares[name] = -near / len(cell)
    ties = int((parted["candidate_gap"] == 0).sum())
    tied = f"; {ties} turned on an exact tie of the candidate's logits" if ties else ""
    return [
        f"Near ties, where the reference itself held the two tokens within {study.plan['near_tie_below']:g} nats, make "
        f"up {', '.join(telling(parts, shares))} of the divergences of single tokens{tied}."
    ]


def _median_gap(study: Study, name: str, cell: pd.DataFrame) -> str:
    """In nats, in units of the error, in spacings of the logits' type; nothing of a run that did not note it."""
    nats, errors, spacings = (cell[c].median() for c in ("logprob_gap", "gap_over_error", "gap_ulps"))
    if pd.isna(nats):
        return ""
    kind = study.environment.get("variants", {}).get(name, {}).get("logits_dtype", "its logits")
    units = [f"{number(errors)} times the error before it"] if pd.notna(errors) else []
    units += [f"{number(spacings)} spacings of {visible(str(kind))}"] if pd.notna(spacings) else []
    return f" (median gap {number(nats)} nats{f', {listed(units)}' if units else ''})"


def _draws(study: Study, parted: pd.DataFrame) -> list[str]:
    counts = parted[parted["cause"] == "draw"].groupby("candidate", sort=False).size()
    if not len(counts):
        return []
    parts = {name: f"{n} for {visible(str(name))}" for name, n in counts.items()}
    return [
        f"In another {listed(telling(parts, counts.to_dict()))} the shared draw fell within "
        f"{study.plan['near_tie_below']:g} nats of the edge between two tokens that the reference itself held further "
        "apart: the draw was a near tie, the choice was not."
    ]
