"""Reading past a NaN: the positions before it are read again without it.

In a forced pass all positions are computed at once, and a masked attention weight of 0 times a NaN is NaN: a token that
breaks the model spoils what stands before it in its row, which does not depend on it. Such a row is read once more in
the same batch, everything from that token on replaced, so that shapes and with them the bits of the others stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor, cat

from decodedrift.core.records import Reading
from decodedrift.decoding import forcing
from decodedrift.decoding.survey import nonfinite_counts
from decodedrift.models.load import Loaded


def force(
    loaded: Loaded,
    sequences: Sequence[Reading],
    batch_size: int,
    pad: int,
    window: int | None = None,
    shared: bool | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """`forcing.force`, in which a position is broken only if it is so without the tokens behind it. Those come last."""
    spoilt: dict[int, tuple[int, Tensor]] = {}
    for index, logits in forcing.force(loaded, sequences, batch_size, pad, window, shared):
        first = _first_broken(logits)
        end = first if first == len(logits) else _sound(loaded, sequences[index], first, pad)
        if end == first:
            yield index, logits
        else:
            spoilt[index] = (end, logits)
    if spoilt:
        again = [_without(s, spoilt[i][0]) if i in spoilt else s for i, s in enumerate(sequences)]
        for index, logits in forcing.force(loaded, again, batch_size, pad, window, shared):
            if index in spoilt:
                end, before = spoilt[index]
                yield index, cat([logits[:end], before[end:]])


def _first_broken(logits: Tensor) -> int:
    """The first position with NaN or +inf; their number where there is none."""
    return next((t for t, count in enumerate(nonfinite_counts(logits).tolist()) if count), len(logits))


def _sound(loaded: Loaded, sequence: Reading, least: int, pad: int) -> int:
    """How many positions have logits when nothing behind them is read; `least` have, all of them have not."""
    low, high = least, len(sequence.continuation)
    trial = low + 1  # mostly nothing is spoilt, and the first look settles it
    while low < high - 1:
        part = Reading(sequence.context, sequence.continuation[:trial])
        ((_, logits),) = forcing.force(loaded, [part], 1, pad)
        if _first_broken(logits) == trial:
            low = trial
        else:
            high = trial
        trial = (low + high) // 2
    return low


def _without(sequence: Reading, end: int) -> Reading:
    """As long as before, and the same up to what predicts position `end` - 1."""
    start = sequence.continuation[: end - 1]
    filler = (sequence.context[-1],) * (len(sequence.continuation) - len(start))
    return replace(sequence, continuation=start + filler)
