"""What is read back of a model that was loaded as a variant: what its weights really are."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from decodedrift.core.records import Variant, VariantError
from decodedrift.models.knobs import stored
from decodedrift.models.precisions import PRECISIONS
from decodedrift.models.precisions.base import Rounded
from decodedrift.models.precisions.floating import DTYPES, NARROW, losses
from decodedrift.models.precisions.losses import Losses
from decodedrift.models.sources import gguf
from decodedrift.models.sources.adapter import MERGED_SHARE, described
from decodedrift.models.sources.checkpoints import Checkpoint
from decodedrift.models.sources.packed import types
from decodedrift.models.sources.weightfiles import tensors

STORED = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def read_back(model: Any, checkpoint: Checkpoint, variant: Variant) -> dict[str, Any]:
    """What the loaded weights really are; asked for but not got is an error.

    Raises:
        VariantError: the weights are not in the type that was asked for.
    """
    dtypes = types(model)
    rounded: Rounded = getattr(model, "_decodedrift_rounded", Rounded())
    total = rounded.total or sum(p.numel() for p in model.parameters())
    asked, kept = variant.compute or "fp32", stored(variant)
    float32_modules = getattr(model, "_keep_in_fp32_modules", None) or getattr(
        model, "_keep_in_fp32_modules_strict", None
    )
    precision = PRECISIONS[variant.precision]
    read_as = precision.reads(variant.options)
    narrowest = read_as if read_as and DTYPES[read_as] in NARROW else kept
    if precision.own and asked not in dtypes:
        raise VariantError(f"{variant.name}: asked to compute in {asked}, got weights in {dtypes}; leave {asked} out")
    beside = (described(model) or {"merged": True})["merged"] is False  # matrices that peft keeps in float32
    plain = precision.load is None and not precision.own  # a backend leaves some weights as they are
    if plain and set(dtypes) - {kept} and not ((float32_modules or beside) and set(dtypes) <= {kept, "fp32"}):
        raise VariantError(f"{variant.name}: asked for {kept} weights, got {dtypes}")
    return (
        {
            "variant": variant.name,
            "precision": variant.precision,
            "compute": asked,
            "weight_dtypes": dtypes,
            "parameters": total,
            "stored_dtypes": dict(checkpoint.stored),
            "quantized_parameters": rounded.quantized_parameters,
            "quantized_modules": rounded.quantized_modules,
            "quantized_share": rounded.quantized_parameters / total if total else 0.0,
            "rounded_share": None if rounded.quantized_parameters else _share(model, checkpoint, narrowest),
        }
        | ({} if rounded.quantized_parameters else _lost(model, checkpoint, narrowest))
        | (gguf.facts(*checkpoint.files) if checkpoint.kind == "gguf" else {})
        | dict(rounded.details)
    )


def _share(model: Any, checkpoint: Checkpoint, compute: str) -> float | None:
    """Of merged weights as they were before they were rounded; None where that was as they were added, or later."""
    merged = (described(model) or {}).get("merge", "none") != "none"
    return getattr(model, MERGED_SHARE, {}).get(compute) if merged else rounded_share(checkpoint, compute)


def rounded_share(checkpoint: Checkpoint, compute: str) -> float:
    """Share of the checkpoint's elements that a floating type cannot represent: 0 where the variant rounds nothing."""
    return _losses(checkpoint, compute).share


def _lost(model: Any, checkpoint: Checkpoint, compute: str) -> dict[str, Any]:
    """What of the weights lies beyond fp16's largest value or below its smallest, where anything does.

    Of merged weights that is not known: they are no more what the files hold.
    """
    if compute != "fp16" or (described(model) or {}).get("merge", "none") != "none":
        return {}
    lost = _losses(checkpoint, compute).facts()
    return lost if lost["overflowed"] or lost["flushed"] else {}


def _losses(checkpoint: Checkpoint, compute: str) -> Losses:
    dtype = DTYPES[compute]
    if all(name in STORED and torch.promote_types(STORED[name], dtype) == dtype for name in checkpoint.stored):
        return Losses()  # every stored value exists in the wider type; no need to read them
    if checkpoint.module is not None:
        return losses(((n, p.detach()) for n, p in checkpoint.module.named_parameters()), dtype)
    return _changed_in_files(checkpoint.files, checkpoint.stamps, dtype)


@lru_cache(maxsize=64)
def _changed_in_files(files: tuple[str, ...], stamps: tuple[tuple[int, int], ...], dtype: torch.dtype) -> Losses:
    """Read once in a process: it is most of the time that loading a 16-bit variant from a resident one takes."""
    return losses(tensors(files), dtype)
