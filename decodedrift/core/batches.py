"""Which prompts of a job share a batch: a function of their lengths and the plan's batch size alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from decodedrift.core.records import Key, Prompt

Item = TypeVar("Item")
Held = TypeVar("Held")


def padding(lengths: Sequence[int], size: int) -> int:
    """Filler tokens where sequences of these lengths are cut into batches of `size` in the order given."""
    cut = (lengths[i : i + size] for i in range(0, len(lengths), size))
    return sum(max(batch) * len(batch) - sum(batch) for batch in cut)


def by_length(items: Sequence[Item], length: Callable[[Item], int], size: int) -> list[Item]:
    """The items as they enter batches of `size`: shortest first, equal ones as they came.

    As they came altogether where sorting saves no padding, as in batches of one.
    """
    order = sorted(items, key=length)
    saves = padding([length(i) for i in order], size) < padding([length(i) for i in items], size)
    return order if saves else list(items)


def whole(order: Sequence[str], size: int, wanted: Collection[str]) -> set[str]:
    """Who is in the batches of `size` that hold one who is wanted."""
    batches = [set(order[i : i + size]) for i in range(0, len(order), size)]
    return set().union(*(batch for batch in batches if not batch.isdisjoint(wanted)))


def filed(rows: Mapping[Key, Held], prompts: Sequence[Prompt]) -> dict[Key, Held]:
    """What batches left, by (strategy, seed, prompt id), in the order of the file."""
    place = {prompt.id: i for i, prompt in enumerate(prompts)}
    return {key: rows[key] for key in sorted(rows, key=lambda key: place.get(key.prompt_id, 0))}
