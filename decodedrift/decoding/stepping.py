"""Step by step: a variant reads given tokens as it would have generated them, one at a time on a KV cache of its own.

What acts on the cache has no part in a reading of a text at once (`forcing`). Here contexts are prefilled as prompts
are, each continuation is a row over its context's cache, and nothing is chosen: of a text that the variant wrote itself
in the same batch these are the logits that it was written from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from decodedrift.core.records import Reading
from decodedrift.decoding.forcing import families
from decodedrift.decoding.spool import Spool
from decodedrift.models.load import Loaded
from decodedrift.models.steps import begin, reading

WAITING = "stepping"  # the sort of the spool's tensors that wait for the end of a batch


def step(
    loaded: Loaded, sequences: Sequence[Reading], batch_size: int, pad: int, spool: Spool, window: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """(index, logits) of every sequence, batch by batch, as of `forcing.force`.

    A batch is `batch_size` contexts with all their continuations, in the order of `sequences`: of a pass's texts the
    rows in which they were generated. A row that has ended goes on as filler. The steps of a batch wait in the spool.
    """
    for batch in batches(sequences, batch_size, window):
        part = [sequences[index] for index in batch]
        contexts = list(dict.fromkeys((s.owner, s.context) for s in part))
        rows = torch.tensor([contexts.index((s.owner, s.context)) for s in part])
        width = max(len(s.continuation) for s in part)
        tokens = torch.full((len(part), width), pad, dtype=torch.long)
        for row, sequence in enumerate(part):
            tokens[row, : len(sequence.continuation)] = torch.tensor(sequence.continuation, dtype=torch.long)
        with reading(loaded):
            steps = begin(loaded, [context for _, context in contexts], rows, room=width, pad=pad)
            for t in range(width):
                spool.put((WAITING, t), steps.logits)
                if t + 1 < width:
                    steps.advance(tokens[:, t])
            loaded.note(steps.logits)
        for row, index in enumerate(batch):
            logits = [spool.get((WAITING, t))[row] for t in range(len(sequences[index].continuation))]
            yield index, torch.stack(logits).to(tokens.device if loaded.device.type == "mps" else loaded.device)
        spool.drop(WAITING)


def batches(sequences: Sequence[Reading], batch_size: int, window: int | None = None) -> Iterator[list[int]]:
    """The indices of every batch.

    A batch is closed early where filler would take a row past the window, as between windows of a text.
    """
    batch: list[int] = []
    contexts = 0
    for family in families(sequences):
        wider = [*batch, *family]
        longest = max(len(sequences[i].context) for i in wider) + max(len(sequences[i].continuation) for i in wider)
        if contexts == batch_size or (batch and window is not None and longest > window):
            yield sorted(batch)
            batch, contexts = [], 0
        batch, contexts = [*batch, *family], contexts + 1
    if batch:
        yield sorted(batch)
