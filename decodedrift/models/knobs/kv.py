"""kv: keys and values rounded as they are written into the KV cache (`models/kvrounding.py`, docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.core.notation import Param, whole
from decodedrift.core.records import Variant
from decodedrift.models.knobs.base import Knob
from decodedrift.models.knobs.cache import WITHOUT

FORMATS: Mapping[str, int] = {"int8": 0, "int4": 32, "fp8": 0}  # the values that share a scale; 0: all of a head's
FORM = "int8[:GROUP], int4[:GROUP] or fp8"


def read(value: Any) -> str:
    """A format, of an integer one with the number of values that share a scale (0: all of a head's).

    Raises:
        ValueError: another format, or a group that it does not take.
    """
    name, *rest = str(value).split(":")
    if name not in FORMATS or len(rest) > (name != "fp8"):
        raise ValueError(f"must be {FORM}, not {value!r}")
    return name if name == "fp8" else f"{name}:{whole(0)(rest[0]) if rest else FORMATS[name]}"


def refused(variant: Variant, checkpoint: Any, kv: str) -> str | None:
    """Why keys and values cannot be rounded so; None where they can."""
    from decodedrift.models.footprint import cached

    if not variant.use_cache:
        return WITHOUT
    name, _, group = kv.partition(":")
    sizes = [size for _, size in cached(checkpoint) if size > int(group)] if int(group or 0) else []
    return next((undivided(name, int(group), size) for size in sizes if size % int(group)), None)


def undivided(name: str, group: int, size: int) -> str:
    """That a group does not divide a head's size, and the ones that do."""
    fits = ", ".join(str(number) for number in range(1, size + 1) if size % number == 0)
    return (
        f"groups of {group} do not divide the {size} values of a head; write kv={name}:GROUP with one of {fits}, "
        f"or kv={name}:0 for one scale a head"
    )


KV = Knob(
    Param(read, None, f"keys and values rounded as they are cached: {FORM}"),
    fact="kv",
    refused=refused,
    forced=False,
)
