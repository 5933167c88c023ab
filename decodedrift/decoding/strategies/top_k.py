"""top-k: a draw from the k most probable tokens, and all that tie with the last of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, count
from decodedrift.decoding.strategies.base import PENALTIES, TEMPERATURE, StrategyKind
from decodedrift.decoding.warping import Allowed, renormalised

if TYPE_CHECKING:
    from torch import Tensor


def _allowed(logits: Tensor, params: Mapping[str, Any]) -> Allowed:
    from decodedrift.decoding.tops import descending

    k = min(int(params["k"]), logits.shape[-1])
    ids = descending(logits, min(k + 1, logits.shape[-1]))
    values = logits.gather(-1, ids)
    kth = values[:, k - 1 : k]
    if bool((values[:, k:] == kth).any()):  # how many tie with the last that is allowed is open
        ids = descending(logits, int((logits >= kth).sum(-1).max()))
        values = logits.gather(-1, ids)
    return renormalised(values.double() / params["temperature"], ids, values >= kth)


TOP_K = StrategyKind(
    "a draw from the k most probable tokens",
    {"k": Param(count, 50), "temperature": TEMPERATURE, **PENALTIES},
    _allowed,
    samples=True,
    processors={"temperature": "TemperatureLogitsWarper", "k": "TopKLogitsWarper"},
    wide=False,
    request=lambda params: {"temperature": params["temperature"], "top_k": params["k"]},
)
