"""Teacher forced: a variant reads given tokens, and its raw logits at each of them come out, one batch at a time.

Readings that share a context (a prompt's continuations under several strategies) read it once: the contexts are
prefilled as for generation, and the continuations follow as rows over copies of that cache. Whatever else there is to
read is read whole, right-padded: under a causal mask nothing to the left sees the padding, so a padded row has the bits
of an unpadded one (left padding without position ids is wrong by whole logits).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decodedrift.checkpoints import quiet
from decodedrift.hook import per_prompt, within_generate
from decodedrift.kvcache import expanded, kinds, plain
from decodedrift.models import Loaded, measurable

CHUNK_BYTES = 256 * 2**20  # of one forward's kept logits; a batch above it is read in parts, the same for every variant


@dataclass(frozen=True)
class Reading:
    """A context that is read and the continuation whose tokens are scored."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


def force(loaded: Loaded, sequences: Sequence[Reading], batch_size: int, pad: int) -> Iterator[tuple[int, Tensor]]:
    """(index, logits) of every sequence, batch by batch.

    logits[t]: the raw logits, in the variant's own dtype, [len(continuation), vocab], that predict continuation[t]
    from everything before it. A batch is `batch_size` contexts with all their continuations. With batch_size 1, or
    where the model's cache is more than keys and values, a sequence is read whole. The layout is a function of the
    lengths alone, the same for every variant of a model.
    """
    families: dict[tuple[int, ...], list[int]] = {}
    for index, sequence in enumerate(sequences):
        families.setdefault(sequence.context, []).append(index)
    order = list(families.values())
    vocab = loaded.model.config.get_text_config(decoder=True).vocab_size
    for start in range(0, len(order), batch_size):
        left = [index for family in order[start : start + batch_size] for index in family]
        shared = batch_size > 1 and len(left) > len(order[start : start + batch_size])
        while left:
            batch = [sequences[i] for i in (left if shared else left[:batch_size])]
            part = _part(batch, vocab, shared)
            logits = _after_contexts(loaded, part, pad) if shared else _whole(loaded, part, pad)
            if logits is None:
                shared = False
                continue
            yield from zip(left, logits, strict=False)
            left = left[len(part) :]


def _part(batch: Sequence[Reading], vocab: int, shared: bool) -> Sequence[Reading]:
    """As many leading sequences as keep the logits within CHUNK_BYTES; at least one. Depends on lengths alone."""
    for count in range(len(batch), 1, -1):
        first, last = (0, max(len(s.continuation) for s in batch[:count])) if shared else _kept_range(batch[:count])
        if count * (last - first) * vocab * 4 <= CHUNK_BYTES:
            return batch[:count]
    return batch[:1]


def _kept_range(batch: Sequence[Reading]) -> tuple[int, int]:
    """The positions whose logits anybody needs: the last context token to the last token but one."""
    return (
        min(len(s.context) - 1 for s in batch),
        max(len(s.context) + len(s.continuation) - 1 for s in batch),
    )


def _whole(loaded: Loaded, batch: Sequence[Reading], pad: int) -> list[Tensor]:
    lengths = [len(s.context) + len(s.continuation) - 1 for s in batch]  # the last token predicts nothing we score
    width = max(1, *lengths)
    ids = torch.full((len(batch), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (sequence, length) in enumerate(zip(batch, lengths, strict=True)):
        ids[row, :length] = torch.tensor((sequence.context + sequence.continuation)[:length], dtype=torch.long)
        mask[row, :length] = 1
    first, last = _kept_range(batch)
    arguments = {} if bool(mask.all()) else {"attention_mask": mask.to(loaded.device)}
    sliced = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters
    if sliced:
        arguments["logits_to_keep"] = torch.arange(first, max(last, first + 1), device=loaded.device)
    with loaded.running(), quiet():
        logits = loaded.model(input_ids=ids.to(loaded.device), use_cache=False, return_dict=True, **arguments).logits
        logits = measurable(logits)
    if not sliced:
        logits = logits[:, first:]
    kept = []
    for row, sequence in enumerate(batch):
        begin = len(sequence.context) - 1 - first
        kept.append(logits[row, begin : begin + len(sequence.continuation)])
    return kept


def _after_contexts(loaded: Loaded, batch: Sequence[Reading], pad: int) -> list[Tensor] | None:
    """The batch over one prefill of its distinct contexts; None where the model's cache cannot be shared."""
    contexts = list(dict.fromkeys(s.context for s in batch))
    found: list[Tensor] = []

    def read(model: Any, input_ids: Tensor, *, generation_config: Any, **model_kwargs: Any) -> Tensor:
        for unused in ("logits_processor", "stopping_criteria"):
            model_kwargs.pop(unused, None)
        outputs = model._prefill(input_ids, generation_config, model_kwargs)
        model_kwargs.pop("logits_to_keep", None)  # it was the last one's; of the continuations all are wanted
        loaded.facts["cache"] = kinds(outputs.past_key_values)
        if plain(outputs.past_key_values):
            first = measurable(outputs.logits[:, -1])
            rows = torch.tensor([contexts.index(s.context) for s in batch], device=input_ids.device)
            rest = _continued(model, input_ids, rows, batch, outputs, model_kwargs, pad)
            for row, sequence in enumerate(batch):
                own = rest[row, : len(sequence.continuation) - 1]
                found.append(torch.cat([first[rows[row]][None], own]))
        return input_ids

    within_generate(loaded, contexts, read, pad=pad)
    return found or None


def _continued(
    model: Any,
    input_ids: Tensor,
    rows: Tensor,
    batch: Sequence[Reading],
    outputs: Any,
    model_kwargs: dict[str, Any],
    pad: int,
) -> Tensor:
    """Logits [rows, longest - 1, vocab] after each token of the continuations but the last, right-padded."""
    width = max(len(s.continuation) for s in batch) - 1
    if width == 0:
        nothing: Tensor = outputs.logits[rows][:, :0]
        return nothing
    tokens = torch.full((len(batch), width), pad, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, sequence in enumerate(batch):
        length = len(sequence.continuation) - 1
        tokens[row, :length] = torch.tensor(sequence.continuation[:-1], dtype=torch.long)
        mask[row, :length] = 1
    model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs, num_new_tokens=width)
    model_kwargs = per_prompt(model_kwargs, rows, input_ids.shape[0])
    if (held := model_kwargs.get("attention_mask")) is not None:
        held[:, -width:] = mask.to(held.device)
    expanded(model_kwargs["past_key_values"], rows, width)
    inputs = model.prepare_inputs_for_generation(
        torch.cat([input_ids[rows], tokens.to(input_ids.device)], dim=-1), next_sequence_length=width, **model_kwargs
    )
    return measurable(model(**inputs, return_dict=True).logits)
