"""Screening: a candidate reads the reference's text once, and its first other choice is the predicted first divergence.

Up to there both have the same context, so a reading asks the same question as generating does; but it asks it in
another layout (many positions at once, without a growing cache), and the two round differently. A near tie may
therefore turn out otherwise. The reference screened against itself shows how often: its rows have the role `floor`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from decodedrift.core.records import Cell, Trace
from decodedrift.decoding.choosers import Single
from decodedrift.decoding.loop import decode
from decodedrift.decoding.preferences import Preferences
from decodedrift.decoding.survey import nonfinite_counts
from decodedrift.decoding.tops import Tops
from decodedrift.measure.bench import Bench
from decodedrift.measure.passes import Pass, Passage, See, nll
from decodedrift.measure.tables import FORCED
from decodedrift.models import budget
from decodedrift.models.load import Loaded


def floor_of(reference: Pass) -> Pass:
    """What the reference itself would be taken to do, as it reads its own text."""
    return Pass(f"{reference.name} (read)", reference.variant, "floor", against=reference)


def predicting(into: Pass) -> See:
    """Predicts the traces of whoever reads, one passage at a time."""

    def see(passage: Passage, logits: Tensor, preferences: Preferences | None) -> None:
        if passage.strategy is not None and preferences is not None:
            predict(into, passage, logits, preferences)

    return see


def predict(into: Pass, passage: Passage, logits: Tensor, preferences: Preferences) -> None:
    """One trace: the text as far as the reader would have written it, and the first token that it would not.

    Args:
        logits: raw, [T, vocab]. preferences: of the reader.
    """
    text = passage.reading.continuation
    broken = nonfinite_counts(logits).tolist()
    end = next((t for t, count in enumerate(broken) if count), len(text))
    other = next((t for t, token in enumerate(preferences.takes.tolist()) if token != text[t]), len(text))
    stopped = end <= other and end < len(text)
    length = end if stopped else min(other + 1, len(text))
    tokens = (*text[:other], *preferences.takes[other : other + 1].tolist())[:length]
    margins = (preferences.scores[:length, 0] - preferences.scores[:length, 1]).tolist()
    margins = [m if math.isfinite(m) else math.nan for m in margins]
    label, seed, prompt_id = passage.key
    into.layout = FORCED
    into.traces[passage.key] = Trace(
        prompt_id,
        label,
        seed,
        tokens,
        (),
        tuple(margins),
        "nonfinite" if stopped else "screened",
        broken[end] if stopped else 0,
        min((m for m in margins if not math.isnan(m)), default=math.nan),
    )
    watched = preferences.text_score[:length].tolist()
    into.generated.scores[passage.key] = (
        preferences.scores[:length, 0].tolist(),
        [w if math.isfinite(w) else math.nan for w in watched],
    )
    into.last_nll[passage.key] = nll(logits[length - 1 : length], tokens[-1:]) if length else np.empty(0)


def carry_on(bench: Bench, model: Loaded, candidate: Pass, reference: Pass, continued: bool) -> None:
    """`--continue`: the candidate writes on behind each predicted divergence, over the prefix that it has read.

    Its rows are batched as they come, as many as a batch of the plan holds: unlike in the exact mode, the layout is
    not the reference's.
    """
    candidate.traces = {key: candidate.traces[key] for key in reference.traces if key in candidate.traces}
    if not continued:
        return
    begin, count = time.perf_counter(), 0
    rows = bench.size(model.variant) * budget.rows_per_prompt(bench.world)
    for key, trace in candidate.traces.items():
        candidate.traces[key] = _as_generated(bench, candidate, reference, trace)
    for cell in bench.plan.cells:
        place = cell[0].label, cell[1]
        waiting = [t for k, t in candidate.traces.items() if k[:2] == place and t.finish == "screened"]
        waiting.sort(key=lambda trace: len(trace.token_ids))  # rows of a batch end together
        for start in range(0, len(waiting), rows):
            count += _write_on(bench, model, candidate, cell, {t.prompt_id: t for t in waiting[start : start + rows]})
    bench.result.timed(candidate.name, "", "generate", begin, count)


def _as_generated(bench: Bench, candidate: Pass, side: Pass, trace: Trace) -> Trace:
    """A predicted trace with its tokens' log-probabilities, finished where nothing is to follow."""
    reference, tokens = side.traces[trace.key], trace.token_ids
    read = -candidate.positions[trace.key]["nll_candidate"].to_numpy()[: max(0, len(tokens) - 1)]
    logprobs = tuple(np.concatenate([read, -candidate.last_nll[trace.key]]).tolist())
    finish = trace.finish
    if finish == "screened":
        if tokens == reference.token_ids and reference.finish != "nonfinite":
            finish = reference.finish
        elif tokens[-1] in bench.world.vocab.eos:
            finish = "eos"
        elif len(tokens) == bench.plan.max_new_tokens:
            finish = "length"
    if (read_tops := candidate.forced_tops.get(trace.key)) is not None:
        candidate.generated.tops[trace.key] = Tops(read_tops.ids[: len(tokens)], read_tops.log_p[: len(tokens)])
    return replace(trace, logprobs=logprobs, finish=finish)


def _write_on(bench: Bench, model: Loaded, candidate: Pass, cell: Cell, prefixes: Mapping[str, Trace]) -> int:
    """One batch of prefixes, continued; returns how many tokens were written."""
    strategy, seed = cell
    vocab, steps = bench.world.vocab, bench.plan.max_new_tokens - min(len(t.token_ids) for t in prefixes.values())
    contexts = {p: [*bench.world.prompts[p], *trace.token_ids] for p, trace in prefixes.items()}
    chooser = Single(
        strategy, seed, list(prefixes), eos=vocab.eos, pad=vocab.pad, max_new_tokens=bench.plan.max_new_tokens,
        device=torch.device("cpu") if model.device.type == "mps" else model.device, prefixes=prefixes,
        contexts=bench.world.prompts,
    )  # fmt: skip
    bench.progress.start(candidate.name, strategy.label, len(prefixes) * steps)
    bench.progress.batch()
    decode(model, vocab, contexts, [chooser], steps, tick=bench.progress.tick)
    bench.progress.stop()
    count, scores, tops = 0, chooser.scores(), chooser.tops()
    for trace in chooser.traces():
        read, (chosen, watched) = len(prefixes[trace.prompt_id].token_ids), candidate.generated.scores[trace.key]
        candidate.traces[trace.key] = trace
        candidate.generated.scores[trace.key] = (chosen + scores[trace.prompt_id][0], watched)
        if trace.key in candidate.generated.tops:
            candidate.generated.tops[trace.key] = _both(candidate.generated.tops[trace.key], tops[trace.prompt_id])
        count += len(trace.token_ids) - read
    return count


def _both(first: Tops, rest: Tops) -> Tops:
    return Tops(np.concatenate([first.ids, rest.ids]), np.concatenate([first.log_p, rest.log_p]))
