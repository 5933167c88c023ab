"""Our own loops inside transformers' `generate`, which prepares positions, masks and cache for every model family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from decodedrift.checkpoints import quiet
from decodedrift.models import Loaded


def within_generate(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    loop: Callable[..., Tensor],
    *,
    pad: int,
    bos: int | None = None,
    max_new_tokens: int = 1,
    use_cache: bool = True,
) -> None:
    """Runs `loop(model, input_ids, generation_config=..., **model_kwargs)` as the `custom_generate` of one batch.

    Args:
        prompts: token ids; together one batch, left-padded with `pad`.
        loop: returns ids of any shape; what it finds it keeps itself.
    """
    from transformers import GenerationConfig

    width = max(len(ids) for ids in prompts)
    input_ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(prompts):
        input_ids[row, width - len(ids) :] = torch.tensor(ids)
        mask[row, width - len(ids) :] = 1
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=pad,
        bos_token_id=bos,
        use_cache=use_cache,
    )
    with loaded.running(), quiet():
        loaded.model.generate(
            input_ids.to(loaded.device),
            attention_mask=mask.to(loaded.device),
            generation_config=config,
            custom_generate=loop,
        )


def per_prompt(model_kwargs: dict[str, Any], rows: Tensor, prompts: int) -> dict[str, Any]:
    """The arguments of a batch of prompts, each row of the decoding batch taking its prompt's (the cache aside)."""
    return {
        k: v[rows] if isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] == prompts else v
        for k, v in model_kwargs.items()
    }
