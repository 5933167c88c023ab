"""What a `repeat` makes of its rows: how many different texts, by prompt, by length, and in all (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from decodedrift.experiments.repeat.varying import BY_TEXT, CONTROL
from decodedrift.measure.tables import REPEATED, fold
from decodedrift.numerics.intervals import none_of, share_interval, wilson

TEXT = [*REPEATED, "seed", "prompt_id"]
UNIQUE = [
    *TEXT, "runs", "unique", "modal_share", "differ", "differ_low", "differ_high", "entropy", "first_divergence",
    "loop", "bit_equal", "bit_unique", "output_length_std", "top1_prob_std", "compared_by",
]  # fmt: skip
BY_LENGTH = [*REPEATED, "length", "prompts", "unique", "tar"]
SUMMARY = [
    *REPEATED, "prompts", "texts", "runs", "unique", "unique_most", "tar", "tar_low", "tar_high", "differ",
    "bit_equal", "bit_unique", "modal_share", "entropy", "loop", "std_at_acc", "avg_std_output_length",
    "avg_std_top1_prob", "div_index", "div_percent", "reorder_ratio",
]  # fmt: skip

MEANS = ("differ", "bit_equal", "bit_unique", "modal_share", "entropy", "loop")


def folds() -> dict[str, Callable[[Any], pd.DataFrame]]:
    """summary: a row per variant, what varied and strategy; unique: per prompt of these; by_length: per length."""
    return {
        "summary": lambda study: summary(study.unique, study.repeats, study.spread),
        "unique": lambda study: unique(study.repeats, study.spread),
        "by_length": lambda study: by_length(study.repeats),
    }


def unique(repeats: pd.DataFrame, spread: pd.DataFrame) -> pd.DataFrame:
    """A row per prompt (and seed), variant, strategy and what varied."""
    tops = spread.set_index(TEXT)["top1_prob_std"].to_dict() if len(spread) else {}
    rows = []
    for key, part in repeats.groupby(TEXT, sort=False):
        counts = part["unique_id"].value_counts().to_numpy(dtype=float)
        n, bits = len(part), part["logits"].value_counts().to_numpy(dtype=float)
        share, differing = counts / n, n - counts.max()
        ends = wilson(differing, n) if differing else (0.0, none_of(n))
        parted = part["first_divergence"].dropna()
        rows.append(
            dict(zip(TEXT, key, strict=True))
            | {
                "runs": n, "unique": len(counts), "modal_share": share.max(), "differ": differing / n,
                "differ_low": ends[0], "differ_high": ends[1],
                "entropy": abs(float(-(share * np.log(share)).sum())),
                "first_divergence": parted.min() if len(parted) else np.nan,
                "loop": float((part["loop"] > 0).mean()) if part["loop"].notna().all() else np.nan,
                "bit_equal": bits.max() / n if len(bits) else np.nan, "bit_unique": len(bits) or np.nan,
                "output_length_std": part["n_tokens"].astype(float).std(ddof=1), "top1_prob_std": tops.get(key),
                "compared_by": part["compared_by"].iloc[0],
            }
        )  # fmt: skip
    return fold(rows, UNIQUE)


def by_length(repeats: pd.DataFrame) -> pd.DataFrame:
    """unique and tar of the texts cut to a length: one run of 256 tokens answers for every shorter one.

    Texts whose tokens are not known cannot be cut, and are left out.
    """
    rows = []
    for key, cell in repeats[repeats["compared_by"] != BY_TEXT].groupby(REPEATED, sort=False):
        texts = [[t.split() for t in part["token_ids"].fillna("")] for _, part in cell.groupby(["seed", "prompt_id"])]
        for length in lengths(max(len(t) for several in texts for t in several)):
            counts = [len({tuple(t[:length]) for t in several}) for several in texts]
            row = {
                "length": length,
                "prompts": len(texts),
                "unique": np.mean(counts),
                "tar": np.mean(np.equal(counts, 1)),
            }
            rows.append(dict(zip(REPEATED, key, strict=True)) | row)
    return fold(rows, BY_LENGTH)


def lengths(longest: int) -> list[int]:
    """1, 2, 4, 8 and from there on every 8 tokens, and the longest."""
    return [n for n in (1, 2, 4, *range(8, longest, 8)) if n < longest] + [longest] if longest else []


def summary(table: pd.DataFrame, repeats: pd.DataFrame, spread: pd.DataFrame) -> pd.DataFrame:
    """A row per variant, what varied and strategy; means are over prompts (and seeds)."""
    completions, sums = (dict(list(rows.groupby(REPEATED, sort=False))) for rows in (repeats, spread))
    rows = []
    for key, cell in table.groupby(REPEATED, sort=False):
        alike = (cell["unique"] == 1).to_numpy(float)
        share, low, high = share_interval(alike, cell["prompt_id"].to_numpy(dtype=str))
        parted = cell["first_divergence"].dropna()
        row = {
            "prompts": cell["prompt_id"].nunique(), "texts": len(cell), "runs": cell["runs"].max(),
            "unique": cell["unique"].mean(), "unique_most": cell["unique"].max(),
            "tar": share, "tar_low": low, "tar_high": high if share < 1 else 1.0,
            **{name: cell[name].mean() for name in MEANS},
            "std_at_acc": std_at_acc(completions[key]), "avg_std_output_length": cell["output_length_std"].mean(),
            "avg_std_top1_prob": cell["top1_prob_std"].mean(),
            "div_index": parted.mean() if len(parted) else np.nan, "div_percent": 100 * (1 - share),
            "reorder_ratio": reorder_ratio(sums[key]),
        }  # fmt: skip
        if share == 1:
            row["tar_low"] = 1 - none_of(row["prompts"])
        rows.append(dict(zip(REPEATED, key, strict=True)) | row)
    rows.sort(key=lambda row: row["vary"] == CONTROL)
    return fold(rows, SUMMARY)


def reorder_ratio(rows: pd.DataFrame) -> float:
    """The logits' rms between two orders of summation over sqrt 2 times their rms against float64; NaN unmeasured.

    1 where the errors of the two are independent, 0 where they are the same.
    """
    noise, error = rows["noise_square"].sum(), rows["error_square"].sum()
    return float(np.sqrt(noise / (2 * error))) if error > 0 else float("nan")


def std_at_acc(rows: pd.DataFrame) -> float:
    """Spread over the runs of the share of right answers, in per cent; NaN where no answers are checked."""
    checked = rows[rows["right"].notna()]
    return spread_of([100 * float(part["right"].mean()) for _, part in checked.groupby("run")])


def spread_of(accuracies: Sequence[float]) -> float:
    """The standard deviation with n - 1, as Yuan et al. publish it; NaN of fewer than two."""
    return float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else float("nan")
