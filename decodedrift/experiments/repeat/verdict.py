"""The verdict of `repeat`: which source of variation moved which variant, and before it what a control says."""

from __future__ import annotations

from typing import Any

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.experiments.repeat.varying import CONTROL, RERUN, name_of
from decodedrift.report import failures
from decodedrift.report.phrases import listed, number, percent


def verdict(study: Any) -> list[str]:
    """Controls that failed, a sentence per variant and strategy, the control that passed, and what failed to run."""
    alarms, passed = controls(study)
    moved = [sentence(study, *key) for key in cells(study)]
    return [*alarms, *moved, *passed, *failures.sentences(study.failures)]


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
    for row in rows[(rows["vary"] == RERUN) & (rows["unique_most"] > 1)].itertuples():
        if device(study, row.variant) == "cpu":
            alarms.append(
                f"A control failed: {visible(row.variant)}, {visible(row.strategy)}, run again with nothing changed "
                f"gives up to {row.unique_most:.0f} texts on a CPU, where it must give one; what is told of the other "
                "sources cannot be told from that."
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
    parts = [
        f"{label}: {moved(study, rows.loc[label], variant, label)}" if label in rows.index else f"{label}: did not run"
        for label in study.plan["vary"]
    ]
    kind = "mixture of experts" if study.environment.get("variants", {}).get(variant, {}).get("experts") else "dense"
    return f"{visible(variant)} ({kind}), {visible(strategy)}: {'; '.join(parts)}."


def moved(study: Any, row: pd.Series, variant: str, label: str) -> str:
    """What one source did."""
    runs, texts = int(row["runs"]), int(row["texts"])
    what = "prompts" if row["texts"] == row["prompts"] else "prompts and seeds"
    if row["unique_most"] > 1:
        differ = round(texts * row["div_percent"] / 100)
        return (
            f"{differ} of {texts} {what} differ, on average {number(row['unique'], 3)} texts in {runs} runs, at most "
            f"{row['unique_most']:.0f}, from token {number(row['div_index'], 3)} on"
        )
    if runs < 2:
        return "one run only, which shows nothing"
    must = ", as it must be on a CPU" if name_of(label) == RERUN and device(study, variant) == "cpu" else ""
    if row["bit_equal"] == 1:
        return f"identical to the bit in {runs} runs{must}"
    groups, share = number(row["bit_unique"], 3), percent(row["bit_equal"])
    return (
        f"identical in {runs} runs{must}, though from {groups} different sets of logits, {share} of the runs from one"
    )


def device(study: Any, variant: str) -> str:
    """The kind of device that a variant ran on."""
    plan = study.plan
    sides = {v["name"]: v for v in (plan["reference"], *plan["candidates"])}
    return str(sides[variant].get("device") or plan["device"]).partition(":")[0]


def longest(study: Any) -> str:
    """How the count grows with the length, where it does; empty otherwise."""
    table = study.by_length
    parts = []
    for key, cell in table[table["vary"] != CONTROL].groupby(["variant", "vary", "strategy"], sort=False):
        half = cell[cell["length"] <= cell["length"].max() / 2]
        if len(half) and cell["unique"].iloc[-1] > half["unique"].iloc[-1]:
            at, end = half.iloc[-1], cell.iloc[-1]
            name = " ".join(map(str, key))
            parts.append(
                f"{visible(name)}: {number(at['unique'], 3)} texts at {at['length']:.0f} tokens, "
                f"{number(end['unique'], 3)} at {end['length']:.0f}"
            )
    return f"Longer texts differ more: {listed(parts)}." if parts else ""
