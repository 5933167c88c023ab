"""answer.csv: three questions to each candidate, never mixed. Is its wording another, is its quality, are its answers?

Wording: the share of texts that part, F(C), against the share that part between two batch layouts of the candidate
itself, F(floor). Quality: perplexity on texts that neither side wrote; on a text of the reference's own every honest
candidate looks worse (E[ln p - ln q] is a KL, which is a distance), and a sharper one looks better than it is.
Answers: where prompts say what is right, how many texts are (`folds.accuracy`). A text can be as likely and an answer
wrong, so neither word stands for the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from decodedrift.core.records import RECORDED
from decodedrift.experiments.compare.draws import uncoupled
from decodedrift.experiments.compare.execution import asked, same_execution, unmoved
from decodedrift.experiments.compare.folds.accuracy import IN_ANSWER, of_candidate
from decodedrift.experiments.compare.folds.consistency import ROUNDING, beside_rounding, elsewhere
from decodedrift.experiments.compare.settings import FINE
from decodedrift.measure import nonfinite
from decodedrift.measure.tables import fold
from decodedrift.models.knobs import KNOBS, rounding
from decodedrift.models.variants import variant_from_dict
from decodedrift.numerics.intervals import mean_interval, none_of, paired_difference, share_interval
from decodedrift.numerics.logits import expm1

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

AS_NOISE = 0.10  # of the texts: an excess over the floor that stays below is no more than noise
NO_LOSS = 0.01  # of the perplexity
WORDINGS = (
    "same", "as noise", "more than noise", "cannot tell", "differs", "nonfinite", "same execution", "not compared",
)  # fmt: skip
TOLD_BY_NOISE = ("as noise", "more than noise", "cannot tell")
LEAST_PROMPTS = 35  # Wilson's upper end for none of so many is below AS_NOISE
QUALITIES = ("no loss above 1 %", "worse", "better", "cannot tell", "not measured")
UNCACHED = "it keeps no KV cache: token by token, each token of a text would take a reading of all before it"
UNREAD = "in reading a given text its draft proposes nothing, so that no text would show what the draft does"
PAIR = ["strategy", "seed", "prompt_id"]
OF_TEXT = ["role", "candidate", "strategy", "prompt_id", "nll_reference", "nll_candidate"]
COLUMNS = [
    "model", "reference", "candidate", "strategies", "prompts", "traces", "diverged", "divergence_rate",
    "divergence_rate_low", "divergence_rate_high", "floor_prompts", "floor_rate", "excess_rate", "excess_rate_low",
    "excess_rate_high", "wording", "wording_note", "texts", "scored_tokens", "windows", "ppl_change", "ppl_change_low",
    "ppl_change_high", "quality", "quality_note", *IN_ANSWER, *ROUNDING,
]  # fmt: skip


def answer(study: Study) -> pd.DataFrame:
    """A row per candidate in the order of the plan, whether it ran or not."""
    plan = study.plan
    model = str(plan["model"]).encode("utf-8", "replace").decode("utf-8")  # of a path that is no text
    positions = study.columns_of("positions", nonfinite.READ)
    broken, same, anew = _broken(study, positions), same_execution(study), uncoupled(plan)
    positions = positions[positions["strategy"] == "text"]
    still = {name: knobs for name, knobs in unmoved(study).items() if name not in same}
    rows = []
    for candidate in plan["candidates"]:
        name = str(candidate["name"])
        row = {"model": model, "reference": str(plan["reference"]["name"]), "candidate": name}
        row |= _rates(study.divergences, name, anew)
        row["wording"], note = wording(row, broken.get(name, ""), name in same)
        why = unbatched(row["floor_rate"], name, plan) if row["wording"] in TOLD_BY_NOISE else ""
        read = "predicted by reading the same text" if plan.get("mode") == "screen" and row["traces"] else ""
        draws = redrawn(study.divergences, name, anew) if row["wording"] in (*TOLD_BY_NOISE, "differs") else ""
        bits = f"{' and '.join(still[name])} engaged and changed no bit" if name in still else ""
        row["wording_note"] = "; ".join(part for part in (read, note, why, draws, bits) if part)
        row |= _quality(positions, name) | of_candidate(study, name) | beside_rounding(study, name)
        rows.append(row | (elsewhere(row) if candidate.get("precision") == RECORDED else {}))
    return fold([row | _unread(row, plan) for row in rows], COLUMNS, "answer")


def _unread(row: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, str]:
    """Why a candidate read no text: a draft reads none; without a KV cache each token would be a reading."""
    sides = (plan["reference"], *(c for c in plan["candidates"] if c["name"] == row["candidate"]))
    if not all(KNOBS[name].stepped for name in asked(sides[1], sides[0])):
        return {"quality_note": UNREAD}
    uncached = any(side.get("use_cache") is False for side in sides)
    return {"quality_note": UNCACHED} if uncached and plan.get("texts") and not row["scored_tokens"] else {}


def _rates(divergences: pd.DataFrame, name: str, anew: list[str]) -> dict[str, Any]:
    """How many of a candidate's texts part, of its floor's too, and the difference, paired.

    anew: strategies that draw otherwise in another batch layout; what parts there is no noise of arithmetic.
    """
    compared = divergences[divergences["compared"] > 0]
    cell = compared[(compared["role"] == "candidate") & (compared["candidate"] == name)]
    prompts = cell["prompt_id"].to_numpy(dtype=str)
    rate, low, high = share_interval(cell["diverged"].to_numpy(float), prompts)
    floor = compared[(compared["role"] == "floor") & (compared["reference"] == name)]
    floor = floor[~floor["strategy"].isin(anew)]
    pairs = cell[[*PAIR, "diverged"]].merge(floor[[*PAIR, "diverged"]], on=PAIR, suffixes=("", "_floor"))
    flags, floor_flags = pairs["diverged"].to_numpy(float), pairs["diverged_floor"].to_numpy(float)
    excess, excess_low, excess_high = paired_difference(flags, floor_flags, pairs["prompt_id"].to_numpy(dtype=str))
    return {
        "strategies": ", ".join(cell["strategy"].unique()),
        "prompts": len(np.unique(prompts)), "traces": len(cell), "diverged": int(cell["diverged"].sum()),
        "divergence_rate": rate, "divergence_rate_low": low, "divergence_rate_high": high,
        "floor_prompts": pairs["prompt_id"].nunique() if len(pairs) else math.nan,
        "floor_rate": floor_flags.mean() if len(pairs) else math.nan,
        "excess_rate": excess, "excess_rate_low": excess_low, "excess_rate_high": excess_high,
    }  # fmt: skip


def wording(row: Mapping[str, Any], broken: str = "", same: bool = False) -> tuple[str, str]:
    """The word for a candidate's wording, and what it means here.

    Args:
        row: its rates. broken: where its logits were no numbers, empty if nowhere. same: see `same_execution`.
    """
    low, high = row["excess_rate_low"], row["excess_rate_high"]
    if broken:
        return "nonfinite", broken
    if not row["traces"]:
        return "not compared", "no text of it could be held against the reference's"
    if same and not row["diverged"]:
        return "same execution", "what was asked for comes to what the reference does: no finding about it"
    if not row["diverged"]:
        return "same", (
            f"none of {_plural(row['traces'], 'text')} parted, and {_plural(row['prompts'], 'prompt')} cannot exclude "
            f"that {100 * none_of(row['prompts']):.2g} of 100 do"
        )
    if math.isnan(row["floor_rate"]):
        alone = " (one prompt has no other batch layout)" if row["prompts"] == 1 else ""
        return "differs", f"there is no noise floor to hold it against{alone}"
    if low > 0:
        return "more than noise", f"{100 * low:.0f} to {100 * high:.0f} more of 100 texts part than by batching alone"
    if high < AS_NOISE:
        if high < 0:
            return "as noise", f"at least {-100 * high:.0f} fewer of 100 texts part than by batching alone"
        return "as noise", f"at most {100 * high:.0f} more of 100 texts part than by batching alone"
    prompts, more = _plural(int(row["floor_prompts"]), "prompt"), prompts_to_tell(row)
    if math.isnan(low):
        return "cannot tell", f"{prompts} cannot tell it from what batching alone does; {more} would"
    fewer = f"{-100 * low:.0f} fewer" if low <= -0.005 else "no"
    return "cannot tell", (
        f"{prompts} put{'s' * (row['floor_prompts'] == 1)} it between {fewer} and {100 * high:.0f} more of 100 texts "
        f"than by batching alone; {more} would tell"
    )


def prompts_to_tell(row: Mapping[str, Any]) -> str:
    """About how many prompts would turn "cannot tell" into another word, were the difference to stay what it is.

    An interval narrows as one over the root of the prompts: n (e - low)^2 / e^2 bring its lower end to 0, and
    n (high - e)^2 / (AS_NOISE - e)^2 its upper end to AS_NOISE; the fewer of both, but no fewer than LEAST_PROMPTS.
    """
    excess, n = row["excess_rate"], row["floor_prompts"]
    ways = [
        n * ((excess - row["excess_rate_low"]) / excess) ** 2 if excess > 0 else math.nan,
        n * ((row["excess_rate_high"] - excess) / (AS_NOISE - excess)) ** 2 if excess < AS_NOISE else math.nan,
    ]
    count = min((way for way in ways if math.isfinite(way)), default=0.0)
    if count <= LEAST_PROMPTS:
        return f"at least {LEAST_PROMPTS} prompts"
    step = 10 ** max(1, math.floor(math.log10(count)) - 1)
    return f"about {math.ceil(count / step) * step:,} prompts"


def unbatched(floor_rate: Any, name: str, plan: Mapping[str, Any]) -> str:
    """Why a candidate has no noise, where that is its arithmetic's doing; empty elsewhere."""
    (candidate,) = (c for c in plan["candidates"] if c["name"] == name)
    if floor_rate != 0 or rounding(variant_from_dict(candidate)) not in FINE:
        return ""
    return f"it computes in {candidate['compute']}, where batching changed no text"


