"""Per-trace metrics: how far two free-running continuations of one prompt stay together, by ids.

A metric is a function of one `TracePair` and a line in `TRACE_METRICS`; its name is the column. None is an empty cell.
"""

from __future__ import annotations

from dataclasses import dataclass

from decodedrift.measure.metrics.base import INTEGERS, TraceMetric
from decodedrift.numerics import sequences
from decodedrift.numerics.chrf import chrf


@dataclass(frozen=True)
class TracePair:
    """Generated ids (EOS kept) and decoded continuations of one prompt under reference and candidate.

    reference_rest, candidate_rest: the remainders after t* decoded; empty where identical or where nothing follows.
    """

    reference_ids: tuple[int, ...]
    candidate_ids: tuple[int, ...]
    reference_text: str
    candidate_text: str
    reference_rest: str = ""
    candidate_rest: str = ""


def diverged(pair: TracePair) -> int:
    """1 where the two id sequences differ, else 0."""
    return int(first_divergence(pair) is not None)


def first_divergence(pair: TracePair) -> int | None:
    """t*: the first position whose ids differ; None where identical."""
    return sequences.first_divergence(pair.reference_ids, pair.candidate_ids)


def first_divergence_char(pair: TracePair) -> int | None:
    """Code points that the two texts share at the start; None where the texts are the same (ids may still differ)."""
    return sequences.first_divergence_char(pair.reference_text, pair.candidate_text)


def compared(pair: TracePair) -> int:
    """Positions that were at risk: t* + 1, or the common length."""
    return sequences.compared_length(pair.reference_ids, pair.candidate_ids)


def prefix_fraction(pair: TracePair) -> float:
    """t* over the longer length; 1 where identical."""
    return sequences.prefix_fraction(pair.reference_ids, pair.candidate_ids)


def agreement_after(pair: TracePair) -> float | None:
    """Share of equal indices after t*; None where there are none to compare."""
    return sequences.agreement_after(pair.reference_ids, pair.candidate_ids)


def edit_similarity(pair: TracePair) -> float | None:
    """Edit similarity of what follows t*; None where nothing follows."""
    return sequences.edit_similarity(pair.reference_ids, pair.candidate_ids)


def chrf_after(pair: TracePair) -> float | None:
    """chrF2 of the candidate's remainder against the reference's, 0 to 100; None where either has no character.

    (Popovic 2015; sacrebleu's defaults: character 1- to 6-grams without white space, beta = 2.)
    """
    if not pair.reference_rest.strip() or not pair.candidate_rest.strip():
        return None
    return chrf(pair.reference_rest, pair.candidate_rest)


def reconverged(pair: TracePair) -> int | None:
    """1 where the two tell the same passage again after t*, else 0; None where what follows t* is too short to say."""
    again = sequences.reconverged(pair.reference_ids, pair.candidate_ids)
    return None if again is None else int(again)


def reconvergence_lag(pair: TracePair) -> int | None:
    """Tokens by which the candidate tells the shared passage later than the reference; None where not reconverged."""
    return sequences.reconvergence_lag(pair.reference_ids, pair.candidate_ids)


TRACE_METRICS: dict[str, TraceMetric[TracePair]] = {
    "diverged": TraceMetric(diverged, INTEGERS, after=False, whole=False),
    "first_divergence": TraceMetric(first_divergence, INTEGERS, after=False, whole=False),
    "first_divergence_char": TraceMetric(first_divergence_char, INTEGERS, after=False),
    "compared": TraceMetric(compared, INTEGERS, after=False, whole=False),
    "prefix_fraction": TraceMetric(prefix_fraction, after=False),
    "agreement_after": TraceMetric(agreement_after),
    "edit_similarity": TraceMetric(edit_similarity),
    "chrf_after": TraceMetric(chrf_after),
    "reconverged": TraceMetric(reconverged, INTEGERS),
    "reconvergence_lag": TraceMetric(reconvergence_lag, INTEGERS),
}
