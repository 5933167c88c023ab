"""A KV cache that is written in place: room for every token is made once.

transformers' DynamicLayer copies the whole cache at every step as it grows, and once more when beams cross.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, [rows, heads, tokens, size], as views of buffers that hold `room` tokens."""

    def __init__(self, layer: DynamicLayer, rows: Tensor, room: int) -> None:
        super().__init__()
        self.buffers = []
        self.shared = layer.keys.shape[2]  # the prompt's part: the same in all rows of a prompt, never reordered
        for states in (layer.keys, layer.values):
            picked = states.index_select(0, rows)
            buffer = picked.new_empty((*picked.shape[:2], picked.shape[2] + room, picked.shape[3]))
            buffer[:, :, : picked.shape[2]] = picked
            self.buffers.append(buffer)
        self.dtype, self.device, self.is_initialized = layer.keys.dtype, layer.keys.device, True
        self._show(layer.keys.shape[2])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the new tokens behind the others; returns all."""
        begin = self.keys.shape[2]
        end = begin + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin:end] = states
        self._show(end)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Each row takes over the past of a row of the same prompt; only what differs is copied."""
        changes = (beam_idx != torch.arange(len(beam_idx), device=beam_idx.device)).nonzero().view(-1)
        for view in (self.keys[:, :, self.shared :], self.values[:, :, self.shared :]):
            view[changes] = view[beam_idx[changes]]

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)


def expand(cache: Any, rows: Tensor, room: int, *, in_place: bool) -> None:
    """Gives every row of the decoding batch its prompt's cache, with room to grow or as its layers do it themselves."""
    if in_place and kv_only(cache):
        cache.layers = [RoomyLayer(layer, rows, room) for layer in cache.layers]
    else:
        cache.reorder_cache(rows)


def kinds(cache: Any) -> str:
    """The classes of a cache's layers, empty without a cache: what `kv_only` is decided by, for the record."""
    return ", ".join(sorted({type(layer).__name__ for layer in getattr(cache, "layers", ())}))


def kv_only(cache: Any) -> bool:
    """Whether a cache holds nothing but the keys and values of every token (no window, no state)."""
    layers = getattr(cache, "layers", [None])
    return all(type(layer) in (DynamicLayer, RoomyLayer) and layer.keys is not None for layer in layers)
