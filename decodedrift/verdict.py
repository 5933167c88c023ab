"""The verdict: three to eight plain sentences with numbers, computed from the tables and from nothing else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift import decomposition, risk, trajectory
from decodedrift.phrases import change as _change
from decodedrift.phrases import listed as _listed
from decodedrift.phrases import number as _number
from decodedrift.phrases import percent as _percent
from decodedrift.phrases import telling as _telling
from decodedrift.sinks import visible

if TYPE_CHECKING:
    from decodedrift.study import Study


FIRST = 3  # sentences that are read at once
VANISHING = 1e-20  # nats; a float64 floor is nothing to speak of


def verdict(study: Study) -> list[str]:
    """What the run says, most important first: a broken control, divergence, causes, floor, quality, failures."""
    table = study.summary
    candidates = table[table["role"] == "candidate"] if len(table) else table
    sentences = [*_self_control(study), *_screening(study)]
    if len(candidates):
        sentences += _divergence(study, candidates)
        sentences += _causes(study)
        sentences += _floor(table, candidates)
        sentences += _forced(candidates)
    sentences += risk.said(study.risk, study.flip_law)
    sentences += [*trajectory.said(study.injection), *decomposition.said(study.steps)]
    sentences += _texts(study)
    sentences += _rounds_nothing(study)
    failures = _failures(study)
    nothing = [] if len(candidates) or len(study.perplexity) else ["Nothing was compared: no candidate finished."]
    return [*failures, *nothing] if nothing else [*sentences, *failures]


def folded(study: Study) -> tuple[list[str], list[str]]:
    """The verdict in two: what a reader sees at once, in which every alarm is, and what a disclosure may hold."""
    alarms = {*_self_control(study), *_failures(study)}
    said = study.verdict
    rest = [s for s in said if s not in alarms][FIRST:]
    if len(rest) < 2:
        return said, []
    return [s for s in said if s not in rest], rest


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


def _screening(study: Study) -> list[str]:
    """That nothing was generated, and how far what was predicted instead can be off."""
    if study.plan.get("mode") != "screen":
        return []
    rows = study.divergences
    own = rows[(rows["role"] == "floor") & (rows["reference"] == study.plan["reference"]["name"])]
    said = "Screened, not generated: a first divergence is the first token of the reference's text that a candidate, "
    said += "reading it, would not have chosen" + ("; behind it, it wrote on" if study.plan.get("continued") else "")
    if not len(own):
        return [f"{said}."]
    off = int(own["diverged"].sum())
    return [
        f"{said}. The reference, reading, leaves its own text in {off} of {len(own)} traces; types that round more are "
        "off more often."
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
    """Which candidates diverged, on how many traces, and where."""
    reference = visible(str(study.plan["reference"]["name"]))
    strategies = table["strategy"].nunique()
    head = f"Against {reference} over {study.plan['max_new_tokens']} new tokens"
    head += f" and {strategies} strategies" if strategies > 1 else ""
    parts, none = {}, []
    left = "is predicted to leave" if study.plan.get("mode") == "screen" else "left"
    for name, cells in table.groupby("candidate", sort=False):
        diverged, traces = int(cells["diverged"].sum()), int(cells["traces"].sum())
        if not diverged:
            none.append(f"{visible(str(name))} (0 of {traces})")
            continue
        low, high = float(cells["divergence_rate"].min()), float(cells["divergence_rate"].max())
        spread = f"; {_percent(low)} to {_percent(high)} by strategy" if low != high else ""
        at = _diverged(study, str(name))["first_divergence"].astype(float)
        parts[name] = (
            f"{visible(str(name))} {left} it in {diverged} of {traces} traces ({_percent(diverged / traces)}{spread}), "
            f"first at position {at.median():.0f} in the median"
        )
    if not parts:
        prompts = int(table["prompts"].max())
        return [
            f"{head} nothing diverged: {_listed(none)}; {prompts} prompts cannot exclude a true rate of up to "
            f"{_percent(min(1.0, 3 / prompts))} of prompts (95 %, rule of three)."
        ]
    rates = {n: c["diverged"].sum() / c["traces"].sum() for n, c in table.groupby("candidate", sort=False)}
    tail = f"; {_listed(none)} never did" if none else ""
    tail += _censored(study)
    return [f"{head}, {'; '.join(_telling(parts, rates))}{tail}."]


def _censored(study: Study) -> str:
    """How many pairs that stayed together did so only until a stop token that both chose."""
    rows = study.divergences
    stayed = rows[(rows["role"] == "candidate") & (rows["diverged"] == 0)]
    early = int((stayed["compared"] < study.plan["max_new_tokens"]).sum())
    return f"; of the {len(stayed)} pairs that stayed together {early} stopped early at the same end" if early else ""


def _causes(study: Study) -> list[str]:
    """How close the reference itself was between the two tokens: per candidate, single tokens only."""
    parts, shares = {}, {}
    ties = 0
    for name in study.summary[study.summary["role"] == "candidate"]["candidate"].unique():
        rows = _diverged(study, str(name))
        rows = rows[rows["cause"].isin(["near_tie", "shift", "truncation"])]
        if len(rows):
            near = int((rows["cause"] == "near_tie").sum())
            parts[name] = (
                f"{near} of {len(rows)} for {visible(str(name))} (median gap {_number(rows['reference_gap'].median())})"
            )
            shares[name] = -near / len(rows)
            ties += int((rows["candidate_gap"] == 0).sum())
    sentences = []
    if parts:
        tied = f"; {ties} turned on an exact tie of the candidate's logits" if ties else ""
        below = study.plan["near_tie_below"]
        sentences.append(
            f"Near ties, where the reference itself held the two tokens within {below:g} nats, make up "
            f"{', '.join(_telling(parts, shares))} of the divergences of single tokens{tied}."
        )
    if (study.divergences["cause"] == "uncoupled").any():
        sentences.append("Sampling was not coupled, so sampled traces may part by the luck of the draw alone.")
    return sentences


def _floor(table: pd.DataFrame, candidates: pd.DataFrame) -> list[str]:
    floor = table[table["role"] == "floor"]
    parts = {}
    for name, cells in floor.groupby("reference", sort=False):
        mine = candidates[candidates["candidate"] == name]
        if not (cells["kl_mean"] > VANISHING).any():
            continue
        own, shift = _pooled(cells, "kl_mean"), _pooled(mine, "kl_mean") if len(mine) else math.nan
        share = f", {_percent(own / shift)} of the KL to the reference" if shift > 0 else ""
        parted, traces = int(cells["diverged"].sum()), int(cells["traces"].sum())
        parts[name] = (
            f"{visible(str(name))} leaves its own text in {parted} of {traces} traces (mean KL {_number(own)}{share})"
        )
    return (
        [f"Noise floor, a type against itself in another batch layout: {'; '.join(parts.values())}."] if parts else []
    )


def _forced(table: pd.DataFrame) -> list[str]:
    """What the distributions say along the reference's own tokens, with the caveat that belongs to them."""
    parts, damage = {}, {}
    for name, cells in table.groupby("candidate", sort=False):
        damage[name] = _pooled(cells, "kl_mean")
        same, change = _percent(_pooled(cells, "top1_agreement")), _change(_pooled(cells, "ln_ppl_ratio"))
        parts[name] = (
            f"{visible(str(name))} is at mean KL {_number(damage[name])} nats, the same top token at {same} of "
            f"positions, perplexity {change}"
        )
    return [f"Reading the reference's own text, {'; '.join(_telling(parts, damage))}. KL ranks damage, not quality."]


