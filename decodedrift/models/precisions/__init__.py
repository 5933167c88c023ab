"""Precisions: what is rounded, said and read back. A file a family, a line each in PRECISIONS; listed without torch."""

from __future__ import annotations

from collections.abc import Iterable

from decodedrift.models.precisions.base import Precision
from decodedrift.models.precisions.bitsandbytes import INT8_BNB
from decodedrift.models.precisions.int8 import INT8
from decodedrift.models.precisions.stored import STORED


def _floating(name: str, about: str) -> Precision:
    def unavailable(device: str) -> str | None:
        from decodedrift.models.precisions import floating

        return floating.unavailable(name, device)

    return Precision(about, name, unavailable)


PRECISIONS: dict[str, Precision] = {
    "fp64": _floating("fp64", "weights and compute in float64: the truth"),
    "fp32": _floating("fp32", "weights and compute in float32"),
    "bf16": _floating("bf16", "weights and compute in bfloat16"),
    "fp16": _floating("fp16", "weights and compute in float16"),
    "int8": INT8,
    "int8-bnb": INT8_BNB,
    "stored": STORED,
}


def beware(variants: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """What to know of the precisions of a run, by name: of those that are not what their name may suggest.

    Args:
        variants: (precision, floating type of the arithmetic) of each.
    """
    told: dict[str, list[str]] = {}
    for name, compute in variants:
        if name in PRECISIONS and (text := PRECISIONS[name].beware.format(compute=compute)):
            told.setdefault(name, []).append(text)
    return {name: "; ".join(dict.fromkeys(texts)) for name, texts in told.items()}
