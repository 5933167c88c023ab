"""transformers' own logits processors, for sampling that is to draw what plain `generate(do_sample=True)` draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def processed(scores: Tensor, params: Mapping[str, Any]) -> Tensor:
    """Scores, float32 [n, vocab], as `generate` hands them to its softmax, by a strategy's parameters.

    Raises:
        KeyError: a parameter that no processor here is made of.
    """
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    kinds = {"temperature": TemperatureLogitsWarper, "k": TopKLogitsWarper, "p": TopPLogitsWarper}
    none = torch.empty(0, dtype=torch.long)
    for name in sorted(params, key=lambda name: name != "temperature"):  # the temperature is generate's first
        if not (name in ("temperature", "p") and params[name] == 1.0):  # as generate leaves them out
            scores = kinds[name](params[name])(none, scores)
    return scores
