"""Choosers that are told what to take: one token of a text replaced, or every token of it told or given.

`Injecting` is an ordinary chooser but for one token a row; `Given` reads a known text step by step, in the layout and
with the cache of free running, and shows each step's logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from decodedrift.core.records import Trace
from decodedrift.decoding.choosers import Move, Single


class Injecting(Single):
    """Greedy or sampling, where a row takes a given token at one position instead of its choice, and goes on from it.

    Args:
        inject: prompt id -> (position, token id). A row that has finished before the position is left as it is.
    """

    def __init__(self, *args: Any, inject: Mapping[str, tuple[int, int]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.inject = dict(inject)

    def _choose(self, logits: Tensor) -> Tensor:
        tokens = super()._choose(logits)
        for i, row in enumerate(self.rows):
            at, token = self.inject.get(row.prompt_id, (-1, 0))
            if at == len(row.tokens):
                tokens[i] = token
        return tokens


class Told(Single):
    """Greedy of one row, where another loop took the tokens: what they were taken from is noted here as ever.

    told: its tokens. They are the choice but where two logits tie.
    """

    told: Sequence[int] = ()

    def _choose(self, logits: Tensor) -> Tensor:
        super()._choose(logits)
        return torch.tensor([self.told[len(self.rows[0].tokens)]])


class Given:
    """One row per text, which takes the text's own tokens; after its end a row is fed the pad id.

    Args:
        texts: token ids of each row.
        see: told (position, logits [rows, vocab]) at every step that some row has a token for.
    """

    width = 1

    def __init__(self, texts: Sequence[Sequence[int]], pad: int, see: Callable[[int, Tensor], None]) -> None:
        self.texts, self.pad, self.see = texts, pad, see
        self.position = 0

    @property
    def done(self) -> bool:
        """Whether every text has been read."""
        return self.position >= max(map(len, self.texts), default=0)

    def step(self, logits: Tensor, position: int) -> Move:
        """Shows the logits that predict each row's token at `position`; takes that token."""
        self.see(position, logits)
        self.position = position + 1
        return Move(torch.tensor([t[position] if position < len(t) else self.pad for t in self.texts]))

    def traces(self) -> list[Trace]:
        """None: nothing is generated."""
        return []
