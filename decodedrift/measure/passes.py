"""Two passes held against each other: position rows, divergence rows, trace rows. No model is run here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from decodedrift.core.batches import filed
from decodedrift.core.records import Key, Prompt, Reading, Strategy, Trace, Variant
from decodedrift.core.settings import Settings
from decodedrift.decoding.loop import Generated
from decodedrift.decoding.preferences import Preferences, prefer
from decodedrift.decoding.tops import Tops, log_totals, tops
from decodedrift.measure.alternatives import BUDGET, Ledger
from decodedrift.measure.divergence import BeamScores, Side, divergence
from decodedrift.measure.metrics.token import LogitPair, token_metrics
from decodedrift.measure.nonfinite import reasons
from decodedrift.measure.stacked import Part, stacked
from decodedrift.measure.tables import DECODED, FORCED, JobResult
from decodedrift.models.precisions.floating import NAMES
from decodedrift.models.text.vocabulary import Vocabulary
from decodedrift.numerics.logits import exp


@dataclass(frozen=True)
class Passage:
    """A sequence that is teacher forced. key: (strategy label or `text`, seed, prompt id or window).

    whole: whether the continuation is all that was written (`longrope`). shared: how it is to be read, see
    `forcing.batches`; the same for all of a group.
    """

    key: Key
    reading: Reading
    strategy: Strategy | None
    start: int = 0
    whole: bool = True
    shared: bool | None = None

    def prefer(self, logits: Tensor, reference: Preferences | None = None) -> Preferences | None:
        """What the strategy makes of each forced position; None for searches, uncoupled draws and texts."""
        if self.strategy is None:
            return None
        _, seed, prompt_id = self.key
        return prefer(
            self.strategy, seed, prompt_id, logits, self.reading.continuation, reference, self.reading.context
        )


@dataclass
class Pass:
    """What one variant did in one job, in one layout.

    against: the pass it is held against, None for the job's reference. own_nll: NLL of its own forced continuations;
    judge_nll: the same continuations under the reference; float64 [T], nats. judge_margin: how far the reference there
    preferred another token, float64 [T]. judge_tops: of a text that a judge reads, its top tokens. last_nll: of a
    screening's predicted token alone, float64 [1]. layout: how its scores at a divergence were computed, one of
    tables.LAYOUTS; reads: how it read the text of `positions`. coupled:
    whether its draws come from the run's noise where a strategy's do.
    """

    name: str
    variant: Variant
    role: str
    against: Pass | None = None
    batch_size: int | None = None
    keep_logits: str = ""
    traces: dict[Key, Trace] = field(default_factory=dict)
    generated: Generated = field(default_factory=Generated)
    preferences: dict[Key, Preferences | None] = field(default_factory=dict)
    own_nll: dict[Key, np.ndarray] = field(default_factory=dict)
    judge_nll: dict[Key, np.ndarray] = field(default_factory=dict)
    judge_margin: dict[Key, np.ndarray] = field(default_factory=dict)
    positions: dict[Key, pd.DataFrame] = field(default_factory=dict)
    forced_tops: dict[Key, Tops] = field(default_factory=dict)
    judge_tops: dict[Key, Tops] = field(default_factory=dict)
    last_nll: dict[Key, np.ndarray] = field(default_factory=dict)
    layout: str = DECODED
    reads: str = FORCED
    coupled: bool = True

    @property
    def whole(self) -> bool:
        """Whether its texts were written to the end: a screening's are not."""
        return all(trace.finish != "screened" for trace in self.traces.values())

    def add(self, batch: Generated) -> None:
        """Takes in a finished batch."""
        self.traces |= batch.traces
        self.generated.scores |= batch.scores
        self.generated.logs |= batch.logs
        self.generated.tops |= batch.tops

    def as_drawn(self, strategy: Strategy) -> Strategy:
        """A strategy of the run as this variant drew by it."""
        return strategy if self.coupled or not strategy.samples else replace(strategy, coupling="none")

    def wrote(self, passage: Passage) -> bool:
        """Whether the passage's continuation is this pass's own text, token by token."""
        trace = self.traces.get(passage.key)
        return trace is not None and trace.token_ids == passage.reading.continuation

    def side(self, key: Key) -> Side:
        """One trace with the scores of its generating pass."""
        chosen, watched = self.generated.scores.get(key, ((), ()))
        again = self.role == "self" and self.layout == DECODED
        side = Side(self.traces[key], chosen, watched, partly=self.variant.recorded, again=again)
        if (log := self.generated.logs.get(key)) is not None:
            side.log = log
        return side


