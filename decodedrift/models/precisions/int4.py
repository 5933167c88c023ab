"""int4: whole numbers from -8 to 7 in groups along the inputs, a float16 scale each, and a zero point on request.

The definition of compressed-tensors (W4A16, with `zero=true` W4A16_ASYM; its `scale_dtype` float16), and that of
round-to-nearest GPTQ: symmetric scale absmax / 7.5; affine scale (max - min) / 15 over a range that holds 0, with a
whole zero point. Ties to even. Inputs are rounded to int8 per token (its W4A8).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, boolean, whole
from decodedrift.models.precisions.base import COMPUTE, HEAD, ROUND, Precision, Rounded
from decodedrift.models.precisions.int8 import SCHEME as INT8_SCHEME
from decodedrift.models.precisions.int8 import filled
from decodedrift.models.precisions.walk import Scheme, convert, schemed

if TYPE_CHECKING:
    import torch


def grouped_int4(rows: torch.Tensor, group: int, zero: bool = False) -> torch.Tensor:
    """The int4 rounding of float32 rows [..., n], dequantized; `group` divides n."""
    values = rows.reshape(*rows.shape[:-1], -1, group)
    if zero:
        low, high = values.amin(-1, keepdim=True).clamp(max=0), values.amax(-1, keepdim=True).clamp(min=0)
        wide = (high - low) / low.new_full((), 15)
        point = (-8 - low / filled(wide)).clamp(-8, 7).round()
    else:
        wide = values.abs().amax(-1, keepdim=True) / values.new_full((), 7.5)
        point = wide.new_zeros(())
    scale = wide.half().to(rows.dtype)
    whole_numbers = (values / filled(scale) + point).clamp(-8, 7).round()
    return ((whole_numbers - point) * scale).flatten(-2)


def _scheme(options: Mapping[str, Any]) -> Scheme:
    group, zero = options["group"], options["zero"]
    return Scheme(
        f"int4 in groups of {group}, float16 scales" + (" and zero points" if zero else ", symmetric"),
        partial(grouped_int4, group=group, zero=zero),
        lambda width: 4 + (20 if zero else 16) / group,
        INT8_SCHEME.inputs,
        INT8_SCHEME.input_words,
        block=group,
    )


def apply(model: Any, options: Mapping[str, Any]) -> Rounded:
    """Every linear and expert weight whose rows the groups divide, their inputs, or both."""
    return convert(model, "int4", lambda weight: _scheme(options), options)


INT4 = Precision(
    "weights in int4, a float16 scale for each group of inputs, but the head; rounded to nearest, not calibrated",
    None,
    lambda device: None,
    read_as="fp32",
    params={
        "group": Param(
            whole(2), 128, "inputs that share a scale; a module whose rows it does not divide stays as it is"
        ),
        "zero": Param(boolean, False, "a zero point for each group: affine, not symmetric"),
        "round": ROUND,
        "head": HEAD,
        "compute": COMPUTE,
    },
    apply=apply,
    check=lambda model, options: schemed(model, "int4", lambda weight: _scheme(options), options),
    beware="{rounded}, arithmetic {compute}; rounded to nearest, where GPTQ and AWQ choose by calibration",
)
