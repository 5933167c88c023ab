"""assisted: a draft model proposes tokens, and the model reads them at once and keeps those that it would have taken.

(Speculative decoding: Leviathan et al. 2022, https://arxiv.org/abs/2211.17192; `assistant_model` of transformers.)
"""

from __future__ import annotations

from typing import Any

from decodedrift.core.notation import Param, text
from decodedrift.core.records import Variant
from decodedrift.models.knobs.base import Knob


def refused(variant: Variant, checkpoint: Any, folder: str) -> str | None:
    """Why a draft cannot propose to a model; None where it can."""
    from decodedrift.models.sources.checkpoints import find
    from decodedrift.models.text.tokenizer import tokenizer_of

    if not variant.use_cache:
        return "what is not kept is taken off the KV cache, which use_cache=false leaves out; leave one of them out"
    draft = find(folder)
    widths = [c.config.get_text_config(decoder=True).vocab_size for c in (checkpoint, draft)]
    if widths[0] != widths[1] or tokenizer_of(draft).get_vocab() != tokenizer_of(checkpoint).get_vocab():
        return "its vocabulary is another; give a draft over the same tokens"
    return None


ASSISTED = Knob(
    Param(text, None, "folder of a draft model that proposes tokens (greedy only)"),
    fact="assisted",
    read_back=lambda model: None,  # told as it generates: `models.drafting`
    refused=refused,
    forced=False,
    stepped=False,
)
