"""What fits: prompts and texts as ids in the window of every variant, batches and jobs in the memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from decodedrift.core.prompts import BALANCED, TEXTS, balanced, bundled_sets
from decodedrift.core.records import InputError, Prompt, Text
from decodedrift.core.settings import Settings
from decodedrift.models.sources.quiet import quiet
from decodedrift.models.text.conventions import CUTS, convention_cut, convention_size
from decodedrift.models.text.vocabulary import SURROGATE, Vocabulary, encode_prompts, strange
from decodedrift.models.text.windows import BUNDLED_CONTEXT, DEFAULT_CONTEXT, WindowedText, cut, sizes

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
    prompts: Iterable[Prompt] = [_as_read(p, vocab, encoded[p.id]) for p in plan.prompts if p.id in encoded]
    if plan.prompt_source in bundled_sets() and (settings.prompts is None or isinstance(settings.prompts, str)):
        count = len(encoded) if settings.prompt_ids and not settings.limit else settings.limit or BALANCED
        prompts = balanced(list(prompts), count)
        plan, refused = plan.having(left_out=len(refused)), {}
    plan = plan.having(prompts=tuple(prompts), refused=settings.refused | refused)
    return plan, {p.id: encoded[p.id] for p in plan.prompts}


def _as_read(prompt: Prompt, vocab: Vocabulary, ids: Sequence[int]) -> Prompt:
    """A prompt with the text that is read, where it was given as turns or as ids."""
    given = prompt.messages is not None or prompt.prompt_token_ids is not None
    return replace(prompt, text=vocab.decode(ids)) if given else prompt


def windowed(plan: S, vocab: Vocabulary) -> tuple[S, dict[str, WindowedText], list[str]]:
    """Texts cut into windows that every variant reads, and the plan with the windows' sizes.

    A bundled text that is none of the model's is left out of the plan, and the list says so.

    Raises:
        InputError: a size beyond a window, or a text that is none of the model's.
    """
    if not plan.texts:
        return plan, {}, []
    bundled = all(text.name in TEXTS for text in plan.texts)
    default = BUNDLED_CONTEXT if bundled else DEFAULT_CONTEXT
    convention, context, stride = plan.convention, plan.context, plan.stride  # type: ignore[attr-defined]
    if convention in CUTS:
        context = convention_size(convention, context, vocab)
    else:
        context, stride = sizes(context, stride, vocab, default)
    try:
        cuts = {text.name: _windows(text, vocab, convention, context, stride) for text in plan.texts}
    except InputError as error:
        if not bundled:
            raise
        return plan.having(texts=()), {}, [f"quality is not measured, give a text with --text: {error}"]
    return plan.having(context=context, stride=stride), cuts, []


def _windows(source: Text, vocab: Vocabulary, convention: str, context: int, stride: int) -> WindowedText:
    if SURROGATE.search(source.text):
        raise InputError(f"--text {source.name}: it holds an unpaired surrogate, which no tokenizer reads")
    with quiet():  # of a text beyond the window, which is cut
        if convention in CUTS:
            text = convention_cut(convention, source, vocab, context)
        else:
            text = cut(source, vocab, context, stride)
    for window in text.windows:
        if reason := strange(vocab, window.reading.context + window.reading.continuation):
            raise InputError(f"--text {text.name}: {reason}")
    scored = Counter(token for window in text.windows for token in window.reading.continuation)
    token, count = scored.most_common(1)[0]
    if text.name in TEXTS and count > text.tokens / 2:
        raise InputError(f"the {text.name} is {count} times token {token} to this tokenizer, of {text.tokens} in all")
    return text


def sized(world: Any, batch_size: int | None, prompts_per_job: int | None, free: bool) -> Any:
    """The plan with its batch size, and how many prompts a job has where that is free; what is None fits the memory."""
    from decodedrift.models import budget, workload

    each = world.plan.prompts_per_job
    if world.plan.lowers_batch:
        world.plan = world.plan.having(batch_size=batch_size or budget.fitting_batch(world))
    if not free:
        return world.plan
    return world.plan.having(prompts_per_job=prompts_per_job or workload.prompts_per_job(world, each))
