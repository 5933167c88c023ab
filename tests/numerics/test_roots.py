"""Roots: scipy's own to the last bit, so that no table changed with whoever finds them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize

from decodedrift.numerics.roots import brent

CURVES: list[Callable[[float], float]] = [
    lambda x: x**3 - 2 * x - 5, lambda x: math.exp(x) - 3, lambda x: math.tanh(50 * (x - 0.3)), lambda x: (x - 2) ** 9,
    lambda x: min(1.0, max(-1.0, x - 1.5)), lambda x: -1.0 if x < 0.123 else 1.0,
]  # fmt: skip


@pytest.mark.parametrize("curve", CURVES)
def test_a_root_is_the_one_that_scipy_finds(curve: Callable[[float], float]) -> None:
    ends = np.random.default_rng(0).uniform([-6, 2.1], [0, 6], (200, 2)).tolist()
    tried = [(low, high) for low, high in ends if (curve(low) < 0) != (curve(high) < 0)]
    assert len(tried) > 50
    for low, high in tried:
        assert brent(curve, low, high, xtol=1e-10) == optimize.brentq(curve, low, high, xtol=1e-10, maxiter=500)


def test_no_root_is_no_number() -> None:
    assert brent(lambda x: x, 0.0, 1.0) == 0.0 == brent(lambda x: x, -1.0, 0.0)
    with pytest.raises(ValueError, match="the same sign"):
        brent(lambda x: x * x + 1, -1.0, 1.0)
