"""The verdict: plain sentences with numbers, computed from the tables and from nothing else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.execution import same_execution
from decodedrift.experiments.compare.folds.answer import OF_TEXT, of_text, unlikely
from decodedrift.experiments.compare.settings import counted
from decodedrift.experiments.compare.verdict import (
    accuracy,
    answer,
    causes,
    certificate,
    checkpoints,
    decomposition,
    deployment,
    hazard,
    injection,
    knobs,
    nonfinite,
    recorded,
    rounding,
    screening,
    where,
)
from decodedrift.measure.nonfinite import TRACE
from decodedrift.measure.tables import STEPPED
from decodedrift.report import failures
from decodedrift.report.phrases import change as _change
from decodedrift.report.phrases import listed as _listed
from decodedrift.report.phrases import number as _number
from decodedrift.report.phrases import percent as _percent
from decodedrift.report.phrases import telling as _telling

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study


FIRST = 3  # sentences that are read at once


def verdict(study: Study) -> list[str]:
    """What the run says, most important first: what broke, what deployment sees besides, the answer, the rest."""
    first = [*_broken(study), *deployment.sentences(study), *recorded.alarms(study)]
    return [*first, *answer.sentences(study), *rest(study), *_failed(study)]


def rest(study: Study) -> list[str]:
    """All that is neither an alarm nor the answer: why texts part, where, how far distributions are, and more."""
    table = study.summary
    candidates = table[table["role"] == "candidate"] if len(table) else table
    if not len(candidates) and not len(study.perplexity):
        return [_nothing(study)]
    same = same_execution(study)  # of which no figure is a finding
    candidates, risk, flip_law = (f[~f["candidate"].isin(same)] for f in (candidates, study.risk, study.flip_law))
    sentences = [*outside(study), *screening.sentences(study), *accuracy.sentences(study)]
    if len(candidates):
        sentences += [*causes.sentences(study), *_divergence(study, candidates), *certificate.floor(study)]
    sentences += hazard.sentences(risk, flip_law)
    sentences += _texts(study)
    sentences += _distributions(candidates) if len(candidates) else []
    sentences += [*injection.sentences(study.injection, study.divergences), *decomposition.sentences(study.steps)]
    sentences += where.sentences(study)
    sentences += [
        *recorded.sentences(study),
        *_cut_ids(study),
        *rounding.sentences(study),
        *checkpoints.sentences(study),
        *knobs.sentences(study),
    ]
    return [*sentences, *_path(study)]


def folded(study: Study) -> tuple[list[str], list[str]]:
    """The verdict in two: what a reader sees at once, in which every alarm is, and what a disclosure may hold."""
    loud = {*alarms(study)}
    sentences = study.verdict
    rest = [s for s in sentences if s not in loud][FIRST:]
    if len(rest) < 2:
        return sentences, []
    return [s for s in sentences if s not in rest], rest


def alarms(study: Study) -> list[str]:
    """What must be read before any figure is: what broke, what deployment would see besides, and what did not run."""
    return [*_broken(study), *deployment.sentences(study), *recorded.alarms(study), *_failed(study)]


def outside(study: Study) -> list[str]:
    """What is more than rounding, and of what other engines wrote who read it and whether it is."""
    return [*recorded.judged(study), *certificate.outside(study), *recorded.rounding(study)]


def _failed(study: Study) -> list[str]:
    """What did not run; logits that are no numbers only where no sentence has told of them already."""
    rows = study.failures
    return failures.sentences(rows[rows["status"] != "nonfinite"] if nonfinite.sentences(study) else rows)


def _broken(study: Study) -> list[str]:
    return [*nonfinite.sentences(study), *_self_control(study)]


def _path(study: Study) -> list[str]:
    """How sequences were read, where that was not the first choice, and who needed it."""
    generation = study.environment.get("generation", {})
    how = {"stock": "over the model's own kind of cache", "plain": "without a cache, each text whole at every step"}
    if generation.get("path") not in how:
        return []
    why = "; ".join(f"{name}, {reason}" for name, reason in generation["path_reasons"].items())
    return [f"All variants were read {how[generation['path']]}. The faster way does not fit {visible(why)}."]


def _nothing(study: Study) -> str:
    """Why there is no row to speak of."""
    ours = study.traces[study.traces["role"] == "reference"]
    if len(ours) and (ours["n_tokens"] == 0).all():
        return "Nothing was compared: the reference broke before its first token in every trace."
    return "Nothing was compared: no candidate finished."


def broken(study: Study) -> bool:
    """Whether the self control failed: on a GPU that it differs is a finding."""
    device = str(study.environment.get("numerical", {}).get("device", "cpu"))
    return device.startswith("cpu") and self_control_broken(study)


def self_control_broken(study: Study) -> bool:
    """Whether the reference differed from itself in any number."""
    rows = study.divergences[study.divergences["role"] == "self"]
    read = _of_self(study)[["logit_gap_max", "kl"]].fillna(0.0) != 0
    return bool((rows["diverged"] == 1).any() or rows["swing"].notna().any() or read.any(axis=None))


def _of_self(study: Study) -> pd.DataFrame:
    positions = study.columns_of("positions", ["role", "logit_gap_max", "kl"])
    return positions[positions["role"] == "self"]


def _self_control(study: Study) -> list[str]:
    if not self_control_broken(study):
        return []
    rows = study.divergences[study.divergences["role"] == "self"]
    numbers = rows[rows["swing"].notna() & (rows["diverged"] != 1)]
    apart = f"{_number(numbers['swing'].max())} ({', '.join(map(visible, numbers['strategy'].unique()))})"
    chosen = f", {len(numbers)} chose equal tokens by numbers up to {apart} apart," if len(numbers) else ""
    meaning = (
        "this CPU run is not reproducible and its figures are not to be trusted"
        if broken(study)
        else "its kernels do not repeat, and every figure below stands on this floor"
    )
    return [
        f"The reference differs from itself: {int(rows['diverged'].sum())} of {len(rows)} repeated traces diverged"
        f"{chosen} and the largest logit difference is {_number(_of_self(study)['logit_gap_max'].max())}; {meaning}."
    ]


def _divergence(study: Study, table: pd.DataFrame) -> list[str]:
    """Which candidates diverged, on how many traces, and where."""
    reference = visible(str(study.plan["reference"]["name"]))
    strategies = table[table["traces"] > 0]["strategy"].nunique()
    head = f"Against {reference} over {study.plan['max_new_tokens']} new tokens"
    head += f" and {strategies} strategies" if strategies > 1 else ""
    parts: dict[Any, str] = {}
    none: list[str] = []
    unread: list[str] = []
    left = "is predicted to leave" if study.plan.get("mode") == "screen" else "left"
    for name, cells in table.groupby("candidate", sort=False):
        diverged, traces = int(cells["diverged"].sum()), int(cells["traces"].sum())
        if not diverged:
            (none if traces else unread).append(f"{visible(str(name))}{f' (0 of {traces})' if traces else ''}")
            continue
        low, high = float(cells["divergence_rate"].min()), float(cells["divergence_rate"].max())
        spread = f"; {_percent(low)} to {_percent(high)} by strategy" if low != high else ""
        at = _diverged(study, str(name))["first_divergence"].astype(float)
        parts[name] = (
            f"{visible(str(name))} {left} it in {diverged} of {traces} traces ({_percent(diverged / traces)}{spread}), "
            f"first at position {at.median():.0f} in the median"
        )
    tail = f"; nothing of {_listed(unread)} could be compared" if unread else ""
    if not parts and not none:
        return [f"{head} nothing could be compared."]
    if not parts:
        return [f"{head} nothing diverged: {_listed(none)}{tail}."]
    rates = {n: c["diverged"].sum() / max(1, c["traces"].sum()) for n, c in table.groupby("candidate", sort=False)}
    tail = (f"; {_listed(none)} never did" if none else "") + tail
    tail += _censored(study)
    return [f"{head}, {'; '.join(_telling(parts, rates))}{tail}."]


def _censored(study: Study) -> str:
    """How many pairs that stayed together did so only until a stop token that both chose, or until a break."""
    rows, ours = study.divergences, study.traces[study.traces["role"] == "reference"]
    stayed = rows[(rows["role"] == "candidate") & (rows["diverged"] == 0)]
    early = stayed[stayed["compared"] < study.plan["max_new_tokens"]]
    ends = early.merge(ours[[*TRACE, "finish"]], on=TRACE, how="left")["finish"] == "nonfinite"
    broken, stopped = int(ends.sum()), int((~ends).sum())
    parts = [f"{stopped} stopped early at the same end"] if stopped else []
    parts += [f"{broken} ended where the reference broke"] if broken else []
    return f"; of the {len(stayed)} pairs that stayed together {_listed(parts)}" if parts else ""


def _distributions(table: pd.DataFrame) -> list[str]:
    """How far the distributions are on the reference's own tokens: a distance, which says nothing of quality."""
    measured = table[table["kl_mean"].notna() | table["top1_agreement"].notna()]
    stepped = measured.get("layout", pd.Series("", index=measured.index)) == STEPPED  # an old table has none
    return [
        *_apart("Reading the reference's own text", measured[~stepped]),
        *_apart("Reading the reference's own text token by token", measured[stepped]),
    ]


