"""The verdict: three to six plain sentences with numbers, computed from the tables and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.sinks import visible

if TYPE_CHECKING:
    from decodedrift.study import Study


def verdict(study: Study) -> list[str]:
    """What the run says, most important first: broken controls, failures, divergence, causes, floor, perplexity."""
    table = study.summary
    candidates = table[table["role"] == "candidate"] if len(table) else table
    sentences = [*_self_control(study), *_failures(study)]
    if len(candidates):
        sentences += _divergence(study, candidates)
        sentences += _causes(study)
        sentences += _floor(table, candidates)
        sentences += _quality(study, candidates)
        sentences += _rounds_nothing(study)
    elif len(study.perplexity):
        sentences += _texts(study.perplexity)
    return sentences or ["Nothing was compared: no candidate finished."]


def self_control_broken(study: Study) -> bool:
    """Whether the reference differed from itself in any number."""
    rows = study.divergences[study.divergences["role"] == "self"]
    forced = study.positions[study.positions["role"] == "self"]
    differs = (forced[["logit_gap_max", "kl"]].fillna(0.0) != 0).any(axis=None)
    return bool((rows["diverged"] == 1).any() or differs)


def _self_control(study: Study) -> list[str]:
    if not self_control_broken(study):
        return []
    rows = study.divergences[study.divergences["role"] == "self"]
    forced = study.positions[study.positions["role"] == "self"]
    device = str(study.environment.get("numerical", {}).get("device", "cpu"))
    meaning = (
        "this CPU run is not reproducible and its figures are not to be trusted"
        if device.startswith("cpu")
        else "its kernels do not repeat, and every figure below stands on this floor"
    )
    return [
        f"The reference differs from itself: {int(rows['diverged'].sum())} of {len(rows)} repeated traces diverged and "
        f"the largest logit difference is {_number(forced['logit_gap_max'].max())}; {meaning}."
    ]


def _failures(study: Study) -> list[str]:
    failed = study.failures
    if not len(failed):
        return []
    parts = []
    for variant, rows in failed.groupby("variant", sort=False):
        kinds = sorted(set(rows["status"]))
        where = _listed(s for s in dict.fromkeys(rows["strategy"]) if isinstance(s, str) and s)
        parts.append(f"{visible(str(variant)) or 'prompts'} ({', '.join(kinds)}{' under ' + where if where else ''})")
    return [f"Not everything ran: {_listed(parts)}; failures.csv says why, and nothing failed is averaged in."]


def _divergence(study: Study, table: pd.DataFrame) -> list[str]:
    """Which candidates diverged, on how many, and where."""
    reference = visible(str(study.plan["reference"]["name"]))
    horizon = study.plan["max_new_tokens"]
    parts, none = [], []
    for name, cells in table.groupby("candidate", sort=False):
        diverged, traces = int(cells["diverged"].sum()), int(cells["traces"].sum())
        rows = study.divergences
        mine = rows[(rows["role"] == "candidate") & (rows["candidate"] == name) & (rows["diverged"] == 1)]
        if not diverged:
            none.append(f"{visible(str(name))} (0 of {traces})")
            continue
        low, high = _range(cells, "divergence_rate")
        spread = f", {_percent(low)} to {_percent(high)} by strategy" if len(cells) > 1 and low != high else ""
        at = mine["first_divergence"].astype(float)
        parts.append(
            f"{visible(str(name))} left it in {diverged} of {traces} traces ({_percent(diverged / traces)}{spread}), "
            f"in the median at token {at.median():.0f}"
        )
    head = f"Against {reference} over {horizon} new tokens"
    if not parts:
        bound = 3 / max(1, int(table.groupby("candidate")["prompts"].max().max()))
        return [
            f"{head} nothing diverged: {_listed(none)}; with so many prompts a true rate of up to "
            f"{_percent(min(1.0, bound))} per prompt could still go unseen (95 %)."
        ]
    tail = f"; {_listed(none)} never did" if none else ""
    return [f"{head}, {'; '.join(parts)}{tail}."]


def _causes(study: Study) -> list[str]:
    rows = study.divergences
    parted = rows[(rows["role"] == "candidate") & (rows["diverged"] == 1)]
    if not len(parted):
        return []
    below = study.plan["near_tie_below"]
    gapped = parted[~parted["cause"].isin(["search", "uncoupled", "nonfinite"])]
    sentences = []
    if len(gapped):
        near = int((gapped["cause"] == "near_tie").sum())
        gap = gapped["reference_gap"].dropna()
        swing = gapped["swing"].dropna()
        text = (
            f"{near} of the {len(gapped)} divergences of single tokens ({_percent(near / len(gapped))}) "
            f"were near ties, where the reference held the two tokens within {below:g} nats"
        )
        if len(gap):
            text += (
                f"; the median gap was {_number(gap.median())} and the error that turned it {_number(swing.median())}"
            )
        sentences.append(text + ".")
    if (parted["cause"] == "uncoupled").any():
        sentences.append("Sampling was not coupled, so sampled traces may part by chance of the batch layout alone.")
    return sentences


def _floor(table: pd.DataFrame, candidates: pd.DataFrame) -> list[str]:
    floor = table[table["role"] == "floor"]
    if not len(floor):
        return []
    parts = []
    for name, cells in floor.groupby("reference", sort=False):
        mine = candidates[candidates["candidate"] == name]
        if len(mine):
            own, shift = _pooled(cells, "kl_mean"), _pooled(mine, "kl_mean")
            ratio = f" ({_percent(own / shift)} of its distance to the reference)" if shift and shift > 0 else ""
            parts.append(
                f"{visible(str(name))} against itself in another batch layout diverges in "
                f"{_percent(cells['diverged'].sum() / cells['traces'].sum())} of traces, mean KL {_number(own)}{ratio}"
            )
    return [f"Noise floor: {'; '.join(parts)}."] if parts else []


def _quality(study: Study, table: pd.DataFrame) -> list[str]:
    """What the forced distributions and perplexity say, with the caveat that belongs to them."""
    parts = []
    for name, cells in table.groupby("candidate", sort=False):
        kl = _pooled(cells, "kl_mean")
        same = float((cells["top1_agreement"] * cells["traces"]).sum() / cells["traces"].sum())
        text = (
            _perplexity_of(study.perplexity, str(name))
            or f"perplexity x{_number(math.exp(_pooled(cells, 'ln_ppl_ratio')))}"
        )
        parts.append(f"{visible(str(name))} mean KL {_number(kl)} nats, same top token {_percent(same)}, {text}")
    where = (
        "on the reference's own text"
        if not len(study.perplexity)
        else "on the reference's own text and the given texts"
    )
    return [f"Reading along {where}: {'; '.join(parts)}. KL ranks damage, not quality."]


def _perplexity_of(table: pd.DataFrame, name: str) -> str:
    rows = table[(table["variant"] == name) & table["ln_ppl_ratio"].notna()] if len(table) else table
    parts = []
    for row in rows.itertuples():
        error = f" ± {1.96 * row.ln_ppl_ratio_se * 100:.2g} %" if pd.notna(row.ln_ppl_ratio_se) else ""
        change = (math.exp(row.ln_ppl_ratio) - 1) * 100
        parts.append(f"perplexity {change:+.3g} %{error} on {visible(str(row.text))}")
    return _listed(parts)


def _texts(table: pd.DataFrame) -> list[str]:
    parts = [f"{visible(str(r.variant))} {r.perplexity:.4g} on {visible(str(r.text))}" for r in table.itertuples()]
    return [f"Perplexity: {_listed(parts)}."]


def _rounds_nothing(study: Study) -> list[str]:
    """A bf16 checkpoint under bf16 rounds no weight: what differs is arithmetic alone."""
    facts: dict[str, Any] = dict(study.environment.get("variants", {}))
    names = [
        visible(str(v["name"]))
        for v in study.plan["candidates"]
        if v["precision"] == v["compute"] and not v["model"] and facts.get(v["name"], {}).get("rounded_share") == 0.0
        and v["compute"] != study.plan["reference"]["compute"]
    ]  # fmt: skip
    if not names:
        return []
    return [f"{_listed(names)} rounds no weights of this checkpoint at all; what differs there is the arithmetic."]


def _pooled(cells: pd.DataFrame, column: str) -> float:
    known = cells[cells[column].notna()]
    return float((known[column] * known["traces"]).sum() / known["traces"].sum()) if len(known) else math.nan


def _range(cells: pd.DataFrame, column: str) -> tuple[float, float]:
    return float(cells[column].min()), float(cells[column].max())


def _number(value: float) -> str:
    return "n/a" if value is None or pd.isna(value) else f"{value:.3g}"


def _percent(share: float) -> str:
    if pd.isna(share):
        return "n/a"
    return f"{share * 100:.0f} %" if share in (0.0, 1.0) or share >= 0.1 else f"{share * 100:.2g} %"


def _listed(parts: Iterable[str]) -> str:
    items = list(parts)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else ""
