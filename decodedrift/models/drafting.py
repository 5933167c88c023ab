"""Assisted generation by transformers' own loop: which tokens came, from which logits, how much of a draft was kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from decodedrift.core.records import Strategy, Variant, VariantError
from decodedrift.models.calling import calls, check
from decodedrift.models.load import Loaded, loaded, measurable
from decodedrift.models.sources.checkpoints import Checkpoint, find

PROPOSED = 5  # tokens at a time, always: transformers' own number follows a confidence, and what came before


@contextmanager
def drafted(model: Loaded, checkpoint: Checkpoint | None = None) -> Iterator[None]:
    """The draft of a variant that has one, in the type that the variant computes in; loaded and freed with it.

    Args:
        checkpoint: the draft as it was found before.
    """
    if (folder := model.variant.knobs.get("assisted")) is None:
        yield
        return
    compute = model.variant.compute or "fp32"
    variant = Variant(f"{model.variant.name} (draft)", compute, compute=compute, device=str(model.device))
    with loaded(checkpoint or find(folder), variant) as draft:
        draft.model.generation_config.update(
            num_assistant_tokens=PROPOSED, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
        )
        model.draft = draft.model
        try:
            yield
        finally:
            model.draft = None


def assisted(
    model: Loaded, prompt: Sequence[int], strategy: Strategy, *, new: int, eos: Sequence[int], pad: int
) -> tuple[list[int], Tensor]:
    """(tokens, raw logits [T, vocab] that they were taken from) of one prompt, greedily; within `steps.reading`.

    The logits are those of the reading that decided each token, in the model's own type.

    Raises:
        VariantError: there is no draft, or transformers cannot do it with this model.
    """
    from transformers import GenerationConfig

    if model.draft is None:
        raise VariantError(f"{model.variant.name}: its draft was not loaded")
    settings = GenerationConfig(
        max_new_tokens=new, do_sample=False, num_beams=1, eos_token_id=list(eos) or None, pad_token_id=pad,
        repetition_penalty=strategy.params.get("repetition_penalty"),
        no_repeat_ngram_size=strategy.params.get("no_repeat_ngram"),
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    seen: list[tuple[int, torch.dtype]] = []

    def count(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen.append((kwargs["input_ids"].shape[1], output.logits.dtype))

    handle = model.model.register_forward_hook(count, with_kwargs=True)
    ids = torch.tensor([list(prompt)], device=model.device)
    try:
        with calls(model, "assisted generation"):
            output = model.model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=settings, assistant_model=model.draft
            )
    finally:
        handle.remove()
    tokens = output.sequences[0, len(prompt) :].tolist()
    check(model, len(tokens) == len(output.logits), "does not give the logits of every token that it generates")
    proposed = seen[0][0] - len(prompt) + sum(length - 1 for length, _ in seen[1:])
    _note(model, proposed, len(tokens) - len(seen), len(seen), len(tokens))
    return tokens, measurable(torch.cat(output.logits).to(seen[0][1]))


def _note(model: Loaded, proposed: int, accepted: int, readings: int, tokens: int) -> None:
    """What the draft did so far, as a fact of the variant."""
    before = model.facts.get("assisted") or {}
    now = {"proposed": proposed, "accepted": accepted, "calls": readings, "tokens": tokens}
    model.facts["assisted"] = {name: value + before.get(name, 0) for name, value in now.items()}
