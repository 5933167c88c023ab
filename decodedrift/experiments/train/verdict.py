"""The verdict of `train`: what controls say, what broke, how far each arm drifted in butterfly floors, its texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.experiments.train.arms import AGAIN, BUTTERFLY, CONTROLS, ORDER
from decodedrift.report import failures
from decodedrift.report.phrases import listed, number, percent

LITTLE = 0.01  # of the steps or updates, below which nothing is said of them


def verdict(study: Any) -> list[str]:
    """Controls that failed, arms that broke, a sentence per arm, the controls that passed."""
    alarms, passed = controls(study)
    said = [*headline(study), *broken_arms(study), *arms(study), *passed, *lstm(study)]
    return [*alarms, *said, *failures.sentences(study.failures)]


def broken(study: Any) -> bool:
    """Whether a control failed."""
    return bool(controls(study)[0])


def row_of(study: Any, arm: str) -> pd.Series | None:
    """An arm's row of the summary."""
    rows = study.summary[study.summary["arm"] == arm]
    return rows.iloc[0] if len(rows) else None


def controls(study: Any) -> tuple[list[str], list[str]]:
    """What of the controls failed, and what they showed otherwise."""
    alarms, passed = [], []
    again, moved, order = (row_of(study, name) for name in CONTROLS)
    if again is not None:
        rows = study.training
        ours, theirs = (
            rows[rows["arm"] == a].set_index(["seed", "step"])["loss"] for a in (again["held_against"], AGAIN)
        )
        same = ours.equals(theirs) and again["differing"] == 0
        if same:
            passed.append("Control: fp32 trained a second time is equal in every weight and loss, to the bit.")
        elif not again["broken"]:
            alarms.append(
                f"A control failed: fp32 trained a second time differs in {number(again['differing'])} weights; what "
                "is told of the arms cannot be told from what the machine does by itself."
            )
    if moved is not None and not moved["broken"] and not pd.isna(moved["distance"]):
        if not moved["distance"] > 0:
            alarms.append(
                "A control failed: first weights moved by one ulp trained to the same weights; nothing here shows that "
                "a difference would have been seen."
            )
        else:
            passed.append(
                f"Butterfly floor: with every first weight moved by one ulp, fp32 ends {number(moved['distance'])} of "
                f"the weights' length away from itself{_wrote(moved)}; that is 1 floor."
            )
    if order is not None and not order["broken"] and not pd.isna(order["distance"]):
        passed.append(f"The same batches in another order: {_drift(order)}{_wrote(order)}.")
    return alarms, passed


def headline(study: Any) -> list[str]:
    """How far every arm drifted, in floors, and how far another order of the data moves one."""
    rows = study.summary[study.summary["distance_floors"].notna()]
    drifted = rows[(rows["role"] == "arm") & (rows["arm"] != rows["held_against"])]
    if not len(drifted):
        return []
    base, steps = visible(drifted["held_against"].iloc[0]), drifted["steps"].max()
    parts = [f"{visible(row.arm)} {number(row.distance_floors, 3)}" for row in drifted.itertuples()]
    order = rows[rows["arm"] == ORDER]["distance_floors"]
    data = f"; the same batches in another order, {number(order.iloc[0], 3)}" if len(order) else ""
    return [f"Weights after {steps:.0f} steps, in butterfly floors from {base}: {listed(parts)}{data}."]


def lstm(study: Any) -> list[str]:
    """Digits of predictions that two LSTMs have in common, first and last, by what tells the two apart."""
    parts = []
    for pair, part in study.digits.groupby("pair", sort=False):
        ends = (part[part["epoch"] == epoch]["significant_digits"].median() for epoch in (0, part["epoch"].max()))
        before, after = ("all" if value == float("inf") else number(max(0.0, value), 2) for value in ends)
        parts.append(f"{visible(str(pair))}: {before} and {after}")
    if not parts:
        return []
    epochs = study.digits["epoch"].max()
    return [f"LSTM, digits of its predictions in common before training and after {epochs} epochs: {'; '.join(parts)}."]


def broken_arms(study: Any) -> list[str]:
    """A sentence for each arm and seed that broke."""
    rows = study.arms[study.arms["broken_step"].notna()]
    many = study.arms["seed"].nunique() > 1
    return [
        f"{visible(row.arm)}{f', seed {row.seed}' if many else ''} broke at step {row.broken_step}, in "
        f"{visible(row.broken_module)}: {row.broken_why}."
        for row in rows.itertuples()
    ]


def arms(study: Any) -> list[str]:
    """A sentence per arm that did not break: drift, digits, quality, texts, and where updates or gradients went."""
    lines = []
    for _, row in study.summary.iterrows():
        if row["role"] == "arm" and row["arm"] != row["held_against"] and row["broken"] < row["seeds"]:
            lines.append(f"{visible(row['arm'])}: {'; '.join(_parts(row))}.")
    reference = study.summary[study.summary["arm"] == study.summary["held_against"]]
    for _, row in reference[reference["broken"] < reference["seeds"]].iterrows():
        lines.append(
            f"{visible(row['arm'])} is what the arms are held against: loss {number(row['loss'], 3)}, perplexity "
            f"{number(row['perplexity'], 3)} on held-out text after {row['steps']:.0f} steps."
        )
    return lines


def _parts(row: pd.Series) -> Iterator[str]:
    yield _drift(row)
    if row["digits_median"] < float("inf"):
        yield f"{number(max(0.0, row['digits_median']))} digits of its predictions in common (median)"
    yield f"loss {number(row['loss'], 3)}, perplexity {number(row['perplexity'], 3)}"
    if not pd.isna(row["diverged"]):
        floors = "" if pd.isna(row["kl_floors"]) else f", KL {number(row['kl_floors'], 3)} times the butterfly's"
        yield f"{row['diverged']:.0f} of {row['texts']:.0f} texts part{floors}"
    for column, words in (
        ("cancelled", "of its updates are cancelled by the weights"),
        ("flushed_activations", "of its activations' gradients are 0 where the reference's are not"),
        ("overflowed_activations", "of them overflow"),
    ):
        if row[column] > LITTLE:
            yield f"{percent(row[column])} {words}"
    if row["skipped"] > 0:
        yield f"{row['skipped']:.0f} steps skipped"


def _drift(row: pd.Series) -> str:
    floors = row["distance_floors"]
    if pd.isna(row["distance"]):
        return f"held against {visible(row['held_against'])}, which broke"
    told = "" if pd.isna(floors) else f", {number(floors, 3)} butterfly floors"
    return f"{number(row['distance'])} of the weights' length from {visible(row['held_against'])}{told}"


def _wrote(row: pd.Series) -> str:
    if pd.isna(row["diverged"]):
        return ""
    return f", and {row['diverged']:.0f} of {row['texts']:.0f} texts part"


def by_role(study: Any) -> list[str]:
    """Names of everything that trained: arms first, then controls."""
    names = list(study.summary["arm"])
    last = [BUTTERFLY, ORDER, AGAIN]
    return sorted(names, key=lambda name: name in last)
