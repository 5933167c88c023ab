"""What a run says first: whose logits were no numbers, where they were met first, and what that does to the figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.measure.nonfinite import MEETS, TRACE, at_fault, broken_traces, impossible, inside, plural, sides
from decodedrift.report.phrases import listed

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study


def sentences(study: Study) -> list[str]:
    """The verdict's first sentences: candidates that broke, a reference that did, ids that one side forbids."""
    broken = [*_candidates(study), *_reference(study)]
    return [*broken, *_forbidden(study.positions)]


def _candidates(study: Study) -> Iterator[str]:
    traces, overflow = study.traces, _narrow(study)
    broken, read = broken_traces(traces), at_fault(study.positions, "candidate_breaks")
    for name in dict.fromkeys((*broken["variant"], *read["candidate"])):
        its = broken[broken["variant"] == name]
        mine = traces[(traces["role"] == "candidate") & (traces["variant"] == name)]
        head, parts = f"{visible(str(name))} {'overflows' if name in overflow else 'breaks'}", []
        if len(its):
            prompts = plural(mine["prompt_id"].nunique(), "prompt")
            head += f" in {its['prompt_id'].nunique()} of {prompts}, first at {_earliest(its)}"
            parts.append(f"{MEETS} ended {len(its)} of its {plural(len(mine), 'trace')}, which have diverged")
        forced = read[read["candidate"] == name]
        parts += _readings(forced[~forced["strategy"].isin(set(its["strategy"]))], "the reference's text")
        if where := inside(study.environment.get("variants", {}).get(str(name), {})):
            parts.append(f"inside, {where}")
        yield f"{head}: {'; '.join(parts)}. No gate passes where it did."


def _narrow(study: Study) -> set[str]:
    """Candidates whose numbers end at 65,504 and that have the reference's own weights: there it is the type."""
    return {str(v["name"]) for v in study.plan["candidates"] if v["compute"] == "fp16" and not v["model"]}


def _reference(study: Study) -> Iterator[str]:
    traces, positions = study.traces, study.positions
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
        if nothing := _not_compared(broken, study.divergences):
            parts.append(f"{nothing} of these could not be compared at all and count nowhere")
    parts += _readings(read[~read["strategy"].isin(set(broken["strategy"]))], "its text")
    name = ours["variant"].iloc[0] if len(ours) else read["reference"].iloc[0]
    if where := inside(study.environment.get("variants", {}).get(str(name), {})):
        parts.append(f"inside, {where}")
    yield f"The reference {visible(str(name))} breaks: {'; '.join(parts)}."


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
    marked, total = sides(positions), positions.loc[positions["role"] == "candidate", "candidate"].value_counts()
    marked = marked[marked["role"] == "candidate"]
    tokens = impossible(positions)
    for name, rows in marked[marked["candidate_forbids"]].groupby("candidate", sort=False):
        yield (
            f"{visible(str(name))} gives -inf to ids that {visible(str(rows['reference'].iloc[0]))} allows, at "
            f"{len(rows)} of {total[name]} positions: there the KL is infinite and left out of its means, and the "
            f"ids are left out of the logit error{_likelihood(sum(n for key, n in tokens.items() if key[0] == name))}."
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


def _likelihood(count: int) -> str:
    """At how many of these the id is the one that was read."""
    return f"; at {count} it is the reference's own token, which its perplexity there leaves out" if count else ""


def _earliest(rows: pd.DataFrame) -> str:
    """Position, prompt and strategy of the earliest of some traces."""
    first: Any = rows.sort_values("n_tokens", kind="stable").iloc[0]
    return (
        f"position {first['n_tokens']} (prompt {visible(str(first['prompt_id']))}, {visible(str(first['strategy']))})"
    )
