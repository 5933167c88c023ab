"""consistency.csv: is what another engine wrote no more than rounding? A row per recorded candidate and strategy.

The reference reads the engine's own text: its gap is by how much it scores its best token above the engine's. A plain
cast of the reference to the type that the engine ran in reads the same text, and has the gap of the token that it would
have taken there. Were the engine nothing but that rounding with other noise, the two gaps of a position could be
exchanged; `excess` is the mean by which the engine's are larger, paired by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from decodedrift.core.records import RECORDED, Variant
from decodedrift.experiments.compare.settings import reader_of, without_cast
from decodedrift.measure.tables import fold
from decodedrift.numerics.intervals import mean_interval, token_share

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

KEYS = ["model", "reference", "candidate", "strategy"]
CONSISTENT, MORE, CANNOT_TELL, NOT_MEASURED = "consistent", "more than rounding", "cannot tell", "not measured"
ROUNDINGS = (CONSISTENT, MORE, CANNOT_TELL, NOT_MEASURED)
LEAST = 10  # positions that the engine or the cast turned: an interval of fewer rests on a handful of prompts
Interval = tuple[float, float, float]


def _three(*names: str) -> list[str]:
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


COLUMNS = [
    *KEYS, "recorded_in", "texts", "tokens", "first_not_top_median", "texts_not_top", "gap_mean", "cast_gap_mean",
    *_three("excess", "beyond", "not_top", "cast_not_top", "excess_not_top"), "turns",
    "gap_max", "gap_max_prompt", "gap_max_position", "cast_gap_max", "cast_gap_max_prompt",
    "cast_gap_max_position", "rank_max", "rounding", "rounding_note",
    "logprob_tokens", *_three("logprob_delta"), "logprob_delta_rms", "cast_delta_rms",
    "shown_tokens", "shown_mean", *_three("kl_shown"), "missing_reference", "missing_candidate",
]  # fmt: skip
WORD = ["rounding", "rounding_note"]
ROUNDING = ["recorded_in", *WORD]  # of it, what answer.csv has


def consistency(study: Study) -> pd.DataFrame:
    """A row per recorded candidate and strategy of which the reference read any text."""
    cells = study.recorded.groupby(KEYS, sort=False)
    rows = [dict(zip(KEYS, key, strict=True)) | judged(study, cell, str(key[2])) for key, cell in cells]
    return fold(rows, COLUMNS)


def beside_rounding(study: Study, name: str) -> dict[str, Any]:
    """What answer.csv says of a candidate, over all strategies."""
    row = judged(study, study.recorded[study.recorded["candidate"] == name], name)
    return {column: row[column] for column in ROUNDING}


def elsewhere(row: Mapping[str, Any]) -> dict[str, str]:
    """What answer.csv says otherwise of a candidate that did not run here: it has no floor and reads no text."""
    read = {"quality_note": "its engine reads no text here"}
    if row["wording"] != "differs":
        return read
    return read | {
        "wording_note": f"its engine has no noise floor here; {in_words(row['rounding'], row['recorded_in'])}"
    }


def in_words(word: str, kind: str | None) -> str:
    """A word of ROUNDINGS, with the type."""
    return {
        CONSISTENT: f"consistent with {kind} rounding", MORE: f"more than {kind} rounding",
        CANNOT_TELL: f"whether it is more than {kind} rounding cannot be told",
    }.get(word, "whether it is more than rounding is not judged")  # fmt: skip


def judged(study: Study, rows: pd.DataFrame, name: str) -> dict[str, Any]:
    """The figures of some of a candidate's rows of `recorded`, and the word for them."""
    plan = study.plan
    known = {field.name for field in fields(Variant)}
    asked = [reader_of(plan), *(c for c in (plan["reference"], *plan["candidates"]) if c["name"] == name)]
    reference, variant = (Variant(**{k: v for k, v in side.items() if k in known}) for side in asked)
    texts = len(rows.drop_duplicates(["strategy", "seed", "prompt_id"]))
    row: dict[str, Any] = {"recorded_in": variant.compute, "texts": texts}
    row |= _gaps(rows) | _logprobs(rows) | _shown(rows)
    if variant.precision != RECORDED:
        return row | {"recorded_in": None, "rounding": NOT_MEASURED, "rounding_note": ""}
    unknown = without_cast(variant, reference) or ("" if row["tokens"] else _unknown(study, rows, name))
    return row | dict(zip(WORD, rounding(row, unknown), strict=True))


def _unknown(study: Study, rows: pd.DataFrame, name: str) -> str:
    """Why no gap of a candidate's texts is known."""
    told = study.environment.get("variants", {}).get(name, {}).get("recorded", {})
    again = sum(count for label, count in told.get("encoded_again", {}).items() if label in set(rows["strategy"]))
    if again:
        return f"{again} of its texts had no token ids and were encoded again; record with return_token_ids"
    return "no token of it is known that a strategy took for the best of its scores"


def _gaps(rows: pd.DataFrame) -> dict[str, Any]:
    """The gaps of both; where no cast read, the engine's alone."""
    rows = rows[rows["gap"].notna()]
    if not len(rows):
        return {"tokens": 0}
    row: dict[str, Any] = {"tokens": len(rows), "gap_mean": float(rows["gap"].mean()), "rank_max": rows["rank"].max()}
    first = rows[rows["gap"] > 0].groupby(["strategy", "seed", "prompt_id"])["position"].min()
    row |= {"texts_not_top": len(first), "first_not_top_median": first.median() if len(first) else math.nan}
    row |= _largest(rows, "gap") | _named(not_top=_share(rows, "gap"))
    pairs = rows[rows["cast_gap"].notna()]
    if not len(pairs):
        return row
    gap, cast, prompts = (pairs[c].to_numpy() for c in ("gap", "cast_gap", "prompt_id"))
    gap, cast = gap.astype(float), cast.astype(float)
    row |= {"cast_gap_mean": float(cast.mean()), "turns": int(((gap > 0) | (cast > 0)).sum())}
    return row | _largest(pairs, "cast_gap") | _named(
        excess=_difference(gap - cast, prompts), beyond=_difference(gap - 2 * cast, prompts),
        cast_not_top=_share(pairs, "cast_gap"), excess_not_top=_difference((gap > 0) * 1.0 - (cast > 0), prompts),
    )  # fmt: skip


