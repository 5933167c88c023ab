"""Teacher forced: a variant reads given tokens, and its raw logits at each of them come out, one batch at a time.

Readings that share a context (a prompt's continuations under several strategies) read it once: the contexts are
prefilled as for generation, and the continuations follow as rows over copies of that cache. Whatever else there is to
read is read whole, right-padded: under a causal mask nothing to the left sees the padding, so a padded row has the bits
of an unpadded one (left padding without position ids is wrong by whole logits).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from decodedrift.core.records import Reading
from decodedrift.models.load import Loaded
from decodedrift.models.steps import Cached, read_whole, reading

CHUNK_BYTES = 256 * 2**20  # of one forward's kept logits; a batch above it is read in parts, the same for every variant


def force(
    loaded: Loaded,
    sequences: Sequence[Reading],
    batch_size: int,
    pad: int,
    window: int | None = None,
    shared: bool | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """(index, logits) of every sequence, batch by batch.

    logits[t]: the raw logits, in the variant's own dtype, [len(continuation), vocab], that predict continuation[t]
    from everything before it. A batch is `batch_size` contexts with all their continuations. The layout is a function
    of the lengths alone, the same for every variant of a model.

    Args:
        shared: see `batches`.
    """
    vocab = loaded.model.config.get_text_config(decoder=True).vocab_size
    for left, prefilled in batches(sequences, batch_size, loaded.path, window, shared):
        while left:
            batch = [sequences[i] for i in (left if prefilled else left[:batch_size])]
            part = _part(batch, vocab, prefilled)
            every = _after_contexts(loaded, part, pad) if prefilled else iter(_whole(loaded, part, pad))
            for logits, index in zip(every, left, strict=False):
                loaded.note(logits)
                yield index, logits
            left = left[len(part) :]


def batches(
    sequences: Sequence[Reading], batch_size: int, path: str, window: int | None, shared: bool | None = None
) -> Iterator[tuple[list[int], bool]]:
    """(indices, whether they are read over a prefill of their contexts) of every batch.

    Args:
        shared: whether they are to be. None: where contexts have several continuations and batch_size is not 1. On
            another path than `shared`, or where filler would pass `window`, none can be: they are read whole, and
            where `shared` is True not at all.
    """
    order = families(sequences)
    for start in range(0, len(order), batch_size):
        indices = [index for family in order[start : start + batch_size] for index in family]
        longest = max(len(sequences[i].context) for i in indices) + max(len(sequences[i].continuation) for i in indices)
        can = path == "shared" and (window is None or longest <= window)
        several = batch_size > 1 and len(indices) > len(order[start : start + batch_size])
        if can or not shared:
            yield indices, can and (several if shared is None else shared)


def families(sequences: Sequence[Reading]) -> list[list[int]]:
    """The indices of the sequences by their owner and context, in the order of the first of each."""
    by_context: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for index, sequence in enumerate(sequences):
        by_context.setdefault((sequence.owner, sequence.context), []).append(index)
    return list(by_context.values())


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
    """Every sequence from its beginning; the last token predicts nothing that is scored."""
    texts = [(s.context + s.continuation)[: max(1, len(s.context) + len(s.continuation) - 1)] for s in batch]
    spans = [(len(s.context) - 1, len(s.context) + len(s.continuation) - 1) for s in batch]
    with reading(loaded):
        return read_whole(loaded, texts, spans, pad=pad)


def _after_contexts(loaded: Loaded, batch: Sequence[Reading], pad: int) -> Iterator[Tensor]:
    """The batch over one prefill of its distinct contexts; copied one at a time, in memory that is used again."""
    contexts = list(dict.fromkeys(s.context for s in batch))
    rows = torch.tensor([contexts.index(s.context) for s in batch])
    width = max(len(s.continuation) for s in batch) - 1
    with reading(loaded):
        steps = Cached(loaded, contexts, rows, room=width, pad=pad, ahead=max(1, width))
        first = steps.logits[:, None]
        if width < 1:
            return (first[row, : len(s.continuation)] for row, s in enumerate(batch))
        tokens = torch.full((len(batch), width), pad, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, sequence in enumerate(batch):
            length = len(sequence.continuation) - 1
            tokens[row, :length] = torch.tensor(sequence.continuation[:-1], dtype=torch.long)
            mask[row, :length] = 1
        rest = steps.read(tokens, mask)
    return (torch.cat([first[row], rest[row, : len(s.continuation) - 1]]) for row, s in enumerate(batch))
