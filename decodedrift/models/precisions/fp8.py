"""fp8-e4m3 and fp8-e5m2: values of 8 bits of Micikevicius et al. 2022, scaled by output channel, by tensor, or not.

scale = absmax / largest (448, 57344) in float32, round to nearest, ties to even: optimum-quanto's `qfloat8` weights,
and with `round=all` the FP8_DYNAMIC scheme of compressed-tensors (a scale per token of an input).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, one_of
from decodedrift.models.precisions.base import COMPUTE, HEAD, ROUND, Precision, Rounded
from decodedrift.models.precisions.int8 import filled
from decodedrift.models.precisions.walk import Scheme, convert
from decodedrift.numerics.formats import FORMATS, Format

if TYPE_CHECKING:
    import torch

DIMS = {"channel": (-1,), "tensor": (-2, -1)}
SCALE_BITS = {"channel": 32, "tensor": 0, "none": 0}


def scaled(values: torch.Tensor, form: Format, dims: tuple[int, ...]) -> torch.Tensor:
    """float32 values rounded to a format, the largest scaled to its largest; one scale over the given dimensions."""
    scale = values.abs().amax(dims, keepdim=True)
    scale = scale / scale.new_full((), form.largest)
    rounded: torch.Tensor = form.round(values / filled(scale), saturate=True)
    return rounded * scale


def scheme(form: Format, scale: str, saturate: bool) -> Scheme:
    """How weights are rounded with a scale per channel or tensor, their inputs with one per token; or both plainly."""
    if scale == "none":
        plain = partial(form.round, saturate=saturate)
        return Scheme(f"{form.name}, no scale", plain, lambda width: 8.0, plain, f"{form.name}, no scale")
    return Scheme(
        f"{form.name}, absmax per {'output channel' if scale == 'channel' else 'tensor'}",
        partial(scaled, form=form, dims=DIMS[scale]),
        lambda width: 8 + SCALE_BITS[scale] / width,
        partial(scaled, form=form, dims=(-1,)),
        f"absmax {form.name} per token",
    )


def _precision(form: Format) -> Precision:
    def apply(model: Any, options: Mapping[str, Any]) -> Rounded:
        used = scheme(form, options["scale"], options["overflow"] == "saturate")
        return convert(model, form.name, lambda weight: used, options)

    beyond = f"what lies beyond {form.largest:g} with scale=none: {form.beyond}, or saturate (to it)"
    return Precision(
        f"weights in {form.name} (largest {form.largest:g}) with a scale per output channel, but the head",
        None,
        lambda device: None,
        read_as="fp32",
        params={
            "scale": Param(one_of("channel", "tensor", "none"), "channel", "absmax of what becomes the largest value"),
            "overflow": Param(one_of(form.beyond, "saturate"), form.beyond, beyond),
            "round": ROUND,
            "head": HEAD,
            "compute": COMPUTE,
        },
        apply=apply,
        beware="{rounded}, arithmetic {compute}; not what fp8 kernels do, which also add up otherwise",
    )


E4M3, E5M2 = (_precision(FORMATS[name]) for name in ("fp8-e4m3", "fp8-e5m2"))
