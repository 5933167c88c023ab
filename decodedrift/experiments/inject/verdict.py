"""What an `inject` says: a sentence per strategy and position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.report.phrases import percent


def said_of_run(table: pd.DataFrame, plan: Mapping[str, Any]) -> list[str]:
    """The verdict of `decodedrift inject`, a sentence per strategy and position."""
    which = "by itself" if plan["rank"] == 1 else f"by the one ranked {plan['rank']}"
    sentences = []
    for row in table.itertuples():
        head = f"{visible(str(row.strategy))}, the token at position {row.position} replaced {which}, {row.texts} texts"
        agree = f"{percent(row.agreement)} of the tokens after it are the reference's"
        if plan["rank"] == 1:
            sentences.append(f"{head}: {agree}, as they must be.")
            continue
        back = "all are too short to say whether they come back"
        if row.long_enough:
            spread = f"{percent(row.recovered_low)} to {percent(row.recovered_high)}"
            back = f"{int(row.recovered)} of {row.long_enough} come back ({spread}), {row.in_step} of them in step"
        sentences.append(f"{head}: {agree}; {back}.")
    if not len(table):
        sentences.append("Nothing was replaced: no text reaches the position, or its strategy allows no such token.")
    return sentences
