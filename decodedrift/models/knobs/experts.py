"""experts: the kernel of a mixture of experts, as transformers names it."""

from __future__ import annotations

from typing import Any

from decodedrift.core.notation import Param, one_of
from decodedrift.core.records import Variant
from decodedrift.models.knobs.base import Knob, model_class

KERNELS = ("eager", "batched_mm", "grouped_mm")


def fused(model: Any) -> dict[str, Any]:
    """The modules, by path, that hold a layer's routed experts as transformers writes them; none of a dense model."""
    return {p: m for p, m in model.named_modules() if hasattr(m, "is_transposed") and hasattr(m, "has_gate")}


def kernel_of(model: Any) -> str | None:
    """The kernel that a mixture-of-experts model uses, None for a dense one."""
    if not fused(model):
        return None
    return str(getattr(model.config, "_experts_implementation", None))


def _refused(variant: Variant, checkpoint: Any, kernel: str) -> str | None:
    kind = model_class(checkpoint)
    can = getattr(kind, "_can_set_experts_implementation", None)
    if can is not None and not can():
        return f"{kind.__name__} has no experts whose kernel can be chosen; leave it out"  # type: ignore[union-attr]
    if variant.compute == "fp64" and kernel == "grouped_mm":
        return "the grouped kernels have no float64; choices: eager, batched_mm"
    return None


EXPERTS = Knob(
    Param(one_of(*KERNELS), None, "kernel of a mixture of experts: eager, batched_mm, grouped_mm"),
    fact="experts",
    read_back=kernel_of,
    refused=_refused,
    load=lambda kernel: {"experts_implementation": kernel},
    adapt=lambda model, kernel: model.set_experts_implementation(kernel),
)
