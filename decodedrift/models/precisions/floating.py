"""fp64, fp32, bf16, fp16: weights and compute in one floating type, and float64 that really is float64."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from decodedrift.core.secrecy import excerpt
from decodedrift.models.precisions.base import Rounded
from decodedrift.models.precisions.losses import Losses
from decodedrift.models.precisions.walk import round_inputs, weights

DTYPES: dict[str, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
NARROW = (torch.bfloat16, torch.float16)
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def unavailable(name: str, device: str) -> str | None:
    """Why `name` cannot run on a device type, found by trying: a reason in words, or None."""
    try:
        torch.ones(2, 2, dtype=DTYPES[name], device=device) @ torch.ones(2, 2, dtype=DTYPES[name], device=device)
    except (RuntimeError, TypeError) as error:
        reason = excerpt(str(error).splitlines()[0], 120)
        return f"{name} is not supported on {device} ({reason})"
    return None


def cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Casts parameters and buffers, as `from_pretrained(dtype=...)` does.

    Non-persistent buffers get the type in which that builds them: float32 for rotary frequencies, which
    `model.to(bfloat16)` would round; the model's own for XGLM's positions or OpenAI GPT's mask, which would widen
    everything after them. In float64 they are widened, or the rotation would be computed in float32.
    """
    wide = kept_wide(model, dtype)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float32 if name in wide else dtype)
    persistent = set(model.state_dict())
    buffers = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    temporary = [name for name in buffers if name not in persistent and not name.endswith("inv_freq")]
    built = _built(model, dtype) if temporary and dtype in NARROW else {}
    for name, buffer in buffers.items():
        if name in persistent or dtype == torch.float64 or built.get(name) == dtype:
            buffer.data = buffer.data.to(dtype)
    model.config.dtype = dtype


def losses(tensors: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype) -> Losses:
    """What of named tensors a floating type cannot represent."""
    counts = Losses()
    for name, tensor in tensors:
        if tensor.is_floating_point():
            counts.add(name, tensor, tensor.to(dtype).to(tensor.dtype))
    return counts


def round_products(model: Any, name: str, ladder: str | None) -> Rounded:
    """Rounds the inputs of every product with a linear weight to a 16-bit type; weights are in it as they were read.

    Args:
        ladder: which of `weights`, `inputs` and `all`; None where the arithmetic itself is in that type.

    Raises:
        InputError: fused experts, whose inputs cannot be reached.
    """
    if ladder is None:
        return Rounded()
    if ladder == "weights":
        return Rounded(details={"scheme": f"{name} weights only", "round": ladder})
    to = torch.Tensor.bfloat16 if name == "bf16" else torch.Tensor.half

    def nearest(values: torch.Tensor) -> torch.Tensor:
        return to(values).to(values.dtype)

    found = weights(model, name, head=True, tables=True)
    round_inputs(f"{name}:round={ladder}", model, [(weight, nearest) for weight in found])
    scheme = f"{name} inputs only" if ladder == "inputs" else f"{name} weights and inputs"
    return Rounded(details={"scheme": scheme, "round": ladder})


def kept_wide(model: torch.nn.Module, dtype: torch.dtype) -> set[str]:
    """The parameters that transformers reads in float32 whatever 16-bit type is asked for."""
    names = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ()) if dtype in NARROW else set()
    if dtype == torch.float16:
        names |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    pattern = re.compile("|".join(rf"(^|\.){re.escape(name)}(\.|$)" for name in names)) if names else None
    return {name for name, _ in model.named_parameters() if pattern is not None and pattern.search(name)}


def _built(model: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The type of each buffer of a model of this config that is built in `dtype`; nothing is allocated."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        return {}
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            twin = type(model)(copy.deepcopy(model.config))
    finally:
        torch.set_default_dtype(default)
    return {name: buffer.dtype for name, buffer in twin.named_buffers()}


class KeepDouble(TorchFunctionMode):
    """Inside it, a request for float32 is a request for float64.

    Model code widens 16-bit activations to float32 where it matters (RMSNorm, rotary angles, the attention softmax).
    On a float64 model the same line *narrows*: logits come out as float64 numbers with float32 errors, and the
    reference called truth would be off by 1e-7.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        widened = [torch.float64 if a is torch.float32 else a for a in args]
        named = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*widened, **named)