See = Callable[[Passage, Tensor, Preferences | None], None]


def unseen(passage: Passage, logits: Tensor, preferences: Preferences | None) -> None:
    """Nobody looks on while a variant reads."""


def positions(
    passage: Passage,
    reference: Tensor,
    candidate: Tensor,
    ours: Preferences | None,
    theirs: Preferences | None,
) -> pd.DataFrame:
    """The rows of positions/ for one passage, without keys and texts; one column per registered token metric.

    Args:
        reference, candidate: raw logits [T, vocab], each in their own dtype; `logit_margin_ulps` is in the spacing of
            the candidate's.
        ours, theirs: the strategy's preferences under the two; None where it has none a position.
    """
    tokens = torch.tensor(passage.reading.continuation)
    sides: dict[str, Tensor] = {}
    if ours is not None and theirs is not None:
        sides = {"choice_reference": ours.takes, "choice_candidate": theirs.takes}
        sides |= {"best_reference": ours.scores, "best_candidate": theirs.rival_scores}
    pair = LogitPair(
        reference=reference.to(candidate.device),
        candidate=candidate,
        token_ids=tokens.to(candidate.device),
        candidate_dtype=NAMES[candidate.dtype],
        **{name: values.to(candidate.device) for name, values in sides.items()},
    )
    of_text = {"position": np.arange(passage.start, passage.start + len(tokens)), "token_id": tokens.numpy()}
    return pd.DataFrame(of_text | token_metrics(pair))


def nll(logits: Tensor, tokens: tuple[int, ...]) -> np.ndarray:
    """Negative log-likelihood of each token, nats, float64 [T], from raw logits upcast exactly."""
    return np.asarray((log_totals(logits) - _at(logits, tokens)).cpu())


def readable(group: Sequence[Passage], width: int) -> list[Passage]:
    """The passages whose ids a variant with `width` embeddings can read."""
    return [p for p in group if max(p.reading.context + p.reading.continuation) < width]


def tops_of(logits: Tensor, tokens: tuple[int, ...], losses: np.ndarray) -> Tops:
    """The top tokens at forced positions whose losses are known: the log-sum-exp is loss + logit."""
    log_total = torch.tensor(losses, device=logits.device) + _at(logits, tokens)
    return tops(logits, log_total if bool(log_total.isfinite().all()) else None)


