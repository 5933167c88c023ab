"""Side by side: what the reference and a candidate wrote after one prompt, with the token at which they part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.report.numbers import number, place
from decodedrift.report.sections.divergences import key_of, kl_at, parted_traces
from decodedrift.report.tables import token
from decodedrift.report.texts import brief, prompt_parts, said, sides

if TYPE_CHECKING:
    from decodedrift.study import Study

MOST = 24
FINISHES = {"eos": "ended by itself", "length": "cut at the limit", "nonfinite": "stopped at a non-finite logit"}


def cases(study: Study) -> dict[str, Any] | None:
    """Earliest, median and latest first divergences, spread over candidates and strategies."""
    parted = parted_traces(study)
    if not len(parted) or study.plan.get("no_text"):
        return None
    chosen = parted.loc[spread(parted)]
    kl = kl_at(study.positions, chosen)
    texts = _texts(study.traces, set(chosen["prompt_id"]))
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in chosen.itertuples():
        groups.setdefault(said(row.candidate), []).append(_case(row, texts, kl.get(key_of(row))))
    return {
        "heading": "Side by side",
        "shown": len(chosen),
        "total": len(parted),
        "reference": brief(str(study.plan["reference"]["name"]), 48),
        "groups": [(brief(name, 60), found) for name, found in groups.items()],
    }


def spread(parted: pd.DataFrame, most: int = MOST) -> list[Any]:
    """Row labels of up to `most` cases: each candidate's strategies take turns, median first, then earliest, latest.

    They come back in the order of the table: by candidate, strategy and position.
    """
    candidates, strategies = (list(dict.fromkeys(parted[c])) for c in ("candidate", "strategy"))
    cells = {
        (candidates.index(c), strategies.index(s)): cell.sort_values("first_divergence", kind="stable")
        for (c, s), cell in parted.groupby(["candidate", "strategy"], sort=False)
    }
    # Shifted by candidate, so that with many candidates the few cases still cover every strategy.
    turns = sorted(cells, key=lambda key: ((key[0] + key[1]) % len(strategies), key[0]))
    chosen: dict[Any, tuple[int, int, int]] = {}
    for pick in (_median, _first, _last):
        for key in turns:
            label = pick(cells[key])
            if len(chosen) < most and label not in chosen:
                chosen[label] = (*key, int(cells[key].loc[label, "first_divergence"]))
    return sorted(chosen, key=lambda label: chosen[label])


def _median(cell: pd.DataFrame) -> Any:
    return cell.index[(len(cell) - 1) // 2]


def _first(cell: pd.DataFrame) -> Any:
    return cell.index[0]


def _last(cell: pd.DataFrame) -> Any:
    return cell.index[-1]


def _texts(traces: pd.DataFrame, prompts: set[str]) -> dict[tuple[Any, ...], Any]:
    """(role, variant, strategy, seed, prompt id) -> trace, of the prompts that are shown."""
    part = traces[traces["role"].isin(["reference", "candidate"]) & traces["prompt_id"].isin(prompts)]
    return {(t.role, t.variant, t.strategy, int(t.seed), t.prompt_id): t for t in _rows(part)}


def _rows(frame: pd.DataFrame) -> Iterator[Any]:
    yield from frame.itertuples()


def _case(row: Any, texts: dict[tuple[Any, ...], Any], kl: float | None) -> dict[str, Any]:
    candidate, strategy, seed, prompt_id = key_of(row)
    ours = texts.get(("reference", row.reference, strategy, seed, prompt_id))
    theirs = texts.get(("candidate", candidate, strategy, seed, prompt_id))
    left, right = sides(said(getattr(ours, "text", "")), said(getattr(theirs, "text", "")), row)
    source = ours or theirs
    return {
        "candidate": brief(candidate, 48),
        "strategy": brief(strategy, 60),
        "seed": seed,
        "prompt_id": brief(said(prompt_id), 60),
        "tags": [brief(t, 30) for t in said(getattr(source, "tags", "")).split()[:8]],
        "prompt": prompt_parts(said(getattr(source, "prompt", ""))),
        "at": place(row.first_divergence, "first_divergence"),
        "tokens": (
            token(row.reference_token, row.reference_token_id),
            token(row.candidate_token, row.candidate_token_id),
        ),
        "cause": said(row.cause),
        "figures": _figures(row, kl),
        "sides": (left, right),
        "finishes": tuple(FINISHES.get(said(getattr(t, "finish", "")), "") for t in (ours, theirs)),
        "same_text": pd.isna(row.first_divergence_char),
    }


def _figures(row: Any, kl: float | None) -> list[tuple[str, Any]]:
    """The numbers that belong to this parting; a beam's are of whole hypotheses."""
    whole = " of whole hypotheses" if said(row.cause) == "search" else ""
    found = [
        (f"gap{whole}", number(row.reference_gap, "reference_gap")),
        (f"swing{whole}", number(row.swing, "swing")),
        ("KL at t*", number(kl, "kl")),
        ("agreement after", number(row.agreement_after, "agreement_after")),
    ]
    return [(label, value) for label, value in found if value.exact]
