"""One row of divergences.csv: where two traces part, by how much, and why (docs/metrics.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from decodedrift.core.records import Strategy, Trace
from decodedrift.decoding.choosers import ScoreLog
from decodedrift.decoding.penalties import with_penalty, without_penalty
from decodedrift.measure.metrics import TRACE_METRICS, TracePair
from decodedrift.models.text.vocabulary import Vocabulary
from decodedrift.numerics import gumbel
from decodedrift.numerics.logits import ulp
from decodedrift.numerics.sequences import remainders

ERROR_POSITIONS = 8  # fewer forced positions before t* say too little about the error's size


@dataclass
class Side:
    """One variant's trace with what its generating pass knows: scores of the chosen and of the watched tokens.

    partly: they are what another engine wrote down, if anything; and its text may end where it was cut off. again: it
    repeats the reference, number by number.
    """

    trace: Trace
    chosen: Sequence[float] = ()
    watched: Sequence[float] = ()
    log: ScoreLog = field(default_factory=ScoreLog)
    partly: bool = False
    again: bool = False


@dataclass(frozen=True)
class BeamScores:
    """Length-normalised forced scores, nats: `rc` is the reference reading the candidate's hypothesis, and so on."""

    rr: float
    rc: float
    cr: float
    cc: float


def divergence(
    reference: Side,
    candidate: Side,
    strategy: Strategy,
    vocab: Vocabulary,
    *,
    near_tie_below: float,
    logits_dtype: str = "fp64",
    error: np.ndarray | None = None,
    beams: BeamScores | None = None,
) -> dict[str, Any]:
    """Every column of divergences.csv after the keys. Missing values are None.

    Args:
        logits_dtype: the type of the candidate's logits, a key of FLOAT_FORMATS; empty where it is not known.
        error: forced d[top1] - d[top2] at the reference's positions, float64 [T_R]; under a penalty, which the raw
            logits do not show, the error in the strategy's own margin (`choice_error`).
        beams: the four forced scores of whole hypotheses; beam search only.
    """
    r, c = reference.trace, candidate.trace
    if (ids := comparable(r, c, strategy)) is None:
        return dict.fromkeys(TRACE_METRICS) | {"compared": 0, "nonfinite": r.nonfinite + c.nonfinite}
    if candidate.partly and c.finish != "eos":  # nobody knows what it would have written behind its end
        r = replace(r, token_ids=r.token_ids[: len(ids)])
    if reference.partly and r.finish != "eos":
        ids = ids[: len(r.token_ids)]
    rest = remainders(r.token_ids, ids) or ((), ())
    texts = [vocab.decode(tuple(tokens)) for tokens in (r.token_ids, ids, *rest)]
    pair = TracePair(r.token_ids, ids, *texts)
    cut = c.finish == "screened"
    row: dict[str, Any] = {n: None if metric.whole and cut else metric(pair) for n, metric in TRACE_METRICS.items()}
    row["nonfinite"] = r.nonfinite + c.nonfinite
    t = row["first_divergence"]
    if t is None:
        return row | ({"swing": unrepeated(reference, candidate)} if candidate.again else {})
    a, b = _token(r, t), _token(c, t)
    row |= {"reference_token_id": a, "candidate_token_id": b}
    row |= {"reference_token": _shown(vocab, a), "candidate_token": _shown(vocab, b)}
    row["at_end"] = int(a in vocab.eos or b in vocab.eos or _ends(r, t) or _ends(c, t))
    row["reference_margin"], row["candidate_margin"] = _number(r.margins, t), _number(c.margins, t)
    broken = c.finish == "nonfinite" and (strategy.searches or len(c.token_ids) == t)
    gaps = _beam_gaps(None if broken else beams) if strategy.searches else _gaps(reference, candidate, t, b)
    row |= gaps
    if strategy.searches and gaps["reference_gap"] is not None:
        row["search_error"] = int(gaps["reference_gap"] < 0)
    elif not strategy.searches:
        ahead = _ahead(gaps["reference_gap"], r, t, (a, b), strategy)
        gaps["logprob_gap"] = row["logprob_gap"] = gap = None if ahead is None else abs(ahead)
        row["gap_ulps"] = _ulps(ahead, reference, t, (a, b), strategy, logits_dtype) if logits_dtype else None
        row["gap_over_error"] = _over_error(gap, error, t, strategy)
    ended = a is None or b is None
    row["cause"] = "nonfinite" if broken else _cause(strategy, gaps, near_tie_below, ended, candidate.partly)
    return row


def unrepeated(reference: Side, again: Side) -> float | None:
    """The largest difference of the numbers that a text and its repetition were chosen by; None where all are equal.

    Of log-probabilities, margins and chosen scores of each token of the repetition, where both sides have them all.
    Infinite where one of two is no number.
    """
    n = len(again.trace.token_ids)
    ours = (reference.trace.logprobs, reference.trace.margins, reference.chosen)
    theirs = (again.trace.logprobs, again.trace.margins, again.chosen)
    pairs = [np.array([a[:n], b]) for a, b in zip(ours, theirs, strict=True) if len(a) >= n == len(b)]
    largest: float | None = None
    for a, b in pairs:
        differ = (a != b) & ~(np.isnan(a) & np.isnan(b))
        for gap in np.nan_to_num(np.abs(a[differ] - b[differ]), nan=math.inf, posinf=math.inf):
            largest = max(largest or 0.0, float(gap))
    return largest


