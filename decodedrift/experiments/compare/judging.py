"""The reference reads what the candidates wrote: for perplexity_judge, the gaps of beams and the path of an error."""

from __future__ import annotations

import time

from decodedrift.experiments.compare.decompose import Decomposition
from decodedrift.measure import passes
from decodedrift.measure.bench import Bench
from decodedrift.measure.passes import Pass
from decodedrift.models.load import Loaded


def judge(bench: Bench, model: Loaded, candidate: Pass, reference: Pass, parts: Decomposition | None = None) -> None:
    """The reference reads a candidate's continuations; a batch that is the reference's own is not read twice."""
    begin, count = time.perf_counter(), 0
    for group in bench.continuations(candidate):
        if all(reference.wrote(p) for p in group):
            candidate.judge_nll |= {p.key: reference.own_nll[p.key] for p in group}
            continue
        for passage, logits in bench.logits(model, group):
            if passage.whole:
                candidate.judge_nll[passage.key] = passes.nll(logits, passage.reading.continuation)
            count += len(passage.reading.continuation)
            if parts:
                parts.judge(candidate, passage, logits)
    bench.result.timed(candidate.name, "", "judge", begin, count)


def read_own_beams(bench: Bench, model: Loaded, candidate: Pass, reference: Pass) -> None:
    """The candidate's own hypotheses under itself: two of the four scores that a beam's gaps are made of."""
    for group in bench.passages(candidate.traces):
        if not (group[0].strategy and group[0].strategy.searches):
            continue
        if all(reference.wrote(p) for p in group):  # then it has read exactly these already
            candidate.own_nll |= {p.key: candidate.positions[p.key]["nll_candidate"].to_numpy() for p in group}
            continue
        for passage, logits in bench.logits(model, group):
            if passage.whole:
                candidate.own_nll[passage.key] = passes.nll(logits, passage.reading.continuation)
