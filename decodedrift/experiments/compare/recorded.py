"""A candidate that another engine wrote: its texts, read by the reference and by the plain cast to the engine's type.

No logits of it are known, and what it made of the reference's text is not. But its own text shows how far the reference
prefers another token at each position, and the cast, which reads the same text, how far rounding alone would go there.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from decodedrift.core.records import Key, Strategy, Trace, Variant
from decodedrift.decoding.choosers import ScoreLog
from decodedrift.decoding.preferences import Preferences
from decodedrift.decoding.tops import COUNT, Tops, log_totals
from decodedrift.experiments.compare.judging import note_margin
from decodedrift.measure import passes
from decodedrift.measure.bench import Bench
from decodedrift.measure.passes import Pass, Passage
from decodedrift.measure.tables import DECODED, FORCED, JobResult
from decodedrift.models.load import Loaded
from decodedrift.models.recorded.continuation import Continuation, Matched
from decodedrift.numerics.ranks import rank_of
from decodedrift.numerics.sequences import first_divergence

SHOWN, FIRST = 8, 3  # ids of a prompt that are told, and of how many prompts
ENDED = "eos"  # any other end is where the engine was cut off, or where nobody knows why it ended


@dataclass
class Recording:
    """What a recorded candidate wrote in one job.

    texts: its continuations. cast, cast_nll: what a plain cast to its type, reading them, prefers and how likely it
    holds them. frames: the rows of the table `recorded`, without keys.
    """

    side: Pass
    texts: dict[Key, Continuation] = field(default_factory=dict)
    cast: dict[Key, Preferences] = field(default_factory=dict)
    cast_nll: dict[Key, np.ndarray] = field(default_factory=dict)
    frames: dict[Key, pd.DataFrame] = field(default_factory=dict)


def recording(bench: Bench, variant: Variant, reference: Pass | None) -> Recording:
    """A side's texts of a job as a pass: the first run of each, as it was recorded.

    Args:
        reference: what it is held against, of which it has texts that this has too; None: this is the reference.
    """
    match, plan = bench.world.recorded[variant.name], bench.plan
    strategies = {(s.label, seed): s for s, seed in plan.cells}
    coupled = match.header.get("coupling") == "gumbel"
    role, judged = ("candidate", reference.variant.recorded) if reference is not None else ("reference", False)
    layout = FORCED if judged else DECODED  # gaps are the reading judge's
    recorded = Recording(Pass(variant.name, variant, role, coupled=coupled, layout=layout))
    here = {p.id for p in bench.job.prompts}
    for key, (text, *_) in match.continuations.items():
        if key.prompt_id not in here or not (strategy := strategies.get(key[:2])):
            continue
        if reference is not None and key not in reference.traces:
            continue
        recorded.texts[key] = text
        recorded.side.traces[key] = _trace(text, strategy)
        if text.top_logprobs is not None:
            recorded.side.generated.tops[key] = _tops(text.top_logprobs)
        if reference is not None and _tells_scores(strategy):
            recorded.side.generated.scores[key] = _scores(text, reference.traces[key].token_ids)
    for key, reason in match.errors.items():
        if key.prompt_id in here:
            bench.result.fail(plan.model, variant.name, "record", "failed", reason, key.strategy, key.prompt_id)
    facts = told(match, coupled, not plan.no_text)
    if reference is not None and judged:
        facts["unpaired"] = len(match.continuations.keys() - bench.world.recorded[reference.name].continuations.keys())
    bench.result.facts[variant.name] = {"recorded": facts}
    return recorded


def told(match: Matched, coupled: bool, words: bool) -> dict[str, Any]:
    """What the reader of a run must know of a recorded file, JSON-ready.

    Args:
        words: whether the ids of prompts may be in it.
    """
    others = [
        {"prompt_id": o.prompt_id, "position": o.position}
        | ({"reference": list(o.ours[:SHOWN]), "candidate": list(o.theirs[:SHOWN])} if words else {})
        for o in match.other_ids
    ]  # fmt: skip
    return {
        "texts": len(match.continuations), "coupled": coupled, "missing": len(match.missing),
        "several_runs": sum(len(runs) > 1 for runs in match.continuations.values()),
        "differing_runs": sum(len({r.token_ids for r in runs}) > 1 for runs in match.continuations.values()),
        "unmatched": {reason: len(places) for reason, places in match.unmatched.items()},
        "encoded_again": dict(Counter(key.strategy for key in match.reencoded)),
        "other_ids": others[:FIRST], "other_prompts": len({o.prompt_id for o in match.other_ids}),
        "notes": list(match.notes),
    }  # fmt: skip


def _trace(text: Continuation, strategy: Strategy) -> Trace:
    margins = tuple(map(_margin, text.top_logprobs or ())) if _tells_scores(strategy) else ()
    return replace(text.trace, margins=margins, min_margin=min((m for m in margins if m == m), default=math.nan))


def _tells_scores(strategy: Strategy) -> bool:
    """Whether differences of log-probabilities are those of the scores that the strategy chooses by."""
    return not (strategy.samples or strategy.searches or strategy.penalised)


def _margin(shown: Mapping[int, float]) -> float:
    best = sorted(shown.values(), reverse=True)[:2]
    return best[0] - best[1] if len(best) == 2 else math.nan


def _scores(text: Continuation, reference: Sequence[int]) -> tuple[list[float], list[float]]:
    """Its log-probabilities of its own tokens, and of the reference's where it shows them; NaN elsewhere."""
    n = len(text.token_ids)
    shown = text.top_logprobs or ({},) * n
    watched = [shown[t].get(reference[t], math.nan) for t in range(min(n, len(reference)))]
    return [math.nan if p is None else p for p in text.logprobs or (None,) * n], watched


