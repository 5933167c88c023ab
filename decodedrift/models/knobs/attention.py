"""attention: the kernel of the attention, as transformers names it."""

from __future__ import annotations

from typing import Any

from decodedrift.core.notation import Param, text
from decodedrift.core.records import Variant, nearest
from decodedrift.models.knobs.base import Knob, model_class

SUPPORTED = {"sdpa": "_supports_sdpa", "flex_attention": "_supports_flex_attn", "flash": "_supports_flash_attn"}


def _refused(variant: Variant, checkpoint: Any, kernel: str) -> str | None:
    """Why a model cannot have it. A kernel of the hub, OWNER/NAME, is the loader's to find."""
    if "/" in kernel:
        return None
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    kind = model_class(checkpoint)
    known = ["eager", *(name for name in ALL_ATTENTION_FUNCTIONS.valid_keys() if not name.startswith("paged|"))]
    here = [name for name in known if _supported(kind, name) and (variant.device != "cpu" or "flash" not in name)]
    if kernel == "paged|eager":
        also = [f"paged|{name}" for name in ("sdpa",) if name in here]
        return f"is masked by transformers' continuous batching alone; {nearest(kernel, [*here, *also])}"
    if (plain := kernel.removeprefix("paged|")) not in known:
        return f"there is no such kernel; {nearest(plain, here)}"
    if plain not in here:
        why = f"{kind.__name__} has no such kernel" if kind and not _supported(kind, plain) else "it runs on a GPU"
        return f"{why}; {nearest(plain, here)}"
    return None


def _supported(kind: Any, kernel: str) -> bool:
    """Whether a model's class says that it can; one that says nothing is asked when it is loaded."""
    names = [flag for name, flag in SUPPORTED.items() if kernel.startswith(name)]
    return all(getattr(kind, name, True) for name in names)


ATTENTION = Knob(
    Param(text, None, "attention kernel: eager, sdpa, flex_attention, flash_attention_2, ..."),
    fact="attention",
    read_back=lambda model: getattr(model.config, "_attn_implementation", None),
    refused=_refused,
    load=lambda kernel: {"attn_implementation": kernel},
    adapt=lambda model, kernel: model.set_attn_implementation(kernel),
)
