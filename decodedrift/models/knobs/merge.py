"""merge: what becomes of a LoRA adapter: kept beside the weights, added to them in float32, or in the base's type."""

from __future__ import annotations

from typing import Any

from decodedrift.core.notation import Param, one_of
from decodedrift.core.records import Variant
from decodedrift.models.knobs.base import Knob

HOW = ("none", "fp32", "stored")
REQUANTIZED = ("bitsandbytes", "torchao", "hqq")  # formats of which peft quantizes a merged weight again


def _read_back(model: Any) -> Any:
    from decodedrift.models.sources.adapter import described

    return described(model)


def _refused(variant: Variant, checkpoint: Any, merge: str) -> str | None:
    if checkpoint.adapter is None:
        return "belongs to a LoRA adapter, NAME=BASE+ADAPTER:merge=..."
    if merge == "none":
        return None
    quantized = "gguf" if checkpoint.kind == "gguf" else getattr(checkpoint.quantization, "format", None)
    if quantized and merge == "fp32":
        choices = "none, stored" if quantized in REQUANTIZED else "none"
        return f"its base is quantized ({quantized}); choices: {choices}"
    if quantized and quantized not in REQUANTIZED:
        return f"peft quantizes no merged weight of {quantized} again; choices: none"
    return None


MERGE = Knob(
    Param(one_of(*HOW), None, "a LoRA adapter's products: none (beside the weights), fp32, stored (added to them)"),
    fact="adapter",
    read_back=_read_back,
    refused=_refused,
)