def read_cast(bench: Bench, model: Loaded, recordings: Sequence[Recording]) -> None:
    """A plain cast reads the recorded texts that are said to have run in its type, in the reference's layout."""
    begin, count, size = time.perf_counter(), 0, bench.size(bench.plan.reader)
    for recorded in (r for r in recordings if r.side.variant.compute == model.variant.compute):
        for group in bench.continuations(recorded.side):
            for passage, logits in bench.logits(model, [_as_drawn(p, recorded.side) for p in group], size, FORCED):
                if (preferences := passage.prefer(logits)) is not None:
                    recorded.cast[passage.key] = preferences
                recorded.cast_nll[passage.key] = passes.nll(logits, passage.reading.continuation)
                count += len(passage.reading.continuation)
    bench.result.timed(model.variant.name, "", "score", begin, count)


def judge(bench: Bench, model: Loaded, recorded: Recording, others: Sequence[Pass] = ()) -> None:
    """The reader reads a side's texts: how likely they are, and how far it prefers another token.

    others: who is held against this side, where it is the reference: the reader's scores of their tokens are kept.
    """
    begin, count, side = time.perf_counter(), 0, recorded.side
    for group in bench.continuations(side):
        for passage, logits in bench.logits(model, [_as_drawn(p, side) for p in group]):
            key, tokens = passage.key, passage.reading.continuation
            losses, ours = passes.nll(logits, tokens), passage.prefer(logits, recorded.cast.get(key))
            if passage.whole:
                side.judge_nll[key] = losses
                note_margin(side, passage, ours)
            recorded.frames[key] = _rows(passage, logits, losses, ours, recorded)
            if others:
                side.judge_tops[key] = passes.tops_of(logits, tokens, losses)
            if others and ours is not None:
                side.generated.scores[key] = ours.text_score.tolist(), []
                side.generated.logs[key] = _rivals(passage, logits, [o.traces[key] for o in others if key in o.traces])
            count += len(tokens)
    bench.result.timed(side.name, "", "judge", begin, count)


def _rivals(passage: Passage, logits: Tensor, others: Sequence[Trace]) -> ScoreLog:
    """The reader's scores of the tokens by which others leave a text, as it reads that text."""
    tokens = passage.reading.continuation
    scores: list[dict[int, float]] = [{} for _ in tokens]
    for ids in (other.token_ids for other in others):
        t = first_divergence(tokens, ids)
        if t is not None and t < min(len(tokens), len(ids)):
            put = replace(passage.reading, continuation=(*tokens[:t], ids[t], *tokens[t + 1 :]))
            if (preferences := replace(passage, reading=put).prefer(logits)) is not None:
                scores[t][ids[t]] = float(preferences.text_score[t])
    return ScoreLog(allowed=[(torch.tensor([*at]), torch.tensor([*at.values()], dtype=torch.float64)) for at in scores])


