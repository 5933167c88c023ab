"""What a row of a batch keeps from token to token, without the weights: counted in a forward pass of shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decodedrift.core.records import InputError, Variant
from decodedrift.models.precisions import PRECISIONS
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


def cached(checkpoint: Checkpoint) -> list[tuple[int, int]]:
    """(heads, numbers in a key or value of one), all that differ; empty where shapes do not show it."""
    try:
        caches = [value for value in _outputs(checkpoint, LENGTHS[:1])[0].values() if hasattr(value, "layers")]
        layers = [layer for cache in caches for layer in cache.layers]
        return sorted({(t.shape[1], t.shape[-1]) for layer in layers for t in (layer.keys, layer.values)})
    except Exception:  # as above, or a cache of another kind
        return []


def check_precision(variant: Variant, checkpoint: Checkpoint) -> None:
    """What a variant's precision cannot do with the shapes of its weights is refused before these load.

    Raises:
        InputError: names what does not fit, and the choices.
    """
    if (check := PRECISIONS[variant.precision].check) is None:
        return
    try:
        model = hollow(checkpoint) if checkpoint.module is None else checkpoint.module
    except Exception:  # as above; then the weights show it
        return
    try:
        check(model, variant.options)
    except InputError as error:
        raise InputError(f"variant {variant.name}: {error}") from None


def hollow(checkpoint: Checkpoint) -> Any:
    """The model of a checkpoint without its weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"), quiet():
        config, trusted = copy.deepcopy(checkpoint.config), checkpoint.trust_remote_code
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trusted).eval()


def _counts(checkpoint: Checkpoint) -> list[int]:
    """Elements that are kept after each of LENGTHS."""
    kept = [[v for k, v in outputs.items() if k not in NOT_KEPT] for outputs in _outputs(checkpoint, LENGTHS)]
    return [sum(t.numel() for t in _tensors(values)) for values in kept]


def _outputs(checkpoint: Checkpoint, lengths: Sequence[int]) -> list[Any]:
    """What the model gives for so many tokens each, in shapes."""
    model = hollow(checkpoint)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("batched_mm")  # the other kernels look at who goes where
    with torch.device("meta"), torch.inference_mode(), quiet():
        return [
            model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=True, return_dict=True)
            for length in lengths
        ]


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
