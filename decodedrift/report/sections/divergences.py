"""divergences.csv: where traces part and why, most telling first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.report.numbers import absent, number, place
from decodedrift.report.tables import Column, Table, cause, num, text, token

if TYPE_CHECKING:
    from decodedrift.study import Study

MOST = 200
# The order is how much each says about the candidate: a broken number, a changed mind, a cut-off, a search, a tie.
CAUSES = {
    "nonfinite": "NaN or infinite logits ended a trace.",
    "shift": "The reference clearly preferred its token; the candidate's error turned it.",
    "truncation": "A token fell out of the top-k or top-p set of one of the two.",
    "search": "Beam search: whole hypotheses were exchanged. Gap and swing are theirs; a negative gap says that the "
    "reference itself scores the candidate's text higher.",
    "near_tie": "The reference all but tied between the two tokens.",
    "uncoupled": "The draws were independent: chance alone parts such traces.",
}  # fmt: skip
COLUMNS = (
    Column("Candidate", numeric=False), Column("Strategy", numeric=False), Column("Prompt", numeric=False),
    Column("Seed", "The seed of sampled strategies."),
    Column("t*", "Position of the first differing token, counted from 0."),
    Column("Reference chose", numeric=False), Column("Candidate chose", numeric=False), Column("Cause", numeric=False),
    Column("Gap", "The reference's score of its token minus that of the candidate's token."),
    Column("Swing", "The score error that turned the choice: the sum of both sides' gaps."),
    Column("Gap/error", "The gap over the usual error on the positions before t*."),
    Column("KL at t*", "KL(reference ‖ candidate) at this position, nats."),
)  # fmt: skip


def divergences(study: Study) -> dict[str, Any] | None:
    """The most telling divergences of every candidate, and how often each cause was met."""
    parted = parted_traces(study)
    if not len(parted):
        return None
    chosen = telling(parted)
    kl = kl_at(study.positions, chosen)
    seeded = chosen["seed"].nunique() > 1
    kept = [i for i, column in enumerate(COLUMNS) if seeded or column.label != "Seed"]
    rows = []
    for row in chosen.itertuples():
        cells = _row(row, kl.get(key_of(row)))
        rows.append([cells[i] for i in kept])
    counts = parted["cause"].value_counts()
    return {
        "heading": "First divergences",
        "total": len(parted),
        "causes": [(name, int(counts[name]), meaning) for name, meaning in CAUSES.items() if name in counts.index],
        "table": Table(
            tuple(COLUMNS[i] for i in kept), rows, len(parted) - len(chosen), "divergences.csv", tall=len(rows) > 14
        ),
    }  # fmt: skip


def parted_traces(study: Study) -> pd.DataFrame:
    """Rows of divergences in which a candidate left the reference."""
    rows = study.divergences
    kept = (rows["role"] == "candidate") & (rows["diverged"] == 1) & rows["first_divergence"].notna()
    return rows[kept].reset_index(drop=True)


def telling(parted: pd.DataFrame, most: int = MOST) -> pd.DataFrame:
    """At most `most` rows: by cause, then the largest gap; every candidate has its turn, or the worst would fill it."""
    order = parted.assign(
        _cause=parted["cause"].map({name: i for i, name in enumerate(CAUSES)}).fillna(len(CAUSES)),
        _gap=-parted["reference_gap"].astype(float),
    ).sort_values(["_cause", "_gap", "first_divergence"], kind="stable", na_position="last")
    turn = order.groupby("candidate", sort=False).cumcount()
    kept = order.loc[turn.sort_values(kind="stable").index[:most]]
    return kept.sort_values(["_cause", "_gap", "first_divergence"], kind="stable", na_position="last")


def key_of(row: Any) -> tuple[str, str, int, str]:
    """(candidate, strategy, seed, prompt id) of a row of divergences or positions."""
    return (row.candidate, row.strategy, 0 if absent(row.seed) else int(row.seed), row.prompt_id)


def kl_at(positions: pd.DataFrame, rows: pd.DataFrame) -> dict[tuple[str, str, int, str], float]:
    """Forced KL at the first divergence of each of the rows."""
    keys = ["candidate", "strategy", "seed", "prompt_id"]
    wanted = rows[[*keys, "first_divergence"]].rename(columns={"first_divergence": "position"})
    forced = positions[(positions["role"] == "candidate") & positions["prompt_id"].isin(set(rows["prompt_id"]))]
    found = forced[[*keys, "position", "kl"]].merge(wanted, on=[*keys, "position"])
    return {key_of(row): row.kl for row in found.itertuples()}


def _row(row: Any, kl: float | None) -> list[Any]:
    return [
        text(row.candidate, 40), text(row.strategy, 48), text(row.prompt_id, 40),
        num(number(row.seed, "seed")), num(place(row.first_divergence, "first_divergence")),
        token(row.reference_token, row.reference_token_id), token(row.candidate_token, row.candidate_token_id),
        cause(row.cause), num(number(row.reference_gap, "reference_gap")), num(number(row.swing, "swing")),
        num(number(row.gap_over_error, "gap_over_error")), num(number(kl, "kl")),
    ]  # fmt: skip
