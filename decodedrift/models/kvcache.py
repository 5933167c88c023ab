"""A row's KV cache: one that is written in place, or the one of transformers that a variant asks for.

transformers' DynamicLayer copies the whole cache at every step as it grows, and once more when beams cross; a
`RoomyLayer` has room for every token from the beginning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, QuantizedCache, StaticCache, StaticLayer

from decodedrift.core.records import Variant, VariantError
from decodedrift.core.versions import versions
from decodedrift.models.kvrounding import Rounding, rounded_by
from decodedrift.models.load import Loaded
from decodedrift.models.precisions.floating import NAMES

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Lineage:
    """Which row wrote each token of each row's past, for all layers: what one row wrote has the same bits everywhere.

    Hypotheses of a search mostly part a few tokens back, and what they share need not be copied from one to another.

    writers: int64 [rows, room], behind the prompts.
    """

    def __init__(self, rows: int, room: int) -> None:
        self.writers = np.empty((rows, room), dtype=np.int64)
        self.forget()

    def forget(self) -> None:
        """Rows have taken over others' pasts unseen: any two are taken to differ in all of it."""
        self.writers[:] = np.arange(len(self.writers))[:, None]

    def take_over(self, rows: NDArray[np.int64], parents: NDArray[np.int64], length: int) -> list[NDArray[np.int64]]:
        """Some rows take over others' pasts, `length` tokens: (rows, those, tokens) [n] of other writers."""
        old, new = self.writers[rows, :length], self.writers[parents, :length]
        moved, token = (old != new).nonzero()
        self.writers[rows, :length] = new
        return [rows[moved], parents[moved], token]


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, [rows, heads, tokens, size], as views of buffers that hold `room` tokens."""

    def __init__(self, layer: DynamicLayer, rows: Tensor, room: int, lineage: Lineage) -> None:
        super().__init__()
        self.buffers, self.lineage = [], lineage
        self.shared = layer.keys.shape[2]  # the prompt's part: the same in all rows of a prompt, never reordered
        for states in (layer.keys, layer.values):
            picked = states.index_select(0, rows.to(states.device))  # a layer may be on a device of its own
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
        """Each row takes over the past of a row of the same prompt."""
        self.lineage.forget()
        self.take_over(torch.arange(len(beam_idx), device=beam_idx.device), beam_idx)

    def take_over(self, rows: Tensor, parents: Tensor) -> None:
        """Some rows take over the past of others, of their own prompts: what is not the prompt's is copied."""
        rows, parents = rows.to(self.device), parents.to(self.device)
        for view in (self.keys[:, :, self.shared :], self.values[:, :, self.shared :]):
            view.index_copy_(0, rows, view.index_select(0, parents))

    def copy(self, places: NDArray[np.int64], sources: NDArray[np.int64]) -> None:
        """On a CPU: some vectors of keys and values become others. Places as of `_places`."""
        for buffer in self.buffers:  # numpy needs a third of torch's time; it has not every type, but its bits
            bits = buffer.detach().view(BITS[buffer.itemsize]).view(-1, buffer.shape[-1]).numpy()
            bits[places] = bits[sources]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Heads, tokens that there is room for, tokens of the prompt: what places depend on."""
        return (*self.buffers[0].shape[1:3], self.shared)

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)


PLAIN_LAYERS = (RoomyLayer, DynamicLayer, StaticLayer)  # keys and values of every token, in a tensor each


def expand(cache: Any, rows: Tensor, room: int, *, in_place: bool) -> None:
    """Gives every row of the decoding batch its prompt's cache, with room to grow or as its layers do it themselves."""
    if in_place and kv_only(cache):
        lineage = Lineage(len(rows), room)
        cache.layers = [RoomyLayer(layer, rows, room, lineage) for layer in cache.layers]
    else:
        cache.reorder_cache(rows)


