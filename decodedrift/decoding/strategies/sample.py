"""sample: a draw from the model's distribution at a temperature, less what any of top-k, top-p and min-p leaves out.

Each acts on what the one before it left, in transformers' order: temperature, k, p, min_p. What ties with the last of
the tokens that may be drawn may be drawn too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, number, whole
from decodedrift.decoding.strategies.base import PENALTIES, TEMPERATURE, StrategyKind
from decodedrift.decoding.strategies.top_k import TOP_K
from decodedrift.decoding.strategies.top_p import TOP_P
from decodedrift.decoding.warping import Allowed, renormalised

if TYPE_CHECKING:
    from torch import Tensor


def _allowed(logits: Tensor, params: Mapping[str, Any]) -> Allowed:
    k, p, least = params["k"], params["p"], params["min_p"]
    if k:
        assert TOP_K.allowed is not None
        kept = TOP_K.allowed(logits, params)
        kept = _nucleus(kept, p) if p < 1 else kept
    elif p < 1:
        assert TOP_P.allowed is not None
        kept = TOP_P.allowed(logits, params)
    else:
        from decodedrift.decoding.tops import descending

        ids = descending(logits, logits.shape[-1])
        values = logits.gather(-1, ids)
        kept = renormalised(values.double() / params["temperature"], ids, values.isfinite())
    if least:
        probabilities = kept.log_p.exp()
        kept = renormalised(kept.log_p, kept.ids, probabilities >= least * probabilities[:, :1])
    return kept


def _nucleus(kept: Allowed, p: float) -> Allowed:
    """The smallest set of these tokens that holds probability p of theirs, and all that tie with its last."""
    mass_before = kept.log_p.exp().cumsum(-1).roll(1, dims=-1)
    mass_before[:, 0] = 0.0
    last = kept.log_p.gather(-1, (mass_before < p).sum(-1, keepdim=True) - 1)
    return renormalised(kept.log_p, kept.ids, kept.log_p >= last)


def _request(params: Mapping[str, Any]) -> dict[str, Any]:
    fields = {"temperature": params["temperature"], "top_p": params["p"]}
    return (
        fields
        | ({"top_k": params["k"]} if params["k"] else {})
        | ({"min_p": params["min_p"]} if params["min_p"] else {})
    )


SAMPLE = StrategyKind(
    "a draw at a temperature, from all tokens or what k, p and min_p leave together",
    {
        "k": Param(whole(0, 2**31 - 1), 0, "most probable tokens; 0 for all"),
        "p": Param(number(0, 1, open_low=True), 1.0, "probability that the smallest set holds; 1 for all"),
        "min_p": Param(number(0, 1), 0.0, "least probability, as a share of the first token's; 0 for any"),
        "temperature": TEMPERATURE,
        **PENALTIES,
    },
    _allowed,
    samples=True,
    untruncated=lambda params: params["k"] == 0 and params["p"] == 1 and params["min_p"] == 0,
    processors={
        "temperature": "TemperatureLogitsWarper",
        "k": "TopKLogitsWarper",
        "p": "TopPLogitsWarper",
        "min_p": "MinPLogitsWarper",
    },
    request=_request,
)
