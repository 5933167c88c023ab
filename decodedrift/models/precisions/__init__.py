"""Precisions: what is rounded, said and read back. A file a family, a line each in PRECISIONS; listed without torch."""

from __future__ import annotations

from decodedrift.models.precisions.base import Precision
from decodedrift.models.precisions.bitsandbytes import INT8_BNB
from decodedrift.models.precisions.int8 import INT8


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
}
