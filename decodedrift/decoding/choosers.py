"""Choosers: how one (strategy, seed) picks the next tokens of its rows, and the record it keeps of each choice.

The decoding loop (`loop.py`) knows nothing of strategies; it hands each chooser the logits of its rows. A chooser
has `width` rows per prompt, and `step` says which token each row takes and which row it continues.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from decodedrift.core.records import Strategy, Trace
from decodedrift.decoding.penalties import penalised, scored
from decodedrift.decoding.strategies.base import kind_of
from decodedrift.decoding.tops import Tops, joined, log_totals, tops
from decodedrift.decoding.warping import Allowed, warp
from decodedrift.models.processors import processed
from decodedrift.numerics import logits as nm


@dataclass(frozen=True)
class Move:
    """One step's outcome: tokens int64 [rows] on the CPU; parents int64 [rows], the row each continues, or None."""

    tokens: Tensor
    parents: Tensor | None = None


class Chooser(Protocol):
    """What the decoding loop needs of a strategy at work."""

    width: int

    def step(self, logits: Tensor, position: int) -> Move:
        """Chooses from raw logits [prompts * width, vocab] in the model's dtype."""
        ...

    @property
    def done(self) -> bool:
        """Whether every prompt has finished."""
        ...

    def traces(self) -> list[Trace]:
        """One Trace per prompt, in order."""
        ...


@dataclass
class ScoreLog:
    """The reference's scores of the generating pass, exact, until the candidates' tokens are known.

    Greedy keeps the logits of each position, raw in their own dtype, or in float64 after a penalty; coupled sampling
    keeps the allowed ids and their scores. `at` answers s_R[token] at a position, NaN where the token was not allowed.

    taken: the raw logit of the token taken at each position. context: the prompt's ids.
    """

    logits: Sequence[Tensor] | Tensor = field(default_factory=list)
    allowed: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    taken: Sequence[float] = ()
    context: Sequence[int] = ()

    def at(self, position: int, token: int) -> float:
        """The score of one token, in nats (greedy: the logit)."""
        if len(self.logits):
            there = position < len(self.logits) and token < self.logits[position].shape[-1]
            return float(self.logits[position][token]) if there else math.nan
        if position >= len(self.allowed):
            return math.nan
        ids, scores = self.allowed[position]
        return _score_of(ids, scores, token)


@dataclass
class _Row:
    """The state of one prompt's sequence."""

    prompt_id: str
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    chosen: list[float] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)
    watched: list[float] = field(default_factory=list)
    log: ScoreLog = field(default_factory=ScoreLog)
    logits: list[Tensor] = field(default_factory=list)
    tops: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    finish: str = ""
    nonfinite: int = 0


