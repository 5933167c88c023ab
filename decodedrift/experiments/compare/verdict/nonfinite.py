"""What a run says first: whose logits were no numbers, where they were met first, and what that does to the figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.measure.nonfinite import MEETS, TRACE, at_fault, broken_traces, plural, sides
from decodedrift.report.phrases import listed


def sentences(traces: pd.DataFrame, divergences: pd.DataFrame, positions: pd.DataFrame) -> list[str]:
    """The verdict's first sentences: candidates that broke, a reference that did, ids that one side forbids."""
    broken = [*_candidates(traces, positions), *_reference(traces, divergences, positions)]
    return [*broken, *_forbidden(positions)]


def _candidates(traces: pd.DataFrame, positions: pd.DataFrame) -> Iterator[str]:
    broken, read = broken_traces(traces), at_fault(positions, "candidate_breaks")
    for name in dict.fromkeys((*broken["variant"], *read["candidate"])):
        its = broken[broken["variant"] == name]
        total = int(((traces["role"] == "candidate") & (traces["variant"] == name)).sum())
        parts = []
        if len(its):
            parts.append(
                f"{MEETS} ended {len(its)} of its {plural(total, 'trace')}, the earliest at {_earliest(its)}; what "
                "ended so has diverged"
            )
        mine = read[read["candidate"] == name]
        parts += _readings(mine[~mine["strategy"].isin(set(its["strategy"]))], "the reference's text")
        yield f"{visible(str(name))} broke: {'; '.join(parts)}. No gate passes where it did."


def _reference(traces: pd.DataFrame, divergences: pd.DataFrame, positions: pd.DataFrame) -> Iterator[str]:
    ours = traces[traces["role"] == "reference"]
    broken = ours[ours["finish"] == "nonfinite"]
    read = at_fault(positions, "reference_breaks")
    read = read.drop_duplicates([*TRACE, "position"])  # every candidate's rows say it
    if not len(broken) and not len(read):
        return
    parts = []
    if len(broken):
        part = f"{MEETS} ended {len(broken)} of its {plural(len(ours), 'trace')}, the earliest at {_earliest(broken)}"
        parts.append(f"{part}; candidates are held against it up to there")
        if nothing := _not_compared(broken, divergences):
            parts.append(f"{nothing} of these could not be compared at all and count nowhere")
    parts += _readings(read[~read["strategy"].isin(set(broken["strategy"]))], "its text")
    name = ours["variant"].iloc[0] if len(ours) else read["reference"].iloc[0]
    yield f"The reference {visible(str(name))} broke: {'; '.join(parts)}."


def _not_compared(broken: pd.DataFrame, divergences: pd.DataFrame) -> int:
    """How many of the reference's broken traces no candidate could be held against."""
    rows = divergences[divergences["role"] == "candidate"]
    shared, compared = (set(map(tuple, part[TRACE].to_numpy())) for part in (rows, rows[rows["compared"] > 0]))
    keys = [*zip(*(broken[c] for c in TRACE), strict=True)]
    return sum(k not in compared and (k in shared or not n) for k, n in zip(keys, broken["n_tokens"], strict=True))


def _readings(rows: pd.DataFrame, whose: str) -> list[str]:
    """Where forced positions were met, texts by name."""
    names = rows["prompt_id"].str.rsplit("#", n=1).str[0].where(rows["strategy"] == "text", "")
    parts = []
    for text, part in rows.groupby(names, sort=False):
        where = f"text {visible(str(text))}" if text else whose
        place = (
            f"position {part['position'].min()}" if text else _earliest(part.rename(columns={"position": "n_tokens"}))
        )
        parts.append(f"{MEETS} at {plural(len(part), 'position')} of {where}, the first at {place}")
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


def _earliest(rows: pd.DataFrame) -> str:
    """Position, prompt and strategy of the earliest of some traces."""
    first: Any = rows.sort_values("n_tokens", kind="stable").iloc[0]
    return (
        f"position {first['n_tokens']} (prompt {visible(str(first['prompt_id']))}, {visible(str(first['strategy']))})"
    )
