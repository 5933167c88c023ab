"""Which cases are shown: on the page all of a small run or the worst and the typical; and the one to show first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.experiments.compare.folds.accuracy import harmful
from decodedrift.experiments.compare.reader import as_read
from decodedrift.report.spacing import decoder
from decodedrift.report.tokenview import key_of

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

MOST = 300
KL_AT = ["role", "candidate", "strategy", "seed", "prompt_id", "position", "kl"]  # of a position
TYPICAL = 48
HARMFUL = 48  # that turned a right answer wrong: the page links to them
# The order is how much each says about the candidate: a broken number, a changed mind, a cut-off, a search, a tie.
CAUSES = {
    "nonfinite": "NaN or infinite logits ended a trace.",
    "shift": "The {reader} clearly preferred its token; the candidate's error turned it.",
    "truncation": "A token fell out of the set that one of the two may draw from.",
    "stopped": "One side had ended already, at a stop id that the other does not have.",
    "search": "Beam search: whole hypotheses were exchanged. Gap and swing are theirs; a negative gap says that the "
    "{reader} itself scores the candidate's text higher.",
    "draw": "The shared draw fell on the edge between two tokens that the {reader} itself held apart.",
    "near_tie": "The {reader} all but tied between the two tokens.",
    "uncoupled": "The draws were independent: chance alone parts such traces.",
}  # fmt: skip
JUDGED = CAUSES | {"shift": "The judge clearly preferred one of the two tokens: no near tie."}


def causes(plan: Mapping[str, Any]) -> dict[str, str]:
    """What each cause of a divergence means, in this run."""
    meanings = JUDGED if plan.get("judge") else CAUSES
    return {name: as_read(meaning, plan) for name, meaning in meanings.items()}


def select_cases(study: Study, most: int = MOST) -> pd.DataFrame:
    """Up to `most` rows of divergences.csv with `kl` at t*: the telling one, the clearest, what stayed equal.

    Where not all fit, those that turned a right answer wrong come before typical and clear ones.
    """
    compared = study.divergences[study.divergences["role"] == "candidate"]
    telling = telling_case(study)
    first = [] if telling is None else [telling.Index]
    parted = compared[(compared["diverged"] == 1) & compared["first_divergence"].notna()]
    equal = compared[compared["diverged"] == 0]
    kept_equal = equal.head(max(most - len(parted), most // 10 if len(equal) else 0))
    room = most - len(kept_equal)
    if len(parted) > room:
        lost = costly(study, parted)[:HARMFUL]
        typical = list(dict.fromkeys([*first, *lost, *spread(parted, min(TYPICAL, room // 4))]))[:room]
        worst = clearest(parted.drop(index=typical), room - len(typical)).index
        parted = parted.loc[[*worst, *typical]]
    ordered = clearest(parted, len(parted))
    ordered = ordered.loc[[*first, *ordered.index.drop(first)]]
    rows = pd.concat([ordered, kept_equal], ignore_index=True)
    kl = kl_at(study.columns_of("positions", KL_AT, set(rows["prompt_id"])), rows)
    return rows.assign(kl=pd.Series([kl.get(key_of(row)) for row in rows.itertuples()], dtype="float64"))


def clearest(parted: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most `most` rows: by cause, then the largest gap; every candidate has its turn, or the worst would fill it."""
    order = parted.assign(
        _cause=parted["cause"].map({name: i for i, name in enumerate(CAUSES)}).fillna(len(CAUSES)),
        _gap=-parted["reference_gap"].astype(float),
    ).sort_values(["_cause", "_gap", "first_divergence"], kind="stable", na_position="last")
    turn = order.groupby("candidate", sort=False).cumcount()
    cases = order.loc[turn.sort_values(kind="stable").index[:most]]
    cases = cases.sort_values(["_cause", "_gap", "first_divergence"], kind="stable", na_position="last")
    return cases.drop(columns=["_cause", "_gap"])


def spread(parted: pd.DataFrame, most: int) -> list[Any]:
    """Labels of up to `most` typical rows: around the median t* of each candidate and strategy, which take turns."""
    ranked: dict[Any, int] = {}
    for _, cell in parted.groupby(["candidate", "strategy"], sort=False):
        order = cell.sort_values("first_divergence", kind="stable").index
        middle = (len(order) - 1) // 2
        for rank, at in enumerate(sorted(range(len(order)), key=lambda i: abs(i - middle))):
            ranked[order[at]] = rank
    return sorted(ranked, key=lambda label: ranked[label])[:most]


def costly(study: Study, rows: pd.DataFrame) -> list[Any]:
    """Labels of those of some rows of divergences.csv that turned a right answer wrong."""
    lost = {key_of(row) for row in harmful(study.checks).itertuples()}
    return [row.Index for row in rows.itertuples() if key_of(row) in lost] if lost else []


