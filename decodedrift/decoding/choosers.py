"""Choosers: how one (strategy, seed) picks the next tokens of its rows, and the record it keeps of each choice.

The decoding loop (`loop.py`) knows nothing of strategies; it hands each chooser the logits of its rows. A chooser
has `width` rows per prompt, and `step` says which token each row takes and which row it continues.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from decodedrift.core.records import Strategy, Trace
from decodedrift.decoding.notes import Notes
from decodedrift.decoding.penalties import NOTHING, all_banned, changed, histories
from decodedrift.decoding.strategies.base import kind_of
from decodedrift.decoding.survey import Seen, survey
from decodedrift.decoding.tops import Tops
from decodedrift.models.processors import processed
from decodedrift.numerics.ranks import argmax


@dataclass(frozen=True)
class Move:
    """One step's outcome, on any device: tokens int64 [rows]; parents int64 [rows], the row each continues, or None."""

    tokens: Tensor
    parents: Tensor | None = None


class Chooser(Protocol):
    """What the decoding loop needs of a strategy at work."""

    width: int
    surveyed: bool  # whether `step` makes use of what is seen of its rows

    def step(self, logits: Tensor, position: int, seen: Seen | None = None) -> Move:
        """Chooses from raw logits [prompts * width, vocab] in the model's dtype; seen: what a survey of them tells."""
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


