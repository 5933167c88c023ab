"""What a tensor holds, and what becomes of it in each format: counts and sums that add up over parts of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decodedrift.experiments.formats.kinds import Kind
from decodedrift.models.load import measurable

PART = 1 << 17  # elements that are looked at together: what fits a core's cache
LOWEST, HIGHEST = -1074, 1023  # binades of float64


@dataclass
class Range:
    """How large the numbers of a tensor are. zeros, nonfinite: of n. binades: of the others, by floor(log2|x|)."""

    n: int = 0
    zeros: int = 0
    nonfinite: int = 0
    largest: float = 0.0
    smallest: float = math.inf
    squares: float = 0.0
    binades: np.ndarray = field(default_factory=lambda: np.zeros(HIGHEST - LOWEST + 1, dtype=np.int64))

    def add(self, part: Tensor) -> None:
        """More numbers, float32 or float64, all finite."""
        size = part.abs()
        zeros = part.numel() - int(size.count_nonzero())
        self.n += part.numel()
        self.zeros += zeros
        if zeros == part.numel():
            return
        some = size[size > 0] if zeros else size
        self.largest, self.smallest = max(self.largest, float(some.amax())), min(self.smallest, float(some.amin()))
        self.squares += float(some.double().square().sum())
        binade = some.frexp()[1].flatten().long() - 1 - LOWEST
        self.binades += binade.bincount(minlength=len(self.binades)).cpu().numpy()

    def row(self) -> dict[str, Any]:
        """Its columns; what no number shows is empty."""
        return {
            "n": self.n, "zeros": self.zeros, "nonfinite": self.nonfinite, "square": self.squares,
            "largest": self.largest if self.largest else None,
            "smallest": self.smallest if self.largest else None,
        }  # fmt: skip


@dataclass
class Rounding:
    """What became of the non-zero finite numbers of a tensor in a format.

    error_square: over those that are held, what became 0 counting as an error of 1; normal_square: over the `normal`
    ones, which have full precision.
    """

    numbers: int = 0
    overflow: int = 0
    flushed: int = 0
    subnormal: int = 0
    unchanged: int = 0
    held: int = 0
    error_square: float = 0.0
    normal: int = 0
    normal_square: float = 0.0

    def add(self, rows: Tensor, kind: Kind, scale: Tensor | None) -> None:
        """More rows [n, width], all finite; the scale of the tensor that they are of, where it has one for all."""
        given, near, largest, least = kind.hold(rows, scale)
        size, info = given.abs(), torch.finfo(rows.dtype)
        lost = near.abs() > largest  # beyond the largest value even when rounded
        count, over = int(rows.count_nonzero()), int(lost.sum())
        zero = count - int(near.count_nonzero())
        below = int((size < least).sum()) - (rows.numel() - count) - zero if least else 0
        near = near.clamp(-largest, largest) if over and kind.saturates else near
        apart = near - given
        error = (apart / size.clamp(min=info.tiny * info.eps)).double().square()  # of 0, which stays 0, none
        error = error.masked_fill(lost, 0.0) if over and not kind.saturates else error
        held = count if kind.saturates else count - over
        self.numbers, self.overflow, self.flushed = self.numbers + count, self.overflow + over, self.flushed + zero
        self.subnormal, self.held = self.subnormal + below, self.held + held
        self.unchanged += held - int(apart.count_nonzero()) + (0 if kind.saturates else over)
        self.error_square += (whole := float(error.sum()))
        self.normal += count - over - zero - below
        if zero or below or (over and kind.saturates):
            whole = float(error.masked_fill(lost | (size < least) | (near == 0), 0.0).sum())
        self.normal_square += whole


def rows_of(tensor: Tensor) -> Tensor:
    """[rows, width] of at least float32: the last dimension is a row."""
    tensor = measurable(tensor)
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    return wide.reshape(-1, wide.shape[-1]) if wide.dim() > 1 else wide.reshape(1, -1)


def parts(rows: Tensor) -> Iterator[Tensor]:
    """Rows, so many at a time that they are about PART elements."""
    step = max(1, PART // max(1, rows.shape[-1]))
    yield from (rows[begin : begin + step] for begin in range(0, len(rows), step))


@dataclass
class Counts:
    """One tensor's, over all that was seen of it."""

    kinds: Sequence[Kind]
    range: Range = field(default_factory=Range)
    roundings: list[Rounding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roundings = [Rounding() for _ in self.kinds]

    def add(self, tensor: Tensor) -> None:
        """More of it. A scale of the whole tensor is that of this part."""
        if not tensor.numel():
            return
        rows = rows_of(tensor.detach())
        if broken := rows.numel() - int(rows.isfinite().sum()):
            self.range.nonfinite += broken
            self.range.zeros -= broken  # as which they are passed on
            rows = rows.nan_to_num(0.0, 0.0, 0.0)
        scales = [kind.scale(rows) for kind in self.kinds]
        for part in parts(rows):
            self.range.add(part)
            for kind, rounding, scale in zip(self.kinds, self.roundings, scales, strict=True):
                rounding.add(part, kind, scale)
