"""The flip law held against what generation then did: scores, calibration and predicted survival, in pandas.

Candidates only: a floor's forced positions are on another text than the one it generated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from decodedrift.experiments.compare.folds.compounding import cells, stacked, times_of
from decodedrift.measure.tables import CELL, fold
from decodedrift.numerics import flips
from decodedrift.numerics.intervals import share_interval
from decodedrift.numerics.survival import Curve, kaplan_meier

LAW = "empirical"  # draws `survival_predicted`: the best held-out log score over two models (docs/compounding.md)
FORCED = "forced"  # the candidate's own forced choices, which need its pass over every position: no law, a bound
COLUMNS = [*CELL, "law", "positions", "flips", "flips_predicted", "sigma", "brier", "log_score", "km_distance",
           "expected_predicted", "expected_observed", "flip_note"]  # fmt: skip
FORETOLD = ["position", "survival_predicted", "incidence_predicted"]
NUMBERS = ["choice_margin", "choice_error", "logit_gap_rms", "significant_digits", "choice_agree"]
TRACE = ["seed", "prompt_id"]
READ = [*CELL, "layout", *TRACE, "position", *NUMBERS]  # of a position
CALIBRATION = ["bin_low", "bin_high", "n", "predicted", "observed", "observed_low", "observed_high"]


@dataclass(frozen=True)
class Prediction:
    """One cell: its forced positions in order, and what generation did at those that were at risk."""

    forced: flips.ForcedPositions
    trace: np.ndarray
    position: np.ndarray
    at_risk: np.ndarray
    happened: np.ndarray
    curve: Curve
    why: str
    cache: dict[str, np.ndarray] = field(default_factory=dict)

    def chances(self, law: str) -> np.ndarray:
        """Chance of a flip at each position; the `forced` ones are 0 or 1."""
        if law not in self.cache:
            self.cache[law] = self.forced.flipped.astype(float) if law == FORCED else flips.held_out(law, self.forced)
        return self.cache[law]

    def predicted(self, law: str) -> np.ndarray:
        """The survival curve a law predicts."""
        return flips.predicted_curve(self.chances(law), self.trace, self.position)

    def parted(self, law: str) -> np.ndarray:
        """The share of texts that a law expects to have parted, by position."""
        return flips.predicted_share(self.chances(law), self.trace, self.position)


Predictions = list[tuple[dict[str, Any], "Prediction"]]


def predict(divergences: pd.DataFrame, positions: pd.DataFrame) -> Predictions:
    """(keys, Prediction) of each candidate and strategy: what the folds below are made of."""
    positions = positions.loc[(positions["role"] == "candidate") & positions["choice_agree"].notna(), READ]
    places, none = positions.groupby(CELL, sort=False).indices, np.empty(0, dtype=np.int64)
    positions = positions[[*TRACE, "position", *NUMBERS]]  # a cell at a time: together they would be held twice
    return [
        (keys, _prediction(cell, positions.iloc[places.get(tuple(keys.values()), none)]))
        for keys, cell in cells(divergences[divergences["role"] == "candidate"])
    ]


def _prediction(cell: pd.DataFrame, forced: pd.DataFrame) -> Prediction:
    ends = cell[[*TRACE, "compared", "first_divergence"]]
    rows = forced.merge(ends, on=TRACE, how="inner", validate="many_to_one")
    rows = rows.sort_values([*TRACE, "position"], ignore_index=True)
    numbers = rows[NUMBERS].to_numpy(dtype=float).T
    margin, error, gap, digits, agree = numbers
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.where(gap > 0, gap * 10.0**digits, math.nan)
    cluster, _ = pd.factorize(rows["prompt_id"], sort=True)
    position = rows["position"].to_numpy(dtype=np.int64)
    positions = flips.ForcedPositions(
        np.where(np.isnan(margin), math.inf, margin), error,
        np.where(np.isnan(scale), np.nanmedian(scale) if (scale > 0).any() else math.nan, scale),
        agree == 0, cluster,
    )  # fmt: skip
    why = ""
    if not len(rows):
        why = "no choice is made a position (beam search, uncoupled sampling) or none was read"
    elif not positions.finite.any():
        why = "no position has a finite error"
    elif not positions.error[~np.isnan(positions.error)].any():
        why = "no error was seen"
    elif len(np.unique(cluster)) < 2:
        why = "one prompt: nothing to hold out"
    trace = rows.groupby(TRACE, sort=False, dropna=False).ngroup().to_numpy()
    t = rows["first_divergence"].astype("float64").to_numpy()
    at_risk = position < rows["compared"].to_numpy(dtype=np.int64)
    return Prediction(positions, trace, position, at_risk, position == t, kaplan_meier(times_of(cell)), why)


def survival(predictions: Predictions) -> pd.DataFrame:
    """Keys, position, `survival_predicted` and `incidence_predicted`, for the curves beside those that came."""
    parts = []
    for keys, cell in predictions:
        if not cell.why:
            curve = cell.predicted(LAW)
            columns = (np.arange(len(curve)), curve, cell.parted(LAW))
            parts.append((keys, dict(zip(FORETOLD, columns, strict=True))))
    return stacked(parts, FORETOLD)


def flip_law(predictions: Predictions) -> pd.DataFrame:
    """flip_law.csv: a row per candidate, strategy and law."""
    rows = []
    for keys, cell in predictions:
        for law in (*flips.LAWS, FORCED):
            row = keys | dict.fromkeys(COLUMNS[len(CELL) :]) | {"law": law, "flip_note": cell.why}
            rows.append(row if cell.why else row | _scores(cell, law))
    return fold(rows, COLUMNS)


def _scores(cell: Prediction, law: str) -> dict[str, Any]:
    chance = cell.chances(law)
    mask = cell.at_risk & ~np.isnan(chance)
    happened = cell.happened[mask]
    predicted, observed = flips.predicted_curve(chance, cell.trace, cell.position), cell.curve.survival
    n = min(len(predicted), len(observed))
    told = flips.resolved(chance[mask], len(chance)) if law in flips.COUNTING else chance[mask]
    return {
        "positions": int(mask.sum()),
        "flips": int(happened.sum()),
        "flips_predicted": float(cell.parted(law)[-1]) * len(np.unique(cell.trace)),
        "sigma": flips.rms(cell.forced.error[cell.forced.finite]),
        "brier": flips.brier(chance[mask], happened),
        "log_score": math.nan if law == FORCED else flips.log_score(told, happened),
        "km_distance": float(np.abs(predicted[:n] - observed[:n]).max()) if n else math.nan,
        "expected_predicted": float(predicted[:n].sum()),
        "expected_observed": float(observed[:n].sum()),
    }


def calibration(predictions: Predictions) -> pd.DataFrame:
    """flip_calibration.csv: positions at risk by the chance a law gave them, and how many flipped."""
    parts = []
    for keys, cell in predictions:
        if cell.why:
            continue
        for law in flips.LAWS:
            if law != "constant":
                parts.append(({**keys, "law": law}, _calibrated(cell, cell.chances(law))))
    return stacked(parts, CALIBRATION) if parts else fold([], [*CELL, "law", *CALIBRATION])


def _calibrated(cell: Prediction, chance: np.ndarray) -> dict[str, list[float]]:
    mask = cell.at_risk & ~np.isnan(chance)
    chance, happened, prompt = chance[mask], cell.happened[mask].astype(float), cell.forced.cluster[mask]
    index = flips.bins(chance)
    columns: dict[str, list[float]] = {name: [] for name in CALIBRATION}
    for b in np.unique(index):
        here = index == b
        values = (flips.EDGES[b], flips.EDGES[b + 1], int(here.sum()), float(chance[here].mean()))
        for name, value in zip(CALIBRATION, (*values, *share_interval(happened[here], prompt[here])), strict=True):
            columns[name].append(value)
    return columns
