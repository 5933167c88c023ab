"""q8_0 and q4_0: blocks of 32 of llama.cpp (`ggml-quants.c`, reference code), a float16 scale each.

q8_0: d = absmax / 127, round half away from zero. q4_0: d = (the value of largest size) / -8, floor(x / d + 8.5), from
0 to 15. Values are divided by the float32 d and multiplied by its float16. What is multiplied by either is rounded to
q8_0. Embedding and head are quantized too; the head of a q4_0 file in q8_0, where its rows are no multiple of 256, else
in q6_K, for which q8_0 stands here. Rows that 32 does not divide become float16 there, and their inputs with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, boolean
from decodedrift.models.precisions.base import COMPUTE, ROUND, Precision, Rounded
from decodedrift.models.precisions.walk import Scheme, Weight, convert, schemed

if TYPE_CHECKING:
    import torch

BLOCK = 32
BEWARE = "{rounded}, arithmetic {compute}; llama.cpp's kernels add up otherwise"


def q8_0(values: torch.Tensor) -> torch.Tensor:
    """The q8_0 rounding of float32 values [..., n], dequantized; 32 divides n."""
    blocks = values.reshape(*values.shape[:-1], -1, BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True)
    scale = scale / scale.new_full((), 127)
    steps = blocks * _reciprocal(scale)
    floor = steps.abs().floor()
    away = floor + (2 * (steps.abs() - floor)).floor()
    return (away.copysign(steps) * scale.half().to(values.dtype)).flatten(-2)


def q4_0(values: torch.Tensor) -> torch.Tensor:
    """The q4_0 rounding of float32 values [..., n], dequantized; 32 divides n."""
    blocks = values.reshape(*values.shape[:-1], -1, BLOCK)
    scale = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -8
    steps = (blocks * _reciprocal(scale) + 8.5).trunc().clamp(0, 15) - 8
    return (steps * scale.half().to(values.dtype)).flatten(-2)


def _reciprocal(scale: torch.Tensor) -> torch.Tensor:
    return (1 / scale).masked_fill(scale == 0, 0.0)


def _float16(values: torch.Tensor) -> torch.Tensor:
    return values.half().to(values.dtype)


FLOAT16 = Scheme("float16", _float16, lambda width: 16.0, _float16, "float16")
Q8_0 = Scheme(
    "q8_0 in blocks of 32, float16 scales", q8_0, lambda width: 8.5, q8_0, "q8_0 in blocks of 32", BLOCK, FLOAT16
)
Q4_0 = replace(Q8_0, words="q4_0 in blocks of 32, float16 scales", weights=q4_0, bits=lambda width: 4.5)


def _precision(name: str, scheme: Scheme, about: str) -> Precision:
    def of(model: Any) -> Callable[[Weight], Scheme]:
        head = model.get_output_embeddings()
        return lambda weight: Q8_0 if weight.module is head else scheme

    def apply(model: Any, options: Mapping[str, Any]) -> Rounded:
        return convert(model, name, of(model), options, tables=True)

    return Precision(
        about,
        None,
        lambda device: None,
        read_as="fp32",
        params={
            "round": ROUND,
            "head": Param(boolean, True, "embedding and head too, as llama-quantize does"),
            "compute": COMPUTE,
        },
        apply=apply,
        check=lambda model, options: schemed(model, name, of(model), options, tables=True),
        beware=BEWARE,
    )


Q8 = _precision("q8_0", Q8_0, "weights in llama.cpp's q8_0 (blocks of 32), embedding and head too")
Q4 = _precision(
    "q4_0", Q4_0, "weights in llama.cpp's q4_0 (blocks of 32), the embedding too; the head, and one tied to it, in q8_0"
)