def _tops(shown: Sequence[Mapping[int, float]]) -> Tops:
    """What an engine shows as the top tokens of a variant that ran here: the best first, -1 where it shows fewer."""
    ids = np.full((len(shown), COUNT), -1, dtype=np.int64)
    log_p = np.full((len(shown), COUNT), math.nan)
    for t, top in enumerate(shown):
        best = sorted(top.items(), key=lambda item: (-item[1], item[0]))[:COUNT]
        ids[t, : len(best)], log_p[t, : len(best)] = [i for i, _ in best], [p for _, p in best]
    return Tops(ids, log_p)


def _as_drawn(passage: Passage, side: Pass) -> Passage:
    return replace(passage, strategy=passage.strategy and side.as_drawn(passage.strategy))


def _rows(
    passage: Passage, logits: Tensor, losses: np.ndarray, ours: Preferences | None, recorded: Recording
) -> pd.DataFrame:
    """The table `recorded` for one text, a row per token; what is not known is NaN."""
    text, tokens = recorded.texts[passage.key], passage.reading.continuation
    ids = torch.tensor(tokens, device=logits.device)
    frame = pd.DataFrame({
        "position": np.arange(len(tokens)), "token_id": tokens, "rank": rank_of(logits, ids).cpu().numpy(),
        "nll_reference": losses,
    })  # fmt: skip
    if ours is not None:
        best = ours.scores[:, 0]
        frame["gap"] = (best - ours.text_score).numpy()
        if (cast := recorded.cast.get(passage.key)) is not None:
            frame["cast_token_id"] = cast.best[:, 0].numpy()
            frame["cast_gap"] = (best - ours.rival_scores[:, 0]).numpy()
    if (cast_nll := recorded.cast_nll.get(passage.key)) is not None:
        frame["nll_cast"] = cast_nll
    if text.logprobs is not None:
        frame["logprob"] = [math.nan if p is None else p for p in text.logprobs[: len(tokens)]]
    if text.top_logprobs is not None:
        shown = [_shown(logits[t], text.top_logprobs[t]) for t in range(len(tokens))]
        names = ("shown", "kl_shown", "missing_reference", "missing_candidate")
        frame = frame.assign(**dict(zip(names, zip(*shown, strict=True), strict=True)))
    unknown = text.reencoded or (text.assumed and text.finish == ENDED)
    if unknown:  # which token it was nobody says
        known = [name for name in ("gap", "cast_gap") if name in frame]
        frame.loc[frame.index[0 if text.reencoded else -1 :], known] = math.nan
    return frame


def _shown(logits: Tensor, top: Mapping[int, float]) -> tuple[float, float, float, float]:
    """Of the ids that an engine shows at a position: how many, the KL over them, and what both sides hold of the rest.

    KL(p_R || p_C), nats, both renormalised over these ids; NaN of fewer than two, of which it would be 0.
    """
    if not top:
        return 0, math.nan, math.nan, math.nan
    log_q = torch.tensor(list(top.values()), dtype=torch.float64)
    row = logits[None].double()
    log_p = (row - log_totals(row)[:, None])[0, torch.tensor(list(top), device=logits.device)].cpu()
    missing = [max(0.0, 1 - float(side.exp().sum())) for side in (log_p, log_q)]
    p, q = (side - torch.logsumexp(side, 0) for side in (log_p, log_q))
    kl = float((p.exp() * (torch.expm1(q - p) - (q - p))).sum()) if len(top) > 1 else math.nan
    return len(top), kl, missing[0], missing[1]


def write(recorded: Recording, model: str, reference: str, vocab: Any, result: JobResult) -> None:
    """The rows of `recorded` of one candidate."""
    pair = {"model": model, "reference": reference, "candidate": recorded.side.name, "role": recorded.side.role}
    for key, frame in recorded.frames.items():
        named = frame.assign(token=passes.texts_of(frame["token_id"], vocab), **(pair | key._asdict()))
        result.rows["recorded"].append(named)
