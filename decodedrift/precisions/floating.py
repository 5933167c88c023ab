"""fp64, fp32, bf16, fp16: weights and compute in one floating type, and float64 that really is float64."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DTYPES: dict[str, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def unavailable(name: str, device: str) -> str | None:
    """Why `name` cannot run on a device type, found by trying: a reason in words, or None."""
    try:
        torch.ones(2, 2, dtype=DTYPES[name], device=device) @ torch.ones(2, 2, dtype=DTYPES[name], device=device)
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0][:120]
        return f"{name} is not supported on {device} ({reason})"
    return None


def cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Casts parameters and persistent buffers, as `from_pretrained(dtype=...)` does.

    Non-persistent buffers (the rotary frequencies) stay in float32 for 16-bit types: `model.to(bfloat16)` would round
    them too, which no user's model does. In float64 they are widened, or the rotation would be computed in float32.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    persistent = set(model.state_dict())
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and (name in persistent or dtype == torch.float64):
            buffer.data = buffer.data.to(dtype)
    model.config.dtype = dtype


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
