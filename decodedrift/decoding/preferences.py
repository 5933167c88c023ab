"""What a strategy makes of forced logits: the token it takes, its two best, and what given ids score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from decodedrift.core.records import Strategy
from decodedrift.decoding.penalties import along, scored
from decodedrift.decoding.strategies.base import kind_of
from decodedrift.decoding.warping import warp
from decodedrift.numerics import logits as nm

# at a time: more save calls, and take memory for several float64 copies of as many logits
ROWS = 64
LOGITS = 2**22


@dataclass(frozen=True)
class Preferences:
    """A strategy's preferences at each of n forced positions, on the CPU.

    A score is the logit for greedy, after a penalty, for coupled sampling the warped log-probability plus its noise;
    -inf of an id that is not allowed, and of the second best where one id alone is.

    takes: int64 [n], the token that it takes. best: int64 [n, 2], its two best ids. scores: float64 [n, 2], theirs.
    rival_scores: float64 [n, 2], those of the reference's two best ids. text_score: float64 [n], that of the text's own
    token.
    """

    takes: Tensor
    best: Tensor
    scores: Tensor
    rival_scores: Tensor
    text_score: Tensor

    def alone(self) -> Preferences:
        """The same where no reference is looked at."""
        return replace(self, rival_scores=self.scores)


def prefer(
    strategy: Strategy,
    seed: int,
    prompt_id: str,
    logits: Tensor,
    text: Sequence[int],
    reference: Preferences | None = None,
    context: Sequence[int] = (),
) -> Preferences | None:
    """The preferences on raw logits [n, vocab]; None where there are none a position: searches, uncoupled draws.

    Args:
        text: the n ids of the text that is read. context: those of its prompt, which a penalty counts too.
        reference: whose two best ids are scored here too; None: this is the reference.
    """
    if strategy.searches or (strategy.samples and not strategy.coupled):
        return None
    said, parts = along(context, text, logits.device) if strategy.penalised else None, []
    most = max(1, min(ROWS, LOGITS // logits.shape[-1]))
    for begin in range(0, len(logits), most):
        rows = slice(begin, begin + most)
        part, ids = logits[rows], torch.tensor(text[rows])[:, None]
        past = None if said is None else said[rows]
        if reference is not None:
            ids = torch.cat([reference.best[rows], ids], dim=1)
        if kind_of(strategy).allowed is None:
            takes, best, scores, given = _of_logits(scored(part, strategy, past), ids)
        else:
            keys = [(seed, prompt_id, begin + t) for t in range(len(part))]
            takes, best, scores, given = _of_allowed(strategy, keys, part, ids, past)
        parts.append(Preferences(takes, best, scores, scores if reference is None else given[:, :2], given[:, -1]))
    return Preferences(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Preferences)))


Parts = tuple[Tensor, Tensor, Tensor, Tensor]  # what it takes, its two best, their scores, the scores of given ids


def _of_logits(logits: Tensor, ids: Tensor) -> Parts:
    values, best = nm.top2(logits)
    width = logits.shape[-1]
    given = logits.gather(-1, ids.clamp(max=width - 1).to(logits.device)).double().cpu()
    return best[:, 0].cpu(), best.cpu(), values.double().cpu(), given.masked_fill(ids >= width, -math.inf)


def _of_allowed(
    strategy: Strategy,
    keys: list[tuple[int, str, int]],
    logits: Tensor,
    ids: Tensor,
    said: Tensor | None,
) -> Parts:
    clean = torch.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=-math.inf)
    allowed = warp(clean, strategy, said)
    scores, places = allowed.scores(strategy, keys, logits.shape[-1]).cpu(), allowed.ids.cpu()
    values, columns = nm.top2(scores)
    best = places.gather(-1, columns)
    of = [scores.masked_fill(places != one[:, None], -math.inf).amax(-1) for one in ids.unbind(-1)]
    return best[:, 0].clone(), best, values, torch.stack(of, -1)
