"""What the verdict says of compounding: risk per token and its shape, what follows the split, what was foreseeable.

Nothing is told without its evidence: no slope whose interval, for all cells at once, holds none, or from fewer than
LEAST prompts; no shape from fewer than LEAST divergences or that many looks explain, and no half-life or agreement
from fewer either. A range over strategies names those that it leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.folds.compounding import LEAST, PER
from decodedrift.numerics.intervals import for_all
from decodedrift.report.phrases import MOST, listed, number, percent, telling

LEVEL = 0.05  # below which p tells a shape
LATER = ("ended", "compounding_index_p_holm", "growth_length", "agreement_after_low", "agreement_after_high", "prompts")


def sentences(risk: pd.DataFrame, flip_law: pd.DataFrame) -> list[str]:
    """At most three sentences from risk.csv and flip_law.csv, candidates only; none where nothing was generated."""
    table = risk[risk["role"] == "candidate"] if len(risk) else risk
    if not len(table) or not (table["exposure"] > 0).any():
        return []
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *LATER])))
    return [*_hazard(table), *_after(_for_all(table)), *_foreseen(flip_law)]


def _for_all(table: pd.DataFrame) -> pd.DataFrame:
    """With intervals of slopes that hold for all of them at once, and none from fewer than LEAST prompts."""
    value, low, high = (table[f"growth_slope{end}"].astype(float) for end in ("", "_low", "_high"))
    prompts = table["prompts"].astype(float).where(low.notna()).where(lambda n: n >= LEAST)
    half = (high - low) / 2 * for_all(prompts.to_numpy(), int(prompts.notna().sum()))
    return table.assign(growth_slope_low=value - half, growth_slope_high=value + half)


def _hazard(table: pd.DataFrame) -> list[str]:
    parts, size, few = {}, {}, []
    for name, rows in table.groupby("candidate", sort=False):
        cells, label = rows[rows["exposure"] > 0], visible(str(name))
        if not len(cells):
            continue
        size[name] = float(cells["hazard"].max())
        unread = _without(rows, cells, "nothing compared")
        if not size[name]:
            tokens = int(cells["exposure"].sum())
            bound = f"below {percent(min(1.0, 3 / tokens))} (95 %, none in {tokens} tokens, were they independent"
            parts[name] = f"{label} {bound}{unread})"
            continue
        if (cells["diverged"] < LEAST).all():
            few.append(label)
        said = "; ".join((_half(cells), *_shape(cells)))
        parts[name] = f"{label} {_range(cells['hazard'], percent)} ({said}{unread})"
    ends = ", taken as if the ends of texts were unrelated to it" if table["ended"].sum() else ""
    scarce = f"; too few divergences to tell a shape for {_many(few)}" if few else ""
    lead = f"Risk of parting at a token, while two texts are the same{ends}"
    return [f"{lead}: {'; '.join(telling(parts, size))}{scarce}."]


def _many(names: list[str]) -> str:
    return listed(names) if len(names) <= MOST else f"{len(names)} candidates"


def _half(cells: pd.DataFrame) -> str:
    """By when half of the texts have parted, and under which strategies they never do; or how many part, of few."""
    half = cells[cells["half_life"].notna()]
    reached, never = half[half["diverged"] >= LEAST], _rest(cells, half)
    if not len(reached):
        count = f"{int(cells['diverged'].sum())} of {int(cells['traces'].sum())} texts"
        return count if len(half) or (cells["diverged"] < LEAST).all() else f"{count}, nowhere half of them"
    texts = _range(reached["traces"], lambda v: f"{v:.0f}")
    at = f"half of {texts} texts gone by token {_range(reached['half_life'], lambda v: f'{v:.0f}')}"
    where = f" under {_names(reached)}" if len(reached) < len(cells) else ""
    return at + where + (f", never under {_names(never)}" if len(never) else "")


def _shape(cells: pd.DataFrame) -> list[str]:
    """Whether the risk changes along the text, from how many divergences; where it is not shown, what is not excluded.

    As the factor on the risk at twice the length, 2^(k - 1).
    """
    enough = cells[(cells["diverged"] >= LEAST) & cells["compounding_index"].notna()]
    told = enough[enough["compounding_index_p_holm"] < LEVEL]
    parts = []
    for row in told.itertuples():
        kind = "growing with length" if row.compounding_index > 1 else "front-loaded, or prompts of unequal risk"
        factor = _factors([row.compounding_index_low], [row.compounding_index_high])
        where = f" under {visible(str(row.strategy))}" if len(cells) > 1 else ""
        parts.append(f"{kind}{where}: {factor} times at twice the length, {int(row.diverged)} divergences")
    if len(other := _rest(enough, told)):
        factor = _factors([*other["compounding_index_low"], 1.0], [*other["compounding_index_high"], 1.0])
        where = f" under {_names(other)}" if len(other) < len(cells) else ""
        count = _range(other["diverged"], lambda v: f"{v:.0f}")
        parts.append(f"no change with length shown{where} from {count} divergences, {factor} times at twice the length "
                     "not excluded")  # fmt: skip
    rest = _rest(cells, enough)
    for row in rest[rest["diverged"] >= LEAST].itertuples():
        parts.append(f"no shape under {visible(str(row.strategy))}: {row.compounding_note}")
    few = rest[rest["diverged"] < LEAST]
    if 0 < len(few) < len(cells):  # where it is all of them, the sentence ends with it
        parts.append(f"too few divergences under {_names(few)} to tell a shape")
    return parts


def _factors(low: Iterable[float], high: Iterable[float]) -> str:
    """The risk at twice the length over the risk, from the least to the greatest shape k."""
    least, most = min(low), max(high)
    end = "any number of" if math.isinf(most) else number(2 ** (most - 1))
    return f"{number(2 ** (least - 1))} to {end}"


def _after(table: pd.DataFrame) -> list[str]:
    """Agreement after the split beside chance, and how the forced error changes along a text."""
    agree, grow = {}, {}
    for name, rows in table.groupby("candidate", sort=False):
        cells, label = rows[rows["exposure"] > 0], visible(str(name))
        known = cells[cells["agreement_after_low"].notna() & (cells["diverged"] >= LEAST)]
        if len(known):
            ends = _span(known["agreement_after_low"], known["agreement_after_high"], percent)
            texts, chance = (_range(known[c], show) for c, show in (("diverged", "{:.0f}".format),
                                                                   ("agreement_chance", percent)))  # fmt: skip
            share = (
                f"{_range(known['agreement_after'], percent)} for {label} ({ends}, {texts} texts; {chance} by chance"
            )
            agree[name] = f"{share}{_without(cells, known, 'too few texts')})"
        apart = (cells["growth_slope_low"] > 0) | (cells["growth_slope_high"] < 0)
        shown = cells[apart & cells["growth_length"].notna()]
        if len(shown):
            tokens = min(PER, int(shown["growth_length"].min()))
            value, low, high = (10 ** (shown[f"growth_slope{e}"] * tokens / PER) - 1 for e in ("", "_low", "_high"))
            prompts = _range(shown["prompts"], "{:.0f}".format)
            rest = _without(cells, shown, "none shown")
            grow[name] = (
                f"{_range(value, _signed)} over {tokens} tokens for {label} ({_span(low, high, _signed)}, {prompts} "
                f"prompts{rest})"
            )
    parts = []
    if agree:
        parts.append(f"at the same place after the split the tokens agree in {listed(telling(agree, _ranks(agree)))}")
    if grow:
        parts.append(f"along one text the logit error changes by {listed(telling(grow, _ranks(grow)))}")
    text = "; ".join(parts)
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _signed(share: float) -> str:
    """A relative change in per cent."""
    return f"{share * 100:+.0f} %" if abs(share) >= 0.1 else f"{share * 100:+.2g} %"


def _foreseen(flip_law: pd.DataFrame) -> list[str]:
    law = flip_law[flip_law["law"] == "empirical"]
    rows = law[law["flips_predicted"].notna()]
    parts, size = {}, {}
    for name, cells in rows.groupby("candidate", sort=False):
        size[name] = float(cells["flips"].sum())
        left = _without(law[law["candidate"] == name], cells, "none foretold")
        came = f"({size[name]:.0f} came{left})"
        parts[name] = f"{cells['flips_predicted'].sum():.0f} for {visible(str(name))} {came}"
    if not parts:
        return []
    return [
        f"From margins along the text and the errors of other prompts alone, divergences expected: "
        f"{listed(telling(parts, size))}; the predicted survival curve is off by at most "
        f"{number(float(rows['km_distance'].max()))}."
    ]


def _rest(cells: pd.DataFrame, part: pd.DataFrame) -> pd.DataFrame:
    return cells[~cells["strategy"].isin(part["strategy"])]


def _without(cells: pd.DataFrame, part: pd.DataFrame, why: str) -> str:
    """The strategies of which a figure does not speak, `; WHY under NAMES`; nothing where there are none."""
    rest = _rest(cells, part)
    return f"; {why} under {_names(rest)}" if len(rest) else ""


def _names(cells: pd.DataFrame) -> str:
    return listed(visible(str(name)) for name in cells["strategy"])


def _range(values: pd.Series, show: Callable[[float], str]) -> str:
    """The least and the greatest of known values in words, one where they read alike."""
    low, high = show(float(values.min())), show(float(values.max()))
    return low if low == high else f"{low.removesuffix(' %') if high.endswith(' %') else low} to {high}"


def _span(low: pd.Series, high: pd.Series, show: Callable[[float], str]) -> str:
    """From the least of the lower ends to the greatest of the upper ones."""
    return f"{show(float(low.min())).removesuffix(' %')} to {show(float(high.max()))}"


def _ranks(parts: dict[Any, str]) -> dict[Any, float]:
    """In the order they came: there is no worst here."""
    return {name: -float(place) for place, name in enumerate(parts)}
