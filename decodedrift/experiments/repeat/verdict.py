"""The verdict of `repeat`: which source of variation moved which variant, and before it what a control says."""

from __future__ import annotations

from typing import Any

import pandas as pd

from decodedrift.core.records import RECORDED
from decodedrift.core.untrusted import visible
from decodedrift.experiments.repeat.varying import BY_TEXT, CONTROL, RERUN, name_of, varies
from decodedrift.report import failures
from decodedrift.report.phrases import MOST, listed, number, percent


def verdict(study: Any) -> list[str]:
    """Controls that failed, a sentence per variant and strategy, the control that passed, and what failed to run."""
    alarms, passed = controls(study)
    moved = [sentence(study, *key) for key in cells(study)]
    besides = [*routes(study), *longer(study), *wordwise(study), *passed]
    return [*alarms, *moved, *besides, *failures.sentences(study.failures)]


def broken(study: Any) -> bool:
    """Whether a control failed."""
    return bool(controls(study)[0])


def cells(study: Any) -> list[tuple[str, str]]:
    """(variant, strategy) of everything that was repeated, the control aside."""
    rows = study.summary[study.summary["vary"] != CONTROL]
    return list(dict.fromkeys(zip(rows["variant"], rows["strategy"], strict=True)))


def controls(study: Any) -> tuple[list[str], list[str]]:
    """What of the controls failed, and what they showed otherwise."""
    rows = study.summary
    alarms = []
    for row in rows[(rows["vary"] == RERUN) & ((rows["unique_most"] > 1) | (rows["bit_equal"] < 1))].itertuples():
        if device(study, row.variant) == "cpu":
            several = f"up to {row.unique_most:.0f} texts" if row.unique_most > 1 else "other logits"
            alarms.append(
                f"A control failed: {visible(row.variant)}, {visible(row.strategy)}, run again with nothing changed "
                f"gives {several} on a CPU, where it must give the same to the bit; what is told of the other sources "
                "cannot be told from that."
            )
    other = rows[rows["vary"] == CONTROL]
    if not len(other):
        return alarms, []
    row = next(other.itertuples())
    if row.unique_most <= 1:
        alarms.append(
            "A control failed: other seeds at temperature 1 wrote the same texts too, so that nothing here shows that "
            "a difference would have been seen; ask for more tokens."
        )
        return alarms, []
    said = f"Control: {row.runs:.0f} other seeds at temperature 1 write {number(row.unique, 3)} texts a prompt."
    return alarms, [said]


def sentence(study: Any, variant: str, strategy: str) -> str:
    """One variant and strategy: each source in turn."""
    rows = study.summary
    rows = rows[(rows["variant"] == variant) & (rows["strategy"] == strategy)].set_index("vary")
    parts = []
    recorded = side(study, variant)["precision"] == RECORDED
    for label in (label for label in study.plan["vary"] if varies(label, recorded)):
        if label in rows.index:
            row = rows.loc[label]
            parts.append(f"{label}: {moved(study, row, variant, label)}{told(study, row, variant, label)}")
        else:
            parts.append(f"{label}: did not run")
    facts = study.environment.get("variants", {}).get(variant, {})
    kind = "runs elsewhere" if recorded else "mixture of experts" if facts.get("experts") else "dense"
    return f"{visible(variant)} ({kind}), {visible(strategy)}: {'; '.join(parts)}."


