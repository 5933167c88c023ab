"""Two runs of one plan side by side: the same figures from two machines or versions, and whether the texts agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from decodedrift.core.records import InputError
from decodedrift.report.html import jinja, page
from decodedrift.report.numbers import Number, absent, exactly, number, percent, percentage
from decodedrift.report.tables import Cell, Column, Table, merged, num, text
from decodedrift.report.texts import brief

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

MOST = 300
KEYS = ["role", "reference", "candidate", "strategy"]
TRACE = ["role", "variant", "strategy", "seed", "prompt_id"]
FIGURES = (
    ("divergence_rate", "Diverged", percent), ("first_divergence_median", "Median t*", number),
    ("kl_mean", "Mean KL", number), ("top1_agreement", "Same top token", percent),
    ("ln_ppl_ratio", "ln PPL ratio", number),
)  # fmt: skip
# what decides the rows of a run; the rest of a plan may differ between machines
DECIDES = ("model", "reference", "candidates", "strategies", "prompts", "texts", "seeds", "max_new_tokens", "coupling",
           "layout", "batch_size", "context", "stride", "chat_template", "ignore_eos", "near_tie_below")  # fmt: skip


def beside(first: Study, second: Study, *, names: tuple[str, str], title: str | None = None) -> str:
    """One page on two runs.

    Args:
        names: what to call the runs, such as their folders.

    Raises:
        InputError: the runs have no compared variant and strategy in common.
    """
    summary = first.summary.merge(second.summary, on=KEYS, suffixes=("_a", "_b"))
    if not len(summary):
        raise InputError(
            f"{names[1]}: nothing in common with {names[0]}: no candidate and strategy is in both summaries"
        )
    labels = tuple(brief(name.rstrip("/"), 60) for name in names)
    context = {
        "labels": labels, "verdicts": (first.verdict, second.verdict), "plans": _plans(first.plan, second.plan),
        "places": _places(first.environment, second.environment, labels), "table": _table(summary, labels),
        "texts": _texts(first.traces, second.traces),
    }  # fmt: skip
    body = jinja().get_template("beside.html.j2").render(**context)
    heading = title or f"{labels[0]} beside {labels[1]}"
    return page(heading, [{"name": "beside", "heading": None, "body": Markup(body)}], {}, [], None)


def _plans(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What the two plans disagree on, in words."""
    return [name.replace("_", " ") for name in DECIDES if first.get(name) != second.get(name)]


def _places(first: Mapping[str, Any], second: Mapping[str, Any], labels: tuple[str, ...]) -> Table | None:
    """What the environments disagree on."""
    one, two = _flat(first), _flat(second)
    differing = [name for name in dict.fromkeys([*one, *two]) if one.get(name) != two.get(name)]
    rows = [[text(name, 60, head=True), text(one.get(name), 120), text(two.get(name), 120)] for name in differing]
    columns = (Column("Environment", numeric=False), *(Column(label, numeric=False) for label in labels))
    return Table(columns, rows[:MOST], max(0, len(rows) - MOST), "environment.json") if rows else None


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested data as dotted names with values as text; what was read back of the variants is not of the place."""
    if isinstance(value, Mapping):
        table: dict[str, str] = {}
        for key, item in value.items():
            if key not in ("variants", "started", "finished", "memory_bytes"):
                table |= _flat(item, f"{name}.{key}" if name else str(key))
        return table
    return {name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)}


def _table(summary: pd.DataFrame, labels: tuple[str, ...]) -> Table:
    """Each figure of both runs and the difference, second less first."""
    columns = [Column("Candidate", numeric=False), Column("Strategy", numeric=False), Column("Figure", numeric=False)]
    columns += [Column(labels[0]), Column(labels[1]), Column("Difference", "The second less the first.")]
    rows = []
    for row in summary.to_dict("records"):
        note = {"self": "the reference again", "floor": "noise floor"}.get(str(row["role"]), "")
        name = text(row["candidate"], 48, head=True)
        for column, label, shown in FIGURES:
            one, two = row[f"{column}_a"], row[f"{column}_b"]
            if absent(one) and absent(two):
                continue
            rows.append([
                Cell("text", name.text, name.title, note=note, head=True), text(row["strategy"], 60), text(label),
                num(shown(one, column)), num(shown(two, column)), num(_difference(one, two)),
            ])  # fmt: skip
    return Table(tuple(columns), merged(rows[:MOST], 2), max(0, len(rows) - MOST), "summary.csv of each run")


def _difference(one: Any, two: Any) -> Number:
    if absent(one) or absent(two):
        return number(None, "difference")
    return Number("equal", exactly({"difference": 0.0})) if one == two else number(two - one, "difference", signed=True)


def _texts(first: pd.DataFrame, second: pd.DataFrame) -> Table | None:
    """Per variant and strategy: in how many of the common traces both runs wrote the same tokens."""
    ids = [*TRACE, "token_ids"]
    pairs = first[ids].merge(second[ids], on=TRACE, suffixes=("_a", "_b")).dropna(subset=["token_ids_a", "token_ids_b"])
    if not len(pairs):
        return None
    pairs["same"] = pairs["token_ids_a"] == pairs["token_ids_b"]
    rows = []
    for (role, variant, strategy), part in pairs.groupby(["role", "variant", "strategy"], sort=False):
        same, total = int(part["same"].sum()), len(part)
        name = text(variant, 48, head=True)
        rows.append([
            Cell("text", name.text, name.title, note="" if role == "candidate" else str(role), head=True),
            text(strategy, 60), num(Number(f"{same} of {total}", f"same = {same}; traces = {total}")),
            num(Number(percentage(same / total), f"same / traces = {same / total!r}")),
        ])  # fmt: skip
    columns = (Column("Variant", numeric=False), Column("Strategy", numeric=False),
               Column("Same tokens", "Traces equal in both runs, token by token."), Column("Share"))  # fmt: skip
    return Table(columns, merged(rows[:MOST]), max(0, len(rows) - MOST), "traces.csv of each run")
