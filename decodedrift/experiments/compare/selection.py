"""Which cases the page carries: all of a small run; of a large one the worst, the typical, some that stayed equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.report.tokenview import key_of

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

MOST = 300
TYPICAL = 48
WORD = r"[^\W\d_]{2,}"  # letters alone
DIFFERENT = 0.25  # of the tokens after t* at most these are equal in an example, index by index
EARLY = 0.7  # of its text an example may have behind it when it parts, so that what follows can be seen
# The order is how much each says about the candidate: a broken number, a changed mind, a cut-off, a search, a tie.
CAUSES = {
    "nonfinite": "NaN or infinite logits ended a trace.",
    "shift": "The reference clearly preferred its token; the candidate's error turned it.",
    "truncation": "A token fell out of the set that one of the two may draw from.",
    "search": "Beam search: whole hypotheses were exchanged. Gap and swing are theirs; a negative gap says that the "
    "reference itself scores the candidate's text higher.",
    "near_tie": "The reference all but tied between the two tokens.",
    "uncoupled": "The draws were independent: chance alone parts such traces.",
}  # fmt: skip


def select_cases(study: Study, most: int = MOST) -> pd.DataFrame:
    """Up to `most` rows of divergences.csv with `kl` at t*: the example, then the clearest; what stayed equal last."""
    compared = study.divergences[study.divergences["role"] == "candidate"].reset_index(drop=True)
    parted = compared[(compared["diverged"] == 1) & compared["first_divergence"].notna()]
    equal = compared[compared["diverged"] == 0]
    kept_equal = equal.head(max(most - len(parted), most // 10 if len(equal) else 0))
    room = most - len(kept_equal)
    if len(parted) > room:
        typical = list(dict.fromkeys([example(parted), *spread(parted, min(TYPICAL, room // 4))]))
        worst = clearest(parted.drop(index=typical), room - len(typical)).index
        parted = parted.loc[[*worst, *typical]]
    ordered = clearest(parted, len(parted))
    if (first := example(ordered)) is not None:
        ordered = ordered.loc[[first, *ordered.index.drop(first)]]
    rows = pd.concat([ordered, kept_equal], ignore_index=True)
    kl = kl_at(study.positions, rows)
    return rows.assign(kl=pd.Series([kl.get(key_of(row)) for row in rows.itertuples()], dtype="float64"))


def example(rows: pd.DataFrame) -> Any | None:
    """The label of the row of divergences.csv that shows best what happens; None where nothing parted.

    A greedy near tie between two words, not at the beginning, whose texts go on differently. A wish that no row
    fulfils is dropped, the last first; of equals the lowest label, and so the first candidate's.
    """
    parted = rows[(rows["role"] == "candidate") & (rows["diverged"] == 1) & rows["first_divergence"].notna()]
    if not len(parted):
        return None
    words = [parted[f"{side}_token"].astype("string").str.strip().str.fullmatch(WORD) for side in ("reference", "candidate")]
    wishes = {
        "strategy": parted["strategy"] == "greedy",
        "cause": parted["cause"] == "near_tie",
        "words": words[0] & words[1],
        "begun": parted["first_divergence"] > 0,
        "differ": parted["agreement_after"] < DIFFERENT,
        "early": parted["prefix_fraction"] <= EARLY,
    }
    fulfilled = pd.DataFrame({name: wish.fillna(False).astype(int) for name, wish in wishes.items()}).sort_index()
    return fulfilled.sort_values(list(wishes), ascending=False, kind="stable").index[0]


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


def kl_at(positions: pd.DataFrame, rows: pd.DataFrame) -> Mapping[tuple[str, str, int, str], float]:
    """Forced KL at the first divergence of each of the rows."""
    keys = ["candidate", "strategy", "seed", "prompt_id"]
    places = rows[[*keys, "first_divergence"]].rename(columns={"first_divergence": "position"}).dropna()
    frame = positions[(positions["role"] == "candidate") & positions["prompt_id"].isin(set(rows["prompt_id"]))]
    rows_at = frame[[*keys, "position", "kl"]].merge(places, on=[*keys, "position"])
    return {key_of(row): row.kl for row in rows_at.itertuples()}
