"""The compounding index: shape k of a discrete Weibull of first divergences, S(t) = exp(-((t + 1) / scale)^k).

k = 1 is a constant risk per token, the geometric (1 - e)^n; above 1 the risk grows with length, below 1 it lies in
front, or the prompts are of unequal risk, which looks the same (Nakagawa and Osaki 1975).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import special

from decodedrift.numerics.intervals import design_effect, sandwich
from decodedrift.numerics.roots import root
from decodedrift.numerics.survival import CensoredTimes

SHAPES = (0.02, 50.0)  # a shape beyond either is no shape: all risk at the first token, or all at one length
STEPS = 100  # of Newton's, of which five are enough
TINY = 1e-300
FAR = 600.0  # e to it is a float64, and so are sums and products of such


@dataclass(frozen=True)
class Shape:
    """The fit. low may be 0 and high inf where the traces do not bound k on that side.

    value, low, high, p_value, scale are NaN where there is no fit, and `why` says the reason. p_value: likelihood
    ratio against k = 1. scale: tokens; S is 1/e there.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    scale: float = math.nan
    why: str = ""


def fit(traces: CensoredTimes) -> Shape:
    """Maximum likelihood with right censoring, and the profile-likelihood interval.

    An event at t contributes S(t-1) - S(t) with S(-1) = 1, a censored trace S(compared - 1). Where prompts have
    several traces the likelihood ratio is divided by the design effect of k, its clustered over its plain variance and
    at least 1 (Kent 1982), and referred to F(1, prompts - 1), so that seeds do not pass for prompts.
    """
    if not traces.event.any():
        return Shape(why="nothing diverged" if len(traces.tokens) else "nothing was compared")
    if traces.event.all() and traces.tokens.min() == traces.horizon:
        return Shape(why=f"all diverged at position {traces.horizon - 1}")
    likelihood = _Likelihood(traces)
    ends = [math.log(k) for k in SHAPES]
    if likelihood.slope(ends[0]) <= 0:
        return Shape(why="the risk lies in the first token alone (k runs to 0)")
    if likelihood.slope(ends[1]) >= 0:
        return Shape(why="the risk lies at one length alone (k has no bound)")
    best = root(likelihood.slope, *ends)
    top = likelihood.value(best)
    elsewhere = max(likelihood.value(u) for u in np.linspace(ends[0], ends[1], 9))
    if not math.isfinite(top) or elsewhere > top + 1e-6:
        return Shape(why="the fit did not converge")
    effect = likelihood.design_effect(best)
    if not math.isfinite(effect):
        return Shape(why="no spread" if traces.clusters > 1 else "one prompt with several seeds: no interval")

    several = traces.clusters < len(traces.tokens)
    spread = traces.clusters - 1
    level = float(special.fdtri(1, spread, 0.95) if several else 2 * special.gammaincinv(0.5, 0.95))

    def short(u: float) -> float:
        return 2 * (top - likelihood.value(u)) / effect - level

    low = math.exp(root(short, ends[0], best)) if short(ends[0]) > 0 else 0.0
    high = math.exp(root(short, best, ends[1])) if short(ends[1]) > 0 else math.inf
    ratio = max(0.0, 2 * (top - likelihood.value(0.0)) / effect)
    k = math.exp(best)
    scale = likelihood.unit * math.exp(-likelihood.level(best) / k)
    p_value = float(special.fdtrc(1, spread, ratio) if several else special.chdtrc(1, ratio))
    return Shape(k, low, high, p_value, scale)


class _Likelihood:
    """Log-likelihood in u = ln k with the scale profiled out; H(n) = exp(a) (n / unit)^k is the cumulative hazard."""

    def __init__(self, traces: CensoredTimes) -> None:
        self.traces = traces
        self.unit = float(np.median(traces.tokens))
        self.level = cache(self._level)
        with np.errstate(divide="ignore"):  # before the first token H is 0
            self.logs = np.log(np.stack([traces.tokens - 1, traces.tokens]) / self.unit)

    def _terms(self, a: float, u: float) -> np.ndarray:
        """Each trace's term, from H before and after its last token at risk."""
        before, after = self._hazards(a, u)
        ln = a + math.exp(u) * self.logs[1] + np.log(-np.expm1(math.exp(u) * (self.logs[0] - self.logs[1])))
        hazard = np.exp(np.minimum(ln, FAR))
        small = hazard < 1e-8  # too near 0 for expm1 to be anything, not for its logarithm
        gone = np.where(small, ln - hazard / 2, np.log(-np.expm1(-np.where(small, 1.0, hazard))))
        return np.asarray(np.where(self.traces.event, gone - before, -after))

    def _hazards(self, a: float, u: float) -> np.ndarray:
        """H before and after the last token at risk of each trace, float64 [2, traces]."""
        return np.asarray(np.exp(np.minimum(a + math.exp(u) * self.logs, FAR)))

    def _scores(self, a: float, u: float, *, by_u: bool) -> np.ndarray:
        """d/du of each trace's term, or d/da."""
        hazards, k = self._hazards(a, u), math.exp(u)
        logs = np.where(np.isfinite(self.logs), self.logs, 0.0)
        before, after = hazards * k * logs if by_u else hazards
        power = k * (self.logs[0] - self.logs[1])  # of H before over H after
        with np.errstate(over="ignore"):
            rise = 1 / special.exprel(hazards[1] * -np.expm1(power))
        if by_u:
            rise = rise * k * (logs[1] - np.exp(power) * logs[0]) / -np.expm1(power)
        return np.asarray(np.where(self.traces.event, rise - before, -after))

    def _level(self, u: float) -> float:
        """The a that is best for this u: the gradient is 0 where the events' part is the hazard that is left.

        Newton's steps on the logarithm of their ratio, which falls in a and is nearly straight; they begin where a
        continuous Weibull has its maximum.
        """
        event, k = self.traces.event, math.exp(u)
        at_risk = float(special.logsumexp(k * self.logs[1]))
        fall = -np.expm1(k * (self.logs[0] - self.logs[1]))[event]
        a, low, high = math.log(event.sum()) - at_risk, -math.inf, math.inf
        for _ in range(STEPS):
            before, after = self._hazards(a, u)
            lost = after[event] * fall
            rises = 1 / special.exprel(lost)
            rise, left = rises.sum(), before[event].sum() + after[~event].sum()
            low, high = (a, high) if rise > left else (low, a)
            slope = (rises * (lost + rises)).sum() / rise if rise > 0 else 1.0
            to = a + float((math.log(max(rise, TINY)) - math.log(max(left, TINY))) / slope)
            if abs(to - a) <= 1e-14 * max(1.0, abs(a)):
                return to
            a = to if low < to < high else (low + high) / 2
        return a

    def value(self, u: float) -> float:
        """Profile log-likelihood."""
        return float(self._terms(self.level(u), u).sum())

    def slope(self, u: float) -> float:
        """Its derivative; by the envelope theorem the partial one."""
        return float(self._scores(self.level(u), u, by_u=True).sum())

    def design_effect(self, u: float) -> float:
        """Clustered over plain variance of ln k, at least 1; 1 for one trace a prompt, NaN for one cluster."""
        if self.traces.clusters == len(self.traces.tokens):
            return 1.0
        a, step = self.level(u), 1e-4
        information = (self.slope(u - step) - self.slope(u + step)) / (2 * step)
        bend = (self.level(u + step) - self.level(u - step)) / (2 * step)
        scores = self._scores(a, u, by_u=True) + bend * self._scores(a, u, by_u=False)  # along the profile
        return design_effect(sandwich(scores, self.traces.cluster), information)
