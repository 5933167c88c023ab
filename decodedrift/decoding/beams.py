"""Beam search with the semantics of transformers' `generate`, one step at a time.

Written as a step so that beams can share a forward pass with other strategies, and so that float64 logits stay
float64 (`generate` casts every logit to float32). Scores accumulate in float32 for the other types, as `generate`'s do:
the tokens are the same, all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from decodedrift.core.records import Strategy, Trace
from decodedrift.decoding.choosers import Move
from decodedrift.decoding.notes import Notes
from decodedrift.decoding.survey import Seen, cleaned
from decodedrift.decoding.tops import log_totals

NEVER = -1.0e9  # generate's own "cannot be chosen"


class Beams:
    """Beam search over `width` hypotheses per prompt. Tensors are [prompts, hypotheses] on the model's device.

    At every step `keep` continuations of a prompt's running hypotheses are noted: token, log-probability, and the place
    among those of the step before that each continues. A hypothesis is a step and a place there; its text is followed
    back at the end.
    """

    surveyed = False

    def __init__(
        self,
        strategy: Strategy,
        prompt_ids: Sequence[str],
        *,
        eos: Sequence[int],
        max_new_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.strategy, self.prompt_ids = strategy, list(prompt_ids)
        self.width = strategy.rows
        self.penalty: float = strategy.params["length_penalty"]
        self.early: bool | str = strategy.params["early_stopping"]
        self.length = max_new_tokens
        self.eos = torch.tensor(list(eos), dtype=torch.long, device=device)
        self.keep = max(2, 1 + len(eos)) * self.width
        n, w = len(self.prompt_ids), self.width
        real: dict[str, Any] = {"dtype": torch.float64 if dtype == torch.float64 else torch.float32, "device": device}
        self.notes = Notes()
        self.running = torch.zeros((n, w), dtype=torch.long, device=device)  # places in the step before
        self.running_scores = torch.zeros((n, w), **real)
        self.running_scores[:, 1:] = NEVER  # the first step must not take the same token w times
        self.finished = torch.zeros_like(self.running)  # places in the steps at which they ended
        self.finished_at = torch.full_like(self.running, -1)
        self.finished_scores = torch.full((n, w), NEVER, **real)
        self.is_finished = torch.zeros((n, w), dtype=torch.bool, device=device)
        self.can_improve = torch.ones((n, 1), dtype=torch.bool, device=device)
        self.broken, self.broken_at = (torch.zeros(n, dtype=torch.long, device=device) for _ in range(2))
        self.before = self.running[:, 0]  # of a broken prompt, its best in the step before it broke
        self.stopped = torch.zeros((), dtype=torch.bool, device=device)
        self.own = torch.arange(n * w, device=device)
        self.places = torch.arange(self.keep, device=device).expand(n, -1)

    @property
    def done(self) -> bool:
        """Whether no prompt can gain from another step; a GPU is waited for."""
        return bool(self.stopped)

    def step(self, logits: Tensor, position: int, seen: Seen | None = None) -> Move:
        """One expansion of every hypothesis; returns each running row's token and the row it continues.

        Once it has stopped, what is finished stays, and rows go on as filler.
        """
        over = self.stopped
        n, w = len(self.prompt_ids), self.width
        logits = self._drop_broken(logits, position)
        wide = logits.to(self.running_scores.dtype)
        total = (torch.log_softmax(wide, dim=-1).view(n, w, -1) + self.running_scores[:, :, None]).view(n, -1)
        vocab = logits.shape[-1]
        if total.shape[-1] < self.keep:
            raise ValueError(f"beam search needs a vocabulary of at least {self.keep // w} tokens")
        scores, flat = torch.topk(total, self.keep)
        beam, token = flat // vocab, flat % vocab
        rows = beam + self.own.view(n, w)[:, :1]
        logprobs = self._raw_logprobs(logits, rows, token)
        self.notes.add(tokens=token, logprobs=logprobs, parents=self.running.gather(1, beam))
        ended = torch.isin(token, self.eos) if position + 1 < self.length else torch.ones_like(token, dtype=torch.bool)
        chosen = torch.topk(scores + ended.to(scores.dtype) * NEVER, k=w)
        self.running = chosen.indices
        self._finish(scores, ended, position)
        self.running_scores = chosen.values
        self._stop(ended, position)
        tokens, parents = token.gather(1, chosen.indices).view(-1), rows.gather(1, chosen.indices).view(-1)
        return Move(tokens.masked_fill(over, 0), parents.where(~over, self.own))

    def traces(self) -> list[Trace]:
        """The best finished hypothesis of each prompt; `score` is `generate`'s sequences_scores."""
        noted = [self.notes.of(name).numpy() for name in ("tokens", "logprobs", "parents")]
        return [self._trace(i, [note[:, i] for note in noted]) for i in range(len(self.prompt_ids))]

    def _finish(self, scores: Tensor, ended: Tensor, position: int) -> None:
        """Merges hypotheses that just ended into the kept ones; only the top `width` may enter."""
        entering = ended & (self.places < self.width)
        scores = scores / ((position + 1) ** self.penalty)
        full = self.is_finished.all(-1, keepdim=True) & (self.early is True)
        for barred in (full, ~self.can_improve, ~entering):
            scores = scores + barred.to(scores.dtype) * NEVER
        merged = torch.cat((self.finished_scores, scores), dim=1)
        best = torch.topk(merged, k=self.width)
        kept = best.indices.where(~self.stopped, self.places[:, : self.width])
        self.finished = torch.cat((self.finished, self.places), dim=1).gather(1, kept)
        steps = torch.full_like(self.places, position)
        self.finished_at = torch.cat((self.finished_at, steps), dim=1).gather(1, kept)
        self.finished_scores = merged.gather(1, kept)
        self.is_finished = torch.cat((self.is_finished, entering), dim=1).gather(1, kept)

    def _stop(self, ended: Tensor, position: int) -> None:
        """generate's rule: best still possible against worst kept, and nothing left that runs."""
        reach = self.length if self.early == "never" and self.penalty > 0.0 else position + 1
        best = self.running_scores[:, :1] / (reach**self.penalty)
        worst = torch.where(self.is_finished, self.finished_scores.min(dim=1, keepdim=True).values, NEVER)
        self.can_improve = self.can_improve & (best > worst).any(dim=-1, keepdim=True)
        full = self.is_finished.all() & (self.early is True)
        self.stopped = self.stopped | ~self.can_improve.any() | full | ended.all()

    def _raw_logprobs(self, logits: Tensor, rows: Tensor, token: Tensor) -> Tensor:
        """Float64 log-probabilities of the candidates; a CPU normalises the few rows that they continue alone."""
        if rows.device.type != "cpu":
            return logits[rows, token].double() - log_totals(logits)[rows]
        parents, index = torch.unique(rows, return_inverse=True)
        return logits[rows, token].double() - log_totals(logits[parents])[index]

    def _drop_broken(self, logits: Tensor, position: int) -> Tensor:
        """A prompt whose logits hold NaN or +inf ends here: its best running hypothesis so far is its trace."""
        clean, counts = cleaned(logits)
        if clean is logits:
            return logits
        count = counts.view(-1, self.width).sum(-1)
        over = self.stopped | ~self.can_improve[:, 0] | (self.is_finished.all(-1) & (self.early is True))
        new = (count > 0) & ~over & (self.broken == 0)
        self.broken = count.where(new, self.broken)
        self.broken_at = self.broken_at.masked_fill(new, position)
        self.before = self.running[:, 0].where(new, self.before)
        return clean

    def _trace(self, i: int, noted: Sequence[Any]) -> Trace:
        if count := int(self.broken[i]):
            tokens, logprobs = _text(noted, int(self.broken_at[i]) - 1, int(self.before[i]))
            return self._record(i, tokens, logprobs, "nonfinite", count, math.nan, math.nan)
        tokens, logprobs = _text(noted, int(self.finished_at[i, 0]), int(self.finished[i, 0]))
        score, margin = float(self.finished_scores[i, 0]), math.nan
        if bool(self.is_finished[i, :2].all()):
            margin = score - float(self.finished_scores[i, 1])
        finish = "eos" if tokens[-1] in self.eos.tolist() else "length"
        return self._record(i, tokens, logprobs, finish, 0, margin, score)

    def _record(
        self, i: int, tokens: list[int], logprobs: list[float], finish: str, nonfinite: int, margin: float, score: float
    ) -> Trace:
        label, prompt_id = self.strategy.label, self.prompt_ids[i]
        return Trace(prompt_id, label, 0, tuple(tokens), tuple(logprobs), (), finish, nonfinite, margin, score)


def _text(noted: Sequence[Any], last: int, place: int) -> tuple[list[int], list[float]]:
    """Tokens and log-probabilities of a hypothesis. noted: one prompt's, and their parents, [steps, keep] each."""
    tokens, logprobs, parents = noted
    path: list[tuple[int, int]] = []
    for position in range(last, -1, -1):
        path.append((position, place))
        place = int(parents[position, place])
    path.reverse()
    return [int(tokens[at]) for at in path], [float(logprobs[at]) for at in path]
