"""cache: transformers' own KV cache of a kind, in place of ours (`models/kvcache.py`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from decodedrift.core.notation import Param, count, one_of
from decodedrift.core.records import Variant
from decodedrift.models.knobs.base import Knob

KINDS = ("dynamic", "static", "offloaded", "quantized")
BACKENDS: Mapping[str, tuple[str, str, tuple[int, ...]]] = {  # module, package, the bits that it can
    "quanto": ("optimum.quanto", "optimum-quanto", (2, 4)),
    "hqq": ("hqq", "hqq", (1, 2, 3, 4, 8)),
    "fp8": ("transformers", "transformers", ()),  # takes no bits, groups or residual
}
FORM = "dynamic, static, offloaded or quantized[:BACKEND[:BITS[:GROUP[:RESIDUAL]]]]"
WITHOUT = "it is of the KV cache, which use_cache=false leaves out; leave one of them out"
DEFAULTS = ("quanto", "4", "64", "128")  # transformers' own


def read(value: Any) -> str:
    """The kind of a cache, of a quantized one with all its settings.

    Raises:
        ValueError: another kind, or what its backend cannot do.
    """
    kind, *rest = str(value).split(":")
    if kind not in KINDS or len(rest) > (len(DEFAULTS) if kind == "quantized" else 0):
        raise ValueError(f"must be {FORM}, not {value!r}")
    if kind != "quantized":
        return kind
    backend = one_of(*BACKENDS)(rest[0]) if rest else DEFAULTS[0]
    bits = BACKENDS[backend][2]
    if not bits:
        if len(rest) > 1:
            raise ValueError(f"quantized:{backend} takes no bits, group or residual, not {value!r}")
        return f"quantized:{backend}"
    numbers = [count(given) for given in (*rest[1:], *DEFAULTS[max(1, len(rest)) :])]
    if numbers[0] not in bits:
        raise ValueError(f"quantized:{backend} has {', '.join(map(str, bits))} bits, not {value!r}")
    return ":".join(["quantized", backend, *map(str, numbers)])


def refused(variant: Variant, checkpoint: Any, kind: str) -> str | None:
    """Why a kind of cache cannot be had; None where it can."""
    if not variant.use_cache:
        return WITHOUT
    device = (variant.device or "cpu").split(":")[0]
    if kind == "offloaded" and device != "cuda":
        return f"it moves keys and values between a CUDA device and the host, and this is {device}; leave it out"
    if not kind.startswith("quantized"):
        return None
    if "kv" in variant.knobs:
        return "it rounds what is cached, and so does kv=; leave one of them out"
    module, package, _ = BACKENDS[kind.split(":")[1]]
    try:
        there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        there = False
    return _undivided(checkpoint, kind) if there else f"it needs {package}: pip install 'decodedrift[cache]'"


def _undivided(checkpoint: Any, kind: str) -> str | None:
    """That groups of a quantized cache do not divide what it keeps of a token, and those that do; else None."""
    from decodedrift.models.footprint import cached

    numbers = kind.split(":")[2:]
    if not numbers:
        return None
    group = int(numbers[1])
    sizes = [heads * size for heads, size in cached(checkpoint)]
    if not any(size % group for size in sizes):
        return None
    fits = ", ".join(str(n) for n in range(1, max(sizes) + 1) if all(size % n == 0 for size in sizes))
    return f"groups of {group} do not divide the {sizes[0]} keys of a token; choices: {fits}"


CACHE = Knob(
    Param(read, None, f"transformers' own KV cache: {FORM}"),
    fact="decoding_cache",
    refused=refused,
    forced=False,
)
