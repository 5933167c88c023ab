"""Time to the first divergence as what it is, a right-censored time: survival, hazard, shape and tests.

Pure arrays. An observation is a trace: `tokens`, how many were at risk (`compared`), and `event`, whether the last of
them was the divergence: an event at position t has tokens = t + 1, a trace that stayed together through n tokens is
censored at n. S(t) is the chance that the first t + 1 tokens are all the same, as if the ends of texts were unrelated
to parting; what share of texts has parted is `incidence`'s. Traces of one prompt share a cluster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtri

from decodedrift.numerics.intervals import (
    FEW,
    bootstrap,
    by_cluster,
    equal_clusters,
    none_of,
    ratio_interval,
    sandwich,
    sign_test,
    t95,
)  # fmt: skip


@dataclass(frozen=True)
class CensoredTimes:
    """Traces as censored times. tokens: int64 [n], all >= 1. event: bool [n]. cluster: int64 [n], numbered from 0.

    ended: bool [n], whether both texts of a trace without event stopped at the same stop token, and can never part.
    """

    tokens: np.ndarray
    event: np.ndarray
    cluster: np.ndarray
    ended: np.ndarray

    @classmethod
    def of(
        cls, tokens: np.ndarray, event: np.ndarray, clusters: np.ndarray, ended: np.ndarray | None = None
    ) -> CensoredTimes:
        """From columns; traces of which no token was at risk say nothing and are left out. None ended unless told."""
        at_risk = np.asarray(tokens) > 0
        _, index = np.unique(np.asarray(clusters)[at_risk], return_inverse=True)
        stopped = np.zeros(len(at_risk)) if ended is None else np.asarray(ended)
        columns = [np.asarray(tokens).astype(np.int64), np.asarray(event).astype(bool), stopped.astype(bool)]
        times, parted, stops = (column[at_risk] for column in columns)
        return cls(times, parted, index, stops & ~parted)

    @cached_property
    def clusters(self) -> int:
        """Number of clusters."""
        return int(self.cluster.max()) + 1 if len(self.cluster) else 0

    @property
    def exposure(self) -> int:
        """Tokens at risk in all."""
        return int(self.tokens.sum())

    @property
    def horizon(self) -> int:
        """The longest observation, tokens."""
        return int(self.tokens.max()) if len(self.tokens) else 0

    def counts(self, what: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(at risk, events) of each cluster at each position, int64 [clusters, horizon]; what: [n], else `event`."""
        what = self.event if what is None else what
        ends = np.zeros((self.clusters, self.horizon + 1), dtype=np.int64)
        np.add.at(ends, (self.cluster, self.tokens - 1), 1)
        at_risk = ends[:, ::-1].cumsum(1)[:, ::-1][:, : self.horizon]
        events = np.zeros_like(at_risk)
        np.add.at(events, (self.cluster[what], self.tokens[what] - 1), 1)
        return at_risk, events


@dataclass(frozen=True)
class Curve:
    """S(t) at positions 0 .. horizon - 1, float64 each; low and high are NaN where there is no interval."""

    at_risk: np.ndarray
    events: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def hazard(self) -> np.ndarray:
        """Events over traces at risk."""
        return np.asarray(self.events / self.at_risk)

    def restricted_mean(self, horizon: int) -> float:
        """Expected number of equal tokens among the first `horizon`; past the last trace at risk S stays as it is."""
        shown = self.survival[:horizon]
        return float(shown.sum() + (horizon - len(shown)) * (shown[-1] if len(shown) else math.nan))


