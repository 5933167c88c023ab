"""The page of a `train`: what it says, the arms, their steps in figures, the texts that part, and what each arm is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from decodedrift.experiments.train.figures import FIGURES
from decodedrift.experiments.train.read_back import arms as arms_read_back
from decodedrift.experiments.train.split import texts
from decodedrift.experiments.train.verdict import by_role, row_of
from decodedrift.report.figures.together import together
from decodedrift.report.html import Options, Section, StudyLike
from decodedrift.report.numbers import Number, number, percent
from decodedrift.report.sections.failures import failures
from decodedrift.report.sections.provenance import provenance
from decodedrift.report.sections.verdict import verdict
from decodedrift.report.tables import Cell, Column, Table, num, text

NAMED = 6  # arms that the title has room for
COLUMNS = (
    Column("Arm", numeric=False),
    Column("Distance", "Of the weights from the reference arm's, over their length; of a control, from fp32's."),
    Column("Floors", "The distance as a multiple of the butterfly's: fp32 from weights one ulp aside."),
    Column("Digits", "Decimal digits that predicted probabilities on held-out text have in common: the median."),
    Column("Loss", "The mean of the last ten steps."), Column("Perplexity", "On held-out text."),
    Column("Cancelled", "Share of updates that moved no weight: the mean over the steps."),
    Column("Flushed", "Share of the activations' gradients that are 0 where the reference arm's are not."),
    Column("Skipped", "Steps that the loss scale skipped."),
    Column("Texts that part", "Of those written after training, in fp32, against the reference arm's."),
    Column("KL floors", "Of these texts, the mean KL as a multiple of the butterfly's."),
)  # fmt: skip


def summary(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """A row per arm, controls last."""
    rows = []
    for name in by_role(study):
        row: Any = row_of(study, name)
        label = f"{name} (broke)" if row["broken"] else f"{name} (control)" if row["role"] == "control" else name
        parted = Number("" if pd.isna(row["texts"]) else f"{row['diverged']:.0f} of {row['texts']:.0f}")
        shares = [num(percent(row[c], c)) for c in ("cancelled", "flushed_activations")]
        rows.append([
            text(label, 60, head=True), *(_figure(row, c) for c in ("distance", "distance_floors")),
            num(_in_common(row["digits_median"], "digits_median")),
            *(_figure(row, c) for c in ("loss", "perplexity")), *shares, num(number(row["skipped"], "skipped")),
            num(parted), _figure(row, "kl_floors"),
        ])  # fmt: skip
    return {"heading": "What each arm came to", "table": Table(COLUMNS, rows, source="summary.csv")}


def _figure(row: Any, column: str) -> Cell:
    return num(number(row[column], column))


def _in_common(value: float, column: str) -> Number:
    """Digits: all of two equal numbers, none of two that are further apart than the second is large."""
    exact = number(value, column, digits=2)
    return Number("all" if value == float("inf") else "0" if value < 0 else exact.text, exact.exact)


def drift(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """Distance against step."""
    lead = (
        "The distance of the weights from the reference arm's, both axes logarithmic; dotted, the butterfly: fp32 "
        "against itself from weights one ulp aside, which is how fast any difference grows here. Dashed, fp32 against "
        "itself with the same batches in another order."
    )
    return _pictures(study, "How far the arms drift", lead, distance="Distance of the weights by step")


def losses(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """Loss against step."""
    lead = (
        "Lines that lie on one another learn alike, however far apart their weights are; right, by how much they "
        "differ from the reference arm's (of the butterfly from fp32's)."
    )
    captions = {"loss": "Mean loss of each step", "loss_gap": "Difference from the reference arm's"}
    return _pictures(study, "Loss", lead, **captions)


def lost(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """Cancelled and flushed shares."""
    lead = (
        "An update is cancelled where the weight is too coarse to take it; of stochastic rounding, where it has no "
        "chance to. A gradient is flushed where it is 0 and the reference arm's is not."
    )
    captions = {"cancelled": "Updates that move no weight", "flushed": "Gradients of activations that become 0"}
    return _pictures(study, "What is lost on the way", lead, **captions)


def scale(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """The history of the loss scale."""
    lead = "A dynamic scale is halved by a step whose gradients overflow, which is skipped; 2,000 others double it."
    return _pictures(study, "Loss scale", lead, scale="The scale at each step")


def _pictures(study: StudyLike, heading: str, lead: str, **captions: str) -> dict[str, Any] | None:
    return together({name: (caption, FIGURES[name](study)) for name, caption in captions.items()}, heading, lead)


def lstm(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """Digits in common of the LSTM's predictions, before the first and after the last epoch."""
    rows = study.digits
    if not len(rows):
        return None
    columns = (
        Column("Held against each other", numeric=False), Column("Seed"),
        Column("First weights", "Digits that they have in common: the median."),
        Column("Before", "Digits that predictions have in common before training: the median."),
        *(Column(f"After {epoch}", "The same after so many epochs.") for epoch in sorted(set(rows["epoch"]) - {0})),
    )  # fmt: skip
    body = []
    for (pair, seed), part in rows.groupby(["pair", "seed"], sort=False):
        told = part.sort_values("epoch")
        cells = [num(_in_common(told["digits_weights"].iloc[0], "digits_weights"))]
        cells += [num(_in_common(value, "significant_digits")) for value in told["significant_digits"]]
        body.append([text(pair, 80, head=True), num(Number(str(seed))), *cells])
    return {"heading": "An LSTM in fp32 and fp64", "table": Table(columns, body, source="digits.csv")}


SECTIONS: dict[str, Section] = {
    "verdict": verdict,
    "train_summary": summary,
    "train_drift": drift,
    "train_loss": losses,
    "train_lost": lost,
    "train_scale": scale,
    "train_texts": texts,
    "train_lstm": lstm,
    "train_arms": arms_read_back,
    "failures": failures,
    "provenance": provenance,
}


def sections() -> Mapping[str, Section]:
    """SECTIONS."""
    return SECTIONS


def title(plan: Mapping[str, Any]) -> str:
    """What was trained, and how."""
    arms = plan["arms"]
    ways = ", ".join(arms) if len(arms) <= NAMED else f"{len(arms)} ways"
    return f"Trained for {plan['steps']} steps in {ways}"
