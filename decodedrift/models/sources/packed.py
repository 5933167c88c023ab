"""Quantized weights where they are: in a model that was loaded, or in the headers of its files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from decodedrift.models.precisions.floating import NAMES
from decodedrift.models.sources.quantized import Quantization, quantization

WIDTHS = {"I8": 8, "U8": 8, "I16": 16, "I32": 32, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4}
"""Bits of an element, by the types of safetensors that no plain weight has."""
SPELLED = {
    "fp64": "F64", "fp32": "F32", "bf16": "BF16", "fp16": "F16", "int8": "I8", "uint8": "U8", "int16": "I16",
    "int32": "I32", "int64": "I64", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
"""Types of `types` in the spelling of safetensors."""
ASIDE = re.compile(r"scale|zero|absmax|quant_map|quant_state|SCB|weight_shape|weight_format|g_idx|qzeros")
"""What is stored beside quantized weights, by name."""
SIDES = (("in_features", "out_features"), ("infeatures", "outfeatures"), ("num_embeddings", "embedding_dim"))


@dataclass(frozen=True)
class Packed:
    """Quantized weights in a model: how many (as they are multiplied, not bytes), in how many modules, of what.

    total: weights of the whole model, without scales and zero points. bits: of a weight as it is kept now, its scales
    aside, None where modules differ or weights are unpacked already. group_size: weights that share a scale, where the
    tensors themselves say it. holders: the classes that hold them.
    """

    parameters: int
    modules: int
    total: int
    bits: int | None
    group_size: int | None
    holders: tuple[str, ...]


def packed(model: torch.nn.Module) -> Packed:
    """The quantized weights of a loaded model, found by what they are: packed tensors, subclasses, schemes."""
    counts: dict[int, int] = {}
    bits, groups, holders, inside = set[int | None](), set[int | None](), dict[str, None](), set[int]()
    for module in model.modules():
        weights = _weights(module)
        if not weights:
            continue
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        inside |= {id(t) for t in own if t is not getattr(module, "bias", None)}
        first = next(iter(weights.values()))
        if id(first) in counts:
            continue
        counts[id(first)] = size = _size(module, weights)
        stored = sum(_bytes(t) for t in weights.values()) * 8
        bits.add(round(stored / size) if size and is_packed(first) else None)
        groups.add(_group(first, module))
        holders[_holder(module, first)] = None
    rest = sum(p.numel() for p in model.parameters() if id(p) not in inside)
    total = sum(counts.values())
    return Packed(total, len(counts), total + rest, _single(bits), _single(groups), tuple(holders))


def quantization_of(config: Any, module: Any = None) -> Quantization | None:
    """What a configuration says of a quantization, and of a model in memory whose configuration is silent, its weights.

    One of which the configuration says that it is quantized, and in which nothing is, counts as plain.
    """
    said = quantization(config)
    if module is None:
        return said
    found = packed(module)
    if not found.parameters:
        return None
    return said or Quantization(_package(module), found.bits, found.group_size, ", ".join(found.holders))


def is_packed(tensor: Tensor) -> bool:
    """Whether a tensor holds quantized weights: a subclass that packs them, or a type that no plain weight has."""
    narrow = tensor.element_size() == 1 if tensor.is_floating_point() else tensor.dtype in _INTEGERS
    return is_traceable_wrapper_subclass(tensor) or (narrow and tensor.dim() >= 2)


def types(model: torch.nn.Module) -> dict[str, int]:
    """Elements of a model's weights by type, as they are kept: of what a subclass packs, its own tensors'."""
    kept: dict[int, Tensor] = {id(p): p for p in model.parameters()}
    kept |= {id(w): w for module in model.modules() for w in _weights(module).values()}
    counts: dict[str, int] = {}
    for weight in kept.values():
        for _, part in parts("", weight):
            name = NAMES.get(part.dtype, str(part.dtype).removeprefix("torch."))
            counts[name] = counts.get(name, 0) + part.numel()
    return counts


def parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(name, plain tensor) of all that a tensor consists of: itself, or what a subclass wraps."""
    if not is_traceable_wrapper_subclass(tensor):
        yield name, tensor
        return
    for attribute in tensor.__tensor_flatten__()[0]:
        yield from parts(f"{name}.{attribute}", getattr(tensor, attribute))


def in_headers(headers: Iterable[tuple[str, str, list[int]]], bits: int | None) -> tuple[int, int]:
    """(quantized weights, all weights) that weight files hold, scales and zero points aside.

    Args:
        headers: (name, type as safetensors names it, shape) of every stored tensor.
        bits: of a weight, where they are packed in wider words.
    """
    quantized = total = 0
    for name, dtype, shape in headers:
        if ASIDE.search(name):
            continue
        size = math.prod(shape)
        if dtype in WIDTHS and len(shape) >= 2:
            size = size * WIDTHS[dtype] // (bits or WIDTHS[dtype])
            quantized += size
        total += size
    return quantized, total


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32)


def _weights(module: Any) -> dict[str, Tensor]:
    """The module's own quantized weights by name; of a scheme whose weights are unpacked already, those."""
    buffers = {k: t for k, t in module._buffers.items() if "weight" in k}  # others are masks and tables
    own = {**module._parameters, **buffers}
    found = {k: t for k, t in own.items() if t is not None and not ASIDE.search(k) and is_packed(t)}
    weight = own.get("weight")
    if not found and weight is not None and hasattr(module, "quantization_scheme"):
        return {"weight": weight}
    return found


def _size(module: Any, weights: dict[str, Tensor]) -> int:
    """How many weights a module holds, whatever they are packed in."""
    for names in SIDES:
        if all(isinstance(getattr(module, name, None), int) for name in names):
            return int(getattr(module, names[0]) * getattr(module, names[1]))
    shapes = [getattr(getattr(t, "quant_state", None), "shape", None) or t.shape for t in weights.values()]
    return sum(math.prod(shape) for shape in shapes)


def _bytes(tensor: Tensor) -> int:
    """Of the packed weights alone: the largest of a subclass's tensors."""
    return max(part.numel() * part.element_size() for _, part in parts("", tensor))


def _group(tensor: Tensor, module: Any) -> int | None:
    """Weights to a scale, of tensors (or HQQ's module) that say it; None for whole rows or where they do not."""
    if isinstance(meta := getattr(module, "meta", None), dict) and isinstance(meta.get("group_size"), int):
        return int(meta["group_size"])
    if (state := getattr(tensor, "quant_state", None)) is not None:
        return int(state.blocksize)
    block = getattr(tensor, "block_size", None)
    return int(block[-1]) if isinstance(block, (list, tuple)) and block and block[-1] != tensor.shape[-1] else None


def _package(model: torch.nn.Module) -> str:
    """The package of what holds the first quantized weights."""
    for module in model.modules():
        for weight in _weights(module).values():
            return type(weight if is_traceable_wrapper_subclass(weight) else module).__module__.partition(".")[0]
    return "unknown"


def _holder(module: Any, weight: Tensor) -> str:
    return type(weight if is_traceable_wrapper_subclass(weight) else module).__name__


def _single(values: set[int | None]) -> int | None:
    return next(iter(values)) if len(values) == 1 else None
