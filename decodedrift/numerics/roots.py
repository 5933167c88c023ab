"""Where a function of one number is 0, by Brent's method (1973).

scipy.optimize takes half a second to import; its `brentq` takes these very steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

RTOL, MOST = 2.0**-50, 500


def brent(f: Callable[[float], float], low: float, high: float, xtol: float = 2e-12) -> float:
    """A root between two ends at which f has different signs, to within xtol + RTOL |root|.

    Raises:
        ValueError: f has the same sign at both ends, or MOST steps do not find it.
    """
    before, x, before_f, x_f = low, high, f(low), f(high)
    if before_f == 0:
        return before
    if x_f and (before_f < 0) == (x_f < 0):
        raise ValueError("no root: the same sign at both ends")
    across = across_f = earlier = step = 0.0  # the root lies between x and `across`
    for _ in range(MOST):
        if before_f and x_f and (before_f < 0) != (x_f < 0):
            across, across_f = before, before_f
            earlier = step = x - before
        if abs(across_f) < abs(x_f):
            before, x, across, before_f, x_f, across_f = x, across, x, x_f, across_f, x_f
        near, half, attempt = (xtol + RTOL * abs(x)) / 2, (across - x) / 2, math.inf
        if x_f == 0 or abs(half) < near:
            return x
        if abs(earlier) > near and abs(x_f) < abs(before_f):  # a line through two points, or a curve through three
            over, under = x - before, x_f - before_f
            if before != across:
                slope, other = (before_f - x_f) / (before - x), (across_f - x_f) / (across - x)
                over, under = across_f * other - before_f * slope, other * slope * (across_f - before_f)
            attempt = -x_f * over / under if under else math.inf
        earlier, step = (step, attempt) if 2 * abs(attempt) < min(abs(earlier), 3 * abs(half) - near) else (half, half)
        before, before_f = x, x_f
        x += step if abs(step) > near else math.copysign(near, half)
        x_f = f(x)
    raise ValueError(f"no root in {MOST} steps")
