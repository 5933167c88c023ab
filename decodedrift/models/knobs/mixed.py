"""mixed: products with weights (projections, head, router, experts) run in bfloat16; all else is float32.

A product's inputs and weights are rounded to bfloat16, its output is bfloat16 and widened: norms, rotary angles,
softmax, attention's own products and the residual stream stay in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, one_of
from decodedrift.core.records import Variant
from decodedrift.models.knobs.base import Knob, computing_on

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def _running(model: Any, name: str) -> AbstractContextManager[Any]:
    from decodedrift.models.modes import NarrowProducts
    from decodedrift.models.precisions.floating import DTYPES

    return NarrowProducts(DTYPES[name])


def _read_back(model: Any) -> str:
    """Which of the bits 2^-9, 2^-12 and 2^-30 beside a 1 outlive a product with a weight of the model's type."""
    import torch

    weight = next(model.parameters())
    dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
    bits = torch.tensor([[1 + 2**-9 + 2**-12 + 2**-30]], dtype=torch.float64, device=computing_on(model))
    rest = float(torch.nn.functional.linear(bits.to(dtype), torch.ones_like(bits, dtype=dtype))) - 1
    return "bf16" if rest == 0 else "fp16" if rest == 2**-9 else "fp64" if rest > 2**-9 + 2**-12 + 2**-31 else "fp32"


def _refused(variant: Variant, checkpoint: Any, name: str) -> str | None:
    if variant.compute != "fp32":
        return f"what is not {name} is float32 in it, and this variant computes in {variant.compute}; leave it out"
    if variant.knobs.get("experts") == "batched_mm":
        return "it does not reach the products of experts=batched_mm; write experts=eager or experts=grouped_mm"
    return None


MIXED = Knob(
    Param(one_of("bf16"), None, "bf16: projections and head computed in bf16, the rest in fp32"),
    fact="products",
    read_back=_read_back,
    refused=_refused,
    running=_running,
    copies=lambda name: str(name),
    rounds=lambda name: str(name),
)
