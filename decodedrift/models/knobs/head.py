"""head: the type of the output head: all of it in float32, or its output alone in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from decodedrift.core.notation import Param, one_of
from decodedrift.core.records import Variant, VariantError
from decodedrift.models.knobs.base import Knob, computing_on

WIDE, ROUNDED = "fp32", "bf16-output"


@contextmanager
def _running(model: Any, how: str) -> Iterator[None]:
    import torch

    from decodedrift.models.modes import converted

    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise VariantError(f"head={how}: this model's head is no linear layer ({type(head).__name__}); leave it out")
    given = head.forward

    def forward(states: torch.Tensor) -> torch.Tensor:
        if how == ROUNDED:
            return given(states).to(torch.bfloat16)
        bias = None if head.bias is None else head.bias.float()
        return torch.nn.functional.linear(states.float(), converted(head.weight, torch.float32), bias)

    before = vars(head).get("forward")
    head.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before  # type: ignore[method-assign]


def _read_back(model: Any) -> str | None:
    """The type of the head's weights, that of its product where it is another, and that of what it gives."""
    import torch

    from decodedrift.models.modes import Products
    from decodedrift.models.precisions.floating import NAMES

    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        return None
    dtype = head.weight.dtype
    try:
        with Products() as products:
            gives = head(torch.zeros(1, head.in_features, dtype=dtype, device=computing_on(head))).dtype
    except Exception:  # of a model in memory it is the caller's own code, which may need more than an input
        return None
    kinds = [str(NAMES.get(kind, kind)) for kind in (dtype, products.dtype or dtype, gives)]
    within = f" in {kinds[1]}" if kinds[1] != kinds[0] else ""
    return f"{kinds[0]}{within} to {kinds[2]}"


def _refused(variant: Variant, checkpoint: Any, how: str) -> str | None:
    if how == ROUNDED and variant.compute == "bf16":
        return "its output is bf16 already where all is; leave it out"
    if how == WIDE and variant.compute == "fp64":
        return "it would narrow the head of a float64 variant; leave it out"
    return None


HEAD = Knob(
    Param(one_of(WIDE, ROUNDED), None, "fp32: the head computed in fp32; bf16-output: its output rounded to bf16"),
    fact="head",
    read_back=_read_back,
    refused=_refused,
    running=_running,
    rounds=lambda how: "bf16" if how == ROUNDED else None,
)
