"""top-p: a draw from the smallest set of tokens that holds probability p, and all that tie with the last of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, number
from decodedrift.decoding.strategies.base import PENALTIES, TEMPERATURE, StrategyKind
from decodedrift.decoding.warping import Allowed, renormalised

if TYPE_CHECKING:
    from torch import Tensor

LOOK = 128  # tokens sorted at first, and then eight times as many: a trained model's nucleus is seldom larger


def _allowed(logits: Tensor, params: Mapping[str, Any]) -> Allowed:
    from decodedrift.decoding.tops import descending, log_totals

    temperature, p, vocab = params["temperature"], params["p"], logits.shape[-1]
    log_total = log_totals(logits, temperature)[:, None]
    looks = (LOOK, 8 * LOOK) if logits.device.type == "cpu" else (4 * LOOK,)  # a GPU is waited for after each
    for count in (*(few for few in looks if 2 * few < vocab), vocab):
        ids = descending(logits, count)
        values = logits.gather(-1, ids)
        warped = values.double() if temperature == 1 else values.double() / temperature
        mass = (warped - log_total).exp_().cumsum_(-1)
        last = values.gather(-1, (mass[:, :-1] < p).sum(-1, keepdim=True))
        if bool((values[:, -1:] < last).all()):  # the nucleus ends within these, ties and all
            break
    return renormalised(warped, ids, values >= last)


TOP_P = StrategyKind(
    "a draw from the smallest set of tokens that holds probability p",
    {"p": Param(number(0, 1, open_low=True), 0.9), "temperature": TEMPERATURE, **PENALTIES},
    _allowed,
    samples=True,
    untruncated=lambda params: params["p"] == 1,
    processors={"temperature": "TemperatureLogitsWarper", "p": "TopPLogitsWarper"},
    request=lambda params: {"temperature": params["temperature"], "top_p": params["p"]},
)
