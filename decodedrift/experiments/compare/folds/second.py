"""The second split: how soon a text parts again from one that starts from the candidate's own token at t*.

The direct test of compounding. At a first divergence both sides read one text; after `--inject` has given the
reference the candidate's token they read one text again, and what differs is the error that the candidate has gathered.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from decodedrift.measure.tables import KEYS
from decodedrift.numerics import survival as sv

SUMMARY = ["second_hazard", "second_hazard_low", "second_hazard_high", "second_hazard_ratio",
           "second_hazard_ratio_low", "second_hazard_ratio_high"]  # fmt: skip


def beside(divergences: pd.DataFrame, injection: pd.DataFrame) -> pd.DataFrame:
    """Divergences, each with the second split of its replaced token; empty where there is none."""
    second = injection[[*KEYS, "second_divergence", "second_compared"]]
    return divergences.merge(second, on=KEYS, how="left", validate="one_to_one")


def pooled(cell: pd.DataFrame) -> dict[str, float]:
    """What summary.csv says of a candidate and strategy: second splits per token at risk, and over that of first ones.

    Args:
        cell: rows of `beside`.
    """
    again = cell[cell["second_compared"].fillna(0) > 0]
    if not len(again):
        return dict.fromkeys(SUMMARY, math.nan)
    first = cell[cell["compared"] > 0]
    prompts = pd.concat([first["prompt_id"], again["prompt_id"]]).to_numpy(dtype=str)
    tokens = pd.concat([first["compared"], again["second_compared"]]).to_numpy(dtype=float)
    event = np.concatenate([first["diverged"] == 1, again["second_divergence"].notna()]).astype(float)
    second = np.arange(len(event)) >= len(first)
    rate = sv.hazard_rate(sv.CensoredTimes.of(tokens[second], event[second], prompts[second]))
    return dict(zip(SUMMARY, (*rate, *sv.hazard_ratio(event, tokens, second, prompts)), strict=True))
