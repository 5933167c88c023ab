"""Logits that are no numbers: whose they are, where they were met first, and what that does to the figures.

A side that *breaks* has no distribution: NaN, +inf, or nothing finite. A side *forbids* an id by a logit of -inf while
the other allows it. Both are read off `traces.csv` and `positions/`, so that every reader of a run says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.measure.tables import KEYS
from decodedrift.report.phrases import listed

TRACE = ["strategy", "seed", "prompt_id"]
SIDES = ["reference_breaks", "candidate_breaks", "reference_forbids", "candidate_forbids"]
MEETS = "NaN or infinite logits"


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
    held = rows[[c for c in (*KEYS, "position") if c in rows]]
    return held.assign(**dict(zip(SIDES, flags, strict=True)))


def broken_traces(traces: pd.DataFrame) -> pd.DataFrame:
    """The candidates' traces that broke by their own fault: before the reference's, which read the same, did."""
    ended = traces[traces["finish"] == "nonfinite"]
    own, theirs = (ended[ended["role"] == role][["variant", *TRACE, "n_tokens"]] for role in ("candidate", "reference"))
    both = own.merge(theirs[[*TRACE, "n_tokens"]], on=TRACE, how="left", suffixes=("", "_reference"))
    later = both["n_tokens_reference"].isna() | (both["n_tokens"] < both["n_tokens_reference"]).fillna(False)
    return both[later.to_numpy(dtype=bool)]


def faults(traces: pd.DataFrame, positions: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(candidate, strategy) of what broke, with the reason in words: no gate passes there."""
    found = {}
    for (name, strategy), rows in broken_traces(traces).groupby(["variant", "strategy"], sort=False):
        found[str(name), str(strategy)] = f"{MEETS} ended {_count(rows, 'trace')}"
    read = _at_fault(positions, "candidate_breaks")
    for (name, strategy), rows in read.groupby(["candidate", "strategy"], sort=False):
        found.setdefault((str(name), str(strategy)), f"{MEETS} at {_count(rows, 'position')} of the reference's text")
    return found


def infinite(positions: pd.DataFrame) -> dict[tuple[str, str], int]:
    """(candidate, strategy) -> at how many positions the KL is infinite, which its mean and percentiles leave out."""
    found = _at_fault(positions, "candidate_forbids").groupby(["candidate", "strategy"], sort=False).size()
    return {(str(name), str(strategy)): int(n) for (name, strategy), n in found.items()}


def reasons(
    reference: str, candidate: str, ended: Iterable[str], frames: Iterable[tuple[str, pd.DataFrame]]
) -> dict[tuple[str, str], str]:
    """(variant, strategy) -> why its rows of a job are not whole, for failures.csv.

    No counts and no places, so that the jobs' rows are alike; the verdict has those.

    Args:
        ended: strategies of the candidate's traces that broke. frames: (strategy, its forced positions) of each trace.
    """
    found = {(candidate, strategy): f"{MEETS} ended a trace" for strategy in ended}
    for strategy, frame in frames:
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
                found.setdefault((name, strategy), reason)
    return found


def said(traces: pd.DataFrame, divergences: pd.DataFrame, positions: pd.DataFrame) -> list[str]:
    """The verdict's first sentences: candidates that broke, a reference that did, ids that one side forbids."""
    broken = [*_candidates(traces, positions), *_reference(traces, divergences, positions)]
    return [*broken, *_forbidden(positions)]


def _candidates(traces: pd.DataFrame, positions: pd.DataFrame) -> Iterator[str]:
    broken, read = broken_traces(traces), _at_fault(positions, "candidate_breaks")
    for name in dict.fromkeys((*broken["variant"], *read["candidate"])):
        own = broken[broken["variant"] == name]
        total = int(((traces["role"] == "candidate") & (traces["variant"] == name)).sum())
        parts = []
        if len(own):
            parts.append(
                f"{MEETS} ended {len(own)} of its {_plural(total, 'trace')}, the earliest at {_earliest(own)}; what "
                "ended so has diverged"
            )
        mine = read[read["candidate"] == name]
        parts += _readings(mine[~mine["strategy"].isin(set(own["strategy"]))], "the reference's text")
        yield f"{visible(str(name))} broke: {'; '.join(parts)}. No gate passes where it did."


