"""What a run says of the parts of its error."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.folds.decomposition import pooled
from decodedrift.report.phrases import listed, telling


def sentences(rows: pd.DataFrame) -> list[str]:
    """The verdict's sentence on `--decompose`: what cache and text add to the error of a single position."""
    state, path, size = {}, {}, {}
    for name, cell in rows.groupby("candidate", sort=False):
        whole = pooled(cell)
        size[name] = float(np.nan_to_num(whole["state_compounding"]))
        if not math.isnan(whole["state_compounding"]):
            early, late = _quarters(cell)
            state[name] = f"{early:.3g} to {late:.3g} for {visible(str(name))}"
        if not math.isnan(whole["path_compounding"]):
            path[name] = f"{_interval(whole, 'path_compounding')} for {visible(str(name))}"
    parts = []
    if state:
        parts.append(
            "Its own KV cache multiplies a candidate's logit error of one step by "
            f"{listed(telling(state, size))} (first to last quarter of positions)"
        )
    if path:
        parts.append(f"its own text after the split multiplies its KL by {listed(telling(path, size))}")
    text = "; ".join(parts)
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _quarters(cell: pd.DataFrame) -> tuple[float, float]:
    """state_compounding over the first and the last quarter of the positions."""
    last = int(cell["position"].max()) + 1
    parts = (cell[cell["position"] < last / 4], cell[cell["position"] >= last * 3 / 4])
    return pooled(parts[0])["state_compounding"], pooled(parts[1])["state_compounding"]


def _interval(row: dict[str, float], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.3g}" + ("" if math.isnan(low) else f" ({low:.3g} to {high:.3g})")