def comparable(reference: Trace, candidate: Trace, strategy: Strategy) -> tuple[int, ...] | None:
    """The candidate's ids as far as the reference says what they should be; None where it says nothing.

    A reference that breaks (NaN, +inf) at t says nothing from there on: what the candidate wrote behind it is nobody's
    divergence. Of a search it says nothing at all, since the hypothesis that led then need not have won; unless the
    candidate had broken before it.
    """
    ids = candidate.token_ids
    if reference.finish != "nonfinite":
        return ids
    end = len(reference.token_ids)
    first = candidate.finish == "nonfinite" and len(ids) < end
    if end == 0 or (strategy.searches and not first):
        return None
    return ids[:end]


def _gaps(reference: Side, candidate: Side, t: int, b: int | None) -> dict[str, float | None]:
    """reference_gap = s_R[a] - s_R[b], candidate_gap = s_C[b] - s_C[a], swing = their sum; None where undefined."""
    s_ra, s_ca = _number(reference.chosen, t), _number(candidate.watched, t)
    s_rb = _finite(reference.log.at(t, b)) if b is not None else None
    s_cb = _number(candidate.chosen, t)
    reference_gap = None if s_ra is None or s_rb is None else s_ra - s_rb
    candidate_gap = None if s_ca is None or s_cb is None else s_cb - s_ca
    swing = None if reference_gap is None or candidate_gap is None else reference_gap + candidate_gap
    return {"reference_gap": reference_gap, "candidate_gap": candidate_gap, "swing": swing}


def _ahead(
    gap: float | None, reference: Trace, t: int, tokens: tuple[int | None, int | None], strategy: Strategy
) -> float | None:
    """ln p~_R(a) - ln p~_R(b): how far the reference itself has a before b; for greedy in logits.

    Where it samples, the noise is taken off the scores again, exactly as it was put on.
    """
    a, b = tokens
    if gap is None or a is None or b is None or not strategy.samples:
        return gap
    noise = gumbel.gumbel(reference.seed, reference.prompt_id, t, max(a, b) + 1, np.array([a, b]))
    return gap - float(noise[0] - noise[1])


def _ulps(
    ahead: float | None, side: Side, t: int, tokens: tuple[int | None, int | None], strategy: Strategy, dtype: str
) -> float | None:
    """The gap of the raw logits in spacings of a type at the larger magnitude of the two."""
    if ahead is None or t >= len(side.log.taken) or tokens[0] is None or tokens[1] is None:
        return None
    a, history = side.log.taken[t], (*side.log.context, *side.trace.token_ids[:t])
    less = with_penalty(a, tokens[0], strategy, history) - ahead * float(strategy.params.get("temperature", 1.0))
    b = without_penalty(less, tokens[1], strategy, history)
    return abs(a - b) / float(ulp(torch.tensor(max(abs(a), abs(b)), dtype=torch.float64), dtype))


def _beam_gaps(beams: BeamScores | None) -> dict[str, float | None]:
    if beams is None or not all(math.isfinite(v) for v in (beams.rr, beams.rc, beams.cr, beams.cc)):
        return {"reference_gap": None, "candidate_gap": None, "swing": None}
    reference_gap, candidate_gap = beams.rr - beams.rc, beams.cc - beams.cr
    return {"reference_gap": reference_gap, "candidate_gap": candidate_gap, "swing": reference_gap + candidate_gap}


def _cause(strategy: Strategy, gaps: dict[str, float | None], near_tie_below: float, ended: bool, partly: bool) -> str:
    """The first that is true; docs/metrics.md fixes the order.

    ended: whether one side had ended before. partly: whether the candidate's scores may be missing although it allowed
    both tokens.
    """
    if strategy.samples and not strategy.coupled:
        return "uncoupled"
    if strategy.searches:
        return "search"
    if ended:
        return "stopped"
    if gaps["reference_gap" if partly else "swing"] is None:
        return "truncation"
    if (gap := gaps["logprob_gap"]) is not None and gap < near_tie_below:
        return "near_tie"
    score_gap = gaps["reference_gap"]
    return "draw" if score_gap is not None and abs(score_gap) < near_tie_below else "shift"


def _over_error(gap: float | None, error: np.ndarray | None, t: int, strategy: Strategy) -> float | None:
    if gap is None or error is None or t < ERROR_POSITIONS:
        return None
    before = error[:t] / (1.0 if strategy.penalised else strategy.params.get("temperature", 1.0))
    before = before[np.isfinite(before)]
    rms = float(np.sqrt(np.mean(before**2))) if len(before) else 0.0
    return gap / rms if rms > 0 else None


def _token(trace: Trace, t: int) -> int | None:
    return trace.token_ids[t] if t < len(trace.token_ids) else None


def _ends(trace: Trace, t: int) -> bool:
    """Whether a trace stopped by the token at t, at whichever stop id it has of its own."""
    return trace.finish == "eos" and t == len(trace.token_ids) - 1


def _shown(vocab: Vocabulary, token: int | None) -> str | None:
    return None if token is None else vocab.token(token)


def _number(values: Sequence[float], t: int) -> float | None:
    return _finite(values[t]) if t < len(values) else None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
