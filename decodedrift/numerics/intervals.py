"""What is not known of an estimate: 95 % intervals and standard errors, shared within clusters. Pure arrays.

A cluster is a prompt, its seeds inside, or a window of a text: rows of one cluster are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

Z95 = 1.959963984540054  # normal quantile; scipy takes too long to load for a constant
DRAWS = 2000
SEED = 20250609  # fixed, so that the same tables give the same interval


def t95(clusters: float) -> float:
    """Student's factor of a 95 % interval whose error was estimated from that many (effective) clusters."""
    from scipy import stats

    return float(stats.t.ppf(0.975, clusters - 1)) if clusters > 1 else math.nan


def iid_se(values: np.ndarray) -> float:
    """Standard error of a mean of independent values (ddof = 1); NaN for fewer than two."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def sandwich(influence: np.ndarray, clusters: np.ndarray) -> float:
    """Variance of an estimate that is off by the sum of `influence` [n], of rows that are alike within clusters (CR1).

    G/(G-1) sum_g (sum of influence in g)^2. NaN for a single cluster.
    """
    _, index = np.unique(clusters, return_inverse=True)
    groups = int(index.max()) + 1 if len(index) else 0
    return groups / (groups - 1) * float(np.sum(np.bincount(index, influence) ** 2)) if groups > 1 else math.nan


def ratio_se(top: np.ndarray, bottom: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """sum(top) / sum(bottom), and its standard error: a row's influence is (top - ratio bottom) / sum(bottom).

    NaN where the bottom sums to 0; no error for a single cluster.
    """
    total = float(bottom.sum())
    if not total:
        return math.nan, math.nan
    value = float(top.sum()) / total
    return value, math.sqrt(sandwich(top - value * bottom, clusters)) / total


def clustered_se(values: np.ndarray, clusters: np.ndarray) -> float:
    """Standard error of a mean, which is a ratio over ones; NaN for a single cluster."""
    return ratio_se(values, np.ones(len(values)), clusters)[1]


def ratio_half_width(top: np.ndarray, bottom: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """`ratio_se` and half its 95 % interval, by t; NaN where the clusters do not differ, which is no certainty."""
    value, error = ratio_se(top, bottom, clusters)
    return value, t95(len(np.unique(clusters))) * error if error > 1e-12 * value else math.nan  # less is rounding


def design_effect(clustered: float, plain: float) -> float:
    """Clustered over plain variance, at least 1: how many rows say what one says (Kish 1965). NaN where it has none."""
    effect = clustered / plain if plain > 0 else math.nan
    return max(1.0, effect) if math.isfinite(effect) else math.nan


def effective_size(flags: np.ndarray, clusters: np.ndarray) -> float:
    """Rows over the design effect: several seeds of one prompt are not several prompts.

    The clusters themselves where a share of 0 or 1 leaves the effect undefined.
    """
    n, groups = len(flags), len(np.unique(clusters))
    share = float(np.mean(flags)) if n else math.nan
    if n == groups or not 0 < share < 1 or groups < 2:
        return float(groups)
    return n / design_effect(clustered_se(flags, clusters) ** 2, share * (1 - share) / n)


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; `n` may be an effective sample size. (Wilson 1927.)"""
    if n <= 0:
        return math.nan, math.nan
    p, z2 = successes / n, Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    return (0.0 if successes == 0 else max(0.0, centre - half)), (1.0 if successes == n else min(1.0, centre + half))


def share_interval(flags: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """Share of rows that are 1, float64 [n], with Wilson's interval for the effective sample size; NaN of nothing."""
    value, n = float(np.mean(flags)) if len(flags) else math.nan, effective_size(flags, clusters)
    return value, *wilson(value * n, n)


def paired_difference(a: np.ndarray, b: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """Share of `a` less share of `b`, flags [n] each in pairs, with a 95 % interval by clusters; NaN of nothing.

    Agresti and Min (2005): half a pair more in each of the four cells of the table, so that a difference of which
    nothing was seen is no certainty. Clusters enter by their linearized values, with Student's factor; no interval of
    a single one.
    """
    names, index = np.unique(clusters, return_inverse=True)
    groups = len(names)
    if not len(a):
        return math.nan, math.nan, math.nan
    value = float(np.mean(a - b))
    sizes = np.bincount(index)
    each = value + (np.bincount(index, a - b) - value * sizes) / sizes.mean()
    centre = float(each.sum()) / (groups + 2)
    variance = (float(np.sum(each**2)) + 1 - (groups + 2) * centre**2) / (groups + 2) ** 2
    half = t95(groups) * math.sqrt(variance)
    if math.isnan(half):
        return value, math.nan, math.nan
    return value, max(-1.0, centre - half), min(1.0, centre + half)


def bootstrap(statistic: Callable[..., np.ndarray], *sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of a statistic of sums over clusters, which are drawn anew (Efron 1979).

    A draw whose statistic is NaN says nothing and is left out.

    Args:
        statistic: takes each of `sums` as [draws, k]; gives [draws, k].
        sums: [clusters, k], of each cluster.
    """
    weights = _weights(len(sums[0]))
    low, high = np.nanpercentile(statistic(*(weights @ part for part in sums)), [2.5, 97.5], axis=0)
    return low, high


@lru_cache(maxsize=4)
def _weights(clusters: int) -> np.ndarray:
    """How often each cluster is in each draw, float64 [DRAWS, clusters]."""
    draws = np.random.default_rng(SEED).multinomial(clusters, np.full(clusters, 1 / clusters), size=DRAWS)
    return draws.astype(float)


def bootstrap_ratio(
    top: np.ndarray, bottom: np.ndarray, clusters: np.ndarray, columns: np.ndarray | None = None, count: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """sum(top) / sum(bottom) of each of `count` groups of rows, low and high by bootstrap, float64 [count] each.

    NaN where the bottom sums to 0; no interval where fewer than two clusters have a bottom other than 0.

    Args:
        top, bottom: float64 [n], finite. columns: int [n], the group that a row belongs to; one group without.
    """
    names, index = np.unique(clusters, return_inverse=True)
    place = index, np.zeros_like(index) if columns is None else columns
    above, below = np.zeros((2, len(names), count))
    np.add.at(above, place, top)
    np.add.at(below, place, bottom)
    low, high = np.full((2, count), math.nan)
    several = (below != 0).sum(0) > 1
    if several.any():
        low[several], high[several] = bootstrap(_divided, above[:, several], below[:, several])
    return _divided(above.sum(0), below.sum(0)), low, high


def _divided(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom != 0, top / bottom, math.nan)
