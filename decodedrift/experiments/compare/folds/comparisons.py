"""Which of two candidates leaves the reference first: in one run prompt by prompt, between two runs unpaired."""

from __future__ import annotations

import itertools
import math

import pandas as pd

from decodedrift.core.records import InputError
from decodedrift.experiments.compare.folds.compounding import cells, times_of
from decodedrift.measure.tables import CELL, fold
from decodedrift.numerics import survival as sv

JUDGED = ["model", "reference", "candidate", "strategy", "seed", "prompt_id", "compared", "diverged"]


def comparisons(divergences: pd.DataFrame) -> pd.DataFrame:
    """comparisons.csv: which of two candidates of one run leaves the reference first, stratified by prompt."""
    rows = []
    part = divergences.loc[divergences["role"] == "candidate", JUDGED]
    for (model, reference, strategy), cell in part.groupby(["model", "reference", "strategy"], sort=False):
        sides = {name: rows.set_index(["seed", "prompt_id"]) for name, rows in cell.groupby("candidate", sort=False)}
        for first, second in itertools.combinations(sides, 2):
            both = sides[first].index.intersection(sides[second].index)  # a job of one of them may have failed
            pair = [sides[name].loc[both].reset_index() for name in (first, second)]
            usable = (pair[0]["compared"] > 0) & (pair[1]["compared"] > 0)
            test = sv.paired_test(*(times_of(p[usable]) for p in pair))
            rows.append({"model": model, "reference": reference, "strategy": strategy, "candidate": first,
                         "other": second, "pairs": test.pairs, "candidate_earlier": test.first_earlier,
                         "other_earlier": test.second_earlier, "p_value": test.p_value})  # fmt: skip
    columns = ["model", "reference", "strategy", "candidate", "other", "pairs", "candidate_earlier", "other_earlier",
               "p_value"]  # fmt: skip
    return fold(rows, columns)


def between(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Unpaired log-rank test of two runs over different prompts, one seed each: a row per cell that both have.

    Args:
        first, second: the runs' divergences.

    Raises:
        InputError: a prompt is in both (then one run of both candidates, and `comparisons`, is the better test), or a
            run has several seeds.
    """
    shared = set(first["prompt_id"]) & set(second["prompt_id"])
    if shared:
        raise InputError(f"prompt {min(shared)!r} is in both runs ({len(shared)} are): compare them in one run, paired")
    rows = []
    others = {tuple(keys.values())[1:]: cell for keys, cell in cells(second)}  # runs of two models may be compared
    for keys, cell in cells(first):
        if (other := others.get(tuple(keys.values())[1:])) is None:
            continue
        pair = [times_of(side) for side in (cell, other)]
        try:
            p_value = sv.log_rank(*pair) if any(s.event.any() for s in pair) else math.nan
        except ValueError as error:
            raise InputError(f"{keys['candidate']} {keys['strategy']}: {error}") from None
        rates = [sv.hazard_rate(side)[0] for side in pair]
        rows.append(keys | {"hazard": rates[0], "other_hazard": rates[1], "p_value": p_value})
    return fold(rows, [*CELL, "hazard", "other_hazard", "p_value"])
