"""nf4: the 16 values of NormalFloat (Dettmers et al. 2023, QLoRA, https://arxiv.org/abs/2305.14314), in blocks of 64.

The definition of bitsandbytes: blocks run over a weight's elements in their order, across rows; a block is divided by
its absmax, which stays in float32, and each value becomes the nearest of the 16, the lower of two. Its double
quantization, of the absmaxes themselves, is off there and not modelled here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, one_of
from decodedrift.models.precisions.base import COMPUTE, HEAD, Precision, Rounded
from decodedrift.models.precisions.walk import Scheme, convert

if TYPE_CHECKING:
    import torch

VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
BLOCK = 64


def nf4(rows: torch.Tensor) -> torch.Tensor:
    """The nf4 rounding of a float32 tensor, dequantized; the last block may be short."""
    import torch

    flat = rows.reshape(-1)
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    absmax = blocks.abs().amax(-1, keepdim=True)
    values = rows.new_tensor(VALUES)
    unit = (blocks * (1 / absmax.clamp(min=1e-38))).clamp(-1, 1)
    nearest = torch.bucketize(unit, (values[1:] + values[:-1]) / 2)
    return (values[nearest] * absmax).view(-1)[: len(flat)].view(rows.shape)


SCHEME = Scheme("nf4 in blocks of 64, float32 absmax", nf4, lambda width: 4 + 32 / BLOCK)


def apply(model: Any, options: Mapping[str, Any]) -> Rounded:
    """Every linear and expert weight."""
    return convert(model, "nf4", lambda weight: SCHEME, options)


NF4 = Precision(
    "weights in nf4 (QLoRA), absmax blocks of 64, but the head: what load_in_4bit stores",
    None,
    lambda device: None,
    read_as="fp32",
    params={
        "round": Param(one_of("weights"), "weights", "weights: bitsandbytes rounds no inputs"),
        "head": HEAD,
        "compute": COMPUTE,
    },
    apply=apply,
    beware="{rounded}, arithmetic {compute}; load_in_4bit computes in 16 bits unless told otherwise",
)
