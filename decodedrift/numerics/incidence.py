"""The share of texts that have parted by each token, where some end before they can (cumulative incidence).

Two texts that both stop at the same token can never part: an end that competes with parting and tells of it, since
short and decided texts end so. Kaplan-Meier, to which such an end is a text lost from sight, says what share would
have parted had no text ended; F says what share did (Kalbfleisch and Prentice 1980, chapter 7). Pure arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from decodedrift.numerics.intervals import share_interval, t95, wilson
from decodedrift.numerics.survival import CensoredTimes


@dataclass(frozen=True)
class Incidence:
    """F(t) at positions 0 .. horizon - 1 with its 95 % band, float64 each."""

    share: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def half_life(self) -> tuple[float, float, float]:
        """First position with F >= 1/2, and those of the band's upper and lower end; the last inf if never reached.

        All NaN where F stays below 1/2, the ends also where there is no band.
        """
        reached = [np.flatnonzero(values >= 0.5) for values in (self.share, self.high, self.low)]
        middle, low, high = (float(at[0]) if len(at) else math.inf for at in reached)
        if math.isinf(middle):
            return math.nan, math.nan, math.nan
        return (middle, low, high) if np.isfinite(self.high).any() else (middle, math.nan, math.nan)


def incidence(traces: CensoredTimes) -> Incidence:
    """F(t) of parting, with joint ends at a stop token (`ended`) competing.

    Where no trace is lost from sight before the horizon F is the plain share of traces that have parted, with the
    interval of any share. Otherwise Aalen and Johansen's estimate (1978), its variance a jackknife over clusters, and
    Wilson's interval for the sample size that such a variance stands for.
    """
    if not len(traces.tokens):
        return Incidence(*np.empty((3, 0)))
    lost = ~traces.event & ~traces.ended & (traces.tokens < traces.horizon)
    if lost.any():
        return _estimated(traces)
    edges = np.unique(np.append(traces.tokens[traces.event] - 1, 0))
    values = [share_interval((traces.event & (traces.tokens <= t + 1)).astype(float), traces.cluster) for t in edges]
    place = np.searchsorted(edges, np.arange(traces.horizon), side="right") - 1
    return Incidence(*np.array(values).T[:, place])


def _estimated(traces: CensoredTimes) -> Incidence:
    counts = traces.counts(), traces.counts(traces.ended)
    at_risk, parted, stopped = counts[0][0], counts[0][1], counts[1][1]
    whole = [c.sum(0) for c in (at_risk, parted, stopped)]
    share = aalen_johansen(*whole)
    groups = traces.clusters
    without = aalen_johansen(*(total - own for total, own in zip(whole, (at_risk, parted, stopped), strict=True)))
    variance = (groups - 1) / groups * ((without - share) ** 2).sum(0)
    size = np.full(len(share), float(groups))
    known = (variance > 0) & (share > 0) & (share < 1)
    size[known] = np.minimum(share[known] * (1 - share[known]) / variance[known], len(traces.tokens))
    low, high = np.array([_band(f, n, groups) for f, n in zip(share, size, strict=True)]).T
    return Incidence(share, low, high)


def _band(share: float, size: float, groups: int) -> tuple[float, float]:
    """As `share_interval`: Student's quantile of the clusters, and no less than what nothing seen at all allows."""
    if groups < 2 or not 0 < share < 1:
        return wilson(share * size, size)
    (low, high), unseen = wilson(share * size, size, t95(groups)), wilson(0, groups)[1]
    return min(low, 1 - unseen), max(high, unseen)


def aalen_johansen(at_risk: np.ndarray, parted: np.ndarray, stopped: np.ndarray) -> np.ndarray:
    """F, float64 [..., positions], from the traces at risk, those that part and those that end together at each."""
    hazard, leaving = (
        np.divide(count, at_risk, out=np.zeros(at_risk.shape), where=at_risk > 0)
        for count in (parted, parted + stopped)
    )
    still = np.cumprod(1 - leaving, axis=-1)
    before = np.concatenate([np.ones_like(still[..., :1]), still[..., :-1]], axis=-1)
    return np.asarray(np.cumsum(before * hazard, axis=-1))