def moved(study: Any, row: pd.Series, variant: str, label: str) -> str:
    """What one source did."""
    runs, texts = int(row["runs"]), int(row["texts"])
    what = "prompts" if row["texts"] == row["prompts"] else "prompts and seeds"
    if row["unique_most"] > 1:
        differ = round(texts * row["div_percent"] / 100)
        where = "" if pd.isna(row["div_index"]) else f", from token {number(row['div_index'], 3)} on"
        return (
            f"{differ} of {texts} {what} differ, on average {number(row['unique'], 3)} texts in {runs} runs, at most "
            f"{row['unique_most']:.0f}{where}"
        )
    if runs < 2:
        return "one run only, which shows nothing"
    must = ", as it must be on a CPU" if name_of(label) == RERUN and device(study, variant) == "cpu" else ""
    if pd.isna(row["bit_equal"]):
        return f"identical in {runs} runs"
    if row["bit_equal"] == 1:
        return f"identical to the bit in {runs} runs{must}"
    groups, share = number(row["bit_unique"], 3), percent(row["bit_equal"])
    return f"identical in {runs} runs, though from {groups} different sets of logits, {share} of the runs from one"


def device(study: Any, variant: str) -> str:
    """The kind of device that a variant ran on; empty where that is not known."""
    ran = side(study, variant)
    return "" if ran["precision"] == RECORDED else str(ran.get("device") or study.plan["device"]).partition(":")[0]


def side(study: Any, variant: str) -> dict[str, Any]:
    """A variant as the plan has it."""
    return next(v for v in (study.plan["reference"], *study.plan["candidates"]) if v["name"] == variant)


def told(study: Any, row: pd.Series, variant: str, label: str) -> str:
    """What a limit dropped, and how large the noise of another order is; empty of all else."""
    facts = study.environment.get("variants", {}).get(variant, {})
    if name_of(label) == "capacity":
        factor = f"{float(label.rpartition('=')[2]) if '=' in label else 1.0:g}"
        limit = facts.get("capacity", {}).get(factor, {})
        if not limit.get("dropped"):
            return " (the limit dropped nothing)"
        return f" (the limit dropped {percent(limit['dropped'] / limit['choices'])} of the choices)"
    if name_of(label) == "summation" and not pd.isna(row["reorder_ratio"]):
        return f" (noise {number(row['reorder_ratio'])} times the rounding error)"
    return ""


def routes(study: Any) -> list[str]:
    """A sentence per candidate of a mixture: how many tokens take other experts, and what that makes of the shift."""
    table = study.routing
    lines = []
    for (candidate, strategy), part in table[table["layer"] == "all"].groupby(["candidate", "strategy"], sort=False):
        weights = part["tokens"].to_numpy(dtype=float)
        changed = float((part["changed"] * weights).sum() / weights.sum())
        shift, left = ((part[c] * weights).sum() for c in ("kl", "kl_replayed"))
        replayed = shift > 0 and changed > 0  # with equal choices there is nothing to replay
        share = f"; with its experts the KL to it is {percent(1 - left / shift)} smaller" if replayed else ""
        lines.append(
            f"{visible(str(candidate))}, {visible(str(strategy))}: {percent(changed)} of the reference's tokens take "
            f"other experts in some layer{share}."
        )
    return lines


def wordwise(study: Any) -> list[str]:
    """Whose texts are told apart as texts."""
    names = dict.fromkeys(study.unique.loc[study.unique["compared_by"] == BY_TEXT, "variant"])
    return [
        f"{visible(name)} tells no token ids: texts are compared as they are, not by length, not for loops."
        for name in names
    ]


def longer(study: Any) -> list[str]:
    """How the count grows with the length, where it does."""
    table = study.by_length
    parts = []
    for (variant, vary, _), cell in table[table["vary"] != CONTROL].groupby(
        ["variant", "vary", "strategy"], sort=False
    ):
        half = cell[cell["length"] <= cell["length"].max() / 2]
        if len(half) and cell["unique"].iloc[-1] > half["unique"].iloc[-1]:
            at, end = half.iloc[-1], cell.iloc[-1]
            parts.append(
                f"{visible(variant)} {vary} {number(at['unique'], 3)} at {at['length']:.0f} tokens and "
                f"{number(end['unique'], 3)} at {end['length']:.0f}"
            )
    return [f"Different texts grow with the length: {listed(parts[:MOST])}."] if parts else []
