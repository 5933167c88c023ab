"""What is not known of an estimate: 95 % intervals and standard errors, shared within clusters. Pure arrays.

A cluster is a prompt, its seeds inside, or a window of a text: rows of one cluster are not independent. Where a spread
is estimated from clusters its quantile is Student's; tests/numerics/test_coverage.py bounds how often an interval
holds the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

Z95 = 1.959963984540054  # normal quantile; scipy takes too long to load for a constant
DRAWS = 2000
FEW = 10  # clusters below which drawing them anew says too little
SEED = 20250609  # fixed, so that the same tables give the same interval


def t95(clusters: float) -> float:
    """Student's factor of a 95 % interval whose error was estimated from that many (effective) clusters.

    NaN below one degree of freedom: the error of fewer than two clusters is unknown, and its factor has no bound.
    """
    from scipy.special import stdtrit

    return float(stdtrit(clusters - 1, 0.975)) if clusters >= 2 else math.nan


def equal_clusters(weights: np.ndarray) -> float:
    """As how many clusters of one weight these count, (sum w)^2 / sum w^2 (Kish 1965). NaN of no weight."""
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0 else math.nan


def for_all(clusters: np.ndarray, looks: int) -> np.ndarray:
    """How many times as wide as `t95` makes them intervals are that hold for so many looks at once (Bonferroni)."""
    from scipy.special import stdtrit

    ratio = stdtrit(clusters - 1, 1 - 0.025 / max(1, looks)) / stdtrit(clusters - 1, 0.975)
    return np.asarray(ratio, dtype=float)


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


def jackknife(
    statistic: Callable[[np.ndarray], np.ndarray], sums: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """A statistic of sums over clusters, and half its 95 % interval: Student's, each cluster left out in turn.

    With t of `equal_clusters`, and NaN below two of them. NaN where the clusters do not differ, which is no certainty.

    Args:
        statistic: takes [..., k], gives [...]. sums: [clusters, k]. weights: [clusters].
    """
    total, groups = sums.sum(0), len(weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, without = float(statistic(total)), statistic(total - sums)
    factor = t95(equal_clusters(weights))
    if math.isnan(factor):
        return value, math.nan
    off = without - value
    error = math.sqrt((groups - 1) / groups * float(off @ off))
    return value, factor * error if error > 1e-12 * abs(value) else math.nan  # less is rounding


def by_cluster(clusters: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Sums of columns [n] over each cluster, float64 [clusters, k]."""
    _, index = np.unique(clusters, return_inverse=True)
    return np.stack([np.bincount(index, column) for column in columns], axis=1)


