"""The reference reads what the candidates wrote: for perplexity_judge, ratios, the gaps of beams, an error's path."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from decodedrift.decoding.preferences import Preferences
from decodedrift.experiments.compare.decompose import Decomposition
from decodedrift.experiments.compare.settings import FINE
from decodedrift.measure import passes
from decodedrift.measure.bench import Bench
from decodedrift.measure.passes import Pass, Passage
from decodedrift.measure.tables import FORCED, STEPPED
from decodedrift.models.load import Loaded
from decodedrift.numerics import ratios


def judge(bench: Bench, model: Loaded, candidate: Pass, reference: Pass, parts: Decomposition | None = None) -> None:
    """The reference reads a candidate's continuations, but for those that it has read already (`known`).

    Of a batch that is known in part the rest is read, where it may be (`apart`). Two candidates' equal texts are read
    for each: what else a batch holds decides last bits, and a candidate's figures are the same whoever else runs.
    """
    begin, count = time.perf_counter(), 0
    for group in bench.continuations(candidate):
        read = {p.key: losses for p in group if (losses := known(p, candidate, reference)) is not None}
        if len(read) < len(group) and (parts or not apart(model, group)):
            read = {}
        candidate.judge_nll |= read
        if candidate.role == "candidate":
            for passage in (p for p in group if p.key in read):
                note_margin(candidate, passage, reference.preferences.get(passage.key))
        if not (group := [p for p in group if p.key not in read]):
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


def known(passage: Passage, candidate: Pass, reference: Pass) -> np.ndarray | None:
    """NLL of a text that the reference has read: its own text, the beginning of it, or for a floor its candidate's."""
    text = passage.reading.continuation
    sources = [(reference, reference.own_nll)]
    if candidate.against is not None and candidate.role == "floor":
        sources.append((candidate.against, candidate.against.judge_nll))
    for source, read in sources:
        if passage.key in read and source.traces[passage.key].token_ids[: len(text)] == text:
            return read[passage.key][: len(text)]
    return None


def apart(model: Loaded, group: list[Passage]) -> bool:
    """Whether the reader may read less than a whole batch of texts.

    Not of beams, whose gaps hold four readings in one layout against each other. Not where it computes in 16 bits: in a
    smaller batch its logits are others by the noise floor, and only texts that parted would have that noise.
    """
    strategy = group[0].strategy
    return model.variant.compute in FINE and not (strategy and strategy.searches)


def note_margin(candidate: Pass, passage: Passage, preferences: Preferences | None) -> None:
    """How far the reference, reading, would rather have taken another token; nothing where it has no preference."""
    if preferences is not None:
        margin = (preferences.scores[:, 0] - preferences.text_score).numpy()
        candidate.judge_margin[passage.key] = margin[: len(passage.reading.continuation)]


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
