"""What all choosers want to know of a step's raw logits, found once for the whole mixed batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decodedrift.decoding.tops import largest, log_totals


@dataclass(frozen=True)
class Seen:
    """Of a chooser's rows.

    logits: [n, vocab] without NaN or +inf. broken: how many there were in each row, int64 [n]. top: values and ids of
    `tops.largest`. log_total: float64 [n], of `tops.log_totals`.
    """

    logits: Tensor
    broken: Tensor
    top: tuple[Tensor, Tensor]
    log_total: Tensor


def survey(logits: Tensor, spans: Sequence[slice]) -> list[Seen]:
    """What there is to know of each span of rows of raw logits.

    Every span is normalised by itself: on several threads the last bits of a row may depend on whether it is alone.
    """
    if not spans:
        return []
    clean, broken = cleaned(logits)
    parts = [clean[rows] for rows in spans]
    tops = largest(*parts)
    return [Seen(part, broken[rows], top, log_totals(part)) for part, rows, top in zip(parts, spans, tops, strict=True)]


def cleaned(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits without NaN or +inf, which become 0, and how many there were in each row: int64 [n]."""
    counts = nonfinite_counts(logits)
    if counts.device.type == "cpu" and not bool(counts.any()):
        return logits, counts
    return torch.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=-math.inf), counts


def nonfinite_counts(logits: Tensor) -> Tensor:
    """NaN and +inf logits per row, int64 [n]. On a CPU the rows' sums tell whether there is anything to count."""
    if logits.device.type == "cpu":
        sums = logits.sum(-1, dtype=torch.float32 if logits.itemsize < 8 else None)
        if bool(torch.isfinite(sums).all()):
            return torch.zeros(len(logits), dtype=torch.long)
    return (torch.isnan(logits) | (logits == torch.inf)).sum(-1)
