"""Functions from tables to tables: every figure of a run's CSV files that is not a row. No words, no torch.

A fold is a function of a Study and a line in FOLDS; `compounding`, `comparisons`, `second` and `prediction` are
imported when they are asked for, as their statistics take most of a second to import.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.experiments.compare.folds import decomposition, summary
from decodedrift.experiments.compare.folds.accuracy import accuracy
from decodedrift.experiments.compare.folds.answer import answer
from decodedrift.experiments.compare.folds.certificate import certificate
from decodedrift.experiments.compare.folds.consistency import consistency
from decodedrift.experiments.compare.folds.where import where
from decodedrift.experiments.compare.settings import SLIDING
from decodedrift.measure import trajectory
from decodedrift.measure.tables import of_one_layout, typed

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study


def _compounding() -> Any:
    from decodedrift.experiments.compare.folds import compounding

    return compounding


def _comparisons() -> Any:
    from decodedrift.experiments.compare.folds import comparisons

    return comparisons


def _second() -> Any:
    from decodedrift.experiments.compare.folds import second

    return second


def _prediction() -> Any:
    from decodedrift.experiments.compare.folds import prediction

    return prediction


def _positions(study: Study, columns: Sequence[str]) -> pd.DataFrame:
    return of_one_layout(study.columns_of("positions", columns))


def _summary(study: Study) -> pd.DataFrame:
    """A row per compared variant x strategy."""
    table = summary.summarize(study.divergences, _positions(study, summary.READ), study.traces)
    table = _compounding().in_summary(table, study.risk)
    second = _second()
    extra = (
        (trajectory, study.injection),
        (second, second.beside(study.divergences, study.injection)),
        (decomposition, study.steps),
    )
    return summary.widened(table, [(module.SUMMARY, module.pooled, rows) for module, rows in extra])


def _after(study: Study) -> pd.DataFrame:
    """Agreement by lag after the first divergence, and after a replaced token (role `injected`)."""
    divergences, injection, traces = study.divergences, study.injection, study.traces
    if not traces["token_ids"].notna().any():  # not kept: what could be folded of them was, while the run had them
        divergences, injection, traces = divergences.iloc[:0], injection.iloc[:0], traces.iloc[:0]
    parts = [_compounding().after(divergences, traces), trajectory.by_lag(injection, traces)]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else parts[0]


def _predictions(study: Study) -> Any:
    """The flip law's view of each candidate and strategy, made once for three folds."""
    cache: dict[str, Any] = study.__dict__
    if "_predictions" not in cache:
        cache["_predictions"] = _prediction().predict(study.divergences, _positions(study, _prediction().READ))
    return cache["_predictions"]


def _calibration(study: Study) -> pd.DataFrame:
    """How often positions flipped by the chance that a law gave them."""
    table: pd.DataFrame = _prediction().calibration(_predictions(study))
    del study.__dict__["_predictions"]  # as long as the positions, and this was the last of the three
    return table


def _perplexity(study: Study) -> pd.DataFrame:
    """A row per variant x text that neither side wrote."""
    texts = len(study.environment.get("scored_bytes", ()))
    positions = _positions(study, summary.READ) if texts else typed(pd.DataFrame(), "positions")
    return summary.perplexity(positions, study.environment, study.plan.get("convention", SLIDING))


def _survival(study: Study) -> pd.DataFrame:
    """How many traces have parted, and Kaplan-Meier's curve, a row per position of each cell."""
    foretold = _prediction().survival(_predictions(study))
    table: pd.DataFrame = _compounding().survival(study.divergences, study.traces, foretold)
    return table


def _risk(study: Study) -> pd.DataFrame:
    """The three curves' figures, a row per compared variant x strategy."""
    positions = _positions(study, _compounding().READ)
    table: pd.DataFrame = _compounding().risk(study.divergences, positions, study.traces)
    return table


FOLDS: dict[str, Callable[[Study], pd.DataFrame]] = {
    "answer": answer,
    "perplexity": _perplexity,
    "distribution": lambda study: summary.distribution(_positions(study, summary.READ)),
    "summary": _summary,
    "accuracy": accuracy,
    "certificate": certificate,
    "consistency": consistency,
    "survival": _survival,
    "growth": lambda study: _compounding().growth(_positions(study, _compounding().READ)),
    "after": _after,
    "risk": _risk,
    "comparisons": lambda study: _comparisons().comparisons(study.divergences),
    "flip_law": lambda study: _prediction().flip_law(_predictions(study)),
    "flip_calibration": _calibration,
    "decomposition": lambda study: decomposition.fold_positions(study.steps),
    "where": lambda study: where(study.layers),
}


def folds() -> dict[str, Callable[[Study], pd.DataFrame]]:
    """FOLDS, in the order of the files."""
    return FOLDS
