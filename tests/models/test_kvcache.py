"""Rows that take over the past of others: only what another row wrote is copied, and every bit is there afterwards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from decodedrift.models import kvcache

PROMPTS, WIDTH, SHARED, ROOM = 3, 4, 5, 12
ROWS = torch.arange(PROMPTS).repeat_interleave(WIDTH)


def states(rows: int, tokens: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, 2, tokens, size).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_search_copies_what_differs_alone_and_nothing_is_missing(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layers = []
    for _ in range(2):
        layer = DynamicLayer()
        layer.update(states(PROMPTS, SHARED, 4, dtype), states(PROMPTS, SHARED, 6, dtype))
        layers.append(layer)
    cache: Any = SimpleNamespace(layers=layers)
    whole = [[part[ROWS] for part in (layer.keys, layer.values)] for layer in layers]
    kvcache.expand(cache, ROWS, ROOM, in_place=True)
    copied, moved = list[int](), list[int]()
    real = kvcache.RoomyLayer.copy
    monkeypatch.setattr(kvcache.RoomyLayer, "copy", lambda self, to, of: (copied.append(len(to)), real(self, to, of)))
    for step in range(ROOM):
        for layer, parts in zip(cache.layers, whole, strict=True):
            new = [states(len(ROWS), 1, part.shape[-1], dtype) for part in parts]
            layer.update(*new)
            parts[:] = [torch.cat([old, one], dim=2) for old, one in zip(parts, new, strict=True)]
        parents = ROWS * WIDTH + torch.randint(0, WIDTH, (len(ROWS),))
        moving = (parents != torch.arange(len(ROWS))).nonzero().squeeze(-1)
        if step == 4:  # by the method that transformers knows, which goes past the record
            for layer in cache.layers:
                layer.reorder_cache(parents)
        else:
            kvcache.reorder(cache, parents, moving)
            moved += [len(moving) * (step + 1)] * len(cache.layers)
        for layer, parts in zip(cache.layers, whole, strict=True):
            parts[:] = [part[parents] for part in parts]
            assert torch.equal(layer.keys, parts[0]) and torch.equal(layer.values, parts[1])
    assert copied[:2] == moved[:2] and 0 < sum(copied[-6:]) < sum(moved[-6:]) / 2, "what is older is mostly shared"
