"""accuracy.csv: does it cost answers? Of texts that were checked: how many are right on each side, and which changed.

Flips are answers that were right and are wrong, or the other way round (Dutta et al. 2024); churn counts every answer
that is another, wrong ones that became other wrong ones too. Two accuracies can be equal where many answers flipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.measure.tables import fold
from decodedrift.numerics.equivalence import paired_score, prompts_needed
from decodedrift.numerics.intervals import share_interval

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

EQUIVALENCE = 0.02  # of runs from before it could be asked for
EQUIVALENT, WORSE, BETTER, CANNOT_TELL, NOT_MEASURED = "equivalent", "worse", "better", "cannot tell", "not measured"
ANSWERS = (EQUIVALENT, WORSE, BETTER, CANNOT_TELL, NOT_MEASURED)
KEYS = ["model", "reference", "candidate", "strategy"]
NUMBERS = (
    "answered_prompts", "checked", "unchecked", "accuracy_reference", "accuracy_candidate", "accuracy_drop",
    "accuracy_drop_low", "accuracy_drop_high", "equivalence_low", "equivalence_high", "right_to_wrong",
    "wrong_to_right", "wrong_to_wrong", "flips", "churn", "checked_diverged", "harmful_share", "harmful_share_low",
    "harmful_share_high", "prompts_needed",
)  # fmt: skip
COLUMNS = [*KEYS, *NUMBERS, "answers", "answers_note"]
# those that answer.csv has too, over all strategies
IN_ANSWER = [
    "answered_prompts", "checked", "accuracy_reference", "accuracy_candidate", "accuracy_drop", "accuracy_drop_low",
    "accuracy_drop_high", "flips", "prompts_needed", "answers", "answers_note",
]  # fmt: skip


def accuracy(study: Study) -> pd.DataFrame:
    """A row per candidate and strategy of which any text was to be checked."""
    rows = [
        dict(zip(KEYS, key, strict=True)) | judged(cell, study.plan)
        for key, cell in study.checks.groupby(KEYS, sort=False)
    ]
    return fold(rows, COLUMNS)


def of_candidate(study: Study, name: str) -> dict[str, Any]:
    """What answer.csv says of a candidate, over all strategies."""
    row = judged(study.checks[study.checks["candidate"] == name], study.plan)
    return {column: row[column] for column in IN_ANSWER}


def harmful(checks: pd.DataFrame) -> pd.DataFrame:
    """The rows whose right answer became a wrong one."""
    return checks[checks["flip"] == "right_to_wrong"]


def judged(rows: pd.DataFrame, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure of some rows of checks.csv; clusters are prompts."""
    margin, told = float(plan.get("equivalence", EQUIVALENCE)), rows[rows["flip"].notna()]
    ours, theirs = (told[f"{side}_right"].to_numpy(float) for side in ("reference", "candidate"))
    prompts = told["prompt_id"].to_numpy(dtype=str)
    drop, low, high = paired_score(ours, theirs, prompts)
    _, inner_low, inner_high = paired_score(ours, theirs, prompts, 0.90)
    flips = {name: int((told["flip"] == name).sum()) for name in ("right_to_wrong", "wrong_to_right", "wrong_to_wrong")}
    changed = flips["right_to_wrong"] + flips["wrong_to_right"]
    parted = told[told["diverged"] == 1]
    bad, bad_low, bad_high = share_interval(
        (parted["flip"] == "right_to_wrong").to_numpy(float), parted["prompt_id"].to_numpy(dtype=str)
    )
    n = len(told)
    row = {
        "answered_prompts": rows["prompt_id"].nunique(), "checked": n, "unchecked": len(rows) - n,
        "accuracy_reference": ours.mean() if n else math.nan, "accuracy_candidate": theirs.mean() if n else math.nan,
        "accuracy_drop": drop, "accuracy_drop_low": low, "accuracy_drop_high": high,
        "equivalence_low": inner_low, "equivalence_high": inner_high,
        **flips, "flips": changed / n if n else math.nan,
        "churn": (changed + flips["wrong_to_wrong"]) / n if n else math.nan,
        "checked_diverged": len(parted), "harmful_share": bad, "harmful_share_low": bad_low,
        "harmful_share_high": bad_high, "prompts_needed": prompts_needed(ours, theirs, prompts, margin),
    }  # fmt: skip
    word, note = word_of(row, margin, bool(plan.get("answer_check")))
    return row | {"answers": word, "answers_note": "; ".join([note, *_left_out(row, len(plan.get("prompts", ())))])}


def word_of(row: Mapping[str, Any], margin: float, asked: bool = True) -> tuple[str, str]:
    """The word for what became of a candidate's answers, and what it means here.

    Args:
        row: its figures. margin: accuracies that differ by less are equivalent. asked: whether answers were checked.
    """
    if not row["checked"]:
        return NOT_MEASURED, "no text of it could be checked" if asked else "no answers were checked (--check)"
    points = f"{100 * margin:.3g} points"
    if row["equivalence_low"] > -margin and row["equivalence_high"] < margin:
        return EQUIVALENT, f"the two accuracies differ by less than {points}, at 5 %"
    if row["accuracy_drop_low"] > 0:
        return WORSE, f"fewer of its answers are right, and a loss of {points} is not excluded"
    if row["accuracy_drop_high"] < 0:
        return BETTER, f"more of its answers are right, and a gain of {points} is not excluded"
    what = f"neither a difference of {points} nor none is excluded"
    return CANNOT_TELL, f"{what}; {rounded_up(row['prompts_needed'])} prompts would tell, were there none"


def rounded_up(count: float) -> str:
    """`about 1,200`: a count of prompts with two digits."""
    step = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return f"about {math.ceil(count / step) * step:,}"


def _left_out(row: Mapping[str, Any], prompts: int) -> list[str]:
    """What of the prompts the figures do not count."""
    blank, lost = prompts - row["answered_prompts"], row["unchecked"]
    if not row["answered_prompts"]:
        return []
    said = [f"{blank} of {prompts} prompts ha{'s' if blank == 1 else 've'} no answer"] if blank > 0 else []
    return said + ([f"{lost} text{'s' * (lost != 1)} could not be checked"] if lost else [])
