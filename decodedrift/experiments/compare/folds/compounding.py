"""The folds that say whether an error compounds: survival, growth, what follows t*, and a row of figures a cell.

Pandas in, pandas out; the statistics are `survival`'s and `weibull`'s (docs/metrics.md). Every figure that does not
exist is empty, and a note beside it says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from decodedrift.measure.tables import CELL, CONTROLS, TEXTS, fold
from decodedrift.measure.trajectory import LEAST_PAIRS
from decodedrift.numerics import sequences, weibull
from decodedrift.numerics import survival as sv
from decodedrift.numerics.incidence import incidence
from decodedrift.numerics.intervals import ratio_half_width

SURVIVAL = ["at_risk", "events", "survival", "survival_low", "survival_high", "hazard", "incidence", "incidence_low",
            "incidence_high"]  # fmt: skip
GROWTH = ["logit_gap_rms_median", "logit_gap_rms_p10", "logit_gap_rms_p90", "kl_mean", "n"]
INDEX = ("compounding_index", "compounding_index_low", "compounding_index_high", "compounding_index_p")
HALF_LIFE = ("half_life", "half_life_low", "half_life_high")
IN_SUMMARY = (*HALF_LIFE, *INDEX, "compounding_note")
READ = [*CELL, "layout", "seed", "prompt_id", "position", "logit_gap_rms", "kl"]  # of a position
JUDGED = [  # of a divergence; whole rows would be copied cell by cell
    *CELL, "seed", "prompt_id", "compared", "diverged", "first_divergence", "edit_similarity", "chrf_after",
    "reconverged", "reconvergence_lag",
]  # fmt: skip
PER = 100  # positions, the unit of a growth slope
LEAST = 10  # divergences, below which the shape of a risk is given no name


def cells(frame: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """(keys, rows) of each compared variant x strategy; texts have no compounding."""
    for key, cell in frame.groupby(CELL, sort=False):
        keys = dict(zip(CELL, key, strict=True))
        if keys["strategy"] != "text":
            yield keys, cell


def times_of(cell: pd.DataFrame) -> sv.CensoredTimes:
    """The traces of a cell as censored times, clustered by prompt; `ended` as `with_ends` tells it, if it does."""
    return sv.CensoredTimes.of(
        cell["compared"].to_numpy(dtype=np.int64), (cell["diverged"] == 1).to_numpy(dtype=bool, na_value=False),
        cell["prompt_id"].to_numpy(dtype=str), cell["ended"].to_numpy(dtype=bool) if "ended" in cell else None,
    )  # fmt: skip


def with_ends(divergences: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """Divergences with `ended`: whether both texts stopped at the same stop token, and so can never part."""
    names = ["strategy", "seed", "prompt_id"]
    stopped = traces[~traces["role"].isin(CONTROLS) & (traces["finish"] == "eos")]
    stops = pd.MultiIndex.from_frame(stopped[["model", "variant", *names]])
    keys = pd.MultiIndex.from_frame(divergences[["model", "reference", *names]])
    return divergences.assign(ended=keys.isin(stops) & (divergences["diverged"] == 0).to_numpy(bool, na_value=False))


def stacked(parts: list[tuple[dict[str, Any], dict[str, Any]]], columns: list[str]) -> pd.DataFrame:
    """Curves below each other, keys first."""
    if not parts:
        return fold([], [*CELL, *columns])
    lengths = [len(values[columns[0]]) for _, values in parts]
    of_part = np.repeat(np.arange(len(parts)), lengths)
    table = {name: pd.Series([keys[name] for keys, _ in parts], dtype=TEXTS).array[of_part] for name in parts[0][0]}
    return pd.DataFrame(table | {name: np.concatenate([values[name] for _, values in parts]) for name in columns})


def survival(divergences: pd.DataFrame, traces: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """survival.csv: each cell's Kaplan-Meier curve and incidence, a row per position, and the flip law's beside them.

    Args:
        predicted: keys, position, survival_predicted, incidence_predicted (`prediction.survival`).
    """
    parts = []
    for keys, cell in cells(with_ends(divergences[JUDGED], traces)):
        curve, parted = sv.kaplan_meier(times := times_of(cell)), incidence(times)
        values = (curve.at_risk, curve.events, curve.survival, curve.low, curve.high, curve.hazard, parted.share,
                  parted.low, parted.high)  # fmt: skip
        parts.append((keys, {"position": np.arange(len(curve.survival)), **dict(zip(SURVIVAL, values, strict=True))}))
    curves = stacked(parts, ["position", *SURVIVAL])
    return curves.merge(predicted, on=[*CELL, "position"], how="left", validate="one_to_one")


def growth(positions: pd.DataFrame) -> pd.DataFrame:
    """growth.csv: the forced logit error against position, a row per position of each cell."""
    parts = []
    for keys, cell in cells(positions[[*CELL, "position", "logit_gap_rms", "kl"]]):
        finite = cell[["position", "logit_gap_rms", "kl"]].astype(float).replace([np.inf, -np.inf], np.nan)
        by = finite.groupby("position")
        gap = by["logit_gap_rms"].quantile([0.5, 0.1, 0.9]).unstack()
        values = (gap[0.5], gap[0.1], gap[0.9], by["kl"].mean(), by["logit_gap_rms"].count())
        columns = {name: v.to_numpy() for name, v in zip(GROWTH, values, strict=True)}
        parts.append((keys, {"position": gap.index.to_numpy(dtype=np.int64), **columns}))
    return stacked(parts, ["position", *GROWTH])


def slope(cell: pd.DataFrame) -> sv.Slope:
    """Decades of forced logit error per 100 positions, each trace with its own level, clustered by prompt."""
    gap = cell["logit_gap_rms"].to_numpy(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        decades = np.log10(gap)
    prompt, _ = pd.factorize(cell["prompt_id"], sort=True)
    trace = cell.groupby(["seed", "prompt_id"], sort=False, dropna=False).ngroup().to_numpy()
    return sv.slope_within(cell["position"].to_numpy(dtype=float) / PER, decades, trace, prompt)


class Remainders:
    """What followed t* in each diverged trace of a cell: equality by lag, per prompt, and how much of it is chance."""

    def __init__(self, cell: pd.DataFrame, tokens: Mapping[tuple[Any, ...], np.ndarray]) -> None:
        parted = cell[cell["diverged"] == 1]
        _, cluster = np.unique(parted["prompt_id"].to_numpy(dtype=str), return_inverse=True)
        rows: list[np.ndarray] = []
        self.by_chance = 0.0
        for row in parted.itertuples():
            both = [
                tokens[(name, control, row.strategy, row.seed, row.prompt_id)][int(row.first_divergence) + 1 :]
                for name, control in ((row.reference, ""), (row.candidate, row.role if row.role in CONTROLS else ""))
            ]
            n = min(map(len, both))
            rows.append(both[0][:n] == both[1][:n])
            self.by_chance += sequences.shuffled_matches(*(ids[:n].tolist() for ids in both))
        self.clusters = int(cluster.max()) + 1 if len(cluster) else 0
        longest = max(map(len, rows), default=0)
        self.total, self.equal = np.zeros((2, self.clusters, longest), dtype=np.int64)
        for group, same in zip(cluster, rows, strict=True):
            self.total[group, : len(same)] += 1
            self.equal[group, : len(same)] += same

    def by_lag(self) -> dict[str, np.ndarray]:
        """Columns of after.csv; lag 1 is the first token after t*. No share of fewer than LEAST_PAIRS pairs."""
        n, equal = self.total.sum(0), self.equal.sum(0)
        return {"lag": np.arange(1, len(n) + 1), "n": n, "agreement": np.where(n < LEAST_PAIRS, math.nan, equal / n)}

    def pooled(self) -> dict[str, float]:
        """Agreement over all lags with its interval over prompts, and what shuffled remainders would have."""
        total, equal = self.total.sum(1), self.equal.sum(1)
        if not total.sum():
            empty = ("agreement_after", "agreement_after_low", "agreement_after_high", "agreement_chance")
            return dict.fromkeys(empty, math.nan)
        share, half = ratio_half_width(equal, total, np.arange(self.clusters))
        return {
            "agreement_after": share,
            "agreement_after_low": max(0.0, share - half) if half == half else half,
            "agreement_after_high": min(1.0, share + half) if half == half else half,
            "agreement_chance": self.by_chance / float(total.sum()),
        }


def token_ids(traces: pd.DataFrame) -> dict[tuple[Any, ...], np.ndarray]:
    """Generated ids, int64 arrays, by (variant, control, strategy, seed, prompt_id); a control may share a name."""
    control = traces["role"].where(traces["role"].isin(CONTROLS), "")
    names = ("strategy", "seed", "prompt_id")
    keys = zip(traces["variant"], control, *(traces[n] for n in names), strict=True)
    by_key: dict[tuple[Any, ...], np.ndarray] = {}
    for key, ids in zip(keys, traces["token_ids"], strict=True):
        by_key[tuple(key)] = np.array(ids.split(), dtype=np.int64)
    return by_key


def after(divergences: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """after.csv: agreement by lag after t*, pooled over the traces that reach that lag on both sides."""
    tokens = token_ids(traces)
    parts = [(keys, Remainders(cell, tokens).by_lag()) for keys, cell in cells(divergences[JUDGED])]
    return stacked(parts, ["lag", "n", "agreement"])


def risk(divergences: pd.DataFrame, positions: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """risk.csv: a row per cell, every scalar of the three curves with its interval."""
    positions = positions[[*CELL, "seed", "prompt_id", "position", "logit_gap_rms"]]
    positions_of = {tuple(keys.values()): cell for keys, cell in cells(positions)}
    longest = divergences.groupby(["model", "reference", "role", "strategy"])["compared"].max()
    tokens = token_ids(traces)
    rows = []
    for keys, cell in cells(with_ends(divergences[JUDGED], traces)):
        horizon = int(longest[keys["model"], keys["reference"], keys["role"], keys["strategy"]])
        row = keys | _survival(times_of(cell), horizon)
        row |= _growth(positions_of.get(tuple(keys.values()), positions.iloc[:0]))
        row |= Remainders(cell, tokens).pooled()
        for name in ("edit_similarity", "chrf_after", "reconverged"):
            row[name] = _mean(cell[name])
        row["reconvergence_lag_median"] = _median(cell["reconvergence_lag"])
        rows.append(row)
    return _holm(fold(rows)) if rows else fold(rows)


def _holm(risk: pd.DataFrame) -> pd.DataFrame:
    """With `compounding_index_p_holm`: p of the shape among all candidates' cells that have the divergences for one."""
    tested = (risk["role"] == "candidate") & (risk["diverged"] >= LEAST)
    adjusted = sv.holm(risk["compounding_index_p"].where(tested).to_numpy(float))
    risk.insert(list(risk.columns).index("compounding_index_p") + 1, "compounding_index_p_holm", adjusted)
    return risk


