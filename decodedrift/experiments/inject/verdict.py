"""What an `inject` makes of its rows: two folds, a sentence per strategy and position, and what can be gated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.measure.trajectory import BY_POSITION, by_lag, by_position
from decodedrift.report import failures
from decodedrift.report.phrases import listed, percent, setting
from decodedrift.runs.gates import Gating


def folds() -> dict[str, Callable[[Any], pd.DataFrame]]:
    """summary: a row per strategy and position. after: agreement with the text as it was, by lag."""
    return {
        "summary": lambda study: by_position(study.injection, study.traces),
        "after": lambda study: by_lag(study.injection, study.traces),
    }


def gating(plan: Mapping[str, Any]) -> Gating:
    """Columns of the summary, by strategy and position."""
    keys = ("strategy", "position")
    cells = [(s["label"], str(at)) for s in plan["strategies"] for at in plan["at"]]
    columns = tuple(c for c in BY_POSITION if c not in keys)
    return Gating(keys, cells, columns)


def verdict(study: Any) -> list[str]:
    """What deployment would see besides, what each replacement did, and what failed."""
    return [*deployed(study), *sentences(study.summary, study.plan), *failures.sentences(study.failures)]


def deployed(study: Any) -> list[str]:
    """The model's own settings that would change what it writes, and were left out."""
    name = str(study.plan["reference"]["name"])
    settings = study.environment.get("deployment", {}).get(name, {}).get("settings", {})
    applied = listed([setting(*item) for item in settings.items()])
    return [f"Run without the model's own settings; deployed, {visible(name)} applies {applied}."] if settings else []


def sentences(table: pd.DataFrame, plan: Mapping[str, Any]) -> list[str]:
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
            spread = f"{percent(row.recovered_share_low)} to {percent(row.recovered_share_high)}"
            back = f"{int(row.recovered)} of {row.long_enough} come back ({spread}), {row.in_step} of them in step"
        sentences.append(f"{head}: {agree}; {back}.")
    if not len(table):
        sentences.append("Nothing was replaced: no text reaches the position, or its strategy allows no such token.")
    return sentences