def _difference(values: np.ndarray, prompts: np.ndarray) -> Interval:
    """A mean with its interval; of values that are all 0 it is that."""
    return mean_interval(values, prompts.astype(str)) if values.any() else (0.0, 0.0, 0.0)


def _share(rows: pd.DataFrame, column: str) -> Interval:
    prompts = pd.factorize(rows["prompt_id"])[0]
    return token_share((rows[column] > 0).to_numpy(float), np.ones(len(rows)), prompts)


def _largest(rows: pd.DataFrame, column: str) -> dict[str, Any]:
    """The largest of a column, and where; the first of equals."""
    worst = rows.loc[rows[column].idxmax()]
    return {f"{column}_max": float(worst[column]), f"{column}_max_prompt": str(worst["prompt_id"]),
            f"{column}_max_position": int(worst["position"])}  # fmt: skip


def _logprobs(rows: pd.DataFrame) -> dict[str, Any]:
    """How far the engine's log-probabilities of its tokens are from the reference's, and a cast's from these."""
    rows = rows[np.isfinite(rows["logprob"].to_numpy(float))]
    if not len(rows):
        return {}
    delta = rows["logprob"].to_numpy(float) + rows["nll_reference"].to_numpy(float)
    cast = (rows["nll_reference"] - rows["nll_cast"]).to_numpy(float)
    row = {"logprob_tokens": len(rows), "logprob_delta_rms": float(np.sqrt(np.mean(delta**2)))}
    row |= {"cast_delta_rms": float(np.sqrt(np.mean(cast**2)))}
    return row | _named(logprob_delta=_difference(delta, rows["prompt_id"].to_numpy()))


def _shown(rows: pd.DataFrame) -> dict[str, Any]:
    """The divergence over the ids that the engine shows, and what both sides hold of the others."""
    rows = rows[rows["shown"] > 0]
    if not len(rows):
        return {}
    row = {"shown_tokens": len(rows), "shown_mean": float(rows["shown"].mean())}
    row |= {name: float(rows[name].mean()) for name in ("missing_reference", "missing_candidate")}
    several = rows[np.isfinite(rows["kl_shown"].to_numpy(float))]
    kl = _difference(several["kl_shown"].to_numpy(float), several["prompt_id"].to_numpy())
    return row | (_named(kl_shown=kl) if len(several) else {})


def rounding(row: Mapping[str, Any], unknown: str = "") -> tuple[str, str]:
    """The word for what a recorded candidate wrote beside a plain cast, and what it means here.

    Args:
        row: its figures. unknown: why nothing is known, or no cast to hold it beside (`settings.without_cast`).
    """
    kind = row["recorded_in"]
    if unknown:
        return NOT_MEASURED, unknown
    if "excess" not in row:
        return NOT_MEASURED, f"no plain cast to {kind} read it"
    low, high, turns = row["excess_low"], row["excess_high"], row["turns"]
    same, evidence = row["excess"] == low == high == 0, evidence_of(row)
    what = f"it took what a plain cast to {kind} takes at each of {row['tokens']} tokens" if same else _excess(row)
    if low > 0:
        return MORE, f"{what}; {evidence}"
    if turns >= LEAST and (same or row["beyond_high"] < 0):
        return CONSISTENT, f"{what}; {evidence}"
    needed = _needed(row, same)
    enough = f"about {needed}" if needed > turns else "more"
    more = f"at {turns} positions it or the cast leaves the first choice, {enough} would tell"
    return CANNOT_TELL, f"{what}; {more}; {evidence}"


def _needed(row: Mapping[str, Any], same: bool) -> int:
    """Positions off the first choice with which `consistent` could be said, of an engine that is that rounding.

    Its `beyond` is -cast_gap_mean, and the half width of the interval falls as one over the root of their number.
    """
    width, turns = row["beyond_high"] - row["beyond"], row["turns"]
    if same or not (width > 0 and row["cast_gap_mean"] > 0):
        return LEAST
    return max(LEAST, math.ceil(float(turns * (width / row["cast_gap_mean"]) ** 2)))


def _excess(row: Mapping[str, Any]) -> str:
    span = "" if math.isnan(row["excess_low"]) else f" ({row['excess_low']:.2g} to {row['excess_high']:.2g})"
    return (
        f"in the mean it gives up {row['excess']:.2g}{span} nats a token more than a plain cast to "
        f"{row['recorded_in']}, which gives up {row['cast_gap_mean']:.2g}"
    )


def evidence_of(row: Mapping[str, Any]) -> str:
    """The largest gap of both, and where."""
    parts = [
        f"{row[f'{column}_max']:.2g} (prompt {row[f'{column}_max_prompt']}, position {row[f'{column}_max_position']})"
        if row[f"{column}_max"] > 0 else "none"
        for column in ("gap", "cast_gap")
    ]  # fmt: skip
    return f"largest gap {parts[0]}, the cast's {parts[1]}"


def _named(**intervals: Interval) -> dict[str, float]:
    return {f"{n}{e}": v for n, i in intervals.items() for e, v in zip(("", "_low", "_high"), i, strict=True)}
