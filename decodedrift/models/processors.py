"""transformers' own logits processors, for sampling that is to draw what plain `generate(do_sample=True)` draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NEUTRAL = {  # at which generate leaves it out
    "TemperatureLogitsWarper": 1, "TopKLogitsWarper": 0, "TopPLogitsWarper": 1, "MinPLogitsWarper": 0,
    "TypicalLogitsWarper": 1,
}  # fmt: skip


def processed(scores: Tensor, params: Mapping[str, Any], processors: Mapping[str, str]) -> Tensor:
    """Scores, float32 [n, vocab], as `generate` hands them to its softmax.

    Args:
        processors: parameter -> name of transformers' processor that takes it, in the order of `generate`.
    """
    import transformers

    none = torch.empty(0, dtype=torch.long)
    for param, name in processors.items():
        if params[param] != NEUTRAL.get(name):
            scores = getattr(transformers, name)(params[param])(none, scores)
    return scores
