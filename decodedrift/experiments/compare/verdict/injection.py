"""What a run says of its replaced tokens."""

from __future__ import annotations

import math

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.folds import second
from decodedrift.experiments.compare.folds.compounding import LEAST
from decodedrift.measure.trajectory import pooled
from decodedrift.report.phrases import listed, number, percent, telling

TELLING = 10  # a ratio of risks whose interval goes further says nothing


def sentences(injection: pd.DataFrame, divergences: pd.DataFrame) -> list[str]:
    """The verdict on `--inject`: how much of the split texts' difference one forced token explains, and how soon the
    texts part again after it."""
    return [*_explained(injection), *_again(injection, divergences)]


def _explained(injection: pd.DataFrame) -> list[str]:
    parts, shares = {}, {}
    few = {}
    for name, cell in injection.groupby("candidate", sort=False):
        figures = pooled(cell)
        if math.isnan(share := figures["trajectory_share"]):
            continue
        low, high = figures["trajectory_share_low"], figures["trajectory_share_high"]
        count = int(cell["distance_reference"].notna().sum())
        if count < LEAST or math.isnan(low):
            few[name] = f"{visible(str(name))} ({count})"
            continue
        spread = f"{percent(low).removesuffix(' %')} to {percent(high)}, {count} texts"
        over = f"over {figures['trajectory_horizon']:.0f} tokens in the median"
        parts[name] = f"{percent(share)} for {visible(str(name))} ({spread}, {over})"
        shares[name] = share
    scarce = f"too few texts to tell for {listed(few.values())}" if few else ""
    if not parts:
        lead = "How much of the difference after the split the candidate's one token explains, put into the reference's"
        return [f"{lead} text: {scarce}."] if few else []
    texts = injection["recovered"].dropna()
    back = f"; {int(texts.sum())} of {len(texts)} such texts come back to the reference's" if len(texts) else ""
    return [
        "Of the difference after the split, the candidate's one token, put into the reference's text, explains "
        f"{listed(telling(parts, shares))}: that part is trajectory, not growing arithmetic error{back}"
        f"{'; ' if scarce else ''}{scarce}."
    ]


def _again(injection: pd.DataFrame, divergences: pd.DataFrame) -> list[str]:
    """The hazard of the second split against that of the first, under the strategies in which tokens were replaced."""
    parts, ratios, excluded = {}, {}, ""
    for name, cell in injection.groupby("candidate", sort=False):
        mine = (divergences["candidate"] == name) & (divergences["role"] == "candidate")
        rows = second.beside(divergences[mine & divergences["strategy"].isin(cell["strategy"])], cell)
        figures = second.pooled(rows)
        if math.isnan(ratio := figures["second_hazard_ratio"]):
            continue
        low, high = figures["second_hazard_ratio_low"], figures["second_hazard_ratio_high"]
        counts = f"{int(rows['second_divergence'].count())} in {int(rows['second_compared'].sum())} tokens"
        times = f"{number(ratio)} times the first split's risk, {number(low)} to {number(high)}"
        if high < TELLING:
            excluded = " A factor beyond an interval (95 %) is excluded."
        said = times if high < TELLING else "too few to hold against the first split"
        parts[name] = f"{percent(figures['second_hazard'])} of the tokens for {visible(str(name))} ({counts}; {said})"
        ratios[name] = ratio
    if not parts:
        return []
    return [
        "From that token on both read one text again; that they part a second time, which errors that compound would "
        f"hasten, happens at {listed(telling(parts, ratios))}.{excluded}"
    ]
