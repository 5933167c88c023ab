"""Ratios of means whose errors are shared within prompts: percentile bootstrap over prompts (Efron 1979)."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

DRAWS = 2000
SEED = 20250609  # fixed, so that the same tables give the same interval


def ratio(top: np.ndarray, bottom: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """sum(top)/sum(bottom), which is the ratio of the means, with its 95 % interval; clusters (prompts) are redrawn.

    NaN where the bottom sums to 0; an interval of NaN where fewer than two clusters have a bottom other than 0. A draw
    that holds none of these says nothing and is left out.

    Args:
        top, bottom: float64 [n], finite. clusters: [n] names.
    """
    found = ratios(top, bottom, clusters, np.zeros(len(top), dtype=int), 1)
    return float(found[0][0]), float(found[1][0]), float(found[2][0])


def ratios(
    top: np.ndarray, bottom: np.ndarray, clusters: np.ndarray, columns: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`ratio` of each of `count` groups, all from the same draws of clusters: value, low and high, float64 [count].

    Args:
        columns: int [n], the group that a row belongs to.
    """
    names, index = np.unique(clusters, return_inverse=True)
    above, below = (np.zeros((len(names), count)) for _ in range(2))
    np.add.at(above, (index, columns), top)
    np.add.at(below, (index, columns), bottom)
    low, high = (np.full(count, math.nan) for _ in range(2))
    known = (below != 0).sum(0) > 1
    if known.any():
        weights = _weights(len(names))
        drawn = _divided(weights @ above[:, known], weights @ below[:, known])
        low[known], high[known] = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    return _divided(above.sum(0), below.sum(0)), low, high


@lru_cache(maxsize=4)
def _weights(clusters: int) -> np.ndarray:
    """How often each cluster is in each draw, float64 [DRAWS, clusters]."""
    draws = np.random.default_rng(SEED).multinomial(clusters, np.full(clusters, 1 / clusters), size=DRAWS)
    return draws.astype(float)


def _divided(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom != 0, top / bottom, math.nan)
