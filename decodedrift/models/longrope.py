"""Rotary factors that change with the length of what is read: beyond it the same tokens are another function.

`longrope` has one set of factors up to a length and another beyond it; `dynamic` stretches them with each token beyond.
Both follow the longest sequence of a forward pass. A text that is generated across that length is therefore read by two
functions, and one reading of the whole text knows only the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from decodedrift.core.records import Trace


@dataclass(frozen=True)
class Switch:
    """length: the longest sequence that is read with the first factors. grows: every length beyond has its own."""

    length: int
    grows: bool


def switch(config: Any) -> Switch | None:
    """Where a model's rotary factors change; None where they are the same at every length."""
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    switches = []
    for one in (rope, *rope.values()):  # one for all layers, or one by kind of layer
        kind = str(one.get("rope_type")) if isinstance(one, Mapping) else ""
        if kind == "longrope" or "dynamic" in kind:
            length = one.get("original_max_position_embeddings") or text.max_position_embeddings
            switches.append(Switch(int(length), kind != "longrope"))
    return min(switches, key=lambda s: s.length, default=None)


def readable_tokens(lengths: Mapping[str, int], batch_size: int, at: Switch | None) -> dict[str, int]:
    """How many new tokens can be read again by the function that chose them, of the prompts where that is limited.

    Args:
        lengths: prompt id -> tokens, in the order of the batches that they are generated in.
    """
    limits: dict[str, int] = {}
    names = list(lengths)
    for start in range(0, len(names) if at is not None else 0, batch_size):
        batch = names[start : start + batch_size]
        longest = max(lengths[name] for name in batch)
        for name in batch:
            if at is not None and (longest <= at.length or at.grows or lengths[name] <= at.length):
                limits[name] = max(0, at.length - longest + 1)
    return limits


def left_out(traces: Iterable[Trace], limits: Mapping[str, int]) -> dict[str, str]:
    """Strategy -> a sentence on its texts that go on behind what can be read again."""
    passed = {t.strategy for t in traces if len(t.token_ids) > limits.get(t.prompt_id, len(t.token_ids))}
    why = (
        "texts pass the length at which the model's rotary factors change, and are not read beyond it; there the "
        "longest text of a batch decides for all, so that another batch size is another function"
    )
    return dict.fromkeys(sorted(passed), why)
