"""Two sides' choices of experts over the same texts, layer by layer, and what is left where they are made equal.

A *set* is what a router chooses for a token in a layer. Its *margin* is the lowest score in the set less the highest
outside it: the k-th less the (k+1)-th score, of a router that chooses by its scores alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from decodedrift.models import experts, steps
from decodedrift.models.inside import layers
from decodedrift.models.knobs import padding
from decodedrift.models.load import Loaded
from decodedrift.models.longrope import switch
from decodedrift.numerics import logits as nm

WHOLE = "all"  # layers together
SLACK = 1e-5  # of the largest score: what a softmax rounds away of two scores' order


@dataclass
class Routed:
    """What one reading of a text showed. logits: [T, vocab] of its span; the rest of the whole text, by layer.

    scores: [tokens, E], as the router has them; experts: int64 [tokens, k].
    """

    span: tuple[int, int]
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    scores: dict[int, Tensor] = field(default_factory=dict)
    experts: dict[int, Tensor] = field(default_factory=dict)


def read(
    loaded: Loaded,
    texts: Sequence[Sequence[int]],
    spans: Sequence[tuple[int, int]],
    *,
    size: int,
    pad: int,
    replay: Sequence[Routed] | None = None,
) -> list[Routed]:
    """Reads whole texts in batches of `size`, and keeps what each router chose.

    Args:
        texts: token ids. spans: of each the positions [first, end) that count. replay: what another side, or another
            run, chose for the same texts; it is chosen here too, and weighed by this model's own routers.

    Raises:
        VariantError: a model whose routers cannot be seen, or told what to choose.
    """
    block, _ = layers(loaded)
    numbers = {path: _layer(path, block) for path in experts.routed(loaded)}
    result: list[Routed] = []
    batch: list[Routed] = []
    places: list[slice] = []
    wanted: dict[str, Tensor] = {}

    def see(path: str, scores: Tensor, chosen: Tensor) -> None:
        for row, place in zip(batch, places, strict=True):
            row.scores[numbers[path]] = scores[place].to("cpu", copy=True)
            row.experts[numbers[path]] = chosen[place].to("cpu", copy=True)

    step = 1 if switch(loaded.model.config) else size  # such a model may read a batch row by row
    with experts.routing(loaded, see, wanted):
        for begin in range(0, len(texts), step):
            ids = texts[begin : begin + step]
            width, begins = padding.layout(loaded, [len(text) for text in ids], given=True)
            places = [slice(row * width + at, row * width + at + len(ids[row])) for row, at in enumerate(begins)]
            batch = [Routed(span) for span in spans[begin : begin + step]]
            if replay is not None:
                before = [row.experts for row in replay[begin : begin + step]]
                wanted |= {
                    path: _asked(loaded, number, before, places, len(ids) * width) for path, number in numbers.items()
                }
            with steps.reading(loaded):
                logits = steps.read_whole(loaded, ids, [row.span for row in batch], pad=pad)
            for row, own in zip(batch, logits, strict=True):
                row.logits = own.to("cpu", copy=True)
            result += batch
    return result


def _asked(
    loaded: Loaded, layer: int, before: Sequence[Mapping[int, Tensor]], places: Sequence[slice], tokens: int
) -> Tensor:
    """What one layer is to choose in a batch: int64 [tokens, k], -1 for filler."""
    if any(layer not in chosen for chosen in before):
        experts.breach(loaded, f"has experts in layer {layer}, where what is to be replayed has none")
    asked = torch.full((tokens, before[0][layer].shape[-1]), -1, device=loaded.device)
    for place, chosen in zip(places, before, strict=True):
        asked[place] = chosen[layer].to(loaded.device)
    return asked


def rows(ours: Sequence[Routed], theirs: Sequence[Routed], replayed: Sequence[Routed]) -> list[dict[str, Any]]:
    """A row for each layer, and one for all of them, over the spans of the same texts.

    Columns (docs/metrics.md): layer, experts (E), chosen (k), tokens; changed, the share of tokens whose set differs;
    agreement, the mean share of the reference's set that the other has too; margin, the median of the reference's;
    margin_changed, that of the tokens whose set differs; error, the rms of a score's error less its token's mean;
    within_error, the share of tokens whose margin is at most twice their largest error: no other set can differ. Those
    four are NaN where a router chooses by more than its scores. The row of all has the share of tokens of which some
    layer's set differs, the mean KL(ours || theirs) and KL(ours || replayed) in nats, and routing_ratio, 1 less the
    second over the first: the share of the shift that the choice of experts makes. It may leave [0, 1].

    Args:
        ours: the reference's readings; theirs: a candidate's; replayed: the candidate's with the reference's experts.
    """
    made, some = [], torch.zeros(sum(end - first for first, end in (row.span for row in ours)), dtype=torch.bool)
    for layer in sorted(ours[0].scores):
        first, second = (_joined(side, "experts", layer) for side in (ours, theirs))
        row, changed = _row(_joined(ours, "scores", layer), _joined(theirs, "scores", layer), first, second)
        made.append({"layer": str(layer)} | row)
        some |= changed
    kl, left = _kl(ours, theirs), _kl(ours, replayed)
    whole = {"layer": WHOLE, "tokens": len(some), "changed": float(some.double().mean()), "kl": kl, "kl_replayed": left}
    return [*made, whole | {"routing_ratio": 1 - left / kl if kl else math.nan}]


def _row(scores: Tensor, other_scores: Tensor, ours: Tensor, theirs: Tensor) -> tuple[dict[str, Any], Tensor]:
    """One layer's row, and of which tokens the set differs."""
    held, taken = (torch.zeros(scores.shape, dtype=torch.bool).scatter(-1, side, True) for side in (ours, theirs))
    changed = (held != taken).any(-1)
    margins = scores.masked_fill(~held, math.inf).amin(-1) - scores.masked_fill(held, -math.inf).amax(-1)
    row: dict[str, Any] = {
        "experts": scores.shape[-1],
        "chosen": ours.shape[-1],
        "tokens": len(scores),
        "changed": float(changed.double().mean()),
        "agreement": float(((held & taken).sum(-1).double() / held.sum(-1)).mean()),
    }
    if bool((margins < -SLACK * scores.abs().amax(-1)).any()):
        return row | dict.fromkeys(("margin", "margin_changed", "error", "within_error"), math.nan), changed
    error, _ = nm.logit_error(scores, other_scores)
    within = margins <= 2 * error.abs().amax(-1) + SLACK * scores.abs().amax(-1)
    return row | {
        "margin": float(margins.median()),
        "margin_changed": float(margins[changed].median()) if bool(changed.any()) else math.nan,
        "error": float(error.square().mean().sqrt()),
        "within_error": float(within.double().mean()),
    }, changed


def _joined(side: Sequence[Routed], what: str, layer: int) -> Tensor:
    """One layer's tensors of all spans, in one."""
    parts = [getattr(row, what)[layer][row.span[0] : row.span[1]] for row in side]
    joined = torch.cat(parts)
    return joined.double() if joined.is_floating_point() else joined


def _kl(ours: Sequence[Routed], theirs: Sequence[Routed]) -> float:
    """Mean KL(ours || theirs) over the spans' positions, nats."""
    values = []
    for one, other in zip(ours, theirs, strict=True):
        z_r, z_c = one.logits.double(), other.logits.double()
        log_p, log_q = nm.log_softmax(z_r), nm.log_softmax(z_c)
        values.append(nm.kl(log_p, log_q, nm.log_ratio(z_r, z_c, log_p, log_q, nm.top2(z_r)[1][:, 0])))
    return float(torch.cat(values).mean())


def _layer(path: str, block: str) -> int:
    """The number of the layer that a module is in."""
    return int(path.removeprefix(f"{block}.").partition(".")[0])
