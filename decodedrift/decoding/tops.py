"""The top tokens that a variant saw at each position, and the log-sum-exp that makes probabilities of logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

COUNT = 5
CHUNK = 32
CPU_CHUNK_LOGITS = 2**15  # of float64 copies: they stay in a CPU's second cache
LONE = 2**15  # logits from which torch adds up a row that is alone in parts, one a thread: other last bits


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
    values, ids = largest(logits)
    log_total = log_totals(logits) if log_total is None else log_total
    return Tops(ids.cpu().numpy(), (values.double() - log_total[:, None]).cpu().numpy())


def largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The COUNT largest logits of each row and their ids, [T, COUNT], in descending order; ties by the lower id.

    That is not quite so where more than twice as many tie as are wanted: which of them come is open.
    """
    if logits.device.type == "cpu" and logits.shape[-1] > COUNT and (ids := _one_by_one(logits)) is not None:
        return logits.gather(-1, ids), ids
    values, ids = torch.topk(logits, min(2 * COUNT, logits.shape[-1]), dim=-1)
    ids, order = ids.sort(dim=-1)  # topk leaves the order of ties open, and 16-bit logits tie often: lower id first
    values, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return values[:, :COUNT], ids.gather(-1, order)[:, :COUNT]


def _one_by_one(logits: Tensor) -> Tensor | None:
    """Their ids, a third of the time of a topk: each the first of the largest that are left; None where a row's last
    ties with one that is left out.
    """
    left = np.array(logits.detach().float() if logits.itemsize == 2 else logits.detach())
    rows, ids, values = np.arange(len(left)), [], []
    for _ in range(COUNT + 1):
        ids.append(left.argmax(-1))
        values.append(left[rows, ids[-1]])
        left[rows, ids[-1]] = -np.inf
    if (values[-2] == values[-1]).any() or np.isnan(values[-1]).any():
        return None
    return torch.from_numpy(np.stack(ids[:COUNT], axis=-1))


def descending(logits: Tensor, count: int) -> Tensor:
    """The ids of the `count` largest logits of each row [n, vocab], the largest first, int64 [n, count].

    Equal ones come in any order, and of those that tie with the last any. Rows must hold no NaN. On a CPU numpy sorts
    whole numbers that hold a logit and its id both, in a tenth of the time of torch's sort.
    """
    width = logits.shape[-1]
    if logits.device.type != "cpu" or logits.itemsize > 4:
        return logits.topk(count).indices if count < width else logits.sort(dim=-1, descending=True).indices
    values = logits.detach().float().numpy()
    places = np.arange(width)
    if count < width:
        places = np.argpartition(values, width - count, axis=-1)[:, width - count :]
        values = np.take_along_axis(values, places, axis=-1)
    bits = (values + np.float32(0)).view(np.int32)  # -0 becomes 0
    rising = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))  # whole numbers in the order of the logits
    keys = ((~rising).astype(np.int64) << 32) | places
    keys.sort(axis=-1)
    return torch.from_numpy(keys & 0xFFFFFFFF)


def log_totals(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Float64 logsumexp of each row of [T, vocab] over a temperature, a few rows at a time.

    On a CPU so few that their float64 copies stay in its cache: several times faster at a vocabulary of 50k.
    """
    threads, width = torch.get_num_threads(), max(1, logits.shape[-1])
    few = CPU_CHUNK_LOGITS if threads == 1 or width < LONE else 8 * CPU_CHUNK_LOGITS
    step = max(1, few * threads // width) if logits.device.type == "cpu" else CHUNK
    chunks = []
    for begin in range(0, len(logits), step):
        wide = logits[begin : begin + step].double()
        chunks.append(torch.logsumexp(wide if temperature == 1.0 else wide / temperature, dim=-1))
    return torch.cat(chunks) if chunks else logits.new_zeros(0, dtype=torch.float64)
