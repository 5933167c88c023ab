"""From raw logits to the distribution that a strategy draws from, exactly and in float64.

`Allowed` holds only the tokens that may be drawn, most probable first, so that noise is needed at these alone. Ties at
the boundary stay in (as top-k of transformers does), which makes the set a function of the logits and of nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decodedrift.core.records import Strategy
from decodedrift.decoding.penalties import scored
from decodedrift.numerics import gumbel

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Allowed:
    """The warped, renormalised distribution.

    ids: int64 [n, m], most probable first. log_p: float64 [n, m], nats, -inf where padded.
    """

    ids: Tensor
    log_p: Tensor

    def scores(self, strategy: Strategy, keys: list[tuple[int, str, int]], vocab: int) -> Tensor:
        """What the strategy takes the largest of: log p~, float64 [n, m], with noise where it samples."""
        return self.coupled_scores(keys, vocab) if strategy.samples else self.log_p

    def coupled_scores(self, keys: list[tuple[int, str, int]], vocab: int) -> Tensor:
        """log p~ + keyed Gumbel noise, float64 [n, m]; its argmax is an exact draw of p~.

        A GPU is not waited for: it is sent the noise of every id, and picks.

        Args:
            keys: (seed, prompt id, position) per row.
            vocab: width of the logits.
        """
        import torch

        if self.ids.device.type == "cpu":
            return self.log_p + torch.from_numpy(gumbel.rows(keys, vocab, self.ids.numpy()))
        noise = torch.from_numpy(gumbel.rows(keys, vocab)).to(self.ids.device, non_blocking=True)
        return self.log_p + noise.gather(-1, self.ids)


def warp(logits: Tensor, strategy: Strategy, said: Tensor | None = None) -> Allowed:
    """The distribution that a strategy draws from; of one that takes the largest logit there is none.

    Args:
        logits: raw, [n, vocab], any floating type; upcast exactly. Rows must hold no NaN.
        said: the rows' histories, as `penalties` has them; under a penalty it needs them.
    """
    allowed: Allowed = strategy.kind.allowed(scored(logits, strategy, said), strategy.params)
    return allowed


def renormalised(values: Tensor, ids: Tensor, inside: Tensor) -> Allowed:
    """The distribution over what is `inside`, of warped logits float64 [n, m] in descending order and their ids."""
    width = int(inside.sum(-1).max())
    scores = values[:, :width].masked_fill(~inside[:, :width], -math.inf)
    return Allowed(ids[:, :width], scores - scores.logsumexp(-1, keepdim=True))