def kaplan_meier(traces: CensoredTimes) -> Curve:
    """The product-limit curve with a 95 % band.

    One trace a cluster: Greenwood on the log-log scale (Kalbfleisch and Prentice 1980), with t of the clusters.
    Several: bootstrap over clusters, no band for fewer than FEW. Both are undefined where S is 1 or 0; there the band
    is what the traces at risk alone allow: if all of n stayed, S > 0.025^(1/n), and if all left, S < 1 - 0.025^(1/n)
    (Clopper and Pearson 1934; n counts clusters).
    """
    at_risk, events = traces.counts()
    total, parted = at_risk.sum(0), events.sum(0)
    if not len(traces.tokens):
        return Curve(total, parted, *np.empty((3, 0)))
    product = 1 - np.cumsum(parted) / len(traces.tokens) if traces.event.all() else np.cumprod((total - parted) / total)
    survival = np.where(product < 1e-12, 0.0, product)  # the product leaves dust
    if traces.clusters == len(traces.tokens):
        with np.errstate(all="ignore"):  # undefined in places: filled in below
            wide = ndtri(1 / 2 + math.erf(t95(max(2, traces.clusters)) / math.sqrt(2)) / 2)
            wide *= np.sqrt(1 / np.log(product) ** 2 * np.cumsum(parted / (total * (total - parted))))
            low, high = (np.clip(np.exp(-np.exp(np.log(-np.log(product)) + d)), 0, 1) for d in (wide, -wide))
    elif traces.clusters >= FEW:
        low, high = bootstrap(_product_limit, at_risk, events)
    else:
        return Curve(total, parted, survival, *np.full((2, traces.horizon), math.nan))
    alone = (at_risk > 0).sum(0)
    sure = 0.025 ** (1 / alone)
    low = np.where(survival == 1, sure, np.where(survival == 0, 0.0, low))
    high = np.where(survival == 1, 1.0, high)
    gone = survival == 0
    if gone.any():
        first = int(np.argmax(gone))
        before = high[first - 1] if first else 1.0
        high = np.where(gone, min(before, 1 - sure[first]), high)
    return Curve(total, parted, survival, low, high)


def _product_limit(at_risk: np.ndarray, events: np.ndarray) -> np.ndarray:
    """The curve, [..., positions]; it stays as it is where no trace is at risk."""
    hazard = np.divide(events, at_risk, out=np.zeros(at_risk.shape), where=at_risk > 0)
    return np.asarray(np.cumprod(1 - hazard, axis=-1))


def hazard_rate(traces: CensoredTimes) -> tuple[float, float, float]:
    """Divergences per token at risk, with its 95 % interval clustered by prompt, on the log scale.

    Nothing diverged: 0 to 3 / exposure, the rule of three. No interval of prompts that do not differ, nor of fewer
    than two `equal_clusters` of tokens.
    """
    if not traces.exposure:
        return math.nan, math.nan, math.nan
    if not traces.event.any():
        return 0.0, 0.0, min(1.0, 3 / traces.exposure)
    rate, low, high = ratio_interval(traces.event, traces.tokens, traces.cluster)
    return rate, low, min(1.0, high) if high == high else high


def hazard_ratio(
    event: np.ndarray, tokens: np.ndarray, second: np.ndarray, clusters: np.ndarray
) -> tuple[float, float, float]:
    """The risk per token of the rows that are `second` (bool [n]) over that of the others, with its 95 % interval.

    Both risks come from the same clusters, so the error of the logarithm is taken of both together: a row is off by
    (event - risk x tokens) / events of its kind. t counts the `equal_clusters` of tokens of the kind that has fewer.
    Without a second event: 0, and up to 3 / tokens (rule of three) over the lower end of the first risk.
    """
    kinds = [(float(event[part].sum()), float(tokens[part].sum()), part) for part in (second, ~second)]
    (again, exposure, _), (firsts, before, _) = kinds
    if not (firsts and exposure):
        return math.nan, math.nan, math.nan
    if not again:
        least = hazard_rate(CensoredTimes.of(tokens[~second], event[~second], clusters[~second]))[1]
        return 0.0, 0.0 * least, 3 / exposure / least  # both or none
    off = np.zeros(len(event))
    for count, total, part in kinds:
        off[part] = (event[part] - count / total * tokens[part]) / count
    error = math.sqrt(sandwich(np.where(second, off, -off), clusters))
    few = min(equal_clusters(by_cluster(clusters[part], tokens[part])[:, 0]) for part in (second, ~second))
    ratio, factor = (again / exposure) / (firsts / before), math.exp(t95(few) * error) if error > 0 else math.nan
    return ratio, ratio / factor, ratio * factor


def certified(traces: CensoredTimes) -> tuple[float, float]:
    """What a run in which nothing diverged certifies at 95 %: risk per token, and share of prompts, both below.

    The first, 3 / exposure, is of independent tokens, the second, `none_of`, of prompts. NaN if any diverged.
    """
    if traces.event.any() or not traces.exposure:
        return math.nan, math.nan
    return min(1.0, 3 / traces.exposure), none_of(traces.clusters)


@dataclass(frozen=True)
class Paired:
    """Which of two candidates leaves first, prompt by prompt. p_value is NaN where no pair tells them apart."""

    pairs: int
    first_earlier: int
    second_earlier: int
    p_value: float