def redrawn(divergences: pd.DataFrame, name: str, anew: list[str]) -> str:
    """Which of a candidate's strategies have no noise floor because their draws are not shared; empty without one."""
    floor = divergences[(divergences["role"] == "floor") & (divergences["reference"] == name)]
    labels = [label for label in anew if (floor["strategy"] == label).any()]
    return f"in another batch layout {', '.join(labels)} would draw anew, which is no noise of batching" * bool(labels)


def _broken(study: Study, positions: pd.DataFrame) -> dict[str, str]:
    """Candidate -> where its own logits were no numbers."""
    ended, read = nonfinite.broken_traces(study.traces), nonfinite.at_fault(positions, "candidate_breaks")
    reasons = {
        str(name): f"{nonfinite.MEETS} ended {_plural(len(rows), 'trace')} ({', '.join(rows['strategy'].unique())})"
        for name, rows in ended.groupby("variant", sort=False)
    }
    for name, rows in read.groupby("candidate", sort=False):
        where = f"{_plural(len(rows), 'position')} that were read ({', '.join(rows['strategy'].unique())})"
        reasons.setdefault(str(name), f"{nonfinite.MEETS} at {where}")
    facts = study.environment.get("variants", {})
    places = {name: nonfinite.inside(facts.get(name, {})) for name in reasons}
    return {name: "; ".join(part for part in (text, places[name]) if part) for name, text in reasons.items()}


