"""What one replaced token does to a text: the rows of injection.csv and their folds (docs/metrics.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rapidfuzz.distance import Levenshtein

from decodedrift.measure.tables import CELL, fold
from decodedrift.numerics import sequences
from decodedrift.numerics.intervals import bootstrap_ratio, share_interval

SUMMARY = ["injected", "recovered_share", "trajectory_share", "trajectory_share_low", "trajectory_share_high",
           "trajectory_horizon"]  # fmt: skip
LAGS = [*CELL, "lag", "n", "agreement"]
ROLE = "injected"
SHOWN_LAGS = (1, 5, 20)
LEAST_PAIRS = 5  # of tokens at one lag, below which no share of them is told
BY_POSITION = [
    "strategy", "position", "texts", "long_enough", "recovered", "recovered_share", "recovered_share_low",
    "recovered_share_high", "in_step", "unchanged", "agreement", *(f"agreement_lag_{lag}" for lag in SHOWN_LAGS),
]  # fmt: skip


def injection_row(
    reference: Sequence[int],
    injected: Sequence[int],
    position: int,
    candidate: Sequence[int] | None = None,
    ended: bool = False,
    broken: bool = False,
) -> dict[str, Any]:
    """One row of injection.csv, without keys; missing values are None.

    Args:
        reference, injected: token ids of the text as it was and as it went on from the token replaced at `position`.
        candidate: the text that the token was taken from, None where it was not taken from one.
        ended: whether the replaced token is a stop: then nothing follows by construction, and nothing is explained.
        broken: whether NaN ended one of the texts: how far they are apart, and whether they meet, is then not known.
    """
    rest = injected[position + 1 :]
    same = [a == b for a, b in zip(reference[position + 1 :], rest, strict=False)]
    again = None if broken else sequences.reconverged(reference, injected)
    row: dict[str, Any] = {
        "position": position,
        "original_token_id": reference[position],
        "injected_token_id": injected[position],
        "recovered": None if again is None else int(again),
        "recovery_lag": sequences.reconvergence_lag(reference, injected) if again else None,
        "agreement": sum(same) / len(same) if same else None,
        "token_ids": " ".join(map(str, injected)),
    }
    if candidate is not None and not ended and not broken:
        its = candidate[position + 1 :]
        part, whole = (Levenshtein.distance(text, its) for text in (rest, reference[position + 1 :]))
        row |= {"distance_injected": part, "distance_reference": whole}
        row["trajectory_share"] = 1 - part / whole if whole else None
        again_at = sequences.first_divergence(rest, its)
        row["second_divergence"] = None if again_at is None else position + 1 + again_at
        row["second_compared"] = sequences.compared_length(rest, its)
    return row


def pooled(cell: pd.DataFrame) -> dict[str, float]:
    """What summary.csv says of a candidate and strategy; the share's interval is a bootstrap over prompts."""
    if not len(cell):
        return dict.fromkeys(SUMMARY, math.nan)
    rows = cell[cell["distance_reference"].notna()]
    part, whole = (rows[c].to_numpy(float) for c in ("distance_injected", "distance_reference"))
    value, low, high = (float(v[0]) for v in bootstrap_ratio(part, whole, rows["prompt_id"].to_numpy(dtype=str)))
    recovered = cell["recovered"].dropna().to_numpy(float)
    return {
        "injected": len(cell),
        "recovered_share": float(recovered.mean()) if len(recovered) else math.nan,
        "trajectory_share": 1 - value,
        "trajectory_share_low": 1 - high,
        "trajectory_share_high": 1 - low,
        "trajectory_horizon": float((rows["token_ids"].str.split().str.len() - rows["position"] - 1).median()),
    }


def by_lag(injection: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """The columns of after.csv, under the role `injected`: agreement of the injected text with the reference's by lag.

    lag 1 is the token after the replaced one; `n` pairs in which both go on that far. Fewer than LEAST_PAIRS have no
    share.
    """
    rows = []
    for key, cell in _compared(injection, traces).groupby([*CELL, "lag"], sort=True):
        keys = dict(zip([*CELL, "lag"], key, strict=True)) | {"role": ROLE}
        agreement = float(cell["same"].mean()) if len(cell) >= LEAST_PAIRS else math.nan
        rows.append(keys | {"n": len(cell), "agreement": agreement})
    return fold(rows, LAGS)


def by_position(injection: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """A row per strategy and replaced position: how many texts came back, and what agrees afterwards, by lag.

    recovered: texts; recovered_share: of those long enough, with Wilson's 95 % interval, seeds clustered in prompts.
    """
    rows = []
    pairs = _compared(injection, traces)
    for (strategy, position), cell in injection.groupby(["strategy", "position"], sort=False):
        recoverable = cell[cell["recovered"].notna()]
        back = recoverable["recovered"].to_numpy(float)
        share, low, high = share_interval(back, recoverable["prompt_id"].to_numpy(dtype=str))
        after = pairs[(pairs["strategy"] == strategy) & (pairs["position"] == position)]
        row = {
            "strategy": strategy, "position": position, "texts": len(cell), "long_enough": len(recoverable),
            "recovered": int(back.sum()), "recovered_share": share, "recovered_share_low": low,
            "recovered_share_high": high,
            "in_step": int((recoverable["recovery_lag"] == 0).sum()),
            "unchanged": int((cell["original_token_id"] == cell["injected_token_id"]).sum()),
            "agreement": float(after["same"].mean()) if len(after) else math.nan,
        }  # fmt: skip
        at = after.groupby("lag")["same"].agg(lambda same: same.mean() if len(same) >= LEAST_PAIRS else math.nan)
        rows.append(row | {f"agreement_lag_{lag}": float(at.get(lag, math.nan)) for lag in SHOWN_LAGS})
    return fold(rows, BY_POSITION)


def _compared(injection: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """A row per pair of tokens after a replaced one: the row's keys and position, lag, same (0/1)."""
    names = ["strategy", "seed", "prompt_id"]
    reference = traces[traces["role"] == "reference"].set_index(["variant", *names])["token_ids"].to_dict()
    parts = []
    for row in injection.to_dict("records"):
        texts = (row["token_ids"], reference[(row["reference"], *(row[c] for c in names))])
        mine, its = (text.split()[row["position"] + 1 :] for text in texts)
        n = min(len(mine), len(its))
        columns = {c: [row[c]] * n for c in (*CELL, "position")}
        same = [a == b for a, b in zip(mine, its, strict=False)]
        parts.append(pd.DataFrame(columns | {"lag": range(1, n + 1), "same": same}))
    empty = pd.DataFrame(columns=[*CELL, "position", "lag", "same"])
    return pd.concat(parts, ignore_index=True) if parts else empty