def reorder(cache: Any, parents: Tensor, moving: Tensor | None) -> None:
    """Each row takes over the past of its parent, a row of its prompt; none but the rows `moving` has another."""
    layers = getattr(cache, "layers", ())
    if moving is None or not layers or not all(isinstance(layer, RoomyLayer) for layer in layers):
        cache.reorder_cache(parents)
        return
    taken, first = parents[moving], layers[0]
    if any(layer.device.type != "cpu" for layer in layers):
        for layer in layers:
            layer.take_over(moving, taken)
        return
    length = first.keys.shape[2] - first.shared
    rows, sources, tokens = first.lineage.take_over(moving.cpu().numpy(), taken.cpu().numpy(), length)
    known: dict[tuple[int, int, int], list[NDArray[np.int64]]] = {}
    for layer in layers:
        if layer.shape not in known:
            known[layer.shape] = [_places(part, tokens, *layer.shape) for part in (rows, sources)]
        layer.copy(*known[layer.shape])


def _places(
    rows: NDArray[np.int64], tokens: NDArray[np.int64], heads: int, room: int, shared: int
) -> NDArray[np.int64]:
    """Where the vectors of tokens behind the prompts are, [n, heads], in a buffer that is seen as a row of vectors."""
    return (rows[:, None] * heads + np.arange(heads)) * room + (shared + tokens)[:, None]


def owned(loaded: Loaded, cache: Any, length: int) -> Any:
    """The empty cache that a variant's knobs ask for, in place of the one that transformers prepared for it.

    Args:
        cache: that one. length: tokens that a static one has room for.

    Raises:
        VariantError: the model keeps another kind of cache, or none that can be of that kind.
    """
    variant, config = loaded.variant, loaded.model.config.get_text_config(decoder=True)
    kind, kv = variant.knobs.get("cache"), variant.knobs.get("kv")
    if type(cache) is not DynamicCache:
        asked = f"cache={kind}" if kind else f"kv={kv}"
        raise VariantError(f"{variant.name}: this model keeps a {type(cache).__name__}, which cannot be had as {asked}")
    if kind == "static":
        cache = StaticCache(config=config, max_cache_len=length)
    elif kind == "offloaded":
        cache = DynamicCache(config=config, offloading=True)
    elif kind and kind.startswith("quantized"):
        cache = _quantized(variant, config, *kind.split(":")[1:])
    if kv:
        rounded_by(cache, Rounding(kv, loaded.facts))
    return cache


def _quantized(variant: Variant, config: Any, backend: str, *numbers: str) -> Any:
    names = ("nbits", "q_group_size", "residual_length")
    settings: dict[str, Any] = {name: int(n) for name, n in zip(names, numbers, strict=False)}
    try:
        cache = QuantizedCache(backend=backend, config=config, **settings)
    except (ImportError, ValueError) as error:
        raise VariantError(f"{variant.name}: no cache=quantized:{backend} here ({error})") from error
    kinds_of_layer = type(cache.layers[0]).__mro__
    if not any("Quantized" in kind.__name__ and "reorder_cache" in vars(kind) for kind in kinds_of_layer):
        version = versions()["transformers"]  # an early one exchanges the unrounded tokens alone
        raise VariantError(f"{variant.name}: transformers {version} cannot exchange the rows of a quantized cache")
    return cache


def kinds(cache: Any) -> str:
    """The classes of a cache's layers, empty without a cache, with what a quantized one is set to: for the record."""
    return ", ".join(sorted({_kind(layer) for layer in getattr(cache, "layers", ())})) + (
        " (offloaded)" if getattr(cache, "offloading", False) else ""
    )


def _kind(layer: Any) -> str:
    name = type(layer).__name__
    if (bits := getattr(layer, "nbits", None)) is None:
        return name
    return f"{name} ({bits} bits, groups of {layer.q_group_size}, {layer.residual_length} tokens unrounded)"


def by_layer(cache: Any) -> dict[str, int]:
    """How many layers are of which class and type of keys, as `RoomyLayer fp32`: for the record."""
    counts: dict[str, int] = {}
    for layer in getattr(cache, "layers", ()):
        dtype = getattr(getattr(layer, "keys", None), "dtype", None)
        name = _kind(layer) if dtype is None else f"{_kind(layer)} {NAMES.get(dtype, dtype)}"
        counts[name] = counts.get(name, 0) + 1
    return counts


def kv_only(cache: Any) -> bool:
    """Whether a cache holds nothing but the keys and values of every token (no window, no state)."""
    layers = getattr(cache, "layers", [None])
    return all(type(layer) in (DynamicLayer, RoomyLayer) and layer.keys is not None for layer in layers)