def ratio_half_width(top: np.ndarray, bottom: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """sum(top) / sum(bottom), and half its 95 % interval by `jackknife`, clusters weighed by their bottoms."""
    sums = by_cluster(clusters, top, bottom)
    return jackknife(lambda s: s[..., 0] / s[..., 1], sums, sums[:, 1])


def mean_interval(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """Mean of rows, and its 95 % interval by `ratio_half_width`; NaN of nothing."""
    value, half = ratio_half_width(values, np.ones(len(values)), clusters)
    return value, value - half, value + half


def ratio_interval(top: np.ndarray, bottom: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """sum(top) / sum(bottom) of what is never negative, and its 95 % interval on the log scale.

    A ratio of 0 has no interval.
    """
    value, half = ratio_half_width(top, bottom, clusters)
    with np.errstate(over="ignore"):
        factor = float(np.exp(np.float64(half) / value)) if value > 0 else math.nan
    return value, value / factor, value * factor


def none_of(n: int) -> float:
    """What share of one in n independent trials does not exclude at 95 % where none came (Clopper and Pearson 1934)."""
    return 1 - 0.05 ** (1 / n) if n else 1.0


def sign_test(heads: int, tosses: int) -> float:
    """Two-sided p of so many heads of a fair coin, exactly; scipy's module of tests takes half a second to load."""
    tail = ways = 1
    for i in range(min(heads, tosses - heads)):
        ways = ways * (tosses - i) // (i + 1)
        tail += ways
    return min(1.0, float(2 * tail / 2**tosses))


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


def wilson(successes: float, n: float, quantile: float = Z95) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; `n` may be an effective sample size. (Wilson 1927.)"""
    if n <= 0:
        return math.nan, math.nan
    p, z2 = successes / n, quantile**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = quantile / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    return (0.0 if successes == 0 else max(0.0, centre - half)), (1.0 if successes == n else min(1.0, centre + half))


def share_interval(flags: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """Share of rows that are 1, float64 [n], with Wilson's interval for the effective sample size; NaN of nothing.

    The quantile is t of the clusters, of the rows where clusters do not show, and normal at a share of 0 or 1, where
    no spread was estimated. What was seen once never allows less than what was not seen at all.
    """
    if not len(flags):
        return math.nan, math.nan, math.nan
    value, n, groups = float(np.mean(flags)), effective_size(flags, clusters), len(np.unique(clusters))
    if groups < 2 or not 0 < value < 1:
        return value, *wilson(value * n, n)
    low, high = wilson(value * n, n, t95(len(flags) if n == len(flags) else groups))
    unseen = wilson(0, groups)[1]
    return value, min(low, 1 - unseen), max(high, unseen)


def token_share(out: np.ndarray, tokens: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """sum(out) / sum(tokens), counts by row, with Wilson's interval for tokens over their design effect by cluster.

    With t of `equal_clusters` of tokens, and no interval below two. What was seen never allows less than what was not
    seen at all in so many tokens, as if they were independent: where none is out nothing tells how alike they are.
    """
    value, error = ratio_se(out, tokens, clusters)
    total, factor = float(tokens.sum()), t95(equal_clusters(by_cluster(clusters, tokens)[:, 0]))
    if math.isnan(factor):
        return value, math.nan, math.nan
    unseen = wilson(0, total)[1]
    if not 0 < value < 1:
        return (value, 0.0, unseen) if value == 0 else (value, 1 - unseen, 1.0)
    n = total / design_effect(error**2, value * (1 - value) / total)
    low, high = wilson(value * n, n, factor)
    return value, min(low, 1 - unseen), max(high, unseen)


def paired_difference(first: np.ndarray, second: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """Difference of two shares of the same rows, share(first) - share(second), and its 95 % interval.

    Squares of the two `share_interval`s are added, less what the clusters' means have in common (Newcombe 1998, method
    10). That no row differs is no certainty: each end is at least what rows that differ one way allow if none was seen.
    NaN of nothing.

    Args:
        first, second: 0 or 1, float64 [n]; row i of both is one (strategy, seed, prompt).
    """
    if not len(clusters):
        return math.nan, math.nan, math.nan
    (a, a_low, a_high), (b, b_low, b_high) = (share_interval(flags, clusters) for flags in (first, second))
    names, index = np.unique(clusters, return_inverse=True)
    off = np.stack([np.bincount(index, flags) / np.bincount(index) for flags in (first, second)])
    off -= off.mean(1, keepdims=True)
    spread = math.sqrt(float((off[0] @ off[0]) * (off[1] @ off[1])))
    alike = float(off[0] @ off[1]) / spread if spread > 0 else 0.0

    def width(above: float, below: float) -> float:
        return math.sqrt(max(0.0, above**2 + below**2 - 2 * alike * above * below))

    unseen, more, fewer = wilson(0, len(names))[1], float(np.mean(first > second)), float(np.mean(first < second))
    low = min(a - b - width(a - a_low, b_high - b), more - unseen)
    return a - b, low, max(a - b + width(a_high - a, b - b_low), unseen - fewer)


def bootstrap(statistic: Callable[..., np.ndarray], *sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of a statistic of sums over clusters, which are drawn anew (Efron 1979).

    Its percentiles are widened to Student's, Phi(-t sqrt(G/(G-1))), as a draw spreads less than a sample (Hesterberg
    2015). NaN for fewer than FEW clusters. A draw whose statistic is NaN says nothing and is left out.

    Args:
        statistic: takes each of `sums` as [draws, k]; gives [draws, k].
        sums: [clusters, k], of each cluster.
    """
    groups = len(sums[0])
    if groups < FEW:
        low, high = np.full((2, *np.shape(statistic(*(part.sum(0) for part in sums)))), math.nan)
        return low, high
    tail = 50 * math.erfc(t95(groups) * math.sqrt(groups / (groups - 1)) / math.sqrt(2))
    weights = _weights(groups)
    low, high = np.nanpercentile(statistic(*(weights @ part for part in sums)), [tail, 100 - tail], axis=0)
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

    NaN where the bottom sums to 0; no interval where fewer than FEW clusters have a bottom other than 0.

    Args:
        top, bottom: float64 [n], finite. columns: int [n], the group that a row belongs to; one group without.
    """
    names, index = np.unique(clusters, return_inverse=True)
    place = index, np.zeros_like(index) if columns is None else columns
    above, below = np.zeros((2, len(names), count))
    np.add.at(above, place, top)
    np.add.at(below, place, bottom)
    low, high = np.full((2, count), math.nan)
    several = (below != 0).sum(0) >= FEW
    if several.any():
        low[several], high[several] = bootstrap(_divided, above[:, several], below[:, several])
    return _divided(above.sum(0), below.sum(0)), low, high


def _divided(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom != 0, top / bottom, math.nan)
