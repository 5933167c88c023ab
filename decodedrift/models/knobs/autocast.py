"""autocast: torch.autocast around all that a model computes; it decides by operation what runs in 16 bits."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from decodedrift.core.notation import Param, one_of
from decodedrift.core.records import Variant
from decodedrift.models.knobs.base import Knob, device_of


def _running(model: Any, name: str) -> AbstractContextManager[Any]:
    import torch

    from decodedrift.models.precisions.floating import DTYPES

    return torch.autocast(device_of(model), dtype=DTYPES[name])


def _read_back(model: Any) -> str:
    import torch

    from decodedrift.models.precisions.floating import NAMES

    device = device_of(model)
    return NAMES[torch.get_autocast_dtype(device)] if torch.is_autocast_enabled(device) else "off"


def _refused(variant: Variant, checkpoint: Any, name: str) -> str | None:
    return "autocast leaves float64 as it is; leave it out" if variant.compute == "fp64" else None


AUTOCAST = Knob(
    Param(one_of("bf16", "fp16"), None, "torch.autocast to bf16 or fp16"),
    fact="autocast",
    read_back=_read_back,
    refused=_refused,
    running=_running,
    rounds=lambda name: str(name),
)