def _survival(times: sv.CensoredTimes, horizon: int) -> dict[str, Any]:
    curve, shape = sv.kaplan_meier(times), weibull.fit(times)
    rate, rate_low, rate_high = sv.hazard_rate(times)
    token, prompt = sv.certified(times)
    return {
        "prompts": times.clusters,
        "traces": len(times.tokens),
        "diverged": int(times.event.sum()),
        "ended": int(times.ended.sum()),
        "exposure": times.exposure,
        "horizon": horizon,
        "hazard": rate,
        "hazard_low": rate_low,
        "hazard_high": rate_high,
        "certified_per_token": token,
        "certified_per_prompt": prompt,
        **dict(zip(HALF_LIFE, incidence(times).half_life(), strict=True)),
        "restricted_mean": curve.restricted_mean(horizon),
        **dict(zip(INDEX, (shape.value, shape.low, shape.high, shape.p_value), strict=True)),
        "compounding_note": shape.why,
    }


def _growth(cell: pd.DataFrame) -> dict[str, Any]:
    growth = slope(cell)
    return {
        "growth_slope": growth.value,
        "growth_slope_low": growth.low,
        "growth_slope_high": growth.high,
        "growth_length": round(growth.length * PER) + 1 if growth.length else math.nan,
        "growth_note": growth.why,
    }


def in_summary(summary: pd.DataFrame, risk: pd.DataFrame) -> pd.DataFrame:
    """The summary with the half-life and the compounding index of each row, after the median of divergences."""
    if not len(summary):
        return summary
    table = summary.merge(risk[[*CELL, *IN_SUMMARY]], on=CELL, how="left", validate="one_to_one")
    place = list(summary.columns).index("first_divergence_median") + 1
    order = [*summary.columns[:place], *IN_SUMMARY, *summary.columns[place:]]
    return table[order]


def _mean(values: pd.Series) -> float:
    numbers = values.dropna().to_numpy(dtype=float)
    return float(numbers.mean()) if len(numbers) else math.nan


def _median(values: pd.Series) -> float:
    numbers = values.dropna().to_numpy(dtype=float)
    return float(np.median(numbers)) if len(numbers) else math.nan