def _texts(study: Study) -> list[str]:
    """Perplexity on the given texts, paired, with its error."""
    table, sentences = study.perplexity, []
    for text, rows in table.groupby("text", sort=False):
        reference = rows[rows["ln_ppl_ratio"].isna()]
        parts, damage = {}, {}
        for row in rows[rows["ln_ppl_ratio"].notna()].itertuples():
            error = f" ± {1.96 * row.ln_ppl_ratio_se * 100:.2g}" if pd.notna(row.ln_ppl_ratio_se) else ""
            parts[row.variant] = f"{visible(str(row.variant))} {_change(row.ln_ppl_ratio)[:-2]}{error} %"
            damage[row.variant] = abs(row.ln_ppl_ratio)
        base = f" (reference {reference['perplexity'].iloc[0]:.4g})" if len(reference) else ""
        sentences.append(f"Perplexity on {visible(str(text))}{base}: {', '.join(_telling(parts, damage))}.")
    return sentences


def _rounds_nothing(study: Study) -> list[str]:
    """A bf16 checkpoint under bf16 rounds no weight: what differs is arithmetic alone."""
    facts: dict[str, Any] = dict(study.environment.get("variants", {}))
    names = [
        visible(str(v["name"]))
        for v in study.plan["candidates"]
        if v["precision"] == v["compute"] and not v["model"] and facts.get(v["name"], {}).get("rounded_share") == 0.0
        and v["compute"] in ("bf16", "fp16") and v["compute"] != study.plan["reference"]["compute"]
    ]  # fmt: skip
    if not names:
        return []
    return [f"No weight of this checkpoint is rounded under {_listed(names)}; what differs there is the arithmetic."]


def _diverged(study: Study, name: str) -> pd.DataFrame:
    rows = study.divergences
    return rows[(rows["role"] == "candidate") & (rows["candidate"] == name) & (rows["diverged"] == 1)]


def _pooled(cells: pd.DataFrame, column: str) -> float:
    """The mean over strategies, each weighted by its traces."""
    known = cells[cells[column].notna()]
    return float((known[column] * known["traces"]).sum() / known["traces"].sum()) if len(known) else math.nan
