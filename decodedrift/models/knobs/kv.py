"""kv: keys and values rounded as they are written into the KV cache (`models/kvrounding.py`, docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.core.notation import Param, whole
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


KV = Knob(
    Param(read, None, f"keys and values rounded as they are cached: {FORM}"),
    fact="kv",
    refused=lambda variant, checkpoint, kv: None if variant.use_cache else WITHOUT,
    forced=False,
)
