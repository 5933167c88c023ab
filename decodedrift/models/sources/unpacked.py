"""A quantized model once it is loaded: what is found in it, and weights that its format unpacks before it runs."""

from __future__ import annotations

from typing import Any

from decodedrift.models.precisions.base import Rounded
from decodedrift.models.sources.checkpoints import Checkpoint
from decodedrift.models.sources.packed import in_headers, packed
from decodedrift.models.sources.quiet import quiet

UNPACKED = "_decodedrift_unpacked"


def found(model: Any, checkpoint: Checkpoint) -> Rounded:
    """What is quantized in a loaded model, counted in weights; of one that was unpacked while it loaded, in its files.

    details: `format` and `scheme` as the configuration says them, `bits` and `group_size` as the weights show them,
    else as the configuration does, `holders` (classes of modules or tensors), `unpacked`: whether its products run on
    plain weights, to which the quantized ones are expanded.
    """
    said = checkpoint.quantization
    if said is None:
        return Rounded()
    here = packed(model)
    details = {
        "format": said.format,
        "bits": here.bits or said.bits,
        "group_size": here.group_size or said.group_size,
        "scheme": said.scheme,
        "holders": list(here.holders),
        "unpacked": not here.parameters or hasattr(model, "ct_decompress_hook") or hasattr(model, UNPACKED),
    }
    if here.parameters or checkpoint.module is not None:
        return Rounded(here.parameters, here.modules, details, here.total)
    quantized, total = in_headers(checkpoint.headers(), said.bits)
    return Rounded(quantized, 0, details, total)


def unpack(model: Any) -> None:
    """Weights that compressed-tensors would expand in the first forward pass are expanded here: none is timed twice."""
    handle = getattr(model, "ct_decompress_hook", None)
    if handle is not None:
        with quiet():
            model._forward_pre_hooks[handle.id](model, ())
        setattr(model, UNPACKED, True)
