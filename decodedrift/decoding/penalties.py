"""What a row has said already, held against what it may say next: repetition penalty and banned n-grams.

As in transformers, and in its order before all else that a strategy does: the history of a row is its prompt and what
it has generated. Padding is no part of it, as it is for the n-grams of a left-padded batch of `generate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from decodedrift.core.records import Strategy, VariantError

if TYPE_CHECKING:
    from torch import Tensor

History = Sequence[int]


def scored(logits: Tensor, strategy: Strategy, histories: Sequence[History]) -> Tensor:
    """What a strategy chooses from: the raw logits, and under a penalty what it leaves of them, in float64."""
    return penalised(logits.double(), strategy, histories) if strategy.penalised else logits


def penalised(logits: Tensor, strategy: Strategy, histories: Sequence[History]) -> Tensor:
    """Logits [n, vocab] in their own type, those of tokens in each row's history changed.

    Raises:
        ValueError: a penalty without one history a row.
        VariantError: every token of the vocabulary is banned.
    """
    if not strategy.penalised:
        return logits
    if len(histories) != len(logits):
        raise ValueError(f"{strategy.label}: {len(logits)} rows and {len(histories)} histories")
    out, width = logits.clone(), logits.shape[-1]
    factor, size = _factor(strategy), int(strategy.params.get("no_repeat_ngram", 0))
    for row, history in zip(out, histories, strict=True):
        if factor != 1:
            seen = sorted(token for token in {*history} if token < width)  # a head may be narrower than the reference's
            row[seen] = (row[seen] * factor).where(row[seen] < 0, row[seen] / factor)
        if ids := sorted(token for token in banned(history, size) if token < width):
            row[ids] = -math.inf
            if len(ids) == width:
                raise VariantError(f"{strategy.label}: every token is banned after {len(history)}; use larger n-grams")
    return out


def banned(history: History, size: int) -> set[int]:
    """The tokens that would complete an n-gram of this size which the history holds; none of size 0."""
    prefix = tuple(history[len(history) + 1 - size :])
    starts = range(len(history) - size + 1) if size else ()
    return {history[i + size - 1] for i in starts if tuple(history[i : i + size - 1]) == prefix}


def with_penalty(logit: float, token: int, strategy: Strategy, history: History) -> float:
    """The logit of a token that is not banned, as it is chosen by."""
    factor = _factor(strategy) if token in history else 1.0
    return logit * factor if logit < 0 else logit / factor


def without_penalty(logit: float, token: int, strategy: Strategy, history: History) -> float:
    """The raw logit again."""
    factor = _factor(strategy) if token in history else 1.0
    return logit / factor if logit < 0 else logit * factor


def _factor(strategy: Strategy) -> float:
    return float(strategy.params.get("repetition_penalty", 1.0))
