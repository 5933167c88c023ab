"""What a row has said already, held against what it may say next: repetition penalty and banned n-grams.

As in transformers, and in its order before all else that a strategy does: the history of a row is its prompt and what
it has generated. Padding is no part of it, as it is for the n-grams of a left-padded batch of `generate`.

The histories of n rows are ids int64 [n, T] on the logits' device, each in one piece, with NOTHING before it or behind
it where another row has more. Rows are not looped over, nor values looked at while all cannot be banned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from decodedrift.core.records import Strategy, VariantError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NOTHING = -1


def histories(texts: Sequence[Sequence[int]], room: int = 0, device: torch.device | None = None) -> Tensor:
    """The histories of some texts, which end together; behind them columns of NOTHING for what is to come."""
    import torch

    longest = max(map(len, texts), default=0) + 1
    rows = [[*[NOTHING] * (longest - len(text)), *text, *[NOTHING] * room] for text in texts]
    return torch.tensor(rows, dtype=torch.long, device=device).view(len(texts), longest + room)


def along(context: Sequence[int], text: Sequence[int], device: torch.device | None = None) -> Tensor:
    """The histories at every position of a text, in the memory of one: row t is the context and the first t ids."""
    import torch

    ids = torch.tensor([*[NOTHING] * len(text), *context, *text[:-1]], dtype=torch.long, device=device)
    return ids.unfold(0, len(context) + len(text), 1)


def scored(logits: Tensor, strategy: Strategy, said: Tensor | None) -> Tensor:
    """What a strategy chooses from: the raw logits, and under a penalty what it leaves of them, in float64."""
    import torch

    return penalised(logits, strategy, said, torch.float64) if strategy.penalised else logits


def penalised(logits: Tensor, strategy: Strategy, said: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
    """Logits [n, vocab] in their own type or in `dtype`, those of tokens in each row's history changed.

    Raises:
        ValueError: a penalty without one history a row.
        VariantError: every token of the vocabulary is banned.
    """
    if not strategy.penalised:
        return logits
    if said is None or len(said) != len(logits):
        raise ValueError(f"{strategy.label}: {len(logits)} rows and {0 if said is None else len(said)} histories")
    out, spent = changed(logits, strategy, said, dtype or logits.dtype)
    if spent is not None and bool(spent.any()):
        raise all_banned(strategy, int((said[spent][0] != NOTHING).sum()))
    return out


def changed(logits: Tensor, strategy: Strategy, said: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The penalised logits, and whether a row would have every token banned, bool [n]: then none is banned there.

    None where the histories are too short for that. Who calls this has to tell it (`all_banned`), at once or later.
    """
    factor, size, width = _factor(strategy), int(strategy.params.get("no_repeat_ngram", 0)), logits.shape[-1]
    out, spent = logits.to(dtype, copy=True), None
    known = (said != NOTHING) & (said < width)  # a head may be narrower than the reference's
    if factor != 1:
        ids, counts = _written(said, known)
        before = out.gather(-1, ids)
        after = (before * factor).where(before < 0, before / factor)
        out.scatter_(-1, ids, after.where(counts, before))
    if 0 < size <= said.shape[-1]:
        ids, counts = _written(said[:, size - 1 :], known[:, size - 1 :] & _completing(said, size))
        if ids.shape[-1] >= width:
            spent = counts.new_zeros(logits.shape).scatter_(-1, ids, counts).all(-1)
            counts = counts & ~spent[:, None]
        out.scatter_(-1, ids, out.gather(-1, ids).masked_fill(counts, -math.inf))
    return out, spent


def all_banned(strategy: Strategy, said: int) -> VariantError:
    """The error of a row that has said so many ids."""
    return VariantError(f"{strategy.label}: every token is banned after {said}; use larger n-grams")


def _written(ids: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Where a scatter may write for each of some ids [n, k], of which not all count, and whether it changes anything.

    An id that does not count gives way to one of its row that does, so that ids which come twice get equal values; in a
    row without any to 0, which is then to be left as it is.
    """
    some = ids.where(counts, NOTHING).amax(-1, keepdim=True)
    return ids.where(counts, some).clamp(min=0), (some >= 0).expand_as(counts)


def _completing(said: Tensor, size: int) -> Tensor:
    """Whether the size - 1 ids before an id are the last of its row: bool [n, T - size + 1], of all but the first ids.

    Place by place: windows side by side would take size times the memory, and no less time. NOTHING may be taken for
    NOTHING before a short history, but nothing that was said stands behind such a window.
    """
    import torch

    starts, columns = said.shape[-1] - size + 1, torch.arange(said.shape[-1], device=said.device)
    ends = columns.where(said != NOTHING, 0).amax(-1, keepdim=True)
    same = torch.ones_like(said[:, size - 1 :], dtype=torch.bool)
    for place in range(size - 1):
        last = said.gather(-1, (ends - size + 2 + place).clamp(min=0))
        same &= said[:, place : place + starts] == last
    return same


def with_penalty(logit: float, token: int, strategy: Strategy, history: Sequence[int]) -> float:
    """The logit of a token that is not banned, as it is chosen by."""
    factor = _factor(strategy) if token in history else 1.0
    return logit * factor if logit < 0 else logit / factor


def without_penalty(logit: float, token: int, strategy: Strategy, history: Sequence[int]) -> float:
    """The raw logit again."""
    factor = _factor(strategy) if token in history else 1.0
    return logit / factor if logit < 0 else logit * factor


def _factor(strategy: Strategy) -> float:
    return float(strategy.params.get("repetition_penalty", 1.0))
