"""From raw logits to the distribution a sampling strategy draws from, exactly and in float64.

`Allowed` holds only the tokens that may be drawn, most probable first, so that noise is needed at these alone. Ties at
the boundary stay in (as top-k of transformers does), which makes the set a function of the logits and of nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from decodedrift.core.records import Strategy
from decodedrift.decoding.tops import log_totals
from decodedrift.numerics import gumbel

LOOK = 512  # tokens sorted at first: a trained model's nucleus is seldom larger, and a full sort is 45 % of a step


@dataclass
class Allowed:
    """The warped, renormalised distribution.

    ids: int64 [n, m], most probable first. log_p: float64 [n, m], nats, -inf where padded.
    """

    ids: Tensor
    log_p: Tensor

    def coupled_scores(self, keys: list[tuple[int, str, int]], vocab: int) -> Tensor:
        """log p~ + keyed Gumbel noise, float64 [n, m] on the CPU; its argmax is an exact draw of p~.

        Args:
            keys: (seed, prompt id, position) per row.
            vocab: width of the logits.
        """
        scores = self.log_p.cpu().clone()
        ids = self.ids.cpu().numpy()
        for row, (seed, prompt_id, position) in enumerate(keys):
            count = int(torch.isfinite(scores[row]).sum())
            scores[row, :count] += torch.from_numpy(gumbel.gumbel(seed, prompt_id, position, vocab, ids[row, :count]))
        return scores


def warp(logits: Tensor, strategy: Strategy) -> Allowed:
    """The distribution that `strategy` draws from.

    Args:
        logits: [n, vocab], any floating type; upcast exactly. Rows must hold no NaN.
    """
    temperature = float(strategy.params["temperature"])
    if strategy.name == "top-k":
        return _top_k(logits, temperature, min(int(strategy.params["k"]), logits.shape[-1]))
    return _top_p(logits, temperature, float(strategy.params["p"]))


def _top_k(logits: Tensor, temperature: float, k: int) -> Allowed:
    values, ids = torch.topk(logits, min(k + 1, logits.shape[-1]), dim=-1)
    kth = values[:, k - 1 : k]
    if bool((values[:, k:] == kth).any()):  # how many tie with the last that is allowed is open
        values, ids = torch.topk(logits, int((logits >= kth).sum(-1).max()), dim=-1)
    return _renormalised(values.double() / temperature, ids, values >= kth)


def _top_p(logits: Tensor, temperature: float, p: float) -> Allowed:
    log_total, vocab = log_totals(logits, temperature)[:, None], logits.shape[-1]
    for count in sorted({min(LOOK, vocab), vocab}):
        values, ids = torch.topk(logits, count, dim=-1) if count < vocab else logits.sort(dim=-1, descending=True)
        warped = values.double() / temperature
        mass_before = torch.cumsum((warped - log_total).exp(), dim=-1)
        mass_before = torch.cat([torch.zeros_like(mass_before[:, :1]), mass_before[:, :-1]], dim=-1)
        inside = mass_before < p
        inside[:, 0] = True
        last = values.gather(-1, inside.sum(-1, keepdim=True) - 1)
        if bool((values[:, -1:] < last).all()):  # the nucleus ends within these, ties and all
            break
    return _renormalised(warped, ids, values >= last)


def _renormalised(values: Tensor, ids: Tensor, inside: Tensor) -> Allowed:
    width = int(inside.sum(-1).max())
    kept = torch.where(inside, values, -torch.inf)[:, :width]
    return Allowed(ids[:, :width], kept - torch.logsumexp(kept, dim=-1, keepdim=True))
