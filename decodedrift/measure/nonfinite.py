"""Logits that are no numbers: whose they are, where they were met first, and what that does to the figures.

A side that *breaks* has no distribution: NaN, +inf, or nothing finite. A side *forbids* an id by a logit of -inf while
the other allows it. Both are read off `traces.csv` and `positions/`, so that every reader of a run says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.measure.tables import KEYS

TRACE = ["strategy", "seed", "prompt_id"]
SIDES = ["reference_breaks", "candidate_breaks", "reference_forbids", "candidate_forbids"]
MEETS = "NaN or infinite logits"
READ = [*KEYS, "position", "nonfinite", "kl", "kl_reverse", "nll_reference", "nll_candidate", "p_top_reference"]


def sides(positions: pd.DataFrame) -> pd.DataFrame:
    """The forced positions with a logit that is no number: keys, position, and whose fault it is, four flags.

    KL(p_R||p_C) is infinite exactly where the candidate forbids what the reference allows, and the reverse likewise. A
    token beyond the narrower head has no likelihood either, and is no fault.
    """
    rows = positions[positions["nonfinite"] > 0]
    values = {name: rows[name].to_numpy(float) for name in ("kl", "kl_reverse", "nll_reference", "nll_candidate")}
    reference = rows["p_top_reference"].isna().to_numpy()
    beyond = np.isnan(values["nll_reference"]) & ~reference
    flags = (
        reference, np.isnan(values["nll_candidate"]) & ~beyond, np.isposinf(values["kl_reverse"]),
        np.isposinf(values["kl"]),
    )  # fmt: skip
    frame = rows[[c for c in (*KEYS, "position") if c in rows]]
    return frame.assign(**dict(zip(SIDES, flags, strict=True)))


def broken_traces(traces: pd.DataFrame) -> pd.DataFrame:
    """The candidates' traces that broke by their own fault: before the reference's, which read the same, did."""
    ended = traces[traces["finish"] == "nonfinite"]
    its, ours = (ended[ended["role"] == role][["variant", *TRACE, "n_tokens"]] for role in ("candidate", "reference"))
    both = its.merge(ours[[*TRACE, "n_tokens"]], on=TRACE, how="left", suffixes=("", "_reference"))
    later = both["n_tokens_reference"].isna() | (both["n_tokens"] < both["n_tokens_reference"]).fillna(False)
    return both[later.to_numpy(dtype=bool)]


def inside(facts: Mapping[str, Any]) -> str:
    """Where in the model its numbers ended, in words, by what was read back of the variant; empty if not known."""
    breaks = facts.get("breaks") or {}
    if not breaks.get("module"):
        return ""
    module = visible(str(breaks["module"]))
    if breaks["tensor"] == "input":
        return f"first in what {module} is given"
    return f"first in {module}" + (", which holds weights that are no numbers" if breaks["own"] else "")


def faults(traces: pd.DataFrame, positions: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(candidate, strategy) of what broke, with the reason in words: no gate passes there."""
    reasons = {}
    for (name, strategy), rows in broken_traces(traces).groupby(["variant", "strategy"], sort=False):
        reasons[str(name), str(strategy)] = f"{MEETS} ended {plural(len(rows), 'trace')}"
    read = at_fault(positions, "candidate_breaks")
    for (name, strategy), rows in read.groupby(["candidate", "strategy"], sort=False):
        reasons.setdefault(
            (str(name), str(strategy)), f"{MEETS} at {plural(len(rows), 'position')} of the reference's text"
        )
    return reasons


def infinite(positions: pd.DataFrame) -> dict[tuple[str, str], int]:
    """(candidate, strategy) -> at how many positions the KL is infinite, which its mean and percentiles leave out."""
    return _counts(at_fault(positions, "candidate_forbids"))


def impossible(positions: pd.DataFrame) -> dict[tuple[str, str], int]:
    """(candidate, strategy) -> how many of the reference's own tokens it forbids; perplexities leave them out."""
    mine = (positions["role"] == "candidate") & (positions["strategy"] != "text")
    return _counts(positions[mine & np.isposinf(positions["nll_candidate"].to_numpy(float))])


def _counts(rows: pd.DataFrame) -> dict[tuple[str, str], int]:
    counts = rows.groupby(["candidate", "strategy"], sort=False).size()
    return {(str(name), str(strategy)): int(n) for (name, strategy), n in counts.items()}


def reasons(
    reference: str, candidate: str, ended: Iterable[str], frames: Iterable[tuple[str, pd.DataFrame]]
) -> dict[tuple[str, str], str]:
    """(variant, strategy) -> why its rows of a job are not whole, for failures.csv.

    No counts and no places, so that the jobs' rows are alike; the verdict has those.

    Args:
        ended: strategies of the candidate's traces that broke. frames: (strategy, its forced positions) of each trace.
    """
    texts = {(candidate, strategy): f"{MEETS} ended a trace" for strategy in ended}
    for strategy, frame in frames:
        if not frame["nonfinite"].to_numpy().any():
            continue
        whose = "the text" if strategy == "text" else "the reference's text"
        why = (
            (reference, f"{MEETS} while reading {whose}: distances there are empty"),
            (candidate, f"{MEETS} while reading {whose}: distances there are empty"),
            (reference, f"-inf for ids that {candidate} allows: they are left out of the logit error"),
            (candidate, f"-inf for ids that {reference} allows: the KL is infinite there and left out of its means, "
                        "the ids are left out of the logit error"),
        )  # fmt: skip
        marked = sides(frame)
        for side, (name, reason) in zip(SIDES, why, strict=True):
            if marked[side].any():
                texts.setdefault((name, strategy), reason)
    return texts


def at_fault(positions: pd.DataFrame, flag: str) -> pd.DataFrame:
    """The candidates' forced positions with a fault; a candidate's only where the reference has none there."""
    rows = sides(positions[(positions["role"] == "candidate") & (positions["nonfinite"] > 0)])
    mine = rows[flag] & ~rows["reference_breaks"] if flag == "candidate_breaks" else rows[flag]
    return rows[mine.to_numpy(dtype=bool)]


def plural(n: int, noun: str) -> str:
    """`1 trace`, `2 traces`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"
