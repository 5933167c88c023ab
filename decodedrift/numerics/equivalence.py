"""Two shares of the same rows where few rows differ: are they equivalent? Tango's score interval, by clusters.

Right on one side and wrong on the other is rare, so that a mean of differences is far from normal: Student's interval
of it calls sides equivalent that are not, up to twice as often as it says. The score interval takes its variance at the
difference that it asks about and not at the one that was seen (Tango 1998, Statistics in Medicine 17, 891-908). Rows of
a cluster (the seeds and strategies of a prompt) count as rows over their design effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from decodedrift.numerics.intervals import clustered_se, design_effect, wilson

POWER = 0.8  # with which a sample that is asked for shows what it is asked for
STEPS = 60  # halvings: to the last bit of a share


class Changes(NamedTuple):
    """more, fewer: shares of rows that are 1 on the first side alone, and on the second; n: as how many independent
    rows they count; clusters: how many there are."""

    more: float
    fewer: float
    n: float
    clusters: int


def changes(first: np.ndarray, second: np.ndarray, clusters: np.ndarray) -> Changes:
    """What differs between two columns of 0 and 1, float64 [rows].

    Each cluster counts once where it has one row, or where every row says the same: the design effect is not known.
    """
    off, groups = first - second, len(np.unique(clusters))
    more, fewer = float(np.mean(off > 0)), float(np.mean(off < 0))
    plain = (more + fewer - (more - fewer) ** 2) / len(off)
    effect = math.nan if len(off) == groups else design_effect(clustered_se(off, clusters) ** 2, plain)
    return Changes(more, fewer, float(groups) if math.isnan(effect) else len(off) / effect, groups)


def paired_score(
    first: np.ndarray, second: np.ndarray, clusters: np.ndarray, confidence: float = 0.95
) -> tuple[float, float, float]:
    """share(first) - share(second) of the same rows, and its score interval; NaN of nothing, none of one cluster.

    What a score test of this level does not reject: (d - x)^2 <= t^2 v(x) / n, with v(x) the variance of a row's
    difference where the likelihood is largest under a difference of x. t is Student's of the clusters (normal where no
    row differs: no spread was estimated). An end is never nearer to 0 than if no row had differed, in as many clusters,
    in the direction of that end.

    Args:
        first, second: 0 or 1, float64 [rows]. clusters: names or numbers [rows].
    """
    if not len(first):
        return math.nan, math.nan, math.nan
    seen = changes(first, second, clusters)
    value = seen.more - seen.fewer
    if seen.clusters < 2:
        return value, math.nan, math.nan
    factor = _quantile((1 + confidence) / 2, seen.clusters if seen.more + seen.fewer else math.inf)
    unseen = wilson(0, seen.clusters, _quantile((1 + confidence) / 2))[1]

    def within(difference: float) -> bool:
        return (value - difference) ** 2 <= factor**2 * _variance(seen.more, seen.fewer, difference) / seen.n

    high = max(_farthest(within, value, 1.0), unseen - seen.fewer)
    return value, min(_farthest(within, value, -1.0), seen.more - unseen), high


def prompts_needed(first: np.ndarray, second: np.ndarray, clusters: np.ndarray, margin: float) -> float:
    """How many clusters show at 5 % that two shares differ by less than `margin`, with POWER, if they do not differ.

    For as many changing rows as were seen, half of them each way: n = ((z.95 s0 + z.90 s1) / margin)^2 rows, with s0
    and s1 the standard deviation of a row's difference under a difference of `margin` and of none (each of the two
    tests may miss half of what the power allows), in clusters as large and as alike as these. Never fewer than where
    no row differs. NaN of nothing.
    """
    if not len(first):
        return math.nan
    seen = changes(first, second, clusters)
    half = (seen.more + seen.fewer) / 2
    at_margin, at_none = (math.sqrt(_variance(half, half, x)) for x in (margin, 0.0))
    rows = ((_quantile(0.95) * at_margin + _quantile((1 + POWER) / 2) * at_none) / margin) ** 2
    unseen = _quantile(0.95) ** 2 * (1 - margin) / margin
    return math.ceil(max(rows * seen.clusters / seen.n, unseen))


def _variance(more: float, fewer: float, difference: float) -> float:
    """Variance of a row's difference (1, 0 or -1) where the likelihood of what was seen is largest under a difference.

    With q the share that is 1 on the second side alone it is 2 q + x (1 - x), and q the larger root of
    2 q^2 - (more + fewer - x (2 - more + fewer)) q - fewer x (1 - x) = 0 (Tango's equation, over n).
    """
    linear = more + fewer - difference * (2 - more + fewer)
    constant = fewer * difference * (1 - difference)
    share = (linear + math.sqrt(max(0.0, linear**2 + 8 * constant))) / 4
    return max(0.0, 2 * share + difference * (1 - difference))


def _farthest(within: Callable[[float], bool], inside: float, outside: float) -> float:
    """The end of an interval that holds `inside`, towards `outside`, by halving."""
    if within(outside):
        return outside
    for _ in range(STEPS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if within(middle) else (inside, middle)
    return inside


def _quantile(share: float, clusters: float = math.inf) -> float:
    """Student's quantile for a spread of so many clusters; the normal one of infinitely many."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(share) if math.isinf(clusters) else stdtrit(clusters - 1, share))
