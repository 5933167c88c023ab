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
    ((values, ids),) = largest(logits)
    log_total = log_totals(logits) if log_total is None else log_total
    return Tops(ids.cpu().numpy(), (values.double() - log_total[:, None]).cpu().numpy())


def largest(*parts: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The COUNT largest logits of each row of each part and their ids, [T, COUNT], in descending order; ties by the
    lower id.

    That is not quite so where more than twice as many tie as are wanted: which of them come is open.
    """
    if parts[0].device.type != "cpu" or parts[0].shape[-1] <= COUNT:
        return [(part.gather(-1, ids), ids) for part, ids in zip(parts, map(_by_topk, parts), strict=True)]
    ids, tied = _one_by_one(np.concatenate([_numbers(part) for part in parts]))
    if len(tied):
        ids[tied] = _by_topk(torch.cat(parts)[tied])
    own = torch.split(ids, [len(part) for part in parts])  # type: ignore[no-untyped-call]
    return [(part.gather(-1, ids), ids) for part, ids in zip(parts, own, strict=True)]


def _by_topk(logits: Tensor) -> Tensor:
    """Their ids; topk leaves the order of ties open, and 16-bit logits tie often: they are sorted again."""
    values, ids = torch.topk(logits, min(2 * COUNT, logits.shape[-1]), dim=-1)
    ids, order = ids.sort(dim=-1)
    _, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return ids.gather(-1, order)[:, :COUNT]


def _one_by_one(left: np.ndarray) -> tuple[Tensor, Tensor]:
    """Their ids, a third of the time of a topk: each the first of the largest that are left, which is overwritten; and
    the rows whose last ties with one that is left out, for which that will not do.
    """
    rows, ids, values = np.arange(len(left)), [], []
    for _ in range(COUNT + 1):
        ids.append(left.argmax(-1))
        values.append(left[rows, ids[-1]])
        left[rows, ids[-1]] = -np.inf
    (tied,) = ((values[-2] == values[-1]) | np.isnan(values[-1])).nonzero()
    return torch.from_numpy(np.stack(ids[:COUNT], axis=-1)), torch.from_numpy(tied)


def _numbers(logits: Tensor) -> np.ndarray:
    """As numpy has them, in float32 where it lacks their type or is slow in it."""
    numbers: np.ndarray = (logits.detach().float() if logits.itemsize == 2 else logits.detach()).numpy()
    return numbers


def descending(logits: Tensor, count: int) -> Tensor:
    """The ids of the `count` largest logits of each row [n, vocab], the largest first, int64 [n, count].

    Equal ones come in any order, and of those that tie with the last any. Rows must hold no NaN. On a CPU numpy sorts
    whole numbers that hold a logit and its id both, in a tenth of the time of torch's sort.
    """
    width = logits.shape[-1]
    if logits.device.type != "cpu" or logits.itemsize > 4:
        return logits.topk(count).indices if count < width else logits.sort(dim=-1, descending=True).indices
    values = _numbers(logits)
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
