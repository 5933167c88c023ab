"""certificate.csv: is a candidate's error more than noise, and how far do its probabilities leave the reference's?

A row per candidate and strategy. Its distances are held against those of its own floor and its error against that of
the plain cast, on the positions that both have. `_own` is of the candidate's texts, everything else of the reference's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from decodedrift.core.records import RECORDED, Variant
from decodedrift.experiments.compare.draws import as_strategy
from decodedrift.experiments.compare.settings import ROUGH, castable, is_cast, reader_of
from decodedrift.measure.tables import fold, layout_of
from decodedrift.numerics import ratios
from decodedrift.numerics.intervals import (
    by_cluster,
    jackknife,
    mean_interval,
    ratio_half_width,
    ratio_interval,
    token_share,
)

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

KEYS = ["model", "reference", "candidate", "strategy"]
SIDES = ["role", "reference", "candidate"]
AT = ["strategy", "seed", "prompt_id", "position"]
Interval = tuple[float, float, float]
NONE: Interval = (math.nan, math.nan, math.nan)
BANDS = tuple(f"ratio_out_{name}" for name in ratios.BANDS)


def _three(*names: str) -> list[str]:
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


COLUMNS = [
    *KEYS, "layout", "floor_positions", *_three("excess_kl", "noise_ratio", "excess_rms", "saturation"),
    "cast_positions", *_three("sigma_ratio", "bhattacharyya"),
    "tokens", *_three(*BANDS, "logratio_rms"), "sequence_logratio_rms", "sequence_logratio_max", *_three("k3"),
    "tokens_own", *_three(*(f"{band}_own" for band in BANDS), "logratio_rms_own"), "sequence_logratio_rms_own",
    "sequence_logratio_max_own", *_three("k3_own", "difr"), "difr_outside",
]  # fmt: skip
GATED = [name for name in COLUMNS if name not in (*KEYS, "layout")]


def certificate(study: Study) -> pd.DataFrame:
    """A row per candidate and strategy that was read, or wrote elsewhere; a part that was not measured is empty.

    So is what would hold a reading token by token against a plain cast's, which is read at once.
    """
    measured = ["layout", "kl", "logit_gap_rms", "directional_error", "nll_reference", "nll_candidate"]
    columns = ["role", *KEYS, *AT[1:], *measured]
    rows = study.columns_of("positions", columns)
    along = rows["strategy"] != "text"
    roles = {role: rows[along & (rows["role"] == role)] for role in ("candidate", "floor", "cast")}
    rows = rows.head(0).copy()  # a long table is not held twice
    floors = dict(iter(roles["floor"].groupby(["model", "reference", "strategy"], sort=False)))
    casts = _casts(study.plan)
    plain = {s["label"] for s in study.plan["strategies"] if _plain(s)}
    judged = dict(iter(study.judged.groupby(KEYS, sort=False)))
    records = []
    cells = dict(iter(roles["candidate"].groupby(KEYS, sort=False)))
    elsewhere = {c["name"] for c in study.plan["candidates"] if c.get("precision") == RECORDED}
    for key in (*cells, *(key for key in judged if key[2] in elsewhere)):
        cell, (model, _, name, strategy) = cells.get(key, rows.iloc[:0]), key
        row = dict(zip(KEYS, key, strict=True)) | {"layout": layout_of(cell)}
        row |= _beside_floor(cell, floors.get((model, name, strategy), rows.iloc[:0]))
        if name in casts:
            source = roles[casts[name][0]]
            same = (source["model"] == model) & (source["strategy"] == strategy)
            cast = source[same & (source["candidate"] == casts[name][1])]
            row |= _beside_cast(cell, cast) if layout_of(cast) == row["layout"] else {}
        row |= _of_its_text(cell, strategy in plain)
        records.append(row | _of_own_text(judged.get(key, study.judged.iloc[:0]), strategy in plain))
    return fold(records, COLUMNS)


@dataclass(frozen=True)
class Noise:
    """floor: the mean KL of a candidate's floor, nats. times: how often that the mean KL to the reference is."""

    floor: float
    times: Interval


