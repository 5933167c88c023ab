"""What a `train` makes of its rows: summary.csv, a row per arm, over seeds (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from decodedrift.measure.tables import fold

MEANS = (
    "loss", "distance", "distance_floors", "perplexity", "digits_median", "digits_p5", "cancelled", "arrived",
    "flushed_weights", "flushed_activations", "overflowed_weights", "overflowed_activations", "divergence_rate",
    "first_divergence_median", "kl", "kl_floors", "ppl_change",
)  # fmt: skip
SUMS = ("skipped", "differing", "texts", "diverged")
SUMMARY = ["model", "arm", "role", "held_against", "seeds", "steps", "broken", *MEANS, *SUMS]


def folds() -> dict[str, Callable[[Any], pd.DataFrame]]:
    """summary: a row per arm; figures are means over its seeds that did not break, counts are sums."""
    return {"summary": lambda study: summary(study.arms)}


def summary(arms: pd.DataFrame) -> pd.DataFrame:
    """A row per arm, in the order of the plan."""
    rows = []
    for (model, arm, role), part in arms.groupby(["model", "arm", "role"], sort=False):
        row = {
            "model": model, "arm": arm, "role": role, "held_against": part["held_against"].iloc[0], "seeds": len(part),
            "steps": part["steps"].min(), "broken": int(part["broken_step"].notna().sum()),
        }  # fmt: skip
        row |= {column: part[column].astype("float64").mean() for column in MEANS}
        row |= {column: part[column].astype("float64").sum(min_count=1) for column in SUMS}
        rows.append(row)
    return fold(rows, SUMMARY, "summary")
