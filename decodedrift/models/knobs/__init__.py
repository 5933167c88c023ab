"""Knobs of execution: the same weights run another way. A file each, and a line in KNOBS, listed without torch.

A knob's value is the variant's field of its name, or one of its `knobs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.core.records import InputError, Variant
from decodedrift.models.knobs.assisted import ASSISTED
from decodedrift.models.knobs.attention import ATTENTION
from decodedrift.models.knobs.autocast import AUTOCAST
from decodedrift.models.knobs.base import Knob, setting
from decodedrift.models.knobs.batch_size import BATCH_SIZE
from decodedrift.models.knobs.cache import CACHE
from decodedrift.models.knobs.compile import COMPILE
from decodedrift.models.knobs.deterministic import DETERMINISTIC
from decodedrift.models.knobs.device import DEVICE
from decodedrift.models.knobs.device_map import DEVICE_MAP
from decodedrift.models.knobs.experts import EXPERTS
from decodedrift.models.knobs.head import HEAD
from decodedrift.models.knobs.kv import KV
from decodedrift.models.knobs.layercast import LAYERCAST
from decodedrift.models.knobs.matmul import MATMUL
from decodedrift.models.knobs.merge import MERGE
from decodedrift.models.knobs.mixed import MIXED
from decodedrift.models.knobs.padding import PADDING
from decodedrift.models.knobs.revision import REVISION
from decodedrift.models.knobs.threads import THREADS
from decodedrift.models.knobs.use_cache import USE_CACHE

KNOBS: dict[str, Knob] = {
    "revision": REVISION,
    "merge": MERGE,
    "device": DEVICE,
    "device_map": DEVICE_MAP,
    "attention": ATTENTION,
    "batch_size": BATCH_SIZE,
    "use_cache": USE_CACHE,
    "cache": CACHE,
    "kv": KV,
    "assisted": ASSISTED,
    "threads": THREADS,
    "padding": PADDING,
    "experts": EXPERTS,
    "autocast": AUTOCAST,
    "layercast": LAYERCAST,
    "mixed": MIXED,
    "head": HEAD,
    "matmul": MATMUL,
    "compile": COMPILE,
    "deterministic": DETERMINISTIC,
}
COARSER = ("fp64", "fp32", "fp16", "bf16")  # each has fewer bits of mantissa than the one before


def turned(variant: Variant) -> list[tuple[str, Knob, Any]]:
    """(name, knob, value) of every knob that has a value."""
    settings = [(name, knob, setting(variant, name)) for name, knob in KNOBS.items()]
    return [entry for entry in settings if entry[2] is not None]


def check(variant: Variant, checkpoint: Any) -> None:
    """What a variant's knobs cannot do with its checkpoint is refused before weights load.

    Raises:
        InputError: names the knob, why, and the choices.
    """
    for name, knob, value in turned(variant):
        if knob.refused is not None and (reason := knob.refused(variant, checkpoint, value)):
            raise InputError(f"variant {variant.name}: {name}={value}: {reason}")


def stored(variant: Variant) -> str:
    """The type that a variant's weights are kept in: its arithmetic's, where no knob says otherwise."""
    types = [knob.stored(value) for _, knob, value in turned(variant) if knob.stored is not None]
    return types[0] if types else variant.compute or "fp32"


def kept(variant: Variant) -> list[str]:
    """The types that its weights are in memory in while it runs, one for each copy."""
    copies = [knob.copies(value) for _, knob, value in turned(variant) if knob.copies is not None]
    return [stored(variant), *copies]


def rounding(variant: Variant) -> str:
    """The coarsest type that anything a variant computes is rounded to."""
    types = [knob.rounds(value) for _, knob, value in turned(variant) if knob.rounds is not None]
    return max([variant.compute or "fp32", *(kind for kind in types if kind)], key=COARSER.index)


def apart(variant: Variant, reference: Variant) -> list[str]:
    """The knobs that two variants are asked to turn differently."""
    return [name for name in KNOBS if setting(variant, name) != setting(reference, name)]


def unread(variant: Variant, reference: Variant) -> list[str]:
    """Those of them that act while tokens are generated, and not where a given text is read at once."""
    return [name for name in apart(variant, reference) if not KNOBS[name].forced]


def idle(variant: Variant, reference: Variant, facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The knobs that a candidate was asked to turn and that came to what the reference's did: they did not engage.

    Only of what both have read back; of another checkpoint nothing is said.

    Args:
        facts: of both, by name.
    """
    asked = [] if variant.model else apart(variant, reference)
    ours, theirs = facts[reference.name], facts[variant.name]
    return [name for name in asked if (fact := KNOBS[name].fact) in ours and ours[fact] == theirs.get(fact)]