class Single:
    """Greedy and sampling: one row per prompt.

    watch: (prompt id -> the reference's tokens), whose scores under this variant are noted at every position:
    `watched[prompt id][t]` = s_C[y_R[t]]. keep_scores: note everything instead (the reference's own pass). prefixes:
    (prompt id -> what a row has already): it goes on behind that, and notes scores of what it adds alone. contexts:
    (prompt id -> its ids), which a penalty counts as said.
    """

    width = 1

    def __init__(
        self,
        strategy: Strategy,
        seed: int,
        prompt_ids: Sequence[str],
        *,
        eos: Sequence[int],
        pad: int,
        max_new_tokens: int,
        device: torch.device,
        watch: Mapping[str, Sequence[int]] | None = None,
        keep_scores: bool = False,
        prefixes: Mapping[str, Trace] | None = None,
        contexts: Mapping[str, Sequence[int]],
    ) -> None:
        self.strategy, self.seed, self.contexts = strategy, seed, contexts
        self.rows = [_Row(p) for p in prompt_ids]
        for row in self.rows:
            if (prefix := (prefixes or {}).get(row.prompt_id)) is not None:
                row.tokens, row.logprobs = list(prefix.token_ids), list(prefix.logprobs)
                row.margins = list(prefix.margins)
        self.eos, self.pad, self.max_new_tokens = frozenset(eos), pad, max_new_tokens
        self.watch, self.keep_scores = dict(watch or {}), keep_scores
        self.generator = torch.Generator(device=device).manual_seed(seed)

    @property
    def done(self) -> bool:
        """Whether every prompt has finished."""
        return all(row.finish for row in self.rows)

    def step(self, logits: Tensor, position: int) -> Move:
        """Chooses the next token of every unfinished row; finished rows are fed the pad id."""
        broken = nonfinite_counts(logits)
        for row, count in zip(self.rows, broken, strict=True):
            if count and not row.finish:
                row.finish, row.nonfinite = "nonfinite", int(count)
        clean = torch.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=-math.inf) if any(broken) else logits
        tokens = self._choose(clean)
        live = [i for i, row in enumerate(self.rows) if not row.finish]
        if live:
            rows = clean if len(live) == len(self.rows) else clean[live]
            log_total = log_totals(rows)
            top = tops(rows, log_total)
            taken = clean[live, tokens[live].to(clean.device)].double()
            values = zip(live, taken.tolist(), (taken - log_total).tolist(), strict=True)
            for n, (i, logit, value) in enumerate(values):
                row = self.rows[i]
                row.taken.append(logit)
                row.tops.append((top.ids[n], top.log_p[n]))
                row.tokens.append(int(tokens[i]))
                row.logprobs.append(value)
                row.finish = self._finish(row)
        dead = [i for i in range(len(self.rows)) if i not in set(live)]
        tokens[dead] = self.pad
        return Move(tokens)

    def traces(self) -> list[Trace]:
        """One Trace per prompt, in order."""
        return [
            Trace(
                row.prompt_id,
                self.strategy.label,
                self.seed,
                tuple(row.tokens),
                tuple(row.logprobs),
                tuple(row.margins),
                row.finish or "length",
                row.nonfinite,
                min((m for m in row.margins if not math.isnan(m)), default=math.nan),
            )
            for row in self.rows
        ]

    def scores(self) -> dict[str, tuple[list[float], list[float]]]:
        """Prompt id -> (score of the chosen token, score of the watched token) at each generated position."""
        return {row.prompt_id: (row.chosen, row.watched) for row in self.rows}

    def tops(self) -> dict[str, Tops]:
        """Prompt id -> the top tokens at each generated position."""
        return {row.prompt_id: joined(row.tops) for row in self.rows}

    def logs(self) -> dict[str, ScoreLog]:
        """Prompt id -> every score of the pass, where `keep_scores` asked for it."""
        return {
            row.prompt_id: ScoreLog(row.logits, row.log.allowed, row.taken, self.contexts[row.prompt_id])
            for row in self.rows
        }

    def _choose(self, logits: Tensor) -> Tensor:
        rows = self.rows if self.strategy.penalised else ()
        histories = [(*self.contexts[row.prompt_id], *row.tokens) for row in rows]
        if self.strategy.samples and not self.strategy.coupled:
            return self._draw(penalised(logits.float(), self.strategy, histories))
        if kind_of(self.strategy).allowed is not None:
            allowed = warp(logits, self.strategy, histories)
            keys = [(self.seed, row.prompt_id, len(row.tokens)) for row in self.rows]
            scores = allowed.scores(self.strategy, keys, logits.shape[-1])
            self._note(Allowed(allowed.ids.cpu(), scores))
            return allowed.ids.cpu().gather(-1, scores.argmax(-1, keepdim=True)).squeeze(-1)
        logits = scored(logits, self.strategy, histories)
        values, ids = nm.top2(logits)
        for row, (top, second) in zip(self.rows, values.tolist(), strict=True):
            if not row.finish:
                row.margins.append(top - second if math.isfinite(second) else math.nan)
                row.chosen.append(top)
        if self.keep_scores:
            on_cpu = logits.cpu()
            for i, row in enumerate(self.rows):
                if not row.finish:
                    row.logits.append(on_cpu[i].clone())
        self._watch_logits(logits)
        return ids[:, 0].cpu()

    def _draw(self, logits: Tensor) -> Tensor:
        """What plain `generate(do_sample=True)` draws of float32 logits, from a generator seeded once per batch."""
        scores = processed(logits, self.strategy.params, kind_of(self.strategy).processors)
        for row in self.rows:
            if not row.finish:
                row.margins.append(math.nan)
        return torch.multinomial(scores.softmax(-1), 1, generator=self.generator).squeeze(-1).cpu()

    def _note(self, scored: Allowed) -> None:
        best = scored.log_p.max(-1).values.tolist()
        alone = scored.log_p.shape[-1] == 1
        margins = [math.nan] * len(best) if alone else nm.margin(scored.log_p).tolist()
        for i, row in enumerate(self.rows):
            if row.finish:
                continue
            row.margins.append(margins[i])
            row.chosen.append(best[i])
            if self.keep_scores:
                row.log.allowed.append((scored.ids[i], scored.log_p[i]))
            watched = self.watch.get(row.prompt_id, ())
            if (position := len(row.tokens)) < len(watched):
                row.watched.append(_score_of(scored.ids[i], scored.log_p[i], watched[position]))

    def _watch_logits(self, logits: Tensor) -> None:
        texts = [self.watch.get(row.prompt_id, ()) for row in self.rows]
        live = [i for i, row in enumerate(self.rows) if not row.finish and len(row.tokens) < len(texts[i])]
        tokens, width = [texts[i][len(self.rows[i].tokens)] for i in live], logits.shape[-1]
        scores = logits[live, [min(token, width - 1) for token in tokens]].tolist()  # one wait for a GPU, not one a row
        for i, token, score in zip(live, tokens, scores, strict=True):
            self.rows[i].watched.append(score if token < width else math.nan)

    def _finish(self, row: _Row) -> str:
        if row.tokens[-1] in self.eos:
            return "eos"
        return "length" if len(row.tokens) >= self.max_new_tokens else ""


def nonfinite_counts(logits: Tensor) -> list[int]:
    """NaN and +inf logits per row. A row's sum tells whether there is anything to count; nearly always not."""
    suspect = ~torch.isfinite(logits.sum(-1, dtype=torch.float32 if logits.itemsize < 8 else None))
    if not bool(suspect.any()):
        return [0] * len(logits)
    return [int(n) for n in (torch.isnan(logits) | (logits == torch.inf)).sum(-1)]


def _score_of(ids: Tensor, scores: Tensor, token: int) -> float:
    place = (ids == token).nonzero()
    value = float(scores[place[0, 0]]) if len(place) else -math.inf
    return value if math.isfinite(value) else math.nan