def _apart(head: str, measured: pd.DataFrame) -> list[str]:
    """The candidates that were read in one layout."""
    parts, damage = {}, {}
    for name, cells in measured.groupby("candidate", sort=False):
        damage[name] = pooled(cells, "kl_mean")
        parts[name] = (
            f"{visible(str(name))} is at mean KL {_number(damage[name])} nats, the same top token at "
            f"{_percent(pooled(cells, 'top1_agreement'))} of positions"
        )
    if not parts:
        return []
    return [f"{head}, {'; '.join(_telling(parts, damage))}: distances, not quality."]


def _texts(study: Study) -> list[str]:
    """Perplexity on each text that neither side wrote, paired, with its interval."""
    table, sentences = study.perplexity, []
    positions = study.columns_of("positions", OF_TEXT) if len(table) else None
    tool = counted(study.plan)
    manner = tool and f"{tool} in windows of {study.plan['context']}"
    for text, rows in table.groupby("text", sort=False):
        reference = rows.iloc[0]  # its own row is the first of a text
        parts, damage = {}, {}
        for row in rows.iloc[1:].itertuples():
            names = ("ln_ppl_ratio", "ln_ppl_ratio_low", "ln_ppl_ratio_high")
            shares = [np.expm1(getattr(row, name, math.nan)) for name in names]
            lost = unlikely(of_text(positions, str(row.variant), str(text)))
            without = f"has none, with no finite likelihood of {lost} of {row.tokens} tokens"  # not that of the rest
            told = without if lost else _change(*shares)
            parts[row.variant] = f"{visible(str(row.variant))} {told}"
            damage[row.variant] = math.inf if lost or pd.isna(row.ln_ppl_ratio) else abs(row.ln_ppl_ratio)
        sentences.append(
            f"Perplexity on {visible(str(text))}{manner} (reference {_level(reference)}): "
            f"{', '.join(_telling(parts, damage))}.{_dropped(reference)}"
        )
    return sentences


