"""The reference reads what the candidates wrote: for perplexity_judge, ratios, the gaps of beams, an error's path."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from decodedrift.decoding.preferences import Preferences
from decodedrift.experiments.compare.decompose import Decomposition
from decodedrift.measure import passes
from decodedrift.measure.bench import Bench
from decodedrift.measure.passes import Pass, Passage
from decodedrift.measure.tables import FORCED, STEPPED
from decodedrift.models.load import Loaded
from decodedrift.numerics import ratios


def judge(bench: Bench, model: Loaded, candidate: Pass, reference: Pass, parts: Decomposition | None = None) -> None:
    """The reference reads a candidate's continuations; a batch that is the reference's own is not read twice."""
    begin, count = time.perf_counter(), 0
    for group in bench.continuations(candidate):
        if all(reference.wrote(p) for p in group):
            candidate.judge_nll |= {p.key: reference.own_nll[p.key] for p in group}
            for passage in group:
                note_margin(candidate, passage, reference.preferences.get(passage.key))
            continue
        for passage, logits in bench.logits(model, group):
            if passage.whole:
                candidate.judge_nll[passage.key] = passes.nll(logits, passage.reading.continuation)
                if candidate.role == "candidate":
                    note_margin(candidate, passage, passage.prefer(logits))
            count += len(passage.reading.continuation)
            if parts and candidate.reads == FORCED:
                parts.judge(candidate, passage, logits)
        if parts and candidate.reads == STEPPED:
            for passage, logits in bench.logits(model, group, layout=STEPPED):
                parts.judge(candidate, passage, logits)
    bench.result.timed(candidate.name, "", "judge", begin, count)


def note_margin(candidate: Pass, passage: Passage, preferences: Preferences | None) -> None:
    """How far the reference, reading, would rather have taken another token; nothing where it has no preference."""
    if preferences is not None:
        candidate.judge_margin[passage.key] = (preferences.scores[:, 0] - preferences.text_score).numpy()


def judged_rows(side: Pass, reference: Pass) -> Iterator[dict[str, Any]]:
    """Rows of judged.csv: a candidate's whole texts, as it drew them and as the reference reads them.

    r is the reference's probability of a token over the one that the candidate had while it generated. Sums over the
    tokens of a trace; those that the reference would not draw at all have no margin and are not in `difr_tokens`. Of a
    recorded text the tokens are those that its engine gave a log-probability of.
    """
    for key, trace in side.traces.items() if side.role == "candidate" else ():
        losses = side.judge_nll.get(key)
        if losses is None or (len(losses) != len(trace.logprobs) and not side.variant.recorded):
            continue
        log_ratio = -losses - np.array(trace.logprobs or [math.nan] * len(losses))
        if side.variant.recorded:  # an engine may say nothing of some tokens
            log_ratio = log_ratio[~np.isnan(log_ratio)]
        row: dict[str, Any] = {"reference": reference.name, "candidate": side.name, "role": side.role, **key._asdict()}
        row |= {"tokens": len(log_ratio), "sequence_logratio": float(log_ratio.sum()),
                "logratio_square": float(log_ratio @ log_ratio), "k3": float(ratios.k3(log_ratio).sum())}  # fmt: skip
        row |= {f"ratio_out_{name}": int(out.sum()) for name, out in ratios.outside(log_ratio).items()}
        if (margin := side.judge_margin.get(key)) is not None:
            finite = np.isfinite(margin)
            row |= {"difr": float(margin[finite].sum()), "difr_tokens": int(finite.sum())}
        yield row


def read_own_beams(bench: Bench, model: Loaded, candidate: Pass, reference: Pass) -> None:
    """The candidate's own hypotheses under itself: two of the four scores that a beam's gaps are made of."""
    for group in bench.passages(candidate.traces):
        if not (group[0].strategy and group[0].strategy.searches):
            continue
        group = [p for p in group if bench.world.reads(candidate.variant.name, p.key.prompt_id)]
        if all(reference.wrote(p) for p in group):  # then it has read exactly these already
            candidate.own_nll |= {p.key: candidate.positions[p.key]["nll_candidate"].to_numpy() for p in group}
            continue
        for passage, logits in bench.logits(model, group):
            if passage.whole:
                candidate.own_nll[passage.key] = passes.nll(logits, passage.reading.continuation)