def _at(logits: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """Each position's logit at its token, float64 [T]."""
    ids = torch.tensor(tokens, dtype=torch.long, device=logits.device)
    return logits.gather(-1, ids[:, None]).squeeze(-1).double()


def divergence_row(
    reference: Pass,
    candidate: Pass,
    key: Key,
    strategy: Strategy,
    vocab: Vocabulary,
    near_tie_below: float,
    logits_dtype: str,
) -> dict[str, Any]:
    """One row of divergences.csv, without keys."""
    frame = candidate.positions.get(key)
    column = "choice_error" if strategy.penalised else "directional_error"
    error = None if frame is None or reference.role != "reference" else frame[column].to_numpy()
    return divergence(
        reference.side(key),
        candidate.side(key),
        strategy,
        vocab,
        near_tie_below=near_tie_below,
        logits_dtype=logits_dtype,
        error=error,
        beams=_beam_scores(reference, candidate, key, strategy) if strategy.searches else None,
    )


def _beam_scores(reference: Pass, candidate: Pass, key: Key, strategy: Strategy) -> BeamScores | None:
    """The four forced scores of docs/metrics.md; None where a pass did not read them (the controls)."""
    frame, losses, judge = candidate.positions.get(key), candidate.own_nll.get(key), candidate.judge_nll.get(key)
    if frame is None or losses is None or judge is None or not len(losses):
        return None
    penalty = strategy.params["length_penalty"]

    def score(losses: np.ndarray) -> float:
        return float(-np.sum(losses) / len(losses) ** penalty)

    return BeamScores(
        score(frame["nll_reference"].to_numpy()), score(judge), score(frame["nll_candidate"].to_numpy()), score(losses)
    )


def trace_row(trace: Trace, prompt: Prompt, vocab: Vocabulary, judged: np.ndarray | None) -> dict[str, Any]:
    """One row of traces.csv, without keys."""
    n, scored = len(trace.token_ids), len(trace.logprobs) == len(trace.token_ids)  # what is screened was not generated
    total = float(np.sum(trace.logprobs)) if scored else math.nan
    return {
        "prompt": prompt.text,
        "tags": " ".join(prompt.tags),
        "text": vocab.decode(trace.token_ids),
        "token_ids": " ".join(map(str, trace.token_ids)),
        "n_tokens": n,
        "finish": trace.finish,
        "logprob_sum": total,
        "perplexity_self": exp(-total / n) if n and scored else None,
        "perplexity_judge": exp(float(np.mean(judged))) if judged is not None and len(judged) else None,
        "min_margin": trace.min_margin,
        "nonfinite": trace.nonfinite,
    }


def texts_of(token_ids: pd.Series, vocab: Vocabulary) -> pd.Series:
    """The tokens as texts, each made once."""
    texts = {token: vocab.token(int(token)) for token in token_ids.unique()}
    return token_ids.map(texts).astype("object")


def write(
    output: Pass,
    job_reference: Pass,
    plan: Settings,
    prompts: Sequence[Prompt],
    vocab: Vocabulary,
    result: JobResult,
    near_tie_below: float = 0.1,
) -> None:
    """A finished pass as rows of a job's result: its traces, and what it was held against the other side."""
    by_id = {p.id: p for p in prompts}
    output.traces = filed(output.traces, prompts)
    for key, trace in output.traces.items():
        keys = {"model": plan.model, "variant": output.name, "role": output.role} | key._asdict()
        result.rows["traces"].append(keys | trace_row(trace, by_id[trace.prompt_id], vocab, output.judge_nll.get(key)))
    if output is job_reference:
        return
    against = output.against or job_reference
    pair = {"model": plan.model, "reference": against.name, "candidate": output.name, "role": output.role}
    strategies = {s.label: against.as_drawn(output.as_drawn(s)) for s, _ in plan.cells}
    dtype = result.facts[output.variant.name].get("logits_dtype", "")  # a candidate may have read nothing
    alternatives: list[Part] = []
    ledger = Ledger(BUDGET // max(1, len(plan.candidates)))
    for key in output.traces:
        strategy = strategies[key.strategy]
        row = divergence_row(against, output, key, strategy, vocab, near_tie_below, dtype)
        read = strategy.searches or against.layout == FORCED  # hypotheses are scored by reading them
        named, row["layout"] = pair | key._asdict(), FORCED if read else output.layout
        result.rows["divergences"].append(named | row)
        if output.role == "candidate":
            tops = _tops(against, output, key, plan.reader.name)
            alternatives.extend(ledger.rows(named, tops, row["first_divergence"]))
    if alternatives:
        result.rows["alternatives"].append(stacked(alternatives))
    if output.positions:
        keys = pair | {"layout": output.reads}
        frame = stacked([(keys | key._asdict(), dict(frame.items())) for key, frame in output.positions.items()])
        result.rows["positions"].append(frame.assign(token=texts_of(frame["token_id"], vocab)))


def _tops(reference: Pass, candidate: Pass, key: Key, judge: str) -> dict[tuple[str, str], Tops]:
    """Top tokens of both sides, and of a judge: along the reference's text, and each side's as it was generated."""
    sides = {(judge, FORCED): reference.judge_tops[key]} if key in reference.judge_tops else {}
    for side in (reference, candidate):
        for name, tops_by_key in (("generated", side.generated.tops), ("forced", side.forced_tops)):
            if key in tops_by_key:
                sides[side.name, name] = tops_by_key[key]
    return sides


def note_nonfinite(output: Pass, model: str, reference: str, result: JobResult) -> None:
    """Logits that are no numbers are a failure of the side that has them, recorded once per strategy."""
    ended = [trace.strategy for trace in output.traces.values() if trace.finish == "nonfinite"]
    frames = [(strategy, frame) for (strategy, _, _), frame in output.positions.items()]
    for (name, strategy), reason in reasons(reference, output.name, ended, frames).items():
        result.fail(model, name, "score" if strategy == "text" else "generate", "nonfinite", reason, strategy)