class Single:
    """Greedy and sampling: one row per prompt.

    watch: (prompt id -> the reference's tokens), whose scores under this variant are noted at every position:
    `watched[prompt id][t]` = s_C[y_R[t]]. keep_scores: note everything instead (the reference's own pass). prefixes:
    (prompt id -> what a row has already): it goes on behind that, and notes scores of what it adds alone. contexts:
    (prompt id -> its ids), which a penalty counts as said.
    """

    width, surveyed = 1, True

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
        self.prompt_ids, self.keep_scores = list(prompt_ids), keep_scores
        self.prefixes = [(prefixes or {}).get(p) for p in prompt_ids]
        written = [() if prefix is None else prefix.token_ids for prefix in self.prefixes]
        self.starts, room = [len(ids) for ids in written], max_new_tokens - min(map(len, written), default=0)
        known = [(*contexts[p], *ids) for p, ids in zip(prompt_ids, written, strict=True)]
        self.before, self.said = [len(ids) for ids in known], histories(known, room, device)
        self.begin, self.remembers = self.said.shape[-1] - room, strategy.penalised
        self.ends, self.count = frozenset(eos), len(self.prompt_ids)
        self.eos = torch.tensor(sorted(self.ends), dtype=torch.long, device=device)
        self.pad = torch.tensor(pad, device=device)
        self.left = torch.tensor([max_new_tokens - start for start in self.starts], device=device)
        self.texts = [(watch or {}).get(p, ())[start:] for p, start in zip(prompt_ids, self.starts, strict=True)]
        self.watch = _table(self.texts).to(device)
        self.alive = torch.ones(self.count, dtype=torch.bool, device=device)
        self.broken = torch.zeros(self.count, dtype=torch.long, device=device)
        self.spent: Tensor | None = None  # of rows that had every token banned, the number of the step; 0 of others
        self.notes, self.steps = Notes(), 0
        draws = strategy.samples and not strategy.coupled
        self.generator = torch.Generator(device=device).manual_seed(seed) if draws else None

    @property
    def done(self) -> bool:
        """Whether every prompt has finished; a GPU is waited for.

        Raises:
            VariantError: a penalty has left a row nothing to choose from.
        """
        self._tell_spent()
        return not bool(self.alive.any())

    def ended(self, prompt_ids: Collection[str]) -> bool:
        """Whether these have finished; a GPU is waited for."""
        rows = [row for row, name in enumerate(self.prompt_ids) if name in prompt_ids]
        return not bool(self.alive[rows].any())

    def step(self, logits: Tensor, position: int, seen: Seen | None = None) -> Move:
        """Chooses the next token of every unfinished row; finished rows are fed the pad id, and 0 once all are."""
        (seen,) = survey(logits, [slice(None)]) if seen is None else (seen,)
        filler = self.pad * self.alive.any()
        self.broken += seen.broken * self.alive
        self.alive = alive = self.alive & (seen.broken == 0)
        self.notes.add(top_values=seen.top[0], top_ids=seen.top[1])
        tokens, log_total = self._choose(seen.logits), seen.log_total
        taken = seen.logits.gather(-1, tokens[:, None]).squeeze(-1).double()
        self.notes.add(alive=alive, tokens=tokens, taken=taken, logprobs=taken - log_total, log_total=log_total)
        if self.remembers:
            self.said[:, self.begin + self.steps] = tokens.where(alive, NOTHING)
        self.steps += 1
        self.alive = alive & (self.left > self.steps) & ~torch.isin(tokens, self.eos)
        return Move(tokens.where(alive, filler))

    def traces(self) -> list[Trace]:
        """One Trace per prompt, in order."""
        lengths = self._lengths()
        tokens, logprobs, margins = (self.notes.lists(name, lengths) for name in ("tokens", "logprobs", "margins"))
        rows = zip(self.prompt_ids, self.prefixes, tokens, logprobs, margins, self.broken.tolist(), strict=True)
        return [self._trace(*row) for row in rows]

    def scores(self) -> dict[str, tuple[list[float], list[float]]]:
        """Prompt id -> (score of the chosen token, score of the watched token) at each generated position."""
        lengths = self._lengths()
        watched = [min(length, len(text)) for length, text in zip(lengths, self.texts, strict=True)]
        chosen = self.notes.lists("chosen", lengths), self.notes.lists("watched", watched)
        return dict(zip(self.prompt_ids, zip(*chosen, strict=True), strict=True))

    def tops(self) -> dict[str, Tops]:
        """Prompt id -> the top tokens at each generated position."""
        return dict(zip(self.prompt_ids, self.notes.tops(self._lengths()), strict=True))

    def logs(self) -> dict[str, ScoreLog]:
        """Prompt id -> every score of the pass, where `keep_scores` asked for it."""
        lengths = self._lengths()
        taken, logs = self.notes.lists("taken", lengths), {}
        for row, (name, length) in enumerate(zip(self.prompt_ids, lengths, strict=True)):
            logits, ids, scores = (
                [step[row] for step in self.notes.rows[kept][:length]] for kept in ("logits", "ids", "scores")
            )
            logs[name] = ScoreLog(logits, list(zip(ids, scores, strict=True)), taken[row], self.contexts[name])
        return logs

    def history(self) -> Tensor:
        """What each row has said so far, as `penalties` has it; for whom it `remembers`."""
        return self.said[:, : self.begin + self.steps]

    def _lengths(self) -> list[int]:
        """How many tokens each row has taken."""
        self._tell_spent()
        alive = self.notes.of("alive")
        return alive.sum(0).tolist() if alive.numel() else [0] * self.count

    def _choose(self, logits: Tensor) -> Tensor:
        """Every row's token, int64 [n]; of a row that has finished it means nothing."""
        if self.strategy.samples and not self.strategy.coupled:
            return self._draw(self._penalised(logits, torch.float32).float())
        logits, allowing = self._penalised(logits, torch.float64), kind_of(self.strategy).allowed
        if allowing is not None:
            allowed = allowing(logits, self.strategy.params)
            keys = [(self.seed, p, start + self.steps) for p, start in zip(self.prompt_ids, self.starts, strict=True)]
            scores = allowed.scores(self.strategy, keys, logits.shape[-1])
            if self.keep_scores:
                self.notes.keep(ids=allowed.ids, scores=scores)
            if (wanted := self._wanted()) is not None:
                there = scores.masked_fill(allowed.ids != wanted, -math.inf).amax(-1)
                self.notes.add(watched=there.masked_fill(there == -math.inf, math.nan))
            return allowed.ids.gather(-1, self._note_best(scores)).squeeze(-1)
        if self.keep_scores:
            self.notes.keep(logits=logits)
        if (wanted := self._wanted()) is not None:
            there = logits.gather(-1, wanted.clamp(0, logits.shape[-1] - 1)).squeeze(-1).double()
            self.notes.add(watched=there.masked_fill(wanted.squeeze(-1) >= logits.shape[-1], math.nan))
        top = None if self.strategy.penalised else self.notes.steps["top_values"][-1]
        return self._note_best(logits, top).squeeze(-1)

    def _penalised(self, logits: Tensor, dtype: torch.dtype) -> Tensor:
        """What penalties leave of logits, in that type; where it is nothing that is told when the host looks next."""
        if not self.strategy.penalised:
            return logits
        logits, spent = changed(logits, self.strategy, self.history(), dtype)
        if spent is not None:
            noted = torch.zeros_like(self.left) if self.spent is None else self.spent
            self.spent = noted.masked_fill(spent & self.alive & (noted == 0), self.steps + 1)
        return logits

    def _tell_spent(self) -> None:
        if self.spent is not None and (steps := [(at, row) for row, at in enumerate(self.spent.tolist()) if at]):
            at, row = min(steps)
            raise all_banned(self.strategy, self.before[row] + at - 1)

    def _note_best(self, scores: Tensor, top: Tensor | None = None) -> Tensor:
        """The place of the best score, int64 [n, 1]; notes it, and its margin over the second best: NaN without one.

        top: the largest scores in descending order, where they are known.
        """
        place = argmax(scores)[:, None]
        first = scores.gather(-1, place).squeeze(-1).double()
        if top is None or top.shape[-1] < 2:
            second = scores.scatter(-1, place, -math.inf).amax(-1).double()
        else:
            second = top[:, 1].double()
        self.notes.add(chosen=first, margins=(first - second).masked_fill(~second.isfinite(), math.nan))
        return place

    def _draw(self, logits: Tensor) -> Tensor:
        """What plain `generate(do_sample=True)` draws of float32 logits, from a generator seeded once per batch."""
        scores = processed(logits, self.strategy.params, kind_of(self.strategy).processors)
        self.notes.add(margins=logits.new_full((len(logits),), math.nan))
        return torch.multinomial(scores.softmax(-1), 1, generator=self.generator).squeeze(-1)

    def _wanted(self) -> Tensor | None:
        """The watched ids of this step, int64 [n, 1], -1 where a row has none; None where no row has any."""
        return self.watch[:, self.steps : self.steps + 1] if self.steps < self.watch.shape[1] else None

    def _trace(
        self, prompt_id: str, prefix: Trace | None, tokens: list[int], logprobs: list[float], margins: list[float],
        broken: int,
    ) -> Trace:  # fmt: skip
        finish = "nonfinite" if broken else "eos" if tokens and tokens[-1] in self.ends else "length"
        if prefix is not None:
            tokens, logprobs = [*prefix.token_ids, *tokens], [*prefix.logprobs, *logprobs]
            margins = [*prefix.margins, *margins]
        least = min((m for m in margins if not math.isnan(m)), default=math.nan)
        return Trace(
            prompt_id, self.strategy.label, self.seed, tuple(tokens), tuple(logprobs), tuple(margins), finish, broken,
            least,
        )  # fmt: skip


def _table(texts: Sequence[Sequence[int]]) -> Tensor:
    """int64 [n, length of the longest], -1 behind the end of a shorter one."""
    rows = [torch.tensor(text, dtype=torch.long) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1) if rows else torch.empty(0, 0)


def _score_of(ids: Tensor, scores: Tensor, token: int) -> float:
    place = (ids == token).nonzero()
    value = float(scores[place[0, 0]]) if len(place) else -math.inf
    return value if math.isfinite(value) else math.nan
