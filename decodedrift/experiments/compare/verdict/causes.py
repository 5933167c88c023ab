"""What the verdict says of why tokens turned: how close the reference itself was between the two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.settings import reader_word
from decodedrift.measure.tables import TOKEN_CAUSES
from decodedrift.report.phrases import listed, number, telling

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

TELLING = 1000  # spacings, beyond which a type's grid has no part in a tie


def sentences(study: Study) -> list[str]:
    """Near ties by candidate, with the gaps in three units; draws that fell on the edge; and what was not coupled."""
    rows = study.divergences
    parted = rows[(rows["role"] == "candidate") & rows["cause"].isin(TOKEN_CAUSES)]
    said = _near_ties(study, parted) if len(parted) else []
    if (rows["cause"] == "uncoupled").any():
        said.append("Sampling was not coupled, so sampled traces may part by the luck of the draw alone.")
    return said


def _near_ties(study: Study, parted: pd.DataFrame) -> list[str]:
    parts, shares = {}, {}
    for name, cell in parted.groupby("candidate", sort=False):
        near = cell[cell["cause"] == "near_tie"]
        parts[name] = f"{len(near)} of {len(cell)} for {visible(str(name))}{_median_gap(study, str(name), near)}"
        shares[name] = -len(near) / len(cell)
    ties = int((parted["candidate_gap"] == 0).sum())
    tied = f"; {ties} turned on an exact tie of the candidate's logits" if ties else ""
    reader = reader_word(study.plan)
    near_ties = (
        f"Near ties, where the {reader} itself held the two tokens within {study.plan['near_tie_below']:g} nats, make "
        f"up {', '.join(telling(parts, shares))} of the divergences of single tokens{tied}."
    )
    return [near_ties, *_draws(study, parted)]


def _median_gap(study: Study, name: str, cell: pd.DataFrame) -> str:
    """Of near ties, in nats, in units of the error, in spacings of the logits' type; nothing where none is known.

    The error before a tie is known of those alone that come late enough in a text; of how many is said.
    """
    nats, errors, spacings = (cell[c].median() for c in ("logprob_gap", "gap_over_error", "gap_ulps"))
    if pd.isna(nats):
        return ""
    kind = study.environment.get("variants", {}).get(name, {}).get("logits_dtype", "its logits")
    measured = int(cell["gap_over_error"].notna().sum())
    some = f" in {measured} of them" if measured < len(cell) else ""
    units = [f"{number(errors)} times the error before it{some}"] if measured else []
    units += [f"{number(spacings)} spacings of {visible(str(kind))}"] if spacings <= TELLING else []
    return f" (median gap {number(nats)} nats{f', {listed(units)}' if units else ''})"


def _draws(study: Study, parted: pd.DataFrame) -> list[str]:
    counts = parted[parted["cause"] == "draw"].groupby("candidate", sort=False).size()
    if not len(counts):
        return []
    total = parted["candidate"].value_counts()
    parts = {name: f"{n} of {total[name]} for {visible(str(name))}" for name, n in counts.items()}
    return [
        f"The shared draw fell within {study.plan['near_tie_below']:g} nats of the edge between two tokens that the "
        f"{reader_word(study.plan)} itself held further apart in {listed(telling(parts, counts.to_dict()))}."
    ]