def paired_test(first: CensoredTimes, second: CensoredTimes) -> Paired:
    """Log-rank test stratified by trace, of two candidates that ran the same prompts.

    Row i of both is one (seed, prompt). A stratum of two tells who left while the other was still with the reference;
    the sum of signs is tested exactly by exchanging the candidates within prompts: binomial for one seed, sign flips
    of the prompts' sums for several.
    """
    if not np.array_equal(first.cluster, second.cluster):
        raise ValueError("the rows must be the same (seed, prompt) on both sides, in one order")
    a = first.event & (second.tokens >= first.tokens) & ~(second.event & (second.tokens == first.tokens))
    b = second.event & (first.tokens >= second.tokens) & ~(first.event & (first.tokens == second.tokens))
    sums = np.bincount(first.cluster, weights=a.astype(float) - b)
    rest = sums[sums != 0]
    p_value = math.nan
    if len(rest) == 1 or (len(rest) and np.abs(rest).max() == 1):  # scipy permutes no single one, whose p is 1
        p_value = sign_test(int((rest > 0).sum()), len(rest))
    elif len(rest):
        from scipy import stats  # takes half a second

        how: dict[str, object] = {"permutation_type": "samples", "vectorized": True, "n_resamples": 9999, "rng": 0}
        exact = stats.permutation_test((rest,), lambda x, axis: x.sum(axis), **how)
        p_value = float(exact.pvalue)
    return Paired(len(first.tokens), int(a.sum()), int(b.sum()), p_value)


def log_rank(first: CensoredTimes, second: CensoredTimes) -> float:
    """p of the unpaired log-rank test: two runs over different prompts, one trace a prompt (Mantel 1966).

    Raises:
        ValueError: several traces a prompt, which are not independent, or nothing diverged on either side.
    """
    for side in (first, second):
        if side.clusters != len(side.tokens):
            raise ValueError("log-rank takes traces as independent: give one seed")
    if not (first.event.any() or second.event.any()):
        raise ValueError("nothing diverged on either side: there is nothing to test")
    from scipy import stats

    sides = [stats.CensoredData.right_censored(s.tokens, ~s.event) for s in (first, second)]
    return float(stats.logrank(*sides).pvalue)


def holm(p_values: np.ndarray) -> np.ndarray:
    """p of each test as one of all that were made (Holm 1979), float64 [n]; NaN is no test."""
    adjusted = np.full(len(p_values), math.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known])]
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)))
    return adjusted


@dataclass(frozen=True)
class Slope:
    """A clustered least-squares slope. low and high are NaN with one cluster; `why` says what is missing.

    length: how far in x the longest trace goes; beyond it the slope was not measured.
    """

    value: float
    low: float
    high: float
    why: str = ""
    length: float = 0.0


def slope_within(x: np.ndarray, y: np.ndarray, trace: np.ndarray, cluster: np.ndarray) -> Slope:
    """Slope of y on x with an intercept of its own for every trace, its 95 % interval clustered.

    The intercepts keep apart what changes along a text from which texts are long. The error is the jackknife's over
    clusters (CR3), since long texts weigh so much more than short ones that the sandwich is too narrow (MacKinnon,
    Nielsen and Webb 2023), with t of `equal_clusters`, and no interval below two of them. NaN values of y are left out.
    """
    finite = np.isfinite(y)
    x, y = x[finite].astype(float), y[finite]
    _, trace = np.unique(trace[finite], return_inverse=True)
    _, cluster = np.unique(cluster[finite], return_inverse=True)
    if not len(x):
        return Slope(math.nan, math.nan, math.nan, "no position has an error above 0")
    sizes = np.bincount(trace)
    first, last = np.full((2, len(sizes)), [[math.inf], [-math.inf]])
    np.minimum.at(first, trace, x)
    np.maximum.at(last, trace, x)
    length = float((last - first).max())
    x = x - (np.bincount(trace, weights=x) / sizes)[trace]
    y = y - (np.bincount(trace, weights=y) / sizes)[trace]
    spread = float(x @ x)
    if spread == 0:
        return Slope(math.nan, math.nan, math.nan, "no trace has two positions")
    value = float(x @ y) / spread
    groups = int(cluster.max()) + 1
    if groups < 2:
        return Slope(value, math.nan, math.nan, "one prompt: no interval", length)
    weight = np.bincount(cluster, weights=x * x)
    without, effective = spread - weight, equal_clusters(weight)
    if effective < 2:
        return Slope(value, math.nan, math.nan, "prompts of unlike length weigh as fewer than two: no interval", length)
    others = (float(x @ y) - np.bincount(cluster, weights=x * y)) / without
    half = t95(effective) * math.sqrt((groups - 1) / groups * float(np.sum((others - value) ** 2)))
    return Slope(value, value - half, value + half, "", length)
