"""What of a run can be gated: the numbers of summary, certificate and accuracy, by candidate and strategy."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from decodedrift.experiments.compare.folds.accuracy import ANSWERS, NOT_MEASURED, NUMBERS
from decodedrift.experiments.compare.folds.answer import QUALITIES, WORDINGS
from decodedrift.experiments.compare.folds.certificate import GATED
from decodedrift.experiments.compare.folds.consistency import ROUNDINGS
from decodedrift.measure import nonfinite
from decodedrift.measure.tables import FOLD_TEXTS, KEYS, TABLES, typed
from decodedrift.runs.gates import Fault, Gating

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

# Columns of the summary that hold a value only where something diverged (docs/runs.md lists them)
IF_DIVERGED = (
    "first_divergence_median", "half_life", "half_life_low", "half_life_high", "compounding_index",
    "compounding_index_low", "compounding_index_high", "compounding_index_p", "reference_gap_median", "swing_median",
    "near_tie_share", "agreement_after", "reconverged_share", "injected", "recovered_share", "trajectory_share",
    "trajectory_share_low", "trajectory_share_high", "trajectory_horizon", "second_hazard", "second_hazard_low",
    "second_hazard_high", "second_hazard_ratio", "second_hazard_ratio_low", "second_hazard_ratio_high",
    "path_compounding", "path_compounding_low", "path_compounding_high",
)  # fmt: skip
RECOMMENDED = ("wording==nonfinite", "wording==not compared", "quality==worse", "answers==worse")
ABSENT = (
    dict.fromkeys(
        (
            "cast_positions",
            *(f"{name}{end}" for name in ("sigma_ratio", "bhattacharyya") for end in ("", "_low", "_high")),
        ),
        "it is there only for a candidate that computes in 16 bits and is no plain cast",
    )
    | dict.fromkeys(
        (f"k3{of}{end}" for of in ("", "_own") for end in ("", "_low", "_high")),
        "it is there only for sampling at temperature 1 that leaves no token out, as top-p:p=1",
    )
    | dict.fromkeys(NUMBERS, "it is there only where answers are checked (--check)")
)
# and those of IF_DIVERGED that exist only where the run was asked for them
ASKED = {"injected": "inject", "recovered": "inject", "trajectory": "inject", "second_": "inject",
         "path_": "decompose"}  # fmt: skip


def gating(plan: Mapping[str, Any]) -> Gating:
    """Every candidate under every strategy, whether it left a row or not."""
    cells = [(c["name"], s["label"]) for c in plan["candidates"] for s in plan["strategies"]]
    gated = (*columns(), *GATED, *NUMBERS)
    return Gating(
        ("candidate", "strategy"), cells, gated, lambda row, name: never(row, name, plan), table, faults,
        {"wording": WORDINGS, "quality": QUALITIES, "answers": ANSWERS, "rounding": ROUNDINGS}, NOT_MEASURED,
        RECOMMENDED, ABSENT,
    )  # fmt: skip


def table(study: Study) -> pd.DataFrame:
    """The summary with the columns of certificate and accuracy beside it."""
    keys = ["model", "reference", "candidate", "strategy"]
    if not len(study.summary):
        return study.summary
    costs = study.accuracy[[*keys, *NUMBERS]]
    return study.summary.merge(study.certificate, on=keys, how="left").merge(costs, on=keys, how="left")


def faults(study: Study) -> dict[tuple[str, ...], Fault]:
    """(candidate, strategy) -> what no gate there may pass: a candidate that broke, a KL that is infinite somewhere."""
    positions = study.columns_of("positions", nonfinite.READ)
    impossible = nonfinite.impossible(positions)
    cells: dict[tuple[str, ...], Fault] = {
        key: Fault(
            f"the KL is infinite at {n} positions, which its figures leave out",
            ("kl_", "excess_kl", *(("perplexity_candidate", "ln_ppl_ratio") if key in impossible else ())),
        )
        for key, n in nonfinite.infinite(positions).items()
    }
    return cells | {key: Fault(why) for key, why in nonfinite.faults(study.traces, positions).items()}


def never(row: Mapping[str, Any], column: str, plan: Mapping[str, Any]) -> bool:
    """Whether a cell is empty because nothing diverged, and not because nothing was compared or measured."""
    if column.startswith("harmful_share"):
        return (row.get("checked") or 0) > 0 and row.get("checked_diverged") == 0
    measured = all(plan.get(option) for prefix, option in ASKED.items() if column.startswith(prefix))
    return column in IF_DIVERGED and measured and (row.get("traces") or 0) > 0 and row.get("diverged") == 0


@cache
def columns() -> tuple[str, ...]:
    """The summary's columns of numbers, read off a summary of one empty row: the folds alone know what they make."""
    from decodedrift.experiments.study import Study

    keys = dict.fromkeys(KEYS, "x") | {"seed": 0, "role": "candidate"}
    row = {"divergences": {"diverged": 0, "compared": 1, "nonfinite": 0}, "positions": {"nonfinite": 0}, "traces": {}}
    rows = {}
    for table, more in row.items():
        values = keys | more | ({"variant": "x", "n_tokens": 1, "token_ids": "0"} if table == "traces" else {})
        rows[table] = typed(pd.DataFrame({c: pd.Series([values.get(c)], dtype="object") for c in TABLES[table]}), table)
    with np.errstate(all="ignore"):
        summary = Study(rows, {}).summary
    return tuple(name for name in summary.columns if name not in FOLD_TEXTS)
