"""Decimal digits that two sets of numbers have in common, number by number."""

from __future__ import annotations

import numpy as np


def digits_in_common(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """-log10(|p - q| / |q|) of each pair, float64, any shape; theirs: q.

    +inf where both are equal, -inf where only q is 0, nan where one is not a number.
    """
    p, q = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = -np.log10(np.abs(p - q) / np.abs(q))
    return np.where(p == q, np.inf, digits)
