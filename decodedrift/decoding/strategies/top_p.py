"""top-p: a draw from the smallest set of tokens that holds probability p, and all that tie with the last of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, number
from decodedrift.decoding.strategies.base import TEMPERATURE, StrategyKind
from decodedrift.decoding.warping import Allowed, renormalised

if TYPE_CHECKING:
    from torch import Tensor

LOOK = 512  # tokens sorted at first: a trained model's nucleus is seldom larger, and a full sort is 45 % of a step
BIN, BINS = 0.25, 128  # nats below the top: what is deeper than 32 shares the last


def _allowed(logits: Tensor, params: Mapping[str, Any]) -> Allowed:
    from decodedrift.decoding.tops import log_totals

    temperature, p = params["temperature"], params["p"]
    log_total = log_totals(logits, temperature)[:, None]
    for values, ids in _growing(logits, log_total, temperature, p):  # noqa: B007 - the last ones stand
        warped = values.double() / temperature
        mass_before = (warped - log_total).exp().cumsum(-1).roll(1, dims=-1)
        mass_before[:, 0] = 0.0
        inside = mass_before < p
        inside[:, 0] = True
        last = values.gather(-1, inside.sum(-1, keepdim=True) - 1)
        if bool((values[:, -1:] < last).all()):  # the nucleus ends within these, ties and all
            break
    return renormalised(warped, ids, values >= last)


def _growing(logits: Tensor, log_total: Tensor, temperature: float, p: float) -> Iterator[tuple[Tensor, Tensor]]:
    """The largest logits and their ids, sorted: a few, then as many as the nucleus may need, then all."""
    if logits.shape[-1] > LOOK:
        yield logits.topk(LOOK, dim=-1)
        yield _sorted_down_to(logits, _floor(logits, log_total, temperature, p))
    yield logits.sort(dim=-1, descending=True)


def _floor(logits: Tensor, log_total: Tensor, temperature: float, p: float) -> Tensor:
    """Float64 [n, 1]: a logit above which at least `p` of the mass lies, by a histogram; near the nucleus's edge."""
    warped = logits.double() / temperature
    top = warped.amax(-1, keepdim=True)
    bins = ((top - warped) / BIN).clamp(max=BINS - 1).long()
    mass = warped.new_zeros(len(warped), BINS).scatter_add_(1, bins, (warped - log_total).exp())
    enough = (mass.cumsum(-1) < p + 1e-9).sum(-1, keepdim=True).clamp(max=BINS - 1)
    below = (top - (enough + 1.01) * BIN) * temperature  # the bin's lower edge, with room for rounding
    return below.masked_fill(enough >= BINS - 2, -math.inf)


def _sorted_down_to(logits: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of each row that are not below its floor, descending, -inf behind them; and their ids."""
    inside = logits >= floor
    counts = inside.sum(-1)
    rows, kept = inside.nonzero(as_tuple=True)
    first = counts.cumsum(0) - counts  # of each row among all that is kept
    place = kept.new_ones(len(kept)).cumsum(0) - 1 - first[rows]
    values = logits.new_full((len(logits), int(counts.max()) + 1), -math.inf)
    ids = kept.new_zeros(values.shape)
    values[rows, place], ids[rows, place] = logits[rows, kept], kept
    values, order = values.sort(dim=-1, descending=True)
    return values, ids.gather(-1, order)


TOP_P = StrategyKind(
    "a draw from the smallest set of tokens that holds probability p",
    {"p": Param(number(0, 1, open_low=True), 0.9), "temperature": TEMPERATURE},
    _allowed,
    samples=True,
    processors={"temperature": "TemperatureLogitsWarper", "p": "TopPLogitsWarper"},
)
