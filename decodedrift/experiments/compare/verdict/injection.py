"""What a run says of its replaced tokens."""

from __future__ import annotations

import math

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.measure.trajectory import pooled
from decodedrift.report.phrases import listed, percent, telling


def sentences(injection: pd.DataFrame) -> list[str]:
    """The verdict's sentence on `--inject`: how much of the split texts' difference one forced token explains."""
    parts, shares = {}, {}
    for name, cell in injection.groupby("candidate", sort=False):
        figures = pooled(cell)
        if not math.isnan(share := figures["trajectory_share"]):
            low, high = figures["trajectory_share_low"], figures["trajectory_share_high"]
            spread = "" if math.isnan(low) else f" ({percent(low).removesuffix(' %')} to {percent(high)})"
            parts[name] = f"{percent(share)}{spread} for {visible(str(name))}"
            shares[name] = share
    if not parts:
        return []
    texts = injection["recovered"].dropna()
    back = f"; {int(texts.sum())} of {len(texts)} such texts come back to the reference's" if len(texts) else ""
    return [
        "Of the difference after the split, the candidate's one token, put into the reference's text, explains "
        f"{listed(telling(parts, shares))}: that part is trajectory, not growing arithmetic error{back}."
    ]
