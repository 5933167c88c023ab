"""decomposition.csv: local, state and path error by position, from `steps/` (docs/metrics.md)."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from decodedrift.measure.tables import CELL, fold
from decodedrift.numerics.intervals import bootstrap_ratio

PATHS = ("path_compounding_before", "path_compounding_after")
COLUMNS = [
    *CELL, "position", "n", "e0_mean", "e1_mean",
    *(f"state_compounding{end}" for end in ("", "_low", "_high")),
    "n_before", *(f"{PATHS[0]}{end}" for end in ("", "_low", "_high")),
    "n_after", *(f"{PATHS[1]}{end}" for end in ("", "_low", "_high")),
]  # fmt: skip
SUMMARY = [f"{name}{end}" for name in ("state_compounding", "path_compounding") for end in ("", "_low", "_high")]


def fold_positions(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per candidate, strategy and position; intervals at 95 % by bootstrap over prompts, seeds inside them.

    state_compounding: mean e1 / mean e0 over the `n` traces that have both. path_compounding_before, _after: mean KL on
    the candidate's text / mean KL on the reference's, over the traces alive there in both, t <= t* and t > t* apart.
    Empty where no trace is left or the denominator is 0.
    """
    records = []
    for key, cell in rows.groupby(CELL, sort=False):
        at = cell["position"].to_numpy(int)
        positions = np.unique(at)
        folded = _folded(cell, np.searchsorted(positions, at), len(positions)) | {"position": positions}
        keys = dict(zip(CELL, key, strict=True))
        records += [keys | {c: v[i] for c, v in folded.items()} for i in range(len(positions))]
    return fold(records, COLUMNS)


def pooled(cell: pd.DataFrame) -> dict[str, float]:
    """What summary.csv says of a candidate and strategy: both ratios over all positions, the path's after t*."""
    if not len(cell):
        return dict.fromkeys(SUMMARY, math.nan)
    folded = _folded(cell, np.zeros(len(cell), dtype=int), 1)
    return {c: float(folded[c.replace("path_compounding", PATHS[1])][0]) for c in SUMMARY}


def _folded(cell: pd.DataFrame, columns: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """The figures of each group of rows, [count] each."""
    after = cell["after"].to_numpy() == 1
    n, e1, e0, ratio = _ratios(cell, "e1", "e0", np.ones(len(cell), dtype=bool), columns, count)
    row = {"n": n, "e0_mean": e0, "e1_mean": e1} | _named("state_compounding", ratio)
    for path, part in zip(PATHS, (~after, after), strict=True):
        n, _, _, ratio = _ratios(cell, "kl_candidate_text", "kl_reference_text", part, columns, count)
        row |= {f"n_{path.removeprefix('path_compounding_')}": n} | _named(path, ratio)
    return row


def _ratios(
    cell: pd.DataFrame, top: str, bottom: str, part: np.ndarray, columns: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """(rows, mean top, mean bottom, their ratio with its interval) by group, over the rows finite in both."""
    pair = cell[[top, bottom]].to_numpy(float)
    finite = part & np.isfinite(pair).all(1)
    pair, columns = pair[finite], columns[finite]
    n = np.bincount(columns, minlength=count)
    means = []
    for values in pair.T:
        with np.errstate(invalid="ignore"):
            means.append(np.bincount(columns, weights=values, minlength=count) / n)
    prompts = cell["prompt_id"].to_numpy(dtype=str)[finite]
    return n, means[0], means[1], bootstrap_ratio(pair[:, 0], pair[:, 1], prompts, columns, count)


def _named(name: str, values: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
