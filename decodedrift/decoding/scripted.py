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
from decodedrift.decoding.survey import Seen


class Injecting(Single):
    """Greedy or sampling, where a row takes a given token at one position instead of its choice, and goes on from it.

    Args:
        inject: prompt id -> (position, token id). A row that has finished before the position is left as it is.
    """

    def __init__(self, *args: Any, inject: Mapping[str, tuple[int, int]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.inject = dict(inject)
        places = [self.inject.get(name, (-1, 0)) for name in self.prompt_ids]
        steps = [at - start for (at, _), start in zip(places, self.starts, strict=True)]
        self.at = torch.tensor(steps, device=self.alive.device)
        self.put = torch.tensor([token for _, token in places], device=self.alive.device)

    def _choose(self, logits: Tensor) -> Tensor:
        tokens = super()._choose(logits)
        return torch.where(self.alive & (self.at == self.steps), self.put, tokens)


class Told(Single):
    """Greedy of one row, where another loop took the tokens: what they were taken from is noted here as ever.

    told: its tokens. They are the choice but where two logits tie.
    """

    told: Sequence[int] = ()

    def _choose(self, logits: Tensor) -> Tensor:
        super()._choose(logits)
        return torch.tensor([self.told[self.steps]], device=logits.device)


class Given:
    """One row per text, which takes the text's own tokens; after its end a row is fed the pad id.

    Args:
        texts: token ids of each row.
        see: told (position, logits [rows, vocab]) at every step that some row has a token for.
    """

    width, surveyed = 1, False

    def __init__(self, texts: Sequence[Sequence[int]], pad: int, see: Callable[[int, Tensor], None]) -> None:
        self.texts, self.see = texts, see
        self.position, self.length = 0, max(map(len, texts), default=0)
        rows = [torch.tensor([*text, *[pad] * (self.length - len(text))], dtype=torch.long) for text in texts]
        self.tokens = torch.stack(rows, dim=-1)

    @property
    def done(self) -> bool:
        """Whether every text has been read."""
        return self.position >= self.length

    def step(self, logits: Tensor, position: int, seen: Seen | None = None) -> Move:
        """Shows the logits that predict each row's token at `position`; takes that token."""
        if position < self.length:
            self.see(position, logits)
        self.position = position + 1
        return Move(self.tokens[min(position, self.length - 1)])

    def traces(self) -> list[Trace]:
        """None: nothing is generated."""
        return []
