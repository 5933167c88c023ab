"""What a row of a batch keeps from token to token, without the weights: counted in a forward pass of shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decodedrift.models.sources.checkpoints import Checkpoint
from decodedrift.models.sources.quiet import quiet

LENGTHS = (2, 4)  # tokens, fewer than any window holds
NOT_KEPT = ("logits", "loss", "hidden_states", "attentions", "router_logits")  # of a model's outputs
DEPTH = 5
WIDTH, LAYERS = 8192, 64  # of a model that does not say


@dataclass(frozen=True)
class Footprint:
    """Elements that a row keeps: some whatever its length, and some for each of its tokens."""

    fixed: int
    per_token: int

    def elements(self, tokens: int) -> int:
        """Of a row of so many tokens; a window counts as if it were never full."""
        return self.fixed + self.per_token * tokens


NOTHING = Footprint(0, 0)


def footprint(checkpoint: Checkpoint) -> Footprint:
    """The footprint of one row; where shapes alone do not run the model, that of keys and values of its full width."""
    try:
        short, long = _counts(checkpoint)
    except Exception:  # code that looks at values, or at anything that a shape does not have
        short = long = 0
    if not long:  # or a model that keeps its state to itself
        config = checkpoint.config.get_text_config(decoder=True)
        width, layers = (getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers"))
        return Footprint(0, 2 * (width or WIDTH) * (layers or LAYERS))
    per_token = -(-(long - short) // (LENGTHS[1] - LENGTHS[0]))
    return Footprint(max(0, short - per_token * LENGTHS[0]), per_token)


def _counts(checkpoint: Checkpoint) -> list[int]:
    """Elements that are kept after each of LENGTHS."""
    from transformers import AutoModelForCausalLM

    config, trusted = copy.deepcopy(checkpoint.config), checkpoint.trust_remote_code
    counts = []
    with torch.device("meta"), torch.inference_mode(), quiet():
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted).eval()
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("batched_mm")  # the other kernels look at who goes where
        for length in LENGTHS:
            outputs = model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=True, return_dict=True)
            counts.append(sum(t.numel() for t in _tensors([v for k, v in outputs.items() if k not in NOT_KEPT])))
    return counts


def _tensors(value: Any, depth: int = DEPTH) -> list[Tensor]:
    """The tensors in an object, its attributes, lists and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if depth == 0 or isinstance(value, (str, bytes, int, float, type(None))):
        return []
    if isinstance(value, Mapping):
        parts = list(value.values())
    else:
        parts = list(value) if isinstance(value, (list, tuple)) else list(getattr(value, "__dict__", {}).values())
    return [tensor for part in parts for tensor in _tensors(part, depth - 1)]
