"""What a strategy does with forced logits: the token it takes, its two best, and their scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from decodedrift.core.records import Strategy
from decodedrift.decoding.warping import warp
from decodedrift.numerics import logits as nm

ROWS = 8  # at a time: float64 copies of so few stay in a CPU's cache


@dataclass(frozen=True)
class Choices:
    """A strategy's choice at each of n forced positions, on the CPU.

    tokens: int64 [n], what it takes. best: int64 [n, 2], its two best ids, and scores: float64 [n, 2], what they score
    (greedy: the logit; coupled sampling: the warped log-probability plus its noise; -inf where one id alone is
    allowed). asked: float64 [n, m], the scores of m given ids, -inf where one is not allowed here.
    """

    tokens: Tensor
    best: Tensor
    scores: Tensor
    asked: Tensor


def choices(strategy: Strategy, seed: int, prompt_id: str, logits: Tensor, ids: Tensor | None = None) -> Choices | None:
    """The strategy's choices on raw logits [n, vocab]; None where it has none a position: beams, uncoupled draws.

    Args:
        ids: int64 [n, m], whose scores are asked for; None: its own two best.
    """
    if strategy.searches or (strategy.samples and not strategy.coupled):
        return None
    parts = []
    for begin in range(0, len(logits), ROWS):
        part = logits[begin : begin + ROWS]
        asked = None if ids is None else ids[begin : begin + ROWS].cpu()
        if strategy.samples:
            parts.append(_sampled(strategy, [(seed, prompt_id, begin + t) for t in range(len(part))], part, asked))
        else:
            parts.append(_greedy(part, asked))
    return Choices(*(torch.cat([getattr(p, f) for p in parts]) for f in ("tokens", "best", "scores", "asked")))


def _greedy(logits: Tensor, ids: Tensor | None) -> Choices:
    values, best = nm.top2(logits)
    values, best = values.double().cpu(), best.cpu()
    asked = values
    if ids is not None:
        width = logits.shape[-1]
        found = logits.gather(-1, ids.clamp(max=width - 1).to(logits.device)).double().cpu()
        asked = found.masked_fill(ids >= width, -math.inf)
    return Choices(logits.argmax(-1).cpu(), best, values, asked)


def _sampled(strategy: Strategy, keys: list[tuple[int, str, int]], logits: Tensor, ids: Tensor | None) -> Choices:
    clean = torch.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=-math.inf)
    allowed = warp(clean, strategy)
    scores, own = allowed.coupled_scores(keys, logits.shape[-1]), allowed.ids.cpu()
    if scores.shape[-1] == 1:  # one id a row: the second best is none
        scores = torch.cat([scores, scores.new_full((len(scores), 1), -math.inf)], -1)
        own = own.repeat_interleave(2, dim=-1)
    values, columns = nm.top2(scores)
    best = own.gather(-1, columns)
    asked = values
    if ids is not None:
        asked = torch.stack([scores.masked_fill(own != one[:, None], -math.inf).amax(-1) for one in ids.unbind(-1)], -1)
    return Choices(best[:, 0].clone(), best, values, asked)
