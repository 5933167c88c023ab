"""The top tokens that a variant saw at each position, and the log-sum-exp that makes probabilities of logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

COUNT = 5
CHUNK = 32
CPU_CHUNK_LOGITS = 2**18  # float64: 2 MiB


@dataclass(frozen=True)
class Tops:
    """The top tokens at T positions: ids int64 [T, COUNT]; log_p float64 [T, COUNT], raw log-probabilities, nats."""

    ids: np.ndarray
    log_p: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def tops(logits: Tensor, log_total: Tensor | None = None) -> Tops:
    """The top tokens of raw logits [T, vocab] in any floating type, most probable first.

    Args:
        log_total: float64 logsumexp per row, where it is known already.
    """
    return ordered(*largest(logits), log_totals(logits) if log_total is None else log_total)


def largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Values and ids [T, k] of enough of the largest logits for `ordered` to settle most ties; values descend."""
    values, ids = torch.topk(logits, min(2 * COUNT, logits.shape[-1]), dim=-1)
    return values, ids


def ordered(values: Tensor, ids: Tensor, log_total: Tensor) -> Tops:
    """The top tokens from what `largest` gave: topk leaves the order of ties open, and 16-bit logits tie often."""
    ids, order = ids.sort(dim=-1)  # lower id first
    values, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    values, ids = values[:, :COUNT], ids.gather(-1, order)[:, :COUNT]
    return Tops(ids.cpu().numpy(), (values.double() - log_total[:, None]).cpu().numpy())


def log_totals(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Float64 logsumexp of each row of [T, vocab] over a temperature, a few rows at a time.

    On a CPU so few that their float64 copies stay in its cache: four times faster at a vocabulary of 50k.
    """
    on_cpu = max(1, CPU_CHUNK_LOGITS * torch.get_num_threads() // max(1, logits.shape[-1]))
    step = on_cpu if logits.device.type == "cpu" else CHUNK
    chunks = []
    for begin in range(0, len(logits), step):
        wide = logits[begin : begin + step].double()
        chunks.append(torch.logsumexp(wide if temperature == 1.0 else wide / temperature, dim=-1))
    return torch.cat(chunks) if chunks else logits.new_zeros(0, dtype=torch.float64)