def noise_ratio(positions: pd.DataFrame, name: str) -> Noise:
    """A candidate's KL beside its floor's over all strategies, at the positions that both have."""
    role, columns = positions["role"], [*AT, "kl"]
    cell = positions.loc[(role == "candidate") & (positions["candidate"] == name), columns]
    floor = positions.loc[(role == "floor") & (positions["reference"] == name), columns]
    kl, kl_floor, prompts = _pairs(cell, floor, "kl")
    return Noise(float(kl_floor.mean()), ratio_interval(kl, kl_floor, prompts)) if len(kl) else Noise(math.nan, NONE)


def beside_casts(study: Study) -> dict[str, dict[str, float]]:
    """Candidate -> its error beside its plain cast's over all strategies; of those that have one and were read."""
    if not (casts := _casts(study.plan)):
        return {}
    rows = study.columns_of("positions", [*SIDES, *AT, "directional_error"])
    rows = rows[rows["strategy"] != "text"]
    pooled = {}
    for name, (role, source) in casts.items():
        cell = rows[(rows["role"] == "candidate") & (rows["candidate"] == name)]
        if figures := _beside_cast(cell, rows[(rows["role"] == role) & (rows["candidate"] == source)]):
            pooled[name] = figures | {"prompts": float(cell["prompt_id"].nunique())}
    return pooled


def _casts(plan: Any) -> dict[str, tuple[str, str]]:
    """Candidate -> (role, name) of the plain cast of its type; none for a cast, nor where the reference is coarse."""
    known = {field.name for field in fields(Variant)}
    sides = [Variant(**{k: v for k, v in c.items() if k in known}) for c in (reader_of(plan), *plan["candidates"])]
    reference, *candidates = sides
    if not castable(reference):
        return {}
    casts = {str(v.compute): ("candidate", v.name) for v in candidates if is_cast(v)}
    taken = {v.name for v in sides}
    return {
        v.name: casts.get(str(v.compute), ("cast", f"{v.compute} (cast)" if v.compute in taken else str(v.compute)))
        for v in candidates if v.compute in ROUGH and not (v.recorded or is_cast(v))
    }  # fmt: skip


def _plain(entry: Any) -> bool:
    strategy = as_strategy(entry)
    return strategy is not None and strategy.plain


def _pairs(cell: pd.DataFrame, other: pd.DataFrame, *columns: str) -> list[np.ndarray]:
    """The columns of the one, then of the other, then prompts, at the positions where all of these are finite."""
    both = cell[[*AT, *columns]].merge(other[[*AT, *columns]], on=AT, suffixes=("", "_other"))
    names = [*columns, *(f"{c}_other" for c in columns)]
    values = both[names].to_numpy(float)
    finite = np.isfinite(values).all(1)
    return [*values[finite].T, pd.factorize(both["prompt_id"])[0][finite]]


def _beside_floor(cell: pd.DataFrame, floor: pd.DataFrame) -> dict[str, float]:
    kl, gap, kl_floor, gap_floor, prompts = _pairs(cell, floor, "kl", "logit_gap_rms")
    if not len(kl):
        return {}
    sums = by_cluster(prompts, gap**2, gap_floor**2, np.ones(len(gap)))
    rms, half = jackknife(lambda s: np.sqrt(s[..., 0] / s[..., 2]) - np.sqrt(s[..., 1] / s[..., 2]), sums, sums[:, 2])
    return {"floor_positions": len(kl)} | _named(
        excess_kl=mean_interval(kl - kl_floor, prompts),
        noise_ratio=ratio_interval(kl, kl_floor, prompts),
        excess_rms=(rms, rms - half, rms + half),
        saturation=_root(ratio_interval(gap_floor**2, 2 * gap**2, prompts)),
    )


def _beside_cast(cell: pd.DataFrame, cast: pd.DataFrame) -> dict[str, float]:
    error, error_cast, prompts = _pairs(cell, cast, "directional_error")
    if not len(error):
        return {}
    squares = [(e - e.mean()) ** 2 for e in (error, error_cast)]
    sums = by_cluster(prompts, np.ones(len(error)), error, error**2, error_cast, error_cast**2)
    value, half = jackknife(bhattacharyya, sums, sums[:, 0])
    return {"cast_positions": len(error)} | _named(
        sigma_ratio=_root(ratio_interval(squares[0], squares[1], prompts)),
        bhattacharyya=(value, max(0.0, value - half), min(1.0, value + half)) if half == half else (value, half, half),
    )


