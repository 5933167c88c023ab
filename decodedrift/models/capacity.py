"""Experts of limited capacity, as GShard (arXiv 2006.16668) and Switch (arXiv 2101.03961) have them, over any mixture.

With a factor F an expert takes at most ceil(F n k / E) tokens of one forward pass: n tokens that are no filler, k
choices each, E experts. All first choices come in the order of the batch, then all second ones, and so on; a token's
first choice is that of its largest weight. What finds its expert full adds 0, and its other weights stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from decodedrift.models.experts import breach, routed, watched
from decodedrift.models.load import Loaded


@dataclass
class Dropped:
    """What a limit did. choices: of all tokens that are no filler, in all layers and forward passes."""

    choices: int = 0
    dropped: int = 0

    @property
    def share(self) -> float:
        """Of the choices, those that found their expert full; NaN where there was none."""
        return self.dropped / self.choices if self.choices else math.nan


@contextmanager
def limited(loaded: Loaded, factor: float) -> Iterator[Dropped]:
    """While it is open, the experts of a model take so many tokens of each forward pass and no more.

    Which tokens are filler is read from the attention mask of the call. A row that has ended and is read on counts.

    Raises:
        VariantError: a model whose experts cannot be reached, or whose mask does not tell its filler.
    """
    modules, total = routed(loaded), Dropped()
    masks: list[Tensor | None] = [None]

    def begins(model: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        masks[0] = _mask(loaded, named.get("attention_mask"), named.get("input_ids", *arguments[:1]))

    def see(path: str, indices: Tensor, weights: Tensor) -> Tensor | None:
        mask = masks[0]
        if mask is None:
            mask = torch.ones(len(indices), dtype=torch.bool, device=indices.device)
        elif len(mask) != len(indices):
            breach(loaded, "does not give its experts every token of the batch")
        competes = mask[:, None] & (weights != 0)  # some families write a weight of 0 for no choice at all
        keeps = kept(indices, weights, competes, capacity(factor, int(mask.sum()), indices, modules[path].num_experts))
        lost = competes & ~keeps
        total.choices += int(competes.sum())
        total.dropped += int(lost.sum())
        return weights.masked_fill(lost, 0)

    handle = loaded.model.register_forward_pre_hook(begins, with_kwargs=True)
    try:
        with watched(loaded, see):
            yield total
    finally:
        handle.remove()


def capacity(factor: float, tokens: int, indices: Tensor, experts: int) -> int:
    """ceil(F n k / E), of the factor as it is written in decimals.

    >>> capacity(1.1, 100, torch.zeros(100, 2), 4)  # in floating point 1.1 x 100 x 2 / 4 is above 55
    55
    """
    return math.ceil(Fraction(str(factor)) * tokens * indices.shape[-1] / experts)


def kept(indices: Tensor, weights: Tensor, competes: Tensor, most: int) -> Tensor:
    """Which choices find a place, bool [tokens, k].

    Args:
        indices: int64 [tokens, k], the experts of each token; weights: likewise. competes: bool, which take a place at
            all. most: places of an expert.

    >>> first, second = torch.tensor([[0, 1], [0, 1], [1, 0]]), torch.tensor([[0.6, 0.4]] * 3)
    >>> kept(first, second, second > 0, 2).tolist()  # expert 0: tokens 0 and 1; expert 1: token 2, then 0's second
    [[True, True], [True, False], [True, False]]
    """
    ranks = weights.argsort(stable=True, dim=-1, descending=True)
    queue = indices.masked_fill(~competes, -1).gather(-1, ranks).T.reshape(-1)
    grouped, order = queue.sort(stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(queue), device=queue.device) - torch.searchsorted(grouped, grouped)
    inside = ((places < most) & (queue >= 0)).reshape(ranks.T.shape).T
    return torch.zeros_like(competes).scatter(-1, ranks, inside)


def _mask(loaded: Loaded, mask: Any, ids: Any) -> Tensor | None:
    """Which tokens of a forward pass are no filler, bool [tokens of all rows]; None where all are none."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2 or not isinstance(ids, Tensor):
        breach(loaded, "is called with a mask that does not tell what is filler; leave cache= out")
    return mask[:, -ids.shape[-1] :].bool().reshape(-1)
