"""Both sides read the reference's text: its logits wait in the spool, a candidate's become rows against them."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from decodedrift.core.batches import filed
from decodedrift.core.records import Key
from decodedrift.experiments.compare.earlier import Earlier
from decodedrift.measure import passes
from decodedrift.measure.bench import Bench
from decodedrift.measure.heads import note_cut
from decodedrift.measure.passes import Pass, Passage, See, unseen
from decodedrift.measure.tables import FORCED, STEPPED
from decodedrift.models.load import Loaded
from decodedrift.models.longrope import left_out


def read_by_all(bench: Bench, reference: Pass) -> list[list[Passage]]:
    """What every variant reads: the reference's tokens, or the job's windows of a text."""
    if bench.job.text is None:
        return bench.passages(reference.traces)
    windows = bench.world.texts[bench.job.text].windows[slice(*bench.job.windows)]
    return [[Passage(Key("text", 0, w.key), w.reading, None, w.start) for w in windows]]


def read_reference(
    bench: Bench, model: Loaded, reference: Pass, see: See = unseen, earlier: Earlier | None = None
) -> None:
    """The reference generates, reads its own tokens, and leaves its scores and logits in the spool.

    see: shown each passage with its logits and the strategy's preferences. earlier: what an earlier run has of it.
    """
    kept = earlier.kept if earlier else None
    if earlier:
        earlier.restore(model, reference)
        see = earlier.scoring(reference, see)
    elif bench.job.prompts:
        bench.free_run(model, reference, batch_size=bench.size(reference.variant), keep_scores=True)
    passes.note_nonfinite(reference, bench.plan.model, reference.name, bench.result)
    for label, text in left_out(reference.traces.values(), bench.limits).items():
        bench.result.fail(bench.plan.model, reference.name, "score", "skipped", text, label)
    begin, count = time.perf_counter(), 0
    for group in read_by_all(bench, reference):
        for passage, logits in kept.logits(group, model.device) if kept else bench.logits(model, group):
            if kept is None:
                bench.spool.put(("logits", passage.key), logits)
            tokens = passage.reading.continuation
            preferences = reference.preferences[passage.key] = passage.prefer(logits)
            see(passage, logits, preferences)
            losses = passes.nll(logits, tokens)
            if passage.whole:
                reference.own_nll[passage.key] = losses
            if passage.strategy is not None:
                reference.forced_tops[passage.key] = passes.tops_of(logits, tokens, losses)
            count += len(tokens)
    bench.result.timed(reference.name, "", "score", begin, count)


def step_reference(bench: Bench, model: Loaded, reference: Pass) -> Pass:
    """The reference reads its own text token by token, for those who cannot be held against one reading of it.

    Its logits wait in the spool. Returns the reference as these are held against it.
    """
    begin, count = time.perf_counter(), 0
    stepped = Pass(
        reference.name, reference.variant, "reference", traces=reference.traces, generated=reference.generated,
        layout=reference.layout,
    )  # fmt: skip
    for group in read_by_all(bench, reference):
        for passage, logits in bench.logits(model, group, layout=STEPPED):
            bench.spool.put((STEPPED, passage.key), logits)
            tokens = passage.reading.continuation
            stepped.preferences[passage.key] = passage.prefer(logits)
            if passage.strategy is not None:
                stepped.forced_tops[passage.key] = passes.tops_of(logits, tokens, passes.nll(logits, tokens))
            count += len(tokens)
    bench.result.timed(reference.name, "", "step", begin, count)
    return stepped


def read_against(
    bench: Bench,
    model: Loaded,
    into: Pass,
    reference: Pass,
    groups: list[list[Passage]],
    stored: str = "logits",
    see: See = unseen,
    layout: str | None = None,
    until: int | None = None,
) -> None:
    """A variant reads the reference's tokens and is reduced to position rows against what waits in the spool.

    reference: whose logits wait. stored: their sort, `logits`, `STEPPED` or a pass's own. layout: see `Bench.logits`.
    see: shown each passage with the variant's logits and the strategy's preferences. until: tokens of each text that
    become rows where all its logits are what waits, bit for bit: the other rows would say no more.
    """
    begin, count = time.perf_counter(), 0
    into.reads = layout or bench.layout_of(model.variant)
    for group in groups:
        for passage, logits in bench.logits(model, group, into.batch_size, into.reads):
            if into.keep_logits:
                bench.spool.put((into.keep_logits, passage.key), logits)
            waiting = bench.spool.get((stored, passage.key))
            known = reference.preferences
            if until is not None and torch.equal(logits, waiting.to(logits.device)):
                passage, logits, waiting, known = beginning(passage, until), logits[:until], waiting[:until], {}
            ours = known[passage.key] if passage.key in known else passage.prefer(waiting)
            theirs = ours and passage.prefer(logits, ours)
            if into.keep_logits:  # its floor is held against these
                into.preferences[passage.key] = theirs and theirs.alone()
            frame = passes.positions(passage, waiting, logits, ours, theirs)
            into.positions[passage.key] = frame
            see(passage, logits, theirs)
            if waiting.shape[-1] != logits.shape[-1]:
                note_cut(bench.result.facts[model.variant.name], waiting, logits)
            if into.role == "candidate" and passage.strategy is not None:
                losses = frame["nll_candidate"].to_numpy()
                into.forced_tops[passage.key] = passes.tops_of(logits, passage.reading.continuation, losses)
            count += len(frame)
    into.positions = filed(into.positions, bench.job.prompts)
    bench.result.timed(into.name, "", "score" if into.reads == FORCED else "step", begin, count)


def beginning(passage: Passage, tokens: int) -> Passage:
    """The first tokens of a passage."""
    continuation = passage.reading.continuation[:tokens]
    return replace(passage, reading=replace(passage.reading, continuation=continuation))
