"""Which logits a text was chosen from, to the bit: a digest of the raw rows of every step."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from decodedrift.core.records import Cell, Key

SIZE = 8  # bytes of a digest


class Digests:
    """Watches the logits of one decoding pass; `see` is what `decoding.loop.generate` takes.

    Args:
        cells: as the pass decodes them. prompt_ids: of its batch, in order. watched: those that are wanted.
    """

    def __init__(self, cells: Sequence[Cell], prompt_ids: Sequence[str], watched: Collection[str]) -> None:
        self._rows: dict[Key, slice] = {}
        self._steps: dict[Key, list[bytes]] = {}
        start = 0
        for strategy, seed in cells:
            for prompt_id in prompt_ids:
                if prompt_id in watched:
                    self._rows[Key(strategy.label, seed, prompt_id)] = slice(start, start + strategy.rows)
                start += strategy.rows
        self._steps = {key: [] for key in self._rows}

    def see(self, logits: Tensor) -> None:
        """One step's raw logits [rows, vocab], in their own type."""
        rows = logits.detach().cpu().contiguous().view(torch.uint8).numpy()
        for key, part in self._rows.items():
            self._steps[key].append(hashlib.blake2b(rows[part].tobytes(), digest_size=SIZE).digest())

    def of(self, key: Key, tokens: int) -> str:
        """The digest of the logits that the first `tokens` tokens of a text were chosen from."""
        return hashlib.blake2b(b"".join(self._steps[key][:tokens]), digest_size=SIZE).hexdigest()
