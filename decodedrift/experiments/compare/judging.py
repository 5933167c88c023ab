"""The reference reads what the candidates wrote: for perplexity_judge, the gaps of beams and the path of an error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from decodedrift.measure import passes
from decodedrift.measure.passes import Pass, Passage
from decodedrift.models.load import Loaded

if TYPE_CHECKING:
    from decodedrift.experiments.compare.job import JobRun


def judge(run: JobRun, model: Loaded, done: Pass) -> None:
    """The reference reads a candidate's continuations; a batch that is the reference's own is not read twice."""
    begin, count = time.perf_counter(), 0
    for group in parts(run, done):
        if all(run.reference.wrote(p) for p in group):
            done.judged |= {p.key: run.reference.own_nll[p.key] for p in group}
            continue
        for passage, logits in run.forced(model, group):
            if passage.whole:
                done.judged[passage.key] = passes.nll(logits, passage.reading.continuation)
            count += len(passage.reading.continuation)
            if run.decomposition:
                run.decomposition.judged(done, passage, logits)
    run.result.timed(done.name, "", "judge", begin, count)


def parts(run: JobRun, done: Pass) -> Iterator[list[Passage]]:
    """A candidate's continuations in the batches that the reference judges them in."""
    size = run.size(run.plan.reference)
    for start in range(0, len(run.order), size):
        batch = {p.id for p in run.order[start : start + size]}
        yield from run.passages(done.traces, only={key for key in done.traces if key.prompt_id in batch})


def read_own_beams(run: JobRun, model: Loaded, done: Pass) -> None:
    """The candidate's own hypotheses under itself: two of the four scores that a beam's gaps are made of."""
    for group in run.passages(done.traces):
        if not (group[0].strategy and group[0].strategy.searches):
            continue
        if all(run.reference.wrote(p) for p in group):  # then it has read exactly these already
            done.own_nll |= {p.key: done.positions[p.key]["nll_candidate"].to_numpy() for p in group}
            continue
        for passage, logits in run.forced(model, group):
            if passage.whole:
                done.own_nll[passage.key] = passes.nll(logits, passage.reading.continuation)
