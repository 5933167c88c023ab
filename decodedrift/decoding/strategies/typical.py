"""typical: a draw from the tokens whose surprise is closest to what the distribution makes one expect.

(Locally typical sampling, Meister et al. 2022, https://arxiv.org/abs/2202.00666; `typical_p` of transformers.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, number
from decodedrift.decoding.strategies.base import PENALTIES, TEMPERATURE, StrategyKind
from decodedrift.decoding.warping import Allowed, renormalised
from decodedrift.numerics.logits import entropy

if TYPE_CHECKING:
    from torch import Tensor


def _allowed(logits: Tensor, params: Mapping[str, Any]) -> Allowed:
    from decodedrift.decoding.tops import descending

    ids = descending(logits, logits.shape[-1])
    log_p = (logits.gather(-1, ids).double() / params["temperature"]).log_softmax(-1)
    p = log_p.exp()
    distance = (-log_p - entropy(p, log_p)[:, None]).abs()
    nearest, order = distance.sort(dim=-1)
    last = (p.gather(-1, order).cumsum(-1) < params["mass"]).sum(-1, keepdim=True).clamp(max=p.shape[-1] - 1)
    inside = (distance <= nearest.gather(-1, last)) & (log_p > -math.inf)
    front = inside.long().argsort(dim=-1, descending=True, stable=True)  # what is left stays in order, from the start
    return renormalised(*(part.gather(-1, front) for part in (log_p, ids, inside)))


TYPICAL = StrategyKind(
    "a draw from the tokens of most typical surprise that hold probability mass (transformers' typical_p)",
    {"mass": Param(number(0, 1, open_low=True), 0.9), "temperature": TEMPERATURE, **PENALTIES},
    _allowed,
    samples=True,
    untruncated=lambda params: params["mass"] == 1,
    processors={"temperature": "TemperatureLogitsWarper", "mass": "TypicalLogitsWarper"},
)
