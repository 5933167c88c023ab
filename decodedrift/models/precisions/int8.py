"""int8: symmetric, absmax, a scale for each output channel of a weight and for each token of an input.

scale = absmax/127 in float32, round half to even, clamp to 127: the error of optimum-quanto's `qint8` weights, at the
speed of the unquantized model. Weights are stored dequantized, since what is measured is the rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from decodedrift.models.precisions.base import COMPUTE, HEAD, ROUND, Precision, Rounded
from decodedrift.models.precisions.walk import Scheme, convert

if TYPE_CHECKING:
    import torch


def absmax_int8(values: torch.Tensor) -> torch.Tensor:
    """The int8 rounding of float32 values [..., n], dequantized; one scale for each last dimension."""
    scale = values.abs().amax(-1, keepdim=True)
    scale = scale / scale.new_full((), 127)  # a Python number: CUDA would multiply by its rounded reciprocal
    return (values / filled(scale)).round().clamp(-127, 127) * scale


def filled(scale: torch.Tensor) -> torch.Tensor:
    """A scale to divide by: 1 where a block is all zeros (or holds no number)."""
    return scale.masked_fill(~(scale > 0), 1.0)


SCHEME = Scheme(
    "absmax per output channel", absmax_int8, lambda width: 8 + 32 / width, absmax_int8, "absmax int8 per token"
)


def apply(model: Any, options: Mapping[str, Any]) -> Rounded:
    """Every linear and expert weight, its inputs, or both."""
    return convert(model, "int8", lambda weight: SCHEME, options)


INT8 = Precision(
    "weights only: per-output-channel absmax int8 over every linear and expert tensor but the head",
    None,
    lambda device: None,
    read_as="fp32",
    params={"round": ROUND, "head": HEAD, "compute": COMPUTE},
    apply=apply,
    beware="{rounded}, arithmetic {compute}; not what a serving engine's int8 kernels do",
)
