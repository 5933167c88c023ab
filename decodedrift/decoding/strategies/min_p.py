"""min-p: a draw from the tokens that are at least p times as probable as the most probable one.

(Nguyen et al. 2024, https://arxiv.org/abs/2407.01082; `min_p` of transformers.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, number
from decodedrift.decoding.strategies.base import PENALTIES, TEMPERATURE, StrategyKind
from decodedrift.decoding.warping import Allowed, renormalised

if TYPE_CHECKING:
    from torch import Tensor


def _allowed(logits: Tensor, params: Mapping[str, Any]) -> Allowed:
    from decodedrift.decoding.tops import descending

    probabilities = (logits.double() / params["temperature"]).softmax(-1)
    inside = probabilities >= params["p"] * probabilities.amax(-1, keepdim=True)
    ids = descending(logits, int(inside.sum(-1).max()))
    return renormalised(logits.gather(-1, ids).double() / params["temperature"], ids, inside.gather(-1, ids))


MIN_P = StrategyKind(
    "a draw from the tokens at least p times as probable as the first (transformers' min_p)",
    {"p": Param(number(0, 1, open_low=True), 0.05), "temperature": TEMPERATURE, **PENALTIES},
    _allowed,
    samples=True,
    processors={"temperature": "TemperatureLogitsWarper", "p": "MinPLogitsWarper"},
    request=lambda params: {"temperature": params["temperature"], "min_p": params["p"]},
)
