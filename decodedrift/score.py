"""Teacher forced: a variant reads given tokens, and its raw logits at each of them come out, one batch at a time.

Rows are right-padded: under a causal mask nothing to the left sees the padding, so a padded row has the bits of an
unpadded one (left padding without position ids is wrong by whole logits).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decodedrift.checkpoints import quiet
from decodedrift.models import Loaded, measurable

CHUNK_BYTES = 256 * 2**20  # of one forward's kept logits; a batch above it is read in parts, the same for every variant


@dataclass(frozen=True)
class Reading:
    """A context that is read and the continuation whose tokens are scored."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


def force(loaded: Loaded, sequences: Sequence[Reading], batch_size: int, pad: int) -> Iterator[tuple[int, Tensor]]:
    """(index, logits) per sequence, in order.

    logits[t]: the raw logits, in the variant's own dtype, [len(continuation), vocab], that predict continuation[t]
    from everything before it. With batch_size 1 a sequence is one forward pass of its own, unpadded.
    """
    start = 0
    vocab = loaded.model.config.get_text_config(decoder=True).vocab_size
    while start < len(sequences):
        part = _part(sequences[start : start + batch_size], vocab)
        with loaded.running(), quiet():
            kept = _forward(loaded, part, pad)
        for row, logits in enumerate(kept):
            yield start + row, logits
        start += len(part)


def _part(batch: Sequence[Reading], vocab: int) -> Sequence[Reading]:
    """As many leading sequences as keep the logits within CHUNK_BYTES; at least one. Depends on lengths alone."""
    for count in range(len(batch), 1, -1):
        first, last = _kept_range(batch[:count])
        if count * (last - first) * vocab * 4 <= CHUNK_BYTES:
            return batch[:count]
    return batch[:1]


def _kept_range(batch: Sequence[Reading]) -> tuple[int, int]:
    """The positions whose logits anybody needs: the last context token to the last token but one."""
    return (
        min(len(s.context) - 1 for s in batch),
        max(len(s.context) + len(s.continuation) - 1 for s in batch),
    )


def _forward(loaded: Loaded, batch: Sequence[Reading], pad: int) -> list[Tensor]:
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
    logits = loaded.model(input_ids=ids.to(loaded.device), use_cache=False, return_dict=True, **arguments).logits
    logits = measurable(logits)
    if not sliced:
        logits = logits[:, first:]
    kept = []
    for row, sequence in enumerate(batch):
        begin = len(sequence.context) - 1 - first
        kept.append(logits[row, begin : begin + len(sequence.continuation)])
    return kept
