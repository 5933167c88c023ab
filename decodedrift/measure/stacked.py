"""Many short tables of one shape put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

Part = tuple[Mapping[str, Any], Mapping[str, Any]]  # constant keys, and columns of one length


def stacked(parts: Sequence[Part]) -> pd.DataFrame:
    """Parts of the same keys and columns as one frame, made at once: a frame for each part takes longer than its rows.

    Texts are left objects, until `typed`.
    """
    keys, columns = parts[0]
    lengths = [len(next(iter(part.values()))) for _, part in parts]
    series: dict[str, Any] = {}
    for name, value in keys.items():
        kind = "object" if isinstance(value, str) else None
        series[name] = pd.Series(np.repeat(np.array([k[name] for k, _ in parts], dtype=kind), lengths), dtype=kind)
    for name in columns:
        values = np.concatenate([np.asarray(part[name]) for _, part in parts])
        series[name] = pd.Series(values, dtype="object" if values.dtype == object else None)
    return pd.DataFrame(series)