def kl_at(positions: pd.DataFrame, rows: pd.DataFrame) -> Mapping[tuple[str, str, int, str], float]:
    """Forced KL at the first divergence of each of the rows."""
    keys = KL_AT[1:5]
    places = rows[[*keys, "first_divergence"]].rename(columns={"first_divergence": "position"}).dropna()
    frame = positions[(positions["role"] == "candidate") & positions["prompt_id"].isin(set(rows["prompt_id"]))]
    rows_at = frame[[*keys, "position", "kl"]].merge(places, on=[*keys, "position"])
    return {key_of(row): row.kl for row in rows_at.itertuples()}


def telling_case(study: Study, of: pd.DataFrame | None = None) -> Any | None:
    """The split to show first, a row of divergences.csv: two words that the reference all but tied between.

    One that turned a right answer wrong, where answers were checked; greedy, a near tie, on a word, not at the very
    beginning, with texts that differ visibly behind it: a case that lacks fewer of these, in this order, comes first,
    then that of the earlier candidate and prompt. None where nothing diverged at a single token. of: rows of it to
    choose from.
    """
    rows = study.divergences if of is None else of
    rows = rows[(rows["role"] == "candidate") & (rows["diverged"] == 1)]
    single = rows[~rows["cause"].isin(["search", "uncoupled", "nonfinite"]) & (rows["at_end"] != 1)]
    lost = {*costly(study, single)}
    return min(single.itertuples(), key=lambda row: (row.Index not in lost, *_lacks(row)), default=None)


def _lacks(row: Any) -> tuple[bool, ...]:
    words = [(token or "").strip() for token in _tokens(row)]
    return (
        row.strategy != "greedy",
        row.cause != "near_tie",
        not all(len(word) > 2 and word.isalpha() for word in words) or words[0].lower() == words[1].lower(),
        row.first_divergence == 0,
        not row.agreement_after < 0.5,  # NaN where nothing follows
    )


@dataclass(frozen=True)
class Fork:
    """A split as texts: what both wrote, how each went on, and what the reference held of the two tokens at the fork.

    p_reference, p_candidate: its probabilities of its own and of the candidate's token; NaN where they are not known.
    """

    shared: str
    reference_text: str
    candidate_text: str
    reference_token: str | None
    candidate_token: str | None
    p_reference: float
    p_candidate: float


def fork(study: Study, row: Any) -> Fork | None:
    """The split of a row of divergences.csv; None where the run kept no texts."""
    traces = study.traces[(study.traces["prompt_id"] == row.prompt_id) & (study.traces["strategy"] == row.strategy)]
    traces = traces[(traces["seed"] == row.seed) & traces["role"].isin(["reference", "candidate"])].set_index("variant")
    if not study.words or not {row.reference, row.candidate} <= set(traces.index):
        return None
    pair = traces.loc[[row.reference, row.candidate]]
    decode = decoder(study.tokens, pair)  # a decoder drops the space that a text begins with
    ours, theirs = (decode([int(i) for i in str(ids).split()]) for ids in pair["token_ids"].fillna(""))
    at = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    at = ours[:at].rfind(" ") + 1 if ours[:at][-1:].isalnum() else at  # whole words, whatever the tokens are
    prompt = pair["prompt"].iloc[0]
    return Fork(
        f"{'' if pd.isna(prompt) else prompt}{ours[:at]}", ours[at:], theirs[at:], *_tokens(row), *_held(study, row),
    )  # fmt: skip


def _tokens(row: Any) -> tuple[str | None, str | None]:
    """Both tokens at the fork; None for a side that had ended before."""
    a, b = (None if pd.isna(token) else str(token) for token in (row.reference_token, row.candidate_token))
    return a, b


def _held(study: Study, row: Any) -> tuple[float, float]:
    """The reference's probabilities of both tokens at the fork of a greedy text, from its reading and the gap."""
    positions = study.columns_of("positions", [*KL_AT, "nll_reference"], [row.prompt_id])
    at, recorded = (_at(frame, row) for frame in (positions, study.recorded))
    if row.strategy != "greedy" or not (len(at) or len(recorded)):
        return math.nan, math.nan
    if len(recorded):  # on the candidate's text, which up to here is the reference's
        held = math.exp(-float(recorded["nll_reference"].iloc[0]))
        return held * math.exp(float(row.reference_gap)), held
    held = math.exp(-float(at["nll_reference"].iloc[0]))
    return held, held * math.exp(-float(row.reference_gap))


def _at(frame: pd.DataFrame, row: Any) -> pd.DataFrame:
    """The row of a table of positions at a first divergence; none where nothing was read there."""
    here = frame[(frame["role"] == "candidate") & (frame["candidate"] == row.candidate) & (frame["seed"] == row.seed)]
    here = here[(here["strategy"] == row.strategy) & (here["prompt_id"] == row.prompt_id)]
    return here[here["position"] == row.first_divergence]
