"""matmul: what kernels may do to float32 products, where they can: tf32 (10 bits of mantissa) or bf16 (7).

It is leave, not order: what is read back is what torch was told. Where no kernel makes use of it no bit changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from decodedrift.core.notation import Param, one_of
from decodedrift.core.records import Variant
from decodedrift.models.knobs.base import Knob, device_of

OLDER = {"ieee": "highest", "tf32": "high", "bf16": "medium"}  # torch's words before 2.9


@contextmanager
def _running(model: Any, kind: str) -> Iterator[None]:
    before = _told(device_of(model))
    _tell(device_of(model), kind)
    try:
        yield
    finally:
        _tell(device_of(model), before)


def _told(device: str) -> str:
    import torch

    if (place := _place(device)) is not None:
        return str(place.fp32_precision)
    words = {older: word for word, older in OLDER.items()}
    return words[torch.get_float32_matmul_precision()]


def _tell(device: str, kind: str) -> None:
    import torch

    if (place := _place(device)) is not None:
        place.fp32_precision = kind
    else:
        torch.set_float32_matmul_precision(OLDER[kind])


def _place(device: str) -> Any | None:
    """Where torch 2.9 and later are told; None before."""
    import torch

    place: Any = torch.backends.cuda.matmul if device == "cuda" else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    return place if hasattr(torch.backends.cuda.matmul, "fp32_precision") else None


def _refused(variant: Variant, checkpoint: Any, kind: str) -> str | None:
    if variant.compute != "fp32":
        return f"it is leave for float32 products, and this variant computes in {variant.compute}; leave it out"
    if kind == "bf16" and str(variant.device).startswith("cuda"):
        return "CUDA has no such products; choices: tf32"
    return None


MATMUL = Knob(
    Param(one_of("tf32", "bf16"), None, "what kernels may round float32 products to: tf32, bf16"),
    fact="matmul",
    read_back=lambda model: _told(device_of(model)),
    refused=_refused,
    running=_running,
    rounds=lambda kind: {"tf32": "fp16", "bf16": "bf16"}[kind],  # tf32 has the mantissa of fp16
)