def _level(row: pd.Series) -> str:
    """The perplexity itself, and what a convention has beside it."""
    beside = (("perplexity_se", " +- {}"), ("word_perplexity", ", {} per word"), ("byte_perplexity", ", {} per byte"))
    parts = [form.format(_number(row[name], 4)) for name, form in beside if not pd.isna(row.get(name))]
    return _number(row["perplexity"], 4) + "".join(parts)


def _dropped(row: pd.Series) -> str:
    """What of a text no figure counts: tokens that fill no window, and what the tokenizer made no token of."""
    left, lost = (0 if pd.isna(n := row.get(name)) else int(n) for name in ("dropped_tokens", "dropped_characters"))
    tail = f" Left out is the end that fills no window: {left} token{'s' * (left > 1)}."
    none = f" The tokenizer makes no token of {lost} characters of it: no token and no byte counts them."
    return tail * bool(left) + none * bool(lost)


def _cut_ids(study: Study) -> list[str]:
    """Heads of two widths: how many ids no distance sees, and what probability they hold at most."""
    facts: dict[str, Any] = dict(study.environment.get("variants", {}))
    reference = str(study.plan["reference"]["name"])
    sentences = []
    for name in (str(v["name"]) for v in study.plan.get("candidates", ())):
        cut = facts.get(name, {})
        if not cut.get("cut_ids"):
            continue
        masses = {reference: cut.get("cut_reference_mass", 0.0), name: cut.get("cut_candidate_mass", 0.0)}
        wider = max(masses, key=lambda side: masses[side])
        ids, them = (f"{n} ids, which are", "them") if (n := cut["cut_ids"]) > 1 else ("1 id, which is", "it")
        sentences.append(
            f"The heads of {visible(name)} and {visible(reference)} differ by {ids} cut from every distance; "
            f"{visible(wider)} gives {them} up to {_percent(masses[wider])} of the probability at a position."
        )
    return sentences


def _diverged(study: Study, name: str) -> pd.DataFrame:
    rows = study.divergences
    return rows[(rows["role"] == "candidate") & (rows["candidate"] == name) & (rows["diverged"] == 1)]


def pooled(cells: pd.DataFrame, column: str) -> float:
    """The mean of a column of the summary over strategies, each weighted by its traces."""
    finite = cells[cells[column].notna()]
    weights = finite["traces"] if finite["traces"].any() else finite["traces"] + 1
    return float((finite[column] * weights).sum() / weights.sum()) if len(finite) else math.nan
