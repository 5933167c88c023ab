"""layercast: weights are stored in bfloat16, each is widened to float32 as it is used, all arithmetic is float32.

Yuan et al. 2025 (arXiv 2506.09501) store the linear layers so; here every parameter is, as in a bfloat16 checkpoint.
Every logit has the bits of float32 over weights that were rounded to bfloat16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, one_of
from decodedrift.core.records import Variant
from decodedrift.models.knobs.base import Knob

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def _install(model: Any, name: str) -> None:
    import torch

    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)


def _running(model: Any, name: str) -> AbstractContextManager[Any]:
    from decodedrift.models.modes import Widening

    return Widening()


def _read_back(model: Any) -> str:
    """How the first weight is stored, and as what it is used."""
    import torch

    from decodedrift.models.precisions.floating import NAMES

    weight = next(model.parameters())
    used = weight.dtype
    with torch._C.DisableTorchFunction():
        stored = weight.dtype
    names = [NAMES.get(dtype, str(dtype).removeprefix("torch.")) for dtype in (stored, used)]
    return names[0] if stored == used else f"{names[0]} used as {names[1]}"


def _refused(variant: Variant, checkpoint: Any, name: str) -> str | None:
    if variant.precision == "fp32":
        return None
    return "it stores the weights of float32 arithmetic; write fp32:layercast=bf16 (or NAME=SOURCE:precision=fp32)"


LAYERCAST = Knob(
    Param(one_of("bf16"), None, "bf16: weights stored in bf16, each widened to fp32 as it is used"),
    fact="weights_used",
    read_back=_read_back,
    refused=_refused,
    install=_install,
    running=_running,
    stored=lambda name: str(name),
)
