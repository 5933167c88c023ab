"""In which precision a checkpoint runs: the one that was asked for, else its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TypeVar

from decodedrift.core.records import InputError, Variant
from decodedrift.core.settings import Settings
from decodedrift.models.precisions import PRECISIONS
from decodedrift.models.precisions.floating import NAMES
from decodedrift.models.sources.checkpoints import Checkpoint
from decodedrift.models.sources.packed import ASIDE
from decodedrift.models.sources.quantized import Quantization

STORED = "stored"
FLOATS = {"F64": "fp64", "F32": "fp32", "BF16": "bf16", "F16": "fp16"}  # as safetensors names them
S = TypeVar("S", bound=Settings)


def stored_type(checkpoint: Checkpoint) -> str:
    """The floating type that a checkpoint is stored in, one of DTYPES: what transformers' dtype="auto" would take.

    The configuration's word, else the type of most of its plain weights. A format whose types no one changes has that
    of its plain weights.
    """
    found = checkpoint.quantization
    dtype = getattr(checkpoint.config.get_text_config(decoder=True), "dtype", None)
    said = NAMES.get(dtype) if dtype is not None else None
    if said and checkpoint.module is None and not (found and found.kind.fixed):
        return said
    counts: Counter[str] = Counter()
    if checkpoint.module is not None:
        for parameter in checkpoint.module.parameters():
            counts[NAMES.get(parameter.dtype, "")] += parameter.numel()
    for name, dtype, shape in checkpoint.headers():
        if not ASIDE.search(name):
            counts[FLOATS.get(dtype, "")] += math.prod(shape)
    del counts[""]
    return counts.most_common(1)[0][0] if counts else said or "fp32"


def settled(plan: S, checkpoint: Checkpoint, others: Mapping[str, Checkpoint], given: Collection[str]) -> S:
    """The plan with the precision of every variant resolved, now that it is known which weights are quantized.

    As deployed, a candidate of its own weights of which no precision was asked runs in the type that it is stored in.

    Args:
        others: the checkpoints of candidates that bring their own, by name.
        given: the options that were given: an unnamed reference is a quantized model as it is stored.

    Raises:
        InputError: a precision that cannot be made of quantized weights.
    """
    reference = plan.reader
    if checkpoint.quantization is not None:
        if "reference" not in given:
            reference = replace(reference, name=STORED, precision=STORED, options={"compute": None}, compute=None)
        if plan.candidates and "candidates" not in given:
            names = ", ".join(c.name for c in plan.candidates)
            raise InputError(_refusal("--candidates", names, checkpoint))
    reference = resolved(reference, checkpoint, None)
    deployed = others if getattr(plan, "as_deployed", False) else {}
    candidates = tuple(
        replace(c, precision=STORED) if c.name in deployed and c.compute is None else c for c in plan.candidates
    )
    candidates = tuple(resolved(c, others.get(c.name, checkpoint), reference) for c in candidates)
    plan = plan.having_reader(reference).having(candidates=candidates)
    plan.check_resolved()
    return plan


def resolved(variant: Variant, checkpoint: Checkpoint, reference: Variant | None) -> Variant:
    """A variant in the precision that its checkpoint gives it.

    One of which no precision was asked (its `compute` is None then) runs a quantized checkpoint in its own compute
    type, and a plain one as the reference, or beside a quantized reference in that one's compute type. `stored` of a
    plain checkpoint is the type that it is stored in. A floating type asked of a quantized one is that of its
    arithmetic.

    Raises:
        InputError: it cannot be made of these weights.
    """
    if variant.recorded:
        return variant
    named = variant.compute is not None
    if checkpoint.quantization is None:
        return _of_plain(variant, checkpoint, reference)
    own = stored_type(checkpoint)
    if variant.precision == STORED:
        asked = variant.options.get("compute") or variant.compute or own
    elif not named:
        asked = own
    elif PRECISIONS[variant.precision].compute and variant.precision != "fp64":
        asked = variant.precision
    else:
        raise InputError(_refusal(f"variant {variant.name}", variant.precision, checkpoint))
    if asked == "fp64" or (asked != own and checkpoint.quantization.kind.fixed):
        fixed = f"{checkpoint.quantization.named} that computes in {own}, whatever is asked"
        raise InputError(f"variant {variant.name}: {checkpoint.name} is {fixed}; leave {asked} out")
    options = {"compute": asked if asked != own else None}
    return replace(variant, precision=STORED, options=options, compute=asked)


def _of_plain(variant: Variant, checkpoint: Checkpoint, reference: Variant | None) -> Variant:
    if variant.precision == STORED:
        asked = variant.options.get("compute") or variant.compute or stored_type(checkpoint)
        return replace(variant, precision=asked, options={}, compute=asked)
    if variant.compute is not None:
        return variant
    if reference is not None and reference.precision == STORED:
        return replace(variant, precision=str(reference.compute), options={}, compute=reference.compute)
    own = PRECISIONS[variant.precision].compute or variant.options.get("compute")
    return replace(variant, compute=own or (reference.compute if reference else "fp32"))


def _refusal(owner: str, precisions: str, checkpoint: Checkpoint) -> str:
    found = checkpoint.quantization or Quantization("unknown")
    bits = f", {found.bits} bit" if found.bits else ""
    other = "" if found.kind.fixed else " or stored:compute=bf16"
    ways = f"NAME=SOURCE for another checkpoint, stored:batch_size=1{other} for this one"
    what = f"its weights are quantized ({found.format}{bits}), and {precisions} cannot be made of them"
    return f"{owner}: {checkpoint.name}: {what}; say what to compare: {ways}"
