"""How far two sides' probabilities of the tokens of a text are apart: what reinforcement learning watches.

r is the reader's probability of a token over the writer's; a trainer whose r leaves a narrow band learns from text that
is not its own. Pure arrays.
"""

from __future__ import annotations

import numpy as np

BANDS = {"10": (0.9, 1.1), "1": (0.99, 1.01), "mlperf": (0.999, 1.002)}  # r inside; the last is MLPerf's


def outside(log_ratio: np.ndarray) -> dict[str, np.ndarray]:
    """Band -> whether r lies outside it, bool [n], from ln r."""
    with np.errstate(over="ignore"):
        ratio = np.exp(log_ratio)
    return {name: (ratio < low) | (ratio > high) for name, (low, high) in BANDS.items()}


def k3(log_ratio: np.ndarray) -> np.ndarray:
    """(r - 1) - ln r of each token, >= 0: its mean over draws of the writer is KL(writer || reader).

    (Schulman 2020, http://joschu.net/blog/kl-approx.html.)
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.where(np.isinf(log_ratio), np.inf, np.expm1(log_ratio) - log_ratio))
