"""attention: the kernel of the attention, as transformers names it."""

from __future__ import annotations

from decodedrift.core.notation import Param, text
from decodedrift.models.knobs.base import Knob

ATTENTION = Knob(
    Param(text, None, "attention kernel: eager, sdpa, flash_attention_2, ..."),
    fact="attention",
    read_back=lambda model: getattr(model.config, "_attn_implementation", None),
    load=lambda kernel: {"attn_implementation": kernel},
    adapt=lambda model, kernel: model.set_attn_implementation(kernel),
)
