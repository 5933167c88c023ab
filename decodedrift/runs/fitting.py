"""Prompts and texts as ids: those that fit the window of every variant, and why the others do not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from decodedrift.core.prompts import BALANCED, balanced, bundled_sets
from decodedrift.core.records import InputError, Prompt
from decodedrift.core.settings import Settings
from decodedrift.models.text.vocabulary import SURROGATE, Vocabulary, encode_prompts, strange
from decodedrift.models.text.windows import WindowedText, cut, sizes

S = TypeVar("S", bound=Settings)
TOKEN_ID = re.compile(r"token id \d+")


def fitting_prompts(plan: S, settings: Settings, vocab: Vocabulary) -> tuple[S, dict[str, Sequence[int]]]:
    """Prompts that can run. Bundled ones that do not fit are left out and counted; the user's own are refused by name.

    Raises:
        InputError: none is left.
    """
    encoded: dict[str, Sequence[int]] = {}
    refused: dict[str, str] = {}
    for prompt_id, ids in encode_prompts(vocab, plan.prompts, plan.chat_template, plan.max_new_tokens).items():
        if isinstance(ids, str):
            refused[prompt_id] = TOKEN_ID.sub("a token id", ids.split(" (")[0]) if plan.no_text else ids
        else:
            encoded[prompt_id] = ids
    if not encoded:
        name, reason = next(iter(refused.items()))
        raise InputError(f"no prompt can run; {name}: {reason}")
    prompts: Iterable[Prompt] = [p for p in plan.prompts if p.id in encoded]
    if plan.prompt_source in bundled_sets() and (settings.prompts is None or isinstance(settings.prompts, str)):
        count = len(encoded) if settings.prompt_ids and not settings.limit else settings.limit or BALANCED
        prompts = balanced(list(prompts), count)
        plan, refused = plan.having(left_out=len(refused)), {}
    plan = plan.having(prompts=tuple(prompts), refused=settings.refused | refused)
    return plan, {p.id: encoded[p.id] for p in plan.prompts}


def windowed(plan: S, vocab: Vocabulary) -> tuple[S, dict[str, WindowedText]]:
    """Texts cut into windows that every variant reads, and the plan with the windows' sizes.

    Raises:
        InputError: a size beyond a window, or a text that is none of the model's.
    """
    if not plan.texts:
        return plan, {}
    context, stride = sizes(plan.context, plan.stride, vocab)  # type: ignore[attr-defined]
    plan = plan.having(context=context, stride=stride)
    cuts = {}
    for text in plan.texts:
        if SURROGATE.search(text.text):
            raise InputError(f"--text {text.name}: it holds an unpaired surrogate, which no tokenizer reads")
        cuts[text.name] = cut(text, vocab, context, stride)
        for window in cuts[text.name].windows:
            if reason := strange(vocab, window.reading.context + window.reading.continuation):
                raise InputError(f"--text {text.name}: {reason}")
    return plan, cuts
