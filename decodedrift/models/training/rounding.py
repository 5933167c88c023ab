"""float32 to 16 bits at random, so that the mean is right, and with what is lost kept for the next time."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDINGS = ("nearest", "stochastic", "kahan")


def stochastic(values: Tensor, kind: torch.dtype, generator: torch.Generator | None = None) -> Tensor:
    """Each value as one of its two neighbours in `kind`, in the mean itself (Gupta et al. 2015, arXiv:1502.02551).

    Args:
        values: float32, any shape, on the generator's device.
        kind: bfloat16 or float16. What lies beyond its largest number is rounded to nearest: to infinity.
    """
    near = values.to(kind)
    bits = near.view(torch.int16)
    inner = torch.where(near.float().abs() > values.abs(), bits - 1, bits)  # of the same sign: magnitudes are ordered
    low, high = inner.view(kind), (inner + 1).view(kind)
    share = (values - low.float()) / (high.float() - low.float())
    draw = torch.rand(values.shape, generator=generator, device=values.device, dtype=values.dtype)
    return torch.where(near.isfinite(), torch.where(draw < share, high, low), near)


def compensated(values: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """float32 values as sums of two numbers of `kind`: the nearest one, and what that lost (Kahan 1965)."""
    near = values.to(kind)
    return near, (values - near.float()).to(kind)