def _quality(positions: pd.DataFrame, name: str) -> dict[str, Any]:
    """The relative change of perplexity over all texts that neither side wrote, with its interval, and its word."""
    rows = of_text(positions, name)
    value, low, high = ppl_change(rows)
    row = {
        "texts": ", ".join(rows["prompt_id"].str.rsplit("#", n=1).str[0].unique()),
        "scored_tokens": len(rows), "windows": rows["prompt_id"].nunique(),
        "ppl_change": value, "ppl_change_low": low, "ppl_change_high": high,
    }  # fmt: skip
    row["quality"], row["quality_note"] = quality(row, unlikely(rows))
    return row


def of_text(positions: pd.DataFrame, name: str, text: str | None = None) -> pd.DataFrame:
    """A candidate's forced positions of the texts that neither side wrote, or of one of them."""
    rows = positions[
        (positions["strategy"] == "text") & (positions["role"] == "candidate") & (positions["candidate"] == name)
    ]
    return rows if text is None else rows[rows["prompt_id"].str.rsplit("#", n=1).str[0] == text]


def unlikely(rows: pd.DataFrame) -> int:
    """Tokens to which the candidate alone gives no finite likelihood."""
    return int((~np.isfinite(rows["nll_candidate"]) & np.isfinite(rows["nll_reference"])).sum())


def ppl_change(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Relative change of perplexity over forced positions of a text, and its 95 % interval by windows.

    NaN where a likelihood is not finite; no interval of fewer than two windows of one length, or what weighs as many.
    """
    change = rows["nll_candidate"].to_numpy(float) - rows["nll_reference"].to_numpy(float)
    windows = rows["prompt_id"].to_numpy(dtype=str)
    if not len(rows) or not np.isfinite(change).all():
        return math.nan, math.nan, math.nan
    if not change.any() and len(np.unique(windows)) > 1:  # equal to the last bit at every token
        return 0.0, 0.0, 0.0
    value, low, high = map(expm1, mean_interval(change, windows))
    return value, low, high


def quality(row: Mapping[str, Any], lost: int = 0) -> tuple[str, str]:
    """The word for a candidate's quality, and what it means here.

    Args:
        row: its change of perplexity. lost: tokens to which the candidate alone gives no finite likelihood.
    """
    low, high = row["ppl_change_low"], row["ppl_change_high"]
    if not row["scored_tokens"]:
        return "not measured", "no text that neither side wrote was read; give one with --text"
    if lost:
        return "worse", f"{lost} of {row['scored_tokens']} tokens have no finite likelihood under it"
    if math.isnan(row["ppl_change"]):
        return "cannot tell", "the reference gives no finite likelihood to some tokens"
    if math.isnan(low):
        few = "a single window has"
        if row["windows"] > 1:
            few = f"{row['windows']} windows of which one has most of the tokens weigh as fewer than two, which have"
        return "cannot tell", f"{few} no interval; give a longer text with --text"
    where = f"over {row['scored_tokens']} tokens of {row['texts']}"
    if low > -NO_LOSS and high < NO_LOSS:
        return "no loss above 1 %", f"perplexity changes by less than 1 % {where}"
    if low > 0 or high < 0:
        return "worse" if low > 0 else "better", f"perplexity {'rises' if low > 0 else 'falls'} {where}"
    return "cannot tell", f"{where} neither a change above 1 % nor none is excluded; give a longer text with --text"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
