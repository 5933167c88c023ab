"""What the verdict says of compounding: risk per token and its shape, what follows the split, what was foreseeable."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.report.phrases import listed, number, percent, telling

SHAPES = {
    "constant": "constant",
    "open": "too few divergences to tell a shape",
    "grows": "growing with length",
    "front": "front-loaded, or prompts of unequal risk",
}
TIGHT = (0.5, 2.0)  # an interval of k around 1 that is wider tells nothing, least of all that the risk is constant


def sentences(risk: pd.DataFrame, flip_law: pd.DataFrame) -> list[str]:
    """At most three sentences from risk.csv and flip_law.csv, candidates only; none where nothing was generated."""
    table = risk[(risk["role"] == "candidate") & (risk["exposure"] > 0)] if len(risk) else risk
    return [*_hazard(table), *_after(table), *_foreseen(flip_law)] if len(table) else []


def _hazard(table: pd.DataFrame) -> list[str]:
    parts, size = {}, {}
    for name, cells in table.groupby("candidate", sort=False):
        size[name] = float(cells["hazard"].max())
        parted = cells[cells["diverged"] > 0]
        if not len(parted):
            tokens = int(cells["exposure"].sum())
            parts[name] = (
                f"{visible(str(name))} below {percent(min(1.0, 3 / tokens))} (95 %, none in {tokens} tokens, were they "
                "independent)"
            )
            continue
        half = _range(parted["half_life"], lambda v: f"{v:.0f}")
        gone = (
            f"; half of the texts gone by token {half}" if half else "; over half of the texts still with it at the end"
        )
        parts[name] = f"{visible(str(name))} {_range(parted['hazard'], percent)} ({_shape(parted)}{gone})"
    return [f"Risk of the first divergence at a token: {'; '.join(telling(parts, size))}."]


def _shape(cells: pd.DataFrame) -> str:
    """Constant, growing or front-loaded, by the interval of k; each strategy that differs is named."""
    shaped = cells[cells["compounding_index"].notna()]
    if not len(shaped):
        return f"shape n/a: {cells['compounding_note'].iloc[0]}"
    kinds: dict[str, list[str]] = {}
    for row in shaped.itertuples():
        low, high = row.compounding_index_low, row.compounding_index_high
        tight = TIGHT[0] <= low and high <= TIGHT[1]
        kind = "grows" if low > 1 else "front" if high < 1 else "constant" if tight else "open"
        kinds.setdefault(kind, []).append(f"{visible(str(row.strategy))}, k = {_k(row)}")
    if len(shaped) == 1:
        return f"{SHAPES[next(iter(kinds))]}: k = {_k(next(shaped.itertuples()))}"
    if len(kinds) == 1 and (kind := next(iter(kinds))) in ("constant", "open"):
        values = _range(shaped["compounding_index"], number)
        return f"{SHAPES[kind]}: k = {values}, 1 within every interval"
    named = [kind for kind in kinds if kind in ("grows", "front")] or list(kinds)
    return "; ".join(f"{SHAPES[kind]} under {' and '.join(kinds[kind])}" for kind in named)


def _k(row: object) -> str:
    low, high = row.compounding_index_low, row.compounding_index_high  # type: ignore[attr-defined]
    end = "no bound" if math.isinf(high) else number(high)
    return f"{number(row.compounding_index)}, {number(low)} to {end}"  # type: ignore[attr-defined]


def _after(table: pd.DataFrame) -> list[str]:
    """Agreement after the split beside chance, and how the forced error changes along a text."""
    agree, grow = {}, {}
    for name, cells in table.groupby("candidate", sort=False):
        if (share := _range(cells["agreement_after"], percent)) is not None:
            chance = _range(cells["agreement_chance"], percent)
            agree[name] = f"{share} for {visible(str(name))} ({chance} by chance)"
        if (factor := _range(10 ** cells["growth_slope"] - 1, _signed)) is not None:
            none = ((cells["growth_slope_low"] < 0) & (cells["growth_slope_high"] > 0)).all()
            grow[name] = f"{factor} for {visible(str(name))}{', which is within error of none' if none else ''}"
    parts = []
    if agree:
        parts.append(f"at the same place after the split the tokens agree in {listed(telling(agree, _ranks(agree)))}")
    if grow:
        parts.append(f"along one text the logit error changes per 100 tokens by {listed(telling(grow, _ranks(grow)))}")
    text = "; ".join(parts)
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _signed(share: float) -> str:
    """A relative change in per cent."""
    return f"{share * 100:+.0f} %" if abs(share) >= 0.1 else f"{share * 100:+.2g} %"


def _foreseen(flip_law: pd.DataFrame) -> list[str]:
    rows = flip_law[flip_law["law"] == "empirical"]
    rows = rows[rows["flips_predicted"].notna()]
    parts, size = {}, {}
    for name, cells in rows.groupby("candidate", sort=False):
        size[name] = float(cells["flips"].sum())
        parts[name] = f"{cells['flips_predicted'].sum():.0f} for {visible(str(name))} ({size[name]:.0f} came)"
    if not parts:
        return []
    return [
        f"From forced margins and the errors of other prompts alone, divergences expected: "
        f"{listed(telling(parts, size))}; the predicted survival curve is off by at most "
        f"{number(float(rows['km_distance'].max()))}."
    ]


def _range(values: pd.Series, show: Callable[[float], str]) -> str | None:
    """The least and the greatest known value in words, one where they read alike; None where none is known."""
    finite = values.dropna()
    if not len(finite):
        return None
    low, high = show(float(finite.min())), show(float(finite.max()))
    return low if low == high else f"{low.removesuffix(' %') if high.endswith(' %') else low} to {high}"


def _ranks(parts: dict[str, str]) -> dict[str, float]:
    """In the order they came: there is no worst here."""
    return {name: -float(place) for place, name in enumerate(parts)}
