"""device_map: the layers of one model on several devices, and on disk what fits on none, as accelerate spreads them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from decodedrift.core.notation import AUTO, Param, spread
from decodedrift.core.records import Variant
from decodedrift.models.knobs.base import Knob

PLAIN = ("fp32", "bf16", "fp16")  # precisions of which nothing but the loader touches a weight
BESIDE = ("merge", "assisted", "layercast", "mixed", "head", "compile")  # knobs that touch weights, or take one device


def room(value: str) -> int | None:
    """Bytes of weights that each device may hold; None where that is not said."""
    gib = value.partition("@")[2]
    return max(1, int(float(gib) * 2**30)) if gib else None


def placement(model: Any) -> dict[str, Any]:
    """Parameters by the device that they are on, `disk` among them, and how many modules fetch or move something."""
    counts: dict[str, int] = {}
    where: dict[str, Any] = getattr(model, "hf_device_map", {})
    for name, weight in model.named_parameters():
        device = str(weight.device)
        if weight.device.type == "meta":  # fetched for each call: from the host, or from files
            prefixes = [p for p in where if not p or name == p or name.startswith(f"{p}.")]
            device = str(where[max(prefixes, key=len)]) if prefixes else device
        counts[device] = counts.get(device, 0) + weight.numel()
    return {"parameters": counts, "hooks": sum(hasattr(module, "_hf_hook") for module in model.modules())}


def _refused(variant: Variant, checkpoint: Any, value: str) -> str | None:
    if find_spec("accelerate") is None:
        return "it is accelerate that spreads a model; pip install 'decodedrift[accelerate]'"
    if checkpoint.module is not None:
        return "it is set while loading; give a folder or hub id, not a model"
    if variant.precision not in PLAIN or variant.options.get("round") or variant.compute not in PLAIN:
        return f"{variant.precision} walks over weights, which may lie on disk; choices: {', '.join(PLAIN)}"
    if checkpoint.quantization is not None or checkpoint.adapter is not None or checkpoint.kind == "gguf":
        return "only plain weights in safetensors are spread, neither packed ones nor an adapter; leave it out"
    if others := [name for name in BESIDE if name in variant.knobs]:
        return f"{others[0]}= needs all weights on one device; leave one of them out"
    return None


def _load(value: str) -> dict[str, Any]:
    import torch

    most = room(value)
    if most is None:
        return {"device_map": AUTO}
    from decodedrift.models.machine import available_memory

    gpus = range(torch.cuda.device_count())
    host = available_memory("cpu") * 8 // 10 if gpus else most
    return {"device_map": AUTO, "max_memory": {**dict.fromkeys(gpus, most), "cpu": host}}


DEVICE_MAP = Knob(
    Param(spread, None, "auto: layers on all devices, the rest on disk; auto@GIB: at most so much on each"),
    fact="placement",
    read_back=placement,
    refused=_refused,
    load=_load,
)
