"""Where a continuous function of one variable is 0."""

from __future__ import annotations

import math
from collections.abc import Callable

STEPS = 200  # halving alone needs 110 from an interval of 1e20 to one of 1e-13


def root(function: Callable[[float], float], low: float, high: float, within: float = 1e-10) -> float:
    """A root between two places of opposite sign, to `within`: inverse quadratic steps, halved where these mislead.

    Chandrupatla (1997), which takes fewer evaluations than Brent's method. scipy.optimize has both, and takes most of a
    second to load.

    Raises:
        ValueError: no change of sign, no number on the way, or more than STEPS evaluations.

    >>> round(root(lambda x: x**3 - 2, 0.0, 4.0), 9)
    1.25992105
    """
    before, after = function(low), function(high)
    if not before * after <= 0:
        raise ValueError(f"no change of sign between {low} and {high}: {before} and {after}")
    a, b, c, at_a, at_b, at_c = high, low, high, after, before, after
    share = 0.5
    for _ in range(STEPS):
        best, least = (a, at_a) if abs(at_a) < abs(at_b) else (b, at_b)
        reach = (within / 2 + 2e-16 * abs(best)) / abs(b - a) if b != a else math.inf
        if least == 0 or reach > 0.5:
            return best
        x = a + min(max(share, reach), 1 - reach) * (b - a)
        value = function(x)
        if math.isnan(value):
            raise ValueError(f"the function is no number at {x}")
        if (value > 0) == (at_a > 0):
            c, at_c = a, at_a
        else:
            c, b, at_c, at_b = b, a, at_b, at_a
        a, at_a = x, value
        share = 0.5
        phi, xi = (at_a - at_b) / (at_c - at_b), (a - b) / (c - b)
        if phi**2 < xi and (1 - phi) ** 2 < 1 - xi:
            share = at_a / (at_b - at_a) * at_c / (at_b - at_c)
            share += (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
    raise ValueError(f"no root between {low} and {high} after {STEPS} steps")
