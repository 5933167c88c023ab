"""padding: where the filler of a batch stands, and to what width it fills.

Prompts are padded on the left for generation and given texts on the right, each to the longest of its batch. `left`
puts the filler of given texts on the left too, positions counted from a text's first token; `multiple:N` fills all up
to the next multiple of N tokens, on the side that is padded anyway. What was padded is told as the model runs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, whole
from decodedrift.models.knobs.base import Knob

if TYPE_CHECKING:
    from torch import Tensor

LEFT = "left"
MOST = 4096  # a multiple to fill to
SIDES = {(False, False): "none", (True, False): LEFT, (False, True): "right", (True, True): "both"}


def _read(value: Any) -> str:
    name, _, number = str(value).partition(":")
    if name == LEFT and not number:
        return LEFT
    try:
        return f"multiple:{whole(2, MOST)(number if name == 'multiple' else '')}"
    except ValueError:
        raise ValueError(f"must be left or multiple:N with N from 2 to {MOST}, not {value!r}") from None


def batch(loaded: Any, texts: Sequence[Sequence[int]], pad: int, *, given: bool) -> tuple[Tensor, Tensor, list[int]]:
    """Texts as one batch, padded as a loaded variant asks; its facts say how.

    Args:
        given: whether these are given texts, and not prompts to go on from.

    Returns:
        ids and mask, int64 [texts, width], and where each text begins.
    """
    import torch

    width, begins = layout(loaded, [len(text) for text in texts], given=given)
    ids = torch.full((len(texts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (text, begin) in enumerate(zip(texts, begins, strict=True)):
        ids[row, begin : begin + len(text)] = torch.tensor(text, dtype=torch.long)
        mask[row, begin : begin + len(text)] = 1
    _note(loaded.facts, mask, given)
    return ids, mask, begins


def layout(loaded: Any, lengths: Sequence[int], *, given: bool) -> tuple[int, list[int]]:
    """The width of a batch of texts of these lengths, and where each begins in it. given: see `batch`."""
    value = str(loaded.variant.knobs.get("padding", ""))
    longest, number = max(lengths), int(value.partition(":")[2] or 1)
    wider = -(-longest // number) * number + (0 if given else loaded.filler)
    width = max(longest, min(wider, _window(loaded.model.config)))
    return width, [0 if given and value != LEFT else width - length for length in lengths]


def _window(config: Any) -> int:
    """Tokens that a model has positions for: filler goes no further."""
    from decodedrift.models.sources.checkpoints import WINDOWS

    sizes = [getattr(config.get_text_config(decoder=True), name, None) for name in WINDOWS]
    return next((size for size in sizes if isinstance(size, int) and size > 0), sys.maxsize)


def _note(facts: dict[str, Any], mask: Tensor, given: bool) -> None:
    """Sides that have held filler, of prompts and of given texts, and what divides all widths (of one: itself)."""
    told = facts.setdefault("padding", {"prompts": "none", "texts": "none", "multiple_of": 0})
    key, before = ("texts" if given else "prompts"), {side: pair for pair, side in SIDES.items()}
    left, right = before[told[key]]
    ends = (left or not bool(mask[:, 0].all()), right or not bool(mask[:, -1].all()))
    told |= {key: SIDES[ends], "multiple_of": math.gcd(told["multiple_of"], mask.shape[1])}


PADDING = Knob(Param(_read, None, "left: given texts too; multiple:8: widths of 8, 16, ..."), fact="padding")
