"""Choosing as a model is deployed: its own logits processors come before the strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from decodedrift.decoding.choosers import Move, Single
from decodedrift.decoding.survey import Seen
from decodedrift.models.own import Process


class Processing(Single):
    """Greedy or sampling from logits that have passed a model's own processors: in float32, as in `generate`.

    Scores, margins and logprobs are those of the processed logits.

    Args:
        processes: prompt id -> what makes scores of (ids so far, logits).
    """

    def __init__(self, *args: Any, processes: Mapping[str, Process], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.processes, self.remembers = processes, True

    surveyed = False  # what is seen is seen of processed logits

    def step(self, logits: Tensor, position: int, seen: Seen | None = None) -> Move:
        """Chooses the next token of every unfinished row; a finished one is fed the pad id and not processed."""
        wide = logits if logits.dtype == torch.float64 else logits.float()
        rows = zip(range(self.count), self.alive.tolist(), wide.split(1), strict=True)  # type: ignore[no-untyped-call]
        scores = [self._processed(row, one) if alive else one for row, alive, one in rows]
        return super().step(torch.cat(scores), position)

    def _processed(self, row: int, scores: Tensor) -> Tensor:
        said = self.history()[row : row + 1, self.begin - self.before[row] :]
        return self.processes[self.prompt_ids[row]](said, scores)
