"""How often the 95 % intervals of docs/compounding.md hold the truth, on simulated data whose truth is known.

    python benchmarks/interval_coverage.py [--sets 2000] [--only TEXT]

Times to divergence are drawn from a discrete Weibull of known shape and censored at a horizon. Seeds of one prompt
share a Gaussian copula, so that every trace keeps the known distribution while the traces of a prompt are alike. Where
texts end, or the reference breaks, each does so at a constant risk of its own. One line per interval: the share of data sets whose interval holds the truth, and of those that miss, on which side.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

from decodedrift.numerics import survival as sv
from decodedrift.numerics import weibull
from decodedrift.numerics.incidence import incidence

HORIZON = 200


def simulated(
    rng: np.random.Generator, shape: float, scale: float, prompts: int = 100, seeds: int = 1, alike: float = 0.0
) -> sv.CensoredTimes:
    """Traces with S(t) = exp(-((t + 1) / scale)^shape), censored at HORIZON; `alike`: correlation within a prompt."""
    shared, own = rng.standard_normal((prompts, 1)), rng.standard_normal((prompts, seeds))
    uniform = stats.norm.cdf(math.sqrt(alike) * shared + math.sqrt(1 - alike) * own).ravel()
    tokens = np.ceil(scale * (-np.log(uniform)) ** (1 / shape)).clip(1, HORIZON + 1).astype(int)
    return sv.CensoredTimes.of(np.minimum(tokens, HORIZON), tokens <= HORIZON, np.repeat(np.arange(prompts), seeds))


def competing(rng: np.random.Generator, breaks: float, prompts: int = 100, seeds: int = 1) -> sv.CensoredTimes:
    """Parting and ending together at 0.5 % a token each, breaking at `breaks`; half of the seeds do as their first."""
    rates = np.array([0.005, 0.005, breaks])
    kind, tokens = rng.choice(3, (prompts, seeds), p=rates / rates.sum()), rng.geometric(rates.sum(), (prompts, seeds))
    alike = rng.random((prompts, seeds)) < 0.5
    kind, tokens = (np.where(alike, of[:, :1], of).ravel() for of in (kind, tokens))
    kind, groups = np.where(tokens > HORIZON, 2, kind), np.repeat(np.arange(prompts), seeds)
    return sv.CensoredTimes.of(np.minimum(tokens, HORIZON), kind == 0, groups, kind == 1)


def second_splits(rng: np.random.Generator, prompts: int, rate: float) -> tuple[np.ndarray, ...]:
    """Texts that part at `rate` a token, and given the token part again at the same: events, tokens, second, prompts."""
    first, again = rng.geometric(rate, prompts), rng.geometric(rate, prompts)
    left = HORIZON - first
    on = left > 0
    event = np.concatenate([first <= HORIZON, (again <= left)[on]]).astype(float)
    tokens = np.concatenate([np.minimum(first, HORIZON), np.minimum(again, left)[on]]).astype(float)
    return event, tokens, np.arange(len(event)) >= prompts, np.concatenate([np.arange(prompts), np.arange(prompts)[on]])


def true_survival(shape: float, scale: float, t: int) -> float:
    return math.exp(-(((t + 1) / scale) ** shape))


def shape_interval(times: sv.CensoredTimes) -> tuple[float, float]:
    fit = weibull.fit(times)
    return fit.low, fit.high


def band_at(t: int) -> Callable[[sv.CensoredTimes], tuple[float, float]]:
    def interval(times: sv.CensoredTimes) -> tuple[float, float]:
        curve = sv.kaplan_meier(times)
        at = min(t, len(curve.low) - 1)
        return float(curve.low[at]), float(curve.high[at])

    return interval


def hazard_interval(times: sv.CensoredTimes) -> tuple[float, float]:
    return sv.hazard_rate(times)[1:]


def half_life_interval(times: sv.CensoredTimes) -> tuple[float, float]:
    middle, low, high = incidence(times).half_life()
    return (low, high) if not math.isnan(middle) else (math.nan, math.nan)


def slope_data(rng: np.random.Generator, prompts: int) -> tuple[np.ndarray, ...]:
    """Positions in hundreds, log errors with a level and a drift of its own per prompt, and lengths that differ."""
    x, y, trace = [], [], []
    for prompt in range(prompts):
        at = np.arange(rng.integers(20, HORIZON)) / 100
        noise = np.convolve(rng.standard_normal(len(at) + 20), 0.8 ** np.arange(20), "same")[: len(at)] * 0.1
        x.append(at)
        y.append(0.05 * at + rng.normal(0, 0.3) + rng.normal(0, 0.05) * at + noise)
        trace.append(np.full(len(at), prompt))
    ids = np.concatenate(trace)
    return np.concatenate(x), np.concatenate(y), ids, ids


def covered(
    name: str, sets: int, draw: Callable[[np.random.Generator], tuple[float, float]], truth: float
) -> tuple[float, ...]:
    """(share that holds the truth, share wholly below it, share wholly above it, share without an interval)."""
    ends = np.array([draw(np.random.default_rng([*map(ord, name), n])) for n in range(sets)])
    known = ~np.isnan(ends).any(1)
    low, high = ends[known].T
    shares = ((low <= truth) & (truth <= high), high < truth, low > truth)
    return *(float(share.mean()) for share in shares), float(1 - known.mean())


Line = tuple[str, Callable[[np.random.Generator], tuple[float, float]], float]


def lines() -> Iterator[Line]:
    """(name, one data set's interval, the truth)."""

    def survive(name: str, interval, shape: float, scale: float, truth: float, **more) -> Line:
        return name, lambda rng: interval(simulated(rng, shape, scale, **more)), truth

    seeds = {"prompts": 50, "seeds": 4, "alike": 0.5}
    for shape in (0.7, 1.0, 1.5):
        for scale in (100, 250):
            yield survive(f"k = {shape:g}, scale {scale}, 100 prompts", shape_interval, shape, scale, shape)
    yield survive("k = 1, scale 1000, 100 prompts", shape_interval, 1.0, 1000, 1.0)
    yield survive("k = 1, scale 150, 16 prompts", shape_interval, 1.0, 150, 1.0, prompts=16)
    for shape in (0.7, 1.0, 1.5):
        yield survive(f"k = {shape:g}, 50 prompts x 4 alike seeds", shape_interval, shape, 250, shape, **seeds)
    truth, rate = true_survival(1.0, 150, 99), -math.expm1(-1 / 150)
    yield survive("S(99), Greenwood, 100 prompts", band_at(99), 1.0, 150, truth)
    yield survive("S(99), bootstrap, 50 prompts x 4 alike seeds", band_at(99), 1.0, 150, truth, **seeds)
    half = math.ceil(150 * math.log(2)) - 1
    yield survive("half-life, 100 prompts", half_life_interval, 1.0, 150, half)
    yield survive("hazard, 100 prompts", hazard_interval, 1.0, 150, rate)
    yield survive("hazard, 50 prompts x 4 alike seeds", hazard_interval, 1.0, 150, rate, **seeds)
    for breaks in (0, 0.002):
        truth = 0.5 * (1 - 0.99**100)  # of a world in which nothing breaks
        for more in ({}, {"prompts": 16}, {"prompts": 50, "seeds": 4}):
            name = f"F(99), ends{' and breaks' if breaks else ''}, {more.get('prompts', 100)} prompts"
            name += " x 4 alike seeds" if "seeds" in more else ""
            yield name, lambda rng, more=more, breaks=breaks: incidence_at(competing(rng, breaks, **more), 99), truth
    for prompts, rate in ((16, 0.01), (100, 0.01), (100, 0.002)):
        name = f"second over first risk, {rate:.1%} a token, {prompts} prompts"
        yield name, lambda rng, n=prompts, r=rate: sv.hazard_ratio(*second_splits(rng, n, r))[1:], 1.0
    for prompts in (16, 100):
        yield f"growth slope, {prompts} prompts", lambda rng, n=prompts: slope_interval(rng, n), 0.05


def incidence_at(times: sv.CensoredTimes, t: int) -> tuple[float, float]:
    curve = incidence(times)
    at = min(t, len(curve.low) - 1)
    return float(curve.low[at]), float(curve.high[at])


def slope_interval(rng: np.random.Generator, prompts: int) -> tuple[float, float]:
    slope = sv.slope_within(*slope_data(rng, prompts))
    return slope.low, slope.high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=2000)
    parser.add_argument("--only", default="", help="the lines whose name holds this")
    asked = parser.parse_args()
    sets = asked.sets
    print(f"{sets} data sets each, horizon {HORIZON} tokens; a true 95 % interval gives "
          f"{0.95:.1%} +- {1.96 * math.sqrt(0.95 * 0.05 / sets):.1%}")  # fmt: skip
    print(f"{'interval':46} {'holds':>7} {'below':>7} {'above':>7} {'none':>7}")
    begin = time.perf_counter()
    for name, draw, truth in (line for line in lines() if asked.only in line[0]):
        holds, below, above, none = covered(name, sets, draw, truth)
        print(f"{name:46} {holds:7.1%} {below:7.1%} {above:7.1%} {none:7.1%}", flush=True)
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