def bhattacharyya(sums: np.ndarray) -> np.ndarray:
    """The overlap of two Gaussians, 1 where they are one (Bhattacharyya 1943).

    Args:
        sums: [..., 5], over positions: 1, the one error, its square, the other, its square.
    """
    n = sums[..., 0]
    means, squares = (sums[..., [1, 3]] / n[..., None], sums[..., [2, 4]] / n[..., None])
    variances = np.maximum(squares - means**2, 0.0)
    both = variances.sum(-1)
    overlap = np.sqrt(2 * np.sqrt(variances.prod(-1)) / both)
    return np.asarray(overlap * np.exp(-((means[..., 0] - means[..., 1]) ** 2) / (4 * both)))


def _of_its_text(cell: pd.DataFrame, plain: bool) -> dict[str, float]:
    """The band on the reference's text, whose writer is the reference: r = q / p."""
    log_ratio = cell["nll_reference"].to_numpy(float) - cell["nll_candidate"].to_numpy(float)
    known = ~np.isnan(log_ratio)
    if not known.any():
        return {}
    cell, log_ratio = cell[known], log_ratio[known]
    prompts = pd.factorize(cell["prompt_id"])[0]
    sequences = pd.Series(log_ratio).groupby([cell["seed"].to_numpy(), prompts]).sum().to_numpy()
    ones = np.ones(len(log_ratio))
    shares = {f"ratio_out_{n}": token_share(o, ones, prompts) for n, o in ratios.outside(log_ratio).items()}
    return {"tokens": len(log_ratio)} | _sequences(sequences) | _named(
        **shares,
        logratio_rms=_root(ratio_interval(log_ratio**2, ones, prompts)),
        k3=mean_interval(ratios.k3(log_ratio), prompts) if plain else NONE,
    )  # fmt: skip


def _of_own_text(rows: pd.DataFrame, plain: bool) -> dict[str, float]:
    """The band on the candidate's own texts, r = p / q, and how far the reference preferred other tokens."""
    return _band_of(rows[rows["tokens"] > 0], plain) | _difr(rows[rows["difr_tokens"].notna()])


def _band_of(rows: pd.DataFrame, plain: bool) -> dict[str, float]:
    """The band; nothing without texts whose writer's probabilities are known."""
    if not len(rows):
        return {}
    prompts, tokens = pd.factorize(rows["prompt_id"])[0], rows["tokens"].to_numpy(int)
    square, k3 = (rows[c].to_numpy(float) for c in ("logratio_square", "k3"))
    shares = {f"{band}_own": token_share(rows[band].to_numpy(float), tokens, prompts) for band in BANDS}
    mean, width = ratio_half_width(k3, tokens, prompts)
    row = {"tokens_own": float(tokens.sum())} | _sequences(rows["sequence_logratio"].to_numpy(float), "_own")
    return row | _named(
        **shares,
        logratio_rms_own=_root(ratio_interval(square, tokens, prompts)),
        k3_own=(mean, mean - width, mean + width) if plain else NONE,
    )


def _difr(rows: pd.DataFrame) -> dict[str, float]:
    """Token-DiFR's margin; nothing of strategies that prefer no token."""
    if not len(rows):
        return {}
    drawn, tokens = rows["difr_tokens"].to_numpy(float), rows["tokens"].to_numpy(float)
    value, half = ratio_half_width(rows["difr"].to_numpy(float), drawn, pd.factorize(rows["prompt_id"])[0])
    outside = 1 - drawn.sum() / tokens.sum() if tokens.sum() else math.nan
    return {"difr_outside": outside} | _named(difr=(value, value - half, value + half))


def _sequences(log_ratios: np.ndarray, of: str = "") -> dict[str, float]:
    return {
        f"sequence_logratio_rms{of}": float(np.sqrt(np.mean(log_ratios**2))),
        f"sequence_logratio_max{of}": float(np.abs(log_ratios).max()),
    }


def _root(interval: Interval) -> Interval:
    value, low, high = (math.sqrt(end) for end in interval)
    return value, low, high


def _named(**intervals: Interval) -> dict[str, float]:
    return {f"{n}{e}": v for n, i in intervals.items() for e, v in zip(("", "_low", "_high"), i, strict=True)}
