"""where.csv: how far hidden states are from the reference's after every layer, and the first module that differs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from decodedrift.measure.tables import fold
from decodedrift.numerics.intervals import ratio_interval

COLUMNS = ["model", "reference", "candidate", "role", "depth", "module", "prompts", "tokens", "rms_ratio",
           "rms_ratio_low", "rms_ratio_high", "error_max", "step", "first_module", "first_prompts"]  # fmt: skip


def where(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per compared variant and layer, embedding first, then what the head reads, and its logits.

    rms_ratio: root of the mean square of the error over that of the reference's states, all tokens of all prompts, with
    its 95 % interval over prompts. step: rms_ratio over that of the layer before; empty where that is 0. first_module:
    the one that most prompts have as the first whose inputs are equal bit for bit and whose output is not, and in how
    many; empty where arithmetic is of another type.
    """
    records = []
    for key, side in rows.groupby(["model", "reference", "candidate", "role"], sort=False):
        named = side.drop_duplicates("prompt_id")["first_module"].dropna()
        counts = named[named != ""].value_counts()
        first = {"first_module": counts.index[0], "first_prompts": counts.iloc[0]} if len(counts) else {}
        before = np.nan
        for (depth, module), cell in side.groupby(["depth", "module"], sort=True):
            tokens = cell["tokens"].to_numpy(float)
            error, base = (tokens * cell[f"{name}_square"].to_numpy(float) for name in ("error", "reference"))
            ratio = np.sqrt(ratio_interval(error, base, cell["prompt_id"].to_numpy(dtype=str)))
            figures = dict(zip(("rms_ratio", "rms_ratio_low", "rms_ratio_high"), ratio, strict=True))
            records.append(
                dict(zip(("model", "reference", "candidate", "role"), key, strict=True))
                | {"depth": depth, "module": module, "prompts": cell["prompt_id"].nunique(), "tokens": tokens.sum()}
                | figures
                | {"error_max": cell["error_max"].max(), "step": ratio[0] / before if before > 0 else np.nan}
                | first
            )
            before = ratio[0]
    return fold(records, COLUMNS)