def _reference(traces: pd.DataFrame, divergences: pd.DataFrame, positions: pd.DataFrame) -> Iterator[str]:
    own = traces[traces["role"] == "reference"]
    broken = own[own["finish"] == "nonfinite"]
    read = _at_fault(positions, "reference_breaks")
    read = read.drop_duplicates([*TRACE, "position"])  # every candidate's rows say it
    if not len(broken) and not len(read):
        return
    parts = []
    if len(broken):
        part = f"{MEETS} ended {len(broken)} of its {_plural(len(own), 'trace')}, the earliest at {_earliest(broken)}"
        parts.append(f"{part}; candidates are held against it up to there")
        if nothing := _not_compared(broken, divergences):
            parts.append(f"{nothing} of these could not be compared at all and count nowhere")
    parts += _readings(read[~read["strategy"].isin(set(broken["strategy"]))], "its text")
    name = own["variant"].iloc[0] if len(own) else read["reference"].iloc[0]
    yield f"The reference {visible(str(name))} broke: {'; '.join(parts)}."


def _not_compared(broken: pd.DataFrame, divergences: pd.DataFrame) -> int:
    """How many of the reference's broken traces no candidate could be held against."""
    rows = divergences[divergences["role"] == "candidate"]
    met, held = (set(map(tuple, part[TRACE].to_numpy())) for part in (rows, rows[rows["compared"] > 0]))
    keys = [*zip(*(broken[c] for c in TRACE), strict=True)]
    return sum(k not in held and (k in met or not n) for k, n in zip(keys, broken["n_tokens"], strict=True))


def _readings(rows: pd.DataFrame, whose: str) -> list[str]:
    """Where forced positions were met, texts by name."""
    names = rows["prompt_id"].str.rsplit("#", n=1).str[0].where(rows["strategy"] == "text", "")
    parts = []
    for text, part in rows.groupby(names, sort=False):
        where = f"text {visible(str(text))}" if text else whose
        place = (
            f"position {part['position'].min()}" if text else _earliest(part.rename(columns={"position": "n_tokens"}))
        )
        parts.append(f"{MEETS} at {_count(part, 'position')} of {where}, the first at {place}")
    return parts


def _forbidden(positions: pd.DataFrame) -> Iterator[str]:
    marked = sides(positions[positions["role"] == "candidate"])
    total = positions[positions["role"] == "candidate"].groupby("candidate", sort=False).size()
    for name, rows in marked[marked["candidate_forbids"]].groupby("candidate", sort=False):
        yield (
            f"{visible(str(name))} gives -inf to ids that {visible(str(rows['reference'].iloc[0]))} allows, at "
            f"{len(rows)} of {total[name]} positions: there the KL is infinite and left out of its means, and the "
            "ids are left out of the logit error."
        )
    rows = marked[marked["reference_forbids"]]
    if len(rows):
        names = [visible(str(n)) for n in dict.fromkeys(rows["candidate"])]
        most = int(rows.groupby("candidate").size().max())
        yield (
            f"The reference {visible(str(rows['reference'].iloc[0]))} gives -inf to ids that {listed(names)} "
            f"{'allows' if len(names) == 1 else 'allow'}, at {'' if len(names) == 1 else 'up to '}{most} positions: "
            "the KL counts them, the logit error leaves the ids out."
        )


def _at_fault(positions: pd.DataFrame, flag: str) -> pd.DataFrame:
    """The candidates' forced positions with a fault; a candidate's only where the reference has none there."""
    rows = sides(positions[positions["role"] == "candidate"])
    mine = rows[flag] & ~rows["reference_breaks"] if flag == "candidate_breaks" else rows[flag]
    return rows[mine.to_numpy(dtype=bool)]


def _earliest(rows: pd.DataFrame) -> str:
    """Position, prompt and strategy of the earliest of some traces."""
    first: Any = rows.sort_values("n_tokens", kind="stable").iloc[0]
    return (
        f"position {first['n_tokens']} (prompt {visible(str(first['prompt_id']))}, {visible(str(first['strategy']))})"
    )


def _count(rows: pd.DataFrame, noun: str) -> str:
    return _plural(len(rows), noun)


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
