"""Two runs of one plan side by side: what changed, the figures of both, and where the texts part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from decodedrift.core.records import InputError
from decodedrift.experiments.compare.changes import CELL, definitions, differences, partings, sentences
from decodedrift.report.html import jinja, page
from decodedrift.report.numbers import Number, absent, exactly, number, percent, percentage, position
from decodedrift.report.tables import Cell, Column, Table, merged, num, text
from decodedrift.report.texts import brief

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

MOST = 300
ONCE_PARTED = ("first_divergence_median",)  # figures that are there only where something parted
NOTES = {"floor": "noise floor", "reference": "reference"}
FIGURES = (
    ("divergence_rate", "Parted", percent), ("first_divergence_median", "First different token, median", position),
    ("kl_mean", "Mean KL (nats)", number), ("top1_agreement", "Same top token", percent),
    ("ln_ppl_ratio", "Perplexity on the reference's text, ln of the ratio", number),
)  # fmt: skip


def beside(first: Study, second: Study, *, names: tuple[str, str], title: str | None = None, texts: bool = True) -> str:
    """One page on two runs; runs of other definitions of the metrics are shown, and that is said first.

    Args:
        names: what to call the runs, such as their folders.
        texts: False leaves out every token.

    Raises:
        InputError: the runs have no compared variant and strategy in common.
    """
    summary = first.summary.merge(second.summary, on=CELL, suffixes=("_a", "_b"))
    if not len(summary):
        raise InputError(
            f"{names[1]}: nothing in common with {names[0]}: no candidate and strategy is in both summaries"
        )
    labels = tuple(brief(name.rstrip("/"), 60) for name in names)
    pairs = partings(first, second)
    context = {
        "warning": definitions(first.environment, second.environment), "changes": sentences(first, second),
        "labels": labels, "verdicts": (first.verdict, second.verdict), "table": _table(summary, labels),
        "places": _places(first.environment, second.environment, labels), "texts": _texts(pairs),
        "places_of": _where(pairs, texts), "apart": _apart(first, second),
        "equal": all(summary[f"{name}_a"].equals(summary[f"{name}_b"]) for name, *_ in FIGURES),
    }  # fmt: skip
    body = jinja().get_template("beside.html.j2").render(**context)
    heading = title or f"{labels[0]} beside {labels[1]}"
    return page(heading, [{"name": "beside", "heading": None, "body": Markup(body)}], {}, [], None)


def _places(first: Mapping[str, Any], second: Mapping[str, Any], labels: tuple[str, ...]) -> Table | None:
    """What the environments disagree on."""
    differing = differences(first, second)
    rows = [[text(name, 60, head=True), text(one, 120), text(two, 120)] for name, (one, two) in differing.items()]
    columns = (Column("Environment", numeric=False), *(Column(label, numeric=False) for label in labels))
    return Table(columns, rows[:MOST], max(0, len(rows) - MOST), "environment.json") if rows else None


def _table(summary: pd.DataFrame, labels: tuple[str, ...]) -> Table:
    """Each figure of both runs and the difference, second less first."""
    columns = [Column("Candidate", numeric=False), Column("Strategy", numeric=False), Column("Figure", numeric=False)]
    columns += [Column(labels[0]), Column(labels[1]), Column("Difference", "The second less the first.")]
    rows = []
    for row in summary[summary["role"] != "self"].to_dict("records"):
        note = NOTES.get(str(row["role"]), "")
        name = text(row["candidate"], 48, head=True)
        for column, label, shown in FIGURES:
            one, two = row[f"{column}_a"], row[f"{column}_b"]
            if absent(one) and absent(two):
                continue
            never = [Number("never") if column in ONCE_PARTED and not row[f"diverged_{run}"] else None for run in "ab"]
            rows.append([
                Cell("text", name.text, name.title, note=note, head=True), text(row["strategy"], 60), text(label),
                num(never[0] or shown(one, column)), num(never[1] or shown(two, column)),
                num(_difference(one, two, points=shown is percent)),
            ])  # fmt: skip
    return Table(tuple(columns), merged(rows[:MOST], 2), max(0, len(rows) - MOST), "summary.csv of each run")


def _difference(one: Any, two: Any, points: bool) -> Number:
    """The second less the first; of shares in percentage points. Nothing where one is missing."""
    if absent(one) or absent(two):
        return Number("")
    if one == two:
        return Number("equal", exactly({"difference": 0.0}))
    found = number(100 * (two - one) if points else two - one, "difference", signed=True)
    return Number(f"{found.text} points", exactly({"difference": two - one})) if points else found


def _texts(texts: pd.DataFrame) -> Table | None:
    """Per variant and strategy: in how many of the common texts both runs wrote the same, and where the others part."""
    rows = []
    texts = texts[texts["role"] != "self"]
    for (role, variant, strategy), part in texts.groupby(["role", "variant", "strategy"], sort=False):
        same, total = int(part["at"].isna().sum()), len(part)
        first, middle = (None, None) if same == total else (part["at"].min(), float(part["at"].median()))
        name = text(variant, 48, head=True)
        rows.append([
            Cell("text", name.text, name.title, note="" if role == "candidate" else NOTES.get(role, role), head=True),
            text(strategy, 60), num(Number(f"{same} of {total}", f"same = {same}; texts = {total}")),
            num(Number(percentage(same / total), f"same / texts = {same / total!r}")),
            num(position(first, "first")), num(position(middle, "median")),
        ])  # fmt: skip
    columns = (Column("Variant", numeric=False), Column("Strategy", numeric=False),
               Column("Same", "Texts of the same prompt that are equal, token by token, as far as both go."),
               Column("Share"), Column("Parts first at", "The earliest token that differs, from 0."),
               Column("Median"))  # fmt: skip
    return Table(columns, merged(rows[:MOST]), max(0, len(rows) - MOST), "traces.csv of each run") if rows else None


def _apart(first: Study, second: Study) -> str:
    """Why there may be no text to hold beside another."""
    one, two = ({(p["id"], p.get("text")) for p in study.plan.get("prompts", ())} for study in (first, second))
    if one.isdisjoint(two):
        return "No prompt is in both runs: the figures are of other prompts, and no text can be held beside another."
    return "No variant and strategy of a prompt kept its tokens in both runs: no text can be held beside another."


def _where(texts: pd.DataFrame, shown: bool) -> Table | None:
    """Each text that differs, with the first token that does, or its place alone."""
    parted = texts[texts["at"].notna() & (texts["role"] != "self")].sort_values("at", kind="stable")
    rows = [
        [text(row.variant, 48, head=True), text(row.strategy, 60), text(row.prompt_id, 60),
         num(number(row.seed, "seed")), num(position(row.at, "at")),
         *([text(row.tokens.replace("\n", "⏎"), 80)] if shown else [])]
        for row in parted.head(MOST).itertuples()
    ]  # fmt: skip
    heads = ("Variant", "Strategy", "Prompt")
    there = Column("There", "The token of the first run, and of the second.", numeric=False)
    columns = (*(Column(head, numeric=False) for head in heads), Column("Seed"), Column("First different token"),
               *([there] if shown else []))  # fmt: skip
    return Table(columns, rows, max(0, len(parted) - MOST), "traces.csv of each run", tall=True) if rows else None
