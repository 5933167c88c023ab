"""Precisions: what is rounded, said and read back. A file a family, a line each in PRECISIONS; listed without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from decodedrift.core.notation import Param, one_of
from decodedrift.models.precisions.base import ROUNDED, Precision, Rounded
from decodedrift.models.precisions.bitsandbytes import INT8_BNB
from decodedrift.models.precisions.fp8 import E4M3, E5M2
from decodedrift.models.precisions.ggml import Q4, Q8
from decodedrift.models.precisions.int4 import INT4
from decodedrift.models.precisions.int8 import INT8
from decodedrift.models.precisions.nf4 import NF4
from decodedrift.models.precisions.stored import STORED


def _floating(name: str, about: str) -> Precision:
    def unavailable(device: str) -> str | None:
        from decodedrift.models.precisions import floating

        return floating.unavailable(name, device)

    return Precision(about, name, unavailable)


def _narrow(name: str, about: str) -> Precision:
    """One that can be rounded to without computing in it: `round=...`."""

    def apply(model: Any, options: Mapping[str, Any]) -> Rounded:
        from decodedrift.models.precisions import floating

        return floating.round_products(model, name, options.get("round"))

    ladder = "weights, inputs (of matrix products) or all are rounded, and the arithmetic is the reference's"
    params = {"round": Param(one_of(*ROUNDED), None, ladder)}
    beware = "{rounded}, arithmetic {compute}"
    return replace(_floating(name, about), params=params, apply=apply, beware=beware)


PRECISIONS: dict[str, Precision] = {
    "fp64": _floating("fp64", "weights and compute in float64: the truth"),
    "fp32": _floating("fp32", "weights and compute in float32"),
    "bf16": _narrow("bf16", "weights and compute in bfloat16"),
    "fp16": _narrow("fp16", "weights and compute in float16"),
    "int8": INT8,
    "fp8-e4m3": E4M3,
    "fp8-e5m2": E5M2,
    "int4": INT4,
    "nf4": NF4,
    "q8_0": Q8,
    "q4_0": Q4,
    "int8-bnb": INT8_BNB,
    "stored": STORED,
}


def beware(variants: Iterable[tuple[str, str | None, Mapping[str, Any]]]) -> dict[str, str]:
    """What to know of the precisions of a run, by name: of those that are not what their name may suggest.

    Args:
        variants: (precision, floating type of the arithmetic, options) of each.
    """
    told: dict[str, list[str]] = {}
    for name, compute, options in variants:
        if (precision := PRECISIONS.get(name)) is None or precision.computes(options):
            continue
        ladder = options.get("round") or "weights"
        if text := precision.beware.format(compute=compute, rounded=ROUNDED[ladder]):
            plain = ladder == "weights" and precision.compute is None
            told.setdefault(name if plain else f"{name}:round={ladder}", []).append(text)
    return {name: "; ".join(dict.fromkeys(texts)) for name, texts in told.items()}
